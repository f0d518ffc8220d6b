"""Held-out likelihoods in nats of energies that are densities, and of what log Z is."""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax.learners.base import Learner
from megjax.samplers import partition
from megjax.types import Array, Evaluation, Key, PyTree, Report

LOG = logging.getLogger(__name__)


class Method(NamedTuple):
    """How log Z is found: its name, and (key, state) -> LogPartition of exp(-E).

    estimate raises ValueError where it gives no figure that can be trusted.
    """

    name: str
    estimate: Callable[[Key, PyTree], partition.LogPartition]


def by_quadrature(
    learner: Learner, window_fn: Callable[[PyTree], tuple], *, num_cells: int
) -> Method:
    """In the plane; window_fn: state -> its corners, as `partition.quadrature` takes."""

    def estimate(key, state):
        del key
        energy_fn = partial(learner.energy, state)
        return partition.quadrature(energy_fn, *window_fn(state), num_cells=num_cells)

    return Method("quadrature", estimate)


def by_importance(
    learner: Learner, base_fn: Callable[[PyTree], partition.Base], *, num: int = 100_000
) -> Method:
    """From a density that the state has; options: of `partition.importance`."""

    def estimate(key, state):
        energy_fn = partial(learner.energy, state)
        return partition.importance(key, energy_fn, base_fn(state), num=num)

    return Method("importance", estimate)


def by_annealing(
    energy_fn: Callable[[PyTree, Array], Array],
    base_fn: Callable[[PyTree], partition.Base],
    draws_fn: Callable[[Key, PyTree, int], Array],
    *,
    num_chains: int,
    **options: int,
) -> Method:
    """Forward from a density that the state has, and backward from the model's draws.

    energy_fn: (state, x [N, ...]) -> [N]. draws_fn: (key, state, num) -> x, such as the
    learner's `sample`. The interval reaches from the lower end of both to the upper one,
    the estimate is midway; both are logged. options: of `partition.annealed`.
    """

    def estimate(key, state):
        key_draws, key_path = jax.random.split(key)
        found = partition.bracket(
            key_path,
            partial(energy_fn, state),
            base_fn(state),
            draws_fn(key_draws, state, num_chains),
            num_chains=num_chains,
            **options,
        )
        for name, end in zip(found._fields, found):
            LOG.info("log Z %s: %s", name, ", ".join(f"{v:.4f}" for v in end))
        return partition.LogPartition(
            sum(end.log_z for end in found) / 2,
            min(end.low for end in found),
            max(end.high for end in found),
            min(end.effective_sample_size for end in found),
        )

    return Method("annealing", estimate)


def held_out(
    learner: Learner,
    x: np.ndarray,
    method: Method,
    *,
    truth: Callable[[Array], Array] | None = None,
    name: str = "held_out",
) -> Evaluation:
    """An evaluation of the mean log-density of examples x [N, ...] that no training saw.

    truth: x [N, ...] -> their true log-density [N], where it is known. name: of the
    examples, where they are others.

    Metrics: `held_out_log_likelihood` in nats per example with the interval that log Z
    leaves (`_low`, `_high`), the same in bits per dimension (`bits_per_dim`, lower is
    better; of the density of x as it is, so of images in [-1, 1], without the width of
    a grey level), log Z by the method and as the model has it, and their difference,
    `log_z_error`; with the truth also `kl`, its divergence to the model.
    Where the method gives no figure, its metrics are missing and `log_z` is the
    model's.
    """
    at_data = jax.jit(lambda state, x: -learner.energy(state, x))

    def evaluate(key, state):
        mean = np.mean(np.asarray(at_data(state, jnp.asarray(x)), np.float64))
        own, metrics = math.nan, {}
        if learner.log_partition:
            own = float(jax.jit(learner.log_partition)(state))
            metrics["log_z"] = own
        used = own, own, own
        try:
            found = method.estimate(key, state)
        except ValueError as error:
            LOG.warning("no log Z by %s: %s", method.name, error)
        else:
            used = found[:3]
            metrics |= {
                f"log_z_by_{method.name}": found.log_z,
                "log_z_low": found.low,
                "log_z_high": found.high,
            }
            if learner.log_partition:
                metrics["log_z_error"] = own - found.log_z
        log_z, low, high = used
        metrics |= {
            f"{name}_log_likelihood": mean - log_z,
            f"{name}_log_likelihood_low": mean - high,
            f"{name}_log_likelihood_high": mean - low,
            "bits_per_dim": (log_z - mean) / math.log(2) / math.prod(x.shape[1:]),
        }
        if truth is not None:
            log_p = float(np.mean(np.asarray(truth(jnp.asarray(x)), np.float64)))
            metrics |= {"true_entropy": -log_p, "kl": log_p - mean + log_z}
        return Report({name: float(value) for name, value in metrics.items()})

    return evaluate
