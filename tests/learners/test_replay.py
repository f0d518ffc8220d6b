"""An iteration by hand on an energy that is linear in its parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from megjax import distributed
from megjax.learners import adaptive_samplers, replay
from megjax.networks import smooth
from megjax.samplers import bijectors, kernel

pytestmark = pytest.mark.usefixtures("quick_compilation")

RATE, SHIFT, NOISE = 0.3, 1.0, 0.25
NUM, BATCH = 12, 5


class Linear(linen.Module):
    """E(x) = sum of weights times x and x^2."""

    @linen.compact
    def __call__(self, x):
        weights = self.param("weights", linen.initializers.ones, (2, 3), jnp.float64)
        return features(x).reshape(len(x), -1) @ weights.ravel()


def features(x):
    return jnp.stack([x, x**2], axis=1)


def shifted(key, state, positions, log_density_fn, num):
    """In place of a sampler: every chain moves by num, and the state counts."""
    found = {"entropy": jnp.float32(6), "slope": jax.grad(log_density_fn)(positions[0])}
    return state + num, positions + num * SHIFT, found


COUNTER = adaptive_samplers.AdaptiveSampler(
    lambda key, shape: jnp.int32(0), shifted, None
)


def learner(**changes):
    spec = replay.Spec(
        Linear(),
        COUNTER,
        noise_fn=lambda key, x: x + NOISE,
        buffer_size=NUM,
        num_transitions=2,
        optimizer=optax.sgd(RATE),
    )
    return spec._replace(**changes)


def advanced(spec, x):
    init, step = (functools.partial(f, spec) for f in (replay.init, replay.step))
    before = jax.jit(init)(jax.random.key(0), x[0])
    return before, *jax.jit(step)(jax.random.key(1), before, x)


@pytest.fixture
def data(float64):
    return jax.random.normal(jax.random.key(2), (1, BATCH, 3), jnp.float64)


def moved_rows(before, after):
    return np.flatnonzero(np.any(before.positions != after.positions, axis=1))


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_an_iteration_by_hand(data, weight):
    spec = learner(magnitude_weight=weight)
    before, after, found = advanced(spec, data)
    rows = moved_rows(before, after)
    assert len(rows) == BATCH and after.sampler == 2
    chains = np.asarray(before.positions)[rows] + 2 * SHIFT
    np.testing.assert_allclose(np.asarray(after.positions)[rows], chains)
    real, fake = (np.asarray(features(x)) for x in (data[0] + NOISE, chains))
    weights = np.ones((2, 3))
    slope = real.mean(axis=0) - fake.mean(axis=0)
    energies = [np.sum(weights * f, axis=(1, 2)) for f in (real, fake)]
    for phi, energy in zip((real, fake), energies):
        slope += weight * np.mean(2 * energy[:, None, None] * phi, axis=0)
    expected = weights - RATE * slope
    np.testing.assert_allclose(after.energy.params["weights"], expected, atol=1e-12)
    gap = energies[0].mean() - energies[1].mean()
    np.testing.assert_allclose(found["energy_gap"], gap, rtol=1e-12)
    np.testing.assert_allclose(found["energy_data"], energies[0].mean(), rtol=1e-12)
    np.testing.assert_allclose(found["gradient_norm"], np.linalg.norm(slope))
    np.testing.assert_allclose(found["chain_rms"], np.sqrt(np.mean(chains**2)))
    assert found["entropy_per_dim"] == 2


def test_rows_that_are_not_chosen_stay(data):
    before, after, _ = advanced(learner(), data)
    key_rows = jax.random.split(jax.random.key(1), 3)[0]
    rows = jax.random.permutation(key_rows, NUM)[:BATCH]
    np.testing.assert_array_equal(moved_rows(before, after), np.sort(rows))
    # And others are chosen next time.
    step = jax.jit(functools.partial(replay.step, learner()))
    chosen = [
        moved_rows(before, step(jax.random.key(i), before, data)[0]) for i in (2, 3)
    ]
    assert set(chosen[0]) != set(chosen[1])


def test_chains_move_on_the_energy_in_coordinates(data):
    spec = learner(bijector=bijectors.logit(0.1), num_transitions=0)
    before, after, found = advanced(spec, data / 4)
    chosen = jax.random.permutation(jax.random.split(jax.random.key(1), 3)[0], NUM)[0]

    def log_density(u):
        x = jnp.tanh(u / 2) / 0.8
        slopes = jnp.log((1 - jnp.tanh(u / 2) ** 2) / 1.6)
        return -jnp.sum(x + x**2) + jnp.sum(slopes)

    expected = jax.grad(log_density)(before.positions[chosen])
    np.testing.assert_allclose(found["slope"], expected, rtol=1e-9)
    # Negatives are data, like positives.
    x = jnp.tanh(after.positions / 2) / 0.8
    np.testing.assert_allclose(replay.positions(spec, after), x, atol=1e-12)
    starts = replay.starts(spec, jax.random.key(3), (4, 3))
    u = jax.random.normal(jax.random.key(3), (4, 3))
    np.testing.assert_allclose(starts, jnp.tanh(u / 2) / 0.8, rtol=1e-6)


def test_samples_are_chains_of_the_buffer(data):
    before, *_ = advanced(learner(), data)
    made = replay.replay(learner())
    few = made.sample(jax.random.key(0), before, NUM)
    np.testing.assert_array_equal(np.sort(few, 0), np.sort(before.positions, 0))
    many = np.asarray(made.sample(jax.random.key(0), before, 3 * NUM))
    assert np.isin(many[:, 0], before.positions[:, 0]).all()


def test_beyond_the_limit_nothing_is_likely(data):
    spec = learner(bijector=bijectors.logit(0.1))
    state, *_ = advanced(spec, data / 4)
    x = jnp.array([[0.0, 0.0, 1.24], [0.0, 0.0, -1.26]])
    found = replay.energy(spec, state, x)
    np.testing.assert_allclose(found, [1.24 + 1.24**2, np.inf])


def test_the_kernel_moves_on_images():
    spec = replay.Spec(
        smooth.Energy(2),
        adaptive_samplers.langevin(adaptive_samplers.StepSize(initial=0.2)),
        bijectors.logit(),
        buffer_size=4,
        start_fn=jax.random.logistic,
    )
    made = replay.replay(spec)
    state = made.init(jax.random.key(0), jnp.zeros((4, 4, 4, 1)))

    def log_density_fn(x):
        energy = made.energy(state, x[None])[0]
        return -energy, energy

    moves = made.kernel(state, log_density_fn, has_aux=True)
    x = made.sample(jax.random.key(1), state, 1)[0]

    @jax.jit
    def end(x):
        return kernel.chain(jax.random.key(2), moves, moves.init(x), 30)[0]

    chain = end(x)
    assert chain.position.shape == (4, 4, 1) and np.any(chain.position != x)
    assert np.max(np.abs(chain.position)) < spec.bijector.limit
    expected = made.energy(state, chain.position[None])[0]
    np.testing.assert_allclose(chain.aux, expected, rtol=1e-4)


@pytest.mark.slow
def test_devices_agree():
    """MALA on a small energy, a batch of eight chains on one device and on eight."""
    spec = replay.Spec(
        smooth.Energy(2),
        adaptive_samplers.langevin(adaptive_samplers.StepSize(initial=0.2)),
        bijectors.logit(),
        buffer_size=16,
        num_transitions=3,
        start_fn=jax.random.logistic,
    )
    made, ends = replay.replay(spec), []
    x = np.random.RandomState(0).uniform(-1, 1, (1, 8, 4, 4, 1)).astype(np.float32)

    def step(key, state, x):
        # As the training loop hands it over.
        return made.step(key, state, distributed.shard(x, axis=1))

    for devices in (jax.devices()[:1], jax.devices()[:8]):
        mesh = distributed.data_mesh(devices)
        with jax.set_mesh(mesh):
            make = jax.jit(made.init, out_shardings=distributed.replicated(mesh))
            state = make(jax.random.key(0), x[0])
            placed = distributed.replicate((jax.random.key(1), x), mesh)
            compiled = jax.jit(step).lower(placed[0], state, placed[1]).compile()
            for _ in range(2):
                # Raises where the state came back in another form than it went.
                state, _ = compiled(placed[0], state, placed[1])
        ends.append(jax.device_get(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *ends)
