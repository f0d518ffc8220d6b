"""Couplings recovered from spins by four methods, on models whose couplings are known.

    python -m benchmarks.inverse_ising

Random couplings of standard deviation strength / sqrt(n) and random fields; independent
draws from the enumerated model. Prints, for each strength and method, the error, what
the method says of its error, and how often the truth lies within two of those.
"""

import json

import numpy as np
from absl import flags

from megjax import command
from megjax.evaluation import couplings

NUM_SPINS = flags.DEFINE_integer("num_spins", 12, "At most 16.", 2, 16)
NUM_DRAWS = flags.DEFINE_integer("num_draws", 10_000, "Observations.", 100)
STRENGTHS = flags.DEFINE_list("strengths", ["0.2", "0.5", "1", "1.5"], "Of couplings.")
FIELD = flags.DEFINE_float("field", 0.3, "Standard deviation of the fields.")
SEED = flags.DEFINE_integer("seed", 0, "Of couplings and draws.")

METHODS = (
    couplings.maximum_likelihood,
    couplings.pseudo_likelihood,
    couplings.tap,
    couplings.mean_field,
)


def main() -> int:
    """Prints a table and one line of JSON."""
    print(
        f"{'strength':9}{'method':20}{'rms error':>10}{'stated':>9}{'in 2 errors':>12}"
    )
    records = []
    for strength in map(float, STRENGTHS.value):
        x, truth = observations(strength)
        for method in METHODS:
            found = couplings.recovery(method(x), truth)
            records.append({"strength": strength, "method": method.__name__} | found)
            print(
                f"{strength:<9g}{method.__name__:20}{found['rms_error']:10.4f}"
                f"{found['mean_standard_error']:9.4f}{found['within_two_errors']:12.3f}"
            )
    print(json.dumps(records))
    return 0


def observations(strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Independent spins [N, n] and the couplings [n, n] that made them."""
    rng, num = np.random.RandomState(SEED.value), NUM_SPINS.value
    upper = np.triu(rng.normal(size=(num, num)) * strength / np.sqrt(num), 1)
    truth, fields = upper + upper.T, FIELD.value * rng.normal(size=num)
    states = 2.0 * (np.arange(2**num)[:, None] >> np.arange(num) & 1) - 1
    logits = states @ fields + np.sum(states @ upper * states, axis=1)
    probs = np.exp(logits - logits.max())
    rows = rng.choice(len(states), NUM_DRAWS.value, p=probs / probs.sum())
    return states[rows], truth


if __name__ == "__main__":
    command.run(main)
