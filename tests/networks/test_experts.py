"""Products of experts against hand-worked numbers and against enumerated machines."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from megjax.networks import experts

pytestmark = pytest.mark.usefixtures("float64")


class Identity(linen.Module):
    """Features that are the flattened examples."""

    @linen.compact
    def __call__(self, x):
        return x.reshape(len(x), -1)


def params(weights, bias, **others):
    kernel = jnp.asarray(weights, float)
    return {
        "params": {"experts": {"kernel": kernel, "bias": jnp.asarray(bias)}, **others}
    }


def test_energy_by_hand():
    # x = (1, 2), w = (1, 0), b = log 3 - 1: softplus(log 3) = log 4, and 5 / 4 - 2.
    model = experts.Experts(Identity(), 1, visible_std=2.0, linear=True)
    values = params([[1], [0]], [np.log(3) - 1], visible_bias=jnp.array([0.0, 1.0]))
    energy = model.apply(values, jnp.array([[1.0, 2.0]]))
    np.testing.assert_allclose(energy, [-np.log(4) + 5 / 4 - 2], rtol=1e-12)


def test_it_is_the_free_energy_of_a_machine():
    """Each expert is a hidden unit summed over 0 and 1."""
    rng = np.random.RandomState(0)
    w, b, a = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=3)
    x = rng.normal(size=(5, 3))
    hidden = np.array(list(itertools.product([0, 1], repeat=4)))
    joint = (x @ w + b) @ hidden.T + (x @ a)[:, None]
    model = experts.Experts(Identity(), 4, linear=True)
    energy = model.apply(params(w, b, visible_bias=jnp.asarray(a)), jnp.asarray(x))
    np.testing.assert_allclose(energy, -np.logaddexp.reduce(joint, axis=1), rtol=1e-12)


def test_large_logits_do_not_overflow():
    model = experts.Experts(Identity(), 1)
    x = jnp.array([[1e4], [-1e4]])
    energy = model.apply(params([[1]], [0.0]), x)
    np.testing.assert_allclose(energy, [-1e4, 0], atol=1e-12)


def test_a_quadratic_term_bounds_the_energy_from_below():
    model = experts.Experts(experts.Features((16, 16)), 8, visible_std=1.0)
    bare = model.clone(visible_std=None)
    x = 1e3 * jax.random.normal(jax.random.key(0), (200, 2))
    values = model.init(jax.random.key(1), x)
    assert jnp.min(model.apply(values, x)) > 0
    assert jnp.min(bare.apply(values, x)) < -100


@pytest.mark.slow
def test_shapes_and_names():
    x = jnp.zeros((4, 3, 3, 1))
    model = experts.Experts(experts.Features((8, 6)), 5, visible_std=1.0, linear=True)
    values = model.init(jax.random.key(0), x)
    assert set(values["params"]) == {"features", "experts", "visible_bias"}
    assert set(values["params"]["features"]) == {"linear_0", "linear_1"}
    assert model.apply(values, x).shape == (4,)
    generator = experts.Generator((6, 8), (3, 3, 1), bounded=True)
    z = 100 * jax.random.normal(jax.random.key(2), (4, 5))
    values = generator.init(jax.random.key(3), z, train=False)
    assert set(values["params"]) == {
        *("linear_0", "norm_0", "linear_1", "norm_1", "output")
    }
    made, moved = generator.apply(values, z, train=True, mutable=["batch_stats"])
    assert made.shape == x.shape and jnp.max(jnp.abs(made)) <= 1
    assert jax.tree.structure(moved["batch_stats"]) == jax.tree.structure(
        values["batch_stats"]
    )


def test_scales_and_weights_that_cancel_leave_the_generator_as_it_is():
    """Why the entropy of scales is none: the same samples at any value of it."""
    generator = experts.Generator((6,), (2,), dtype=jnp.float64)
    z = jax.random.uniform(jax.random.key(0), (16, 3))
    values = generator.init(jax.random.key(1), z, train=False)
    values = jax.tree.map(lambda v: v.astype(jnp.float64), values)
    changed = jax.tree.map(jnp.copy, values)
    changed["params"]["norm_0"]["scale"] *= 5
    changed["params"]["output"]["kernel"] /= 5
    made = [
        generator.apply(v, z, train=True, mutable=["batch_stats"])[0]
        for v in (values, changed)
    ]
    np.testing.assert_allclose(*made, rtol=1e-9)
