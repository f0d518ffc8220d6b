"""The energy distance on samples of a few points, and between Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np

from megjax.metrics import energy_distance


def test_by_hand():
    x, y = jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([[0.0, 0.0]])
    # Between: (0 + 5) / 2; within x: (0 + 5 + 5 + 0) / 4; within y: 0.
    np.testing.assert_allclose(energy_distance.energy_distance(x, y), 5 - 2.5)
    np.testing.assert_allclose(
        energy_distance.energy_coefficient(x, y), np.sqrt(2.5 / 5)
    )
    assert energy_distance.energy_distance(x, x) == 0


def test_points_far_apart_have_coefficient_one():
    x = jax.random.normal(jax.random.key(0), (300, 2, 2, 1))
    np.testing.assert_allclose(
        energy_distance.energy_coefficient(x, x + 1e4), 1, atol=1e-3
    )
    y = jax.random.normal(jax.random.key(1), (300, 2, 2, 1))
    # Two samples of one distribution: sqrt((1 / N + 1 / M) / 2), self-pairs included.
    np.testing.assert_allclose(
        energy_distance.energy_coefficient(x, y), np.sqrt(1 / 300), rtol=0.3
    )


def test_the_origin_does_not_matter():
    x, y = np.float32(np.random.default_rng(0).normal(size=(2, 200, 2))) + [
        [[0]],
        [[0.5]],
    ]
    expected = energy_distance.energy_distance(jnp.asarray(x), jnp.asarray(y))
    for offset in (1e3, 1e4):
        moved = [jnp.asarray(np.float32(a + offset)) for a in (x, y)]
        found = energy_distance.energy_distance(*moved)
        np.testing.assert_allclose(found, expected, rtol=0.01)
