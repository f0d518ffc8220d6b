"""MALA whose preconditioner maximises acceptance and proposal entropy in warm-up.

Titsias and Dellaportas, Gradient-based Adaptive Markov Chain Monte Carlo (2019),
section 3: the baseline "gradMALA" of Li, Chen and Sommer 2021 (proposal entropy).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from megjax import random
from megjax.samplers import kernel, mala, preconditioner
from megjax.types import Array, Key, LogDensityFn, PyTree

TARGET_ACCEPTANCE = 0.55
"""Theirs for MALA."""

STEP_SIZE = 0.5
"""Of the MALA whose proposal is N(x + L L^T g / 2, L L^T)."""

ENTROPY_RATE = 0.02
"""rho of the entropy weight's adaptation."""

OPTIMIZER = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(1.0))
"""At rate 1. The first proposals can fall by millions of nats: hence the clipping."""


class Shape(NamedTuple):
    """L = unit lower triangle times diagonal, so that its columns scale freely.

    log_scales: of the diagonal [dim]; off_diagonal: [dim, dim], of which what lies
    below the diagonal counts; None for a diagonal L.
    """

    log_scales: Array
    off_diagonal: Array | None


class Adaptation(NamedTuple):
    """Where the learning of L stands.

    entropy_weight: beta. optimizer: Adam's state. num_updates: so far.
    """

    shape: Shape
    entropy_weight: Array
    optimizer: PyTree
    num_updates: Array


def adaptation(
    dim: int, *, dense: bool = True, scale: float = 0.1, entropy_weight: float = 1.0
) -> Adaptation:
    """The start: L = scale / sqrt(dim) times the identity.

    dense: learn all of the lower triangle, not its diagonal only. Raises ValueError
    where the scale or the weight is not positive.
    """
    if not (scale > 0 and entropy_weight > 0):
        raise ValueError(
            f"scale={scale}, entropy_weight={entropy_weight}: both must be positive."
        )
    log_scales = jnp.full(dim, jnp.log(scale / jnp.sqrt(dim)))
    shape = Shape(log_scales, jnp.zeros((dim, dim)) if dense else None)
    weight = jnp.float32(entropy_weight)
    return Adaptation(shape, weight, OPTIMIZER.init(shape), jnp.int32(0))


def factor(shape: Shape) -> Array:
    """L: [dim, dim], or [dim] where it is diagonal."""
    scales = jnp.exp(shape.log_scales)
    if shape.off_diagonal is None:
        return scales
    unit = jnp.tril(shape.off_diagonal, -1) + jnp.eye(len(scales), dtype=scales.dtype)
    return unit * scales


def adapted(
    log_density_fn: LogDensityFn, adaptation: Adaptation, *, has_aux: bool = False
) -> kernel.Kernel:
    """The kernel with L as it stands, for good: one gradient per step."""
    return mala.mala(
        log_density_fn,
        step_size=STEP_SIZE,
        factor=factor(adaptation.shape),
        has_aux=has_aux,
    )


def warm_up(
    keys: Key,
    log_density_fn: LogDensityFn,
    states: mala.State,
    adaptation: Adaptation,
    num_steps: int,
    *,
    learning_rate: float = 0.02,
    target_acceptance: float = TARGET_ACCEPTANCE,
    has_aux: bool = False,
) -> tuple[mala.State, Adaptation]:
    """Runs chains for `num_steps` while L, shared by all, learns from every proposal.

    keys: one per chain [chains]; states: [chains, ...]. Adam with a rate that falls
    linearly to a tenth, on the mean over chains (theirs is RMSProp on one chain). The
    chains do not sample the target while their kernel changes: discard them.
    """
    init_fn = functools.partial(
        mala.init, log_density_fn=log_density_fn, has_aux=has_aux
    )
    grad = jax.grad(_objective, has_aux=True)

    def one(carry, index):
        states, adaptation = carry
        step_keys = jax.vmap(random.fold_in, (0, None))(keys, adaptation.num_updates)
        gradient, (states, infos) = grad(
            adaptation.shape,
            adaptation.entropy_weight,
            step_keys,
            states,
            init_fn=init_fn,
        )
        rate = learning_rate * (1 - 0.9 * index / num_steps)
        acceptance = jnp.mean(infos.acceptance_rate)
        return (
            states,
            _updated(adaptation, gradient, acceptance, rate, target_acceptance),
        ), None

    return jax.lax.scan(one, (states, adaptation), jnp.arange(num_steps))[0]


def _updated(adaptation, gradient, acceptance, rate, target_acceptance) -> Adaptation:
    """One step of Adam, and of beta <- beta (1 + rho (acceptance - target))."""
    updates, optimizer = OPTIMIZER.update(gradient, adaptation.optimizer)
    shape = jax.tree.map(lambda p, u: p + rate * u, adaptation.shape, updates)
    surplus = jnp.float32(acceptance - target_acceptance)
    weight = adaptation.entropy_weight * (1 + ENTROPY_RATE * surplus)
    return Adaptation(shape, weight, optimizer, adaptation.num_updates + 1)


def _objective(shape, entropy_weight, keys, states, *, init_fn):
    """Minus (mean log acceptance + beta log det L), and what a step makes."""
    proposal_fn = functools.partial(_transition, factor(shape), init_fn=init_fn)
    log_acceptances, moved, infos = jax.vmap(proposal_fn)(keys, states)
    entropy = jnp.sum(shape.log_scales)
    loss = -jnp.mean(log_acceptances) - entropy_weight * entropy
    return loss, (moved, infos)


def _transition(factor, key, state, *, init_fn):
    """One chain's step; its log acceptance is differentiable in the factor.

    The density's gradient is a constant at both ends, so nothing is differentiated
    twice (their "fast" variant): log p moves along its tangent at the proposal.
    """
    state = jax.lax.stop_gradient(state)
    noise, log_uniform = kernel.noise(key, state.position)
    drift = STEP_SIZE * preconditioner.squared(factor, state.gradient)
    position = state.position + drift + preconditioner.scaled(factor, noise)
    proposal = jax.lax.stop_gradient(init_fn(jax.lax.stop_gradient(position)))
    finite = kernel.finite(proposal)
    # Zero times an infinite gradient is NaN: a proposal out of bounds is not touched.
    safe = jax.tree.map(functools.partial(jnp.where, finite), proposal, state)
    away = position - jax.lax.stop_gradient(position)
    tangent = safe._replace(
        position=safe.position + away,
        log_density=safe.log_density + jnp.sum(safe.gradient * away),
    )
    ratio = mala.log_ratio(state, tangent, step_size=STEP_SIZE, factor=factor)
    moved, info = kernel.accepted_move(
        log_uniform, jax.lax.stop_gradient(ratio), state, proposal
    )
    return jnp.where(finite, jnp.minimum(ratio, 0), 0), moved, info
