"""Random-walk Metropolis with a Gaussian proposal; needs no gradient.

Metropolis et al. 1953.
"""

import functools
from typing import Any, NamedTuple

from megjax.samplers.kernel import (
    Info,
    Kernel,
    accepted_move,
    check_step_size,
    evaluated,
    floats,
    noise,
)
from megjax.types import Array, Key, LogDensityFn

TARGET_ACCEPTANCE = 0.234
"""Optimal in high dimension (Roberts, Gelman and Gilks 1997)."""


class State(NamedTuple):
    """A position [...], its log-density [], and what the density returns beside it."""

    position: Array
    log_density: Array
    aux: Any = None


def rwm(
    log_density_fn: LogDensityFn, *, step_size: float | Array, has_aux: bool = False
) -> Kernel:
    """The random-walk kernel of a density; one evaluation of it per step.

    step_size: standard deviation of the move in every coordinate.
    has_aux: the density returns (value, aux), and states carry the aux along.
    Raises ValueError as `mala.mala`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import rwm
    >>> kernel = rwm(lambda x: -jnp.sum(x**2) / 2, step_size=0.1)
    >>> state, info = kernel.step(jax.random.key(0), kernel.init(jnp.zeros(3)))
    >>> state.position.shape, bool(info.acceptance_rate > 0.5)
    ((3,), True)
    """
    check_step_size(step_size)
    init_fn = functools.partial(init, log_density_fn=log_density_fn, has_aux=has_aux)
    return Kernel(
        init_fn, functools.partial(step, init_fn=init_fn, step_size=step_size)
    )


def init(position: Array, *, log_density_fn: LogDensityFn, has_aux: bool) -> State:
    """The state at a position [...]."""
    position = floats(position)
    value = evaluated(log_density_fn, position, has_aux=has_aux)
    return State(position, *value) if has_aux else State(position, value)


def step(key: Key, state: State, *, init_fn, step_size) -> tuple[State, Info]:
    """One symmetric proposal and its acceptance."""
    normal, log_uniform = noise(key, state.position)
    proposal = init_fn(state.position + step_size * normal)
    log_ratio = proposal.log_density - state.log_density
    return accepted_move(log_uniform, log_ratio, state, proposal)
