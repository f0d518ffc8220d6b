"""Distances and classes of images whose features can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.data import images
from megjax.evaluation import classifier_metrics, fidelity
from megjax.learners.base import Learner
from megjax.metrics import coverage, frechet
from megjax.recipes import image_sets

KEY = jax.random.key(0)


def space():
    """Features are the four pixels in [-1, 1]; the brightest one names the class."""

    def outputs(pixels):
        x = images.normalised(pixels).reshape(len(pixels), -1)
        return x, 20 * x

    return fidelity.Space("pixels", "mark", outputs, "frechet", "kernel", "score")


def drawn(seed, num, std=0.3):
    x = std * np.random.RandomState(seed).randn(num, 2, 2, 1)
    return fidelity.quantised(x)


def report(sample, num=1200):
    learner = Learner(None, None, sample, None)
    sets = drawn(1, 1300), drawn(2, 1250)
    made = classifier_metrics.classes(learner, space, lambda: sets, num_samples=num)
    return made(KEY, None)


@pytest.mark.slow
def test_a_perfect_generator_scores_as_held_out_images_do():
    found = report(lambda key, state, num: 0.3 * jax.random.normal(key, (num, 2, 2, 1)))
    metrics = found.metrics
    for name in ("spread", "spacing", "confidence"):
        assert metrics[name] == pytest.approx(metrics[f"held_out_{name}"], rel=0.1)
        assert metrics["spread"] == pytest.approx(1, rel=0.05)
    assert metrics["class_entropy"] == pytest.approx(np.log(4), abs=0.01)
    assert metrics["rarest_class"] == pytest.approx(0.25, abs=0.05)
    assert metrics["frechet"] < 0.005 and abs(metrics["kernel"]) < 0.01
    assert found.pictures["samples"].dtype == np.uint8


def test_a_collapsed_generator_is_seen():
    """Images of one class, nearly the same."""

    def collapsed(key, state, num):
        x = jnp.array([0.5, 0.0, 0.0, 0.0]).reshape(2, 2, 1)
        return x + 0.01 * jax.random.normal(key, (num, 2, 2, 1))

    metrics = report(collapsed).metrics
    assert metrics["spread"] < 0.1 and metrics["spacing"] < 0.2
    assert metrics["held_out_spacing"] == pytest.approx(1, rel=0.1)
    assert metrics["class_entropy"] == 0 and metrics["rarest_class"] == 0
    assert metrics["frechet"] > 0.4 and metrics["kernel"] > 0.1


def test_scores_by_hand():
    features = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    real = np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    # The nearest others are 1, sqrt 18 and 1 away, and 2, 2 and 2.
    found = coverage.relative_spread(features, real)
    assert found["spacing"] == pytest.approx(0.5)
    spread = (np.var([0, 3, 0]) + np.var([0, 4, 1])) / (2 * np.var([0, 0, 2]))
    assert found["spread"] == pytest.approx(np.sqrt(spread))
    logits = np.log([[0.9, 0.1, 0.0001], [0.6, 0.4, 0.0001], [0.2, 0.8, 0.0001]])
    scores = classifier_metrics.scores(
        classifier_metrics.Outputs(features, logits),
        classifier_metrics.Outputs(real, logits),
    )
    shares = np.array([2, 1]) / 3
    assert scores["class_entropy"] == pytest.approx(-np.sum(shares * np.log(shares)))
    assert scores["rarest_class"] == 0
    assert scores["confidence"] == pytest.approx(2.3 / 3, rel=1e-3)
    distance = frechet.frechet_distance(
        *(v for x in (features, real) for v in (x.mean(0), np.cov(x, rowvar=False)))
    )
    assert scores["frechet"] == pytest.approx(distance)


def test_batches_do_not_show(monkeypatch):
    pixels = drawn(3, 7)
    whole = classifier_metrics.outputs(space(), pixels)
    monkeypatch.setattr(classifier_metrics, "BATCH_SIZE", 3)
    for one, other in zip(
        whole, classifier_metrics.outputs(space(), pixels), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_too_few_samples():
    with pytest.raises(ValueError, match="num_samples=1: give at least 2"):
        report(None, num=1)


def test_a_missing_classifier_is_told_with_its_command():
    with pytest.raises(FileNotFoundError, match="megjax.evaluation.classifier"):
        image_sets.classifier_space("no.npz", "mnist")
