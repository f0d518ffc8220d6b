"""The contract of a Markov chain kernel, the accept step, and the loop over steps.

Metropolis et al. 1953; Hastings 1970.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import checks, errors, random
from megjax.types import Array, Key, LogDensityFn, PyTree


class Info(NamedTuple):
    """What one step of one chain did; scalars.

    acceptance_rate: min(1, r); 0 where the proposal was not finite.
    is_accepted: whether the chain moved. Always true for Gibbs sweeps.
    is_divergent: whether a number of the proposed state was not finite, or HMC's path
        diverged.

    The names are blackjax's; the infos of other kernels may have more fields.

    >>> import jax.numpy as jnp
    >>> from megjax import Info
    >>> Info(jnp.array(0.8), jnp.array(True), jnp.array(False))._fields
    ('acceptance_rate', 'is_accepted', 'is_divergent')
    """

    acceptance_rate: Array
    is_accepted: Array
    is_divergent: Array


class Kernel(NamedTuple):
    """One Markov chain; the caller vmaps over chains.

    init: position -> state; caches the log-density and what else a step needs.
    step: (key, state) -> (state, Info)

    A state is a NamedTuple of arrays that has a field `position` and does not depend
    on the kernel's hyperparameters, so that a step size can change between steps.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import Info, Kernel
    >>> from megjax.types import Array
    >>> from typing import NamedTuple
    >>> class State(NamedTuple):
    ...     position: Array
    >>> def step(key, state):
    ...     moved = State(-state.position)
    ...     return moved, Info(jnp.ones(()), jnp.array(True), jnp.array(False))
    >>> state, info = Kernel(State, step).step(jax.random.key(0), State(jnp.ones(1)))
    >>> float(state.position[0])
    -1.0
    """

    init: Callable[[Array], Any]
    step: Callable[..., tuple[Any, Info]]


class Trajectory(NamedTuple):
    """A recorded run of one chain; T = num_steps // thin records.

    observations: what `observe` made of the state at the end of every window [T, ...].
    infos: means over every window, float32 [T]; `is_accepted` is then a fraction.
    """

    observations: PyTree
    infos: Info


def floats(position: Any) -> Array:
    """A position as an array of floats; ValueError where it is anything else."""
    if isinstance(position, np.ndarray | np.floating | float):
        checks.unmasked("position", position)
        position = jnp.asarray(np.asarray(position))
    if not isinstance(position, jax.Array):
        raise ValueError(  # noqa: TRY004
            f"position is {errors.kind(position)}: give one array of floats "
            "(megjax.sample takes PyTrees of them)"
        )
    if not jnp.issubdtype(position.dtype, jnp.floating):
        raise ValueError(
            f"position has type {position.dtype}: give floats, as of "
            "position.astype(jnp.float32)"
        )
    return position


def evaluated(
    log_density_fn: LogDensityFn, position: Array, *, has_aux: bool = False
) -> Any:
    """log_density_fn(position): a float [], or with `has_aux` a pair (float [], aux).

    Raises ValueError where it returns anything else, and in the place of what Python or
    JAX raise, with the line of the mistake. Under jit that costs no time: it happens as
    the density is traced.
    """
    try:
        found = log_density_fn(position)
    except errors.MISTAKES:
        raise
    except Exception as error:
        if errors.is_memory(error):
            raise
        raise ValueError(_mistake(error)) from error
    if has_aux and not (isinstance(found, tuple) and len(found) == 2):
        raise ValueError(
            f"log_density_fn returns {_form(found)} with has_aux=True: let it return "
            "(log-density, aux)."
        )
    _check_scalar(found[0] if has_aux else found)
    return found


def _check_scalar(value: Any) -> None:
    """ValueError unless a log-density is a float []."""
    known = isinstance(
        value, jax.Array | np.ndarray | np.generic | float | int | complex
    )
    if not known or jnp.shape(value):
        aux = " (has_aux=True for pairs)" if isinstance(value, tuple) else ""
        raise ValueError(
            f"log_density_fn returns {_form(value)} for one position, must be a scalar: "
            f"sum over data and dimensions{aux}; chains are vmapped by their caller."
        )
    dtype = jnp.result_type(value)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"log_density_fn returns {dtype}: must be a float.")


def _form(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"shape {shape}" if shape else errors.kind(value)


def _mistake(error: Exception) -> str:
    """What is wrong with a log-density that raised an error."""
    known = (
        (
            (
                jax.errors.TracerArrayConversionError,
                jax.errors.TracerIntegerConversionError,
            ),
            "calls NumPy, SciPy or Python on traced values",
            "use jax.numpy and jax.scipy there",
        ),
        (
            jax.errors.TracerBoolConversionError,
            "has a Python if, while, and, or, min or max on traced values",
            "use jnp.where, jnp.minimum or jax.lax.cond there",
        ),
        (
            jax.errors.NonConcreteBooleanIndexError,
            "picks elements by a condition",
            "use jnp.where(condition, x, 0) there",
        ),
        (
            jax.errors.ConcretizationTypeError,
            "makes Python numbers of traced values (float, int or .item())",
            "leave them arrays of jax.numpy there",
        ),
    )
    place = errors.own_place(error)
    for kinds, words, remedy in known:
        if isinstance(error, kinds):
            return f"log_density_fn {words}, {place or 'inside JAX'}: {remedy}."
    words = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return (
        f"log_density_fn fails ({', '.join(filter(None, (words, place)))}): correct it."
    )


def check_step_size(step_size: Any) -> None:
    """ValueError at a step size that is known and not a finite number above 0."""
    if isinstance(step_size, jax.core.Tracer):
        return
    try:
        usable = not np.ndim(step_size) and 0 < float(step_size) < np.inf
    except (TypeError, ValueError):
        usable = False
    if not usable or isinstance(step_size, str | bool):
        raise ValueError(f"step_size={step_size!r}: give a finite number above 0.")


def metropolis(
    key: Key, log_ratio: Array, state: PyTree, proposal: PyTree
) -> tuple[PyTree, Info]:
    """Moves to `proposal` with probability min(1, exp(log_ratio)).

    log_ratio: [], log p(x') q(x|x') - log p(x) q(x'|x). A proposal with any NaN or
    infinity in it (position, log-density, gradient) is rejected, as is a NaN ratio; a
    finite proposal from a state of zero density (ratio +inf) is accepted.
    """
    log_uniform = -jax.random.exponential(key, dtype=log_ratio.dtype)
    return accepted_move(log_uniform, log_ratio, state, proposal)


def accepted_move(
    log_uniform: Array,
    log_ratio: Array,
    state: PyTree,
    proposal: PyTree,
    is_finite: Array | None = None,
) -> tuple[PyTree, Info]:
    """`metropolis` for a logarithm of a uniform [] that is already drawn.

    is_finite: [], whether all of the proposal is finite, where a kernel can tell it from
    fewer numbers than all of them. Raises ValueError at a ratio that is no scalar: vmap
    over chains.
    """
    if jnp.ndim(log_ratio):
        raise ValueError(
            f"log_ratio has shape {jnp.shape(log_ratio)}: give that of one chain, a "
            "scalar, and vmap over chains."
        )
    if is_finite is None:
        is_finite = finite(proposal)
    log_ratio = jnp.where(is_finite & ~jnp.isnan(log_ratio), log_ratio, -jnp.inf)
    accepted = log_uniform < log_ratio
    moved = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), proposal, state)
    return moved, Info(jnp.exp(jnp.minimum(log_ratio, 0.0)), accepted, ~is_finite)


def finite(state: PyTree) -> Array:
    """Whether every number of a state is finite: []."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]
    return jnp.all(jnp.stack(leaves))


def noise(key: Key, position: Array) -> tuple[Array, Array]:
    """Standard normals shaped like a position [...], and the log of a uniform [].

    All that a Metropolis step draws, at once: on a cheap density random numbers are
    most of the cost of a step, and a key for each would be three more hashes.
    """
    dtype = jnp.float64 if position.dtype == jnp.float64 else jnp.float32
    uniform = random.uniform(key, (position.size + 1,), dtype)
    lowest = jnp.nextafter(jnp.asarray(-1, dtype), jnp.asarray(0, dtype))
    # Rounding may not take the left end, where the inverse is infinite.
    symmetric = jnp.maximum(lowest, 2 * uniform[1:] - 1)
    normal = jnp.asarray(np.sqrt(2), dtype) * jax.lax.erf_inv(symmetric)
    # 1 - u of a uniform u on [0, 1) is never 0.
    shaped = normal.astype(position.dtype).reshape(position.shape)
    return shaped, jnp.log1p(-uniform[0])


def mean(values: Array) -> Array:
    """Over the first axis, in float32."""
    return jnp.mean(values, axis=0, dtype=jnp.float32)


def chain(
    key: Key,
    kernel: Kernel,
    state: PyTree,
    num_steps: int,
    *,
    start: int | Array = 0,
    thin: int = 1,
    unroll: bool = False,
    observe: Callable[[Any], PyTree] = lambda state: state,
    summarize: Callable[[Array], Array] = mean,
) -> tuple[PyTree, Trajectory]:
    """Runs one chain for `num_steps` and returns its last state and its record.

    The key of step i is fold_in(key, start + i): a run in pieces (each with its own
    `start`) equals the run in one. `thin` keeps every thin-th observation, so memory
    grows with num_steps / thin only. `unroll` compiles the steps one after the other
    instead of a loop, in which convolutions are slow on CPU; for a few steps.
    summarize: of every number of a window's infos [thin, ...], by default the mean.
    Raises ValueError where thin does not divide num_steps, or one cannot be.
    """
    checks.whole("num_steps", num_steps, 0)
    checks.whole("thin", thin, 1)
    if num_steps % thin:
        raise ValueError(f"thin={thin} must divide num_steps={num_steps}.")
    # More turns than steps: scan keeps a loop of one turn, but none of zero.
    turns = num_steps + 1 if unroll else 1

    def one(state, index):
        return kernel.step(random.fold_in(key, index), state)

    def window(state, indices):
        state, infos = jax.lax.scan(one, state, indices, unroll=turns)
        return state, Trajectory(observe(state), jax.tree.map(summarize, infos))

    indices = (start + jnp.arange(num_steps)).reshape(-1, thin)
    return jax.lax.scan(window, state, indices, unroll=turns)
