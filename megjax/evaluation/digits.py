"""How samples look to a classifier of scikit-learn's 8x8 digits.

Logistic regression on a Gaussian kernel. A support vector machine names as many digits
right, but its calibrated probabilities are as high on noise (.88) as on digits (.94):
these are .97 on digits and .24 on noise.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
from scipy import spatial

from megjax import extras
from megjax.data import images
from megjax.evaluation import classifier_metrics, fidelity
from megjax.evaluation.classifier_metrics import Outputs
from megjax.types import Evaluation, Report

NUM_HELD_OUT = 600
"""Digits that the classifier does not see, to measure its accuracy."""


def digits(
    samplers: Mapping[str, fidelity.Sampler], *, num_samples: int = 5000
) -> Evaluation:
    """An evaluation of samples [N, 8, 8, 1] of some samplers against the 1797 digits.

    Metrics, behind the name of a sampler: those of `classifier_metrics.scores` with
    pixels in [0, 1] for features; nearest_to_data, the median distance of a sample to
    the nearest digit over that of a digit to the nearest other one: well below 1 it
    would be memorised; and what the sampler tells. Of the digits themselves:
    half_against_half, the Frechet distance between two halves; classifier_accuracy and
    classifier_confidence on digits held out.
    """

    def evaluate(key, state):
        name_fn, held_out = classifier()
        pixels, _ = images.digits_labelled()
        real = name_fn(pixels)
        half = [Outputs(real.features[i::2], real.logits[i::2]) for i in (0, 1)]
        metrics = {
            **held_out,
            "half_against_half": classifier_metrics.distance(*half),
        }
        for name, sampler in samplers.items():
            draws = sampler(key, state, num_samples)
            ours = name_fn(fidelity.quantised(draws.x))
            found = classifier_metrics.scores(ours, real)
            found["nearest_to_data"] = _nearest_to_data(ours.features, real.features)
            prefix = name and f"{name}_"
            metrics |= {prefix + k: v for k, v in {**found, **draws.metrics}.items()}
        return Report(metrics)

    return evaluate


@functools.cache
def classifier() -> tuple[Callable[[np.ndarray], Outputs], Mapping[str, float]]:
    """(pixels uint8 [N, 8, 8, 1] -> Outputs, scores on digits held out)."""
    with extras.needed("estimators"):
        from sklearn import (
            kernel_approximation,
            linear_model,
            model_selection,
            pipeline,
        )
    pixels, labels = images.digits_labelled()
    train, test = model_selection.train_test_split(
        np.arange(len(pixels)), test_size=NUM_HELD_OUT, random_state=0, stratify=labels
    )
    features = _features(pixels)
    names = pipeline.make_pipeline(
        kernel_approximation.Nystroem(gamma=0.25, n_components=500, random_state=0),
        linear_model.LogisticRegression(C=100, max_iter=1000),
    )
    names.fit(features[train], labels[train])

    def outputs(pixels):
        features = _features(pixels)
        return Outputs(features, np.log(names.predict_proba(features) + 1e-12))

    probabilities = names.predict_proba(features[test])
    return outputs, {
        "classifier_accuracy": float(np.mean(probabilities.argmax(1) == labels[test])),
        "classifier_confidence": float(np.mean(probabilities.max(1))),
    }


def _features(pixels: np.ndarray) -> np.ndarray:
    return (pixels / np.float32(255)).reshape(len(pixels), -1)


def _nearest_to_data(x: np.ndarray, real: np.ndarray) -> float:
    """Median distance to the nearest of real ones, relative to theirs."""
    tree = spatial.KDTree(np.asarray(real, np.float64))
    ours = tree.query(np.asarray(x, np.float64), 1)[0]
    theirs = tree.query(np.asarray(real, np.float64), 2)[0][:, 1]
    return float(np.median(ours) / np.median(theirs))
