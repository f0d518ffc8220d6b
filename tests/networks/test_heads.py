"""Heads against their parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from megjax.networks import dcgan, heads, ladder, mlp

KEY = jax.random.key(0)


class Smooth(linen.Module):
    def __call__(self, x):
        return jnp.tanh(x)


def test_energy_by_hand():
    energy = heads.Energy(Smooth())
    params = {"output": {"kernel": jnp.array([[2.0], [-1.0]]), "bias": jnp.ones(1)}}
    x = jnp.array([[0.0, 0.0], [jnp.inf, -jnp.inf]])
    np.testing.assert_array_equal(energy.apply({"params": params}, x), [1.0, 4.0])


def test_energy_knows_whether_it_is_piecewise_linear():
    assert heads.Energy(mlp.Trunk((4,))).piecewise_linear
    assert heads.Energy(dcgan.Trunk(8)).piecewise_linear
    assert heads.Energy(ladder.Trunk(8)).piecewise_linear
    assert not heads.Energy(Smooth()).piecewise_linear


def statistics_inputs():
    x = jax.random.normal(KEY, (4, 8, 8, 1))
    z = jax.random.normal(KEY, (2, 4, 3))
    return heads.Statistics(ladder.Trunk(8), latent_dim=3, width=5), x, z


@pytest.mark.slow
def test_statistics_by_parts():
    statistics, x, z = statistics_inputs()
    variables = statistics.init(KEY, x, z)
    params = variables["params"]
    features = ladder.Trunk(8).apply({"params": params["trunk"]}, x)
    layer = params["projection"]
    h = features @ layer["kernel"] + layer["bias"]
    h = jnp.concatenate([h, z[1]], axis=1)
    h = jax.nn.leaky_relu(h @ params["joint"]["kernel"] + params["joint"]["bias"], 0.2)
    expected = (h @ params["output"]["kernel"] + params["output"]["bias"])[:, 0]
    logits = statistics.apply(variables, x, z)
    assert logits.shape == (2, 4)
    np.testing.assert_allclose(logits[1], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        statistics.apply(variables, x, z[1]), logits[1], rtol=1e-5, atol=1e-6
    )


def test_the_trunk_runs_once_for_all_latents():
    statistics, x, z = statistics_inputs()
    variables = jax.eval_shape(statistics.init, KEY, x, z)
    calls = []

    def count(next_fun, args, kwargs, context):
        if context.method_name == "__call__":
            calls.append(context.module.name)
        return next_fun(*args, **kwargs)

    with linen.intercept_methods(count):
        logits = jax.eval_shape(statistics.apply, variables, x, jnp.tile(z, (8, 1, 1)))
    assert logits.shape == (16, 4) and calls.count("trunk") == 1


def test_outputs_of_a_bfloat16_trunk_are_float32():
    trunk = ladder.Trunk(8, dtype=jnp.bfloat16)
    x, z = jnp.ones((2, 8, 8, 1)), jnp.ones((2, 3))
    statistics = heads.Statistics(trunk, latent_dim=3, width=5)
    logits, variables = jax.eval_shape(statistics.init_with_output, KEY, x, z)
    assert logits.dtype == jnp.float32
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def normal_log_density(z, mean, std):
    return np.sum(-(((z - mean) / std) ** 2) / 2 - np.log(std), axis=-1)


@pytest.mark.parametrize("num", [1, 3])
def test_posterior_is_a_log_density_over_the_prior(num):
    posterior = heads.Posterior(Smooth(), latent_dim=2, num_components=num)
    x = jax.random.normal(KEY, (4, 5))
    z = jax.random.normal(jax.random.key(1), (2, 4, 2))
    variables = posterior.init(KEY, x, z)
    params = variables["params"]["output"]
    h = np.tanh(x, dtype=np.float64)
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)
    outputs = h @ np.asarray(params["kernel"]) + params["bias"]
    outputs = np.asarray(outputs, np.float64).reshape(4, num, 5)
    log_weights = outputs[..., 4] - np.log(np.exp(outputs[..., 4]).sum(-1))[:, None]
    std = heads.MIN_STD ** (1 / (1 + np.exp(3 - outputs[..., 2:4])))
    parts = normal_log_density(z[:, :, None], outputs[..., :2], std)
    log_q = np.log(np.exp(log_weights + parts).sum(-1))
    expected = log_q - normal_log_density(z, 0, np.ones(2))
    logits = posterior.apply(variables, x, z)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    single = posterior.apply(variables, x, z[1])
    np.testing.assert_allclose(single, logits[1], rtol=1e-6)
