"""Layers against numbers by hand and PyTorch's documented bounds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.networks import layers

KEY = jax.random.key(0)


def test_batch_norm_by_hand():
    """Two values 1 and 5: mean 3, variance 4, unbiased 8."""
    norm = layers.BatchNorm(scale_std=0.0)
    x = jnp.array([[1.0], [5.0]])
    variables = norm.init(KEY, x, True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [0.0])
    np.testing.assert_array_equal(variables["batch_stats"]["var"], [1.0])
    y, moved = norm.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(
        y, np.array([[-2], [2]]) / math.sqrt(4 + 1e-5), rtol=1e-6
    )
    np.testing.assert_allclose(moved["batch_stats"]["mean"], [0.1 * 3], rtol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["var"], [0.9 + 0.1 * 8], rtol=1e-6)
    y = norm.apply(variables | moved, x, False)
    expected = (np.array([[1], [5]]) - 0.3) / math.sqrt(1.7 + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_batch_norm_runs_over_all_axes_but_the_last():
    norm = layers.BatchNorm()
    x = 3 + 2 * jax.random.normal(KEY, (4, 5, 6, 2))
    variables = norm.init(KEY, x, False)
    y, moved = norm.apply(variables, x, True, mutable=["batch_stats"])
    params = variables["params"]
    np.testing.assert_allclose(y.mean((0, 1, 2)), params["bias"], atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), params["scale"], rtol=1e-4)
    unbiased = np.asarray(x).reshape(-1, 2).var(0, ddof=1)
    expected = 0.9 + 0.1 * unbiased
    np.testing.assert_allclose(moved["batch_stats"]["var"], expected, rtol=1e-5)


def test_batch_norm_statistics_of_bfloat16_are_float32():
    norm = layers.BatchNorm(dtype=jnp.bfloat16)
    x = jax.random.normal(KEY, (4096, 2), jnp.bfloat16) + 100
    variables = norm.init(KEY, x, False)
    y, moved = norm.apply(variables, x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    mean = np.asarray(x, np.float64).mean(0)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)


def test_initial_batch_norm_scale():
    scale = layers.BatchNorm().init(KEY, jnp.ones((1, 20000)), False)["params"]["scale"]
    assert scale.mean() == pytest.approx(1, abs=1e-3)
    assert scale.std() == pytest.approx(0.02, rel=0.02)


def test_linear_by_hand():
    layer = layers.Linear(1)
    params = {"kernel": jnp.array([[2.0], [3.0]]), "bias": jnp.array([1.0])}
    y = layer.apply({"params": params}, jnp.array([[[1.0, 10.0]]]))
    np.testing.assert_array_equal(y, [[[33.0]]])


@pytest.mark.parametrize(
    ("layer", "shape", "fan_in"),
    [
        (layers.Linear(500), (1, 100), 100),
        (layers.Linear(500, fan_in=400), (1, 100), 400),
        (layers.Convolution(200, 3, 1, 1), (1, 8, 8, 16), 144),
        # PyTorch counts the outputs of a transposed convolution: 16 of them.
        (layers.TransposedConvolution(16, 3, 1, 1), (1, 8, 8, 200), 144),
    ],
)
def test_default_initialisation_fills_pytorchs_bounds(layer, shape, fan_in):
    params = layer.init(KEY, jnp.ones(shape))["params"]
    bound = 1 / math.sqrt(fan_in)
    assert 0.99 * bound < jnp.abs(params["kernel"]).max() <= bound
    assert params["kernel"].std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert 0.7 * bound < jnp.abs(params["bias"]).max() <= bound


@pytest.mark.slow
@pytest.mark.parametrize("layer", [layers.Convolution, layers.TransposedConvolution])
def test_normal_initialisation_leaves_the_bias_uniform(layer):
    module = layer(64, 5, 2, 2, kernel_std=0.02)
    params = module.init(KEY, jnp.ones((1, 7, 7, 64)))["params"]
    assert params["kernel"].std() == pytest.approx(0.02, rel=0.02)
    assert 0.7 / 40 < jnp.abs(params["bias"]).max() <= 1 / 40


def test_divided():
    assert layers.divided(512, 8) == 64
    with pytest.raises(ValueError, match="width=12 is not divisible by 8"):
        layers.divided(12, 8)


def test_kernel_std_keeps_the_gain_of_the_reference_width():
    assert layers.kernel_std(512) == 0.02
    # Gain of a layer: std * sqrt(fan in), and fan in is proportional to the width.
    np.testing.assert_allclose(layers.kernel_std(32) * 32**0.5, 0.02 * 512**0.5)


def test_batch_norm_per_unit_is_that_of_a_dense_layer():
    """Of the flattened map, and so blind to what all examples share."""
    x = jax.random.normal(KEY, (8, 3, 3, 2))
    norm, dense = layers.BatchNorm(per_unit=True), layers.BatchNorm()
    flat = x.reshape(8, -1)
    variables = norm.init(KEY, x, False)
    same = jax.tree.map(lambda v: v.reshape(-1), variables)
    y, moved = norm.apply(variables, x, True, mutable=["batch_stats"])
    expected, expected_moved = dense.apply(same, flat, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.reshape(8, -1), expected, rtol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            moved["batch_stats"][name].reshape(-1), expected_moved["batch_stats"][name]
        )
    template = 10 * jax.random.normal(jax.random.key(1), (1, 3, 3, 2))
    shifted, _ = norm.apply(variables, x + template, True, mutable=["batch_stats"])
    np.testing.assert_allclose(shifted, y, atol=1e-4)
