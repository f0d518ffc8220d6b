"""kernel="learned": exact either way, the faster one by a given clock, kept in a file."""

import types
import warnings

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.densities import targets
from megjax.metrics import mcmc
from megjax.samplers import neural, window_adaptation
from megjax.sampling import draw, learned
from megjax.sampling.density import sample

MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[2.0, 0.9], [0.9, 0.5]])
PRECISION = np.float32(np.linalg.inv(COVARIANCE))
SMALL = learned.Spec(budget=24.0, width=8, batch_size=32, buffer_size=64)
INIT = np.zeros((8, 2), np.float32)


def gaussian(x):
    away = x - jnp.float32(MEAN)
    return -0.5 * away @ PRECISION @ away


def drawn(kernel=SMALL, *, log_density_fn=gaussian, init=INIT, seed=0, **settings):
    """(draws, warnings but for those on mixing)."""
    settings = {"num_warmup": 200, "num_samples": 1000} | settings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        key = jax.random.key(seed)
        draws = sample(
            log_density_fn, init, key=key, kernel=kernel, progress=False, **settings
        )
    words = [str(each.message) for each in caught if each.category is UserWarning]
    mixing = ("effective sample size", "R-hat")
    return draws, [line for line in words if not any(name in line for name in mixing)]


@pytest.fixture
def clock(monkeypatch):
    """A second for every look at it; and steps of the sampler take what is set here."""
    seconds = {"nuts": 1.0, "proposal": 1e-3}
    ticks = iter(range(10**6))
    monkeypatch.setattr(
        learned,
        "time",
        types.SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=lambda: 0),
    )
    real = learned._Trial.drawn

    def timed(self, index, parameters, states, num_steps):
        _, draws = real(self, index, parameters, states, num_steps)
        name = "proposal" if parameters.use_proposal else "nuts"
        return seconds[name] * num_steps, draws

    monkeypatch.setattr(learned._Trial, "drawn", timed)
    return seconds


@pytest.fixture
def calls(monkeypatch):
    """How often training went on for some iterations."""
    real, found = learned._advanced, []

    def advanced(*args):
        found.append(1)
        return real(*args)

    monkeypatch.setattr(learned, "_advanced", advanced)
    return found


def assert_moments(draws):
    x = draws.posterior["x"].to_numpy()
    for along in np.array([[1, 0], [0, 1], [1, -1]]):
        mean, variance = along @ MEAN, along @ COVARIANCE @ along
        for values, expected in (
            (x @ along, mean),
            ((x @ along - mean) ** 2, variance),
        ):
            error = np.std(values) / np.sqrt(float(arviz.ess(values, method="mean")))
            assert abs(np.mean(values) - expected) < 4 * error


def test_a_faster_proposal_draws(clock, calls):
    """After all of its budget; the same shapes again compile nothing."""
    traces = []

    def log_density_fn(x):
        traces.append(1)
        return gaussian(x)

    draw._advanced.clear_cache()
    draws, words = drawn(log_density_fn=log_density_fn)
    # One program for all measures, and one for the draws.
    assert draw._advanced._cache_size() == 2
    assert not words and draws.attrs["kernel"] == "learned"
    assert len(draws.attrs["learned_ess_per_second"]) == learned.NUM_MEASURES
    assert (
        min(draws.attrs["learned_ess_per_second"]) > draws.attrs["nuts_ess_per_second"]
    )
    assert draws.attrs["training_seconds"] >= SMALL.budget
    assert_moments(draws)
    assert np.all(draws.sample_stats["n_steps"] == 1)
    assert traces and calls
    traces.clear()
    again, _ = drawn(log_density_fn=log_density_fn, init=INIT + 1, seed=1)
    # To see that it is the same density; compiling would trace it again.
    assert len(traces) == 1
    assert_moments(again)


def test_a_slower_proposal_is_given_up(clock, calls):
    """Half of the budget shows that it is hopeless, and NUTS draws instead."""
    clock["proposal"] = 1e3
    draws, words = drawn()
    assert draws.attrs["kernel"] == "nuts"
    assert len(draws.attrs["learned_ess_per_second"]) == learned.NUM_MEASURES // 2
    assert (
        len(words) == 1 and "NUTS drew, and no learned proposal: it makes" in words[0]
    )
    assert_moments(draws)
    # NUTS takes whole paths.
    assert draws.sample_stats["n_steps"].to_numpy().mean() > 1.5


def test_a_budget_that_compiling_takes_whole(clock, calls):
    """One measure, and an answer."""
    draws, _ = drawn(SMALL._replace(budget=0.5))
    assert not calls and len(draws.attrs["learned_ess_per_second"]) == 1


def test_calls_are_short_where_iterations_are_slow():
    """A call of fifty would otherwise take many times the budget."""
    share = 1 / (learned.CALLS_PER_MEASURE * learned.NUM_MEASURES)
    lengths = [1]
    for each in (1.0, 0.4 * share, 0.4 * share, 0.7 * share, 1.1 * share, 0.9 * share):
        lengths.append(learned._next_length(lengths[-1], each))
    assert lengths == [1, 1, 2, 4, 4, 2, 2]
    assert learned._next_length(40, 0.0) == learned.ITERATIONS_PER_CALL


def test_slow_measures_are_two(clock, calls, monkeypatch):
    """One by which to give up, and that of the end."""
    real = learned._Trial.speed

    def slow(self, *args):
        for _ in range(int(SMALL.budget / 4)):
            learned.time.monotonic()
        return real(self, *args)

    monkeypatch.setattr(learned._Trial, "speed", slow)
    draws, _ = drawn()
    assert len(draws.attrs["learned_ess_per_second"]) == 2


def test_nuts_that_cannot_be_told_may_be_as_fast_as_that():
    """A proposal that just mixes is no better than NUTS that just does not."""
    trial = learned._Trial(SMALL, *(None,) * 4)
    nan = np.full(learned.NUM_MEASURES, np.nan)
    speeds = learned.Speeds(1.0, np.nan, 0.0, nan)
    parameters = learned.Parameters(False, None, None, speeds)
    for speed, is_faster in ((9.0, False), (11.0, True)):
        found = trial.chosen(parameters, [speed], 1.0, 10.0)
        assert bool(found.use_proposal) is is_faster
    _, words = learned.report(trial.chosen(parameters, [9.0], 1.0, 10.0), None)
    assert "it has not mixed in the time of a measure, the proposal 9" in words[0]


def test_few_draws_are_not_trained_for(clock, calls):
    """Where half of NUTS's time is too little; a budget asks for it all the same."""
    clock["nuts"] = learned.LEAST_SECONDS / 1000
    draws, words = drawn(SMALL._replace(budget=None))
    assert not calls and draws.attrs["kernel"] == "nuts"
    assert draws.attrs["training_seconds"] == 0
    assert draws.attrs["learned_ess_per_second"] == []
    assert "too few to train for" in words[0]
    clock["nuts"] = 2.1 * learned.LEAST_SECONDS / 1000
    drawn(SMALL._replace(budget=None))
    assert calls


def test_the_name_and_its_budget(monkeypatch):
    found = []

    def run(self, parameters, states):
        found.append(self.spec.budget)
        return parameters, states

    monkeypatch.setattr(learned._Trial, "run", run)
    for budget in (None, 3.0):
        drawn("learned", budget=budget, num_warmup=20, num_samples=4)
    assert found == [None, 3.0]
    for kernel in ("nuts", SMALL):
        with pytest.raises(ValueError, match=r"budget=3.0: only kernel='learned'"):
            drawn(kernel, budget=3.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": 0.0}, "budget=0.0: give seconds"),
        ({"budget": float("inf")}, "budget=inf"),
        ({"budget": float("nan")}, "budget=nan"),
        ({"budget": "x"}, "budget='x'"),
        ({"width": 0}, "width=0"),
        ({"flow_steps": 1.5}, "flow_steps=1.5"),
        ({"batch_size": 65}, "batch_size=65: give at most buffer_size=64"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"gradient": "up"}, "gradient='up': choose one of displaced"),
    ],
)
def test_wrong_settings(changes, words):
    with pytest.raises(ValueError, match=words):
        drawn(SMALL._replace(**changes))


def test_one_dimension():
    with pytest.raises(ValueError, match="two dimensions, and the density has 1"):
        drawn(log_density_fn=lambda x: -jnp.sum(x**2), init=np.zeros((4, 1)))


def test_a_proposal_in_a_file(clock, calls, tmp_path):
    """Trained once, and used from then on; other files are refused, and left alone."""
    kept = SMALL._replace(path=tmp_path / "new" / "proposal.npz")
    first, _ = drawn(kept)
    assert calls
    calls.clear()
    second, words = drawn(kept, seed=1)
    assert not calls and not words and second.attrs["kernel"] == "learned"
    assert second.attrs["training_seconds"] == 0
    acceptance = [
        each.sample_stats["acceptance_rate"].mean() for each in (first, second)
    ]
    np.testing.assert_allclose(*acceptance, atol=0.05)
    before = kept.path.read_bytes()
    with pytest.raises(ValueError, match="of other dimensions or networks"):
        drawn(kept._replace(width=9))
    assert kept.path.read_bytes() == before
    with pytest.raises(OSError, match="below a file: name another"):
        drawn(kept._replace(path=kept.path / "below.npz"))
    kept.path.write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="damaged"):
        drawn(kept)


def test_a_store_goes_on_with_what_was_trained(clock, calls, tmp_path):
    """The choice, weights and draws come from the disk."""
    settings = {"store": tmp_path / "store"}
    first, _ = drawn(**settings)
    calls.clear()
    clock["proposal"] = 1e3
    second, _ = drawn(**settings)
    assert not calls and second.attrs == first.attrs
    np.testing.assert_array_equal(first.posterior["x"], second.posterior["x"])


def variables(log_density_fn, dim, key):
    """Of a proposal of random weights, with a preconditioner."""
    module = learned._module(SMALL, dim)
    made = learned._initial(module, key)
    keys = jax.random.split(key, 100)
    leaves, treedef = jax.tree.flatten(made["params"])
    noisy = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys)
    ]
    factor = jnp.tril(jax.random.normal(key, (dim, dim)) * 0.3) + jnp.eye(dim)
    window = neural.Preconditioner(jnp.ones(dim), factor)
    noisy = treedef.unflatten(noisy) | {"log_scale": jnp.float32(-0.5)}
    return made | {
        "params": noisy,
        "preconditioner": window._asdict(),
    }


@pytest.mark.parametrize(
    ("use_proposal", "dense", "gradient"),
    [
        *((False, False, "position"), (False, True, "position")),
        *((True, False, "position"), (True, False, "displaced")),
    ],
)
def test_the_kernel_keeps_the_density(use_proposal, dense, gradient):
    """Exact draws stay exact draws, and states hold what the density says there."""
    spec = SMALL._replace(gradient=gradient)
    factor = jnp.float32(np.linalg.cholesky(COVARIANCE) * 1.2)
    window = window_adaptation.Parameters(
        jnp.float32(0.6), factor if dense else jnp.diag(factor)
    )
    weights = variables(gaussian, 2, jax.random.key(3))
    if gradient == "displaced":
        module = learned._module(spec, 2)
        weights = learned._initial(module, jax.random.key(3))
        weights["params"]["log_scale"] = jnp.float32(-0.3)
    parameters = learned.Parameters(jnp.bool_(use_proposal), window, weights, None)
    fixed = learned.kernel(spec, gaussian, parameters)
    exact = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 20_000)

    @jax.jit
    @jax.vmap
    def moved(key, x):
        def one(state, key):
            state, info = fixed.step(key, state)
            return state, info

        return jax.lax.scan(one, fixed.init(x), jax.random.split(key, 5))

    keys = jax.random.split(jax.random.key(1), len(exact))
    states, infos = moved(keys, jnp.float32(exact))
    x = np.asarray(states.position, np.float64)
    assert 0.1 < np.mean(infos.acceptance_rate) < 0.9999
    np.testing.assert_allclose(
        states.log_density, jax.vmap(gaussian)(states.position), rtol=1e-3, atol=1e-3
    )
    if not (use_proposal and gradient == "displaced"):
        gradients = jax.vmap(jax.grad(gaussian))(states.position)
        np.testing.assert_allclose(states.gradient, gradients, rtol=1e-3, atol=5e-3)
    error = np.sqrt(np.diag(COVARIANCE) / len(x))
    assert np.all(np.abs(x.mean(0) - MEAN) < 4 * error)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=0.08)
    assert np.mean(np.any(x != np.float32(exact), axis=1)) > 0.3


def test_effective_draws():
    """Of the least of means and variances; none where chains have hardly moved."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 2000, 3))
    assert 6000 < learned.effective(x) < 10_000
    slow = np.copy(x)
    for t in range(1, 2000):
        slow[:, t, 1] = 0.8 * slow[:, t - 1, 1] + 0.6 * x[:, t, 1]
    # An AR(1) of r: (1 - r) / (1 + r) for the mean, r^2 in the place of r for the square.
    assert 650 < learned.effective(slow) < 1100
    signs = np.copy(x)
    # The mean of these is found at once, and their spread is not.
    signs[:, 1::2, 0] = -signs[:, ::2, 0]
    assert learned.effective(signs) < 5500
    assert learned.effective(slow, least=300) == 0.0
    still = x[:, :1] + 1e-3 * np.cumsum(x, axis=1)
    assert learned.effective(still) == 0.0


def test_a_chain_that_stands_still_for_long_has_no_speed():
    """However well the others move: it may stand for longer than any measure."""
    x = np.random.default_rng(0).normal(size=(16, 1000, 2))
    assert mcmc.longest_rejection_run(x) == 0
    x[3, 500:600] = x[3, 499]
    assert mcmc.longest_rejection_run(x) == 100 and learned.effective(x) > 5000
    x[3, 600] = x[3, 499]
    assert mcmc.longest_rejection_run(x) == 101 and learned.effective(x) == 0.0


def test_when_training_is_enough():
    """Hopeless ones, and those that save less time than they take, end early."""

    def is_enough(found, *, nuts=100.0, draws_seconds=1000.0, **changes):
        trial = learned._Trial(SMALL._replace(**changes), *(None,) * 4)
        speeds = learned.Speeds(draws_seconds, np.nan, nuts, None)
        return trial.is_enough(speeds, found, 80.0)

    assert not is_enough([1.0, 1.0, 1.0])
    assert is_enough([1.0, 1.0, 1.0, 24.0])
    assert not is_enough([1.0, 1.0, 1.0, 26.0])
    # A budget is used up, whatever this call could save.
    assert not is_enough([200.0, 201.0])
    # 10 s an eighth: from twice to three times saves 167 s, from 3 to 3.05 it saves 5.
    assert not is_enough([200.0, 300.0], budget=None)
    assert is_enough([300.0, 305.0], budget=None)
    assert not is_enough([50.0, 300.0], budget=None)
    # NUTS that has not mixed has no speed: go on.
    for budget in (24.0, None):
        assert not is_enough([0.0, 0.0, 0.0, 1.0, 1.0], nuts=0.0, budget=budget)


def test_near_speeds_are_measured_again(monkeypatch):
    """The median of three outvotes one measure that is off; no more where all is clear."""
    measures = {True: [90.0, 80.0], False: [300.0, 120.0]}
    monkeypatch.setattr(
        learned._Trial,
        "speed",
        lambda self, index, parameters, states, is_learned: measures[is_learned].pop(),
    )
    task = types.SimpleNamespace(positions=np.zeros((16, 2)), num_draws=1000)

    def settled(nuts, found):
        trial = learned._Trial(SMALL, task, *(None,) * 3)
        speeds = learned.Speeds(*np.float32([1.0, np.nan, nuts]), None)
        parameters = learned.Parameters(False, None, None, speeds)
        parameters, found = trial.settled(parameters, None, found)
        return float(parameters.speeds.nuts), found

    for clear in ((100.0, [5.0, 301.0]), (100.0, [5.0, 33.0]), (0.0, [5.0, 1.0])):
        assert settled(*clear) == clear
    task.num_draws = 700
    assert settled(100.0, [5.0, 110.0]) == (100.0, [5.0, 110.0])
    task.num_draws = 1000
    assert settled(100.0, [5.0, 110.0]) == (120.0, [5.0, 90.0])
    assert measures == {True: [], False: []}


@pytest.mark.slow
def test_a_real_training_wins(clock):
    """In 50 dimensions training raises the ESS per step, by a clock that counts steps."""
    target = targets.ill_conditioned_gaussian()
    init = np.zeros((16, target.dim), np.float32)
    draws, _ = drawn(
        learned.Spec(budget=150.0), log_density_fn=target.log_density, init=init
    )
    assert draws.attrs["kernel"] == "learned"
    speeds = draws.attrs["learned_ess_per_second"]
    assert max(speeds) > 1.5 * speeds[0]
    x = draws.posterior["x"].to_numpy()
    ratio = np.var(x, axis=(0, 1)) / target.moments.variance
    np.testing.assert_allclose(ratio, 1.0, atol=0.35)
