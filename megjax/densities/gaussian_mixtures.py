"""Mixtures of Gaussians of several sizes, weighted by how well they predict rows.

Fitted once, on the host and in double precision: a compiled program would take longer
to compile than this takes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from megjax import checks
from megjax.densities import reference
from megjax.densities.reference import Density
from megjax.types import Array

MAX_ROWS = 5000
"""That are fitted to, at most."""

MAX_ENTRIES = 300_000
"""Of the covariances of a mixture: of many columns there are few components."""

ENOUGH_ROWS = 1000
"""Predicted by mixtures that were not fitted to them: more folds change no share."""

JITTER = 1e-5
"""Of covariances, as parts of a variance of 1."""

CLUSTER_STEPS, EM_STEPS, TOLERANCE = 10, 40, 2e-3
"""TOLERANCE: nats a row, that a step has to gain."""


class Gaussians(NamedTuple):
    """Means [M, D], L of the covariances L L^T [M, D, D], logarithms of shares [M]."""

    means: Array
    factors: Array
    log_shares: Array


def gaussian_mixtures(
    num_components: Sequence[int] = (2, 4, 8, 16, 32),
    *,
    strengths: Sequence[float] = (0.2, 1.0),
    spreads: Sequence[float] = (1.0, 2.0, 4.0),
    num_folds: int = 4,
) -> Density:
    """One mixture for each number of components and each strength, all in one mixture.

    strengths: by which covariances are shrunk to their mean, D times as many rows'
    worth (the maximum a posteriori of Fraley and Raftery 2007). spreads: of single
    Gaussians, times the data's deviations; the wide ones are for rows that lie far out.
    Shares are those that make rows likely which a mixture was not fitted to, in at most
    `num_folds` parts (stacking: Smyth and Wolpert 1999), so that none of these numbers
    has to be right for the data at hand. Meant for whitened rows; the first MAX_ROWS
    are seen. `fit` of a traced array has the form of the parameters and no values.
    Raises ValueError at numbers below 1, and at strengths and spreads not above 0.

    >>> import jax
    >>> from megjax.densities.gaussian_mixtures import gaussian_mixtures
    >>> density = gaussian_mixtures((2,), strengths=(1.0,), spreads=(1.0,))
    >>> params = density.fit(jax.random.normal(jax.random.key(0), (50, 2)))
    >>> params.means.shape
    (3, 2)
    """
    checks.at_least("num_folds", num_folds, 2)
    for num in num_components:
        checks.at_least("num_components", num, 1)
    for name, values in {"strengths": strengths, "spreads": spreads}.items():
        for value in values:
            checks.positive(name, value)

    def settings(dim):
        """(number, strength) of the mixtures that data of D columns have."""
        numbers = [num for num in num_components if num * dim**2 <= MAX_ENTRIES]
        return [(num, strength) for num in numbers for strength in strengths]

    def fit(x):
        chosen = settings(x.shape[1])
        if isinstance(x, jax.core.Tracer):
            num = len(spreads) + sum(num for num, _ in chosen)
            return _of_form(num, x.shape[1], x.dtype)
        rows = np.asarray(x[:MAX_ROWS], np.float64)
        params = stacked(rows, chosen, spreads, num_folds)
        return Gaussians(*(jnp.asarray(leaf, x.dtype) for leaf in params))

    return Density(fit, sample, log_prob)


def _of_form(num, dim, dtype) -> Gaussians:
    factors = jnp.broadcast_to(jnp.eye(dim, dtype=dtype), (num, dim, dim))
    log_shares = jnp.full(num, -math.log(num), dtype)
    return Gaussians(jnp.zeros((num, dim), dtype), factors, log_shares)


def sample(params: Gaussians, key: Array, num: int) -> Array:
    """Draws x [num, D]."""
    key_choice, key_noise = jax.random.split(key)
    chosen = jax.random.categorical(key_choice, params.log_shares, shape=(num,))
    shape = (num, params.means.shape[1])
    noise = jax.random.normal(key_noise, shape, params.means.dtype)

    def one(row):
        i, noise = row
        return params.means[i] + params.factors[i] @ noise

    return jax.lax.map(one, (chosen, noise), batch_size=min(num, 512))


def log_prob(params: Gaussians, x: Array) -> Array:
    """Of rows [B, D] in nats: [B]."""

    def one(params):
        mean, factor, log_share = params
        scaled = reference.whitened(reference.Moments(mean, factor), x)
        constant = reference.log_determinant(factor)
        return reference.standard_log_prob(scaled) - constant + log_share

    return jax.nn.logsumexp(jax.lax.map(one, params), axis=0)


def stacked(
    x: np.ndarray,
    settings: Sequence[tuple[int, float]],
    spreads: Sequence[float],
    num_folds: int,
) -> Gaussians:
    """The mixture of mixtures of rows [N, D], its shares by cross-validation."""
    parts = _fitted(x, settings, spreads)
    shares = np.full(len(parts), -math.log(len(parts)))
    if len(x) >= num_folds:
        fold, terms = np.arange(len(x)) % num_folds, []
        for i in range(min(num_folds, math.ceil(ENOUGH_ROWS * num_folds / len(x)))):
            others = _fitted(x[fold != i], settings, spreads)
            found = (_terms(part, x[fold == i]) for part in others)
            terms.append(np.stack([special.logsumexp(t, axis=1) for t in found], 1))
        shares = likely_shares(np.concatenate(terms))
    log_shares = [part.log_shares + share for part, share in zip(parts, shares)]
    means, factors, _ = map(np.concatenate, zip(*parts))
    return Gaussians(means, factors, np.concatenate(log_shares))


def likely_shares(terms: np.ndarray, num_steps: int = 200) -> np.ndarray:
    """Log of the shares [K] of densities that give rows log-densities [N, K].

    The most likely ones, by expectation maximisation; none falls under a millionth.
    """
    log_shares = np.full(terms.shape[1], -math.log(terms.shape[1]))
    for _ in range(num_steps):
        shares = special.softmax(terms + log_shares, axis=1).mean(0)
        log_shares = np.log(np.maximum(shares, 1e-6))
    return log_shares - special.logsumexp(log_shares)


def _fitted(x, settings, spreads) -> list[Gaussians]:
    """Single Gaussians by spread, then mixtures by number and strength."""
    whole = maximised(x, np.ones((len(x), 1)), 0.0)
    parts = [whole._replace(factors=spread * whole.factors) for spread in spreads]
    clusters = {num: _clusters(x, num) for num in dict.fromkeys(n for n, _ in settings)}
    return parts + [_likely(x, clusters[num], strength) for num, strength in settings]


def _clusters(x, num) -> np.ndarray:
    """Memberships [N, K] by k-means, from centres far apart (k-means++)."""
    rng = np.random.RandomState(0)
    centres = x[:1]
    nearest = np.full(len(x), np.inf)
    for _ in range(1, num):
        nearest = np.minimum(nearest, np.sum((x - centres[-1]) ** 2, axis=1))
        total = nearest.sum()
        chances = nearest / total if total > 0 else None
        centres = np.concatenate([centres, x[[rng.choice(len(x), p=chances)]]])
    for _ in range(CLUSTER_STEPS):
        squares = np.sum(centres**2, axis=1) - 2 * x @ centres.T
        members = np.eye(num)[np.argmin(squares, axis=1)]
        counts = members.sum(0)[:, None]
        centres = np.where(counts > 0, members.T @ x / np.maximum(counts, 1), centres)
    return members


def _likely(x, members, strength) -> Gaussians:
    """Expectation maximisation from memberships [N, K]."""
    last = -np.inf
    for _ in range(EM_STEPS):
        params = maximised(x, members, strength)
        terms = _terms(params, x)
        total = special.logsumexp(terms, axis=1, keepdims=True)
        members, mean = np.exp(terms - total), total.mean()
        if mean < last + TOLERANCE:
            break
        last = mean
    return params


def maximised(x: np.ndarray, members: np.ndarray, strength: float) -> Gaussians:
    """Of rows [N, D] with memberships [N, K]; strength: times D rows is the prior's."""
    (num, dim), counts = x.shape, members.sum(0)
    means = members.T @ x / np.maximum(counts, 1e-9)[:, None]
    scatters = np.stack(
        [((x - mean).T * own) @ (x - mean) for mean, own in zip(means, members.T)]
    )
    prior = max(strength * dim, 1e-3)
    pooled = scatters.sum(0) / num + JITTER * np.eye(dim)
    covariances = (scatters + prior * pooled) / (counts + prior)[:, None, None]
    covariances += JITTER * np.eye(dim)
    shares = np.maximum(counts, 1e-3)
    return Gaussians(
        means, np.linalg.cholesky(covariances), np.log(shares / shares.sum())
    )


def _terms(params, x) -> np.ndarray:
    """log share + log N of rows [B, D] under each Gaussian [B, M]."""
    # Products, as BLAS's triangular solver takes a hundred times as long for few columns
    # where it has several threads.
    inverses = np.linalg.inv(params.factors)
    squares = [
        np.sum(np.square((x - mean) @ inverse.T), axis=1)
        for mean, inverse in zip(params.means, inverses)
    ]
    diagonals = np.diagonal(params.factors, axis1=1, axis2=2)
    constant = x.shape[1] / 2 * math.log(2 * math.pi)
    peaks = params.log_shares - np.log(diagonals).sum(1) - constant
    return peaks - np.stack(squares, axis=1) / 2
