"""The report on planar models, against models whose density is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.data import toy
from megjax.evaluation import planar
from megjax.learners.base import Learner

MIXTURE = toy.Mixture(np.float32([[-1, 0], [1, 0]]), 0.2)


def draws(seed, num=4000):
    keys = jax.random.split(jax.random.key(seed))
    component = jax.random.randint(keys[0], (num,), 0, 2)
    noise = MIXTURE.std * jax.random.normal(keys[1], (num, 2))
    return np.asarray(MIXTURE.centres[component] + noise)


def report(scale, num_modes=2, mixture=MIXTURE):
    """Of the energy -log p / scale and samples of the first modes."""
    learner = Learner(
        init=None,
        step=None,
        sample=lambda key, state, num: jnp.asarray(MIXTURE.centres)[
            jnp.arange(num) % num_modes
        ],
        energy=lambda state, x: -toy.mixture_log_density(MIXTURE, x) / scale,
    )
    truth = planar.Truth(draws(0), draws(1), mixture)
    return planar.planar(learner, truth, num_samples=100)(jax.random.key(0), None)


@pytest.mark.slow
def test_the_truth_has_no_divergence_at_beta_1():
    metrics = report(scale=1.0).metrics
    assert metrics["kl_at_beta_1"] == pytest.approx(0, abs=1e-3)
    entropy = 1 + np.log(2 * np.pi * MIXTURE.std**2) + np.log(2)
    found = metrics["held_out_log_likelihood_of_truth"]
    assert found == pytest.approx(-entropy, abs=0.05)
    assert metrics["best_beta"] == pytest.approx(1, rel=0.3)


@pytest.mark.slow
def test_a_flat_energy_needs_a_large_beta():
    metrics = report(scale=10.0).metrics
    assert metrics["best_beta"] == pytest.approx(10, rel=0.3)
    assert metrics["kl_at_best_beta"] == pytest.approx(0, abs=0.01)
    assert metrics["kl_at_beta_1"] > 1
    assert metrics["mass_at_beta_1"] < metrics["mass_at_beta_10"]


@pytest.mark.slow
def test_coverage_counts_the_modes_of_the_samples():
    assert report(scale=1.0, num_modes=1).metrics["modes"] == 1
    assert report(scale=1.0, num_modes=2).metrics["modes"] == 2


def test_without_a_known_density_only_likelihoods_are_left():
    found = report(scale=1.0, mixture=None)
    assert "held_out_log_likelihood_at_best_beta" in found.metrics
    assert not any("kl" in name or "truth" in name for name in found.metrics)
    assert {"data", "samples", "mass_curve"} <= set(found.pictures)
