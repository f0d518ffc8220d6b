"""Which modes of stacked MNIST a generator draws, and how evenly.

Kumar et al. 2019, table 1; Metz et al. 2017, section 3.3.1. A classifier names every
channel, and its mistakes alone fill cells that nobody drew: hence the thresholded
numbers, the floor of sampling, and the same scores of real stacks.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import plotting
from megjax.data.dataset import Dataset
from megjax.evaluation import classifier as classifiers
from megjax.evaluation.classifier import Classifier
from megjax.learners.base import Learner
from megjax.metrics.coverage import kl_to_uniform
from megjax.types import Array, Evaluation, Key, PyTree, Report

SAMPLES_PER_MODE = 26
CONFIDENCE = 0.95
"""Probability of its class that every channel of a confidently named stack has."""

NUM_REAL_SETS = 20
SHOWN = 100


class Classified(NamedTuple):
    """Stacks under their names.

    classes: of the channels, int [N, n].
    confidence: of the least certain channel, [N].
    """

    classes: np.ndarray
    confidence: np.ndarray


def stack_modes(
    learner: Learner,
    classifier: Classifier,
    data: Dataset,
    labels: np.ndarray | None = None,
    *,
    num_samples: int | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """An evaluation of samples [N, H, W, n] by the classes of their n channels.

    data: the real stacks, as `megjax.data.stacked` makes them. labels: of its single
    images, [number of images]. num_samples: by default 26 for every mode.

    Metrics as in `scores`. Those that begin with real_ are means over sets of as many
    real stacks, drawn with replacement; where they end in _true_labels no classifier
    had a part in them. real_kl_std is the spread of a single set, and kl_floor what
    even shares would score on average: the ideal is real_kl, not 0. Raises ValueError
    for num_samples < 1.
    """
    num_classes = classifier.num_classes
    num_cells = num_classes ** data.shape[-1]
    num = SAMPLES_PER_MODE * num_cells if num_samples is None else num_samples
    if min(num, batch_size) < 1:
        raise ValueError(f"num_samples={num}, batch_size={batch_size}: want 1 or more.")

    @jax.jit
    def drawn(key, state):
        x = learner.sample(key, state, batch_size)
        return x[:SHOWN], *classified(classifier, x)

    def evaluate(key, state):
        key_samples, key_real = jax.random.split(key)
        shown, ours = _all_drawn(drawn, key_samples, state, num, batch_size)
        calibration, real = _real(key_real, classifier, data, labels, num)
        metrics = {
            "num_samples": num,
            "possible_modes": num_cells,
            "count_threshold": count_threshold(num, num_cells),
            "classifier_test_accuracy": classifier.test_accuracy,
            **scores(ours, num_classes),
            "kl_floor": floor(num, num_cells),
            **calibration,
        }
        return Report(metrics, _pictures(shown, ours, real, num_classes))

    return evaluate


def classified(classifier: Classifier, x: Array) -> Classified:
    """Stacks x [B, H, W, n] under the classifier's names, each channel by itself."""
    single = jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3], 1)
    probabilities = jax.nn.softmax(classifier.logits(single))
    probabilities = probabilities.reshape(len(x), x.shape[-1], -1)
    confidence = jnp.min(jnp.max(probabilities, axis=-1), axis=-1)
    return Classified(jnp.argmax(probabilities, axis=-1), confidence)


def scores(stacks: Classified, num_classes: int = 10) -> Mapping[str, float]:
    """How stacks spread over the num_classes^n modes.

    modes: modes with a sample, as the paper counts them. modes_by_count: modes with
    `count_threshold` samples or more. modes_by_confidence: modes with a sample all of
    whose channels the classifier names with probability 0.95 or more;
    confident_share: of such samples. kl: of the histogram against equal shares, nats.
    """
    counts = cell_counts(stacks.classes, num_classes)
    threshold = count_threshold(len(stacks.classes), len(counts))
    confident = stacks.confidence >= CONFIDENCE
    confident_counts = cell_counts(stacks.classes[confident], num_classes)
    return {
        "modes": int(np.sum(counts > 0)),
        "modes_by_count": int(np.sum(counts >= threshold)),
        "modes_by_confidence": int(np.sum(confident_counts > 0)),
        "confident_share": float(np.mean(confident)),
        "kl": kl_to_uniform(counts),
    }


def cell_counts(classes: np.ndarray, num_classes: int = 10) -> np.ndarray:
    """Stacks in every mode, first channel slowest: [N, n] -> int [num_classes^n]."""
    num_stacked = classes.shape[1]
    cells = np.asarray(classes) @ num_classes ** np.arange(num_stacked)[::-1]
    return np.bincount(cells, minlength=num_classes**num_stacked)


def count_threshold(num_samples: int, num_cells: int) -> int:
    """A quarter of a mode's fair share: 6 of 26; at least 1.

    Of even shares a mode falls short of that once in a million; a mistake of the
    classifier seldom repeats itself as often.
    """
    return max(1, num_samples // num_cells // 4)


def floor(num_samples: int, num_cells: int) -> float:
    """The mean `kl_to_uniform` of samples with equal shares, in nats: (M - 1) / 2N.

    The first order in 1 / N, for N well above M.
    """
    return (num_cells - 1) / (2 * num_samples)


def _all_drawn(
    drawn, key: Key, state: PyTree, num: int, batch_size: int
) -> tuple[np.ndarray, Classified]:
    """The first samples and all names, a batch in memory at a time."""
    shown, names = None, []
    for i, start in enumerate(range(0, num, batch_size)):
        x, *found = drawn(jax.random.fold_in(key, i), state)
        names.append([np.asarray(v)[: num - start] for v in found])
        shown = np.asarray(x)[:num] if shown is None else shown
    return shown, Classified(*map(np.concatenate, zip(*names)))


def _real(
    key: Key,
    classifier: Classifier,
    data: Dataset,
    labels: np.ndarray | None,
    num: int,
) -> tuple[Mapping[str, float], Classified]:
    """Mean scores of sets of `num` real stacks, and one of these sets.

    Every image of the data is classified once, however many stacks hold it.
    """
    pixels, table = data.store["pixels"], data.store["table"]
    probabilities = classifiers.probabilities(classifier, pixels[..., None])
    singles = Classified(probabilities.argmax(axis=1), probabilities.max(axis=1))
    num_classes, found = probabilities.shape[1], []
    for key_draw in jax.random.split(key, NUM_REAL_SETS):
        drawn = table[np.asarray(jax.random.randint(key_draw, (num,), 0, len(table)))]
        stacks = Classified(
            singles.classes[drawn], singles.confidence[drawn].min(axis=1)
        )
        found.append(dict(scores(stacks, num_classes)))
        if labels is not None:
            counts = cell_counts(labels[drawn], num_classes)
            found[-1]["modes_true_labels"] = int(np.sum(counts > 0))
            found[-1]["kl_true_labels"] = kl_to_uniform(counts)
    means = {k: float(np.mean([one[k] for one in found])) for k in found[0]}
    means["kl_std"] = float(np.std([one["kl"] for one in found], ddof=1))
    return {f"real_{name}": value for name, value in means.items()}, stacks


def _pictures(
    shown: np.ndarray, ours: Classified, real: Classified, num_classes: int
) -> Mapping[str, np.ndarray]:
    """Samples, and how many modes have how many of them."""
    counts = [cell_counts(stacks.classes, num_classes) for stacks in (ours, real)]
    # Real shares stay below four fair ones; a collapse piles up in the last bin.
    last = 4 * max(1, len(ours.classes) // len(counts[0]))
    bins = np.arange(last + 1)
    lines = {
        name: (bins, np.bincount(np.minimum(found, last), minlength=last + 1))
        for name, found in zip(("samples", "real stacks"), counts)
    }
    histogram = plotting.curves(
        lines, x_label=f"stacks in a mode ({last}: or more)", y_label="modes"
    )
    return {"samples": plotting.image_grid(shown), "histogram": histogram}
