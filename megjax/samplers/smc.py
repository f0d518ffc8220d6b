"""Sequential Monte Carlo: particles from a reference to the target, by blackjax.

Del Moral, Doucet and Jasra 2006; temperatures chosen on the way so that weights stay
even (Jasra et al. 2011), by `blackjax.adaptive_tempered_smc` (Cabezas et al. 2024).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from megjax import checks, distributed, extras
from megjax.samplers import mala, tempering
from megjax.samplers.kernel import Kernel
from megjax.types import Array, Key, LogDensityFn

WIDTH, LEAST_WIDTH = 3.0, 10.0
"""Standard deviation of the reference where none is given: this many times that of the
starts in every coordinate, and no less than the other."""

MIN_PARTICLES = 10
"""Fewer are no estimate of a density; a dense covariance needs two per dimension."""

FEW_LINES = 5
"""Effective first ancestors below which the error of log Z is not known."""


class Spec(NamedTuple):
    """How particles are moved; for `megjax.sample(kernel=Spec(...))`.

    reference: a normalised density of unbounded positions [dim], from which particles
        are drawn, and which the evidence log Z is relative to. Without its `sample`,
        `init` are draws of it; None for independent normals around the mean of `init`,
        wide as `WIDTH` and `LEAST_WIDTH` say.
    num_steps: of every particle at each temperature.
    share: effective number of particles after a reweighting, by their number; between
        0 and 1.
    kernel_fn: `mala.mala` or `hmc.hmc`, perhaps with keywords bound.

    >>> from megjax.samplers import smc, tempering
    >>> smc.Spec(reference=tempering.normal(0.0, 5.0)).share
    0.5
    """

    reference: tempering.Reference | None = None
    num_steps: int = 10
    share: float = 0.5
    kernel_fn: Callable[..., Kernel] = mala.mala


class Parameters(NamedTuple):
    """step_size: []. factor: of the preconditioner, [dim] or [dim, dim].

    log_z: of the density, if the reference is normalised; log_z_error: its standard
    error. inverse_temperature: that the particles have reached. num_temperatures: on
    the way. num_lines: of the first particles from which others descend, as an
    effective number.
    """

    step_size: Array
    factor: Array
    log_z: Array
    log_z_error: Array
    inverse_temperature: Array
    num_temperatures: Array
    num_lines: Array


class Progress(NamedTuple):
    """particles: blackjax's state. moved: whether they were at inverse temperature 1.

    lines: the first particle from which each descends [N].
    """

    particles: Any
    log_step_size: Array
    log_z: Array
    num_temperatures: Array
    moved: Array
    lines: Array


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    checks.whole("num_steps", spec.num_steps, 1)
    checks.number("share", spec.share)
    if not 0 < spec.share < 1:
        raise ValueError(f"share={spec.share}: give a number between 0 and 1, as 0.5")
    return spec._replace(num_steps=int(spec.num_steps), share=float(spec.share))


def warm_up(
    key: Key,
    log_density_fn: LogDensityFn,
    spec: Spec,
    positions: Array,
    *,
    num_steps: int,
    target_acceptance: float | Array,
    dense: bool,
) -> tuple[Parameters, Any]:
    """What was learned, and states of chains [particles, ...] at the target.

    positions: [particles, dim]. num_steps: of every particle at most; where it is too
    few, the particles stop before the target. All particles share the step size, which
    follows their acceptance, and a preconditioner of their covariance. Raises
    ValueError at fewer than `MIN_PARTICLES`, if dense also fewer than two per dimension;
    ModuleNotFoundError without blackjax.
    """
    _check_number(*positions.shape, dense=dense)
    with extras.needed("sampling"):
        from blackjax.smc import adaptive_tempered
    key_draw, key_move = jax.random.split(key)
    reference = spec.reference or around(positions)
    if reference.sample:
        positions = reference.sample(key_draw, positions.shape, positions.dtype)
    positions = distributed.shard(positions)
    num, dtype = len(positions), positions.dtype
    transition = _transition(log_density_fn, spec, reference)

    def advance(carry):
        state = carry.particles
        factor = factor_of(state.particles, state.weights, dense=dense)
        shared = {"step_size": jnp.exp(carry.log_step_size), "factor": factor}
        shared = jax.tree.map(lambda value: value[None], shared)
        key = jax.random.fold_in(key_move, carry.num_temperatures)
        moved, info = transition(key, state, spec.num_steps, shared)
        accepted = jnp.mean(distributed.whole(info.update_info.acceptance_rate))
        return Progress(
            moved,
            carry.log_step_size + correction(accepted, target_acceptance),
            carry.log_z + info.log_likelihood_increment,
            carry.num_temperatures + 1,
            state.tempering_param >= 1,
            carry.lines[info.ancestors],
        )

    def unfinished(carry):
        enough = (carry.num_temperatures + 1) * spec.num_steps > num_steps
        return ~carry.moved & ~enough

    zero = jnp.zeros((), dtype)
    first = adaptive_tempered.init(positions)._replace(
        weights=jnp.full(num, 1 / num, dtype), tempering_param=zero
    )
    begun = Progress(first, zero, zero, jnp.int32(0), zero > 0, jnp.arange(num))
    end = jax.lax.while_loop(unfinished, advance, begun)
    init = functools.partial(_init, spec, log_density_fn=log_density_fn)
    return _found(end, dense=dense), jax.vmap(init)(end.particles.particles)


def _check_number(num, dim, *, dense):
    """ValueError where particles are too few for what is learned of them."""
    least = max(MIN_PARTICLES, 2 * dim if dense else 0)
    if num < least:
        raise ValueError(
            f"init has {num} particles: give {least} or more for smc"
            f"{' with a dense mass matrix' if dense else ''}, better 1000, or use nuts"
        )


def _transition(log_density_fn, spec, reference):
    """blackjax's step from one temperature to the next."""
    with extras.needed("sampling"):
        from blackjax.smc import adaptive_tempered, resampling

    def log_weight(x):
        weight = log_density_fn(x) - reference.log_density(x)
        # Draws of the reference may lie outside of the support, where p is not defined.
        return jnp.where(jnp.isnan(weight), -jnp.inf, weight)

    def step(key, state, log_density_fn, step_size, factor):
        local = spec.kernel_fn(log_density_fn, step_size=step_size, factor=factor)
        return local.step(key, state)

    return adaptive_tempered.build_kernel(
        reference.log_density,
        log_weight,
        step,
        functools.partial(_init, spec),
        resampling.systematic,
        spec.share,
    )


def _init(spec, position, log_density_fn):
    return spec.kernel_fn(log_density_fn, step_size=1.0).init(position)


def _found(end, *, dense) -> Parameters:
    particles, weights, beta = end.particles
    num_lines, error = ancestry(end.lines)
    return Parameters(
        jnp.exp(end.log_step_size),
        factor_of(particles, weights, dense=dense),
        end.log_z,
        error,
        beta,
        end.num_temperatures,
        num_lines,
    )


def around(positions: Array) -> tempering.Reference:
    """Independent normals around the mean of positions [N, dim]; see `WIDTH`."""
    mean, std = jnp.mean(positions, axis=0), jnp.std(positions, axis=0)
    std = jnp.maximum(WIDTH * std, LEAST_WIDTH)

    def log_density(x):
        return jnp.sum(jax.scipy.stats.norm.logpdf(x, mean, std))

    def sample(key, shape, dtype):
        return mean + std * jax.random.normal(key, shape, dtype)

    return tempering.Reference(log_density, sample)


def ancestry(lines: Array) -> tuple[Array, Array]:
    """(effective number of first ancestors, standard error of log Z), scalars.

    lines: the first ancestor of every particle [N]. The error as of Lee and Whiteley
    (2018, Variance estimation in the particle filter), without what they subtract for
    the noise of multinomial resampling: systematic resampling has less, and the error
    is rather too large.
    """
    num = len(lines)
    together = jnp.sum((jnp.bincount(lines, length=num) / num) ** 2)
    return 1 / together, jnp.sqrt(together - 1 / num)


def factor_of(particles: Array, weights: Array, *, dense: bool) -> Array:
    """L of the covariance of weighted particles [N, dim]: [dim], or [dim, dim]."""
    mean = weights @ particles
    away = (particles - mean) * jnp.sqrt(weights)[:, None]
    variances = jnp.sum(away**2, axis=0)
    if not dense:
        return jnp.sqrt(variances)
    size = 1 / jnp.sum(weights**2)
    shrinkage = 5e-3 / (size + 5)
    covariance = away.T @ away
    covariance += shrinkage * (jnp.diag(variances) - covariance)
    return jnp.linalg.cholesky(covariance)


def correction(accepted: Array, target: Array) -> Array:
    """Added to the logarithm of the step size after moves that accepted so many: []."""
    return jnp.clip(jnp.log(accepted / target), -3.0, 1.0)
