"""Distances of sets that are known to be near or far, and chains that are made to move."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.data.dataset import Dataset
from megjax.evaluation import chain_stability
from megjax.learners.base import Learner
from megjax.samplers import kernel

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (2, 2, 1)


def numbers(num, seed, shift=0.0):
    rng = np.random.RandomState(seed)
    return (0.2 * rng.normal(size=(num, *SHAPE)) + shift).astype(np.float32)


DATA = Dataset("numbers", SHAPE, 400, numbers(400, 0), lambda store, i: store[i])


class State(NamedTuple):
    position: jax.Array
    aux: jax.Array


def drifting(state, log_density_fn, *, has_aux):
    """In place of a sampler: every transition adds a hundredth."""

    def at(x):
        return State(x, log_density_fn(x)[1])

    def step(key, chain):
        one = jnp.ones(())
        return at(chain.position + 0.01), kernel.Info(one, one > 0, one < 0)

    return kernel.Kernel(at, step)


def model(chains, noise_fn=None):
    learner = Learner(
        init=None,
        step=None,
        sample=lambda key, state, num: jnp.asarray(chains[:num]),
        energy=lambda state, x: jnp.sum(x, axis=(1, 2, 3)) + state,
        kernel=drifting,
    )
    return chain_stability.Model(
        learner,
        positions_fn=lambda state: jnp.asarray(chains),
        start_fn=lambda key, shape: jax.random.uniform(key, shape, minval=-1),
        noise_fn=noise_fn,
    )


def test_chains_at_the_data_are_as_far_as_data():
    evaluate = chain_stability.buffer_distance(model(numbers(300, 1)), DATA)
    found = evaluate(jax.random.key(0), 0.0)
    metrics = found.metrics
    assert metrics["num_examples"] == 200
    for measure in ("frechet", "energy_distance"):
        buffer, floor, start = (
            metrics[f"{measure}_{name}"] for name in ("buffer", "floor", "start")
        )
        assert 0.3 < buffer / floor < 3 and start > 10 * max(buffer, floor)
    assert {name: p.ndim for name, p in found.pictures.items()} == {
        "chains": 3,
        "data": 3,
    }


def test_chains_elsewhere_are_far():
    evaluate = chain_stability.buffer_distance(model(numbers(300, 1, shift=0.5)), DATA)
    metrics = evaluate(jax.random.key(0), 0.0).metrics
    # A shift of 1/2 of four pixels: |m - m'|^2 = 1.
    np.testing.assert_allclose(metrics["frechet_buffer"], 1, atol=0.15)


def test_noise_is_put_on_data_and_values_are_clipped():
    made = model(numbers(300, 1), noise_fn=lambda key, x: x + 5)
    x = chain_stability.examples(made, DATA, jax.random.key(0), 400)
    np.testing.assert_allclose(np.sort(x.ravel()), np.sort(DATA.store.ravel()) + 5)
    wide = 10 * numbers(50, 1)
    far = chain_stability.distances(wide, np.clip(wide, -1, 1))
    np.testing.assert_allclose(list(far.values()), 0, atol=1e-6)


def test_long_chains_by_hand():
    num_transitions = 40
    chains = numbers(300, 1)
    evaluate = chain_stability.long_run(
        model(chains), DATA, num_chains=30, num_transitions=num_transitions
    )
    found = evaluate(jax.random.key(0), 2.0)
    metrics = found.metrics
    before = np.mean(np.sum(chains[:30], axis=(1, 2, 3))) + 2
    np.testing.assert_allclose(metrics["energy_before_buffer"], before, rtol=1e-5)
    after = before + 4 * 0.01 * num_transitions
    np.testing.assert_allclose(metrics["energy_after_buffer"], after, rtol=1e-4)
    end = np.sqrt(np.mean((chains[:30] + 0.4) ** 2))
    np.testing.assert_allclose(metrics["rms_after_buffer"], end, rtol=1e-5)
    assert metrics["acceptance_buffer"] == 1
    assert metrics["energy_distance_floor"] > 1e-3
    assert metrics["distance_after_buffer"] > 3 * metrics["energy_distance_floor"]
    assert metrics["distance_before_start"] > 3 * metrics["distance_before_buffer"]
    names = {"energy", "distance", "from_buffer", "from_start"}
    assert set(found.pictures) == names


def test_a_walk_in_records_is_the_walk():
    made = model(numbers(300, 1)).learner
    start = jnp.zeros((3, *SHAPE))
    track = chain_stability.tracked(made, 0.0, jax.random.key(0), start, 45)
    # Windows of 45 // 20; the rest is left out.
    np.testing.assert_array_equal(track.times, np.arange(0, 46, 2))
    np.testing.assert_allclose(track.x[:, 1, 0, 0, 0], 0.01 * track.times, rtol=1e-4)
    np.testing.assert_allclose(track.energy[:, 2], 0.04 * track.times, rtol=1e-4)
