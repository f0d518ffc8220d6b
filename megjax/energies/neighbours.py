"""The energy of a table: log distances to its nearest rows, in three maps of columns.

Mean distances to the nearest rows rank anomalies (Angiulli and Pizzuti 2002). Half of
the neighbourhood's own scale is taken out of their logarithm, as from the widths of an
adaptive kernel estimate (Abramson 1982). Columns are seen by mean and deviation, by
median and quartiles, and by the arcsinh of the latter. Outside the ranges of the
columns a guard lifts the energy above that of every row inside.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax.types import Array

State = dict[str, Any]
"""Of a fit; data only: rows [n, F], their radii [3, n], scales of columns [..., F]."""

_CHUNK = 512
_LARGEST_CHUNK = 2**26
"""Numbers of the candidates of a chunk of rows: 256 MiB."""
_SPARE = 8
"""Candidates beyond those asked for: products in float32 misplace near ones."""
_LARGEST = 1e15
"""Of a mapped value: squares of more overflow in float32."""
_FLOOR = 0.01
"""Of the usual radius: what is added to distances, lest equal rows have none."""


class _Near(NamedTuple):
    """The stored rows nearest to rows x in each map, nearest first."""

    x: np.ndarray  # [N, F]
    mapped: np.ndarray  # [3, N, F]
    distances: np.ndarray  # [3, N, 2 k + 2]
    indices: np.ndarray  # [3, N, 2 k + 2]


def fit(
    rows: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    *,
    num_neighbors: float = 5,
) -> State:
    """The state of the energy of rows [n, F], finite float64 or float32.

    low, high: ranges [F] of the columns where the rows are a sample of more rows.
    num_neighbors: nearest rows in a mean distance, or their share of the rows, 5 rows at
        least; fewer where there are few rows.

    >>> import numpy as np
    >>> from megjax.energies import neighbours
    >>> state = neighbours.fit(np.random.default_rng(0).normal(size=(100, 2)))
    >>> near, far = neighbours.energy(state, np.array([[0.0, 0.0], [9.0, 0.0]]))
    >>> bool(near < far)
    True
    """
    low = rows.min(0) if low is None else low
    high = rows.max(0) if high is None else high
    state = {"rows": rows} | scales(rows, low, high)
    if isinstance(num_neighbors, float | np.floating):
        num_neighbors = max(5, round(num_neighbors * len(rows)))
    # Two are needed besides: the row itself, and one to spare where it is left out.
    state["num_neighbors"] = max(1, min(num_neighbors, len(rows) - 2))
    state["radius"], state["further"] = _radii(state)
    state["middle"] = np.array(
        [np.median(r[r > 0]) if r.any() else 1.0 for r in state["radius"]]
    )
    return state | {"guard": _guard(state)}


def _radii(state: State) -> tuple[np.ndarray, np.ndarray]:
    """Of stored rows, the mean distance to the next others, and that of one more: [3, n].

    Twice as many others as neighbours, for a steadier scale.
    """
    num = _num_others(state)
    if num == 0:
        return np.zeros((3, 1)), np.zeros((3, 1))
    found = np.concatenate([n.distances for n in _found(state, state["rows"])], axis=1)
    further = found[..., min(num + 1, len(state["rows"]) - 1)]
    return found[..., 1 : num + 1].mean(-1), further


def _num_others(state: State) -> int:
    """How many others a radius is of."""
    num_rows = len(state["rows"])
    return min(2 * state["num_neighbors"], max(num_rows - 2, num_rows // 2))


def energy(state: State, x: np.ndarray, *, new: bool = False) -> np.ndarray:
    """The energies, float64 [N], of rows x [N, F]; finite, high for anomalies.

    A row that equals a stored one is taken to be that row, which is none of its own
    neighbours: stored rows get leave-one-out energies. new: whether none is one.
    """
    found = [
        np.sum(_terms(state, near, new), axis=0) + np.sum(_guarded(state, near.x), 0)
        for near in _found(state, x)
    ]
    return np.concatenate(found)


def shares(state: State, x: np.ndarray) -> np.ndarray:
    """Each column's part in the energies of rows x [N, F]: [N, F], of sum 1.

    A mean distance d is the sum over columns j of x_j dd/dx_j, measured from the
    neighbours; these are its parts, each map's with weight 1. What the guard adds goes
    to the columns that are furthest outside their ranges.
    """
    stored = mapped(state, state["rows"])
    return np.concatenate([_parts(state, stored, near) for near in _found(state, x)])


def _parts(state: State, stored: np.ndarray, near: _Near) -> np.ndarray:
    """`shares` of one chunk [B, F]."""
    num_maps, num_rows, num_features = near.mapped.shape
    total = np.zeros((num_rows, num_features))
    is_stored = _is_stored(state, near, new=False)
    chosen = is_stored[:, None] + np.arange(state["num_neighbors"])
    for m in range(num_maps):
        indices = np.take_along_axis(near.indices[m], chosen, 1)
        squares = np.float64(near.mapped[m][:, None] - stored[m][indices]) ** 2
        distances = np.sqrt(squares.sum(-1, keepdims=True))
        parts = (squares / np.maximum(distances, 1e-300)).sum(1)
        whole = parts.sum(1, keepdims=True)
        total += np.where(
            whole > 0, parts / np.maximum(whole, 1e-300), 1 / num_features
        )
    outside = excess(state, near.x)
    worst = outside == outside.max(1, keepdims=True)
    lift = np.sum(_guarded(state, near.x), axis=0)[:, None]
    total += lift * worst / worst.sum(1, keepdims=True)
    return total / (num_maps + lift)


def _terms(state: State, near: _Near, new: bool) -> np.ndarray:
    """log(d + floor) - log(mean radius) / 2 of every map: [3, B]."""
    is_stored = _is_stored(state, near, new)
    chosen = (is_stored[:, None] + np.arange(state["num_neighbors"]))[None]
    distances = np.take_along_axis(near.distances, chosen, 2)
    indices = np.take_along_axis(near.indices, chosen, 2)
    radius = _radii_of(state, distances, indices, is_stored).mean(-1)
    floor = _FLOOR * state["middle"][:, None]
    return np.log(distances.mean(-1) + floor) - np.log(radius) / 2


def _radii_of(
    state: State, distances: np.ndarray, indices: np.ndarray, is_stored: np.ndarray
) -> np.ndarray:
    """Clipped radii of neighbours [3, B, k]; those of a stored row without that row.

    Where that row is among a neighbour's others, one more takes its place.
    """
    radius, further = (
        np.stack([values[i] for values, i in zip(state[name], indices)])
        for name in ("radius", "further")
    )
    gain = np.maximum(further - distances, 0) / max(_num_others(state), 1)
    middle = state["middle"][:, None, None]
    return np.clip(radius + gain * is_stored[:, None], middle / 10, middle * 10)


def _is_stored(state: State, near: _Near, new: bool) -> np.ndarray:
    """Whether rows are taken to be stored ones: [B]."""
    return np.all(near.distances[..., 0] == 0, axis=0) & (
        not new and len(state["rows"]) > 1
    )


def left_out_guard(state: State) -> np.ndarray:
    """What the guard would add to stored rows, each over the ranges without it: [n].

    Their energies are of other rows already; with this they are as those of new rows.
    """
    x = _in_units(state, state["rows"])
    if len(x) < 3:
        return np.zeros(len(x))
    low, high, span = (state[name] for name in ("low", "high", "span"))
    next_low, next_high = np.partition(x, (1, -2), axis=0)[[1, -2]]
    # A column that is constant without the row keeps its unit of length.
    above, below = (
        np.where(width > 0, outside / np.where(width > 0, width, 1), outside / span)
        for outside, width in (
            ((x - next_high) * (x == high), next_high - low),
            ((next_low - x) * (x == low), high - next_low),
        )
    )
    return np.sum(_lifts(state, np.maximum(above, below).max(1)), axis=0)


def _guarded(state: State, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the guard adds [B]: a lift from half a range outside, and its increase."""
    return _lifts(state, excess(state, x).max(1))


def _lifts(state: State, worst: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`_guarded` of rows that are at worst so many ranges outside: [B]."""
    return state["guard"] * np.clip(2 * worst - 1, 0, 1), np.log1p(worst)


def excess(state: State, x: np.ndarray) -> np.ndarray:
    """How far each value lies outside its column's range, in ranges: [N, F]."""
    x = _in_units(state, x)
    outside = np.maximum(x - state["high"], state["low"] - x)
    with np.errstate(over="ignore"):
        return np.clip(outside / state["span"], 0, 1e300)


def _guard(state: State) -> float:
    """The lift that parts rows one range outside from all rows within the ranges.

    Within, no distance exceeds the diameter of the ranges; one range outside, none is
    less than that column's width.
    """
    low, high, span = state["low"], state["high"], state["span"]
    low_out, low_in, high_in, high_out = np.moveaxis(
        _maps(state, np.stack([low - span, low, high, high + span])), 1, 0
    ).astype(np.float64)
    largest = np.sqrt(np.sum((high_in - low_in) ** 2, axis=-1))
    smallest = np.minimum(high_out - high_in, low_in - low_out).min(-1)
    middle = state["middle"]
    radius = np.clip(state["radius"].T, middle / 10, middle * 10)
    # Radii are larger yet where a stored row is left out, and its energy less.
    above = np.log(largest + _FLOOR * middle) - np.log(radius.min(0)) / 2
    below = np.log(smallest + _FLOOR * middle) - np.log(radius.max(0)) / 2
    return max(float(np.sum(above - below)), 0.0) + 0.01


def scales(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> State:
    """Units [F], ranges [F], centers [3, F] and scales [3, F] of columns of rows [n, F].

    Units are powers of two, so that nothing overflows and no bit is lost. A constant
    column's range is 1, or its value where that is less.
    """
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    unit = np.ldexp(1.0, np.where(largest > 0, np.frexp(largest)[1] - 1, 0))
    rounding = 4 * np.finfo(rows.dtype).eps * largest / unit
    low, high, rows = low / unit, high / unit, rows / unit
    constant = high - low <= rounding
    one = np.where(largest > 0, np.minimum(largest, 1), 1) / unit
    span = np.where(constant, one, high - low)

    deviation = rows.std(0)
    deviation = np.where(constant | (deviation == 0), span, deviation)
    quarter, median, three = np.percentile(rows, (25, 50, 75), axis=0)
    # Of a Gaussian, the quartiles' distance in standard deviations.
    spread = (three - quarter) / 1.349
    spread = np.where(constant | (spread == 0), deviation, spread)
    spread = np.minimum(deviation, spread)
    mean, median = (np.where(constant, low, v) for v in (rows.mean(0), median))
    bent = np.arcsinh((rows - median) / spread)
    bent_deviation = np.where(constant | (bent.std(0) == 0), 1, bent.std(0))
    return {
        "unit": unit,
        "low": low,
        "high": high,
        "span": span,
        "center": np.stack([mean, median, np.where(constant, 0, bent.mean(0))]),
        "scale": np.stack([deviation, spread, bent_deviation]),
    }


def _in_units(state: State, x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.clip(x / state["unit"], -1e300, 1e300)


def mapped(state: State, x: np.ndarray) -> np.ndarray:
    """Rows x [N, F] in the three maps: float32 [3, N, F]."""
    return _maps(state, _in_units(state, x))


def _maps(state: State, x: np.ndarray) -> np.ndarray:
    """`mapped` of rows that are in units of their columns."""
    (mean, median, bent_mean), (deviation, spread, bent_deviation) = (
        state["center"],
        state["scale"],
    )
    with np.errstate(over="ignore"):
        standard, robust = (x - mean) / deviation, (x - median) / spread
    bent = (np.arcsinh(robust) - bent_mean) / bent_deviation
    maps = np.stack([standard, robust, bent])
    return np.clip(maps, -_LARGEST, _LARGEST).astype(np.float32)


def _found(state: State, x: np.ndarray) -> Iterator[_Near]:
    """Chunks of rows x [N, F] with their nearest stored rows.

    Chunks and stored rows are padded: fits of like shapes share a program, and what a
    row gets does not depend on its company.
    """
    num_rows, num_features = state["rows"].shape
    shape = _room(num_rows, 256, 4096), _room(num_features, 8, 256)
    num = min(2 * state["num_neighbors"] + 2, shape[0])
    size = _chunk((num + _SPARE) * shape[1])
    stored = [jnp.asarray(_padded(m, shape)) for m in mapped(state, state["rows"])]
    for first in range(0, len(x), size):
        rows = x[first : first + size]
        seen = mapped(state, rows)
        found = [
            _nearest(one, num_rows, _padded(m, (size, shape[1])), num)
            for one, m in zip(stored, seen)
        ]
        distances, indices = (
            np.stack([np.asarray(v)[: len(rows)] for v in values])
            for values in zip(*found)
        )
        yield _Near(rows, seen, distances.astype(np.float64), indices)


def _chunk(numbers: int) -> int:
    """Rows of a chunk, a power of two, where each has candidates of so many numbers."""
    return min(_CHUNK, 1 << max(_LARGEST_CHUNK // numbers, 1).bit_length() - 1)


@functools.partial(jax.jit, static_argnums=3)
def _nearest(stored: Array, num_rows: int, x: Array, num: int) -> tuple[Array, Array]:
    """(distances, indices) [B, num] of the nearest of the first stored rows [n, F]."""
    products = jnp.dot(x, stored.T, precision="highest")
    squares = jnp.sum(stored**2, axis=-1) - 2 * products
    squares = jnp.where(jnp.arange(len(stored)) < num_rows, squares, jnp.inf)
    # Squares that cancel order the candidates alone; distances are of differences.
    _, candidates = jax.lax.top_k(-squares, min(num + _SPARE, len(stored)))
    distances = jnp.linalg.norm(x[:, None] - stored[candidates], axis=-1)
    distances = jnp.where(candidates < num_rows, distances, jnp.inf)
    negative, places = jax.lax.top_k(-distances, num)
    return -negative, jnp.take_along_axis(candidates, places, axis=1)


def _padded(x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.pad(x, [(0, new - old) for new, old in zip(shape, x.shape)])


def _room(size: int, smallest: int, step: int) -> int:
    """The next power of two, beyond `step` the next multiple of its quarter."""
    if size <= step:
        return max(smallest, 1 << (size - 1).bit_length())
    return -(-size // (step // 4)) * (step // 4)
