"""Samplers that adapt while their target changes: a learned proposal, and MALA.

Li, Chen and Sommer 2021, "A Neural Network MCMC Sampler That Maximizes Proposal
Entropy", section 5.2. Both are given an acceptance to reach, and no step size.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from megjax import checks
from megjax.learners import proposal
from megjax.samplers import mala
from megjax.samplers.kernel import Kernel
from megjax.types import Array, Key, LogDensityFn, Metrics, PyTree


class AdaptiveSampler(NamedTuple):
    """A sampler that learns from the moves it makes; pure functions.

    init: (key, shape of a position) -> state
    advance: (key, state, positions [B, ...], log-density, num) -> (state, positions,
        metrics); num transitions of every chain with training in between, metrics
        their means, those of `proposal.measured` among them.
    kernel: (state, log-density, has_aux=False) -> Kernel that has ceased to learn
    """

    init: Callable[..., PyTree]
    advance: Callable[..., tuple[PyTree, Array, Metrics]]
    kernel: Callable[..., Kernel]


class StepSize(NamedTuple):
    """How MALA's step size a follows the acceptance: a (1 + rate (acceptance - target)).

    The rule of the learned proposal's entropy weight; unlike dual averaging it never
    comes to rest, as the target does not. initial: a, half the square of the noise's
    scale.
    """

    target_acceptance: float = 0.6
    initial: float = 0.005
    rate: float = 0.1


def neural(spec: proposal.Spec) -> AdaptiveSampler:
    """The learned proposal, an ascent of its objective before every move.

    spec: its density, starts and buffer are not read. Raises ValueError as
    `proposal.checked` does.
    """
    spec = proposal.checked(spec._replace(buffer_size=0, warmup_windows=0))
    return AdaptiveSampler(
        init=lambda key, shape: proposal.init(spec, key, jnp.zeros((1, *shape))),
        advance=partial(_learning, spec),
        kernel=partial(proposal.kernel, spec),
    )


def _learning(
    spec: proposal.Spec,
    key: Key,
    state: proposal.State,
    positions: Array,
    log_density_fn: LogDensityFn,
    num: int,
) -> tuple[proposal.State, Array, Metrics]:
    size = len(positions)
    spec = spec._replace(log_density_fn=log_density_fn, buffer_size=size)

    def one(state, key):
        # All its chains are the batch.
        return proposal.step(spec, key, state, positions[None])

    start = state.replace(positions=positions)
    state, found = jax.lax.scan(one, start, jax.random.split(key, num))
    found["sampler_gradient_norm"] = found.pop("gradient_norm")
    return state.replace(positions=None), state.positions, _means(found)


def langevin(spec: StepSize) -> AdaptiveSampler:
    """MALA with one step size for all chains, tuned after every move.

    Raises ValueError naming a field that the specification cannot have.
    """
    proposal.check_acceptance(spec.target_acceptance)
    checks.positive("proposal.initial_step_size", spec.initial)
    checks.at_least("replay.step_size_rate", spec.rate, 0)
    return AdaptiveSampler(
        init=lambda key, shape: jnp.float32(spec.initial),
        advance=partial(_tuning, spec),
        kernel=lambda state, log_density_fn, **aux: mala.mala(
            log_density_fn, step_size=state, **aux
        ),
    )


def _tuning(
    spec: StepSize,
    key: Key,
    state: Array,
    positions: Array,
    log_density_fn: LogDensityFn,
    num: int,
) -> tuple[Array, Array, Metrics]:
    def one(carry, key):
        step_size, chains = carry
        kernel = mala.mala(log_density_fn, step_size=step_size)
        keys = jax.random.split(key, len(positions))
        moved, infos = jax.vmap(kernel.step)(keys, chains)
        scale = jnp.sqrt(2 * step_size)
        found = proposal.measured(
            chains.position,
            moved.position,
            acceptance=infos.acceptance_rate,
            log_det=positions[0].size * jnp.log(scale),
            finite=~infos.is_divergent,
            scale=scale,
        )
        step_size = next_step_size(spec, step_size, found["acceptance"])
        return (step_size, moved), found

    start = jax.vmap(mala.mala(log_density_fn, step_size=state).init)(positions)
    keys = jax.random.split(key, num)
    (state, chains), found = jax.lax.scan(one, (state, start), keys)
    return state, chains.position, _means(found)


def next_step_size(spec: StepSize, step_size: Array, acceptance: Array) -> Array:
    """The step size after a move that accepted with mean probability `acceptance`."""
    factor = 1 + spec.rate * (acceptance - spec.target_acceptance)
    return (step_size * factor).astype(step_size.dtype)


def _means(found: Metrics) -> Metrics:
    return jax.tree.map(jnp.mean, found)
