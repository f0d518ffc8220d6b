"""The cheap gradient of the penalised energy against the plain double gradient."""

import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax import losses
from megjax.networks import heads, ladder, mlp, piecewise

pytestmark = pytest.mark.usefixtures("quick_compilation")

WEIGHT = 0.3


def energies(dtype=jnp.float32):
    return {
        "mlp": (heads.Energy(mlp.Trunk((16, 12, 8), dtype=dtype)), (5,)),
        "ladder": (heads.Energy(ladder.Trunk(16, dtype=dtype)), (8, 8, 2)),
    }


def case(name, dtype=jnp.float32):
    energy, shape = energies(dtype)[name]
    x = jax.random.normal(jax.random.key(0), (4, *shape), dtype)
    params = energy.init(jax.random.key(1), x)["params"]
    # Larger than initial weights, so that the penalty matters in the gradient.
    params = jax.tree.map(lambda p: (2 * p).astype(dtype), params)
    return energy, params, x


def flops(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


def test_one_layer_by_hand():
    """E = 3 leaky(2 x - 1) at x = 2 and -1, slope 1/4: gradients 6 and 3/2."""
    energy = heads.Energy(mlp.Trunk((1,), slope=0.25))
    params = {
        "trunk": {"linear_0": {"kernel": jnp.full((1, 1), 2.0), "bias": -jnp.ones(1)}},
        "output": {"kernel": jnp.full((1, 1), 3.0), "bias": jnp.zeros(1)},
    }
    x = jnp.array([[2.0], [-1.0]])
    values, squared, penalised = losses.penalised_energy(energy, params, x, 0.5)
    np.testing.assert_allclose(values, [9.0, -2.25])
    np.testing.assert_allclose(squared, [36.0, 2.25])
    np.testing.assert_allclose(penalised, [27.0, -1.125])


@pytest.mark.parametrize("name", ["mlp", "ladder"])
def test_value_and_gradient_are_those_of_the_double_backward_pass(name):
    with jax.enable_x64(True):
        energy, params, x = case(name, jnp.float64)

        def plain(params):
            energy_fn = partial(energy.apply, {"params": params})
            squared = losses.squared_score(energy_fn, x)
            return jnp.mean(energy_fn(x) + WEIGHT * squared)

        def ours(params):
            return jnp.mean(losses.penalised_energy(energy, params, x, WEIGHT)[2])

        value, gradient = jax.jit(jax.value_and_grad(ours))(params)
        expected_value, expected = jax.jit(jax.value_and_grad(plain))(params)
        np.testing.assert_allclose(value, expected_value, rtol=1e-12)
        close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
        jax.tree.map(close, gradient, expected)
        unpenalised = jax.grad(lambda p: jnp.mean(energy.apply({"params": p}, x)))(
            params
        )
        with pytest.raises(AssertionError):
            jax.tree.map(close, gradient, unpenalised)


@pytest.mark.slow
def test_the_shortcut_finds_what_the_general_form_finds():
    energy, params, x = case("mlp")
    ours = losses.penalised_energy(energy, params, x, WEIGHT)
    other = types.SimpleNamespace(apply=energy.apply)
    expected = losses.penalised_energy(other, params, x, WEIGHT)
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_imposed_pattern_makes_the_network_affine():
    """E(x + t v) is linear in t, and the network itself at t = 0."""
    energy, params, x = case("ladder")
    value, pattern = energy.apply({"params": params}, x, mutable=["pattern"])
    leaves = jax.tree.leaves(pattern)
    assert len(leaves) == 3 and all(leaf.dtype == jnp.bool_ for leaf in leaves)
    frozen = partial(energy.apply, {"params": params, **pattern})
    np.testing.assert_array_equal(frozen(x), value)
    v = jax.random.normal(jax.random.key(2), x.shape)
    line = [frozen(x + t * v) for t in (0.0, 10.0, 20.0)]
    np.testing.assert_allclose(line[2] - line[1], line[1] - line[0], rtol=1e-3)
    free = energy.apply({"params": params}, x + 10 * v)
    assert np.max(np.abs(free - line[1])) > 1e-2 * np.max(np.abs(free))


def test_nothing_is_recorded_unasked():
    energy, _ = energies()["mlp"]
    variables = energy.init(jax.random.key(0), jnp.ones((2, 5)))
    assert set(variables) == {"params"}


@pytest.mark.parametrize("name", ["mlp", "ladder"])
def test_gradient_takes_four_passes(name):
    """The signals back through the layers serve both the score and the parameters."""
    energy, shape = {
        "mlp": (heads.Energy(mlp.Trunk((64, 64, 64))), (16,)),
        "ladder": (heads.Energy(ladder.Trunk(32)), (16, 16, 3)),
    }[name]
    x = jnp.zeros((64, *shape))
    params = energy.init(jax.random.key(0), x)["params"]
    passes = flops(lambda p: energy.apply({"params": p}, x), params)

    def loss(params):
        return jnp.mean(losses.penalised_energy(energy, params, x, WEIGHT)[2])

    assert flops(jax.grad(loss), params) < 4.2 * passes


def test_leaky_relu_values_and_slope_at_zero():
    module = piecewise.LeakyReLU(0.1)
    f = lambda x: module.apply({}, x)
    np.testing.assert_allclose(f(jnp.array([-2.0, 0.0, 3.0])), [-0.2, 0.0, 3.0])
    assert jax.grad(f)(0.0) == pytest.approx(0.1)
