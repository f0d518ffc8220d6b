"""WGAN-GP's update against Algorithm 1 written out plainly, and known distances.

SGD where a gradient is checked: Adam forgives a gradient of the wrong scale.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import close, furthest

from megjax import distributed
from megjax.learners import adversarial, wgan_gp
from megjax.networks import heads, mlp

pytestmark = pytest.mark.usefixtures("float64", "quick_compilation")

RATE = 0.1
PENALTIES = [wgan_gp.PER_EXAMPLE, wgan_gp.PER_PIXEL]


class Dense(nn.Module):
    """A narrow smooth network on [B, ...]; energies [B], or images of `shape`."""

    shape: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x, train=True):
        x = x.reshape(len(x), -1)
        x = jnp.tanh(nn.Dense(6, name="hidden", param_dtype=jnp.float64)(x))
        out = int(np.prod(self.shape))
        x = nn.Dense(out, name="out", param_dtype=jnp.float64)(x)
        return x.reshape(len(x), *self.shape)


class Linear(nn.Module):
    """E(x) = w . x, with w of the form of x."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(0.5, jnp.float64), x.shape[1:])
        return jnp.sum(w * x, axis=range(1, x.ndim))


class Shift(nn.Module):
    """G(z) = z + offset, which counts its passes in training mode."""

    @nn.compact
    def __call__(self, z, train):
        offset = self.param("offset", nn.initializers.zeros, z.shape[1:], jnp.float64)
        count = self.variable("batch_stats", "count", jnp.zeros, ())
        if train:
            count.value += 1
        return z + offset


def spec(**changes):
    return wgan_gp.Spec(
        energy=Dense(),
        generator=Dense((2, 2, 3)),
        latent_dim=3,
        num_energy_updates=2,
        penalty_weight=0.7,
        energy_optimizer=optax.sgd(RATE),
        generator_optimizer=optax.sgd(RATE),
    )._replace(**changes)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(5), (2, 16, 2, 2, 3))


def trained(spec, x):
    learner = wgan_gp.wgan_gp(spec)
    state = jax.jit(learner.init)(jax.random.key(0), x[0])
    return state, *jax.jit(learner.step)(jax.random.key(1), state, x)


def algorithm_1(spec, penalty, key, state, x):
    """One iteration as the paper prints it, with a critic and a double gradient.

    Shares with the code under test only the way keys are split.
    """
    theta, w = state.energy.params, state.generator.params
    critic = lambda theta, x: -spec.energy.apply({"params": theta}, x)
    generator = lambda w, z: spec.generator.apply({"params": w}, z, train=True)
    descend = functools.partial(jax.tree.map, lambda p, g: p - RATE * g)
    key_critic, key_generator = jax.random.split(key)
    for key_update, real in zip(jax.random.split(key_critic, len(x)), x):
        key_z, key_epsilon = jax.random.split(key_update)
        fake = generator(w, jax.random.normal(key_z, (len(real), 3)))
        alike = penalty is wgan_gp.PER_EXAMPLE
        shape = (len(real), 1, 1, 1) if alike else real.shape
        epsilon = jax.random.uniform(key_epsilon, shape)
        mixed = epsilon * real + (1 - epsilon) * fake

        def critic_loss(theta, real=real, fake=fake, mixed=mixed, alike=alike):
            one = lambda x: critic(theta, x[None])[0]
            gradient = jax.vmap(jax.grad(one))(mixed)
            axes = (1, 2, 3) if alike else 3
            norm = jnp.sqrt(jnp.sum(gradient**2, axes))
            loss = jnp.mean(critic(theta, fake)) - jnp.mean(critic(theta, real))
            return loss + spec.penalty_weight * jnp.mean((norm - 1) ** 2)

        theta = descend(theta, jax.grad(critic_loss)(theta))
    z = jax.random.normal(key_generator, (x.shape[1], 3))
    loss = lambda w: -jnp.mean(critic(theta, generator(w, z)))
    return theta, descend(w, jax.grad(loss)(w))


@pytest.mark.parametrize("penalty", PENALTIES, ids=["per_example", "per_pixel"])
def test_step_is_algorithm_1(x, penalty):
    chosen = spec(penalty=penalty)
    state, after, _ = trained(chosen, x)
    plain = jax.jit(functools.partial(algorithm_1, chosen, penalty))
    theta, w = plain(jax.random.key(1), state, x)
    assert furthest(state.energy.params, theta) > 1e-4
    assert furthest(state.generator.params, w) > 1e-4
    close(after.energy.params, theta)
    close(after.generator.params, w)


def test_points_lie_on_lines_or_in_boxes():
    key_real, key_fake, key = jax.random.split(jax.random.key(0), 3)
    real = jax.random.normal(key_real, (500, 2, 2, 3))
    fake = 9 + jax.random.normal(key_fake, (500, 2, 2, 3))

    def coefficients(penalty):
        points = penalty.interpolation(key, real, fake)
        return np.asarray((points - fake) / (real - fake)).reshape(500, -1)

    lines, boxes = (coefficients(penalty) for penalty in PENALTIES)
    np.testing.assert_allclose(np.ptp(lines, axis=1), 0, atol=1e-12)
    assert np.ptp(boxes, axis=1).min() > 0.1
    for found in (lines[:, 0], boxes[:, 0]):
        assert 0 <= found.min() < 0.02 and 0.98 < found.max() <= 1
        # Uniform: mean 1/2 within 4 standard errors of 1 / sqrt(12 * 500).
        assert abs(found.mean() - 0.5) < 4 * 0.013


def test_metrics_of_a_linear_energy_by_hand(x):
    chosen = spec(energy=Linear(), num_energy_updates=1)
    state, _, metrics = trained(chosen, x[:1])
    w = state.energy.params["w"]
    norm = np.sqrt(np.sum(w**2))
    np.testing.assert_allclose(metrics["slope_norm"], norm)
    np.testing.assert_allclose(metrics["gradient_penalty"], 0.7 * (norm - 1) ** 2)
    np.testing.assert_allclose(
        metrics["energy_real"], np.mean(x[0], axis=0).ravel() @ w.ravel()
    )
    np.testing.assert_allclose(
        metrics["wasserstein"], metrics["energy_fake"] - metrics["energy_real"]
    )


def test_generator_descends_the_energy():
    """E = w x has the gradient w in the offset of G(z) = z + offset."""
    chosen = spec(energy=Linear(), generator=Shift(), num_energy_updates=1)
    state = wgan_gp.wgan_gp(chosen).init(jax.random.key(0), jnp.zeros((4, 3)))
    after, metrics = wgan_gp.generator_update(chosen, jax.random.key(1), state, 8)
    w = state.energy.params["w"]
    np.testing.assert_allclose(after.generator.params["offset"], -RATE * w)
    norm = np.sqrt(np.sum(w**2))
    assert norm > 1e-2
    np.testing.assert_allclose(metrics["generator_gradient_norm"], norm)


def test_every_forward_pass_moves_the_batch_statistics():
    chosen = spec(generator=Shift(), energy=Linear())
    _, after, _ = trained(chosen, jnp.ones((2, 4, 3)))
    # One to initialise none, two updates of the energy and one of the generator.
    assert after.generator.variables["batch_stats"]["count"] == 3


def descended(chosen, real, num):
    """Energy after `num` updates against a generator that stands still; metrics."""
    state = wgan_gp.wgan_gp(chosen).init(jax.random.key(0), real)

    def update(state, key):
        return wgan_gp.energy_update(chosen, key, state, real)

    keys = jax.random.split(jax.random.key(1), num)
    state, found = jax.jit(functools.partial(jax.lax.scan, update))(state, keys)
    return state, jax.tree.map(lambda values: np.mean(values[-num // 4 :]), found)


def test_a_linear_critic_finds_the_shift():
    """Between clouds D apart the best slope is s = 1 + D / (2 lambda), and s D the gap.

    It maximises s D - lambda (s - 1)^2.
    """
    real = 3 + jax.random.normal(jax.random.key(2), (512, 1))
    distance = float(np.mean(real))
    chosen = spec(
        energy=Linear(), generator=Shift(), latent_dim=1, penalty_weight=10.0
    )._replace(energy_optimizer=optax.sgd(0.02))
    _, found = descended(chosen, real, 400)
    slope = 1 + distance / 20
    # Means of 512 samples over 100 updates: standard error .0044.
    np.testing.assert_allclose(found["slope_norm"], slope, rtol=5e-3)
    np.testing.assert_allclose(found["wasserstein"], slope * distance, rtol=1e-2)


@pytest.mark.slow
def test_a_trained_critic_finds_the_distance_and_the_sign():
    # On the side to which the fresh energy falls: on a line its slope cannot turn
    # round, since the penalty keeps it from 0.
    real = -2 + 0.3 * jax.random.normal(jax.random.key(2), (256, 1))
    chosen = spec(
        energy=heads.Energy(mlp.Trunk((16, 16))),
        generator=Shift(),
        latent_dim=1,
        penalty_weight=10.0,
        energy_optimizer=optax.adam(3e-3, 0.5, 0.9),
    )
    state, found = descended(chosen, real, 400)
    # W1 of N(0, 1) and N(-2, .3^2): the mean of |2 + .7 z|, all but 2.
    assert found["wasserstein"] / found["slope_norm"] == pytest.approx(2.0, rel=0.1)
    assert 1 <= found["slope_norm"] < 1.3
    noise = jax.random.normal(jax.random.key(3), (256, 1))
    at_data, at_noise = (adversarial.energy(chosen, state, x) for x in (real, noise))
    assert np.mean(at_data) < np.mean(at_noise) - 1
    assert np.mean(at_data < np.median(at_noise)) > 0.95


@pytest.mark.slow
def test_per_pixel_penalty_lets_images_slope_by_the_root_of_their_pixels():
    """Alone, the penalties draw |grad E| of 4 pixels to 1 and to sqrt 4."""
    real = jnp.zeros((8, 2, 2, 1))
    chosen = spec(energy=Linear(), generator=Dense((2, 2, 1)), penalty_weight=1.0)
    sizes = []
    for penalty in PENALTIES:
        state = wgan_gp.wgan_gp(chosen).init(jax.random.key(0), real)
        # Samples equal to the data: a contrast of 0.
        frozen = jax.tree.map(jnp.zeros_like, state.generator.params)
        state = state.replace(generator=state.generator.replace(params=frozen))
        update = jax.jit(
            functools.partial(wgan_gp.energy_update, chosen._replace(penalty=penalty))
        )
        for i in range(150):
            state, metrics = update(jax.random.key(i), state, real)
        sizes.append(metrics["slope_norm"])
    np.testing.assert_allclose(sizes, [1.0, 2.0], rtol=1e-3)


def test_running_averages_are_what_the_model_uses():
    chosen = spec(energy=Linear(), generator=Shift(), average_decay=0.9)
    x = jnp.ones((2, 4, 3))
    _, first, _ = trained(chosen, x)
    after, _ = wgan_gp.wgan_gp(chosen).step(jax.random.key(1), first, x)
    # The second iteration has a decay of 1 / 11, the first none.
    offset, w = (
        (before + 10 * now) / 11
        for before, now in (
            (first.generator.params["offset"], after.generator.params["offset"]),
            (first.energy.params["w"], after.energy.params["w"]),
        )
    )
    assert np.all(offset != 0)
    equal = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    equal(adversarial.energy(chosen, after, x[0]), x[0] @ w)
    equal(adversarial.generate(chosen, after, x[0]), x[0] + offset)


def test_the_step_is_traced_once():
    traced = []

    def interpolation(key, real, fake):
        traced.append(key)
        return wgan_gp.between(key, real, fake)

    penalty = wgan_gp.PER_EXAMPLE._replace(interpolation=interpolation)
    chosen = spec(energy=Linear(), generator=Shift(), penalty=penalty)
    learner, x = wgan_gp.wgan_gp(chosen), jnp.ones((2, 4, 3))
    state, step = learner.init(jax.random.key(0), x[0]), jax.jit(learner.step)
    for i in range(3):
        state, _ = step(jax.random.key(i), state, x)
    assert len(traced) == chosen.num_energy_updates


def test_one_and_eight_devices_agree():
    chosen = spec(energy=Linear(), generator=Shift(), num_energy_updates=1)
    learner, x = (
        wgan_gp.wgan_gp(chosen),
        jax.random.normal(jax.random.key(2), (1, 16, 3)),
    )
    found = []
    for num in (1, 8):
        mesh = distributed.data_mesh(jax.devices()[:num])
        batch = jax.device_put(
            x, jax.NamedSharding(mesh, jax.P(None, distributed.AXIS))
        )
        everywhere = distributed.replicated(mesh)
        with jax.set_mesh(mesh):
            init = jax.jit(learner.init, out_shardings=everywhere)
            state, step = init(jax.random.key(0), x[0]), jax.jit(learner.step)
            for i in range(2):
                state, metrics = step(jax.random.key(i), state, batch)
        found.append(jax.device_get((state, metrics)))
    close(*found)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", PENALTIES, ids=["per_example", "per_pixel"])
def test_micro_batches_change_nothing_but_memory(x, penalty):
    start, *whole = trained(spec(penalty=penalty), x)
    _, *parts = trained(spec(penalty=penalty, num_microbatches=4), x)
    assert furthest(start.energy.params, whole[0].energy.params) > 1e-4
    close(parts, whole)


@pytest.mark.slow
def test_the_data_of_micro_batches_stay_on_their_devices():
    """Eight devices agree with one, and pass nothing on but sums."""
    chosen = spec(num_microbatches=2, num_energy_updates=1)
    learner, x = wgan_gp.wgan_gp(chosen), jnp.ones((1, 16, 2, 2, 3))
    mesh = distributed.data_mesh(jax.devices())
    batch = jax.device_put(x, jax.NamedSharding(mesh, jax.P(None, distributed.AXIS)))
    with jax.set_mesh(mesh):
        init = jax.jit(learner.init, out_shardings=distributed.replicated(mesh))
        state = init(jax.random.key(0), x[0])
        step = jax.jit(learner.step).lower(jax.random.key(1), state, batch).compile()
        after, _ = step(jax.random.key(1), state, batch)
    for moving in ("all-gather", "all-to-all", "collective-permute"):
        assert moving not in step.as_text()
    alone = jax.jit(learner.step)(jax.random.key(1), jax.device_get(state), x)
    close(jax.device_get(after), alone[0])
