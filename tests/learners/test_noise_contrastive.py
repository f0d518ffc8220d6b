"""Noise contrast on energies that are linear in their parameters, where all is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from scipy import stats

from megjax import distributed
from megjax.data.dataset import Dataset
from megjax.densities import reference
from megjax.learners import noise_contrastive as nc
from megjax.networks import fourier
from megjax.samplers import partition

pytestmark = pytest.mark.usefixtures("quick_compilation")

MEAN, STD, NOISE_STD = 1.0, 0.7, 1.5
TRUE = np.array([-MEAN / STD**2, 0.5 / STD**2])
TRUE_LOG_Z = 0.5 * (MEAN / STD) ** 2 + np.log(STD * np.sqrt(2 * np.pi))


class Quadratic(linen.Module):
    """E(x) = a x + b x^2: with log Z every Gaussian on the line."""

    @linen.compact
    def __call__(self, x):
        weights = self.param("weights", linen.initializers.ones, (2,), x.dtype)
        return jnp.concatenate([x, x**2], 1) @ weights


def quantiles(mean, std, num):
    """As good as an integral over N(mean, std^2): [num, 1]."""
    levels = (np.arange(num) + 0.5) / num
    return jnp.asarray(stats.norm(mean, std).ppf(levels)[:, None])


def rows(num_noise, density_std=NOISE_STD):
    """What the loss takes; density_std: of the density that noise is said to have."""
    u, noise = quantiles(MEAN, STD, 4000), quantiles(0, NOISE_STD, num_noise * 4000)
    log_p = stats.norm(0, density_std).logpdf
    return u, noise, *(jnp.asarray(log_p(v[:, 0])) for v in (u, noise))


def optimum(spec, *rows):
    """(a, b, log Z) where the gradient vanishes, by Newton's method."""

    def loss(w):
        return nc.loss(spec, nc.Weights({"weights": w[:2]}, w[2]), *rows)[0]

    gradient, hessian = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    w = jnp.array([-1.8, 0.8, 2.0])
    for _ in range(12):
        w = w - jnp.linalg.solve(hessian(w), gradient(w))
    return np.asarray(w)


def specified(**changes):
    spec = nc.Spec(Quadratic(), reference.gaussian(), average_decay=0.0)
    return spec._replace(**changes)


@pytest.mark.parametrize("num_noise", [1, 3])
def test_at_the_optimum_the_energy_is_that_of_the_data(float64, num_noise):
    spec = specified(num_noise=num_noise)
    found = optimum(spec, *rows(num_noise))
    np.testing.assert_allclose(found, [*TRUE, TRUE_LOG_Z], rtol=2e-3)


def slope(spec, *rows):
    """Largest entry of the gradient at the truth."""
    truth = nc.Weights({"weights": jnp.asarray(TRUE)}, jnp.asarray(TRUE_LOG_Z))
    gradient = jax.grad(lambda weights: nc.loss(spec, weights, *rows)[0])(truth)
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient))


def test_mutants_have_another_optimum(float64):
    """A noise that is not what is said, none at all, and a wrong number of noise rows."""
    u, noise, at_data, at_noise = rows(3)
    spec = specified(num_noise=3)
    zeros = jnp.zeros_like(at_data), jnp.zeros_like(at_noise)
    assert slope(spec, u, noise, at_data, at_noise) < 1e-3
    for mutant in ((u, noise, *zeros), rows(3, density_std=1.2)):
        assert slope(spec, *mutant) > 0.02
    # As if nu were 1: log Z takes the logarithm of what is missing.
    wrong = optimum(spec, u, noise, at_data + np.log(3), at_noise + np.log(3))
    np.testing.assert_allclose(wrong[2] - TRUE_LOG_Z, -np.log(3), rtol=1e-2)


def test_maximum_likelihood_is_still_at_the_truth(float64):
    spec = specified(objective="maximum_likelihood")
    truth = nc.Weights({"weights": jnp.asarray(TRUE)}, jnp.asarray(TRUE_LOG_Z))
    loss = lambda weights: nc.loss(spec, weights, *rows(1))[0]
    for leaf in jax.tree.leaves(jax.grad(loss)(truth)):
        np.testing.assert_allclose(leaf, 0, atol=3e-3)
    # Its value is the entropy, less what the noise adds to neither side: nothing.
    entropy = stats.norm(MEAN, STD).entropy()
    at_data = jnp.mean(rows(1)[2])
    np.testing.assert_allclose(loss(truth) - at_data, entropy, rtol=1e-3)
    above = nc.Weights(truth.network, truth.log_z + 0.1)
    np.testing.assert_allclose(jax.grad(loss)(above).log_z, 1 - np.exp(-0.1), rtol=1e-2)


@pytest.mark.parametrize("objective", nc.OBJECTIVES)
def test_gradients_are_finite_differences(float64, objective):
    spec = specified(objective=objective, num_noise=2)
    u, noise, *log_noise = rows(2)
    short = u[::400], noise[::400], *(v[::400] for v in log_noise)
    weights = nc.Weights({"weights": jnp.array([-0.5, 0.9])}, jnp.array(1.3))
    gradient = jax.grad(lambda w: nc.loss(spec, w, *short)[0])(weights)
    for i in range(2):
        ends = [
            weights.replace(
                network={"weights": weights.network["weights"].at[i].add(h)}
            )
            for h in (1e-5, -1e-5)
        ]
        (found,) = np.diff([nc.loss(spec, w, *short)[0] for w in ends[::-1]]) / 2e-5
        np.testing.assert_allclose(gradient.network["weights"][i], found, rtol=1e-6)


def table(num=200, dim=2):
    rng = np.random.RandomState(0)
    x = 3 + np.float32(rng.normal(size=(num, dim))) * np.linspace(
        1, 5, dim, dtype=np.float32
    )
    known = {"validation": x[:7]}
    return Dataset("table", (dim,), num, x, lambda store, i: store[i], None, known)


def confined(**changes):
    spec = nc.Spec(
        fourier.Energy((8,), 4),
        reference.gaussian(1.5),
        optimizer=optax.sgd(0.1),
        num_importance=4000,
    )
    return spec._replace(**changes)


def begun(spec, data=None, num=64):
    data = data or table()
    learner = nc.noise_contrastive(spec, data)
    x = jnp.asarray(data.store[:num])
    return learner, jax.jit(learner.init)(jax.random.key(0), x), x


def test_an_untrained_energy_is_the_gaussian_of_the_data():
    """With log Z known, in units of x; samples and the estimate of log Z follow."""
    learner, state, x = begun(confined())
    # The loop would take others for divergence, and save none.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    covariance = np.asarray(state.whitening.factor @ state.whitening.factor.T)
    expected = stats.multivariate_normal(state.whitening.mean, covariance).logpdf(x)
    found = -learner.energy(state, x) - learner.log_partition(state)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    draws = learner.sample(jax.random.key(1), state, 2000)
    np.testing.assert_allclose(draws.mean(0), state.whitening.mean, atol=0.5)
    np.testing.assert_allclose(np.cov(draws.T), covariance, rtol=0.2, atol=0.5)
    after, metrics = learner.finish(jax.random.key(2), state, None)
    np.testing.assert_allclose(after.log_z, np.log(2 * np.pi), atol=0.05)
    np.testing.assert_allclose(learner.log_partition(after), after.log_z)
    assert metrics["partition/effective_share"] > 0.3


def test_a_tilted_energy_starts_as_its_noise_and_learns_the_ratio():
    spec = confined(tilt=True, energy=fourier.Energy((8,), 4, confinement=0.0))
    learner, state, x = begun(spec)
    found = -learner.energy(state, x) - learner.log_partition(state)
    np.testing.assert_allclose(found, nc.noise_of(spec, state).log_prob(x), rtol=1e-4)
    # The noise's own density cancels in the log ratio.
    state = state.replace(
        energy=state.energy.replace(
            params=jax.tree.map(lambda w: w + 0.1, state.energy.params)
        )
    )
    _, metrics = jax.jit(learner.step)(jax.random.key(3), state, x[None])
    u = reference.whitened(state.whitening, x)
    key_noise = jax.random.split(jax.random.key(3))[0]
    noise = spec.noise.sample(state.noise, key_noise, len(x))
    log_noise = [spec.noise.log_prob(state.noise, v) for v in (u, noise)]
    params = {"params": state.energy.params.network}
    energies = [spec.energy.apply(params, v) - q for v, q in zip((u, noise), log_noise)]
    logits = [-e - state.energy.params.log_z - q for e, q in zip(energies, log_noise)]
    expected = jnp.mean(jax.nn.softplus(-logits[0]) + jax.nn.softplus(logits[1]))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)


def test_a_step_is_the_gradient_of_the_loss_on_fresh_noise():
    spec = confined(average_decay=0.0)
    learner, state, x = begun(spec)
    after, found = jax.jit(learner.step)(jax.random.key(3), state, x[None])
    key_noise = jax.random.split(jax.random.key(3))[0]
    u = reference.whitened(state.whitening, x)
    noise = spec.noise.sample(state.noise, key_noise, len(x))
    log_noise = (spec.noise.log_prob(state.noise, v) for v in (u, noise))
    given = u, noise, *log_noise
    gradient = jax.grad(lambda w: nc.loss(spec, w, *given)[0])(state.energy.params)
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, state.energy.params, gradient)
    for a, b in zip(*map(jax.tree.leaves, (after.energy.params, expected))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert after.count == 1 and np.isfinite(found["loss"])


def test_averages_and_what_validation_chooses():
    spec = confined(num_validation=20, check_every=2, optimizer=optax.sgd(1e-2))
    learner, state, x = begun(spec)
    # Rows are repeated where there are fewer than asked for.
    np.testing.assert_allclose(state.validation[:6], state.validation[7:13], rtol=1e-5)
    step = jax.jit(learner.step)
    states = [state]
    for i in range(4):
        states.append(step(jax.random.key(i), states[-1], x[None])[0])
    # At first the fresh weights are the best.
    assert jax.tree.all(
        jax.tree.map(np.array_equal, nc.weights(states[1]), states[0].energy.params)
    )
    assert states[2].best.loss < states[1].best.loss == states[0].best.loss
    same = jax.tree.map(np.array_equal, nc.weights(states[2]), states[2].average)
    assert all(jax.tree.leaves(same))
    # Weights that are worse are not taken, however long they stay.
    bad = jax.tree.map(lambda leaf: leaf + 50, states[2].average)
    worse = states[3].replace(average=bad, energy=states[3].energy.replace(params=bad))
    kept = nc.weights(step(jax.random.key(9), worse, x[None])[0])
    assert jax.tree.all(jax.tree.map(np.array_equal, kept, states[2].best.weights))


def test_a_tilted_energy_that_gets_no_better_stays_the_noise():
    spec = confined(tilt=True, num_validation=20, check_every=1)
    spec = spec._replace(energy=fourier.Energy((8,), 4, confinement=0.0))
    learner, state, x = begun(spec)
    np.testing.assert_allclose(state.best.loss, 2 * np.log(2), rtol=1e-6)
    bad = jax.tree.map(lambda leaf: leaf + 50, state.average)
    state = state.replace(average=bad, energy=state.energy.replace(params=bad))
    state, _ = jax.jit(learner.step)(jax.random.key(1), state, x[None])
    found = -learner.energy(state, x) - learner.log_partition(state)
    np.testing.assert_allclose(found, nc.noise_of(spec, state).log_prob(x), rtol=1e-4)


def test_without_data_a_state_has_the_same_form():
    spec = confined(num_validation=20)
    _, state, x = begun(spec)
    empty = jax.eval_shape(nc.noise_contrastive(spec).init, jax.random.key(0), x)
    shaped = lambda leaf: (leaf.shape, leaf.dtype)
    assert jax.tree.map(shaped, empty) == jax.tree.map(shaped, state)


def test_where_importance_sampling_fails_the_learned_log_z_stays():
    # Of N(0, 3^2) for N(0, 1) in 8 dimensions, (17^1/2 / 9)^8 of the draws count.
    learner, state, _ = begun(confined(noise=reference.gaussian(3.0)), table(dim=8))
    after, metrics = learner.finish(jax.random.key(2), state, None)
    assert metrics["partition/effective_share"] < partition.MIN_SHARE
    np.testing.assert_allclose(after.log_z, nc.weights(state).log_z)


def test_eight_devices_make_the_step_of_one():
    spec = confined(noise=reference.kernel_density((0.3, 1.0), num_points=16))
    learner, state, x = begun(spec)
    one, _ = jax.jit(learner.step)(jax.random.key(3), state, x[None])
    with jax.set_mesh(distributed.data_mesh(jax.devices())):
        mesh = jax.sharding.get_mesh()
        placed = distributed.replicate(state, mesh)

        @jax.jit
        def step(state, x):
            return learner.step(jax.random.key(3), state, distributed.shard(x, 1))[0]

        eight = step(placed, x[None])
    for a, b in zip(*map(jax.tree.leaves, (one.energy.params, eight.energy.params))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_mixture_is_learned_to_a_hundredth_of_a_nat():
    """Two narrow modes, by both objectives; log Z by quadrature."""
    rng = np.random.RandomState(0)
    centres = np.array([[-1.0, 0.0], [1.0, 0.5]])
    x = centres[rng.randint(2, size=20_000)] + 0.1 * rng.normal(size=(20_000, 2))
    data = Dataset("two", (2,), len(x), np.float32(x), lambda s, i: s[i])
    noise = reference.mixture(
        [reference.gaussian(1.5), reference.kernel_density((0.1, 0.3))], [0.3, 0.7]
    )
    for objective in nc.OBJECTIVES:
        spec = nc.Spec(
            fourier.Energy((64, 64), 64, 5.0),
            noise,
            objective,
            optimizer=optax.adam(optax.cosine_decay_schedule(2e-3, 1000)),
        )
        learner, state, _ = begun(spec, data)

        @functools.partial(jax.jit, donate_argnums=0)
        def trained(state, learner=learner):
            def one(state, key):
                rows = jax.random.randint(key, (512,), 0, len(x))
                return learner.step(key, state, jnp.asarray(data.store)[rows][None])

            keys = jax.random.split(jax.random.key(0), 1000)
            return jax.lax.scan(one, state, keys)[0]

        state, _ = learner.finish(jax.random.key(1), trained(state), data)
        energy_fn = functools.partial(learner.energy, state)
        found = partition.quadrature(energy_fn, [-5, -5], [5, 5], num_cells=500)
        terms = [stats.multivariate_normal(c, 0.01).pdf(x) for c in centres]
        truth = np.log(np.mean(terms, axis=0))
        divergence = np.mean(truth + np.asarray(energy_fn(jnp.asarray(data.store))))
        assert divergence + found.log_z < 0.01
        assert abs(float(state.log_z) - found.log_z) < 0.02


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"objective": "score"},
            "objective='score': choose one of noise_contrast, max",
        ),
        ({"num_noise": 0}, "density.num_noise=0: give a whole number from 1"),
        ({"check_every": 0}, "density.check_every=0: give a whole number from 1"),
        ({"average_decay": 1.0}, r"density.average_decay=1.0: give a number in \[0, 1"),
    ],
)
def test_specifications_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        nc.noise_contrastive(confined(**changes))


def test_data_that_cannot_be():
    learner = nc.noise_contrastive(confined(), table())
    with pytest.raises(ValueError, match=r"shape \[4, 4, 1\]: NCE takes vectors"):
        learner.init(jax.random.key(0), jnp.zeros((3, 4, 4, 1)))
    bare = table()._replace(reference={})
    learner = nc.noise_contrastive(confined(num_validation=5), bare)
    with pytest.raises(ValueError, match="table has no validation rows: give density"):
        learner.init(jax.random.key(0), jnp.zeros((3, 2)))
    streamed = table()._replace(stream=lambda i: i)
    with pytest.raises(ValueError, match="table streams from disk: NCE needs a set"):
        begun(confined(), streamed)
