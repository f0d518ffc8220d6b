"""Mode coverage of planar mixtures with known modes."""

from collections.abc import Mapping

import numpy as np


def coverage(
    x: np.ndarray, centres: np.ndarray, std: float, num_std: float = 4.0
) -> Mapping[str, float]:
    """How samples x [N, 2] spread over modes at `centres` [M, 2] of width `std`.

    modes: modes with a sample within `num_std` standard deviations.
    near_share: share of samples within that distance of some mode.
    kl_uniform: KL of the near samples' mode histogram against equal shares, in nats;
        nan without near samples.
    """
    squared = np.sum((x[:, None] - centres[None]) ** 2, axis=-1)
    nearest = np.argmin(squared, axis=1)
    close = np.min(squared, axis=1) < (num_std * std) ** 2
    counts = np.bincount(nearest[close], minlength=len(centres))
    share = counts[counts > 0] / max(counts.sum(), 1)
    kl = float(np.sum(share * np.log(share * len(centres)))) if close.any() else np.nan
    return {
        "modes": int(np.sum(counts > 0)),
        "near_share": float(np.mean(close)),
        "kl_uniform": kl,
    }
