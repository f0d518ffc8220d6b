"""The gradient against enumeration and by hand; chains, temperatures, any energy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from megjax import distributed
from megjax.energies import exact, rbm, units
from megjax.learners import contrastive, proximal
from megjax.samplers import mala

pytestmark = pytest.mark.usefixtures("quick_compilation")

FAMILY = rbm.family(5, 3)


def machine(seed=0, scale=1.0):
    rng = np.random.RandomState(seed)
    shapes = {"weights": (5, 3), "visible_bias": 5, "hidden_bias": 3}
    return {k: jnp.asarray(scale * rng.normal(size=v)) for k, v in shapes.items()}


@jax.jit
def distribution(params):
    free_energy = functools.partial(FAMILY.energy, params)
    return exact.distribution(free_energy, units.BERNOULLI, 5)


def learner(**changes):
    return contrastive.Spec(FAMILY, contrastive.bits((5,)), **changes)


@functools.partial(jax.jit, static_argnums=0)
def contrast(spec, params, v, negative):
    return contrastive.contrast(spec, params, v, negative)


def test_gradient_is_the_hand_written_one(float64):
    params, rng = machine(), np.random.RandomState(0)
    v, w = (jnp.asarray(rng.randint(0, 2, (n, 5)), float) for n in (7, 4))
    negative = jax.jit(FAMILY.start)(jax.random.key(1), params, w)
    gradient, found = contrast(learner(), params, v, negative)

    def moments(v):
        h = 1 / (1 + np.exp(-(v @ params["weights"] + params["hidden_bias"])))
        return {
            "weights": v.T @ h / len(v),
            "visible_bias": v.mean(0),
            "hidden_bias": h.mean(0),
        }

    for name, data in moments(v).items():
        by_hand = moments(w)[name] - data
        np.testing.assert_allclose(gradient[name], by_hand, atol=1e-12)
    gap = np.mean(FAMILY.energy(params, v)) - np.mean(FAMILY.energy(params, w))
    np.testing.assert_allclose(found["energy_gap"], gap, rtol=1e-12)


def negated(which):
    def phases(family, params, positive, negative):
        data, chains = PHASES(family, params, positive, negative)
        return (-data, chains) if which == "positive" else (data, -chains)

    return phases


PHASES = contrastive.phases


def test_gradient_of_the_enumerated_likelihood(float64, monkeypatch):
    """Within standard errors with chains at their exact distribution; mutants not."""
    params = machine()
    v = jnp.asarray(np.random.RandomState(1).randint(0, 2, (6, 5)), float)
    num = 40_000
    key_v, key_h = jax.random.split(jax.random.key(2))
    negative = exact.sample(key_v, distribution(params), num)
    negative = FAMILY.start(key_h, params, negative)
    truth = jax.jit(jax.grad(likelihood_loss))(params, v)

    def worst(**changes):
        spec = learner()._replace(family=FAMILY._replace(**changes))
        gradient = jax.jit(functools.partial(contrastive.contrast, spec))(
            params, v, negative
        )[0]
        difference = jax.tree.map(jnp.subtract, gradient, truth)
        return max(float(jnp.max(jnp.abs(d))) for d in jax.tree.leaves(difference))

    # Each entry is a mean of numbers in [0, 1]: standard error at most 0.5 / sqrt(num).
    bound = 5 * 0.5 / np.sqrt(num)
    assert worst() < bound
    assert worst(energy=None) < bound
    for which in ("positive", "negative"):
        monkeypatch.setattr(contrastive, "phases", negated(which))
        assert worst() > bound


def likelihood_loss(params, v):
    """Minus the mean log-likelihood, by enumeration."""
    return jnp.mean(FAMILY.energy(params, v)) + rbm.log_partition(params)


def trained(spec, data, num_steps, seed=0):
    """Parameters after steps on batches of 100 rows of data [N, n]."""
    made = contrastive.contrastive(spec)
    state = jax.jit(made.init)(jax.random.key(seed), data[:100])

    def one(state, step):
        key_rows, key = jax.random.split(jax.random.fold_in(jax.random.key(9), step))
        rows = jax.random.randint(key_rows, (100,), 0, len(data))
        return made.step(key, state, data[rows][None])

    run = jax.jit(lambda state: jax.lax.scan(one, state, jnp.arange(num_steps)))
    return run(state)


def divergence(target, params):
    """KL of an enumerated distribution to a machine, in nats."""
    log_ratio = target.log_probs - distribution(params).log_probs
    return float(exact.expectation(target, log_ratio))


@pytest.fixture(scope="module")
def task():
    """Data of a machine, and the divergence that exact gradients reach on them."""
    target = distribution(machine(3, 1.5))
    data = 2 * exact.sample(jax.random.key(4), target, 10_000) - 1
    optimizer = proximal.sgd(0.5)

    def one(carry, _):
        params, state = carry
        gradient = jax.grad(likelihood_loss)(params, (data + 1) / 2)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = FAMILY.init(jax.random.key(0))
    carry = (params, optimizer.init(params))
    run = jax.jit(lambda carry: jax.lax.scan(one, carry, length=300)[0][0])
    return target, data, divergence(target, params), divergence(target, run(carry))


@pytest.mark.parametrize(
    "changes",
    [{}, {"centred": True}],
)
def test_training_nears_what_the_exact_gradient_reaches(task, changes):
    target, data, start, best = task
    rate = optax.linear_schedule(0.3, 0.0, 2000)
    spec = learner(optimizer=proximal.sgd(rate), **changes)
    state, found = trained(spec, data, 2000)
    assert best < 0.05 and start > 0.5
    assert divergence(target, state.model.params) < best + 0.05
    assert np.isfinite(found["energy_gap"]).all()


def test_fluctuating_temperatures_have_their_moments():
    std, momentum, num = 0.6, 0.9, 1500

    def one(betas, key):
        betas = contrastive.fluctuating_temperature(key, betas, std, momentum)
        return betas, betas

    keys = jax.random.split(jax.random.key(0), 70)
    _, path = jax.jit(lambda b: jax.lax.scan(one, b, keys))(jnp.ones(num))
    path = np.asarray(path[50:], np.float64)
    # Successive values are correlated: 20 / 19 independent times for each chain.
    error = std / np.sqrt(num * len(path) * (1 - momentum) / (1 + momentum))
    assert abs(path.mean() - 1) < 4 * error
    assert abs(path.std() - std) < 0.04
    for lag in (1, 3):
        found = np.mean((path[lag:] - 1) * (path[:-lag] - 1)) / path.var()
        assert abs(found - momentum**lag) < 0.03
    assert path.min() > 0
    # Gamma: the third cumulant is twice the square of the second.
    assert abs(np.mean((path - 1) ** 3) - 2 * std**4) < 0.1


def test_centring_is_the_gradient_of_the_centred_machine(float64):
    params, rng = machine(), np.random.RandomState(0)
    v, w = (jnp.asarray(rng.randint(0, 2, (n, 5)), float) for n in (7, 4))
    positive = FAMILY.posterior(params, v)
    negative = jax.jit(FAMILY.start)(jax.random.key(1), params, w)
    mean_v, mean_h = (
        (p.mean(0) + n.mean(0)) / 2 for p, n in zip(positive, negative, strict=True)
    )

    def plain(centred):
        weights = centred["weights"]
        return {
            "weights": weights,
            "visible_bias": centred["visible_bias"] - weights @ mean_h,
            "hidden_bias": centred["hidden_bias"] - mean_v @ weights,
        }

    def loss(centred):
        data, chains = contrastive.phases(FAMILY, plain(centred), positive, negative)
        return jnp.mean(data) - jnp.mean(chains)

    centred = {
        "weights": params["weights"],
        "visible_bias": params["visible_bias"] + params["weights"] @ mean_h,
        "hidden_bias": params["hidden_bias"] + mean_v @ params["weights"],
    }
    # A step along the centred gradient, seen in the plain parameters, which it moves
    # linearly.
    slope = jax.jit(jax.grad(loss))(centred)
    expected = jax.jit(lambda c, s: jax.jvp(plain, (c,), (s,))[1])(centred, slope)
    spec = learner(centred=True)
    found, _ = contrast(spec, params, v, negative)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, expected
    )


def test_chains_restart_at_data_without_persistence():
    x = 2.0 * np.random.RandomState(0).randint(0, 2, (1, 8, 5)) - 1
    still = FAMILY._replace(sweep=lambda key, params, units, beta: units)
    spec = learner(persistent=False, num_chains=3)._replace(family=still)
    made = contrastive.contrastive(spec)
    state = jax.jit(made.init)(jax.random.key(0), jnp.zeros((8, 5)))
    after, found = jax.jit(made.step)(jax.random.key(1), state, jnp.asarray(x))
    # As many as examples; where nothing moves, both phases are one.
    np.testing.assert_array_equal(after.particles[0], (x[0] + 1) / 2)
    assert abs(found["energy_gap"]) < 1e-6


def test_sweeps_between_updates_and_to_samples():
    counted = FAMILY._replace(
        sweep=lambda key, params, units, beta: jax.tree.map(lambda u: u + 1, units)
    )
    spec = learner(num_chains=4, num_sweeps=3, num_sample_sweeps=7)
    made = contrastive.contrastive(spec._replace(family=counted))
    state = jax.jit(made.init)(jax.random.key(0), jnp.zeros((8, 5)))
    after, _ = jax.jit(made.step)(jax.random.key(1), state, jnp.ones((1, 8, 5)))
    np.testing.assert_allclose(after.particles[0], state.particles[0] + 3)
    x = made.sample(jax.random.key(2), after, 6)
    v = after.particles[0][jnp.arange(6) % 4] + 7
    np.testing.assert_allclose(x, 2 * v - 1)


def test_the_kernel_sweeps_data_and_tells_their_energy():
    params = machine()
    made = contrastive.contrastive(learner(num_chains=4))
    state = jax.jit(made.init)(jax.random.key(0), jnp.zeros((4, 5)))
    state = state.replace(model=state.model.replace(params=params))

    def log_density_fn(x):
        energy = made.energy(state, x[None])[0]
        return -energy, energy

    chain = made.kernel(state, log_density_fn, has_aux=True)
    num = 5_000
    starts = jax.jit(jax.vmap(chain.init))(-jnp.ones((num, 5)))
    np.testing.assert_array_equal(starts.position, -1)

    @jax.jit
    def walked(states):
        def one(states, key):
            states, info = jax.vmap(chain.step)(jax.random.split(key, num), states)
            return states, info.is_accepted

        return jax.lax.scan(one, states, jax.random.split(jax.random.key(1), 30))

    ends, accepted = walked(starts)
    np.testing.assert_allclose(ends.aux, made.energy(state, ends.position), rtol=1e-4)
    law = distribution(params)
    expected = exact.expectation(law, 2 * law.states - 1)
    np.testing.assert_allclose(ends.position.mean(0), expected, atol=4 / np.sqrt(num))
    assert accepted.all()


@pytest.mark.slow
def test_any_energy_is_trained_by_a_kernel():
    """A Gaussian's mean and precision, by chains of MALA."""

    def energy_fn(params, x):
        return jnp.exp(params["log_precision"]) * (x[:, 0] - params["mean"]) ** 2 / 2

    family = contrastive.moved_by(
        lambda key: {"mean": jnp.zeros(()), "log_precision": jnp.zeros(())},
        energy_fn,
        functools.partial(mala.mala, step_size=0.3),
        num_steps=3,
    )
    rate = optax.linear_schedule(0.1, 0.0, 800)
    spec = contrastive.Spec(
        family,
        num_chains=200,
        num_sample_sweeps=20,
        start=lambda key, num: jax.random.normal(key, (num, 1)),
        optimizer=proximal.sgd(rate),
    )
    data = 1.5 + 0.7 * jax.random.normal(jax.random.key(1), (5000, 1))
    state, found = trained(spec, data, 800)
    params = state.model.params
    assert abs(params["mean"] - data.mean()) < 0.05
    assert abs(jnp.exp(-params["log_precision"] / 2) - data.std()) < 0.05
    assert "reconstruction_error" not in found and "weight_norm" not in found
    made = contrastive.contrastive(spec)
    x = jax.jit(made.sample, static_argnums=2)(jax.random.key(3), state, 500)
    assert x.shape == (500, 1) and abs(x.mean() - 1.5) < 0.15
    energies = made.energy(state, data[:4])
    np.testing.assert_allclose(energies, energy_fn(params, data[:4]))


def test_l1_leaves_exact_zeros_and_spares_biases():
    data = 2.0 * np.random.RandomState(0).randint(0, 2, (500, 5)) - 1
    data[:, 0] = 1
    spec = learner(optimizer=proximal.sgd(0.1, l1=0.2))
    state, found = trained(spec, jnp.asarray(data), 500)
    params = state.model.params
    # The units of these data are independent: no weight is worth its price.
    assert float(found["weight_zeros"][-1]) == np.mean(params["weights"] == 0)
    assert found["weight_zeros"][-1] > 0.9
    assert params["visible_bias"][0] > 1


@pytest.mark.slow
def test_devices_agree_and_share_the_work():
    num = 512
    x = 2.0 * np.random.RandomState(0).randint(0, 2, (1, num, 5)) - 1
    made, ends, flops = contrastive.contrastive(learner(num_chains=num)), [], []

    def step(key, state, x):
        # As the training loop hands it over.
        return made.step(key, state, distributed.shard(x, axis=1))

    for devices in (jax.devices()[:1], jax.devices()[:8]):
        mesh = distributed.data_mesh(devices)
        with jax.set_mesh(mesh):
            make = jax.jit(made.init, out_shardings=distributed.replicated(mesh))
            state = make(jax.random.key(0), jnp.zeros((1, 5)))
            placed = distributed.replicate((jax.random.key(1), x), mesh)
            compiled = jax.jit(step).lower(placed[0], state, placed[1]).compile()
            flops.append(compiled.cost_analysis()["flops"])
            for _ in range(3):
                # Raises where the chains came back in another form than they went.
                state, _ = compiled(placed[0], state, placed[1])
        ends.append(jax.device_get(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *ends)
    assert flops[1] < 0.35 * flops[0]


def test_numbers_by_hand():
    v = jnp.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    assert contrastive.reconstruction_error(v, jnp.full((4, 2), 0.5)) == 1
    assert contrastive.reconstruction_error(v, v) == 0
    # One input of four, all of four, two of four, none.
    w = jnp.array([[3.0, 1, 2, 0], [0, 1, 0, 0], [0, -1, -2, 0], [0, 1, 0, 0]])
    np.testing.assert_allclose(
        contrastive.participation(w), (0.25 + 1 + 0.5 + 0) / 4, rtol=1e-6
    )
    x = jnp.array([[[-1.0, 1.0], [1.0, -1.0]]])
    for coding, v in (
        (contrastive.bits((2, 2)), [[0, 1, 1, 0]]),
        (contrastive.spins((2, 2)), [[-1, 1, 1, -1]]),
    ):
        assert coding.units(x).tolist() == v
        assert coding.data(coding.units(x)).tolist() == x.tolist()
