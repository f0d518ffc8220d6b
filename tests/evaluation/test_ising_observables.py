"""Exact and measured observables against enumeration and against each other."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.data import ising as lattice
from megjax.evaluation import ising
from megjax.learners.base import Learner


def test_published_values():
    # Mehta et al.'s temperatures; u = -sqrt(2) at the critical point (Onsager).
    for temperature, energy, magnetisation in (
        (1.75, -1.880, 0.964),
        (2.25, -1.4631, 0.672),
        (2.75, -0.9348, 0.0),
    ):
        assert ising.onsager_energy(1 / temperature) == pytest.approx(energy, abs=6e-4)
        found = ising.yang_magnetisation(1 / temperature)
        assert found == pytest.approx(magnetisation, abs=6e-4)
    critical = ising.CRITICAL_INVERSE_TEMPERATURE
    assert 1 / critical == pytest.approx(2.26919, abs=1e-5)
    near = ising.onsager_energy(critical * (1 + 1e-9))
    assert near == pytest.approx(-math.sqrt(2), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.2, 0.44, 0.6])
def test_kaufman_is_the_enumerated_torus(beta):
    spins = np.array(list(itertools.product([-1, 1], repeat=16))).reshape(-1, 4, 4)
    u = ising.energies(spins)
    log_weights = -beta * 16 * u
    log_z = np.logaddexp.reduce(log_weights)
    probs = np.exp(log_weights - log_z)
    with jax.enable_x64(True):
        found = ising.kaufman_log_partition(jnp.float64(beta), 4)
    assert float(found) == pytest.approx(log_z, rel=1e-12)
    energy, specific_heat = ising.kaufman(beta, 4)
    assert energy == pytest.approx(probs @ u, rel=1e-9)
    variance = probs @ u**2 - (probs @ u) ** 2
    assert specific_heat == pytest.approx(beta**2 * 16 * variance, rel=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [1 / 1.75, 1 / 2.75])
def test_large_tori_have_onsagers_energy(beta):
    energy, _ = ising.kaufman(beta, 60)
    assert energy == pytest.approx(ising.onsager_energy(beta), abs=1e-6)


def test_observables_by_hand():
    up, striped = np.ones((4, 4)), np.tile([1.0, -1.0], (4, 2))
    np.testing.assert_allclose(ising.energies(np.stack([up, striped])), [-2, 0])
    np.testing.assert_allclose(ising.magnetisations(np.stack([up, striped])), [1, 0])
    np.testing.assert_allclose(ising.correlations(up[None]), [1, 1, 1])
    np.testing.assert_allclose(ising.correlations(striped[None]), [1, 0, 1])


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.RandomState(0).normal(size=(50, 1))
    found = ising.jackknife(np.mean, values)
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    # Draws that repeat within a chain tell nothing new.
    again = ising.jackknife(np.mean, np.repeat(values, 7, axis=1))
    assert again.error == pytest.approx(found.error)


@pytest.fixture(scope="module")
def spins():
    drawn = lattice.configurations(
        jax.random.key(0), 1 / 2.75, size=16, num_draws=50, num_burn_in=50, thin=2
    )
    return np.asarray(drawn)


@pytest.mark.slow
def test_cluster_draws_agree_with_the_exact_lattice(spins):
    beta = 1 / 2.75
    energy, specific_heat = ising.kaufman(beta, 16)
    found = ising.observables(spins, beta)
    for name, exact in (("energy", energy), ("specific_heat", specific_heat)):
        assert abs(found[name].value - exact) < 4 * found[name].error
        assert found[name].error < 0.05 * abs(exact)
    signed = found["signed_magnetisation"]
    assert abs(signed.value) < 4 * signed.error
    # The fluctuations seen at another temperature would not fit.
    wrong, _ = ising.kaufman(1 / 2.6, 16)
    assert abs(found["energy"].value - wrong) > 10 * found["energy"].error


@pytest.mark.slow
def test_fantasies_are_told_from_data(spins):
    def learner(fantasies):
        x = jnp.asarray(fantasies.reshape(-1, 16, 16, 1), jnp.float32)
        return Learner(None, None, lambda key, state, num: x[:num], None)

    def report(fantasies):
        evaluation = ising.ising(learner(fantasies), spins, 1 / 2.75, num_samples=400)
        return evaluation(jax.random.key(0), None)

    same, noise = report(spins[:, 3:7]), report(np.where(spins[:, 3:7] > 2, 1, -1))
    metrics = same.metrics
    deviation = metrics["fantasies_energy"] - metrics["data_energy"]
    assert abs(deviation) < 4 * metrics["fantasies_energy_error"]
    assert noise.metrics["fantasies_energy"] == pytest.approx(-2)
    assert set(same.pictures) == {"data", "fantasies", "correlations"}
    assert metrics["exact_energy"] == pytest.approx(ising.kaufman(1 / 2.75, 16)[0])
