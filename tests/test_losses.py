"""Objectives against hand-worked numbers, exact optima and finite differences."""

import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax import losses
from megjax.networks import heads, ladder, mlp

pytestmark = pytest.mark.usefixtures("float64", "quick_compilation")

BOUNDS = [losses.jensen_shannon, losses.donsker_varadhan, losses.info_nce]

DEVIATIONS = [losses.norm_deviation, losses.pixel_norm_deviation]

# A dependent pair of bits; both marginals are uniform.
JOINT = np.array([[0.4, 0.1], [0.1, 0.4]])
PRODUCT = np.full((2, 2), 0.25)


def exact_bound(logits):
    """The Jensen-Shannon bound with sums over the table instead of samples."""
    return -np.sum(JOINT * np.logaddexp(0, -logits)) - np.sum(
        PRODUCT * np.logaddexp(0, logits)
    )


def test_jensen_shannon_by_hand():
    # T = 0 everywhere: -log 2 - log 2.
    value = losses.jensen_shannon(jnp.zeros(3), jnp.zeros((1, 3)))
    np.testing.assert_allclose(value, -2 * np.log(2), rtol=1e-12)
    # T = log 3 on joint pairs (sigmoid 3/4), -log 3 on marginal ones.
    value = losses.jensen_shannon(
        jnp.full(2, jnp.log(3)), -jnp.log(jnp.full((1, 2), 3))
    )
    np.testing.assert_allclose(value, 2 * np.log(0.75), rtol=1e-12)


def test_jensen_shannon_optimum_is_the_divergence():
    log_ratio = np.log(JOINT / PRODUCT)
    mixture = (JOINT + PRODUCT) / 2
    divergence = 0.5 * np.sum(JOINT * np.log(JOINT / mixture)) + 0.5 * np.sum(
        PRODUCT * np.log(PRODUCT / mixture)
    )
    optimum = exact_bound(log_ratio)
    np.testing.assert_allclose(optimum, 2 * divergence - 2 * np.log(2), rtol=1e-12)
    # The batch form with samples in exact proportion gives the same number,
    joint = np.repeat(log_ratio.ravel(), [4, 1, 1, 4])
    marginal = np.repeat(log_ratio.ravel(), [5, 5, 5, 5]).reshape(2, 10)
    value = losses.jensen_shannon(jnp.asarray(joint), jnp.asarray(marginal))
    np.testing.assert_allclose(value, optimum, rtol=1e-12)
    # and no logits do better.
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert exact_bound(log_ratio + rng.normal(size=(2, 2))) < optimum


def test_printed_algorithm_diverges():
    # Algorithm 1 as printed: minimised it pushes T to -infinity, and the bound with it.
    printed = lambda t: (
        np.sum(JOINT * -np.logaddexp(0, -t)) + np.sum(PRODUCT * np.logaddexp(0, t))
    )
    values = [printed(np.full((2, 2), t)) for t in (0.0, -10.0, -100.0)]
    bounds = [exact_bound(np.full((2, 2), t)) for t in (0.0, -10.0, -100.0)]
    assert values[0] > values[1] > values[2]
    assert bounds[0] > bounds[1] > bounds[2]


def test_information_bounds_stay_below_the_mutual_information():
    log_ratio = np.log(JOINT / PRODUCT)
    information = np.sum(JOINT * log_ratio)
    key_x, key_z = jax.random.split(jax.random.key(0))
    cells = jax.random.choice(key_x, 4, (4000,), p=JOINT.ravel())
    x = cells // 2
    negatives = jax.random.bernoulli(key_z, 0.5, (64, 4000)).astype(int)
    joint = jnp.asarray(log_ratio)[x, cells % 2]
    marginal = jnp.asarray(log_ratio)[x[None], negatives]
    for bound in (losses.donsker_varadhan, losses.info_nce):
        np.testing.assert_allclose(bound(joint, marginal), information, atol=0.03)


@pytest.mark.parametrize("bound", BOUNDS)
def test_independent_logits_carry_no_information(bound):
    # T that ignores z has the same law on joint and marginal pairs.
    logits = jax.random.normal(jax.random.key(1), (100,))
    assert bound(logits, logits[None]) <= 1e-12


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_are_stable_for_large_logits(bound):
    gradient = jax.grad(bound)(jnp.full(4, 1e4), jnp.full((2, 4), -1e4))
    assert np.all(np.isfinite(gradient))
    assert np.isfinite(bound(jnp.full(4, -1e4), jnp.full((2, 4), 1e4)))


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_refuse_a_trailing_axis(bound):
    with pytest.raises(ValueError, match="joint is float.*give numbers with 1 axis"):
        bound(jnp.zeros((3, 1)), jnp.zeros((1, 3)))


def test_energy_contrast_by_hand():
    value = losses.energy_contrast(jnp.array([1.0, 3.0]), jnp.array([5.0]))
    assert value == -3.0


@pytest.mark.parametrize("shape", [(6,), (2, 3, 1), (3, 2, 1)])
def test_squared_score_of_a_quadratic_energy(shape):
    # E = sum_i c_i x_i^2 / 2 has score c x, whatever the layout.
    curvature = jnp.arange(1.0, 7.0).reshape(shape)
    energy_fn = lambda x: jnp.sum(curvature * x**2, axis=range(1, x.ndim)) / 2
    x = jax.random.normal(jax.random.key(0), (5, *shape))
    expected = np.sum(np.square(curvature * x).reshape(5, -1), axis=1)
    np.testing.assert_allclose(losses.squared_score(energy_fn, x), expected, rtol=1e-12)


def test_penalised_energy_equals_the_double_gradient():
    key_w, key_v, key_x = jax.random.split(jax.random.key(0), 3)
    params = jax.random.normal(key_w, (4, 8)), jax.random.normal(key_v, (8,))
    x = jax.random.normal(key_x, (6, 4))
    energy = lambda params, x: jnp.tanh(x @ params[0]) @ params[1]
    network = types.SimpleNamespace(apply=lambda v, x: energy(v["params"], x))

    def plain(params):
        energy_fn = lambda x: energy(params, x)
        return jnp.mean(energy_fn(x) + 0.3 * losses.squared_score(energy_fn, x))

    def cheap(params):
        energies, squared, total = losses.penalised_energy(network, params, x, 0.3)
        return jnp.mean(total), (energies, squared)

    (value, (energies, squared)), gradient = jax.value_and_grad(cheap, has_aux=True)(
        params
    )
    expected, expected_gradient = jax.value_and_grad(plain)(params)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(jnp.mean(energies + 0.3 * squared), expected, rtol=1e-12)
    for a, b in zip(gradient, expected_gradient):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_gradient_penalty_of_a_linear_energy_by_hand():
    # E = 3 x + 4 y has |grad E| = 5 everywhere: 2 (5 - 1)^2 = 32, which grows along
    # w by 2 * 2 (5 - 1) w / 5.
    x = jax.random.normal(jax.random.key(0), (3, 2))

    def loss(w):
        found = losses.gradient_penalty(lambda x: x @ w, x, losses.norm_deviation, 2.0)
        return jnp.mean(found[2]), found

    w = jnp.array([3.0, 4.0])
    gradient, (_, gradients, penalty) = jax.grad(loss, has_aux=True)(w)
    np.testing.assert_allclose(gradients, np.tile(w, (3, 1)), rtol=1e-12)
    np.testing.assert_allclose(penalty, [32.0] * 3, rtol=1e-12)
    np.testing.assert_allclose(gradient, 16 * w / 5, rtol=1e-12)


def test_deviations_of_an_image_by_hand():
    # Pixels with gradients of norm 5, 1, 0, 3: the image's is sqrt(35).
    gradient = jnp.array([[[3.0, 4, 0], [0, 0, 1]], [[0, 0, 0], [2, 1, 2]]])[None]
    value = losses.pixel_norm_deviation(gradient)
    np.testing.assert_allclose(value, [(16 + 0 + 1 + 4) / 4], rtol=1e-12)
    value = losses.norm_deviation(gradient)
    np.testing.assert_allclose(value, [(np.sqrt(35) - 1) ** 2], rtol=1e-12)
    np.testing.assert_allclose(losses.norms(gradient), [np.sqrt(35)], rtol=1e-12)


def test_deviations_of_vectors_are_the_same():
    vectors = jax.random.normal(jax.random.key(0), (5, 3))
    first, second = (deviation(vectors) for deviation in DEVIATIONS)
    np.testing.assert_allclose(first, second, rtol=1e-12)


def smooth_energy():
    key_w, key_v = jax.random.split(jax.random.key(0))
    params = jax.random.normal(key_w, (12, 8)), jax.random.normal(key_v, (8,))
    return params, lambda p, x: jnp.tanh(x.reshape(len(x), -1) @ p[0]) @ p[1], (2, 2, 3)


def network_energy(trunk, shape):
    energy = heads.Energy(trunk)
    params = energy.init(jax.random.key(1), jnp.zeros((1, *shape)))["params"]
    params = jax.tree.map(lambda p: 2 * p.astype(jnp.float64), params)
    return params, lambda p, x: energy.apply({"params": p}, x), shape


@pytest.mark.parametrize(
    "name, deviation",
    [
        ("smooth", losses.norm_deviation),
        ("smooth", losses.pixel_norm_deviation),
        ("mlp", losses.norm_deviation),
        ("ladder", losses.pixel_norm_deviation),
    ],
)
def test_gradient_penalty_equals_the_double_gradient(name, deviation):
    params, energy, shape = {
        "smooth": smooth_energy,
        "mlp": lambda: network_energy(mlp.Trunk((8, 6), dtype=jnp.float64), (5,)),
        "ladder": lambda: network_energy(ladder.Trunk(8, dtype=jnp.float64), (8, 8, 2)),
    }[name]()
    x = jax.random.normal(jax.random.key(2), (4, *shape))

    def plain(params):
        gradient = jax.vmap(jax.grad(lambda x: energy(params, x[None])[0]))(x)
        return 3.0 * jnp.mean(deviation(gradient))

    def cheap(params):
        return jnp.mean(
            losses.gradient_penalty(partial(energy, params), x, deviation, 3.0)[2]
        )

    plain = jax.jit(jax.value_and_grad(plain))
    value, gradient = jax.jit(jax.value_and_grad(cheap))(params)
    expected, expected_gradient = plain(params)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    jax.tree.map(close, gradient, expected_gradient)
    # And finite differences of the value along the gradient.
    ends = [
        plain(jax.tree.map(lambda p, g, h=h: p + h * g, params, gradient))[0]
        for h in (1e-6, -1e-6)
    ]
    squared = sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))
    np.testing.assert_allclose(squared, (ends[0] - ends[1]) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_gradient_penalty_of_a_flat_energy_is_finite(deviation):
    def loss(w):
        *_, penalty = losses.gradient_penalty(
            lambda x: x @ w, jnp.ones((2, 3)), deviation, 1.0
        )
        return jnp.mean(penalty)

    value, gradient = jax.value_and_grad(loss)(jnp.zeros(3))
    assert value == 1.0
    np.testing.assert_array_equal(gradient, np.zeros(3))


def test_gradient_penalty_takes_four_passes():
    energy = heads.Energy(mlp.Trunk((64, 64, 64)))
    x = jnp.zeros((64, 16), jnp.float32)
    params = energy.init(jax.random.key(0), x)["params"]

    def loss(params):
        energy_fn = lambda x: energy.apply({"params": params}, x)
        return jnp.mean(
            losses.gradient_penalty(energy_fn, x, losses.norm_deviation, 3.0)[2]
        )

    forward = lambda params: energy.apply({"params": params}, x)
    passes, found = (
        jax.jit(f).lower(params).compile().cost_analysis()["flops"]
        for f in (forward, jax.grad(loss))
    )
    assert found < 4.2 * passes


def test_variational_bound_of_a_linear_gaussian_generator():
    """x = a u + s e has I(x; u) = log(1 + a^2 / s^2) / 2 and the entropy that goes
    with it; the bound reaches it at the true posterior, lies below it elsewhere, and
    its gradient there in a is that of the entropy, a / (a^2 + s^2)."""
    a, s = 1.5, 0.5
    u, noise = jax.random.normal(jax.random.key(0), (2, 200_000))

    def bound(a, slope, std):
        x = a * u + s * noise
        log_q = -(((u - slope * x) / std) ** 2) / 2 - jnp.log(std)
        return losses.variational(log_q + u**2 / 2, jnp.zeros((0, len(u))))

    slope, std = a / (a**2 + s**2), s / np.sqrt(a**2 + s**2)
    information = np.log(1 + (a / s) ** 2) / 2
    np.testing.assert_allclose(bound(a, slope, std), information, rtol=0.01)
    for factor in (0.7, 1.3):
        assert bound(a, factor * slope, std) < information - 0.05
        assert bound(a, slope, factor * std) < information - 0.03
    gradient = jax.grad(bound)(a, slope, std)
    np.testing.assert_allclose(gradient, a / (a**2 + s**2), rtol=0.03)
