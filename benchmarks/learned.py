"""Does a learned proposal pay? Against the NUTS that it is trained from, in one run.

    python -m benchmarks.learned --budget=120
    python -m benchmarks.learned --targets=german,heart --data_dir=../shared/data

For every target one `megjax.sample(kernel="learned", budget=...)`. Prints effective draws
per second of both samplers (the least of all means and variances), the seconds of
training, compilation included, after how many effective draws and how many draws of
NUTS training has paid for itself, and what both make per second of wall at several
numbers of draws of NUTS, training included. 0 effective draws of NUTS are fewer than a
measure can tell. `used` is what the call then drew with, and R-hat
and the error of the moments are those of its draws, in standard errors, the largest.
"""

import json
import time
import warnings

import arviz
import jax
import numpy as np
from absl import flags

import megjax
from benchmarks import proposals, recording
from megjax import app
from megjax.densities import targets

TARGETS = flags.DEFINE_list(
    "targets", ["icg", "correlated", "heart", "australian", "german"], "Densities."
)
BUDGET = flags.DEFINE_float("budget", 120.0, "Seconds of training.", 0.0)
NUM_CHAINS = flags.DEFINE_integer("chains", 16, "Chains.", 2)
NUM_DRAWS = flags.DEFINE_integer("draws", 2000, "Of every chain.", 100)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Of the Statlog sets.")
MASS_MATRIX = flags.DEFINE_enum(
    "mass_matrix", "diagonal", ["diagonal", "dense"], "Of NUTS."
)
SEED = flags.DEFINE_integer("seed", 0, "Of starts and chains.")
SIZES = (10**3, 10**4, 10**5, 10**6)
"""Draws of NUTS, in all chains, at which both are compared."""

CORRELATION = 0.95


def correlated(dim: int = 50) -> targets.Target:
    """A Gaussian of variances 1, all of whose correlations are `CORRELATION`."""
    shared = np.full((dim, dim), CORRELATION)
    return targets.gaussian("correlated", shared + (1 - CORRELATION) * np.eye(dim))


def main() -> int:
    """Prints a line of JSON per target."""
    found = ({"target": name} | measured(density(name)) for name in TARGETS.value)
    for line in recording.recorded(found, [SEED.value]):
        print(json.dumps(line), flush=True)
    return 0


def density(name: str) -> targets.Target:
    """The target of that name."""
    if name == "correlated":
        return correlated()
    return proposals.ROWS[name].target_fn(DATA_DIR.value)


def measured(target: targets.Target) -> dict[str, object]:
    """Both samplers on a target."""
    keys = jax.random.split(jax.random.key(SEED.value))
    starts = 0.1 * jax.random.normal(keys[0], (NUM_CHAINS.value, target.dim))
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = megjax.sample(
            target.log_density,
            starts,
            key=keys[1],
            kernel="learned",
            budget=BUDGET.value,
            num_samples=NUM_DRAWS.value,
            mass_matrix=MASS_MATRIX.value,
            progress=False,
        )
    seconds = time.perf_counter() - begin
    x = draws.posterior["x"].to_numpy()
    nuts = draws.attrs["nuts_ess_per_second"]
    ours = draws.attrs["learned_ess_per_second"]
    training = draws.attrs["training_seconds"]
    per_draw = nuts * draws.attrs["nuts_seconds"] / (NUM_CHAINS.value * NUM_DRAWS.value)
    gain = 1 / nuts - 1 / ours[-1] if nuts and ours[-1] else float("nan")
    pays = training / gain if gain > 0 else float("inf")
    draws_paid = pays / per_draw if per_draw else float("nan")
    sizes = [size * per_draw for size in SIZES]
    whole = [size / (training + size / ours[-1]) if ours[-1] else 0 for size in sizes]
    return {
        "used": draws.attrs["kernel"],
        "nuts_ess_per_draw": per_draw,
        "nuts_ess_per_second": nuts,
        "learned_ess_per_second": ours,
        "first_learned_ess_per_second": ours[0],
        "last_learned_ess_per_second": ours[-1],
        "learned_over_nuts": ours[-1] / nuts if nuts else float("inf"),
        "training_seconds": training,
        "pays_at_effective_draws": pays,
        "pays_at_draws_of_nuts": draws_paid,
        "pays_at_million_draws_of_nuts": 1e-6 * draws_paid,
        "learned_ess_per_second_with_training": dict(zip(SIZES, whole)),
        "r_hat": max(float(arviz.rhat(x[..., i])) for i in range(x.shape[2])),
        "largest_error": errors(x, target),
        "seconds": seconds,
    }


def errors(x: np.ndarray, target: targets.Target) -> float:
    """The largest error of a mean or variance, in its standard errors."""
    found = []
    for i, (mean, variance) in enumerate(zip(*target.moments)):
        away = np.asarray(x[..., i], np.float64) - mean
        for values, expected in ((away, 0.0), (away**2, variance)):
            size = float(arviz.ess(values, method="mean"))
            error = np.std(values) / np.sqrt(size)
            found.append(abs(np.mean(values) - expected) / error)
    return float(np.max(found))


if __name__ == "__main__":
    app.run(main)
