"""A change of variables against its Jacobian, an integral, and chains in both spaces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.samplers import bijectors, kernel, mala

pytestmark = pytest.mark.usefixtures("quick_compilation")

LOGIT = bijectors.logit(0.05)


def test_logit_by_hand(float64):
    x = jnp.array([-1.0, 0.0, 0.5, 1.0])
    share = 0.05 + 0.9 * (x + 1) / 2
    expected = np.log(share / (1 - share))
    np.testing.assert_allclose(LOGIT.inward(x), expected, atol=1e-12)
    np.testing.assert_allclose(expected[[0, 3]], [-np.log(19), np.log(19)])
    np.testing.assert_allclose(LOGIT.limit, 1 / 0.9)


def test_there_and_back(float64):
    x = jax.random.uniform(jax.random.key(0), (50, 3), minval=-1, maxval=1)
    np.testing.assert_allclose(LOGIT.outward(LOGIT.inward(x)), x, atol=1e-13)
    u = 3 * jax.random.normal(jax.random.key(1), (50, 3))
    np.testing.assert_allclose(LOGIT.inward(LOGIT.outward(u)), u, atol=1e-10)
    # Chains may go where no pixel is, and no further.
    assert np.max(np.abs(LOGIT.outward(30 * u))) <= LOGIT.limit


@pytest.mark.parametrize("chosen", [LOGIT, bijectors.IDENTITY])
def test_log_determinant_by_finite_differences(float64, chosen):
    u = 2 * jax.random.normal(jax.random.key(0), (2, 2, 1))
    found, step = chosen.log_det(u), 1e-5
    slopes = (chosen.outward(u + step) - chosen.outward(u - step)) / (2 * step)
    np.testing.assert_allclose(found, np.sum(np.log(slopes)), rtol=1e-8, atol=1e-9)
    jacobian = jax.jacfwd(lambda v: chosen.outward(v.reshape(u.shape)).ravel())
    _, expected = np.linalg.slogdet(jacobian(u.ravel()))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.shape == ()


def test_a_density_keeps_its_mass(float64):
    def log_density_fn(x):
        return -3 * x[0] ** 2

    x = np.linspace(-LOGIT.limit, LOGIT.limit, 20_001)
    u = np.linspace(-40, 40, 200_001)
    moved = bijectors.density(log_density_fn, LOGIT)
    mass = np.trapezoid(np.exp(jax.vmap(moved)(jnp.array(u)[:, None])), u)
    np.testing.assert_allclose(mass, np.trapezoid(np.exp(-3 * x**2), x), rtol=1e-6)


def test_uniform_positions_are_logistic(float64):
    moved = bijectors.density(lambda x: 0.0, LOGIT)
    u = jnp.array([-2.0, 0.0, 5.0])
    expected = jax.scipy.stats.logistic.logpdf(u) + np.log(2 * LOGIT.limit)
    np.testing.assert_allclose(jax.vmap(moved)(u[:, None]), expected, atol=1e-12)


def test_the_chain_is_that_of_the_coordinates():
    def log_density_fn(x):
        return -jnp.sum(x**2), jnp.sum(x)

    kernel_fn = functools.partial(mala.mala, step_size=0.1)
    outer = bijectors.walked(kernel_fn, log_density_fn, LOGIT, has_aux=True)
    inner = kernel_fn(
        bijectors.density(log_density_fn, LOGIT, has_aux=True), has_aux=True
    )
    x, key = jnp.array([0.3, -0.9]), jax.random.key(0)
    end, _ = kernel.chain(key, outer, outer.init(x), 20)
    expected, _ = kernel.chain(key, inner, inner.init(LOGIT.inward(x)), 20)
    x_there = LOGIT.outward(expected.position)
    np.testing.assert_allclose(end.position, x_there, rtol=1e-4)
    np.testing.assert_allclose(end.aux, jnp.sum(end.position), rtol=1e-5)
    assert np.any(end.position != x)
    plain = bijectors.walked(kernel_fn, lambda x: -jnp.sum(x**2), LOGIT)
    alone, _ = kernel.chain(key, plain, plain.init(x), 20)
    np.testing.assert_allclose(alone.position, end.position, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0, 0.5, -1])
def test_no_logit_without_room(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha}: give a number between"):
        bijectors.logit(alpha)
