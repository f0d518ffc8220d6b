"""Densities against their own samplers, moments and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from megjax.data import toy
from megjax.densities import targets

ALL = [
    targets.ill_conditioned_gaussian(6),
    targets.strongly_correlated_gaussian(),
    targets.moon(),
    targets.banana(std=2.0, bend=0.3, shift=1.0),
    targets.funnel(dim=4, std=1.0),
    targets.funnel(dim=3, std=0.5, power=2.0),
    targets.mixture("25gaussians", toy.grid_25()),
    targets.mixture("8gaussians", toy.ring_8()),
]


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_moments_are_those_of_the_draws(target):
    x = np.asarray(target.sample(jax.random.key(0), 40_000), np.float64)
    assert x.shape == (40_000, target.dim)
    away = (x - target.moments.mean) / np.sqrt(target.moments.variance)
    for moment, exact in ((away, 0), (away**2, 1)):
        error = moment.std(axis=0) / np.sqrt(len(x))
        assert np.all(np.abs(moment.mean(axis=0) - exact) < 5 * error)


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_the_density_is_that_of_the_draws(target):
    """Stein: E [grad log p] = 0 and E [x_i d log p / dx_j] = -[i = j]."""
    x = target.sample(jax.random.key(1), 40_000)
    gradients = jax.jit(jax.vmap(jax.grad(target.log_density)))(x)
    gradient = np.asarray(gradients, np.float64)
    away = np.asarray(x, np.float64) - target.moments.mean
    products = away[:, :, None] * gradient[:, None, :]
    for moment, exact in ((gradient, 0), (products, -np.eye(target.dim))):
        error = moment.std(axis=0) / np.sqrt(len(x))
        assert np.all(np.abs(moment.mean(axis=0) - exact) < 5 * error)


def test_scg_and_moon_by_hand():
    scg = targets.strongly_correlated_gaussian()
    # Along the axes turned by pi / 4 the variances are 0.1 and 100.
    wide, narrow = jnp.array([1.0, -1.0]), jnp.array([1.0, 1.0])
    np.testing.assert_allclose(scg.log_density(wide), -0.5 * 2 / 100, rtol=1e-4)
    np.testing.assert_allclose(scg.log_density(narrow), -0.5 * 2 / 0.1, rtol=1e-4)
    # U = x0^2 / 2 + (x1 - x0^2 + 4)^2 / 2 at (1, -1): (1 + 4) / 2.
    moon = targets.moon().log_density(jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(moon, -2.5, rtol=1e-6)
    icg = targets.ill_conditioned_gaussian()
    assert icg.dim == 50
    np.testing.assert_allclose(icg.moments.variance[[0, -1]], [0.01, 100])


@pytest.mark.parametrize("power, std, variance", [(1, 1, 1.649), (2, 1, 7.389)])
def test_the_funnel_against_quadrature(power, std, variance):
    """Variances of the coordinates, and x0 ~ N(0, std^2) from the joint density."""
    funnel = targets.funnel(dim=2, std=std, power=power)
    np.testing.assert_allclose(funnel.moments.variance[1], variance, rtol=1e-3)
    with jax.enable_x64(True):
        log_density = jax.jit(funnel.log_density)

        def joint(y, x0):
            return np.exp(float(log_density(jnp.array([x0, y]))))

        marginals = [integrate.quad(joint, -60, 60, (x0,))[0] for x0 in (-1, 0, 1.5)]
    expected = stats.norm.pdf([-1, 0, 1.5], scale=std)
    np.testing.assert_allclose(
        np.array(marginals) / marginals[1], expected / expected[1], rtol=1e-5
    )


def test_the_funnel_is_finite_far_outside_and_its_first_coordinate_normal():
    funnel = targets.funnel(dim=20, std=3.0)
    for x0 in (-200.0, 200.0):
        x = jnp.ones(20).at[0].set(x0)
        value, gradient = jax.value_and_grad(funnel.log_density)(x)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))
    first = np.asarray(funnel.sample(jax.random.key(2), 4000))[:, 0]
    assert stats.kstest(first / 3, "norm").pvalue > 1e-3


def test_precision_follows_the_position():
    with jax.enable_x64(True):
        for target in ALL:
            for dtype in (jnp.float32, jnp.float64):
                x = jax.ShapeDtypeStruct((target.dim,), dtype)
                assert jax.eval_shape(target.log_density, x).dtype == dtype
                assert jax.eval_shape(jax.grad(target.log_density), x).dtype == dtype


def test_starts_are_exact_draws_or_standard_normals():
    moon, key = targets.moon(), jax.random.key(0)
    np.testing.assert_array_equal(targets.starts(moon, key, 5), moon.sample(key, 5))
    unknown = moon._replace(sample=None)
    x = targets.starts(unknown, key, 3000)
    assert stats.kstest(np.ravel(x), "norm").pvalue > 1e-3


def test_a_funnel_has_two_coordinates():
    with pytest.raises(ValueError, match="dim=1: a funnel has at least 2"):
        targets.funnel(dim=1, std=1.0)
