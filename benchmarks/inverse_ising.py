"""Couplings recovered from spins by four methods, on models whose couplings are known.

    python -m benchmarks.inverse_ising
    python -m benchmarks.inverse_ising --lattice

Random couplings of standard deviation strength / sqrt(n) and random fields; independent
draws from the enumerated model. Prints, for each strength and method, the error, what
the method says of its error, and how often the truth lies within two of those.

With --lattice: Swendsen-Wang configurations of the periodic square lattice, as
`maxent_ising` learns them, whose 2 size^2 couplings all are 1 / T. Prints the mean
coupling of pseudo-likelihood (a coupling for every bond and a field for every spin; one
coupling for all) and of naive mean field, with errors over the 100 chains; the record
has the configurations' own observables and their exact values besides.
"""

import json
import time
from collections.abc import Iterator

import numpy as np
from absl import flags

from benchmarks import recording
from megjax import app
from megjax.data import ising as lattice
from megjax.energies import ising
from megjax.evaluation import couplings
from megjax.evaluation import ising as observables

NUM_SPINS = flags.DEFINE_integer("num_spins", 12, "At most 16.", 2, 16)
NUM_DRAWS = flags.DEFINE_integer(
    "num_draws", 10_000, "Observations; of lattices a multiple of 100.", 100
)
STRENGTHS = flags.DEFINE_list("strengths", ["0.2", "0.5", "1", "1.5"], "Of couplings.")
FIELD = flags.DEFINE_float("field", 0.3, "Standard deviation of the fields.")
SEED = flags.DEFINE_integer("seed", 0, "Of couplings and draws.")
LATTICE = flags.DEFINE_bool("lattice", False, "The square lattice instead.")
SIZE = flags.DEFINE_integer("size", 40, "Side of the lattice.", 3)
TEMPERATURES = flags.DEFINE_list(
    "temperatures", ["1.75", "2.25", "2.75"], "Of the lattice."
)

METHODS = (
    couplings.maximum_likelihood,
    couplings.pseudo_likelihood,
    couplings.tap,
    couplings.mean_field,
)


LATTICE_METHODS = {
    "pseudo-likelihood, bonds": (couplings.bond_pseudo_likelihood, lattice.NUM_CHAINS),
    "pseudo-likelihood, one J": (couplings.shared_coupling, lattice.NUM_CHAINS),
    "naive mean field": (couplings.mean_field_coupling, 20),
}
"""And the parts that their errors come from: chains, or five at a time."""


def main() -> int:
    """Prints a table and one line of JSON."""
    found = lattices() if LATTICE.value else random_models()
    print(json.dumps(list(recording.recorded(found, [SEED.value]))))
    return 0


def random_models() -> Iterator[dict]:
    """Prints and gives a record for each strength and method."""
    print(
        f"{'strength':9}{'method':20}{'rms error':>10}{'stated':>9}{'in 2 errors':>12}"
    )
    for strength in map(float, STRENGTHS.value):
        x, truth = observations(strength)
        for method in METHODS:
            found = couplings.recovery(method(x), truth)
            print(
                f"{strength:<9g}{method.__name__:20}{found['rms_error']:10.4f}"
                f"{found['mean_standard_error']:9.4f}{found['within_two_errors']:12.3f}"
            )
            yield {"strength": strength, "method": method.__name__} | found


def lattices() -> Iterator[dict]:
    """Prints a line for each temperature and method; a record for each temperature."""
    print(f"{'T':6}{'truth':>8} {'method':24}{'mean J':>9}{'error':>9}{'off by':>8}")
    edges = ising.square_lattice(SIZE.value)
    for temperature in map(float, TEMPERATURES.value):
        data = lattice.ising(
            1 / temperature,
            size=SIZE.value,
            num_examples=NUM_DRAWS.value,
            seed=SEED.value,
        )
        spins = lattice.chains(data)
        x = spins.reshape(data.num_examples, -1)
        record = {"temperature": temperature, "truth": 1 / temperature}
        found = observables.observables(spins, 1 / temperature)
        record |= {name: estimate._asdict() for name, estimate in found.items()}
        record |= observables.exact_values(1 / temperature, SIZE.value)
        for name, (method, num_groups) in LATTICE_METHODS.items():
            start = time.perf_counter()
            found = method(x, edges, num_groups=num_groups)
            seconds = time.perf_counter() - start
            mean = getattr(found, "mean", found)
            off = (mean.value - 1 / temperature) / mean.error
            record[name] = mean._asdict() | {"seconds": seconds}
            print(
                f"{temperature:<6g}{1 / temperature:8.5f} {name:24}"
                f"{mean.value:9.5f}{mean.error:9.5f}{off:8.1f}",
                flush=True,
            )
        yield record


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
    app.run(main)
