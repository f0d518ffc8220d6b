"""Perceptrons against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.networks import heads, mlp

KEY = jax.random.key(0)


def num_params(module, *args, **kwargs):
    variables = jax.eval_shape(lambda: module.init(KEY, *args, **kwargs))
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_parameter_counts_by_hand():
    # KDD99: 121 inputs, 32 latents.
    energy = heads.Energy(mlp.Trunk((256, 128, 128)))
    hidden = 256 + 256 * 128 + 128 + 128 * 128 + 128 + 128 + 1
    assert num_params(energy, jnp.ones((1, 121))) == 121 * 256 + hidden
    statistics = mlp.Statistics((256, 128, 128))
    pair = jnp.ones((1, 121)), jnp.ones((1, 32))
    assert num_params(statistics, *pair) == (121 + 32) * 256 + hidden
    generator = mlp.Generator((64, 128), 121)
    expected = 32 * 64 + 64 + 64 * 128 + 128 + 128 * 121 + 121
    assert num_params(generator, jnp.ones((1, 32)), train=True) == expected


@pytest.mark.slow
def test_statistics_is_a_perceptron_on_the_concatenation():
    statistics = mlp.Statistics((8, 6), slope=0.2)
    x, z = jax.random.normal(KEY, (5, 3)), jax.random.normal(KEY, (2, 5, 4))
    variables = statistics.init(KEY, x, z)
    params = variables["params"]
    kernel = jnp.concatenate(
        [params["linear_x"]["kernel"], params["linear_z"]["kernel"]]
    )
    pairs = jnp.concatenate([jnp.broadcast_to(x, (2, 5, 3)), z], axis=-1)
    h = jax.nn.leaky_relu(pairs @ kernel + params["linear_x"]["bias"], 0.2)
    layer = params["trunk"]["linear_0"]
    h = jax.nn.leaky_relu(h @ layer["kernel"] + layer["bias"], 0.2)
    expected = (h @ params["output"]["kernel"] + params["output"]["bias"])[..., 0]
    logits = statistics.apply(variables, x, z)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        statistics.apply(variables, x, z[1]), logits[1], rtol=1e-5, atol=1e-6
    )
    # Both parts of the first layer have the scale of a layer on all 7 inputs.
    assert np.abs(kernel).max() <= 1 / np.sqrt(7)


def test_generator_by_hand():
    generator = mlp.Generator((2,), 1)
    params = {
        "linear_0": {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)},
        "output": {"kernel": jnp.array([[2.0], [3.0]]), "bias": jnp.ones(1)},
    }
    z = jnp.array([[4.0], [-5.0]])
    for train in (True, False):
        x = generator.apply({"params": params}, z, train=train)
        np.testing.assert_array_equal(x, [[9.0], [16.0]])


def test_bfloat16_computes_with_float32_parameters():
    x, z = jnp.ones((3, 4)), jnp.ones((3, 2))
    half = jnp.bfloat16
    for module, args in (
        (heads.Energy(mlp.Trunk((8,), dtype=half)), (x,)),
        (mlp.Statistics((8, 8), dtype=half), (x, z)),
        (mlp.Generator((8,), 4, dtype=half), (z, True)),
    ):
        y, variables = module.init_with_output(KEY, *args)
        assert y.dtype == jnp.float32
        assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
