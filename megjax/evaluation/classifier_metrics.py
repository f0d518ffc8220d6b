"""What a classifier sees in samples: distances to data, classes, and spread.

The distances of Heusel et al. 2017 (Frechet) and Binkowski et al. 2018 (kernel) in the
features of a small classifier, beside the same of held-out images, which are the floor.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from megjax import plotting
from megjax.data import images
from megjax.evaluation import fidelity
from megjax.evaluation.fidelity import Space
from megjax.learners.base import Learner
from megjax.metrics import coverage, frechet
from megjax.types import Evaluation, Key, PyTree, Report

BATCH_SIZE = 500
NUM_SUBSETS = 20
"""Of the kernel distance: 1000 images each."""

NUM_NEIGHBOURS = 2000
"""Images whose spread is measured; a median needs no more."""

SHOWN = 100


class Outputs(NamedTuple):
    """Images as a classifier sees them: features [N, F], logits [N, K]."""

    features: np.ndarray
    logits: np.ndarray


def classes(
    learner: Learner,
    space: Callable[[], Space],
    sets: Callable[[], tuple[np.ndarray, np.ndarray]],
    *,
    num_samples: int = 10_000,
) -> Evaluation:
    """An evaluation of samples against training images, in the features of a classifier.

    space: as `fidelity.classifier_space` makes it, and sets: (training images, held-out
        images), uint8 [N, H, W, C]; both called when the evaluation runs. Of each set
        the first `num_samples` are taken, in random order where sets are sorted.

    Metrics: `scores` of the samples, and with held_out_ before their names those of
    images that no training saw: what a perfect model would have. frechet_held_out: the
    distance to those. A learner with a density ratio has all of them once more for the
    samples of `fidelity.by_ratio`, under resampled_ and latent_. Raises ValueError for
    fewer than 2 samples.
    """
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples}: give at least 2")
    draw = jax.jit(learner.sample, static_argnums=2)
    improved = fidelity.by_ratio(learner)

    def evaluate(key, state):
        ready = space()
        real, held_out = (outputs(ready, pixels[:num_samples]) for pixels in sets())
        pixels = _drawn(draw, key, state, num_samples)
        floor = scores(held_out, real)
        metrics, pictures = {}, {}

        def add(pixels, prefix=""):
            found = outputs(ready, pixels)
            all_scores = scores(found, real)
            all_scores["frechet_held_out"] = distance(found, held_out)
            metrics.update({prefix + name: v for name, v in all_scores.items()})
            picture = plotting.image_grid(images.normalised(pixels[:SHOWN]))
            pictures[f"{prefix}samples"] = picture

        add(pixels)
        metrics |= {f"held_out_{name}": value for name, value in floor.items()}
        for name, sampler in improved.items():
            draws = sampler(key, state, num_samples)
            add(fidelity.quantised(draws.x), f"{name}_")
            metrics |= {f"{name}_{k}": value for k, value in draws.metrics.items()}
        return Report(metrics | {"num_samples": num_samples}, pictures)

    return evaluate


def outputs(space: Space, pixels: np.ndarray) -> Outputs:
    """Features and logits of images uint8 [N, H, W, C], in batches of one size."""
    found = []
    for first in range(0, len(pixels), BATCH_SIZE):
        batch = pixels[first : first + BATCH_SIZE]
        arrays = space.outputs(np.resize(batch, (BATCH_SIZE, *batch.shape[1:])))
        found.append([np.asarray(array)[: len(batch)] for array in arrays])
    return Outputs(*map(np.concatenate, zip(*found)))


def scores(ours: Outputs, real: Outputs) -> dict[str, float]:
    """How images lie among real ones.

    frechet, kernel: distances of the features; 0 is best. confidence: mean probability
    of the named class. class_entropy: of the named classes, in nats, at most log K;
    rarest_class: fraction of the least named one. spread, spacing: of features, as
    `coverage.relative_spread`.
    """
    num = min(len(ours.features), len(real.features), NUM_NEIGHBOURS)
    kernel, _ = frechet.kernel_distance(
        ours.features, real.features, num_subsets=NUM_SUBSETS
    )
    probs = np.asarray(jax.nn.softmax(ours.logits))
    share = np.bincount(probs.argmax(1), minlength=probs.shape[1]) / len(probs)
    positive = share[share > 0]
    return {
        "frechet": distance(ours, real),
        "kernel": kernel,
        "confidence": float(probs.max(1).mean()),
        "class_entropy": float(-np.sum(positive * np.log(positive))),
        "rarest_class": float(share.min()),
        **coverage.relative_spread(ours.features[:num], real.features[:num]),
    }


def _drawn(draw: Callable, key: Key, state: PyTree, num: int) -> np.ndarray:
    """Samples uint8 [num, H, W, C], a batch in memory at a time."""
    keys = jax.random.split(key, -(-num // BATCH_SIZE))
    drawn = [fidelity.quantised(draw(key, state, BATCH_SIZE)) for key in keys]
    return np.concatenate(drawn)[:num]


def distance(ours: Outputs, real: Outputs) -> float:
    """The Frechet distance of features."""
    return frechet.frechet_distance(*_moments(ours.features), *_moments(real.features))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [F] and covariance [F, F] of features [N, F]."""
    found = frechet.moments(features)
    return found.mean, found.scatter / (found.num - 1)
