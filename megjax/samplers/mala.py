"""Metropolis-adjusted Langevin: gradient steps with noise, made exact by rejection.

Roberts and Tweedie 1996; eqs. 9-11 of Kumar et al. 2019 (MEG) with the squared norm.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from megjax.samplers import preconditioner
from megjax.samplers.kernel import (
    Info,
    Kernel,
    accepted_move,
    check_step_size,
    evaluated,
    finite,
    floats,
    noise,
)
from megjax.types import Array, Key, LogDensityFn

TARGET_ACCEPTANCE = 0.574
"""Optimal in high dimension (Roberts and Rosenthal 1998)."""


class State(NamedTuple):
    """A position and everything that its density cost.

    position: [...]; log_density: []; gradient: of the log-density [...].
    aux: what the density returns beside its value, None without `has_aux`.
    """

    position: Array
    log_density: Array
    gradient: Array
    aux: Any = None


def mala(
    log_density_fn: LogDensityFn,
    *,
    step_size: float | Array,
    factor: Array | None = None,
    has_aux: bool = False,
) -> Kernel:
    """The MALA kernel of a density; one evaluation of its gradient per step.

    step_size: a in the proposal x + a grad log p(x) + sqrt(2a) noise; half the square
    of the step size of texts that write (e^2 / 2) for the drift and e for the noise.
    factor: L of a preconditioner L L^T as in `preconditioner`, of the proposal
    x + a L L^T grad log p(x) + sqrt(2a) L noise.
    has_aux: the density returns (value, aux), and states carry the aux along.
    Raises ValueError at a step size out of range; where the kernel starts, at
    positions that are no floats and at a density that is no scalar float.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import mala
    >>> kernel = mala(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
    >>> state, info = kernel.step(jax.random.key(0), kernel.init(jnp.zeros(3)))
    >>> state.position.shape, bool(0 <= info.acceptance_rate <= 1)
    ((3,), True)
    """
    check_step_size(step_size)
    init_fn = functools.partial(init, log_density_fn=log_density_fn, has_aux=has_aux)
    return Kernel(
        init_fn,
        functools.partial(step, init_fn=init_fn, step_size=step_size, factor=factor),
    )


def init(position: Array, *, log_density_fn: LogDensityFn, has_aux: bool) -> State:
    """The state at a position [...]: value and gradient in one evaluation."""
    density = functools.partial(evaluated, log_density_fn, has_aux=has_aux)
    position = floats(position)
    value, gradient = jax.value_and_grad(density, has_aux=has_aux)(position)
    value, aux = value if has_aux else (value, None)
    return State(position, value, gradient, aux)


def step(key: Key, state: State, *, init_fn, step_size, factor) -> tuple[State, Info]:
    """One proposal and its acceptance."""
    normal, log_uniform = noise(key, state.position)
    drift = step_size * preconditioner.squared(factor, state.gradient)
    spread = jnp.sqrt(2 * step_size) * preconditioner.scaled(factor, normal)
    proposal = init_fn(state.position + drift + spread)
    options = {"step_size": step_size, "factor": factor}
    ratio = log_ratio(state, proposal, **options)
    # The correction is finite only where all of the position and the gradient is; to
    # look at these again costs 8 % of a step on a cheap density.
    seen = (correction(state, proposal, **options), proposal.log_density, proposal.aux)
    return accepted_move(log_uniform, ratio, state, proposal, is_finite=finite(seen))


def log_ratio(
    state: State,
    proposal: State,
    *,
    step_size: float | Array,
    factor: Array | None = None,
) -> Array:
    """log [p(x') q(x|x') / p(x) q(x'|x)] of a pair of states (MEG eqs. 9-11): []."""
    change = correction(state, proposal, step_size=step_size, factor=factor)
    return proposal.log_density - state.log_density + change


def correction(
    state: State,
    proposal: State,
    *,
    step_size: float | Array,
    factor: Array | None = None,
) -> Array:
    """log [q(x|x') / q(x'|x)] of a pair of states: [].

    With P = L L^T and log q(x'|x) = -|L^-1 (x' - x - a P g)|^2 / 4a the squares of
    x' - x cancel, and log q(x|x') - log q(x'|x) =
    a (g.P g - g'.P g') / 4 - (x' - x).(g + g') / 2, which float32 can hold in any
    dimension and which needs no inverse. The reference code leaves the norm unsquared,
    which biases the chain.
    """
    total = state.gradient + proposal.gradient
    change = preconditioner.squared(factor, state.gradient - proposal.gradient)
    move = proposal.position - state.position
    return jnp.sum(total * (0.25 * step_size * change - 0.5 * move))
