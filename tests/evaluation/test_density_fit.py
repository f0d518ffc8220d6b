"""Fit of samples and energy against cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.evaluation import density_fit, planar
from megjax.learners.base import Learner

STD = 0.5


def normal(seed, num):
    return STD * jax.random.normal(jax.random.key(seed), (num, 2))


def report(energy, sample):
    learner = Learner(None, None, sample, lambda state, x: energy(x))
    truth = planar.Truth(np.asarray(normal(0, 4000)), np.asarray(normal(1, 400_000)))
    evaluation = density_fit.alignment(
        learner, truth, num_samples=5000, extent=3.0, cells=60
    )
    return evaluation(jax.random.key(2), None)


def quadratic(x):
    return jnp.sum(x**2, -1) / (2 * STD**2)


def test_the_truth_is_aligned_with_itself():
    found = report(quadratic, lambda key, state, num: normal(3, num)).metrics
    assert found["kl_at_beta_1"] == pytest.approx(0, abs=0.01)
    assert found["best_beta"] == pytest.approx(1, rel=0.3)
    # log(window) less the entropy of the Gaussian.
    entropy = 1 + np.log(2 * np.pi * STD**2)
    uniform = found["kl_of_uniform"]
    assert uniform == pytest.approx(np.log(36) - entropy, abs=0.01)
    assert found["jsd_of_samples"] == pytest.approx(found["jsd_of_truth"], rel=0.2)
    for name in ("spread", "spacing"):
        assert found[name] == pytest.approx(1, rel=0.1)
    assert found["coverage"] > 0.85 and found["precision"] > 0.85


def test_a_collapsed_generator_is_seen():
    def collapsed(key, state, num):
        return 0.01 * jax.random.normal(key, (num, 2))

    done = report(lambda x: 10 * quadratic(x), collapsed)
    found = done.metrics
    assert found["coverage"] < 0.1 and found["precision"] > 0.9
    assert found["spread"] < 0.05 and found["spacing"] < 0.1
    assert found["jsd_of_samples"] > 0.5
    assert found["best_beta"] == pytest.approx(0.1, rel=0.3)
    assert found["kl_at_beta_1"] > 5
    assert set(done.pictures) == {"figure_2", "density"}
