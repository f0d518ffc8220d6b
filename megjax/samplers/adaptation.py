"""The step size that reaches a target acceptance, by dual averaging over all chains.

Hoffman and Gelman 2014 (NUTS), section 3.2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from megjax import random
from megjax.samplers.kernel import Kernel
from megjax.types import Array, Key, PyTree

SHRINKAGE, OFFSET, DECAY = 0.05, 10.0, 0.75
"""gamma, t_0 and kappa of the paper."""


class Tuner(NamedTuple):
    """Where the search for a step size stands; scalars.

    log_step_size: to use in the next step; it keeps moving.
    log_average: of the step sizes so far, recent ones weighing most: the one to keep.
    shortfall: sum of target minus acceptance.
    center: what log_step_size is pulled towards.
    num_updates: so far.
    """

    log_step_size: Array
    log_average: Array
    shortfall: Array
    center: Array
    num_updates: Array


def tuner(step_size: float) -> Tuner:
    """A search that starts at `step_size` and is pulled towards ten times as much.

    The paper's bias upwards: steps too long cost less to test than steps too short.
    """
    log_step_size, zero = jnp.log(jnp.float32(step_size)), jnp.float32(0)
    center = log_step_size + jnp.log(10.0)
    return Tuner(log_step_size, log_step_size, zero, center, jnp.int32(0))


def updated(tuner: Tuner, acceptance: Array, *, target_acceptance: float) -> Tuner:
    """The search after a step that accepted with mean probability `acceptance` []."""
    count = tuner.num_updates + 1
    shortfall = tuner.shortfall + target_acceptance - acceptance
    pull = jnp.sqrt(count) / SHRINKAGE / (count + OFFSET)
    log_step_size = tuner.center - pull * shortfall
    weight = count**-DECAY
    average = weight * log_step_size + (1 - weight) * tuner.log_average
    return Tuner(log_step_size, average, shortfall, tuner.center, count)


def step_size(tuner: Tuner) -> Array:
    """The step size that the search recommends to freeze: []."""
    return jnp.exp(tuner.log_average)


def warm_up(
    keys: Key,
    kernel_fn: Callable[[Array], Kernel],
    states: PyTree,
    tuner: Tuner,
    num_steps: int,
    *,
    target_acceptance: float | Array,
    unroll: bool = False,
) -> tuple[PyTree, Tuner]:
    """Runs chains for `num_steps`, all with the one step size that is being tuned.

    keys: one per chain [chains]; states: [chains, ...]; kernel_fn: step size -> Kernel.
    The chains do not sample the target while their kernel changes: discard them. Can
    be called again with what it returned.
    """

    def one(carry, _):
        states, tuner = carry
        step = kernel_fn(jnp.exp(tuner.log_step_size)).step
        count = tuner.num_updates
        step_keys = jax.vmap(random.fold_in, (0, None))(keys, count)
        states, infos = jax.vmap(step)(step_keys, states)
        mean = jnp.mean(infos.acceptance_rate)
        return (states, updated(tuner, mean, target_acceptance=target_acceptance)), None

    turns = num_steps + 1 if unroll else 1
    return jax.lax.scan(one, (states, tuner), length=num_steps, unroll=turns)[0]
