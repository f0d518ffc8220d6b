"""Densities of vectors that are known, constant included, and can be drawn from.

The noise of NCE, and where annealing and importance sampling start.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import checks
from megjax.types import Array, Key, PyTree

ROWS_PER_BLOCK = 2048
"""Of x whose distances from a kernel density's points are held at once."""


class Density(NamedTuple):
    """A normalised density of vectors: pure functions of parameters, which are data.

    fit: x [N, D] -> params, any pytree; its form depends on D alone, not on N.
    sample: (params, key, num) -> x [num, D]
    log_prob: (params, x [B, D]) -> [B], in nats

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.densities import reference
    >>> density = reference.gaussian()
    >>> params = density.fit(jax.random.normal(jax.random.key(0), (1000, 3)))
    >>> x = density.sample(params, jax.random.key(1), 5)
    >>> density.log_prob(params, x).shape
    (5,)
    """

    fit: Callable[[Array], PyTree]
    sample: Callable[[PyTree, Key, int], Array]
    log_prob: Callable[[PyTree, Array], Array]


class Moments(NamedTuple):
    """mean: [D]. factor: L of the covariance L L^T, lower triangular [D, D]."""

    mean: Array
    factor: Array


class Bounds(NamedTuple):
    """Ends of an interval in every coordinate, [D] each."""

    low: Array
    high: Array


ROWS_PER_COLUMN = 5
"""Above so many, correlations are not shrunk: tables can lie near a plane, and the
likelihood then hangs on how near."""


def moments(x: Array, jitter: float = 1e-5) -> Moments:
    """Mean and covariance of rows x [N, D].

    Of few rows a column the correlations are shrunk to have an inverse, as Ledoit and
    Wolf 2004 shrink a covariance. jitter: added to the correlations' diagonal. Constant
    columns get variance 1.
    """
    num, dim = x.shape
    # By comparison: the mean of equal values need not be equal to them.
    constant = jnp.max(x, axis=0) == jnp.min(x, axis=0)
    mean = jnp.where(constant, x[0], jnp.mean(x, axis=0))
    std = jnp.where(constant, 1, jnp.std(x, axis=0))
    scaled = (x - mean) / std
    identity = jnp.eye(dim, dtype=x.dtype)
    correlation = scaled.T @ scaled / num + jnp.where(constant, identity, 0)
    weight = jnp.zeros([], x.dtype)
    if num <= ROWS_PER_COLUMN * dim:
        distance = jnp.sum((correlation - identity) ** 2)
        fourth = jnp.mean(jnp.sum(scaled**2, axis=1) ** 2)
        error = jnp.maximum(fourth - jnp.sum(correlation**2), 0) / num
        weight = jnp.minimum(error / jnp.where(distance > 0, distance, 1), 1)
    correlation = (1 - weight) * correlation + (weight + jitter) * identity
    return Moments(mean, std[:, None] * jnp.linalg.cholesky(correlation))


def gaussian(spread: float = 1.0) -> Density:
    """N(mean, spread^2 covariance) of the data, `moments`. spread: at least 0.

    Raises ValueError where the spread is not above 0.
    """
    checks.positive("spread", spread)

    def fit(x):
        mean, factor = moments(x)
        return Moments(mean, spread * factor)

    def sample(params, key, num):
        noise = jax.random.normal(key, (num, len(params.mean)), params.mean.dtype)
        return params.mean + noise @ params.factor.T

    def log_prob(params, x):
        scaled = whitened(params, x)
        return standard_log_prob(scaled) - log_determinant(params.factor)

    return Density(fit, sample, log_prob)


def box(margin: float = 0.25) -> Density:
    """Uniform on the data's range, longer at both ends by a part of itself.

    margin: that part. Raises ValueError where it is negative.
    """
    checks.at_least("margin", margin, 0)

    def fit(x):
        low, high = jnp.min(x, axis=0), jnp.max(x, axis=0)
        room = jnp.where(high > low, margin * (high - low), 1.0)
        return Bounds(low - room, high + room)

    def sample(params, key, num):
        low, high = params
        uniform = jax.random.uniform(key, (num, len(low)), low.dtype)
        return low + (high - low) * uniform

    def log_prob(params, x):
        low, high = params
        inside = jnp.all((x >= low) & (x <= high), axis=-1)
        return jnp.where(inside, -jnp.sum(jnp.log(high - low)), -jnp.inf)

    return Density(fit, sample, log_prob)


def kernel_density(widths: Sequence[float], *, num_points: int = 500) -> Density:
    """Round Gaussian kernels of several widths around rows of the data.

    widths: standard deviations, of equal shares. num_points: the first rows, again from
    the first where there are fewer. Fitted to draws of a generator it is that
    generator's density, smoothed. Raises ValueError at widths that are not above 0, and
    without a point.
    """
    if not widths:
        raise ValueError("widths is empty: give at least one standard deviation")
    for width in widths:
        checks.positive("widths", width)
    checks.at_least("num_points", num_points, 1)
    widths = np.asarray(widths, np.float64)

    def fit(x):
        return jnp.resize(x, (num_points, x.shape[1]))

    def sample(points, key, num):
        keys = jax.random.split(key, 3)
        rows = jax.random.randint(keys[0], (num,), 0, num_points)
        chosen = jax.random.categorical(keys[1], jnp.zeros(len(widths)), shape=(num,))
        noise = jax.random.normal(keys[2], (num, points.shape[1]), points.dtype)
        return points[rows] + jnp.asarray(widths, noise.dtype)[chosen, None] * noise

    def log_prob(points, x):
        return _blockwise(partial(_kernel_log_prob, widths, points), x)

    return Density(fit, sample, log_prob)


def mixture(densities: Sequence[Density], weights: Sequence[float]) -> Density:
    """Each row of one of the densities, chosen with these probabilities.

    Raises ValueError where there are not as many weights, or they are not positive with
    sum 1.
    """
    log_weights = _log_weights(weights, len(densities))

    def fit(x):
        return tuple(density.fit(x) for density in densities)

    def sample(params, key, num):
        key_choice, *keys = jax.random.split(key, len(densities) + 1)
        draws = jnp.stack(
            [
                density.sample(own, key_own, num)
                for density, own, key_own in zip(densities, params, keys)
            ]
        )
        log_shares = jnp.asarray(log_weights, draws.dtype)
        chosen = jax.random.categorical(key_choice, log_shares, shape=(num,))
        return draws[chosen, jnp.arange(num)]

    def log_prob(params, x):
        terms = [density.log_prob(own, x) for density, own in zip(densities, params)]
        log_shares = jnp.asarray(log_weights, x.dtype)
        return jax.nn.logsumexp(jnp.stack(terms, axis=1) + log_shares, axis=1)

    return Density(fit, sample, log_prob)


def _log_weights(weights, num) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    usable = len(weights) == num > 0 and np.all(weights > 0)
    if not usable or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(
            f"weights={weights.tolist()} of {num} densities: give each a positive one, "
            "with sum 1"
        )
    return np.log(weights)


def whitened(params: Moments, x: Array) -> Array:
    """u = L^-1 (x - mean), rows [..., D]."""
    away = jnp.moveaxis(x - params.mean, -1, 0)
    flat = away.reshape(len(away), -1)
    solved = jax.scipy.linalg.solve_triangular(params.factor, flat, lower=True)
    return jnp.moveaxis(solved.reshape(away.shape), 0, -1)


def log_determinant(factor: Array) -> Array:
    """log |L| of a triangular factor [D, D]: []."""
    return jnp.sum(jnp.log(jnp.diagonal(factor)))


def standard_log_prob(u: Array) -> Array:
    """log N(u; 0, I), [..., D] -> [...]."""
    return -0.5 * (jnp.sum(u**2, axis=-1) + u.shape[-1] * math.log(2 * math.pi))


def _kernel_log_prob(widths, points, x) -> Array:
    """Of rows [B, D] by kernels of all widths around points: [B]."""
    dim = x.shape[1]
    centre = jnp.mean(points, axis=0)
    squares = _squared_distances(x - centre, points - centre)
    sums = [
        jax.nn.logsumexp(-squares / (2 * w**2), axis=1) - dim * math.log(w)
        for w in widths
    ]
    constant = dim / 2 * math.log(2 * math.pi) + math.log(len(points) * len(widths))
    return jax.nn.logsumexp(jnp.stack(sums, axis=1), axis=1) - constant


def _squared_distances(u, centres) -> Array:
    """[B, M]; of differences where they are few, for their digits."""
    dim = u.shape[1]
    if dim <= 8:
        return sum((u[:, i, None] - centres[None, :, i]) ** 2 for i in range(dim))
    products = jnp.matmul(u, centres.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.sum(u**2, 1)[:, None] + jnp.sum(centres**2, 1)
    return jnp.maximum(norms - 2 * products, 0)


def _blockwise(function: Callable[[Array], Array], x: Array) -> Array:
    """function [B, D] -> [B], in blocks where B is large."""
    if len(x) <= ROWS_PER_BLOCK:
        return function(x)
    padding = -len(x) % ROWS_PER_BLOCK
    blocks = jnp.pad(x, ((0, padding), (0, 0))).reshape(-1, ROWS_PER_BLOCK, x.shape[1])
    return jax.lax.map(function, blocks).reshape(-1)[: len(x)]
