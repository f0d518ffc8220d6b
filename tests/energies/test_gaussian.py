import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from megjax.energies import gaussian


def random_params(num_dims, seed=0):
    rng = np.random.RandomState(seed)
    factor = np.tril(rng.randn(num_dims, num_dims)) + 1.5 * np.eye(num_dims)
    return {"bias": jnp.asarray(rng.randn(num_dims)), "factor": jnp.asarray(factor)}


def test_one_dimension_by_hand():
    # E = 2 x^2 - 4 x: mean 1, variance 1/4, Z = sqrt(2 pi / 4) e^2.
    params = {"bias": jnp.array([4.0]), "factor": jnp.array([[2.0]])}
    np.testing.assert_allclose(gaussian.energy(params, jnp.array([[3.0]])), [6.0])
    mean, covariance = gaussian.moments(params)
    np.testing.assert_allclose(mean, [1.0])
    np.testing.assert_allclose(covariance, [[0.25]])
    by_hand = 0.5 * np.log(2 * np.pi / 4) + 2
    np.testing.assert_allclose(gaussian.log_partition(params), by_hand)


@pytest.mark.parametrize("num_dims", [2, 3])
def test_densities_equal_the_normal_distribution(num_dims):
    params = random_params(num_dims)
    x = jnp.asarray(np.random.RandomState(1).randn(6, num_dims))
    mean, covariance = gaussian.moments(params)
    normal = stats.multivariate_normal(mean, covariance)
    log_density = -gaussian.energy(params, x) - gaussian.log_partition(params)
    np.testing.assert_allclose(log_density, normal.logpdf(x), rtol=1e-9)
    np.testing.assert_allclose(gaussian.entropy(params), normal.entropy(), rtol=1e-9)
    # The closed form with the sign of its determinant corrected.
    full, bias = np.asarray(gaussian.couplings(params)), params["bias"]
    inverse = np.linalg.inv(full)
    log_det = np.log(np.linalg.det(-inverse))
    by_formula = 0.5 * (num_dims * np.log(2 * np.pi) + log_det - bias @ inverse @ bias)
    np.testing.assert_allclose(gaussian.log_partition(params), by_formula, rtol=1e-9)
    # As printed, the radicand is negative for odd n.
    assert np.sign(np.linalg.det(inverse)) == (-1) ** num_dims


def test_three_dimensions_by_quadrature():
    params = {
        "bias": jnp.array([0.3, -0.2, 0.5]),
        "factor": jnp.array([[1.5, 0, 0], [0.4, 1.2, 0], [-0.3, 0.5, 1.8]]),
    }
    bias, full = np.asarray(params["bias"]), np.asarray(gaussian.couplings(params))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    points = np.stack(np.meshgrid(nodes, nodes, nodes), -1).reshape(-1, 3)
    measure = np.stack(np.meshgrid(weights, weights, weights), -1).prod(-1).reshape(-1)
    log_weight = points @ bias + 0.5 * np.sum((points @ full) * points, -1)
    total = np.sum(measure * np.exp(log_weight + 0.5 * np.sum(points**2, -1)))
    np.testing.assert_allclose(gaussian.log_partition(params), np.log(total), rtol=1e-8)


def test_maximum_likelihood_matches_moments_and_has_no_gradient():
    x = jnp.asarray(
        np.random.RandomState(0).randn(50, 3) @ np.diag([1.0, 2.0, 0.3]) + 1
    )
    params = gaussian.maximum_likelihood(x)
    mean, covariance = gaussian.moments(params)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-10)
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True), rtol=1e-9)

    def cost(params):
        return jnp.mean(gaussian.energy(params, x)) + gaussian.log_partition(params)

    cost = jax.jit(cost)
    gradient = jax.jit(jax.grad(cost))(params)
    np.testing.assert_allclose(gradient["bias"], np.zeros(3), atol=1e-10)
    np.testing.assert_allclose(gradient["factor"], np.zeros((3, 3)), atol=1e-9)
    moved = {**params, "factor": params["factor"].at[2, 0].add(0.1)}
    assert cost(moved) > cost(params)


def test_sweeps_are_exact_draws_at_one_temperature_per_chain():
    params, num = random_params(3), 60_000
    betas = np.repeat([1.0, 4.0], num)
    made = gaussian.family(3)
    (x,) = jax.jit(made.sweep)(
        jax.random.key(0), params, (np.zeros((2 * num, 3)),), betas
    )
    mean, covariance = gaussian.moments(params)
    x = np.asarray(x)
    for half, beta in ((x[:num], 1.0), (x[num:], 4.0)):
        error = np.sqrt(np.diag(covariance) / beta / num)
        assert np.all(np.abs(half.mean(0) - mean) < 5 * error)
        size = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        assert np.all(np.abs(np.cov(half.T) * beta - covariance) < 0.03 * size)


def test_starts_as_the_standard_normal_distribution():
    params = gaussian.family(4).init(jax.random.key(0))
    mean, covariance = gaussian.moments(params)
    np.testing.assert_array_equal(mean, np.zeros(4))
    np.testing.assert_array_equal(covariance, np.eye(4))


def test_couplings_must_be_negative_definite():
    full = jnp.array([[-2.0, 0.5], [0.5, -1.0]])
    params = gaussian.from_couplings(jnp.zeros(2), full)
    np.testing.assert_allclose(gaussian.couplings(params), full, rtol=1e-12)
    with pytest.raises(ValueError, match="negative definite"):
        gaussian.from_couplings(jnp.zeros(2), -full)
    with pytest.raises(ValueError, match="singular"):
        gaussian.maximum_likelihood(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="singular"):
        gaussian.maximum_likelihood(jnp.ones((30, 3)))
