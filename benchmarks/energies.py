"""Speed of an MNIST RBM against scikit-learn and a PyTorch loop, in turns.

    python -m benchmarks.energies --data_dir=../shared/data/tfds

784 x 200 binary units, batches of 100, PCD-1: passes over the 60,000 digits per second
of a call of `fit`, and Gibbs sweeps of 100 chains per second. Beside them stands what
NumPy's BLAS makes of the five matrix products of an update, and of the two of a sweep,
and nothing else: a bound for all that make these products in float32. `stacked` makes
three of the five, with data and chains one below the other: no update can do with less.
`BernoulliRBM` computes in the type of its rows, which is float64 unless its user says
otherwise: `sklearn_float64`; `sklearn` has float32, as we do.
With --peer_python=PATH_TO_PYTHON_WITH_TORCH `benchmarks/rbm_peer.py` runs in turns with
ours and scikit-learn's `BernoulliRBM`.
"""

import functools
import os
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import numpy as np
from absl import flags
from sklearn import neural_network

from benchmarks import measure, recording
from megjax import app
from megjax.data import binary, images
from megjax.estimators.rbm import RBM

DATA_DIR = flags.DEFINE_string("data_dir", None, "Of TFDS; default its own.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed rounds; the median counts.", 1)
PASSES = flags.DEFINE_integer("passes", 5, "Over the digits, in a call of fit.", 1)
SWEEPS = flags.DEFINE_integer("sweeps", 300, "Gibbs sweeps of a round.", 1)
PEER_PYTHON = flags.DEFINE_string("peer_python", None, "Python that has torch.")

NUM_HIDDEN = 200
BATCH_SIZE = 100
LEARNING_RATE = 0.05
SETTINGS = {
    "n_components": NUM_HIDDEN,
    "batch_size": BATCH_SIZE,
    "learning_rate": LEARNING_RATE,
    "random_state": 0,
}


def main() -> int:
    """Measures in turns and prints a table and one line of JSON."""
    pixels, _ = images.labelled("mnist", split="train", data_dir=DATA_DIR.value)
    rows = binary.rounded(pixels).reshape(len(pixels), -1).astype(np.float32) / 255
    rows64 = rows.astype(np.float64)
    runners = {
        "megjax": megjax_round,
        "sklearn": sklearn_round,
        "sklearn_float64": lambda rows: sklearn_round(rows64),
        "products": products_round,
        "stacked": functools.partial(products_round, stacked=True),
    }
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "rows.npy"
        np.save(path, rows)
        if PEER_PYTHON.value:
            runners["torch"] = lambda rows: torch_round(path)
        # Compiles, and warms up.
        megjax_round(rows)
        rounds = {name: [] for name in runners}
        for _ in range(ROUNDS.value):
            for name, runner in runners.items():
                rounds[name].append(runner(rows))
                print(name, *(f"{v:.4g}" for v in rounds[name][-1]), file=sys.stderr)
    record = summary(rounds) | pseudo_likelihoods(rows)
    cores = len(os.sched_getaffinity(0))
    record |= {"jax": jax.__version__, "cores": cores}
    measure.report(*recording.recorded([record], [SETTINGS["random_state"]]))
    return 0


def megjax_round(rows: np.ndarray) -> tuple[float, float]:
    """Seconds of one pass, Gibbs sweeps per second."""
    start = time.perf_counter()
    machine = RBM(n_iter=PASSES.value, **SETTINGS).fit(rows)
    epoch_seconds = (time.perf_counter() - start) / PASSES.value
    machine.sample(BATCH_SIZE, num_sweeps=SWEEPS.value)
    start = time.perf_counter()
    machine.sample(BATCH_SIZE, num_sweeps=SWEEPS.value)
    return epoch_seconds, SWEEPS.value / (time.perf_counter() - start)


def sklearn_round(rows: np.ndarray) -> tuple[float, float]:
    """As `megjax_round`, of BernoulliRBM in the type of the rows."""
    start = time.perf_counter()
    machine = neural_network.BernoulliRBM(n_iter=PASSES.value, **SETTINGS).fit(rows)
    epoch_seconds = (time.perf_counter() - start) / PASSES.value
    v = rows[:BATCH_SIZE]
    start = time.perf_counter()
    for _ in range(SWEEPS.value):
        v = machine.gibbs(v)
    return epoch_seconds, SWEEPS.value / (time.perf_counter() - start)


def products_round(rows: np.ndarray, stacked: bool = False) -> tuple[float, float]:
    """As `megjax_round`, of the matrix products alone."""
    v, both = rows[:BATCH_SIZE], rows[: 2 * BATCH_SIZE]
    weights = np.zeros((v.shape[1], NUM_HIDDEN), np.float32)
    h, h_both = v @ weights, both @ weights
    num_updates = len(rows) // BATCH_SIZE
    start = time.perf_counter()
    for _ in range(num_updates):
        if stacked:
            h @ weights.T, both @ weights, both.T @ h_both
        else:
            v @ weights, h @ weights.T, v @ weights, v.T @ h, v.T @ h
    epoch_seconds = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(SWEEPS.value):
        h @ weights.T, v @ weights
    return epoch_seconds, SWEEPS.value / (time.perf_counter() - start)


def torch_round(path: pathlib.Path) -> tuple[float, float]:
    """As `megjax_round`, in a process of its own with one warm pass before."""
    script = pathlib.Path(__file__).with_name("rbm_peer.py")
    arguments = {
        "rows": path,
        "hidden": NUM_HIDDEN,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "sweeps": SWEEPS.value,
    }
    line = [PEER_PYTHON.value, str(script)]
    line += [f"--{name}={value}" for name, value in arguments.items()]
    record = measure.printed(line)
    return record["epoch_s"], record["sweeps_per_s"]


def summary(rounds: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Medians over rounds, our speed over that of the others, and the highest ratio."""
    record = {}
    for name, measured in rounds.items():
        seconds, sweeps = (statistics.median(values) for values in zip(*measured))
        record[f"{name}_epochs_per_second"] = 1 / seconds
        record[f"{name}_gibbs_sweeps_per_second"] = sweeps
    for quantity in ("epochs_per_second", "gibbs_sweeps_per_second"):
        for name in list(rounds)[1:]:
            ratio = record[f"megjax_{quantity}"] / record[f"{name}_{quantity}"]
            record[f"{quantity}_over_{name}"] = ratio
        bound = max(record[f"{name}_{quantity}"] for name in ("products", "stacked"))
        most = bound / record[f"sklearn_{quantity}"]
        record[f"{quantity}_over_sklearn_at_most"] = most
    return record


def pseudo_likelihoods(rows: np.ndarray) -> dict[str, float]:
    """What one pass has learned, in nats per digit: the same for the same work."""
    ours = RBM(n_iter=1, **SETTINGS).fit(rows)
    theirs = neural_network.BernoulliRBM(n_iter=1, **SETTINGS).fit(rows)
    record = {"megjax_pseudo_likelihood": np.mean(ours.pseudo_likelihood(rows[:1000]))}
    ours.components_ = theirs.components_
    ours.intercept_hidden_ = theirs.intercept_hidden_
    ours.intercept_visible_ = theirs.intercept_visible_
    found = np.mean(ours.pseudo_likelihood(rows[:1000]))
    return record | {"sklearn_pseudo_likelihood": found}


if __name__ == "__main__":
    app.run(main)
