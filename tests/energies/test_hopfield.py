import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.energies import exact, hopfield, rbm, units


def random_patterns(num_patterns, num_units, seed=0):
    rng = np.random.RandomState(seed)
    return jnp.asarray(2.0 * rng.randint(0, 2, (num_patterns, num_units)) - 1)


def random_pairwise(num_units, seed=0):
    rng = np.random.RandomState(seed)
    full = rng.randn(num_units, num_units)
    full = full + full.T
    np.fill_diagonal(full, 0)
    return jnp.asarray(rng.randn(num_units)), jnp.asarray(full)


def test_hebb_by_hand():
    patterns = jnp.array([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]])
    found = hopfield.couplings(patterns)
    np.testing.assert_allclose(found, [[0, 0, -2 / 3], [0, 0, 0], [-2 / 3, 0, 0]])
    np.testing.assert_allclose(hopfield.energy(found, patterns), [-2 / 3, -2 / 3])


def test_one_pattern_is_recalled_from_any_state_that_leans_to_it():
    pattern = random_patterns(1, 40)
    start = pattern.at[0, :15].multiply(-1)
    stored = hopfield.couplings(pattern)
    found, energies = hopfield.recall(jax.random.key(0), stored, start, num_sweeps=2)
    np.testing.assert_array_equal(found, pattern)
    np.testing.assert_allclose(hopfield.overlap(pattern, start), [10 / 40])
    # -(m^2 n - 1) / 2 at overlap m.
    np.testing.assert_allclose(energies[:, 0], [-0.75, -19.5, -19.5])


def test_the_energy_never_rises():
    stored = hopfield.couplings(random_patterns(15, 30))
    start = random_patterns(20, 30, seed=1)
    found, energies = hopfield.recall(jax.random.key(0), stored, start, num_sweeps=15)
    assert np.all(np.diff(energies, axis=0) <= 1e-12)
    assert np.all(energies[1] < energies[0])
    # What does not move any more is a fixed point.
    assert np.all(found * (found @ stored) >= -1e-12)


def test_units_without_a_field_stay():
    start = random_patterns(3, 5)
    found, _ = hopfield.recall(jax.random.key(0), jnp.zeros((5, 5)), start)
    np.testing.assert_array_equal(found, start)


def test_recall_breaks_down_above_the_critical_load():
    loads = (0.1, 0.3)
    below, above = hopfield.capacity(
        jax.random.key(0), 200, loads, num_probes=20, flipped=0.05, num_sweeps=6
    )
    assert loads[0] < hopfield.CRITICAL_LOAD < loads[1]
    assert below > 0.95 and above < 0.7


def test_a_machine_with_one_hidden_unit_per_pattern_is_the_memory():
    patterns, v = random_patterns(3, 6), exact.states(units.SPIN, 6)
    made = rbm.family(6, 3, visible=units.SPIN, hidden=units.GAUSSIAN)
    free = made.energy(hopfield.machine(patterns), v)
    stored = hopfield.couplings(patterns)
    np.testing.assert_allclose(free, hopfield.energy(stored, v) - 3 / 2, atol=1e-12)


def test_factors_need_a_shift_of_the_diagonal():
    _, full = random_pairwise(5)
    weights, shift = hopfield.factors(full)
    assert shift > 0
    np.testing.assert_allclose(
        weights @ weights.T, full + shift * np.eye(5), atol=1e-12
    )
    np.testing.assert_allclose(
        weights.T @ weights, np.diag(np.diag(weights.T @ weights)), atol=1e-12
    )
    positive = full @ full
    weights, shift = hopfield.factors(positive)
    assert shift == 0
    np.testing.assert_allclose(weights @ weights.T, positive, atol=1e-12)


@pytest.mark.parametrize("kind", [units.SPIN, units.BERNOULLI])
def test_any_pairwise_model_is_a_machine(kind):
    bias, full = random_pairwise(5)
    params, constant = hopfield.machine_of(bias, full, kind=kind)
    v = exact.states(kind, 5)
    pairwise = -v @ bias - 0.5 * jnp.sum((v @ full) * v, -1)
    free = rbm.family(5, 5, visible=kind, hidden=units.GAUSSIAN).energy(params, v)
    np.testing.assert_allclose(free + constant, pairwise, atol=1e-12)


@pytest.mark.parametrize(
    ("patterns", "v", "message"),
    [
        ([[0.0, 1.0]], [[1.0, 1.0]], "zeros and ones: give spins"),
        ([1.0, -1.0], [[1.0, 1.0]], r"shape \(2,\): give \[patterns, units\]"),
        ([[1.0, -1.0]], [[1.0, 1.0, 1.0]], r"shape \(1, 3\): give \[states, 2\]"),
        ([[1.0, -1.0]], [1.0, 1.0], r"v has shape \(2,\)"),
    ],
)
def test_patterns_and_states_that_are_none(patterns, v, message):
    with pytest.raises(ValueError, match=message):
        couplings = hopfield.couplings(jnp.array(patterns))
        hopfield.recall(jax.random.key(0), couplings, jnp.array(v))


def test_refusals():
    with pytest.raises(ValueError, match="loads"):
        hopfield.capacity(jax.random.key(0), 10, (0.0,))
    with pytest.raises(ValueError, match="3-state Potts"):
        hopfield.machine_of(*random_pairwise(3), kind=units.potts(3))
