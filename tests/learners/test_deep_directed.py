"""The update of deep directed models against the paper's equations written plainly.

SGD where a gradient is checked: AdaGrad forgives a gradient of the wrong scale.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import close

from megjax import losses
from megjax.learners import deep_directed
from megjax.networks import experts, mlp
from megjax.sampling import model

pytestmark = pytest.mark.usefixtures("float64", "quick_compilation")

RATE = 0.1


def spec(**changes):
    return deep_directed.Spec(
        energy=experts.Experts(
            experts.Features((6,), dtype=jnp.float64), 3, visible_std=1.0
        ),
        generator=experts.Generator((5,), (2,), dtype=jnp.float64),
        latent_dim=3,
        latent_bound=0.5,
        num_energy_updates=2,
        energy_optimizer=optax.sgd(RATE),
        generator_optimizer=optax.sgd(RATE),
    )._replace(**changes)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(5), (2, 16, 2))


def initial(learner, x):
    """A fresh state, of which the layers make float32, in float64."""
    state = jax.jit(learner.init)(jax.random.key(0), x[0])
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state)


def alternated(spec, entropy_weight, score_weight, key, state, x):
    """Equations 1, 4 and 5 one after the other; shares only the splitting of keys."""
    theta, phi = state.energy.params, state.generator.params
    statistics = state.generator.variables
    energy = lambda theta, x: spec.energy.apply({"params": theta}, x)
    descend = functools.partial(jax.tree.map, lambda p, g: p - RATE * g)

    def samples(phi, statistics, key):
        normal = jax.random.normal(key, (x.shape[1], 3))
        u = 0.5 * (2 * jax.scipy.stats.norm.cdf(normal) - 1)
        return spec.generator.apply(
            {"params": phi} | statistics, u, train=True, mutable=["batch_stats"]
        )

    key_energy, key_generator = jax.random.split(key)
    for key_update, real in zip(jax.random.split(key_energy, len(x)), x):
        fake, statistics = samples(phi, statistics, key_update)

        def contrast(theta, real=real, fake=fake):
            score = jax.vmap(jax.grad(lambda x: energy(theta, x[None])[0]))(real)
            penalty = score_weight * jnp.mean(jnp.sum(score**2, -1))
            return (
                jnp.mean(energy(theta, real)) - jnp.mean(energy(theta, fake)) + penalty
            )

        theta = descend(theta, jax.grad(contrast)(theta))

    def loss(phi):
        made, moved = samples(phi, statistics, key_generator)
        g = phi["norm_0"]["scale"]
        entropy = jnp.sum(0.5 * jnp.log(2 * jnp.pi * jnp.e * g**2))
        return jnp.mean(energy(theta, made)) - entropy_weight * entropy, moved

    gradient, statistics = jax.grad(loss, has_aux=True)(phi)
    return theta, descend(phi, gradient), statistics


@pytest.mark.parametrize(("weight", "score_weight"), [(0.0, 0.0), (0.7, 0.3)])
def test_one_iteration_is_the_papers(x, weight, score_weight):
    entropy = deep_directed.batch_norm_entropy if weight else deep_directed.no_entropy
    model = spec(entropy=entropy, entropy_weight=weight, score_weight=score_weight)
    learner = deep_directed.deep_directed(model)
    state = initial(learner, x)
    after, found = jax.jit(learner.step)(jax.random.key(1), state, x)
    plainly = functools.partial(alternated, model, weight, score_weight)
    theta, phi, statistics = jax.jit(plainly)(jax.random.key(1), state, x)
    close(after.energy.params, theta)
    # The epsilon in the logarithm is 1e-8 of a term.
    close(after.generator.params, phi, rtol=1e-7)
    close(after.generator.variables, statistics)
    assert all(np.isfinite(value) for value in found.values())


def test_batch_norm_entropy_is_that_of_its_scales():
    params = {
        "norm_0": {"scale": jnp.array([1.0, -2.0]), "bias": jnp.ones(2)},
        "output": {"kernel": jnp.ones((2, 2))},
    }
    one = 0.5 * np.log(2 * np.pi * np.e)
    found = deep_directed.batch_norm_entropy(params)
    np.testing.assert_allclose(found, 2 * one + np.log(2), rtol=1e-8)
    assert np.isfinite(losses.batch_norm_entropy([jnp.zeros(3)]))
    gradient = jax.grad(losses.batch_norm_entropy)(jnp.zeros(3))
    np.testing.assert_array_equal(gradient, 0)


def test_a_generator_without_normalisation_is_refused(x):
    model = spec(
        generator=mlp.Generator((5,), 2), entropy=deep_directed.batch_norm_entropy
    )
    learner = deep_directed.deep_directed(model)
    state = jax.jit(learner.init)(jax.random.key(0), x[0])
    with pytest.raises(ValueError, match="needs a generator with batch normalisation"):
        jax.eval_shape(learner.step, jax.random.key(1), state, x)


def test_latents_become_uniform():
    z = jax.random.normal(jax.random.key(0), (100_000,))
    u = deep_directed.uniform(spec(), z)
    assert jnp.max(jnp.abs(u)) <= 0.5
    # Moments of U[-c, c], c = 1/2, within four standard errors.
    np.testing.assert_allclose(jnp.mean(u**2), 1 / 12, atol=4 * 0.075 / 316)
    np.testing.assert_allclose(jnp.mean(u**4), 1 / 80, atol=4 * 0.017 / 316)
    np.testing.assert_allclose(
        deep_directed.uniform(spec(), jnp.array([0.0, 100.0])), [0, 0.5], atol=1e-12
    )


def plain_spec(**changes):
    """In float32, as runs are."""
    return spec(
        energy=experts.Experts(experts.Features((6,)), 3, visible_std=1.0),
        generator=experts.Generator((5,), (2,)),
        **changes,
    )


@pytest.mark.slow
def test_latent_walks_keep_the_generators_distribution():
    """At inverse temperature 0 the chain's inputs stay uniform: it sees no walls."""
    with jax.enable_x64(False):
        learner = deep_directed.deep_directed(plain_spec())
        state = jax.jit(learner.init)(jax.random.key(0), jnp.zeros((4, 2)))
        options = {"num": 400, "steps": 50, "inverse_temperature": 0.0}
        walk = model.sample(jax.random.key(1), learner, state, **options)
        u = np.asarray(deep_directed.uniform(plain_spec(), jnp.asarray(walk.z)))
        made = jax.jit(learner.generate)(state, walk.z)
    assert np.abs(u).max() <= 0.5
    np.testing.assert_allclose(np.mean(u**2), 1 / 12, atol=4 * 0.075 / np.sqrt(1200))
    np.testing.assert_allclose(walk.x, made, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_against_a_fixed_energy_the_generator_collapses_and_in_the_game_it_does_not():
    """Trap K1: without entropy only the game keeps it from the energy's minimum."""

    def spread(energy_optimizer):
        model = plain_spec(
            num_energy_updates=1,
            generator_optimizer=optax.adagrad(0.05),
            energy_optimizer=energy_optimizer,
        )
        learner = deep_directed.deep_directed(model)
        data = jax.random.normal(jax.random.key(3), (1, 128, 2))
        state = jax.jit(learner.init)(jax.random.key(0), data[0])

        @jax.jit
        def trained(state):
            def step(state, key):
                return learner.step(key, state, data)[0], None

            return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 400))[
                0
            ]

        made = learner.sample(jax.random.key(2), trained(state), 500)
        return float(jnp.sqrt(jnp.mean(jnp.var(made, 0))))

    with jax.enable_x64(False):
        collapsed, spreading = spread(optax.set_to_zero()), spread(optax.adagrad(0.05))
    assert collapsed < 0.1
    assert spreading > 0.3


def test_averages_are_used(x):
    learner = deep_directed.deep_directed(spec(average_decay=0.5))
    step = jax.jit(learner.step)
    first, _ = step(jax.random.key(1), initial(learner, x), x)
    after, _ = step(jax.random.key(2), first, x)
    close(
        after.average["energy"],
        jax.tree.map(
            lambda a, b: (a + 10 * b) / 11, first.energy.params, after.energy.params
        ),
    )
    plain = after.replace(average=None)
    assert not np.allclose(learner.energy(after, x[0]), learner.energy(plain, x[0]))
