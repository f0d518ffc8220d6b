"""Did the chains mix? Effective sample size, R-hat and acceptance of scalar traces.

Vehtari et al. 2021; the estimators are ArviZ's.
"""

import warnings
from collections.abc import Mapping

import numpy as np

MIN_DRAWS = 4


def effective_sample_size(traces: np.ndarray) -> float:
    """Independent draws that would estimate the mean as well: [chains, draws] -> float.

    Pooled over chains, autocorrelations cut by Geyer's initial monotone sequence on
    split chains. For an AR(1) process of coefficient r it is draws * (1 - r) / (1 + r).
    NaN where it is undefined: fewer than 4 draws, a non-finite value, no variation.
    """
    if not _usable(traces):
        return float("nan")
    return float(_arviz().ess(np.asarray(traces, np.float64), method="mean"))


def r_hat(traces: np.ndarray) -> float:
    """Rank-normalised split R-hat, [chains, draws] -> float; 1 when chains agree.

    The larger of the bulk and the folded (spread) version; above 1.01 the chains have
    not mixed. NaN as for `effective_sample_size` and for a single chain; infinite
    where chains differ and none of them moves.
    """
    if not _usable(traces) or len(traces) < 2:
        return float("nan")
    traces = np.asarray(traces, np.float64)
    if np.all(np.ptp(traces, axis=1) == 0):
        return float("inf")
    return float(_arviz().rhat(traces))


def acceptance(
    acceptance_prob: np.ndarray, accepted: np.ndarray, finite: np.ndarray
) -> Mapping[str, float]:
    """What became of the proposals of all chains; three of [chains, draws].

    acceptance: mean min(1, r). acceptance_lowest: of the chain with the lowest mean.
    stuck: share of chains without an accepted move in the last half of the draws.
    non_finite: share of proposals with a NaN or infinity. NaN without draws.
    """
    if not np.size(acceptance_prob):
        names = ("acceptance", "acceptance_lowest", "stuck", "non_finite")
        return dict.fromkeys(names, float("nan"))
    late = np.asarray(accepted)[:, np.shape(accepted)[1] // 2 :]
    return {
        "acceptance": float(np.mean(acceptance_prob)),
        "acceptance_lowest": float(np.min(np.mean(acceptance_prob, axis=1))),
        "stuck": float(np.mean(~np.any(late, axis=1))),
        "non_finite": float(1 - np.mean(finite)),
    }


def _usable(traces: np.ndarray) -> bool:
    """Whether the estimators are defined. Raises ValueError unless [chains, draws]."""
    if np.ndim(traces) != 2:
        raise ValueError(f"traces have shape {np.shape(traces)}: want [chains, draws].")
    enough = np.shape(traces)[1] >= MIN_DRAWS and len(traces) > 0
    return enough and np.all(np.isfinite(traces)) and np.ptp(traces) > 0


def _arviz():
    """ArviZ, imported when needed: it takes over a second, and 0.23 warns of 1.0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz
