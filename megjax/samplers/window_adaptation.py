"""Warm-up in windows: the step size and the preconditioner of any kernel, for all chains.

The schedule of Stan (Stan reference manual, "HMC algorithm parameters"; Hoffman and
Gelman 2014). All chains share what is learned, so that every window has the draws of
all of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import distributed, random
from megjax.samplers import adaptation, preconditioner
from megjax.samplers.kernel import Kernel
from megjax.types import Array, Key, LogDensityFn, PyTree

FIRST, WINDOW, LAST = 75, 25, 50
"""Steps before the windows, of the first window, and after them; Stan's."""

MAX_WINDOWS = 32
MAX_DOUBLINGS = 40

KernelFn = Callable[..., Kernel]
"""(log-density, *, step_size) -> Kernel"""


class Parameters(NamedTuple):
    """What is learned.

    step_size: []. factor: L of the covariance L L^T, [dim] where it is diagonal or
    [dim, dim], lower triangular.
    """

    step_size: Array
    factor: Array


class Moments(NamedTuple):
    """count: of draws []. mean: [dim]. squares: sums of (products of) deviations."""

    count: Array
    mean: Array
    squares: Array


class Adaptation(NamedTuple):
    """Where the warm-up stands.

    direction: in which the first step size is doubled (1) or halved (-1) until the
    acceptance crosses the target; 0 at the start. searching: whether it still is.
    """

    tuner: adaptation.Tuner
    direction: Array
    searching: Array
    factor: Array
    moments: Moments


def schedule(num_steps: int) -> tuple[int, np.ndarray]:
    """(where the windows begin, where they end [MAX_WINDOWS], padded with -1).

    Each is twice as long as the one before it. Short warm-ups keep Stan's proportions;
    one of less than 20 steps has no window.
    """
    first, window, last = FIRST, WINDOW, LAST
    if num_steps < 20:
        return num_steps, np.full(MAX_WINDOWS, -1, np.int32)
    if num_steps < first + window + last:
        first, last = int(0.15 * num_steps), int(0.1 * num_steps)
        window = num_steps - first - last
    ends, end, stop = [], first, num_steps - last
    while end < stop:
        end += window
        window *= 2
        # The next one must fit as a whole.
        end = stop if end + window > stop else end
        ends.append(end)
    padding = [-1] * (MAX_WINDOWS - len(ends))
    return first, np.array(ends + padding, np.int32)


def preconditioned(log_density_fn: LogDensityFn, factor: Array) -> LogDensityFn:
    """The log-density, up to a constant, of v [dim] where x = L v has `log_density_fn`.

    A kernel of it with unit mass is one of x with the mass matrix (L L^T)^-1, whether
    it knows of preconditioners or not.
    """
    return lambda v: log_density_fn(preconditioner.scaled(factor, v))


def kernel(
    log_density_fn: LogDensityFn, kernel_fn: KernelFn, parameters: Parameters
) -> Kernel:
    """The kernel with what was learned; its chains move in v = L^-1 x."""
    inner = preconditioned(log_density_fn, parameters.factor)
    return kernel_fn(inner, step_size=parameters.step_size)


def begin(
    log_density_fn: LogDensityFn,
    kernel_fn: KernelFn,
    positions: Array,
    *,
    dense: bool,
) -> tuple[PyTree, Adaptation]:
    """States of chains at positions [chains, dim], and a warm-up that begins."""
    adapted = fresh(positions.shape[1], dense=dense)
    init = _kernel(log_density_fn, kernel_fn, adapted).init
    return jax.vmap(init)(positions), adapted


def fresh(dim: int, *, dense: bool) -> Adaptation:
    """A warm-up of which no step is made."""
    factor = jnp.eye(dim) if dense else jnp.ones(dim)
    return Adaptation(
        adaptation.tuner(1.0),
        jnp.int32(0),
        jnp.bool_(True),
        factor,
        Moments(jnp.float32(0), jnp.zeros(dim), jnp.zeros_like(factor)),
    )


def advance(
    key: Key,
    log_density_fn: LogDensityFn,
    kernel_fn: KernelFn,
    states: PyTree,
    adapted: Adaptation,
    steps: tuple[Array, Array],
    windows: tuple[Array, Array],
    target_acceptance: Array,
) -> tuple[PyTree, Adaptation]:
    """The warm-up from one step up to another, both of `steps`; states [chains, ...].

    windows: as of `schedule`. The chains do not sample the target while their kernel
    changes: discard them.
    """
    first, ends = windows
    keys = jax.random.split(key, len(states.position))

    def one(index, carry):
        states, adapted = carry
        fixed = _kernel(log_density_fn, kernel_fn, adapted)
        step_keys = jax.vmap(random.fold_in, (0, None))(keys, index)
        states, infos = jax.vmap(fixed.step)(step_keys, states)
        # Whole, so that any number of devices adds in the same order.
        acceptance = jnp.mean(distributed.whole(infos.acceptance_rate))
        acceptance = jnp.nan_to_num(acceptance).astype(jnp.float32)
        adapted = tuned(adapted, acceptance, target_acceptance)
        x = distributed.whole(_positions(adapted, states))
        inside = (index >= first) & (index < jnp.max(ends))
        moments = joined(adapted.moments, x)
        moments = _where(inside, moments, adapted.moments)
        adapted = adapted._replace(moments=moments)
        return jax.lax.cond(
            jnp.any(index + 1 == ends), restarted, lambda *same: same, states, adapted
        )

    def restarted(states, adapted):
        x = _positions(adapted, states)
        adapted = renewed(adapted)
        fixed = _kernel(log_density_fn, kernel_fn, adapted)
        solve = jax.vmap(preconditioner.solved, (None, 0))
        return jax.vmap(fixed.init)(solve(adapted.factor, x)), adapted

    return jax.lax.fori_loop(*steps, one, (states, adapted))


def parameters(adapted: Adaptation) -> Parameters:
    """What the warm-up recommends to freeze."""
    return Parameters(adaptation.step_size(adapted.tuner), adapted.factor)


def _kernel(log_density_fn, kernel_fn, adapted) -> Kernel:
    now = Parameters(jnp.exp(adapted.tuner.log_step_size), adapted.factor)
    return kernel(log_density_fn, kernel_fn, now)


def _positions(adapted, states) -> Array:
    scale = jax.vmap(preconditioner.scaled, (None, 0))
    return scale(adapted.factor, states.position)


def tuned(adapted, acceptance, target_acceptance) -> Adaptation:
    """The step size after a step: doubled or halved at first, then dual averaging."""
    above = acceptance > target_acceptance
    direction = jnp.where(
        adapted.direction == 0, jnp.where(above, 1, -1), adapted.direction
    )
    tuner = adapted.tuner
    count = tuner.num_updates + 1
    further = adapted.searching & (above == (direction > 0)) & (count < MAX_DOUBLINGS)
    moved = jnp.exp(tuner.log_step_size + direction * jnp.log(2.0))
    searched = adaptation.tuner(moved)._replace(num_updates=count)
    found = adaptation.tuner(jnp.exp(tuner.log_step_size))
    averaged = adaptation.updated(
        tuner, acceptance, target_acceptance=target_acceptance
    )
    tuner = _where(further, searched, _where(adapted.searching, found, averaged))
    return adapted._replace(tuner=tuner, direction=direction, searching=further)


def joined(moments, x) -> Moments:
    """Moments with draws x [chains, dim] more (Chan, Golub and LeVeque 1983)."""
    count = moments.count + len(x)
    mean = jnp.mean(x, axis=0)
    away, shift = x - mean, mean - moments.mean
    weight = moments.count * len(x) / count
    if moments.squares.ndim == 1:
        added = jnp.sum(away**2, axis=0) + weight * shift**2
    else:
        added = away.T @ away + weight * jnp.outer(shift, shift)
    mean = moments.mean + shift * len(x) / count
    return Moments(count, mean, moments.squares + added)


def renewed(adapted) -> Adaptation:
    """The end of a window: its covariance, its correlations shrunk, and a fresh search."""
    count, _, squares = adapted.moments
    covariance = squares / jnp.maximum(count - 1, 1)
    if squares.ndim == 1:
        factor = jnp.sqrt(covariance)
        # A coordinate that has not moved, or overflows: as before, and no other.
        usable = jnp.isfinite(factor) & (factor > 0)
    else:
        diagonal = jnp.diag(jnp.diag(covariance))
        covariance += 5e-3 / (count + 5) * (diagonal - covariance)
        factor = jnp.linalg.cholesky(covariance)
        usable = jnp.all(jnp.isfinite(factor)) & jnp.all(jnp.any(factor > 0, axis=-1))
    factor = jnp.where(usable, factor, adapted.factor)
    step_size = adaptation.step_size(adapted.tuner)
    return adapted._replace(
        tuner=adaptation.tuner(step_size),
        factor=factor.astype(adapted.factor.dtype),
        moments=jax.tree.map(jnp.zeros_like, adapted.moments),
    )


def _where(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
