"""Micro-batches: which rows they have, what they add up to, where they lie."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax import distributed
from megjax.learners import base

pytestmark = pytest.mark.usefixtures("float64", "quick_compilation")

MOVES = ("all-gather", "all-to-all", "collective-permute")


def test_micro_batch_i_has_every_mth_row_from_i():
    x = jnp.arange(12).reshape(6, 2)
    parts = base.microbatches(x, 3)
    np.testing.assert_array_equal(
        parts, [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]
    )
    along = base.microbatches(x.T, 3, axis=1)
    np.testing.assert_array_equal(along, parts.transpose(0, 2, 1))


def squared(w, x, y):
    """Mean of (w x y)^2 with its mean and a constant beside it; y has rows second."""
    products = w * x * y[0]
    return jnp.mean(products**2), {"mean": jnp.mean(products), "one": jnp.ones(())}


@pytest.mark.parametrize("num", [1, 2, 4])
def test_mean_gradient_by_hand(num):
    """d/dw of the mean of (w x y)^2 is 2 w times the mean of (x y)^2."""
    x, y = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([[1.0, 1.0, 2.0, 2.0]])
    gradient, found = base.mean_gradient(squared, 3.0, (x, y), num, axes=(0, 1))
    np.testing.assert_allclose(gradient, 6 * (1 + 4 + 36 + 64) / 4, rtol=1e-14)
    np.testing.assert_allclose(found["mean"], 3 * (1 + 2 + 6 + 8) / 4, rtol=1e-14)
    assert found["one"] == 1


def test_a_number_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="num_microbatches=3 does not divide the ba"):
        base.microbatches(jnp.zeros((8, 2)), 3)


def test_no_row_leaves_its_device():
    mesh = distributed.data_mesh(jax.devices())
    rows = jax.NamedSharding(mesh, jax.P(distributed.AXIS))
    x = jax.device_put(jax.random.normal(jax.random.key(0), (64, 5)), rows)
    w = jax.device_put(jnp.ones(5), distributed.replicated(mesh))

    def loss(w, x):
        return jnp.mean(jnp.tanh(x @ w)), jnp.mean(x)

    def gradient(w, x):
        return base.mean_gradient(loss, w, (x,), 4)

    with jax.set_mesh(mesh):
        compiled = jax.jit(gradient).lower(w, x).compile()
        found = compiled(w, x)
    text = compiled.as_text()
    assert "all-reduce(" in text and not re.search("|".join(MOVES), text)
    # One row of each of eight devices in every part of eight rows.
    assert "f64[2,5]" in text
    expected = jax.jit(jax.grad(loss, has_aux=True))(*jax.device_get((w, x)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected
    )
