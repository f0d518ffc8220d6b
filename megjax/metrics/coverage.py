"""How samples spread: over modes with known centres, and against real examples."""

from collections.abc import Mapping

import numpy as np
from scipy import spatial


def coverage(
    x: np.ndarray, centres: np.ndarray, std: float, num_std: float = 4.0
) -> Mapping[str, float]:
    """How samples x [N, 2] spread over modes at `centres` [M, 2] of width `std`.

    modes: modes with a sample within `num_std` standard deviations.
    near_share: fraction of samples within that distance of some mode.
    kl_uniform: `kl_to_uniform` of the near samples' modes.

    >>> import numpy as np
    >>> from megjax.metrics.coverage import coverage
    >>> coverage(np.zeros((4, 2)), np.array([[0.0, 0.0], [1.0, 0.0]]), 0.1)["modes"]
    1
    """
    distances, nearest = spatial.KDTree(centres).query(x)
    close = distances < num_std * std
    counts = np.bincount(nearest[close], minlength=len(centres))
    return {
        "modes": int(np.sum(counts > 0)),
        "near_share": float(np.mean(close)),
        "kl_uniform": kl_to_uniform(counts),
    }


def kl_to_uniform(counts: np.ndarray) -> float:
    """KL(histogram || equal shares) in nats of counts [M]; empty cells add nothing.

    The reverse divergence is infinite as soon as a cell is empty. NaN without samples.

    >>> import numpy as np
    >>> from megjax.metrics.coverage import kl_to_uniform
    >>> print(f"{kl_to_uniform(np.array([5, 0])):.4f}")  # log 2
    0.6931
    """
    if not np.sum(counts):
        return float("nan")
    share = counts[counts > 0] / np.sum(counts)
    return float(np.sum(share * np.log(share * len(counts))))


def relative_spread(x: np.ndarray, real: np.ndarray) -> Mapping[str, float]:
    """How widely samples x [N, F] lie, relative to real ones [M, F]: 1 is best.

    spread: standard deviation of x over that of the real ones. spacing: the median
    distance of a sample to the nearest other one over the same of as many real ones; 0
    where all samples are the same.

    >>> import numpy as np
    >>> from megjax.metrics.coverage import relative_spread
    >>> relative_spread(np.eye(3) / 2, np.eye(3))["spacing"]
    0.5
    """
    num = min(len(x), len(real))
    spread = np.sum(np.var(x, axis=0)) / np.sum(np.var(real, axis=0))
    spacing = _spacing(x[:num]) / _spacing(real[:num])
    return {"spread": float(np.sqrt(spread)), "spacing": float(spacing)}


def _spacing(x: np.ndarray) -> float:
    """Median Euclidean distance of a row to the nearest other one."""
    x = np.asarray(x, np.float64)
    return np.median(spatial.KDTree(x).query(x, 2)[0][:, 1])
