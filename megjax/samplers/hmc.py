"""Hamiltonian Monte Carlo: leapfrog paths with fresh momenta, made exact by rejection.

Duane et al. 1987; Neal 2011, MCMC using Hamiltonian dynamics.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from megjax import checks, random
from megjax.samplers import mala, preconditioner
from megjax.samplers.kernel import (
    Info,
    Kernel,
    accepted_move,
    check_step_size,
    finite,
    noise,
)
from megjax.samplers.mala import State
from megjax.types import Array, Key, LogDensityFn

TARGET_ACCEPTANCE = 0.65
"""Optimal in high dimension (Beskos et al. 2013)."""

DIVERGENCE = 1000.0
"""An energy error that no stable path makes, in nats (Stan's)."""


class Path(NamedTuple):
    """How to integrate.

    step_size: e of the leapfrog steps.
    num_integration_steps: per transition, and so many gradients.
    factor: L as in `preconditioner`; momenta are N(0, I) and move the position along L, which
        is a mass matrix (L L^T)^-1.
    unroll: compile the steps one after the other, as `kernel.chain`.
    jitter: every transition has the step size e (1 - jitter u), u uniform on [0, 1),
        against paths that come back to where they began (Neal 2011, section 3.2).
    """

    step_size: float | Array
    num_integration_steps: int
    factor: Array | None = None
    unroll: bool = False
    jitter: float = 0.0


def hmc(
    log_density_fn: LogDensityFn,
    *,
    step_size: float | Array,
    num_integration_steps: int = 10,
    factor: Array | None = None,
    has_aux: bool = False,
    unroll: bool = False,
    jitter: float = 0.0,
) -> Kernel:
    """The HMC kernel of a density; a leapfrog step evaluates its gradient once.

    step_size, num_integration_steps, factor, unroll, jitter: see `Path`. One leapfrog
    step of size e is MALA with step size e^2 / 2, and long paths of a fixed length can
    be periodic, which a jitter prevents.
    has_aux: the density returns (value, aux), and states carry the aux along.

    A path whose energy error exceeds `DIVERGENCE` is rejected like any other, and
    counted: its `Info.is_divergent` is true. Raises ValueError where
    num_integration_steps < 1 or a jitter outside [0, 1], and as `mala.mala`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import hmc
    >>> kernel = hmc(lambda x: -jnp.sum(x**2) / 2, step_size=0.1)
    >>> state, info = kernel.step(jax.random.key(0), kernel.init(jnp.zeros(3)))
    >>> state.position.shape, bool(info.acceptance_rate > 0.9)
    ((3,), True)
    """
    check_step_size(step_size)
    checks.whole("num_integration_steps", num_integration_steps, 1)
    checks.share("jitter", jitter)
    init_fn = functools.partial(
        mala.init, log_density_fn=log_density_fn, has_aux=has_aux
    )
    path = Path(step_size, num_integration_steps, factor, unroll, jitter)
    return Kernel(init_fn, functools.partial(step, init_fn=init_fn, path=path))


def step(key: Key, state: State, *, init_fn, path: Path) -> tuple[State, Info]:
    """One path from a fresh momentum and its acceptance."""
    momentum, log_uniform = noise(key, state.position)
    if path.jitter:
        (uniform,) = random.uniform(random.fold_in(key, 1), (1,))
        path = path._replace(step_size=path.step_size * (1 - path.jitter * uniform))
    proposal, end = leapfrog(state, momentum, init_fn=init_fn, path=path)
    ratio = log_ratio(state, momentum, proposal, end)
    # The momenta are finite only where the gradients were: these need no second look.
    seen = proposal._replace(gradient=correction(momentum, end))
    state, info = accepted_move(
        log_uniform, ratio, state, proposal, is_finite=finite(seen)
    )
    diverged = info.is_divergent | ~(ratio > -DIVERGENCE)
    return state, info._replace(is_divergent=diverged)


def leapfrog(
    state: State, momentum: Array, *, init_fn, path: Path
) -> tuple[State, Array]:
    """The state and the momentum [...] after `path.num_integration_steps` leapfrog steps.

    From the end, the negative momentum leads back to the start.
    """

    def kick(momentum, gradient, size):
        return momentum + size * preconditioner.transposed(path.factor, gradient)

    def drift(state, momentum):
        moved = path.step_size * preconditioner.scaled(path.factor, momentum)
        return init_fn(state.position + moved)

    def one(carry, _):
        state, momentum = carry
        momentum = kick(momentum, state.gradient, path.step_size)
        return (drift(state, momentum), momentum), None

    # Half kicks at both ends; those between two steps join to whole ones.
    momentum = kick(momentum, state.gradient, 0.5 * path.step_size)
    state = drift(state, momentum)
    turns = path.num_integration_steps if path.unroll else 1
    (state, momentum), _ = jax.lax.scan(
        one, (state, momentum), length=path.num_integration_steps - 1, unroll=turns
    )
    return state, kick(momentum, state.gradient, 0.5 * path.step_size)


def log_ratio(state: State, momentum: Array, proposal: State, end: Array) -> Array:
    """Minus the error of the total energy along a path: [].

    momentum, end: at the start and at the end [...]; leapfrog preserves volume and is
    its own inverse under a change of sign, so no other term appears.
    """
    change = correction(momentum, end)
    return proposal.log_density - state.log_density + change


def correction(momentum: Array, end: Array) -> Array:
    """The kinetic energy that a path has lost, from its momenta [...]: []."""
    return 0.5 * jnp.sum((momentum - end) * (momentum + end))
