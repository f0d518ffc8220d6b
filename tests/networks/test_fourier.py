"""Random Fourier features, and an energy whose exponential has a finite integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.networks import fourier

pytestmark = pytest.mark.usefixtures("quick_compilation", "float64")


def made(network, x):
    variables = network.init(jax.random.key(0), x)
    return variables["params"], lambda params, x: network.apply({"params": params}, x)


def test_features_by_hand_and_of_the_stated_scale():
    x = jax.random.normal(jax.random.key(1), (3, 2))
    params, apply = made(fourier.Features(4000, 7.0), x)
    frequencies = np.asarray(params["frequencies"])
    np.testing.assert_allclose(frequencies.std(), 7.0, rtol=0.03)
    angles = np.asarray(x) @ frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    np.testing.assert_allclose(apply(params, x), expected, atol=1e-5)
    # Their products are the Gaussian kernel of width 1 / scale (Rahimi and Recht 2007).
    near = apply(params, jnp.array([[0.0, 0.0], [0.1, 0.0]]))
    kernel = float(near[0] @ near[1]) / 2000
    np.testing.assert_allclose(kernel, np.exp(-((0.1 * 7) ** 2) / 2), atol=0.05)


def test_frequencies_are_never_trained():
    x = jax.random.normal(jax.random.key(1), (3, 2))
    params, apply = made(fourier.Energy((5,), 6), x)
    params["output"]["kernel"] += 1.0
    gradient = jax.grad(lambda params: jnp.sum(apply(params, x)))(params)
    (frequencies,) = jax.tree.leaves(gradient.pop("Features_0"))
    assert np.all(frequencies == 0)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("coordinates", [True, False])
def test_far_away_the_square_wins_whatever_the_weights(coordinates):
    x = jax.random.normal(jax.random.key(1), (50, 2))
    network = fourier.Energy((8, 8), 6, coordinates=coordinates, confinement=2.0)
    params, apply = made(network, x)
    params = jax.tree.map(
        lambda leaf: 3 * jax.random.normal(jax.random.key(2), leaf.shape), params
    )
    direction = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    ratio = apply(params, 1e6 * direction) / 1e12
    np.testing.assert_allclose(ratio, 1 / 8, rtol=1e-2)


def test_it_starts_as_the_stated_gaussian_and_is_smooth():
    x = jax.random.normal(jax.random.key(1), (3, 2))
    params, apply = made(fourier.Energy((8,), 0, confinement=3.0), x)
    np.testing.assert_allclose(apply(params, x), jnp.sum(x**2, 1) / 18, rtol=1e-6)
    params["output"]["kernel"] += 1.0
    hessian = jax.hessian(lambda x: apply(params, x[None])[0])(x[0])
    assert np.all(np.abs(hessian - jnp.eye(2) / 9) > 1e-4)
