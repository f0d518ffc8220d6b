"""The learned proposal: noise goes through a flow that sees the target's gradients.

Li, Chen and Sommer 2021, "A Neural Network MCMC Sampler That Maximizes Proposal Entropy":
x' = x + scale f(z; x) with z ~ N(0, I). Equations 1-3 with the overbars that print
has lost, and d log(scale) where it has scale d.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from megjax import random
from megjax.networks import proposal
from megjax.samplers import preconditioner
from megjax.samplers.kernel import (
    Info,
    Kernel,
    accepted_move,
    evaluated,
    floats,
    noise,
)
from megjax.types import Array, Key, LogDensityFn, PyTree

DISPLACED, POSITION, NONE = proposal.GRADIENTS


class Preconditioner(NamedTuple):
    """Bijector y = L^-1 (x - mean) of positions, in which a flow works.

    mean: [dim]. factor: L, lower triangular [dim, dim]. Positions that L L^T is the
    covariance of have uncorrelated coordinates of variance 1. Not in the paper; Stan
    adapts the same map, and for affine ones see Hoffman et al. 2019 (NeuTra).
    """

    mean: Array
    factor: Array


class Flow(NamedTuple):
    """A proposal with its parameters bound; functions of one example [...].

    masks: 1 where a step keeps first and 0 where it updates first [N, ...].
    log_scale: logarithm of the factor of the moves [].
    coefficients: (n, x, kept, gradient) -> S, Q, T. displacement: (n, x, kept) -> R.
    gradient: "displaced", "position" or "none"; see `networks.proposal`.
    preconditioner: of the coordinates that x, z and the gradient are in; None for positions.
    """

    masks: Array
    log_scale: Array
    coefficients: Callable
    displacement: Callable
    gradient: str = DISPLACED
    preconditioner: Preconditioner | None = None


class LocalMoves(NamedTuple):
    """Random-walk moves, which some transitions make in the place of the flow's.

    Where a flow proposes draws of the whole target, as a trained one does, a chain stands
    still as long as the target is above the proposal at its position: in a tail that the
    flow covers too thinly. Small moves of all sizes lead out of it (mixtures of global and
    local moves: Gabrie, Rotskoff and Vanden-Eijnden 2022).

    rate: of the transitions. scale_min, scale_max: bounds of the step size. Every move draws
    one, uniform in its logarithm, and takes it as the standard deviation of each
    coordinate; with a preconditioner L, of each coordinate of L^-1 x.
    """

    rate: float
    scale_min: float
    scale_max: float


class State(NamedTuple):
    """A position and what its density cost.

    position: [...]; log_density: []; gradient: of the log-density [...], None unless
    the flow uses it at the position. aux: what the density returns beside its value.
    """

    position: Array
    log_density: Array
    gradient: Array | None
    aux: Any = None


class Move(NamedTuple):
    """A proposal of one chain, before the decision.

    state: at x'. log_ratio: log [p(x') q(x|x') / p(x) q(x'|x)] [].
    log_det: log |det dx' / dz| [], whose mean is the entropy of the proposal but for
    that of the noise.
    """

    state: State
    log_ratio: Array
    log_det: Array


def flow(module: proposal.Proposal, variables: PyTree) -> Flow:
    """The flow of a network and its variables, among them perhaps a preconditioner."""
    masks, log_scale = module.apply(variables, jnp.zeros(module.shape))
    found = (
        Preconditioner(**variables["preconditioner"])
        if "preconditioner" in variables
        else None
    )
    return Flow(
        masks,
        log_scale,
        functools.partial(module.apply, variables, method="coefficients"),
        functools.partial(module.apply, variables, method="displacement"),
        module.gradient,
        found,
    )


def neural(
    log_density_fn: LogDensityFn,
    flow: Flow,
    *,
    has_aux: bool = False,
    local: LocalMoves | None = None,
) -> Kernel:
    """The kernel of a density that proposes by a flow.

    has_aux: the density returns (value, aux), and states carry the aux along.
    local: moves that some transitions make in the place of the flow's.
    """
    functions = {"log_density_fn": log_density_fn, "flow": flow, "has_aux": has_aux}
    return Kernel(
        functools.partial(init, **functions),
        functools.partial(step, **functions, local=local),
    )


def init(
    position: Array, *, log_density_fn: LogDensityFn, flow: Flow, has_aux: bool
) -> State:
    """The state at a position [...]; ValueError where the flow is for another shape."""
    position = floats(position)
    density = functools.partial(evaluated, log_density_fn, has_aux=has_aux)
    if position.shape != flow.masks.shape[1:]:
        raise ValueError(
            f"positions have shape {position.shape} and the proposal is one for "
            f"{flow.masks.shape[1:]}: use one that was trained on this target."
        )
    if flow.gradient == POSITION:
        value, gradient = jax.value_and_grad(density, has_aux=has_aux)(position)
    else:
        value, gradient = density(position), None
    value, aux = value if has_aux else (value, None)
    return State(position, value, gradient, aux)


def step(
    key: Key,
    state: State,
    *,
    log_density_fn: LogDensityFn,
    flow: Flow,
    has_aux: bool,
    local: LocalMoves | None = None,
) -> tuple[State, Info]:
    """One proposal and its acceptance."""
    normal, log_uniform = noise(key, state.position)
    proposed = move(
        normal,
        state,
        log_density_fn=log_density_fn,
        flow=flow,
        has_aux=has_aux,
        local_scale=None if local is None else _local_scale(key, local),
    )
    return accepted_move(log_uniform, proposed.log_ratio, state, proposed.state)


def move(
    normal: Array,
    state: State,
    *,
    log_density_fn: LogDensityFn,
    flow: Flow,
    has_aux: bool = False,
    stop_gradient: bool = False,
    local_scale: Array | None = None,
) -> Move:
    """The proposal that a draw of normals [...] makes; differentiable in the flow.

    local_scale: [], the standard deviation of a random-walk move in the place of the
    flow's, where it is not 0. It costs what a move of the flow does, which is evaluated
    either way.

    The way back needs the draw f^-1(-f(z; x); x'). stop_gradient: takes dU for a constant.
    Under a preconditioner the determinant of its map cancels from the ratio, not from the entropy.
    """
    slopes = functools.partial(
        _slopes, flow, log_density_fn, has_aux=has_aux, stop_gradient=stop_gradient
    )
    x, factor, volume = _preconditioned(flow, state.position)
    z, log_det = forward(flow, x, normal, slopes(state))
    change = jnp.exp(flow.log_scale) * z
    position = state.position + preconditioner.scaled(factor, change)
    if local_scale is not None:
        is_local = local_scale > 0
        walk = local_scale.astype(position.dtype) * normal
        walked = state.position + preconditioner.scaled(factor, walk)
        position = jnp.where(is_local, walked, position)
    proposed = init(position, log_density_fn=log_density_fn, flow=flow, has_aux=has_aux)
    back, log_det_back = inverse(flow, x + change, -z, slopes(proposed))
    correction = 0.5 * jnp.sum((normal - back) * (normal + back))
    correction += log_det - log_det_back
    if local_scale is not None:
        correction = jnp.where(is_local, 0, correction)
    log_ratio = proposed.log_density - state.log_density + correction
    return Move(proposed, log_ratio, log_det + z.size * flow.log_scale + volume)


def log_density(
    position: Array,
    state: State,
    *,
    log_density_fn: LogDensityFn,
    flow: Flow,
    stop_gradient: bool = False,
) -> Array:
    """log q(position | state) [] of the proposal, but for the constant of its noise.

    stop_gradient: as of `move`.
    """
    slopes = functools.partial(
        _slopes, flow, log_density_fn, has_aux=False, stop_gradient=stop_gradient
    )
    x, _, volume = _preconditioned(flow, state.position)
    z = (_preconditioned(flow, position)[0] - x) / jnp.exp(flow.log_scale)
    normal, log_det = inverse(flow, x, z, slopes(state))
    return -0.5 * jnp.sum(normal**2) - log_det - z.size * flow.log_scale - volume


def forward(
    flow: Flow, x: Array, normal: Array, slope_fn: Callable
) -> tuple[Array, Array]:
    """z = f(normal; x) [...] and log |det dz / dnormal| [].

    slope_fn: (n, kept half) -> gradient of the energy that step n sees [...].
    """
    z, expansion = normal, 0.0
    for n, kept in _coupling_masks(flow):
        scale, shift = _coefficients(flow, n, x, kept * z, slope_fn)
        z = kept * z + (1 - kept) * (z * jnp.exp(scale) - shift)
        expansion += (1 - kept) * scale
    return z, jnp.sum(expansion)


def inverse(flow: Flow, x: Array, z: Array, slope_fn: Callable) -> tuple[Array, Array]:
    """The draw [...] with f(normal; x) = z, and log |det dz / dnormal| [] there."""
    expansion = 0.0
    for n, kept in _coupling_masks(flow)[::-1]:
        scale, shift = _coefficients(flow, n, x, kept * z, slope_fn)
        z = kept * z + (1 - kept) * (z + shift) * jnp.exp(-scale)
        expansion += (1 - kept) * scale
    return z, jnp.sum(expansion)


def _local_scale(key: Key, local: LocalMoves) -> Array:
    """Of one transition []: 0 where the flow proposes."""
    chosen, height = random.uniform(random.fold_in(key, 1), (2,))
    scale = local.scale_min * (local.scale_max / local.scale_min) ** height
    return jnp.where(chosen < local.rate, scale, 0)


def _slopes(flow, log_density_fn, state, *, has_aux, stop_gradient) -> Callable:
    """(n, kept half) -> the gradient of the energy that step n sees from a state."""
    x, factor, _ = _preconditioned(flow, state.position)

    def displaced(n, kept):
        moved = preconditioner.scaled(factor, flow.displacement(n, x, kept))
        gradient = jax.grad(log_density_fn, has_aux=has_aux)(state.position + moved)
        return gradient[0] if has_aux else gradient

    def slope(n, kept):
        if flow.gradient == NONE:
            return jnp.zeros_like(x)
        found = state.gradient if flow.gradient == POSITION else displaced(n, kept)
        found = -preconditioner.transposed(factor, found)
        return jax.lax.stop_gradient(found) if stop_gradient else found

    return slope


def _preconditioned(flow, position) -> tuple[Array, Array | None, Array | float]:
    """The position in the flow's coordinates, the L of its preconditioner, and log |det L| []."""
    if flow.preconditioner is None:
        return position, None, 0.0
    mean, factor = (value.astype(position.dtype) for value in flow.preconditioner)
    volume = jnp.sum(jnp.log(jnp.diag(factor)))
    return preconditioner.solved(factor, position - mean), factor, volume


def _coupling_masks(flow: Flow) -> list[tuple[int, Array]]:
    """(step, ones where it keeps) of all half updates in order."""
    return [(n, kept) for n, mask in enumerate(flow.masks) for kept in (mask, 1 - mask)]


def _coefficients(flow, n, x, kept, slope_fn) -> tuple[Array, Array]:
    """Log-scale and shift of a half update; with zero networks the shift is MALA's."""
    slope = slope_fn(n, kept)
    scale, stretch, shift = flow.coefficients(n, x, kept, slope)
    factor = jnp.exp(flow.log_scale) / (2 * len(flow.masks))
    return scale, factor * (slope * jnp.exp(stretch) + shift)
