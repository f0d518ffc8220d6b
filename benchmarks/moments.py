"""Draws held against moments that are known with a standard error."""

import numpy as np
from scipy import stats

from megjax.densities import posteriors
from megjax.metrics import mcmc

FAR = 4.0
"""Standard errors beyond which a quantity is named."""


def compared(quantities, reference: posteriors.Reference) -> dict:
    """Errors of quantities [chains, draws, ...], and their effective draws."""
    errors, sizes, r_hats, far = {"mean": [], "variance": []}, [], [], []
    for name, values in quantities.items():
        x = np.asarray(values, np.float64)
        x = x.reshape(*x.shape[:2], -1)
        moments = [np.ravel(moment[name]) for moment in reference[:3]]
        for i, (mean, error, std) in enumerate(zip(*moments, strict=True)):
            away = x[..., i] - mean
            squares = away**2 - std**2
            known = 0.0
            if error > 0:
                size = min((std / error) ** 2, reference.num_draws)
                known = np.std(squares) / np.sqrt(size)
            r_hats.append(mcmc.r_hat(away))
            for kind, each, other in (
                ("mean", away, error),
                ("variance", squares, known),
            ):
                sizes.append(mcmc.effective_sample_size(each))
                own = np.std(each) / np.sqrt(sizes[-1])
                errors[kind].append(abs(np.mean(each)) / np.hypot(own, other))
                if not errors[kind][-1] <= FAR:
                    far.append(f"{kind} of {name}[{i}]: {errors[kind][-1]:.1f}")
    num = len(errors["mean"])
    return {
        "quantities": num,
        "largest_mean_error": float(np.max(errors["mean"])),
        "largest_variance_error": float(np.max(errors["variance"])),
        "typical_largest": float(stats.norm.isf((1 - 0.5 ** (1 / num)) / 2)),
        "far": far[:5],
        "num_far": len(far),
        "r_hat": float(np.max(r_hats)),
        "ess": float(np.min(sizes)),
    }
