"""Densities of vectors that are known, constant included, and can be drawn from.

What noise contrast is held against, and where annealing and importance sampling start.
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

MAX_ROWS = 5000
"""That shares of a mixture are fitted to, at most."""


class Density(NamedTuple):
    """A normalised density of vectors: pure functions of parameters, which are data.

    fit: x [N, D] -> params, any pytree; its form depends on D alone, not on N.
    sample: (params, key, num) -> x [num, D]
    log_prob: (params, x [B, D]) -> [B], in nats
    log_prob_without: likewise, where x are rows that it was fitted to, each from the
        others; None where one row counts for nothing.

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
    log_prob_without: Callable[[PyTree, Array], Array] | None = None


class Moments(NamedTuple):
    """mean: [D]. factor: L of the covariance L L^T, lower triangular [D, D]."""

    mean: Array
    factor: Array


class Bounds(NamedTuple):
    """Ends of an interval in every coordinate, [D] each."""

    low: Array
    high: Array


class Kernels(NamedTuple):
    """Centres of Gaussian kernels [M, D], L of their common form [D, D], and the
    logarithms of the shares of their widths [W].
    """

    points: Array
    factor: Array
    log_shares: Array


class Parts(NamedTuple):
    """Parameters of the parts of a mixture, and logarithms of their shares [K]."""

    parts: tuple[PyTree, ...]
    log_shares: Array


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
    mean, std = jnp.mean(x, axis=0), jnp.std(x, axis=0)
    constant = std == 0
    std = jnp.where(constant, 1, std)
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


def kernel_density(
    widths: Sequence[float],
    *,
    num_points: int = 500,
    whitened: bool = False,
    fitted: bool = False,
) -> Density:
    """Gaussian kernels of several widths around rows of the data.

    widths: standard deviations; whitened: as parts of the data's own covariance, so
    that kernels have its form. num_points: the first rows, again from the first where
    there are fewer. fitted: whether the shares of the widths are those that make rows
    of the data likely, each without its own kernel; otherwise they are equal. Fitted to
    draws of a generator it is that generator's density, smoothed. Raises ValueError at
    widths that are not above 0, and without a point.
    """
    if not widths:
        raise ValueError("widths is empty: give at least one standard deviation")
    for width in widths:
        checks.positive("widths", width)
    checks.at_least("num_points", num_points, 1)
    widths = np.asarray(widths, np.float64)
    equal = np.full(len(widths), -np.log(len(widths)))

    def fit(x):
        factor = jnp.eye(x.shape[1], dtype=x.dtype)
        factor = moments(x).factor if whitened else factor
        points = jnp.resize(x, (num_points, x.shape[1]))
        params = Kernels(points, factor, jnp.asarray(equal, x.dtype))
        if not fitted:
            return params
        terms = _blockwise(partial(_kernel_terms, widths, params, True), x[:MAX_ROWS])
        return params._replace(log_shares=likely_shares(terms))

    def sample(params, key, num):
        keys = jax.random.split(key, 3)
        rows = jax.random.randint(keys[0], (num,), 0, num_points)
        chosen = jax.random.categorical(keys[1], params.log_shares, shape=(num,))
        shape = (num, params.points.shape[1])
        noise = jax.random.normal(keys[2], shape, params.points.dtype)
        spread = jnp.asarray(widths, noise.dtype)[chosen, None] * noise
        return params.points[rows] + spread @ params.factor.T

    def log_prob(without, params, x):
        terms = _blockwise(partial(_kernel_terms, widths, params, without), x)
        return jax.nn.logsumexp(terms + params.log_shares, axis=1)

    return Density(fit, sample, partial(log_prob, False), partial(log_prob, True))


def mixture(
    densities: Sequence[Density], weights: Sequence[float] | None = None
) -> Density:
    """Each row of one of the densities, chosen with these probabilities.

    weights: None for those that make the rows that it is fitted to likely, each from
    the others. Raises ValueError where there are not as many weights, or they are not
    positive with sum 1.
    """
    if weights is None:
        log_weights = np.full(len(densities), -np.log(len(densities)))
    else:
        log_weights = _log_weights(weights, len(densities))

    def fit(x):
        parts = tuple(density.fit(x) for density in densities)
        params = Parts(parts, jnp.asarray(log_weights, x.dtype))
        if weights is None:
            terms = _terms(densities, params, x[:MAX_ROWS], without=True)
            params = params._replace(log_shares=likely_shares(terms))
        return params

    def sample(params, key, num):
        key_choice, *keys = jax.random.split(key, len(densities) + 1)
        draws = jnp.stack(
            [
                density.sample(own, key_own, num)
                for density, own, key_own in zip(densities, params.parts, keys)
            ]
        )
        chosen = jax.random.categorical(key_choice, params.log_shares, shape=(num,))
        return draws[chosen, jnp.arange(num)]

    def log_prob(without, params, x):
        terms = _terms(densities, params, x, without=without)
        return jax.nn.logsumexp(terms + params.log_shares, axis=1)

    return Density(fit, sample, partial(log_prob, False), partial(log_prob, True))


def _log_weights(weights, num) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    usable = len(weights) == num > 0 and np.all(weights > 0)
    if not usable or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(
            f"weights={weights.tolist()} of {num} densities: give each a positive one, "
            "with sum 1"
        )
    return np.log(weights)


def _terms(densities, params, x, *, without) -> Array:
    """Log-densities of rows [B, D] under every part: [B, K]."""
    functions = (
        (density.log_prob_without if without else None) or density.log_prob
        for density in densities
    )
    return jnp.stack(
        [function(own, x) for function, own in zip(functions, params.parts)], axis=1
    )


def likely_shares(terms: Array, num_steps: int = 100) -> Array:
    """Log of the shares [K] of densities that give rows log-densities [N, K].

    The most likely ones, by expectation maximisation; none falls under a millionth.
    """

    def one(log_shares, _):
        posterior = jax.nn.softmax(terms + log_shares, axis=1)
        return jnp.log(jnp.maximum(jnp.mean(posterior, axis=0), 1e-6)), None

    num = terms.shape[1]
    equal = jnp.full(num, -math.log(num), terms.dtype)
    return jax.nn.log_softmax(jax.lax.scan(one, equal, length=num_steps)[0])


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


def _kernel_terms(widths, params, without, x) -> Array:
    """Log-densities of rows [B, D] by kernels of each width [B, W].

    without: whether points at distance 0 are left out.
    """
    dim = x.shape[1]
    origin = Moments(jnp.mean(params.points, axis=0), params.factor)
    u, centres = whitened(origin, x), whitened(origin, params.points)
    squares, error = _squared_distances(u, centres)
    others = squares > error if without else jnp.ones_like(squares, bool)
    log_num = jnp.log(jnp.maximum(jnp.sum(others, axis=1), 1))
    constant = dim / 2 * math.log(2 * math.pi) + log_determinant(params.factor)
    sums = [
        jax.nn.logsumexp(-squares / (2 * w**2), axis=1, where=others)
        - dim * math.log(w)
        for w in widths
    ]
    return jnp.stack(sums, axis=1) - (constant + log_num)[:, None]


def _squared_distances(u, centres) -> tuple[Array, Array]:
    """[B, M], and below what they cannot be told from 0.

    Differences where they are few, for their digits; else one product of matrices.
    """
    dim = u.shape[1]
    if dim <= 8:
        squares = sum((u[:, i, None] - centres[None, :, i]) ** 2 for i in range(dim))
        return squares, jnp.zeros_like(squares)
    products = jnp.matmul(u, centres.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.sum(u**2, 1)[:, None] + jnp.sum(centres**2, 1)
    return jnp.maximum(norms - 2 * products, 0), 1e-5 * norms


def _blockwise(function: Callable[[Array], Array], x: Array) -> Array:
    """function [B, D] -> [B, W], in blocks where B is large."""
    if len(x) <= ROWS_PER_BLOCK:
        return function(x)
    padding = -len(x) % ROWS_PER_BLOCK
    blocks = jnp.pad(x, ((0, padding), (0, 0))).reshape(-1, ROWS_PER_BLOCK, x.shape[1])
    found = jax.lax.map(function, blocks)
    return found.reshape(-1, found.shape[-1])[: len(x)]
