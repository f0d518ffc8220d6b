import jax.numpy as jnp
import numpy as np
import pytest

from megjax.samplers import metric

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
    np.testing.assert_allclose(metric.scaled(factor, X), scaled)
    np.testing.assert_allclose(metric.transposed(factor, X), transposed)
    np.testing.assert_allclose(metric.squared(factor, X), squared)


def test_images_have_diagonals():
    x = jnp.ones((2, 3, 1))
    np.testing.assert_allclose(metric.scaled(2 * x, x), 2 * np.ones((2, 3, 1)))


@pytest.mark.parametrize("factor", [jnp.ones(3), jnp.ones((3, 3)), jnp.ones(())])
def test_other_shapes_are_refused(factor):
    with pytest.raises(ValueError, match="factor has shape"):
        metric.scaled(factor, X)
