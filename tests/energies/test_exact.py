import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted

from megjax.energies import exact, units


def test_states_count_upwards():
    np.testing.assert_array_equal(
        exact.states(units.BERNOULLI, 2), [[0, 0], [0, 1], [1, 0], [1, 1]]
    )
    one_hot = exact.states(units.potts(3), 2)
    assert one_hot.shape == (9, 6)
    np.testing.assert_array_equal(one_hot.reshape(9, 2, 3).sum(-1), 1)
    assert len(np.unique(one_hot, axis=0)) == 9


def test_joint_states_are_all_pairs():
    v, h = exact.joint_states([(units.SPIN, 2), (units.potts(3), 1)])
    assert v.shape == (12, 2) and h.shape == (12, 3)
    assert len(np.unique(np.hstack([v, h]), axis=0)) == 12


def test_free_spins_in_a_field():
    # Z = (2 cosh a)^n, and each spin has the mean tanh a.
    found = exact.distribution(lambda x: -0.3 * jnp.sum(x, -1), units.SPIN, 5)
    np.testing.assert_allclose(
        found.log_partition, 5 * np.log(2 * np.cosh(0.3)), rtol=1e-6
    )
    np.testing.assert_allclose(
        exact.expectation(found, found.states), np.full(5, np.tanh(0.3)), rtol=1e-5
    )
    p = (1 + np.tanh(0.3)) / 2
    by_hand = -5 * (p * np.log(p) + (1 - p) * np.log(1 - p))
    np.testing.assert_allclose(exact.entropy(found), by_hand, rtol=1e-5)


def test_entropy_of_one_certain_state_is_zero():
    found = exact.distribution(lambda x: 1e4 * jnp.sum(x, -1), units.BERNOULLI, 3)
    np.testing.assert_allclose(exact.entropy(found), 0, atol=1e-6)


def test_energies_in_batches_equal_those_at_once():
    x = exact.states(units.BERNOULLI, 7)

    def energy(x):
        return jnp.sum(x**2, -1) - x[:, 0] * x[:, 1]

    np.testing.assert_array_equal(exact.energies(energy, x, batch_size=10), energy(x))


def test_samples_follow_the_probabilities():
    found = exact.distribution(lambda x: jnp.sum(x, -1) * x[:, 0], units.BERNOULLI, 3)
    drawn = exact.sample(jax.random.key(0), found, 20_000)
    scripted.check_frequencies(drawn, found.states, np.exp(found.log_probs))


def test_limits_are_named():
    assert len(exact.states(units.BERNOULLI, 20)) == exact.MAX_STATES
    with pytest.raises(ValueError, match="21 Bernoulli units.*2\\^20"):
        exact.states(units.BERNOULLI, 21)
    with pytest.raises(ValueError, match="13 3-state Potts"):
        exact.states(units.potts(3), 13)
    with pytest.raises(ValueError, match="Gaussian units have infinitely many"):
        exact.states(units.GAUSSIAN, 1)
