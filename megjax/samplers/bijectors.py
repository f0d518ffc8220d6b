"""Chains that move in unbounded values u of positions x that have bounds.

Names as in TensorFlow Probability (Dillon et al. 2017). The logit of images: Dinh,
Sohl-Dickstein and Bengio 2017 (Real NVP), section 4.1.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from megjax import checks
from megjax.samplers.kernel import Kernel
from megjax.types import Array, LogDensityFn, PyTree


class Bijector(NamedTuple):
    """A smooth bijection of unbounded values u [...] and positions x [...].

    forward: u -> x. inverse: x -> u. Both act on any leading axes.
    forward_log_det: log |det dx / du| at u, of one position [...] -> [].
    limit: no |x| is beyond it.

    >>> from megjax import positive
    >>> positive().forward(positive().inverse(3.0))
    Array(3., dtype=float32, weak_type=True)
    """

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    forward_log_det: Callable[[Array], Array]
    limit: float = math.inf


IDENTITY = Bijector(lambda u: u, lambda x: x, lambda u: jnp.zeros((), u.dtype))


def affine(mean: Array, scale: Array) -> Bijector:
    """x = mean + scale u of vectors [D], for chains that move in units of their own."""
    return Bijector(
        lambda u: mean + scale * u,
        lambda x: (x - mean) / scale,
        lambda u: jnp.sum(jnp.log(jnp.abs(scale))) + jnp.zeros((), u.dtype),
    )


def positive(shape: str = "exp") -> Bijector:
    """Positions above 0: x = exp(u), or log(1 + exp(u)) with shape="softplus".

    exp suits scales and rates; softplus suits densities that fall fast for large x.
    Raises ValueError at another shape.

    >>> import jax.numpy as jnp
    >>> from megjax import positive
    >>> scale = positive()
    >>> float(scale.forward(jnp.zeros(()))), float(scale.inverse(jnp.ones(())))
    (1.0, 0.0)
    """
    if not isinstance(shape, str) or shape not in ("exp", "softplus"):
        raise ValueError(f"shape={shape!r:.60}: choose 'exp' or 'softplus'.")
    return _positive(shape)


# Equal arguments give the same functions, which compiled programs are found by.
@functools.cache
def _positive(shape: str) -> Bijector:
    if shape == "exp":
        return Bijector(jnp.exp, jnp.log, jnp.sum)
    return Bijector(
        jax.nn.softplus,
        lambda x: x + jnp.log(-jnp.expm1(-x)),
        lambda u: jnp.sum(jax.nn.log_sigmoid(u)),
    )


def interval(low: float, high: float) -> Bijector:
    """Positions strictly between two bounds: x = low + (high - low) sigmoid(u).

    One of them may be infinite: low + exp(u), or high - exp(u). Raises ValueError unless
    low < high, one at least finite.

    >>> import jax.numpy as jnp
    >>> from megjax import interval
    >>> rate = interval(0.0, 1.0)
    >>> float(rate.forward(jnp.zeros(()))), round(float(rate.inverse(jnp.array(0.5))), 6)
    (0.5, 0.0)
    >>> float(interval(-jnp.inf, 2.0).forward(jnp.zeros(())))
    1.0
    """
    for name, end in (("low", low), ("high", high)):
        checks.number(name, end)
    if not low < high or math.isinf(low) and math.isinf(high):
        raise ValueError(
            f"low={low}, high={high}: want numbers, low < high, not both infinite."
        )
    if math.isinf(low) or math.isinf(high):
        return _half_line(*((low, 1) if math.isinf(high) else (high, -1)))
    return _interval(float(low), float(high))


@functools.cache
def _half_line(end: float, sign: int) -> Bijector:
    """x = end + sign exp(u)."""

    def forward(u):
        x = end + sign * jnp.exp(u)
        # As in `_interval`.
        first = jnp.asarray(end, x.dtype)
        tiny = sign * jnp.finfo(x.dtype).tiny
        first = jnp.where(
            first == 0, tiny, jnp.nextafter(first, first + sign * jnp.inf)
        )
        return jnp.maximum(x, first) if sign > 0 else jnp.minimum(x, first)

    return Bijector(forward, lambda x: jnp.log(sign * (x - end)), jnp.sum)


@functools.cache
def _interval(low: float, high: float) -> Bijector:
    def forward(u):
        x = low + (high - low) * jax.nn.sigmoid(u)
        ends = jnp.asarray([low, high], x.dtype)
        # Rounding may not reach the ends, where densities are often infinite; next to 0
        # are numbers that devices take for 0.
        tiny = jnp.finfo(x.dtype).tiny * jnp.asarray([1, -1], x.dtype)
        inner = jnp.where(ends == 0, tiny, jnp.nextafter(ends, ends[::-1]))
        return jnp.clip(x, *inner)

    def inverse(x):
        return jnp.log(x - low) - jnp.log(high - x)

    def forward_log_det(u):
        slopes = jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u)
        return jnp.sum(math.log(high - low) + slopes)

    return Bijector(forward, inverse, forward_log_det, max(abs(low), abs(high)))


def logit(alpha: float = 0.05) -> Bijector:
    """u = logit(alpha + (1 - 2 alpha) (x + 1) / 2), so that [-1, 1] is within bounds.

    Symmetric, and written 2 artanh((1 - 2 alpha) x). Raises ValueError unless alpha is
    between 0 and 1/2.
    """
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha={alpha}: give a number between 0 and 0.5.")
    scale = 1 - 2 * alpha

    def forward_log_det(u):
        slopes = math.log(2 / scale) - jax.nn.softplus(u) - jax.nn.softplus(-u)
        return jnp.sum(slopes)

    return Bijector(
        lambda u: jnp.tanh(u / 2) / scale,
        lambda x: 2 * jnp.arctanh(scale * x),
        forward_log_det,
        1 / scale,
    )


def tree(bijectors: PyTree, like: PyTree) -> Bijector:
    """The bijector of a PyTree of variables, of those of its parts.

    bijectors: one for all variables, or a PyTree with one, or None, in the place of
    every variable or branch of `like`; of a dict it may leave keys out. Raises
    ValueError where the two do not fit.
    """
    leaves, treedef = jax.tree.flatten(like)
    return _tree(tuple(_spread(bijectors, like, "")), treedef, len(leaves))


@functools.lru_cache(maxsize=64)
def _tree(parts, treedef, num) -> Bijector:
    """The same functions for the same parts."""

    def apply(name, values):
        flat = zip(parts, treedef.flatten_up_to(values), strict=True)
        return [getattr(part, name)(value) for part, value in flat]

    return Bijector(
        lambda u: treedef.unflatten(apply("forward", u)),
        lambda x: treedef.unflatten(apply("inverse", x)),
        lambda u: sum(apply("forward_log_det", u)),
    )


def _spread(bijectors, like, place) -> list[Bijector]:
    """A bijector for every leaf of `like`."""
    if bijectors is None or isinstance(bijectors, Bijector):
        return [bijectors or IDENTITY] * len(jax.tree.leaves(like))
    pairs = None
    if isinstance(bijectors, dict) and isinstance(like, dict):
        if unknown := sorted(map(str, bijectors.keys() - like.keys())):
            raise ValueError(
                f"bijector names {unknown[0]!r}, and init{place} has {sorted(like)}."
            )
        # Not every kind of dict has its leaves in the order of sorted keys.
        parts, _ = jax.tree.flatten_with_path(like, is_leaf=lambda x: x is not like)
        pairs = {path[0].key: (bijectors.get(path[0].key), x) for path, x in parts}
    elif isinstance(bijectors, list | tuple) and isinstance(like, list | tuple):
        if len(bijectors) != len(like):
            raise ValueError(
                f"bijector{place} has {len(bijectors)} parts, init{place} {len(like)}."
            )
        pairs = dict(enumerate(zip(bijectors, like, strict=True)))
    if pairs is None:
        raise ValueError(
            f"bijector{place} is a {type(bijectors).__name__}: give a Bijector, or a "
            "PyTree of them like init."
        )
    return [b for k, pair in pairs.items() for b in _spread(*pair, f"{place}[{k!r}]")]


def density(
    log_density_fn: LogDensityFn, bijector: Bijector, *, has_aux: bool = False
) -> LogDensityFn:
    """The log-density of u where positions x have `log_density_fn`.

    has_aux: both return (value, aux).
    """

    def unbounded(u):
        found = log_density_fn(bijector.forward(u))
        value, aux = found if has_aux else (found, None)
        value = value + bijector.forward_log_det(u)
        return (value, aux) if has_aux else value

    return unbounded


class State(NamedTuple):
    """position: x [...]; inner: the state of the chain in u; aux: of the density."""

    position: Array
    inner: Any
    aux: Any = None


def transformed(
    kernel_fn: Callable[..., Kernel],
    log_density_fn: LogDensityFn,
    bijector: Bijector,
    *,
    has_aux: bool = False,
) -> Kernel:
    """The kernel of a density of x whose chain moves in u.

    kernel_fn: log-density of u -> Kernel; with `has_aux` it gets that, too, and states
        have an `aux`.
    """
    log_density_fn = density(log_density_fn, bijector, has_aux=has_aux)
    inner = kernel_fn(log_density_fn, **({"has_aux": True} if has_aux else {}))
    observed = functools.partial(_observed, bijector)

    def step(key, state):
        moved, info = inner.step(key, state.inner)
        return observed(moved), info

    return Kernel(lambda x: observed(inner.init(bijector.inverse(x))), step)


def _observed(bijector, inner) -> State:
    return State(bijector.forward(inner.position), inner, getattr(inner, "aux", None))
