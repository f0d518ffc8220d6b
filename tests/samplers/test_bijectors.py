"""A change of variables against its Jacobian, an integral, and chains in both spaces."""

import collections
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
    fraction = 0.05 + 0.9 * (x + 1) / 2
    expected = np.log(fraction / (1 - fraction))
    np.testing.assert_allclose(LOGIT.inverse(x), expected, atol=1e-12)
    np.testing.assert_allclose(expected[[0, 3]], [-np.log(19), np.log(19)])
    np.testing.assert_allclose(LOGIT.limit, 1 / 0.9)


def test_there_and_back(float64):
    x = jax.random.uniform(jax.random.key(0), (50, 3), minval=-1, maxval=1)
    np.testing.assert_allclose(LOGIT.forward(LOGIT.inverse(x)), x, atol=1e-13)
    u = 3 * jax.random.normal(jax.random.key(1), (50, 3))
    np.testing.assert_allclose(LOGIT.inverse(LOGIT.forward(u)), u, atol=1e-10)
    # Chains may go where no pixel is, and no further.
    assert np.max(np.abs(LOGIT.forward(30 * u))) <= LOGIT.limit


@pytest.mark.parametrize(
    "chosen",
    [
        LOGIT,
        bijectors.IDENTITY,
        bijectors.positive(),
        bijectors.positive("softplus"),
        bijectors.interval(-1.0, 4.0),
        bijectors.interval(-1.0, np.inf),
        bijectors.interval(-np.inf, 4.0),
    ],
)
def test_log_determinant_by_finite_differences(float64, chosen):
    u = 2 * jax.random.normal(jax.random.key(0), (2, 2, 1))
    found, step = chosen.forward_log_det(u), 1e-5
    slopes = (chosen.forward(u + step) - chosen.forward(u - step)) / (2 * step)
    np.testing.assert_allclose(
        found, np.sum(np.log(np.abs(slopes))), rtol=1e-8, atol=1e-9
    )
    jacobian = jax.jacfwd(lambda v: chosen.forward(v.reshape(u.shape)).ravel())
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


def test_the_chain_is_that_of_unbounded_values():
    def log_density_fn(x):
        return -jnp.sum(x**2), jnp.sum(x)

    kernel_fn = functools.partial(mala.mala, step_size=0.1)
    outer = bijectors.transformed(kernel_fn, log_density_fn, LOGIT, has_aux=True)
    inner = kernel_fn(
        bijectors.density(log_density_fn, LOGIT, has_aux=True), has_aux=True
    )
    x, key = jnp.array([0.3, -0.9]), jax.random.key(0)
    end, _ = kernel.chain(key, outer, outer.init(x), 20)
    expected, _ = kernel.chain(key, inner, inner.init(LOGIT.inverse(x)), 20)
    x_there = LOGIT.forward(expected.position)
    np.testing.assert_allclose(end.position, x_there, rtol=1e-4)
    np.testing.assert_allclose(end.aux, jnp.sum(end.position), rtol=1e-5)
    assert np.any(end.position != x)
    plain = bijectors.transformed(kernel_fn, lambda x: -jnp.sum(x**2), LOGIT)
    alone, _ = kernel.chain(key, plain, plain.init(x), 20)
    np.testing.assert_allclose(alone.position, end.position, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0, 0.5, -1])
def test_no_logit_without_room(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha}: give a number between"):
        bijectors.logit(alpha)


def test_ready_ones_stay_within_bounds(float64):
    u = jnp.array([-20.0, -1.0, 0.0, 2.0, 20.0])
    for shape in ("exp", "softplus"):
        chosen = bijectors.positive(shape)
        x = chosen.forward(u)
        assert np.all(x > 0)
        np.testing.assert_allclose(chosen.inverse(x), u, rtol=1e-6)
    chosen = bijectors.interval(2.0, 5.0)
    np.testing.assert_allclose(chosen.forward(0.0), 3.5)
    np.testing.assert_allclose(chosen.inverse(chosen.forward(u)), u, rtol=1e-6)
    x = chosen.forward(jnp.float32([-200, 200]))
    assert x.dtype == np.float32 and 2 < x[0] and x[1] < 5
    for low, high in ((2.0, np.inf), (0.0, np.inf), (-np.inf, 5.0), (-np.inf, 0.0)):
        chosen = bijectors.interval(low, high)
        np.testing.assert_allclose(chosen.inverse(chosen.forward(u)), u, rtol=1e-6)
        x = chosen.forward(jnp.float32([-200, 20]))
        assert x.dtype == np.float32 and np.all(low < x) and np.all(x < high)


def test_an_end_at_zero_is_not_reached():
    """Where log x is -inf; numbers below the smallest normal one count as 0."""
    u = jnp.float32([-1000, -90, -80, 90])
    for compiled in (jax.jit, lambda forward: forward):
        x = compiled(bijectors.interval(0.0, 1.0).forward)(u)
        assert np.all(jnp.log(x) > -np.inf) and np.all(jnp.log1p(-x) > -np.inf)
        x = compiled(bijectors.interval(-1.0, 0.0).forward)(u)
        assert np.all(jnp.log(-x) > -np.inf) and np.all(jnp.log1p(x) > -np.inf)
    np.testing.assert_allclose(bijectors.interval(0.0, 1.0).forward(0.0), 0.5)


def test_equal_arguments_give_the_same_functions():
    assert bijectors.positive() is bijectors.positive()
    assert bijectors.interval(0.0, 1.0) is bijectors.interval(0.0, 1.0)
    like = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    chosen = {"b": bijectors.positive()}
    assert bijectors.tree(chosen, like) is bijectors.tree(dict(chosen), like)


def test_every_variable_has_its_own(float64):
    like = {"a": jnp.zeros(2), "b": (jnp.zeros(()), jnp.zeros(1)), "c": jnp.zeros(1)}
    unit = bijectors.interval(0.0, 1.0)
    chosen = bijectors.tree({"b": (bijectors.positive(), None), "c": unit}, like)
    u = jax.tree.map(lambda leaf: leaf + 0.5, like)
    x = chosen.forward(u)
    expected = {
        "a": [0.5, 0.5],
        "b": (np.exp(0.5), [0.5]),
        "c": [1 / (1 + np.exp(-0.5))],
    }
    jax.tree.map(np.testing.assert_allclose, x, expected)
    jax.tree.map(np.testing.assert_allclose, chosen.inverse(x), u)
    slope = x["c"][0] * (1 - x["c"][0])
    np.testing.assert_allclose(chosen.forward_log_det(u), 0.5 + np.log(slope))
    everywhere = bijectors.tree(bijectors.positive(), like)
    assert everywhere.forward(u)["a"][0] == np.exp(0.5)


def test_dicts_in_the_order_of_their_keys_or_not():
    """JAX sorts the keys of a dict, and leaves those of an OrderedDict."""
    pairs = [("scale", jnp.float32(-1.0)), ("loc", jnp.float32(2.0))]
    for kind in (dict, collections.OrderedDict):
        u = {"nested": kind(pairs)}
        chosen = {"nested": {"scale": bijectors.positive()}}
        x = bijectors.tree(chosen, u).forward(u)["nested"]
        np.testing.assert_allclose(x["scale"], np.exp(-1), rtol=1e-6)
        assert x["loc"] == 2


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"d": None}, r"bijector names 'd', and init has \['a', 'b'\]"),
        ({"b": (None,)}, r"bijector\['b'\] has 1 parts, init\['b'\] 2"),
        ({"a": jnp.exp}, r"bijector\['a'\] is a .*: give a Bijector"),
    ],
)
def test_bijectors_that_do_not_fit(chosen, words):
    with pytest.raises(ValueError, match=words):
        bijectors.tree(chosen, {"a": 0.0, "b": (0.0, 0.0)})


def test_no_bijector_out_of_bounds():
    with pytest.raises(ValueError, match="want numbers, low < high"):
        bijectors.interval(1.0, 1.0)
    with pytest.raises(ValueError, match="not both infinite"):
        bijectors.interval(-np.inf, np.inf)
    with pytest.raises(ValueError, match="choose 'exp' or 'softplus'"):
        bijectors.positive("log")
