"""Posteriors with known moments by every kernel, ArviZ's names, and compiling once."""

import functools
import json
import pathlib
import subprocess
import sys
import warnings

import arviz
import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.densities import logistic
from megjax.learners import proposal
from megjax.networks import proposal as networks
from megjax.samplers import (
    bijectors,
    gibbs,
    hmc,
    mala,
    rwm,
    tempering,
    window_adaptation,
)
from megjax.sampling import density, methods
from megjax.sampling.density import sample

ROOT = pathlib.Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data"
needs_data = pytest.mark.skipif(
    not (REAL / "uci").is_dir(), reason="needs the Statlog sets"
)
DATA = np.float32(np.random.default_rng(0).normal(3.0, 2.0, size=100))
MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[2.0, 0.9], [0.9, 0.5]])
PRECISION = np.float32(np.linalg.inv(COVARIANCE))


def normal_model(position):
    scale = jnp.exp(position["log_scale"])
    return jnp.sum(jax.scipy.stats.norm.logpdf(DATA, position["loc"], scale))


def gaussian(x):
    away = x - jnp.float32(MEAN)
    return -0.5 * away @ PRECISION @ away


def plain(log_density_fn, init, *, seed=0, **settings):
    """`sample` without a bar, to which divergences are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*(effective sample size|R-hat)")
        key = jax.random.key(seed)
        return sample(log_density_fn, init, key=key, progress=False, **settings)


def assert_moments(draws, mean, std):
    """Means and variances within four standard errors, by ArviZ's error of a mean."""
    for values, expected in ((draws, mean), (np.square(draws - mean), std**2)):
        error = np.std(values) / np.sqrt(float(arviz.ess(values, method="mean")))
        assert abs(np.mean(values) - expected) < 4 * error


@pytest.fixture(scope="module")
def normal_draws():
    init = {"loc": jnp.zeros(4), "log_scale": jnp.zeros(4)}
    return plain(normal_model, init)


def test_the_normal_model_in_few_draws(normal_draws):
    """blackjax's NUTS with its window adaptation: 3,681 and 2,999."""
    ess = arviz.ess(normal_draws)
    assert ess["loc"] >= 2800 and ess["log_scale"] >= 2800
    assert_moments(
        normal_draws.posterior["loc"].to_numpy(), DATA.mean(), DATA.std() / 10
    )
    # Under flat priors sum((x - mean)^2) exp(-2 log_scale) is chi-squared of N - 1.
    scale = np.exp(normal_draws.posterior["log_scale"].to_numpy())
    squares = np.sum(np.square(DATA - DATA.mean())) / scale**2
    assert_moments(squares, 99.0, np.sqrt(2 * 99.0))


def test_names_are_arviz_s(normal_draws):
    assert set(normal_draws.posterior.data_vars) == {"loc", "log_scale"}
    stats = normal_draws.sample_stats
    assert set(stats.data_vars) == {
        *("acceptance_rate", "diverging", "energy", "lp", "n_steps", "step_size"),
        "tree_depth",
    }
    assert all(stats[name].shape == (4, 1000) for name in stats.data_vars)
    assert stats["diverging"].dtype == bool and not stats["diverging"].any()
    position = {k: v.to_numpy()[2, 7] for k, v in normal_draws.posterior.items()}
    np.testing.assert_allclose(stats["lp"][2, 7], normal_model(position), rtol=1e-5)
    assert 0.75 < stats["acceptance_rate"].mean() < 0.95
    # The fraction of missing information of Betancourt 2016, eq. 6, of every chain.
    energy = stats["energy"].to_numpy()
    changes = np.sum(np.diff(energy, axis=1) ** 2, axis=1)
    assert np.min(changes / np.sum((energy.T - energy.mean(1)) ** 2, axis=0)) > 0.5


KERNELS = {
    "nuts": "nuts",
    "mclmc": "mclmc",
    "hmc": "hmc",
    "mala": "mala",
    "rwm": "rwm",
    "gradient_adaptive": "gradient_adaptive",
    "tempering": "tempering",
    "builder": functools.partial(hmc.hmc, num_integration_steps=2),
    "fixed": functools.partial(mala.mala, step_size=0.2),
    "Kernel": mala.mala(gaussian, step_size=0.2),
    "blackjax": blackjax.hmc(gaussian, 0.3, jnp.ones(2), 5),
    "blackjax with a key": blackjax.mclmc(gaussian, L=1.0, step_size=0.2),
    "blackjax, tuned": lambda log_density_fn, *, step_size: blackjax.hmc(
        log_density_fn, step_size, jnp.ones(2), 2
    ),
}


@functools.cache
def trained_proposal():
    """A flow that is not trained, which moves like a random walk."""
    module = networks.Vectors(shape=(2,), width=4, num_steps=1, gradient="none")
    learner = proposal.proposal(proposal.Spec(gaussian, module, None))
    return learner, learner.init(jax.random.key(0), jnp.zeros((1, 2)))


SLOW = ("mclmc", "tempering", "blackjax with a key", "builder", "blackjax, tuned")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in [*KERNELS, "trained"]
]


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_keeps_the_density_and_compiles_once(name):
    """Exact moments; the second call, of other starts and another key, traces once."""
    chosen = KERNELS[name] if name in KERNELS else trained_proposal()
    traces = []

    def log_density_fn(x):
        traces.append(1)
        return gaussian(x)

    settings = {"kernel": chosen, "num_warmup": 400, "num_samples": 1000, "thin": 2}
    draws = plain(log_density_fn, jnp.zeros((8, 2)), **settings)
    assert traces
    traces.clear()
    again = plain(log_density_fn, jnp.ones((8, 2)), seed=1, **settings)
    # To see that it is the same density; compiling would trace it again.
    assert len(traces) == 1
    for found in (draws, again):
        x = found.posterior["x"].to_numpy()
        assert x.shape == (8, 1000, 2)
        for i in range(2):
            assert_moments(x[..., i], MEAN[i], np.sqrt(COVARIANCE[i, i]))
        assert_moments(x @ [1, -1], 3.0, np.sqrt([1, -1] @ COVARIANCE @ [1, -1]))
    lp = draws.sample_stats["lp"].to_numpy()
    assert np.std(lp) > 0.5 and np.max(lp) < 0.01 or name == "trained"


@pytest.mark.slow
@pytest.mark.parametrize("mass_matrix", ["diagonal", "dense"])
def test_scales_are_learned(mass_matrix):
    """Standard deviations from 0.01 to 100; a dense matrix sees correlation 0.999 too."""
    scales = np.float32([0.01, 1.0, 100.0])
    correlation = 0.999 if mass_matrix == "dense" else 0.5
    shape = np.eye(3) * (1 - correlation) + correlation
    precision = np.float32(np.linalg.inv(shape))

    def log_density_fn(x):
        y = x / scales
        return -0.5 * y @ precision @ y

    draws = plain(log_density_fn, jnp.zeros((4, 3)), mass_matrix=mass_matrix)
    x = draws.posterior["x"].to_numpy()
    for i, scale in enumerate(scales):
        assert_moments(x[..., i], 0.0, scale)
    assert draws.sample_stats["n_steps"].mean() < (4 if correlation > 0.9 else 8)


@pytest.mark.parametrize("dense", [False, True])
def test_a_coordinate_that_has_not_moved_keeps_its_scale(dense):
    """Two draws each of variances 0 and 4, and an infinite one; all or none if dense."""
    squares = jnp.array([0.0, 4.0, jnp.inf])
    count, mean = jnp.float32(2), jnp.zeros(3)
    begun = window_adaptation.fresh(3, dense=dense)
    moments = window_adaptation.Moments(
        count, mean, jnp.diag(squares) if dense else squares
    )
    found = window_adaptation.renewed(begun._replace(moments=moments)).factor
    expected = np.eye(3) if dense else [1.0, 2.0, 1.0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gradient_adaptive_is_tuned_for_the_acceptance_that_is_given():
    settings = {"kernel": "gradient_adaptive", "num_warmup": 400, "num_samples": 200}
    found = [
        plain(gaussian, jnp.zeros((16, 2)), target_acceptance=target, **settings)
        .sample_stats["acceptance_rate"]
        .mean()
        for target in (0.3, 0.8)
    ]
    np.testing.assert_allclose(found, [0.3, 0.8], atol=0.12)


def test_starts_far_from_scale_are_found():
    """The first step size is doubled or halved to where the density lets it."""
    for scale in (1e-4, 1e4):
        draws = plain(
            functools.partial(lambda s, x: -0.5 * jnp.sum(jnp.square(x / s)), scale),
            scale * jnp.ones((4, 2)),
            kernel="mala",
            num_warmup=300,
        )
        assert_moments(draws.posterior["x"].to_numpy()[..., 0], 0.0, scale)


def test_bounds():
    """Gamma(3, 2), Beta(2, 5) and a normal, of one PyTree."""

    def log_density_fn(position):
        rate, share = position["rate"], position["nested"]["share"]
        gamma = 2 * jnp.log(rate) - 2 * rate
        beta = jnp.log(share) + 4 * jnp.log1p(-share)
        return jnp.sum(gamma) + beta - 0.5 * position["nested"]["free"] ** 2

    init = {
        "rate": jnp.ones((4, 2)),
        "nested": {"share": jnp.full(4, 0.5), "free": jnp.zeros(4)},
    }
    bounds = {
        "rate": bijectors.positive(),
        "nested": {"share": bijectors.interval(0.0, 1.0)},
    }
    draws = plain(
        log_density_fn, init, bijector=bounds, kernel="hmc", target_acceptance=0.9
    )
    assert set(draws.posterior.data_vars) == {"rate", "nested.share", "nested.free"}
    rate = draws.posterior["rate"].to_numpy()
    assert rate.shape == (4, 1000, 2) and np.min(rate) > 0
    for i in range(2):
        assert_moments(rate[..., i], 1.5, np.sqrt(3) / 2)
    share = draws.posterior["nested.share"].to_numpy()
    assert_moments(share, 2 / 7, np.sqrt(10 / 49 / 8))
    assert_moments(draws.posterior["nested.free"].to_numpy(), 0.0, 1.0)
    with pytest.raises(ValueError, match="out of bounds, or not finite, in 4 of 4"):
        sample(
            log_density_fn,
            jax.tree.map(jnp.negative, init),
            key=jax.random.key(0),
            bijector=bounds,
        )


def funnel(x):
    width = jnp.exp(x[0] / 2)
    rest = jnp.sum(jax.scipy.stats.norm.logpdf(x[1:], 0.0, width))
    return jax.scipy.stats.norm.logpdf(x[0], 0.0, 3.0) + rest


def test_a_funnel_warns_of_divergences():
    key, init = jax.random.key(0), jnp.zeros((4, 10))
    with pytest.warns(UserWarning) as found:
        draws = sample(funnel, init, key=key, num_warmup=300, progress=False)
    words = [str(warning.message) for warning in found]
    assert all("\n" not in line for line in words)
    num = int(draws.sample_stats["diverging"].sum())
    assert num > 0 and f"{num} of 4000 transitions diverged" in words[0]
    assert any("R-hat of x is" in line for line in words)
    assert found[0].filename == __file__


def test_divergences_of_a_kernel_without_a_target_name_no_target():
    theirs = blackjax.hmc(funnel, 1.0, jnp.ones(10), 10)
    settings = {"kernel": theirs, "num_samples": 50, "num_warmup": 0}
    with pytest.warns(UserWarning) as found:
        sample(funnel, jnp.zeros((4, 10)), key=jax.random.key(0), **settings)
    (line,) = [str(w.message) for w in found if "diverged" in str(w.message)]
    assert "shorten its steps" in line and "target_acceptance" not in line


def test_chains_that_stand_still_are_warned_of():
    stuck = mala.mala(gaussian, step_size=1e-9)
    key, init = jax.random.key(0), jax.random.normal(jax.random.key(1), (4, 2))
    with pytest.warns(UserWarning) as found:
        sample(gaussian, init, key=key, kernel=stuck, num_samples=50, progress=False)
    words = " ".join(str(warning.message) for warning in found)
    assert "R-hat of x" in words and "effective sample size of x" in words


@pytest.mark.parametrize(
    "kernel", [pytest.param("nuts", marks=pytest.mark.slow), "mala", "tempering"]
)
def test_resumed_chains_are_the_same_to_the_bit(tmp_path, kernel):
    settings = {"kernel": kernel, "num_warmup": 50, "thin": 2, "seed": 3}
    init = {"a": jnp.zeros((4, 2)), "b": jnp.zeros(4)}

    def log_density_fn(position):
        return gaussian(position["a"]) - 0.5 * position["b"] ** 2

    whole = plain(log_density_fn, init, num_samples=60, **settings)
    plain(log_density_fn, init, num_samples=40, store=tmp_path / "s", **settings)
    longer = plain(
        log_density_fn, init, num_samples=60, store=tmp_path / "s", **settings
    )
    for group in ("posterior", "sample_stats"):
        for name, values in getattr(whole, group).items():
            np.testing.assert_array_equal(values, getattr(longer, group)[name])


FIXED = functools.partial(rwm.rwm, step_size=1.5)
QUICK = {"kernel": FIXED, "num_warmup": 100, "num_samples": 100}


class Normal:
    """A normal whose mean may change, as data of one function."""

    def __init__(self):
        self.mean = np.zeros(2, np.float32)

    def method(self, x):
        return -0.5 * jnp.sum(jnp.square(x - self.mean))

    def compiled_inside(self, x):
        return jax.jit(lambda x: self.method(x))(x)


@pytest.mark.parametrize("name", ["method", "compiled_inside"])
def test_data_of_a_function_may_change(name):
    """Bound methods are equal, and those of other arrays, and of numbers, traced alike."""
    found = Normal()
    for mean in (0.0, 4.0, 8.0):
        if mean < 8:
            found.mean[:] = mean
        else:
            found.mean = mean
        draws = plain(getattr(found, name), jnp.full((4, 2), 4.0), **QUICK)
        np.testing.assert_allclose(draws.posterior["x"].mean(), mean, atol=1)


def test_causes_are_looked_for_in_the_density_as_it_is_now():
    least = -99.0

    def log_density_fn(x):
        return jnp.where(x[0] > least, -0.5 * x[0] ** 2, -jnp.inf)

    plain(log_density_fn, jnp.zeros((4, 1)), **QUICK)
    least = -0.5
    with pytest.warns(UserWarning, match="the density is 0 or infinite at some values"):
        sample(log_density_fn, jnp.zeros((4, 1)), key=jax.random.key(0), **QUICK)


@pytest.mark.parametrize("num_chains", [1, 4])
def test_a_kernel_that_is_ready_has_the_density(num_chains):
    init = jnp.zeros((num_chains, 2))
    for other in (lambda x: 2.0 * gaussian(x), lambda x: gaussian(x + 1.0)):
        kernel = mala.mala(other, step_size=0.2)
        with pytest.raises(ValueError, match="ready for another density than log_den"):
            plain(gaussian, init, kernel=kernel, num_samples=20)
    raised = blackjax.hmc(lambda x: gaussian(x) + 7.0, 0.3, jnp.ones(2), 5)
    plain(gaussian, init, kernel=raised, num_samples=20)


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        (blackjax.nuts, r"blackjax's nuts without its density: give blackjax.nuts\("),
        (functools.partial(blackjax.hmc, num_integration_steps=5), "blackjax's hmc w"),
        (gibbs.gibbs, "gibbs is no kernel builder .*argument: 'params'"),
        (functools.partial(hmc.hmc, size=1), "hmc is no kernel builder .*incorrect"),
    ],
)
def test_what_is_no_kernel_builder(kernel, says):
    with pytest.raises(ValueError, match=says) as error:
        plain(gaussian, jnp.zeros((4, 2)), kernel=kernel)
    assert "\n" not in str(error.value)


class Interrupted(Exception):
    pass


def interrupted(*args):
    raise Interrupted


def stored(**changes):
    """What a stored run of five chains was drawn with, but for `changes`."""
    return {
        "log_density_fn": lambda p: -0.5 * jnp.sum((p["x"] - 3.0) ** 2 / p["x"]),
        "init": {"x": jnp.ones((5, 1))},
        "bijector": {"x": bijectors.positive()},
    } | changes


READY = {
    "log_density_fn": lambda x: 0.0 * x[0],
    "init": jnp.ones((5, 1)),
    "bijector": None,
    "kernel": mala.mala(lambda x: -0.5 * (x[0] - 3) ** 2, step_size=0.3),
}
REPLICAS = tempering.Spec(num_replicas=3, reference=tempering.normal(0.0, 3.0))
TRAINING = {"kernel": "learned", "budget": 9.0, "init": {"x": jnp.ones((5, 2))}}


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ({}, {"log_density_fn": lambda p: -0.5 * jnp.sum(p["x"])}, "log_density"),
        # Equal where chains start, at 1.
        ({}, {"log_density_fn": lambda p: -2.0 * jnp.sum(p["x"] ** 2)}, "log_density"),
        ({}, {"bijector": {"x": bijectors.interval(0.0, 100.0)}}, "log_density"),
        (
            {"log_density_fn": lambda p: -jnp.sum(jax.tree.leaves(p)[0])},
            {"init": {"y": jnp.ones((5, 1))}, "bijector": {"y": bijectors.positive()}},
            "variables",
        ),
        ({}, {"init": {"x": jnp.ones((5, 1, 1))}}, "variables"),
        ({}, {"kernel": functools.partial(mala.mala, step_size=0.2)}, "kernel"),
        ({"kernel": REPLICAS}, {"kernel": REPLICAS._replace(num_replicas=5)}, "kernel"),
        (
            {"kernel": REPLICAS},
            {"kernel": REPLICAS._replace(reference=tempering.normal(0.0, 4.0))},
            "log_density",
        ),
        (
            READY,
            {"kernel": mala.mala(lambda x: -0.5 * (x[0] + 30) ** 2, step_size=0.3)},
            "log_density",
        ),
        (TRAINING, {"budget": 8.0}, "budget"),
    ],
)
def test_a_store_is_of_one_density_and_kernel(
    tmp_path, monkeypatch, before, after, name
):
    """Calls of others, which ask for more draws, are refused before anything is drawn."""
    monkeypatch.setattr(density, "_remembered", interrupted)
    settings = stored(**before) | {"store": tmp_path, "num_samples": 60}
    with pytest.raises(Interrupted):
        plain(**settings)
    with pytest.raises(
        ValueError, match=rf"another run \((.*; )?{name}: .* there, giv"
    ):
        plain(**settings | {"num_samples": 120} | after)


def test_a_run_that_was_finished_is_kept(tmp_path):
    (tmp_path / "own.npz").touch()
    settings = {**QUICK, "store": tmp_path}
    draws = plain(gaussian, jnp.zeros((4, 2)), **settings)
    with pytest.raises(ValueError, match="holds another run .*log_density: .* there"):
        plain(lambda x: gaussian(x - 5), jnp.zeros((4, 2)), **settings)
    again = plain(gaussian, jnp.zeros((4, 2)), **settings)
    np.testing.assert_array_equal(draws.posterior["x"], again.posterior["x"])
    assert (tmp_path / "own.npz").exists()


def test_stores_of_an_earlier_version_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(density, "_identity", lambda *args: {"kernel": "nuts"})
    monkeypatch.setattr(density, "_remembered", interrupted)
    with pytest.raises(Interrupted):
        plain(gaussian, jnp.zeros((4, 2)), store=tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="log_density: not recorded there, given"):
        plain(gaussian, jnp.zeros((4, 2)), store=tmp_path)


@pytest.mark.slow
def test_thinned_draws_are_those_of_the_same_chain():
    settings = {"num_warmup": 50, "seed": 2}
    every = plain(gaussian, jnp.zeros((2, 2)), num_samples=60, **settings)
    third = plain(gaussian, jnp.zeros((2, 2)), num_samples=20, thin=3, **settings)
    x = every.posterior["x"].to_numpy()[:, 2::3]
    np.testing.assert_allclose(third.posterior["x"], x, rtol=1e-5)
    steps = every.sample_stats["n_steps"].to_numpy().reshape(2, 20, 3).sum(2)
    np.testing.assert_array_equal(third.sample_stats["n_steps"], steps)
    assert "energy" not in third.sample_stats


@pytest.mark.parametrize(
    "kernel",
    [pytest.param(k, marks=pytest.mark.slow) for k in ("nuts", "tempering")] + ["mala"],
)
def test_double_precision(float64, kernel):
    settings = {"kernel": kernel, "num_warmup": 200, "num_samples": 500}
    draws = plain(gaussian, jnp.zeros((4, 2)), **settings)
    assert draws.posterior["x"].dtype == np.float64
    assert_moments(draws.posterior["x"].to_numpy()[..., 0], 1.0, np.sqrt(2))


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ({}, "init has no arrays"),
        ({"a": jnp.zeros(())}, r"init a has shape \(\): its first axis must be of"),
        (
            {"a": jnp.zeros(3), "b": jnp.zeros(4)},
            r"no common first axis .*'a': 3, 'b'",
        ),
        ({"a": jnp.zeros(3, int)}, "init a has type int32: give floats"),
        ({"a": jnp.full(3, jnp.nan)}, "not finite, in 3 of 3 chains"),
        (
            {"a": {"b": jnp.ones(3)}, "a.b": jnp.ones(3)},
            "init has more than one variable named 'a.b': rename",
        ),
        (
            {"a": jnp.ones(3), "": jnp.ones(3), "x": jnp.ones(3)},
            "more than one variable named 'x'",
        ),
    ],
)
def test_starts_that_do_not_fit(init, words):
    with pytest.raises(ValueError, match=words):
        sample(lambda p: -jnp.sum(p["a"] ** 2), init, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernel": "nut"}, "kernel='nut': choose one of nuts, mclmc, hmc, mala, rwm,"),
        ({"kernel": 3}, "kernel is a int: give a name, a kernel builder"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"thin": 0}, "thin=0"),
        ({"num_warmup": -1}, "num_warmup=-1"),
        ({"mass_matrix": "full"}, "mass_matrix='full': choose 'diagonal' or 'dense'"),
        ({"key": 0}, r"key=0: give jax.random.key\(seed\)"),
        ({"kernel": "mclmc", "num_warmup": 10}, "mclmc is tuned in 100 steps or more"),
        ({"bijector": jnp.exp}, "give a Bijector, or a PyTree of them"),
        ({"kernel": KERNELS["Kernel"], "bijector": bijectors.positive()}, "brings its"),
        *(
            ({"kernel": KERNELS[name], "num_warmup": 100} | own, words)
            for name in ("mclmc", "fixed", "Kernel", "blackjax")
            for own, words in (
                (
                    {"target_acceptance": 0.9},
                    "target_acceptance=0.9: this kernel is not",
                ),
                ({"mass_matrix": "dense"}, "mass_matrix='dense': this kernel is not"),
            )
        ),
    ],
)
def test_settings_that_do_not_fit(settings, words):
    settings = {"key": jax.random.key(0)} | settings
    with pytest.raises(ValueError, match=words):
        sample(gaussian, jnp.ones((4, 2)), **settings)


@pytest.mark.parametrize(
    ("log_density_fn", "words"),
    [
        (lambda x: -(x**2), r"returns shape \(2,\) for one position, must be a scalar"),
        (lambda x: (x[0], x[1]), "returns a tuple for one position"),
        (lambda x: jnp.int32(0), "returns int32: must be a float"),
        (lambda x: jnp.log(x[0]), "not finite at the start of 1 of 4 chains"),
    ],
)
def test_densities_that_do_not_fit(log_density_fn, words):
    init = jnp.ones((4, 2)).at[1, 0].set(-1)
    with pytest.raises(ValueError, match=words):
        sample(log_density_fn, init, key=jax.random.key(0))


def test_models_without_a_proposal_are_told():
    learner, state = trained_proposal()
    with pytest.raises(ValueError, match="a trained model without a proposal"):
        methods.find((learner._replace(kernel=None), state))


def test_models_are_not_tuned_by_settings_of_a_warm_up():
    with pytest.raises(ValueError, match="target_acceptance=0.9: this kernel is not"):
        plain(
            gaussian,
            jnp.zeros((4, 2)),
            kernel=trained_proposal(),
            target_acceptance=0.9,
        )


def test_windows_double_and_fill_the_warm_up():
    """Stan's for 1,000 steps: 75, then 25, 50, 100, 200 and 500, then 50."""
    first, ends = window_adaptation.schedule(1000)
    assert first == 75 and ends[:5].tolist() == [100, 150, 250, 450, 950]
    assert np.all(ends[5:] == -1)
    for num_steps in (0, 19, 20, 149, 150, 151, 300, 10**6):
        first, ends = window_adaptation.schedule(num_steps)
        ends = ends[ends > 0]
        assert len(ends) == 0 or first < ends[0] and ends[-1] < num_steps
        assert np.all(np.diff(ends) > 0) and len(ends) > 0 or num_steps < 300


EIGHT_SCHOOLS = {
    "avg_effect": (5.75975, 0.01787),
    "log_stddev": (2.45327, 0.00191),
    "school_effects": (
        [14.76493, 7.15596, 2.58897, 6.55676, 1.81896, 3.39732, 12.79183, 7.94914],
        [0.02468, 0.01474, 0.02289, 0.01600, 0.01448, 0.01652, 0.01650, 0.02296],
    ),
}
"""Posterior means and their standard errors: inference_gym 0.0.5, `ground_truth`."""

GERMAN_CREDIT = """
    -0.7351049 0.4185424 -0.4140361 0.1268726 -0.3645358 -0.1786990 -0.1528721 0.0130936
    0.1807162 -0.1107784 -0.2243484 0.1223954 0.0287758 -0.1362821 -0.2922211 0.2783576
    -0.2996278 0.3037273 0.2703879 0.1225156 -0.0629305 -0.0927174 -0.0253863 -0.0229521
    -1.2033367
"""
GERMAN_CREDIT_STD = """
    0.0898314 0.1043339 0.0949436 0.1082156 0.0945180 0.0920999 0.0819457 0.0909625
    0.1042714 0.0970667 0.0788687 0.0941518 0.0856816 0.0946356 0.1179484 0.0827858
    0.1033865 0.1211300 0.1112999 0.1374870 0.1431173 0.0903692 0.1275741 0.1248884
    0.0918959
"""
"""Posterior means, the bias last, and deviations, of the same; errors below 1.1e-4."""


def assert_means(draws, expected, error):
    """Means of [chains, draws] within four standard errors of both sides."""
    own = np.std(draws) / np.sqrt(float(arviz.ess(draws, method="mean")))
    assert abs(np.mean(draws) - expected) < 4 * np.hypot(own, error)


def test_eight_schools_without_centring():
    effects = jnp.float32([28, 8, -3, 7, -1, 1, 18, 12])
    stddevs = jnp.float32([15, 10, 16, 11, 9, 11, 10, 18])
    norm = jax.scipy.stats.norm.logpdf

    def log_density_fn(p):
        schools = p["avg_effect"] + jnp.exp(p["log_stddev"]) * p["standardised"]
        prior = norm(p["avg_effect"], 0.0, 10.0) + norm(p["log_stddev"], 5.0, 1.0)
        prior += jnp.sum(norm(p["standardised"]))
        return prior + jnp.sum(norm(effects, schools, stddevs))

    init = {"avg_effect": jnp.zeros(4), "log_stddev": jnp.zeros(4)}
    init["standardised"] = jnp.zeros((4, 8))
    draws = plain(log_density_fn, init, target_acceptance=0.9)
    found = {k: v.to_numpy() for k, v in draws.posterior.items()}
    scale = np.exp(found["log_stddev"])[..., None]
    found["school_effects"] = (
        found["avg_effect"][..., None] + scale * found["standardised"]
    )
    for name, (mean, error) in EIGHT_SCHOOLS.items():
        values = found[name].reshape(4, 1000, -1)
        for i, pair in enumerate(zip(np.ravel(mean), np.ravel(error), strict=True)):
            assert_means(values[..., i], *pair)


@needs_data
@pytest.mark.parametrize(
    "kernel",
    [pytest.param(k, marks=pytest.mark.slow) for k in ("nuts", "hmc", "mclmc")],
)
def test_german_credit(kernel):
    target = logistic.regression("german", data_dir=str(REAL), prior_variance=1.0)
    thin = {"nuts": 1, "hmc": 1, "mclmc": 5}[kernel]
    draws = plain(target.log_density, jnp.zeros((4, 25)), kernel=kernel, thin=thin)
    x = np.roll(draws.posterior["x"].to_numpy(), -1, axis=2)
    mean, std = (np.float64(t.split()) for t in (GERMAN_CREDIT, GERMAN_CREDIT_STD))
    for i in range(25):
        assert_means(x[..., i], mean[i], 1.1e-4)
    np.testing.assert_allclose(np.std(x, axis=(0, 1)), std, rtol=0.1)


CHILD = """
import json, sys
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from megjax.sampling import density
def log_density_fn(x):
    return -0.5 * jnp.sum(jnp.square(x) * jnp.float32([1.0, 4.0]))
draws = density.sample(
    log_density_fn, jnp.ones((8, 2)), key=jax.random.key(0), num_warmup=40,
    num_samples=20, progress=False,
)
assert jax.device_count() == int(sys.argv[1])
print(json.dumps(draws.posterior["x"].to_numpy().tolist()))
"""


@pytest.mark.slow
def test_eight_devices_draw_what_one_draws():
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", CHILD, str(num)],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for num in (1, 8)
    ]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3)
