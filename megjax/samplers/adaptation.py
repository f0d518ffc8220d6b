"""The step size that reaches a target acceptance, by dual averaging over all chains.

Hoffman and Gelman 2014 (NUTS), section 3.2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from megjax import distributed, random
from megjax.samplers.kernel import Kernel, check_step_size
from megjax.types import Array, Key, PyTree

SHRINKAGE, OFFSET, DECAY = 0.05, 10.0, 0.75
"""gamma, t_0 and kappa of the paper."""

SMALLEST, LARGEST = 1e-20, 1e20
"""Beyond which a search for a step size has run away."""


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
    Raises ValueError at a step size that is not above 0.
    """
    check_step_size(step_size)
    log_step_size, zero = jnp.log(jnp.float32(step_size)), jnp.float32(0)
    center = log_step_size + jnp.log(10.0)
    return Tuner(log_step_size, log_step_size, zero, center, jnp.int32(0))


def updated(tuner: Tuner, acceptance: Array, *, target_acceptance: float) -> Tuner:
    """The search after a step that accepted with mean probability `acceptance` []."""
    num_updates = tuner.num_updates + 1
    # In 32 bits whatever chains and counts have: the search is the carry of loops.
    count, acceptance = num_updates.astype(jnp.float32), jnp.float32(acceptance)
    shortfall = tuner.shortfall + jnp.float32(target_acceptance) - acceptance
    pull = jnp.sqrt(count) / SHRINKAGE / (count + OFFSET)
    log_step_size = tuner.center - pull * shortfall
    weight = count**-DECAY
    average = weight * log_step_size + (1 - weight) * tuner.log_average
    return Tuner(log_step_size, average, shortfall, tuner.center, num_updates)


def step_size(tuner: Tuner) -> Array:
    """The step size that the search recommends to freeze: []."""
    return jnp.exp(tuner.log_average)


def failure(step_size: float, acceptance: float, target: float) -> str | None:
    """What is wrong with a step size that was tuned, and what to try; None if nothing.

    acceptance: mean of the chains that ran with it; NaN where it is not known.
    """
    if not SMALLEST < step_size < LARGEST:
        # One that has grown beyond all numbers is NaN.
        few = step_size <= SMALLEST
        cause = (
            "no step was short enough to be accepted: look for NaN, jumps and bounds of "
            "the density (bounds need a bijector), or start elsewhere"
            if few
            else "steps of any length were accepted: the density does not depend on its "
            "position, or cannot be normalised: correct it"
        )
        return f"the tuning of the step size failed, at {step_size:.3g}: {cause}"
    if acceptance < target / 2:
        remedy = (
            "raise the number of warm-up steps, start nearer to the bulk of the density, "
            "or reparameterise"
        )
    elif 1 - acceptance < (1 - target) / 10:
        remedy = (
            "raise the number of warm-up steps, so that the step size can grow, or look "
            "for a density that is flat"
        )
    else:
        return None
    return (
        f"the mean acceptance is {acceptance:.3f} with the step size {step_size:.3g} that "
        f"was tuned for {target:.3g}: {remedy}"
    )


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
        # In one order however many devices and processes hold the chains.
        mean = jnp.mean(distributed.whole(infos.acceptance_rate))
        return (states, updated(tuner, mean, target_acceptance=target_acceptance)), None

    turns = num_steps + 1 if unroll else 1
    return jax.lax.scan(one, (states, tuner), length=num_steps, unroll=turns)[0]
