"""Nats of held-out rows under energies whose log Z is known in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.densities import reference
from megjax.evaluation import held_out
from megjax.learners.base import Learner
from megjax.samplers import partition

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = np.random.RandomState(0).normal(size=(500, 2)).astype(np.float32)
LOG_Z = math.log(2 * math.pi)


def learner(log_z=LOG_Z):
    """N(0, I) as an energy without its constant; log Z as the model has it."""
    return Learner(
        init=None,
        step=None,
        sample=lambda key, state, num: jax.random.normal(key, (num, 2)),
        energy=lambda state, x: jnp.sum(x**2, -1) / 2,
        log_partition=lambda state: jnp.float32(log_z),
    )


def base(state):
    return partition.Base(
        lambda key, num: 1.5 * jax.random.normal(key, (num, 2)),
        lambda x: reference.standard_log_prob(x / 1.5) - 2 * math.log(1.5),
    )


def measured(method, **options):
    evaluate = held_out.held_out(learner(LOG_Z + 0.3), X, method, **options)
    return evaluate(jax.random.key(0), None).metrics


@pytest.mark.parametrize("name", ["quadrature", "importance", "annealing"])
def test_nats_of_a_gaussian_by_every_method(name):
    method = {
        "quadrature": lambda: held_out.by_quadrature(
            learner(), lambda state: ([-8, -8], [8, 8]), num_cells=100
        ),
        "importance": lambda: held_out.by_importance(learner(), base, num=5000),
        "annealing": lambda: held_out.by_annealing(
            learner().energy, base, learner().sample, num_chains=64, num_steps=40
        ),
    }[name]()
    found = measured(method, truth=reference.standard_log_prob)
    nats = np.mean(-np.sum(X**2, 1) / 2) - LOG_Z
    np.testing.assert_allclose(found["held_out_log_likelihood"], nats, atol=0.05)
    low, high = (found[f"held_out_log_likelihood_{end}"] for end in ("low", "high"))
    assert low - 0.02 < nats < high + 0.02
    np.testing.assert_allclose(found[f"log_z_by_{name}"], LOG_Z, atol=0.05)
    np.testing.assert_allclose(found["log_z_error"], 0.3, atol=0.05)
    np.testing.assert_allclose(found["kl"], 0, atol=0.05)
    np.testing.assert_allclose(
        found["bits_per_dim"] * -2 * math.log(2), found["held_out_log_likelihood"]
    )


def test_where_a_method_gives_no_figure_the_models_own_counts(caplog):
    method = held_out.by_quadrature(
        learner(), lambda state: ([-99, -99], [90, 99]), num_cells=4
    )
    found = measured(method)
    assert "log_z_by_quadrature" not in found and "give more cells" in caplog.text
    nats = np.mean(-np.sum(X**2, 1) / 2) - LOG_Z - 0.3
    np.testing.assert_allclose(found["held_out_log_likelihood"], nats, rtol=1e-5)
