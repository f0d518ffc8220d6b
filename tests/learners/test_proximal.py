"""The optimizers against closed-form minima; zeros are zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from megjax.learners import proximal

CURVATURE = jnp.array([[0.1, 1.0, 30.0]])
CENTRE = jnp.array([[-2.0, 0.5, 0.05]])
L1 = 0.4


def descended(optimizer, params, num_steps=4000):
    def loss(params):
        error = CURVATURE * (params["weights"] - CENTRE) ** 2 / 2
        return jnp.sum(error) + jnp.sum((params["visible_bias"] - 0.01) ** 2)

    def one(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    return jax.jit(lambda c: jax.lax.scan(one, c, length=num_steps)[0][0])(carry)


@pytest.fixture
def params():
    return {"weights": jnp.ones((1, 3)), "visible_bias": jnp.ones(2)}


def test_soft_threshold_by_hand():
    found = proximal.soft_threshold(jnp.array([3.0, -3.0, 0.5, 0.0]), 1.0)
    assert found.tolist() == [2.0, -2.0, 0.0, 0.0]


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_l1_ends_at_the_minimum_with_exact_zeros(params, method):
    rate = {"sgd": 0.05, "adam": optax.exponential_decay(0.05, 100, 0.8)}[method]
    optimizer = getattr(proximal, method)(rate, l1=L1)
    found = descended(optimizer, params)
    # c (w - m)^2 / 2 + l |w| is least at m pulled to 0 by l / c.
    least = proximal.soft_threshold(CENTRE, L1 / CURVATURE)
    np.testing.assert_allclose(found["weights"], least, atol=2e-3)
    assert jnp.all((found["weights"] == 0) == (least == 0))
    assert jnp.any(least == 0) and jnp.any(least != 0)
    # The bias, however small, is not pulled.
    np.testing.assert_allclose(found["visible_bias"], 0.01, atol=1e-3)


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_l2_ends_at_the_minimum(params, method):
    rate = {"sgd": 0.03, "adam": optax.exponential_decay(0.05, 100, 0.8)}[method]
    found = descended(getattr(proximal, method)(rate, l2=L1), params)
    least = CURVATURE * CENTRE / (CURVATURE + 2 * L1)
    np.testing.assert_allclose(found["weights"], least, atol=2e-3)
    np.testing.assert_allclose(found["visible_bias"], 0.01, atol=1e-3)


def test_adam_without_penalty_is_optax_without_momentum(params):
    gradient = {"weights": jnp.array([[1.0, -0.2, 0.0]]), "visible_bias": jnp.ones(2)}
    ours, theirs = proximal.adam(0.1), optax.adam(0.1, b1=0.0)
    states = ours.init(params), theirs.init(params)
    for scale in (1.0, -3.0, 0.5):
        scaled = jax.tree.map(lambda g, scale=scale: scale * g, gradient)
        a, first = ours.update(scaled, states[0], params)
        b, second = theirs.update(scaled, states[1], params)
        states = first, second
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), a, b)


def test_weights_are_matrices_not_called_biases():
    params = {"weights": [jnp.ones((2, 3)), jnp.ones((3, 2))], "bias": jnp.ones((2, 2))}
    assert [w.shape for w in proximal.weights(params)] == [(2, 3), (3, 2)]
    cut = proximal.without_weights(params)
    assert not cut["weights"][0].any() and not cut["weights"][1].any()
    assert cut["bias"].all()
