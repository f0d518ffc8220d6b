import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.samplers import preconditioner

X = jnp.array([1.0, 2.0])
LOWER = jnp.array([[2.0, 0.0], [1.0, 3.0]])


@pytest.mark.parametrize(
    "factor, scaled, transposed, squared",
    [
        (None, [1, 2], [1, 2], [1, 2]),
        (jnp.array([2.0, 3.0]), [2, 6], [2, 6], [4, 18]),
        (LOWER, [2, 7], [4, 6], [8, 22]),
    ],
    ids=["identity", "diagonal", "dense"],
)
def test_products_by_hand(factor, scaled, transposed, squared):
    np.testing.assert_allclose(preconditioner.scaled(factor, X), scaled)
    np.testing.assert_allclose(preconditioner.transposed(factor, X), transposed)
    np.testing.assert_allclose(preconditioner.squared(factor, X), squared)


@pytest.mark.parametrize("factor", [None, jnp.array([2.0, 3.0]), LOWER])
def test_solving_undoes_the_product(factor):
    solved = preconditioner.solved(factor, preconditioner.scaled(factor, X))
    np.testing.assert_allclose(solved, X, rtol=1e-6)
    product = preconditioner.transposed(factor, X)
    solved = preconditioner.solved_transposed(factor, product)
    np.testing.assert_allclose(solved, X, rtol=1e-6)


def test_a_covariance_factor_whitens_draws():
    x = jax.random.normal(jax.random.key(0), (5000, 2)) @ LOWER.T + X
    factor = preconditioner.covariance_factor(x)
    np.testing.assert_array_equal(factor, jnp.tril(factor))
    np.testing.assert_allclose(factor, LOWER, atol=0.15)
    white = jax.vmap(lambda x: preconditioner.solved(factor, x))(x)
    np.testing.assert_allclose(jnp.cov(white, rowvar=False), np.eye(2), atol=1e-4)


def test_fewer_draws_than_dimensions_have_a_factor():
    x = jax.random.normal(jax.random.key(0), (4, 9))
    factor = preconditioner.covariance_factor(x)
    assert np.all(np.diag(factor) > 0)
    variances = np.sum(factor**2, axis=1)
    np.testing.assert_allclose(variances, np.var(x, axis=0, ddof=1), rtol=1e-4)


def test_images_have_diagonals():
    x = jnp.ones((2, 3, 1))
    np.testing.assert_allclose(preconditioner.scaled(2 * x, x), 2 * np.ones((2, 3, 1)))


@pytest.mark.parametrize("factor", [jnp.ones(3), jnp.ones((3, 3)), jnp.ones(())])
def test_other_shapes_are_refused(factor):
    with pytest.raises(ValueError, match="factor has shape"):
        preconditioner.scaled(factor, X)
