"""Layers counted by hand, and the curvature that a trained sampler needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.networks import smooth

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(("side", "channels"), [(4, 1), (8, 3), (32, 3)])
def test_parameters_by_hand(side, channels):
    module = smooth.Energy(2)
    x = jnp.zeros((5, side, side, channels))
    found, params = jax.eval_shape(
        lambda key: module.init_with_output(key, x), jax.random.key(0)
    )
    num, features = 9 * channels * 2 + 2, 2
    while side > 4:
        num += 16 * features * 2 * features + 2 * features
        features, side = 2 * features, side // 2
    num += 16 * features + 1
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num
    assert found.shape == (5,) and found.dtype == jnp.float32


def test_second_derivatives_by_finite_differences(float64):
    module = smooth.Energy(2)
    x, v = jax.random.normal(jax.random.key(0), (2, 1, 8, 8, 1), jnp.float64)
    params = module.init(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    module = smooth.Energy(2, dtype=jnp.float64)
    slope = jax.jit(jax.grad(lambda x: module.apply(params, x)[0]))
    curvature = jax.jvp(slope, (x,), (v,))[1]
    expected = (slope(x + 1e-5 * v) - slope(x - 1e-5 * v)) / 2e-5
    np.testing.assert_allclose(curvature, expected, atol=1e-9)
    assert np.max(np.abs(curvature)) > 1e-5


@pytest.mark.parametrize("shape", [(8, 4), (6, 6), (12, 12)])
def test_sides_that_cannot_be_halved_to_four(shape):
    with pytest.raises(ValueError, match=f"images of {shape[0]} x {shape[1]} pixels"):
        smooth.Energy(2).init(jax.random.key(0), jnp.zeros((1, *shape, 1)))
