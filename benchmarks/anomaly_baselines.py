"""Classical detectors on the very split that an anomaly config trains and tests on.

    python -m benchmarks.anomaly_baselines --config=configs/kdd99.py
    python -m benchmarks.anomaly_baselines --config=configs/mnist_anomaly.py:1

KDD99's raw columns span nine orders of magnitude: its baselines are those of the scaled
variant.
"""

import json
import time
from collections.abc import Callable, Iterator

import jax
import ml_collections
import numpy as np
from absl import flags

from benchmarks import measure
from megjax import app
from megjax.data import kdd99, one_class
from megjax.data.dataset import Dataset, Labelled
from megjax.evaluation import anomaly, baselines
from megjax.training import experiment

CONFIG = experiment.define_flag()
SEED = flags.DEFINE_integer("seed", 0, "Of the forest and of samples.")
COMPONENTS = flags.DEFINE_list("components", None, "Of PCA, by default by data set.")
SVM_EXAMPLES = flags.DEFINE_integer(
    "svm_examples", 10_000, "Training examples of the one-class SVM.", 2
)
ONLY = flags.DEFINE_list("only", None, "Beginnings of the names of baselines.")
STORED = flags.DEFINE_integer(
    "stored", 5_000, "Training examples among which neighbors are sought.", 7
)


def split(config: ml_collections.ConfigDict) -> tuple[Dataset, Labelled]:
    """(train, test) of an anomaly config; ValueError for another."""
    data_dir = config.data_dir or None
    if "scale" in config:
        return kdd99.kdd99(data_dir=data_dir, scale=config.scale)
    if "digit" in config:
        return one_class.mnist_without(config.digit, data_dir=data_dir)
    raise ValueError("the config has no anomalies: give kdd99 or mnist_anomaly")


def detectors(
    train: np.ndarray, components: list[int], svm_examples: int, seed: int
) -> Iterator[tuple[str, Callable[[], baselines.Detector]]]:
    """(name, fit) of every baseline on training rows x [N, F]."""
    for num in components:
        yield f"PCA {num}", lambda num=num: baselines.principal_components(train, num)
    stored = np.random.RandomState(seed).permutation(len(train))[: STORED.value]
    yield (
        f"neighbors, {len(stored)} examples",
        lambda: baselines.neighbors(train[stored]),
    )
    yield "isolation forest", lambda: baselines.isolation_forest(train, seed)
    yield (
        f"one-class SVM, {svm_examples} examples",
        lambda: baselines.one_class_svm(train, svm_examples, seed),
    )


def results(
    train: np.ndarray, test: Labelled, components: list[int], quantile: float
) -> Iterator[dict[str, str | float]]:
    """Figures of every score of every baseline; equal examples tie exactly."""
    first, inverse = anomaly.distinct(test.x)
    rows = test.x[first].reshape(len(first), -1)
    for name, fit in detectors(train, components, SVM_EXAMPLES.value, SEED.value):
        if ONLY.value and not name.startswith(tuple(ONLY.value)):
            continue
        start = time.perf_counter()
        found = fit()(rows)
        seconds = time.perf_counter() - start
        for score, values in found.items():
            yield {
                "baseline": name,
                "score": score,
                **anomaly.thresholded(values[inverse], test.labels, quantile),
                **anomaly.ranking(values[inverse], test.labels),
                "seconds": seconds,
            }


def main() -> int:
    """Prints a row for each baseline's scores, and all of them as a line of JSON."""
    config = CONFIG.value
    data, test = split(config)
    train = np.asarray(data.take(data.store, np.arange(data.num_examples)))
    defaults = [2, 5, 10, 20] if "scale" in config else [2, 32, 128]
    components = [int(num) for num in COMPONENTS.value or defaults]
    prevalence = float(np.mean(test.labels))
    # The reference's for KDD99; for others as many are flagged as are anomalous.
    quantile = 0.8 if "scale" in config else 1 - prevalence
    record = {
        "config": measure.config_name(),
        "prevalence": prevalence,
        "minimum_auprc": anomaly.minimum_auprc(prevalence),
        "quantile": quantile,
        "seed": SEED.value,
        "results": [],
    }
    print(f"prevalence {prevalence:.4f}, smallest AUPRC {record['minimum_auprc']:.4f}")
    columns = ("f1", "precision", "recall", "auprc", "average_precision", "auroc")
    print(f"{'baseline':32}{'score':25}" + "".join(f"{c[:9]:>10}" for c in columns))
    for row in results(train.reshape(len(train), -1), test, components, quantile):
        record["results"].append(row)
        numbers = "".join(f"{row[column]:10.4f}" for column in columns)
        print(f"{row['baseline']:32}{row['score']:25}{numbers}", flush=True)
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    flags.mark_flag_as_required("config")
    app.run(main)
