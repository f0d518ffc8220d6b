"""How far apart two samples lie, without densities: the energy distance.

Szekely and Rizzo 2013, "Energy statistics". No relation to the energy of a model.
"""

import jax
import jax.numpy as jnp

from megjax import checks
from megjax.types import Array


def mean_distance(x: Array, y: Array) -> Array:
    """Mean Euclidean distance over all pairs of rows, [N, n] and [M, n] -> []."""
    x, y = (a.reshape(len(a), -1) for a in (x, y))
    # Squares of far rows would drown their differences in rounding.
    centre = jnp.mean(y, axis=0)
    x, y = x - centre, y - centre
    norms = jnp.sum(y**2, axis=1)

    def from_one(row):
        squares = jnp.sum(row**2) + norms - 2 * y @ row
        return jnp.mean(jnp.sqrt(jnp.maximum(squares, 0)))

    return jnp.mean(jax.lax.map(from_one, x, batch_size=min(256, len(x))))


def energy_distance(x: Array, y: Array) -> Array:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two samples: []; 0 for equal samples.

    Means over all pairs, an example with itself included, which keeps it positive: two
    samples of one distribution are about E|x - x'| (1 / N + 1 / M) apart.

    >>> import jax.numpy as jnp
    >>> from megjax import energy_distance
    >>> x = jnp.array([[0.0], [1.0]])
    >>> float(energy_distance(x, x)), float(energy_distance(x[:1], x[1:]))
    (0.0, 2.0)
    """
    _check(x, y)
    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def _check(x: Array, y: Array) -> None:
    """ValueError unless both have examples, of one form, and numbers that are finite."""
    for name, sample in (("x", x), ("y", y)):
        checks.array(name, sample)
        if not sample.ndim or not sample.size or sample.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"x and y have shapes {list(x.shape)} and {list(sample.shape)}: give "
                "[N, ...] and [M, ...] with examples of one form"
            )
        known = not isinstance(sample, jax.core.Tracer)
        if known and not jnp.all(jnp.isfinite(sample)):
            raise ValueError(f"{name} holds NaN or infinite values: remove them")


def energy_coefficient(x: Array, y: Array) -> Array:
    """Root of the energy distance over 2 E|x - y|, in [0, 1] (Paysage's coefficient)."""
    between = mean_distance(x, y)
    within = mean_distance(x, x) + mean_distance(y, y)
    return jnp.sqrt(jnp.maximum(1 - within / (2 * between), 0))
