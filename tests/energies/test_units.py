import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scipy import integrate, special

from megjax.energies import exact, units

DISCRETE = {
    "bernoulli": units.BERNOULLI,
    "spin": units.SPIN,
    "potts": units.potts(3),
    "spin twice": units.replicated(units.SPIN, 2),
    "potts twice": units.replicated(units.potts(3), 2),
}


def field(kind, num_units=2, seed=0):
    return jnp.asarray(np.random.RandomState(seed).randn(num_units * kind.width))


@pytest.mark.parametrize("kind", DISCRETE.values(), ids=DISCRETE)
def test_cumulant_and_mean_are_sums_over_states(kind):
    t, x = field(kind), np.asarray(exact.states(kind, 2))
    log_weights = x @ np.asarray(t) - np.asarray(kind.reference(x))
    log_sum = special.logsumexp(log_weights)
    np.testing.assert_allclose(kind.cumulant(t), log_sum, rtol=1e-13)
    probs = special.softmax(log_weights)
    np.testing.assert_allclose(kind.mean(t), probs @ x, rtol=1e-12)
    np.testing.assert_allclose(
        jax.jit(jax.grad(kind.cumulant))(t), probs @ x, rtol=1e-12
    )


@pytest.mark.parametrize("kind", DISCRETE.values(), ids=DISCRETE)
def test_samples_follow_the_field(kind):
    inverse_temperature = 0.6
    t, x = np.asarray(field(kind)), np.asarray(exact.states(kind, 2))
    reference = np.asarray(kind.reference(x))
    probs = special.softmax(inverse_temperature * x @ t - reference)
    rows, betas = np.tile(t, (40_000, 1)), np.full(40_000, inverse_temperature)
    drawn = jax.jit(kind.sample)(jax.random.key(1), rows, betas)
    scripted.check_frequencies(drawn, x, probs)


@pytest.mark.parametrize(
    "kind", [DISCRETE["spin twice"], DISCRETE["potts twice"], units.gaussian(2.5)]
)
def test_field_inverts_mean(kind):
    t = field(kind)
    mean = kind.mean(t)
    np.testing.assert_allclose(kind.mean(kind.field(mean)), mean, rtol=1e-12)


def test_numbers_by_hand():
    t = jnp.log(jnp.array([3.0]))
    # exp(t x) is 1 and 3, or 1/3 and 3, or 3 and 1 and 1.
    np.testing.assert_allclose(units.BERNOULLI.mean(t), 3 / 4)
    np.testing.assert_allclose(units.SPIN.mean(t), (3 - 1 / 3) / (3 + 1 / 3))
    potts = units.potts(3)
    np.testing.assert_allclose(
        potts.mean(jnp.append(t, jnp.zeros(2))), [3 / 5, 1 / 5, 1 / 5]
    )
    # Two copies are equal in one way, and differ in two.
    twice = units.replicated(units.BERNOULLI, 2)
    np.testing.assert_allclose(
        twice.reference(jnp.array([[0.0], [0.5], [1.0]])), [0, -np.log(2), 0], atol=1e-9
    )


def test_gaussian_units_are_integrals():
    kind, t = units.gaussian(2.5, copies=3), 0.7

    reference = jax.jit(kind.reference)

    def weight(x):
        return np.exp(t * x - float(reference(np.array([x]))))

    total = integrate.quad(weight, -8, 8)[0]
    mean = integrate.quad(lambda x: x * weight(x), -8, 8)[0] / total
    square = integrate.quad(lambda x: x**2 * weight(x), -8, 8)[0] / total
    np.testing.assert_allclose(kind.cumulant(jnp.array([t])), np.log(total), rtol=1e-8)
    np.testing.assert_allclose(kind.mean(jnp.array([t])), [mean], rtol=1e-8)
    rows = jnp.full((50_000, 1), t)
    cold = kind.sample(jax.random.key(0), rows, 4.0)
    error = np.sqrt((square - mean**2) / 4 / 50_000)
    assert abs(cold.mean() - mean) < 5 * error
    np.testing.assert_allclose(cold.var(), (square - mean**2) / 4, rtol=0.04)


def test_gaussian_copies_are_means_of_copies():
    kind = units.gaussian(2.0)
    halves = np.mean(
        [kind.sample(jax.random.key(i), np.full(100_000, 0.75), 1.0) for i in (0, 1)], 0
    )
    twice = units.replicated(kind, 2)
    both = np.asarray(twice.sample(jax.random.key(3), np.full(100_000, 1.5), 1.0))
    np.testing.assert_allclose(halves.mean(), both.mean(), atol=0.01)
    np.testing.assert_allclose(halves.var(), both.var(), rtol=0.03)


def test_refusals():
    with pytest.raises(ValueError, match="num_states=1"):
        units.potts(1)
    with pytest.raises(ValueError, match="copies=0"):
        units.replicated(units.SPIN, 0)
    with pytest.raises(ValueError, match="copies=2"):
        units.replicated(units.replicated(units.SPIN, 2), 2)
