"""Distances between sets of features and scores of sets of logits, in float64.

Frechet distance: Heusel et al. 2017 (FID). Kernel distance: Binkowski et al. 2018
(KID). Inception score: Salimans et al. 2016.
"""

import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from megjax import checks
from megjax.io import atomic, npz

SEED = 2020
"""Of the subsets of the kernel distance; torch-fidelity's."""

POOL = 10_000
"""Features of a set that are kept for the kernel distance."""


class FeatureMoments(NamedTuple):
    """Count, mean [F] and scatter [F, F] (sum of squared deviations) of features."""

    num: int
    mean: np.ndarray
    scatter: np.ndarray


class Summary(NamedTuple):
    """What comparisons need of a set of images.

    num: of images. mean [F], covariance [F, F]: of their features, float64.
    features: of the first images, at most 10,000, float32 [P, F].
    score: mean and standard deviation of the Inception score over 10 splits.
    """

    num: int
    mean: np.ndarray
    covariance: np.ndarray
    features: np.ndarray
    score: np.ndarray


def moments(features: np.ndarray) -> FeatureMoments:
    """Of features [N, F]; else ValueError, or FloatingPointError where not finite."""
    features = np.asarray(_rows(features, "features"), np.float64)
    mean = features.mean(axis=0)
    deviations = features - mean
    return FeatureMoments(len(features), mean, deviations.T @ deviations)


def merged(first: FeatureMoments, second: FeatureMoments) -> FeatureMoments:
    """Moments of the union of two sets (Chan, Golub and LeVeque 1979)."""
    num = first.num + second.num
    shift = second.mean - first.mean
    between = first.num * second.num / num * np.outer(shift, shift)
    mean = first.mean + second.num / num * shift
    return FeatureMoments(num, mean, first.scatter + second.scatter + between)


def summary(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Summary:
    """Of (features [B, F], logits [B, K]) batch by batch, in random order.

    Keeps all logits and part of the features in memory. Raises ValueError for fewer
    than 10 images, FloatingPointError for features that are not finite.
    """
    total, pool, logits = None, [], []
    for features, batch_logits in batches:
        found = moments(features)
        total = found if total is None else merged(total, found)
        if sum(map(len, pool)) < POOL:
            pool.append(np.asarray(features, np.float32))
        logits.append(np.asarray(_rows(batch_logits, "logits"), np.float32))
    if total is None:
        raise ValueError("no images to summarise: give at least 10.")
    if not np.all(np.isfinite(total.scatter)):
        raise FloatingPointError("some features of the images are too large")
    score = inception_score(np.concatenate(logits))
    return Summary(
        num=total.num,
        mean=total.mean,
        covariance=total.scatter / (total.num - 1),
        features=np.concatenate(pool)[:POOL],
        score=np.array(score),
    )


def frechet_distance(
    mean: np.ndarray,
    covariance: np.ndarray,
    other_mean: np.ndarray,
    other_covariance: np.ndarray,
) -> float:
    """Squared 2-Wasserstein distance of two normal distributions, the FID's formula.

    |m - m'|^2 + tr C + tr C' - 2 tr (C C')^(1/2), where the last trace is the sum of
    the singular values of C^(1/2) C'^(1/2). Taking those of the roots, and not roots
    of eigenvalues of the product, keeps singular covariances accurate.
    Raises ValueError where the shapes are not [F], [F, F], [F], [F, F], where values are
    not finite, and where a covariance is none: not symmetric, or of negative variances.

    >>> import numpy as np
    >>> from megjax.metrics.frechet import frechet_distance
    >>> one = np.eye(2)
    >>> round(frechet_distance(np.zeros(2), one, np.array([3.0, 4.0]), one), 6)
    25.0
    """
    dim = np.size(mean)
    shapes = [np.shape(v) for v in (mean, covariance, other_mean, other_covariance)]
    if shapes != [(dim,), (dim, dim)] * 2:
        raise ValueError(f"moments of shapes {shapes}: want [F], [F, F] twice.")
    for values in (mean, covariance, other_mean, other_covariance):
        if not np.all(np.isfinite(values)):
            raise ValueError("moments that are not finite: leave out such features.")
    factors = _root(covariance).T @ _root(other_covariance)
    overlap = np.linalg.svd(factors, compute_uv=False).sum()
    shift = np.asarray(mean, np.float64) - np.asarray(other_mean, np.float64)
    traces = np.trace(covariance) + np.trace(other_covariance)
    return float(shift @ shift + traces - 2 * overlap)


def _root(covariance: np.ndarray) -> np.ndarray:
    """A with A A^T = C, [F, rank]: eigenvectors times roots of eigenvalues.

    Eigenvalues within rounding of 0 are left out: their roots would not be small.
    """
    covariance = np.asarray(covariance, np.float64)
    largest = np.max(np.abs(covariance))
    if np.max(np.abs(covariance - covariance.T)) > 1e-3 * largest:
        raise ValueError("a covariance that is not symmetric: give np.cov(x.T).")
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -1e-3 * largest:
        raise ValueError(
            f"a covariance with a variance of {values[0]:.3g}: give np.cov(x.T)."
        )
    kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def kernel_distance(
    features: np.ndarray,
    other: np.ndarray,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = SEED,
) -> tuple[float, float]:
    """KID: mean and standard deviation over subsets of an unbiased squared MMD.

    Of features [N, F] and [M, F] (else ValueError), with the kernel (x.y / F + 1)^3. Subsets are drawn
    without replacement, each no larger than the smaller set; with the same features
    and seed the result is torch-fidelity's. May be slightly negative.
    """
    features, other = _rows(features, "features"), _rows(other, "other")
    if features.shape[1] != other.shape[1]:
        raise ValueError(
            f"features of {features.shape[1]} and {other.shape[1]} dimensions: take both "
            "from one network."
        )
    size = min(subset_size, len(features), len(other))
    if size < 2:
        raise ValueError(f"a kernel distance needs 2 examples a set, not {size}.")
    rng = np.random.RandomState(seed)
    found = []
    for _ in range(num_subsets):
        subset = features[rng.choice(len(features), size, replace=False)]
        other_subset = other[rng.choice(len(other), size, replace=False)]
        found.append(squared_mmd(subset, other_subset))
    return float(np.mean(found)), float(np.std(found))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of one size, [N, F]."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    num, dim = x.shape

    def kernel(a, b):
        return (a @ b.T / dim + 1) ** 3

    within = 0.0
    for a in (x, y):
        values = kernel(a, a)
        within += (values.sum() - np.trace(values)) / (num * (num - 1))
    return float(within - 2 * kernel(x, y).mean())


def inception_score(logits: np.ndarray, num_splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) || p(y)): mean and deviation over splits of [N, K].

    1 for predictions that say nothing, K for confident ones of all classes. Splits are
    consecutive, so logits of data that is sorted must be shuffled. Raises ValueError
    for fewer examples than splits.
    """
    logits = _rows(logits, "logits")
    if len(logits) < num_splits:
        raise ValueError(f"{len(logits)} examples do not make {num_splits} splits.")
    bounds = np.arange(num_splits + 1) * len(logits) // num_splits
    scores = []
    for first, last in itertools.pairwise(bounds):
        log_p = np.asarray(logits[first:last], np.float64)
        log_p = log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True)
        log_marginal = np.logaddexp.reduce(log_p, axis=0) - np.log(len(log_p))
        divergences = np.sum(np.exp(log_p) * (log_p - log_marginal), axis=1)
        scores.append(np.exp(np.mean(divergences)))
    return float(np.mean(scores)), float(np.std(scores))


def _rows(x: np.ndarray, name: str) -> np.ndarray:
    """Rows [N, F] of numbers, as they are.

    Raises ValueError for others, FloatingPointError for numbers that are not finite.
    """
    checks.unmasked(name, x)
    x = np.asarray(x)
    if x.dtype.kind not in "fiu" or x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} are {x.dtype} {list(x.shape)}: give numbers [N, F].")
    if not np.all(np.isfinite(x)):
        raise FloatingPointError(f"some {name} of the images are not finite")
    return x


def fingerprint(words: str, arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of words and of the arrays' bytes one after the other, in hexadecimal."""
    digest = hashlib.sha256(words.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def cached(path: pathlib.Path, mark: str, made: Callable[[], Summary]) -> Summary:
    """The summary of an .npz file, or made(), which is then written there.

    mark: fingerprint of everything that the summary depends on. Raises ValueError
    where the file is damaged or bears another one.
    """
    if path.is_file():
        return _read(path, mark)
    found = made()
    atomic.folder(path.parent)
    arrays = {"fingerprint": np.array(mark), **found._asdict()}
    atomic.replace(path, lambda file: np.savez(file, **arrays))
    return found


def _read(path: pathlib.Path, mark: str) -> Summary:
    remedy = "remove the file, and it is made again"
    try:
        arrays = npz.read(path)
        saved, num = str(arrays.pop("fingerprint")), int(arrays.pop("num"))
        found = Summary(num, **arrays)
        dim = found.mean.size
        forms = [value.shape for value in found[1:]]
        if forms != [(dim,), (dim, dim), (len(found.features), dim), (2,)]:
            raise ValueError(f"its arrays have shapes {forms}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    if saved != mark:
        raise ValueError(
            f"{path} was made from other data or with another network "
            f"({saved[:12]}, not {mark[:12]}): {remedy}"
        )
    return found
