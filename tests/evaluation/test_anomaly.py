"""Scores and figures by hand, against another way of the same, and at their limits."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax import distributed
from megjax.data import kdd99
from megjax.data.dataset import Labelled
from megjax.evaluation import anomaly, baselines
from megjax.learners.base import Learner

SHARED = pathlib.Path(__file__).parents[3] / "shared/data"


def quadratic(generate=None):
    """E(x) = |x|^2 scale / 2 on images and vectors alike, with G(z) = `generate`."""

    def energy(state, x):
        return state * jnp.sum(jnp.square(x), axis=range(1, x.ndim)) / 2

    return Learner(
        init=None,
        step=None,
        sample=None,
        energy=energy,
        latents=lambda key, num: jax.random.normal(key, (num, 2)),
        generate=generate,
    )


def draws(num, seed=0):
    """Scores with ties, and labels that they say something about."""
    rng = np.random.RandomState(seed)
    labels = (rng.uniform(size=num) < 0.3).astype(np.int32)
    return np.round(rng.normal(size=num) + labels, 1), labels


def brute_force(scores, labels):
    """(AUROC, average precision) by counting pairs and thresholds."""
    anomalous, normal = scores[labels == 1], scores[labels == 0]
    above = anomalous[:, None] > normal
    auroc = np.mean(above + 0.5 * (anomalous[:, None] == normal))
    average, before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        flagged = scores >= threshold
        recall = np.mean(flagged[labels == 1])
        average += (recall - before) * np.mean(labels[flagged])
        before = recall
    return auroc, average


def test_ranking_by_hand():
    # From the top: anomaly, normal, anomaly, normal. Precision 1, 1/2, 2/3, 1/2 at
    # recall 1/2, 1/2, 1, 1.
    found = anomaly.ranking(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0]))
    assert found["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found["auprc"] == pytest.approx(0.5 * 1 + 0.5 * (1 / 2 + 2 / 3) / 2)
    assert found["auroc"] == pytest.approx(3 / 4)


def test_ranking_by_counting():
    scores, labels = draws(300)
    found = anomaly.ranking(scores, labels)
    auroc, average = brute_force(scores, labels)
    assert found["auroc"] == pytest.approx(auroc)
    assert found["average_precision"] == pytest.approx(average)
    turned = anomaly.ranking(-scores, labels)
    assert turned["auroc"] == pytest.approx(1 - auroc)


def test_random_scores_have_the_prevalence_and_the_worst_the_minimum():
    rng = np.random.RandomState(0)
    labels = (rng.uniform(size=40_000) < 0.388).astype(int)
    chance = anomaly.ranking(rng.normal(size=40_000), labels)
    assert chance["auprc"] == pytest.approx(0.388, abs=0.01)
    worst = anomaly.ranking(-labels + 1e-6 * np.arange(40_000), labels)
    assert worst["auprc"] == pytest.approx(
        anomaly.minimum_auprc(labels.mean()), abs=1e-3
    )
    # Digits 1, 4 and 9 of MNIST.
    for prevalence, minimum in [(0.388, 0.2255), (0.351, 0.2004), (0.356, 0.2037)]:
        found = anomaly.minimum_auprc(prevalence)
        assert found == pytest.approx(minimum, abs=4e-4)
    with pytest.raises(ValueError, match="both classes are needed"):
        anomaly.minimum_auprc(0.0)


def test_threshold_by_hand():
    scores, labels = np.arange(10.0), np.array([0] * 7 + [1, 0, 1])
    found = anomaly.thresholded(scores, labels, 0.8)
    # The quantile is 7.2: 8 and 9 are flagged, and one of them is an anomaly.
    assert found == {
        "precision": 0.5,
        "recall": 0.5,
        "f1": pytest.approx(0.5),
        "flagged": 0.2,
        "precision_over_recall": pytest.approx(1.0),
    }


def test_ties_at_the_threshold_are_anomalous():
    scores = np.array([0.0] * 5 + [1.0] * 5)
    found = anomaly.thresholded(scores, np.array([0] * 8 + [1] * 2), 0.8)
    assert found["flagged"] == 0.5 and found["recall"] == 1.0
    assert found["precision"] == pytest.approx(2 / 5)
    nothing = anomaly.thresholded(-scores, np.array([0] * 8 + [1] * 2), 0.8)
    assert nothing["f1"] == 0.0 and nothing["precision"] == 0.0


def test_what_is_flagged_fixes_precision_over_recall():
    scores, labels = draws(1000)
    found = anomaly.thresholded(scores, labels, 0.8)
    ratio = found["precision"] / found["recall"]
    assert found["precision_over_recall"] == pytest.approx(ratio)
    harmonic = 2 / (1 / found["precision"] + 1 / found["recall"])
    assert found["f1"] == pytest.approx(harmonic)


def test_scores_of_a_quadratic_energy_are_high_far_away():
    x = np.random.RandomState(0).normal(size=(7, 4, 3, 2)).astype(np.float32)
    scorer = anomaly.energy_scores(quadratic())
    norm = np.linalg.norm(x.reshape(7, -1), axis=1)
    for mesh in (
        distributed.data_mesh(jax.devices()[:1]),
        distributed.data_mesh(jax.devices()),
    ):
        with jax.set_mesh(mesh):
            found = anomaly.scored(scorer, jnp.float32(2.0), x, batch_size=8)
        np.testing.assert_allclose(found["energy"], norm**2, rtol=1e-5)
        np.testing.assert_allclose(found["score_norm"], 2 * norm, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_do_not_change_scores(batch_size):
    x = np.random.RandomState(0).normal(size=(7, 5)).astype(np.float32)
    scorer = anomaly.energy_scores(quadratic())
    found = anomaly.scored(scorer, 1.0, x, batch_size=batch_size)
    np.testing.assert_allclose(found["energy"], np.sum(x**2, axis=1) / 2, rtol=1e-5)
    assert found["score_norm"].shape == (7,)


def test_scores_that_are_not_finite_are_told():
    scorer = anomaly.energy_scores(quadratic())
    with pytest.raises(FloatingPointError, match="energy of 2 of 3 examples"):
        anomaly.scored(scorer, 1.0, np.array([[np.inf], [1.0], [np.nan]], np.float32))


def test_reconstruction_is_the_distance_to_what_is_generated():
    # G draws in the plane where the last of three coordinates is 0.1.
    def generate(state, z):
        return jnp.pad(z, ((0, 0), (0, 1)), constant_values=0.1)

    learner = quadratic(generate)
    x = np.array([[0.3, -0.4, 0.1], [0.5, 0.5, 0.7]], np.float32)
    scorer = anomaly.reconstruction_scores(learner, num_steps=300)
    found = anomaly.scored(scorer, 1.0, x, batch_size=2)
    np.testing.assert_allclose(found["reconstruction"], [0, 0.36], atol=1e-4)
    ink = np.sum((x + 1) ** 2, axis=1)
    expected = found["reconstruction"] / ink
    np.testing.assert_allclose(
        found["relative_reconstruction"], expected, rtol=1e-4, atol=1e-7
    )
    # With a prior as heavy as the error, z stops half way: |x / 2|^2.
    halved = anomaly.reconstruction_scores(learner, num_steps=300, prior_weight=1.0)
    found = anomaly.scored(halved, 1.0, x[:1], batch_size=2)
    np.testing.assert_allclose(found["reconstruction"], [0.25 / 4], atol=1e-4)
    with pytest.raises(ValueError, match="needs a generator"):
        anomaly.reconstruction_scores(quadratic())


def test_features_become_mahalanobis_distances():
    rng = np.random.RandomState(0)
    reference = rng.normal(size=(5_000, 2)) * [1, 3] + 5
    features = np.array([[5.0, 5.0], [7.0, 5.0], [5.0, 11.0]])
    far = anomaly.compared({"features": features}, {"features": reference})
    # Variances 1 and 9, and a hundredth of their mean on top.
    expected = [0, 4 / 1.05, 36 / 9.05]
    np.testing.assert_allclose(far["feature_distance"], expected, rtol=0.05, atol=1e-2)


def test_detection_compares_features():
    rng = np.random.RandomState(0)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    x[50:] *= 10
    test = Labelled(x, (np.arange(60) >= 50).astype(np.int32))
    scorer = anomaly.energy_scores(quadratic(), lambda state, x: x[:, :2])
    evaluate = anomaly.detection(scorer, test, reference=x[:50], batch_size=16)
    metrics = evaluate(None, jnp.float32(1.0)).metrics
    for name in ("energy", "score_norm", "feature_distance", "neighbor_energy"):
        assert metrics[f"{name}_auroc"] > 0.9
    assert "features_auroc" not in metrics


def test_neighbors_by_hand():
    # Rows 0, 1 and 3 on a line, two neighbors: radii 2, 1.5 and 2.5.
    train = np.array([[0.0], [1.0], [3.0]])
    found = baselines.neighbors(train, num=2)(np.array([[1.5], [-2.0]]))
    # 1.5 is .5 from 1 and 1.5 from 0 and 3: either may be the second; -2 is 2 and 3 off.
    np.testing.assert_allclose(found["distance"], [1.0, 2.5])
    second = np.log(2.5 + 0.01 * 2.0) - np.log((2.0 + 1.5) / 2) / 2
    assert found["neighbor energy"][1] == pytest.approx(second)


def test_neighbors_by_another_way():
    rng = np.random.RandomState(0)
    train, x = rng.normal(size=(50, 4)), 2 * rng.normal(size=(30, 4))
    found = baselines.neighbors(train, num=3)(x)

    def nearest(row, skipped):
        distances = np.sort(np.linalg.norm(train - row, axis=1))
        return distances[skipped : skipped + 3].mean()

    radii = np.array([nearest(row, 1) for row in train])
    order = [np.argsort(np.linalg.norm(train - row, axis=1))[:3] for row in x]
    distance = np.array([nearest(row, 0) for row in x])
    np.testing.assert_allclose(found["distance"], distance)
    scale = np.log([radii[rows].mean() for rows in order]) / 2
    expected = np.log(distance + 0.01 * np.median(radii)) - scale
    np.testing.assert_allclose(found["neighbor energy"], expected)


def test_a_scale_shifts_neighbor_energies_and_a_rotation_does_nothing():
    rng = np.random.RandomState(0)
    train, x = rng.normal(size=(40, 3)), rng.normal(size=(20, 3))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    one = baselines.neighbors(train)(x)["neighbor energy"]
    other = baselines.neighbors(7 * train @ rotation)(7 * x @ rotation)
    shifted = one + np.log(7) / 2
    np.testing.assert_allclose(other["neighbor energy"], shifted, rtol=1e-6)


def test_the_neighborhood_is_taken_into_account():
    # Rows 1 and 10 apart: -4 lies beside the first, 1505 in the middle of the others.
    train = np.concatenate([np.arange(100.0), 1000 + 10 * np.arange(100.0)])
    found = baselines.neighbors(train[:, None])(np.array([[-4.0], [1505.0]]))
    np.testing.assert_allclose(found["distance"], [6, 13])
    assert found["distance"][0] < found["distance"][1]
    assert found["neighbor energy"][0] > found["neighbor energy"][1]


@pytest.mark.parametrize("share", [0.4, 0.9, 1.0])
def test_equal_rows_have_finite_neighbor_energies(share):
    train = np.random.RandomState(0).normal(size=(100, 2))
    train[: int(share * 100)] = 1.0
    found = baselines.neighbors(train)(np.array([[1.0, 1.0], [9.0, 9.0]]))
    near, far = found["neighbor energy"]
    assert np.isfinite(near) and near < far < np.inf


def test_distinct_examples_come_back():
    x = np.array([[1, 2], [3, 4], [1, 2], [0, 0], [3, 4]], np.float32)
    first, inverse = anomaly.distinct(x)
    np.testing.assert_array_equal(first, [0, 1, 3])
    np.testing.assert_array_equal(x[first][inverse], x)


def test_detection_reports_both_scores():
    rng = np.random.RandomState(0)
    x = rng.normal(size=(50, 3)).astype(np.float32)
    x[40:] *= 10
    test = Labelled(x, (np.arange(50) >= 40).astype(np.int32))
    scorer = anomaly.energy_scores(quadratic())
    report = anomaly.detection(scorer, test, quantile=0.8)(None, jnp.float32(1.0))
    for score in ("energy", "score_norm"):
        expected = anomaly.thresholded(np.sum(x**2, axis=1), test.labels, 0.8)
        for metric, value in expected.items():
            assert report.metrics[f"{score}_{metric}"] == pytest.approx(value)
        assert report.metrics[f"{score}_auroc"] > 0.95
    assert report.metrics["prevalence"] == pytest.approx(0.2)
    assert report.metrics["minimum_auprc"] == anomaly.minimum_auprc(0.2)
    shapes = {name: picture.shape for name, picture in report.pictures.items()}
    assert set(shapes) == {
        "precision_recall",
        "energy_histogram",
        "score_norm_histogram",
    }
    assert all(shape[-1] == 3 for shape in shapes.values())
    # A flipped sign turns the order round.
    turned = anomaly.detection(scorer, test)(None, jnp.float32(-1.0)).metrics
    assert turned["energy_auroc"] == pytest.approx(1 - report.metrics["energy_auroc"])
    assert turned["score_norm_auroc"] == report.metrics["score_norm_auroc"]
    assert "energy_f1" not in turned


def test_equal_examples_tie_wherever_they_stand():
    rng = np.random.RandomState(0)
    x = rng.normal(size=(3, 121)).astype(np.float32)[rng.randint(0, 3, 1000)]
    seen = []

    def scorer(state, x):
        seen.append(len(x))
        return {"noise": jnp.arange(len(x), dtype=jnp.float32)}

    test = Labelled(x, (x[:, 0] == x[0, 0]).astype(np.int32))
    report = anomaly.detection(scorer, test, batch_size=4)(None, None)
    assert seen == [4]
    assert report.metrics["noise_auroc"] in (0.0, pytest.approx(1.0), 1.0)


def test_last_evaluations_are_those_before_a_step():
    lines = [{"step": 0, "loss": 1.0}]
    lines += [{"step": step, "f1": step / 100} for step in range(5, 60, 5)]
    found = anomaly.last_evaluations(lines, "f1", num=3)
    np.testing.assert_allclose(found, [0.45, 0.5, 0.55])
    found = anomaly.last_evaluations(lines, "f1", num=3, before=55)
    np.testing.assert_allclose(found, [0.4, 0.45, 0.5])
    with pytest.raises(ValueError, match="evaluated 11 times, not 12"):
        anomaly.last_evaluations(lines, "f1", num=12)


def test_baselines_on_a_line():
    # Training rows on the first axis: what lies off it is far from its component.
    rng = np.random.RandomState(0)
    train = np.pad(rng.normal(size=(400, 1)), ((0, 0), (0, 2))).astype(np.float32)
    x = np.array([[0.1, 0, 0], [0.1, 3, 0], [0.1, 0, 4]], np.float32)
    found = baselines.principal_components(train, 1)(x)
    np.testing.assert_allclose(found["reconstruction"], [0, 9, 16], atol=1e-6)
    for fit in (baselines.isolation_forest, one_class_svm):
        (values,) = fit(train + 0.01 * rng.normal(size=train.shape), 0)(x).values()
        assert values[0] < min(values[1:])


def one_class_svm(train, seed):
    return baselines.one_class_svm(train, 200, seed)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="no real data beside the repository")
def test_two_components_on_the_real_file():
    train, test = kdd99.kdd99(data_dir=str(SHARED / "tfds"), scale="minmax")
    score = baselines.principal_components(train.store, 2)
    first, inverse = anomaly.distinct(test.x)
    values = score(test.x[first])["reconstruction"][inverse]
    found = anomaly.thresholded(values, test.labels, 0.8)
    assert found["f1"] == pytest.approx(0.9426, abs=2e-4)
    assert test.labels.mean() == pytest.approx(0.19687, abs=1e-5)
    assert math.isclose(found["precision"] / found["recall"], 0.98434, abs_tol=2e-3)
