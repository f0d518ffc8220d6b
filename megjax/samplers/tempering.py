"""Parallel tempering: replicas of a chain at several temperatures exchange positions.

Geyer 1991; swaps alternate between even and odd pairs, and the ladder makes all pairs
reject alike (Syed, Bouchard-Cote, Deligiannidis and Doucet 2022, Non-Reversible
Parallel Tempering).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import checks, distributed, random
from megjax.samplers import kernel as kernels
from megjax.samplers import mala, window_adaptation
from megjax.samplers.kernel import Kernel
from megjax.types import Array, Key, LogDensityFn, PyTree

HOTTEST_START = 1e-4
"""Of the inverse temperatures above 0 that a ladder down to a reference begins with."""


class Reference(NamedTuple):
    """A normalised density r that is drawn from exactly, at inverse temperature 0.

    log_density: x [dim] -> log r(x) []. sample: (key, shape, dtype) -> draws.
    """

    log_density: LogDensityFn
    sample: Callable[..., Array]


class Spec(NamedTuple):
    """How chains are tempered; for `megjax.sample(kernel=Spec(...))`.

    num_replicas: at different temperatures; about 1 + twice the barrier that the draws
        report is best.
    num_steps: of every replica between two swaps.
    lowest: inverse temperature, without a reference: p^lowest has to be integrable, and
        low enough to leave the modes.
    reference: with it the path is p^b r^(1 - b), b from 1 to 0, and the draws tell
        log Z. Of unbounded positions [dim].
    kernel_fn: `mala.mala` or `hmc.hmc`, perhaps with keywords bound; anything with
        their states that takes step_size, factor and has_aux. MALA is cheap where modes
        are round; posteriors of many dimensions want paths, as in the example.

    >>> import functools
    >>> from megjax.samplers import hmc, tempering
    >>> paths = functools.partial(hmc.hmc, num_integration_steps=10, jitter=1.0)
    >>> tempering.Spec(num_replicas=4, lowest=0.2, kernel_fn=paths).num_steps
    1
    """

    num_replicas: int = 12
    num_steps: int = 1
    lowest: float = 1e-3
    reference: Reference | None = None
    kernel_fn: Callable[..., Kernel] = mala.mala


class Parts(NamedTuple):
    """The density and the reference at one position: log-densities [], gradients [dim].

    Enough for the log-density of every temperature, without another evaluation.
    """

    log_density: Array
    gradient: Array
    log_reference: Array
    reference_gradient: Array


class State(NamedTuple):
    """One chain. position: [dim], that of the target, and its log_density [].

    replicas: states of the local kernels, K of them, the target's first; what they keep
        of their densities may be of another temperature, until the next step.
    returning: whether each has been at the hot end since it was the target [K].
    parity: of the pairs that swap next [].
    """

    position: Array
    log_density: Array
    replicas: Any
    returning: Array
    parity: Array


class Info(NamedTuple):
    """What a step did; scalars. Acceptance and divergence are those of the target.

    swap_rate: mean over pairs of neighbours of the probability to swap.
    round_trips: of replicas that came back from the hot end.
    num_integration_steps: local steps of all replicas; so many gradients with MALA.
    """

    acceptance_rate: Array
    is_accepted: Array
    is_divergent: Array
    swap_rate: Array
    round_trips: Array
    num_integration_steps: Array


class Parameters(NamedTuple):
    """What is learned of K replicas, L of which move by a local kernel.

    inverse_temperatures: [K]. step_sizes: [L]; L is K, or K - 1 with a reference.
    factors: of preconditioners, [L, dim] or [L, dim, dim].
    """

    inverse_temperatures: Array
    step_sizes: Array
    factors: Array | None = None


class Adaptation(NamedTuple):
    """Where a warm-up stands.

    search: `window_adaptation.Adaptation` of L local kernels. rejections: mean
    probability of pairs not to swap, summed over the window [K - 1]; count: its steps.
    """

    inverse_temperatures: Array
    search: window_adaptation.Adaptation
    rejections: Array
    count: Array


@functools.cache
def normal(mean: float, std: float) -> Reference:
    """Independent normals. Raises ValueError unless std is positive.

    >>> import jax.numpy as jnp
    >>> from megjax.samplers import tempering
    >>> float(tempering.normal(0.0, 1.0).log_density(jnp.zeros(2)))
    -1.8378770351409912
    """
    if not 0 < std < np.inf:
        raise ValueError(f"std={std}: must be positive and finite.")

    def log_density(x):
        return jnp.sum(jax.scipy.stats.norm.logpdf(x, mean, std))

    def sample(key, shape, dtype):
        return mean + std * jax.random.normal(key, shape, dtype)

    return Reference(log_density, sample)


def tempering(
    log_density_fn: LogDensityFn,
    *,
    inverse_temperatures: Array,
    step_sizes: Array,
    factors: Array | None = None,
    reference: Reference | None = None,
    kernel_fn: Callable[..., Kernel] = mala.mala,
    num_steps: int = 1,
) -> Kernel:
    """The kernel whose state holds K replicas of one chain; it targets the first's.

    inverse_temperatures: [K], decreasing from 1. Without a reference the replicas have
    p^b for densities, with one p^b r^(1 - b) and the last, of b = 0, is drawn from r in
    every step. step_sizes, factors: see `Parameters`; reference, kernel_fn, num_steps:
    see `Spec`. A swap costs no evaluation. Raises ValueError where the inverse
    temperatures, unless traced, do not fit.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.samplers.tempering import tempering
    >>> def log_density(x):
    ...     return jnp.logaddexp(-jnp.sum((x - 5) ** 2), -jnp.sum((x + 5) ** 2))
    >>> kernel = tempering(
    ...     log_density, inverse_temperatures=[1.0, 0.3, 0.1], step_sizes=[0.2, 0.6, 2.0]
    ... )
    >>> state, info = kernel.step(jax.random.key(0), kernel.init(jnp.ones(2)))
    >>> state.position.shape, int(info.num_integration_steps)
    ((2,), 3)
    """
    _check(inverse_temperatures, step_sizes, reference, num_steps)
    betas, step_sizes = jnp.asarray(inverse_temperatures), jnp.asarray(step_sizes)
    parameters = Parameters(betas, step_sizes, factors)
    spec = Spec(len(betas), num_steps, reference=reference, kernel_fn=kernel_fn)
    fixed = (log_density_fn, spec, parameters)
    return Kernel(functools.partial(init, *fixed[:2]), functools.partial(step, *fixed))


def init(log_density_fn: LogDensityFn, spec: Spec, position: Array) -> State:
    """All replicas at one position [dim]."""
    replica = _local(log_density_fn, spec, 1.0, step_size=1.0).init(position)
    num = spec.num_replicas
    replicas = jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *x.shape)), replica)
    returning = jnp.zeros(num, bool)
    return State(position, replica.aux.log_density, replicas, returning, jnp.int32(0))


def step(
    log_density_fn: LogDensityFn,
    spec: Spec,
    parameters: Parameters,
    key: Key,
    state: State,
) -> tuple[State, Info]:
    """Local steps of all replicas, then swaps of every second pair."""
    state, infos, rates, round_trips = moved(
        log_density_fn, spec, parameters, key, state
    )
    num_local = len(parameters.step_sizes)
    num = num_local * spec.num_steps + spec.num_replicas - num_local
    info = Info(
        infos.acceptance_rate[0],
        infos.is_accepted[0] > 0,
        infos.is_divergent[0] > 0,
        jnp.mean(rates),
        round_trips,
        jnp.int32(num),
    )
    return state, info


def moved(log_density_fn, spec, parameters, key, state):
    """(state, infos of local kernels [L], rates of pairs to swap [K - 1], round trips).

    The rates are of all pairs, whether it is their turn or not.
    """
    replicas, infos = explored(log_density_fn, spec, parameters, key, state.replicas)
    num = spec.num_replicas
    # All bits of a step come from its key, as the replicas' do.
    uniform = random.uniform(random.fold_in(key, num), (num - 1,))
    log_ratios = swap_log_ratios(
        parameters.inverse_temperatures, log_weights(replicas.aux)
    )
    turn = jnp.arange(num - 1) % 2 == state.parity
    swaps = turn & (jnp.log1p(-uniform) < log_ratios)
    replicas, returning = swapped((replicas, state.returning), swaps)
    returning = returning.at[-1].set(True)
    round_trips = returning[0].astype(jnp.int32)
    returning = returning.at[0].set(False)
    first = jax.tree.map(lambda leaf: leaf[0], replicas)
    state = State(
        first.position, first.aux.log_density, replicas, returning, 1 - state.parity
    )
    return state, infos, jnp.exp(jnp.minimum(log_ratios, 0)), round_trips


def explored(log_density_fn, spec, parameters, key, replicas):
    """Replicas [K] after their local steps, and means of the infos of these [L]."""

    def one(index, beta, step_size, factor, replica):
        local = _local(log_density_fn, spec, beta, step_size=step_size, factor=factor)
        replica, trajectory = kernels.chain(
            random.fold_in(key, index),
            local,
            renewed(replica, beta),
            spec.num_steps,
            thin=spec.num_steps,
            observe=lambda state: (),
        )
        return replica, jax.tree.map(lambda mean: mean[0], trajectory.infos)

    betas, step_sizes, factors = parameters
    num = len(step_sizes)
    local = jax.tree.map(lambda leaf: leaf[:num], replicas)
    found, infos = jax.vmap(one)(
        jnp.arange(num), betas[:num], step_sizes, factors, local
    )
    if spec.reference:
        like = replicas.position[0]
        key = random.fold_in(key, spec.num_replicas + 1)
        x = spec.reference.sample(key, like.shape, like.dtype)
        fresh = _local(log_density_fn, spec, 0.0, step_size=1.0).init(x)
        found = jax.tree.map(
            lambda some, one: jnp.concatenate([some, one[None]]), found, fresh
        )
    return found, infos


def tempered(
    log_density_fn: LogDensityFn, reference: Reference | None, beta: float | Array
) -> Callable[[Array], tuple[Array, Parts]]:
    """x [dim] -> (log p^b r^(1 - b), its parts), for kernels with has_aux."""

    def log_density(x):
        fixed = jax.lax.stop_gradient(x)
        parts = Parts(
            *jax.value_and_grad(log_density_fn)(fixed),
            *(
                jax.value_and_grad(reference.log_density)(fixed)
                if reference
                else (jnp.zeros((), x.dtype), jnp.zeros_like(x))
            ),
        )
        value, gradient = mixed(parts, beta)
        # Its value, with a gradient that is at hand already.
        return value + jnp.sum(gradient * (x - fixed)), parts

    return log_density


def mixed(parts: Parts, beta: float | Array) -> tuple[Array, Array]:
    """The log-density [] at an inverse temperature, and its gradient [dim]."""
    p, gradient, r, reference_gradient = parts
    return (
        beta * p + (1 - beta) * r,
        beta * gradient + (1 - beta) * reference_gradient,
    )


def renewed(replica: PyTree, beta: Array) -> PyTree:
    """The state of a local kernel, kept numbers of which are of another temperature."""
    value, gradient = mixed(replica.aux, beta)
    value, gradient = (
        value.astype(replica.log_density.dtype),
        gradient.astype(replica.gradient.dtype),
    )
    return replica._replace(log_density=value, gradient=gradient)


def log_weights(parts: Parts) -> Array:
    """log p - log r, of which a step in inverse temperature is a multiple: [...].

    -inf where p is not defined, as draws of the reference may lie outside of its support.
    """
    weights = parts.log_density - parts.log_reference
    return jnp.where(jnp.isnan(weights), -jnp.inf, weights)


def swap_log_ratios(inverse_temperatures: Array, log_weights: Array) -> Array:
    """log [p_i(x_j) p_j(x_i) / p_i(x_i) p_j(x_j)] of neighbours, [..., K] -> [..., K - 1].

    With w = log p - log r it is (b_i - b_j) (w_j - w_i).

    >>> import jax.numpy as jnp
    >>> from megjax.samplers import tempering
    >>> tempering.swap_log_ratios(jnp.array([1.0, 0.5]), jnp.array([-1.0, -3.0])).tolist()
    [-1.0]
    """
    betas = inverse_temperatures
    changes = log_weights[..., 1:] - log_weights[..., :-1]
    ratios = (betas[:-1] - betas[1:]) * changes
    return jnp.where(jnp.isnan(ratios), -jnp.inf, ratios)


def swapped(tree: PyTree, swaps: Array) -> PyTree:
    """Leaves [K, ...] with rows i and i + 1 exchanged where swaps [K - 1]."""
    none = jnp.zeros(1, bool)
    down, up = jnp.concatenate([swaps, none]), jnp.concatenate([none, swaps])

    def one(leaf):
        shape = (-1,) + (1,) * (leaf.ndim - 1)
        before, after = jnp.roll(leaf, 1, 0), jnp.roll(leaf, -1, 0)
        leaf = jnp.where(down.reshape(shape), after, leaf)
        return jnp.where(up.reshape(shape), before, leaf)

    return jax.tree.map(one, tree)


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    checks.whole("num_replicas", spec.num_replicas, 2)
    checks.whole("num_steps", spec.num_steps, 1)
    checks.number("lowest", spec.lowest)
    if not 0 < spec.lowest < 1:
        raise ValueError(f"lowest={spec.lowest}: want between 0 and 1.")
    return spec._replace(lowest=float(spec.lowest))


def ladder(spec: Spec) -> np.ndarray:
    """The inverse temperatures that a warm-up begins with [K]: geometric, then 0.

    Raises ValueError at numbers out of range.
    """
    spec = checked(spec)
    num, lowest, has_end = spec.num_replicas, spec.lowest, spec.reference is not None
    lowest = HOTTEST_START if has_end else lowest
    betas = np.geomspace(1.0, lowest, num - has_end) if num - has_end > 1 else [1.0]
    return np.append(betas, 0.0 if has_end else []).astype(np.float32)


def begin(
    log_density_fn: LogDensityFn, spec: Spec, positions: Array, *, dense: bool
) -> tuple[State, Adaptation]:
    """States of chains at positions [chains, dim], and a warm-up that begins."""
    betas = jnp.asarray(ladder(spec))
    states = jax.vmap(functools.partial(init, log_density_fn, spec))(positions)
    num = len(betas) - (spec.reference is not None)
    search = window_adaptation.fresh(positions.shape[1], dense=dense)
    search = jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *x.shape)), search)
    return states, Adaptation(betas, search, jnp.zeros(len(betas) - 1), jnp.float32(0))


def advance(
    key: Key,
    log_density_fn: LogDensityFn,
    spec: Spec,
    states: State,
    adapted: Adaptation,
    steps: tuple[Array, Array],
    windows: tuple[Array, Array],
    target_acceptance: Array,
) -> tuple[State, Adaptation]:
    """The warm-up from one step up to another; as `window_adaptation.advance`.

    At the end of every window the ladder is laid anew, see `spread`.
    """
    first, ends = windows
    keys = jax.random.split(key, len(states.position))

    def one(index, carry):
        states, adapted = carry
        step_keys = jax.vmap(random.fold_in, (0, None))(keys, index)
        step_fn = functools.partial(moved, log_density_fn, spec, _now(adapted))
        states, infos, rates, _ = jax.vmap(step_fn)(step_keys, states)
        found = distributed.whole((infos.acceptance_rate, 1 - rates))
        acceptance, rejections = (jnp.mean(x, axis=0) for x in found)
        acceptance = jnp.nan_to_num(acceptance).astype(jnp.float32)
        tune = jax.vmap(window_adaptation.tuned, (0, 0, None))
        search = tune(adapted.search, acceptance, target_acceptance)
        x = distributed.whole(states.replicas.position[:, : len(acceptance)])
        moments = jax.vmap(window_adaptation.joined, (0, 1))(search.moments, x)
        inside = (index >= first) & (index < jnp.max(ends))
        search = search._replace(
            moments=jax.tree.map(
                lambda a, b: jnp.where(inside, a, b), moments, search.moments
            )
        )
        adapted = adapted._replace(
            search=search,
            rejections=adapted.rejections + jnp.where(inside, rejections, 0),
            count=adapted.count + inside,
        )
        adapted = jax.lax.cond(jnp.any(index + 1 == ends), _laid, _same, adapted)
        return states, adapted

    return jax.lax.fori_loop(*steps, one, (states, adapted))


def parameters(adapted: Adaptation) -> Parameters:
    """What the warm-up recommends to freeze."""
    step_sizes = jnp.exp(adapted.search.tuner.log_average)
    return Parameters(adapted.inverse_temperatures, step_sizes, adapted.search.factor)


def spread(inverse_temperatures: Array, rejections: Array) -> Array:
    """The ladder [K] on which all pairs would reject alike, its ends as they are.

    rejections: mean probabilities not to swap [K - 1]. Their sum up to a temperature is
    its communication barrier, which does not depend on the ladder if that is fine
    (Syed et al., section 5.1); interpolated in log b, and below the last b above 0 in b.

    >>> import jax.numpy as jnp
    >>> from megjax.samplers import tempering
    >>> betas = tempering.spread(jnp.array([1.0, 0.1, 0.01]), jnp.array([0.6, 0.2]))
    >>> [round(float(b), 2) for b in betas]
    [1.0, 0.22, 0.01]
    """
    betas = inverse_temperatures
    # Pairs that never reject keep an order, too.
    steps = jnp.concatenate([jnp.zeros(1), jnp.cumsum(rejections + 1e-3)])
    levels = jnp.linspace(0, steps[-1], len(betas))
    inner = jnp.exp(jnp.interp(levels, steps, _log(betas, betas))) - _offset(betas)
    ends = jnp.zeros(len(betas), bool).at[jnp.array([0, -1])].set(True)
    return jnp.where(ends, betas, inner)


def log_normaliser(
    inverse_temperatures: np.ndarray, log_weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """(log Z of p, what each draw adds to its error), of log_weights [chains, draws, K].

    From a reference up: ratios of normalisers of neighbours by bridge sampling with the
    geometric mean of the two for a bridge (Meng and Wong 1996), which is a stepping
    stone from both sides. The additions [chains, draws] have mean 0, to first order in
    the error, and hold the correlations among replicas.
    """
    weights = np.asarray(log_weights, np.float64)
    total, added = 0.0, 0.0
    for i, change in enumerate(-np.diff(np.float64(inverse_temperatures))):
        for sign, k in ((1, i + 1), (-1, i)):
            terms = sign * change / 2 * weights[..., k]
            highest = np.max(terms)
            ratios = np.exp(terms - highest)
            total += sign * (highest + np.log(np.mean(ratios)))
            added = added + sign * (ratios / np.mean(ratios) - 1)
    return float(total), added


def _check(inverse_temperatures, step_sizes, reference, num_steps):
    if isinstance(inverse_temperatures, jax.core.Tracer):
        return
    betas = np.asarray(inverse_temperatures, np.float64)
    end = 0.0 if reference else None
    fits = betas.ndim == 1 and len(betas) > 1 and betas[0] == 1
    fits = fits and np.all(np.diff(betas) < 0)
    if not fits or (betas[-1] != end if reference else betas[-1] <= 0):
        last = "the last 0" if reference else "all above 0"
        raise ValueError(
            f"inverse_temperatures={betas.tolist()}: want two or more that decrease "
            f"from 1, {last}."
        )
    num = len(betas) - (reference is not None)
    if np.shape(step_sizes) != (num,):
        raise ValueError(
            f"step_sizes has shape {np.shape(step_sizes)}: want ({num},), one for every "
            "inverse temperature above 0."
        )
    checks.whole("num_steps", num_steps, 1)


def _local(log_density_fn, spec, beta, *, step_size, factor=None) -> Kernel:
    """The local kernel of a replica."""
    density = tempered(log_density_fn, spec.reference, beta)
    own = {} if factor is None else {"factor": factor}
    return spec.kernel_fn(density, step_size=step_size, has_aux=True, **own)


def _now(adapted) -> Parameters:
    step_sizes = jnp.exp(adapted.search.tuner.log_step_size)
    return Parameters(adapted.inverse_temperatures, step_sizes, adapted.search.factor)


def _same(adapted):
    return adapted


def _laid(adapted) -> Adaptation:
    """The end of a window: a new ladder, and what was learned moved on to it."""
    betas, search, rejections, count = adapted
    new = spread(betas, rejections / jnp.maximum(count, 1))
    search = jax.vmap(window_adaptation.renewed)(search)
    num = len(search.direction)
    # jnp.interp wants ascending places; beyond the last one it keeps its value.
    old_at, new_at = (-_log(b[:num], betas) for b in (betas, new))

    def onto(values):
        columns = values.reshape(num, -1)
        moved = jax.vmap(lambda c: jnp.interp(new_at, old_at, c), 1, 1)(columns)
        return moved.reshape(values.shape)

    tuner = jax.vmap(window_adaptation.adaptation.tuner)(
        jnp.exp(onto(search.tuner.log_average))
    )
    search = search._replace(tuner=tuner, factor=onto(search.factor))
    zeros = jnp.zeros_like(rejections), jnp.zeros_like(count)
    laid = Adaptation(new, search, *zeros)
    return jax.tree.map(lambda a, b: a.astype(b.dtype), laid, adapted)


def _offset(betas):
    """Added to inverse temperatures before the logarithm, so that 0 has one."""
    return jnp.where(betas[-1] > 0, 0.0, betas[-2])


def _log(values, betas):
    return jnp.log(values + _offset(betas))
