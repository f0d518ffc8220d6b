"""One compiled step over eight devices against one device and against literal pmap.

SGD in float64: Adam would hide a gradient that is eight times too large.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from megjax import distributed
from megjax.learners import meg

pytestmark = pytest.mark.usefixtures("float64", "quick_compilation")

BATCH, LATENT, RATE = 32, 4, 0.05


class Dense(nn.Module):
    """A narrow network; `normalise` puts BatchNorm, hence a collective, inside."""

    out: int
    normalise: bool = False

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(64, name="hidden", param_dtype=jnp.float64)(x)
        if self.normalise:
            x = nn.BatchNorm(not train, name="norm", param_dtype=jnp.float64)(x)
        return nn.Dense(self.out, name="out", param_dtype=jnp.float64)(jnp.tanh(x))


class Energy(nn.Module):
    piecewise_linear = False

    @nn.compact
    def __call__(self, x):
        return Dense(1, name="net")(x)[..., 0]


class Statistics(nn.Module):
    @nn.compact
    def __call__(self, x, z):
        x = jnp.broadcast_to(x, (*z.shape[:-1], x.shape[-1]))
        return Dense(1, name="net")(jnp.concatenate([x, z], axis=-1))[..., 0]


def spec(normalise):
    sgd = optax.sgd(RATE)
    return meg.Spec(
        Energy(), Dense(3, normalise), Statistics(), LATENT, num_energy_updates=2
    )._replace(
        pairing=meg.fresh,
        energy_optimizer=sgd,
        generator_optimizer=sgd,
        statistics_optimizer=sgd,
    )


def started(spec, mesh):
    """A replicated state, a batch sharded along its axis, and the compiled step."""
    learner = meg.meg(spec)
    x = jax.random.normal(jax.random.key(2), (2, BATCH, 3))
    with jax.set_mesh(mesh):
        state = jax.jit(learner.init, out_shardings=distributed.replicated(mesh))(
            jax.random.key(0), x[0]
        )
    place = jax.NamedSharding(mesh, jax.P(None, distributed.AXIS))
    return state, jax.device_put(x, place), jax.jit(learner.step)


def run(spec, num_devices, steps=3):
    mesh = distributed.data_mesh(jax.devices()[:num_devices])
    state, x, step = started(spec, mesh)
    with jax.set_mesh(mesh):
        for i in range(steps):
            state, metrics = step(jax.random.key(i), state, x)
    return jax.device_get((state, metrics))


def assert_close(a, b):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12), a, b
    )


@pytest.mark.parametrize(
    "normalise", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_one_and_eight_devices_agree(normalise):
    assert_close(run(spec(normalise), 1), run(spec(normalise), 8))


def test_state_stays_replicated():
    mesh = distributed.data_mesh(jax.devices())
    state, x, step = started(spec(True), mesh)
    with jax.set_mesh(mesh):
        state, _ = step(jax.random.key(0), state, x)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))


def test_the_step_is_literal_pmap():
    """The same update, written once more for one device, with pmap and pmean."""
    chosen = spec(False)
    state, after, x = pmapped(chosen)
    learner = meg.meg(chosen)
    expected, _ = jax.jit(learner.step)(jax.random.key(0), state, x)
    theta, w, phi = jax.tree.map(lambda leaf: leaf[0], after)
    assert_close(theta, expected.energy.params)
    assert_close(w, expected.generator.params)
    assert_close(phi, expected.statistics.params)


def pmapped(spec):
    """(state before, parameters after, batch) of one iteration under `jax.pmap`.

    Latents are drawn at the global shape and handed to the devices in slices.
    """
    x = jax.random.normal(jax.random.key(2), (2, BATCH, 3))
    state = jax.jit(meg.meg(spec).init)(jax.random.key(0), x[0])
    key_energy, key_generator = jax.random.split(jax.random.key(0))
    key_z, key_pairs = jax.random.split(key_generator)
    z = jax.random.normal(key_z, (BATCH, LATENT))
    z_bar = jax.random.normal(jax.random.split(key_pairs, 1)[0], (BATCH, LATENT))
    z_energy = jnp.stack(
        [
            jax.random.normal(jax.random.split(key)[0], (BATCH, LATENT))
            for key in jax.random.split(key_energy, 2)
        ]
    )
    scatter = lambda v: v.reshape(*v.shape[:-2], 8, BATCH // 8, v.shape[-1])
    params = state.energy.params, state.generator.params, state.statistics.params
    update = jax.pmap(functools.partial(one_device, spec), axis_name="devices")
    after = update(
        jax.device_put_replicated(params, jax.devices())
        if hasattr(jax, "device_put_replicated")
        else jax.tree.map(lambda p: jnp.stack([p] * 8), params),
        jnp.moveaxis(scatter(x), 1, 0),
        scatter(z),
        scatter(z_bar),
        jnp.moveaxis(scatter(z_energy), 1, 0),
    )
    return state, after, x


def one_device(spec, params, x, z, z_bar, z_energy):
    theta, w, phi = params
    energy = lambda theta, x: spec.energy.apply({"params": theta}, x)
    generator = lambda w, z: spec.generator.apply({"params": w}, z)
    statistics = lambda phi, x, z: spec.statistics.apply({"params": phi}, x, z)
    mean_gradient = lambda g: jax.lax.pmean(g, "devices")
    descend = lambda p, g: jax.tree.map(lambda p, g: p - RATE * g, p, mean_gradient(g))

    def generator_loss(w, phi):
        fake = generator(w, z)
        joint = jnp.logaddexp(0, -statistics(phi, fake, z))
        marginal = jnp.logaddexp(0, statistics(phi, fake, z_bar))
        return jnp.mean(energy(theta, fake) + joint + marginal)

    gradient_w, gradient_phi = jax.grad(generator_loss, argnums=(0, 1))(w, phi)
    w, phi = descend(w, gradient_w), descend(phi, gradient_phi)
    for batch, z_k in zip(x, z_energy):

        def energy_loss(theta, batch=batch, z=z_k):
            score = jax.vmap(jax.grad(lambda x: energy(theta, x)))(batch)
            contrast = energy(theta, batch) - energy(theta, generator(w, z))
            return jnp.mean(contrast + spec.score_weight * jnp.sum(score**2, axis=1))

        theta = descend(theta, jax.grad(energy_loss)(theta))
    return theta, w, phi


@pytest.mark.slow
def test_work_is_divided_among_devices():
    """FLOPs of one device fall about eightfold; an unconstrained draw would not."""

    def flops(num_devices):
        mesh = distributed.data_mesh(jax.devices()[:num_devices])
        state, x, step = started(spec(False), mesh)
        with jax.set_mesh(mesh):
            compiled = step.lower(jax.random.key(0), state, x).compile()
        return compiled.cost_analysis()["flops"]

    assert 6 < flops(1) / flops(8) < 8.5


def test_shard_is_the_identity_without_a_mesh_or_where_it_cannot_divide():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(distributed.shard(x), x)
    with jax.set_mesh(distributed.data_mesh(jax.devices())):
        np.testing.assert_array_equal(jax.jit(distributed.shard)(x), x)
        sharded = jax.jit(distributed.shard)(jnp.arange(16.0))
    assert not sharded.sharding.is_fully_replicated
