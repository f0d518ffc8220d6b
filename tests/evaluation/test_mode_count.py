"""Modes of stacks whose classes are known by construction."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from megjax.data import images, stacked
from megjax.data.dataset import Dataset
from megjax.evaluation import mode_count
from megjax.learners.base import Learner
from megjax.metrics.coverage import kl_to_uniform
from megjax.training import experiment

REAL = pathlib.Path(__file__).parents[3] / "shared/data/tfds"


class Reader(NamedTuple):
    """Names plain images by their brightness -1, -.8, ..., .8; unsure of class 9."""

    test_accuracy: float = 1.0
    num_classes: int = 10

    def logits(self, x):
        classes = jnp.round((jnp.mean(x, axis=(1, 2, 3)) + 1) * 5).astype(int)
        sure = jnp.where(classes == 9, 1.0, 20.0)
        return sure[:, None] * jax.nn.one_hot(classes, 10)


def drawn(classes):
    """Plain stacks [N, 4, 4, n] of classes [N, n]."""
    x = jnp.asarray(classes)[:, None, None] / 5 - 1
    return jnp.broadcast_to(x, (len(x), 4, 4, x.shape[-1]))


def learner(num_stacked, limit=10):
    """Draws every channel evenly from the classes below `limit`."""

    def sample(key, state, num):
        return drawn(jax.random.randint(key, (num, num_stacked), 0, limit))

    return Learner(init=None, step=None, sample=sample, energy=None)


def plain_set(num_stacked):
    """Real stacks of ten plain images, one of each class."""
    pixels = np.round(np.arange(10) * 25.5).astype(np.uint8)
    pixels = np.broadcast_to(pixels[:, None, None, None], (10, 4, 4, 1))
    if num_stacked > 2:
        return stacked.stacked(pixels, num_stacked=num_stacked)
    table = np.stack([np.arange(40) % 10, np.arange(40) // 10], axis=1)
    store = {"pixels": pixels[..., 0], "table": table}
    return Dataset("plain", (4, 4, 2), 40, store, stacked._take)


def test_cells_by_hand():
    counts = mode_count.cell_counts(np.array([[0, 1, 2], [9, 9, 9], [0, 1, 2]]))
    assert counts.shape == (1000,) and counts.sum() == 3
    assert counts[12] == 2 and counts[999] == 1
    assert mode_count.cell_counts(np.array([[2, 0]]), 3).tolist() == [0] * 6 + [1, 0, 0]


def test_divergence_by_hand_and_by_scipy():
    np.testing.assert_allclose(
        kl_to_uniform(np.array([3, 1, 0, 0])),
        0.75 * np.log(3) + 0.25 * np.log(1),
    )
    counts = np.random.RandomState(0).poisson(2, 500)
    expected = stats.entropy(counts, np.ones(500))
    np.testing.assert_allclose(kl_to_uniform(counts), expected)
    assert kl_to_uniform(np.full(7, 4)) == pytest.approx(0, abs=1e-15)
    assert kl_to_uniform(np.eye(1000)[3]) == pytest.approx(np.log(1000))
    assert np.isnan(kl_to_uniform(np.zeros(5)))


def test_floor_is_the_mean_of_even_draws():
    assert mode_count.floor(26_000, 1000) == pytest.approx(0.0192, abs=5e-5)
    counts = np.random.default_rng(0).multinomial(26_000, [1e-3] * 1000, size=40)
    found = np.array([kl_to_uniform(row) for row in counts])
    error = found.std() / np.sqrt(len(found))
    # The next order in 1 / N is 1.3 % of the floor at 26 draws a mode.
    assert found.mean() == pytest.approx(0.0192 * 1.013, abs=4 * error)


def test_scores_by_hand():
    classes = np.array([[0, 0]] * 40 + [[0, 1]] * 3 + [[2, 2]])
    confidence = np.array([0.99] * 40 + [0.9] * 3 + [0.95])
    found = mode_count.scores(mode_count.Classified(classes, confidence), num_classes=3)
    # 44 stacks in 9 modes: a quarter of a fair share is 1.
    assert mode_count.count_threshold(44, 9) == 1
    assert (found["modes"], found["modes_by_count"]) == (3, 3)
    assert found["modes_by_confidence"] == 2
    assert found["confident_share"] == 41 / 44
    more = mode_count.Classified(np.tile(classes, (2, 1)), np.tile(confidence, 2))
    more = mode_count.Classified(np.tile(classes, (8, 1)), np.tile(confidence, 8))
    assert mode_count.count_threshold(8 * 44, 9) == 9
    assert mode_count.scores(more, num_classes=3)["modes_by_count"] == 2
    assert mode_count.count_threshold(26_000, 1000) == 6


def test_each_channel_is_named_by_itself():
    classes = np.array([[3, 0, 7, 5], [9, 1, 1, 2]])
    found = mode_count.classified(Reader(), drawn(classes))
    np.testing.assert_array_equal(found.classes, classes)
    sure, unsure = (np.exp(c) / (np.exp(c) + 9) for c in (20.0, 1.0))
    np.testing.assert_allclose(found.confidence, [sure, unsure], rtol=1e-5)


def test_even_stacks_score_the_floor():
    data = plain_set(2)
    evaluate = mode_count.stack_modes(learner(2), Reader(), data, np.arange(10))
    report = evaluate(jax.random.key(0), None)
    found = report.metrics
    assert found["num_samples"] == 2600 and found["possible_modes"] == 100
    assert found["modes"] == found["modes_by_count"] == 100
    assert found["modes_by_confidence"] == 81
    assert found["confident_share"] == pytest.approx(0.81, abs=0.03)
    # 2 N KL has the mean and the variance of chi square with 99 degrees.
    spread = np.sqrt(2 * 99) / 5200
    assert found["kl"] == pytest.approx(found["kl_floor"], abs=4 * spread)
    assert report.pictures["samples"].ndim == report.pictures["histogram"].ndim == 3


def test_real_stacks_are_scored_beside_the_samples():
    """The plain set holds 40 of 100 modes, once each, and the reader errs never."""
    evaluate = mode_count.stack_modes(
        learner(2, 5), Reader(), plain_set(2), np.arange(10)
    )
    found = evaluate(jax.random.key(0), None).metrics
    assert found["modes"] == 25
    assert found["kl"] == pytest.approx(np.log(4), abs=0.02)
    assert found["real_modes"] == found["real_modes_true_labels"] == 40
    assert found["real_kl"] == pytest.approx(found["real_kl_true_labels"])
    floor = mode_count.floor(2600, 40)
    assert found["real_kl"] == pytest.approx(np.log(2.5) + floor, abs=4e-3)
    # 2 N KL has the variance of chi square with 39 degrees; 20 sets estimate its root.
    spread = np.sqrt(2 * 39) / 5200
    assert 0.5 * spread < found["real_kl_std"] < 1.6 * spread
    relabelled = mode_count.stack_modes(
        learner(2, 5), Reader(), plain_set(2), np.zeros(10, int), num_samples=100
    )(jax.random.key(0), None)
    assert relabelled.metrics["real_modes_true_labels"] == 1
    unlabelled = mode_count.stack_modes(
        learner(2), Reader(), plain_set(2), num_samples=10
    )
    assert "real_kl_true_labels" not in unlabelled(jax.random.key(0), None).metrics


@pytest.mark.parametrize("num, batch_size", [(7, 3), (3, 7)])
def test_every_sample_counts_once(num, batch_size):
    drawn_all = []

    def sample(key, state, num):
        x = learner(3).sample(key, state, num)
        jax.debug.callback(lambda x: drawn_all.append(np.asarray(x)), x)
        return x

    evaluate = mode_count.stack_modes(
        learner(3)._replace(sample=sample),
        Reader(),
        plain_set(3),
        num_samples=num,
        batch_size=batch_size,
    )
    found = evaluate(jax.random.key(1), None).metrics
    jax.effects_barrier()
    x = np.concatenate(drawn_all)[:num]
    counts = mode_count.cell_counts(mode_count.classified(Reader(), x).classes)
    assert found["num_samples"] == num == counts.sum()
    assert found["modes"] == np.sum(counts > 0)
    assert found["kl"] == pytest.approx(kl_to_uniform(counts))


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="num_samples=0"):
        mode_count.stack_modes(learner(3), Reader(), plain_set(3), num_samples=0)


def test_the_classifier_is_not_needed_before_the_protocol_runs(monkeypatch, tmp_path):
    pixels = np.zeros((5, 28, 28, 1), np.uint8)
    monkeypatch.setattr(images, "labelled", lambda *_, **__: (pixels, np.arange(5)))
    config = experiment.load("stacked_mnist:4")
    config.width = 8
    assert config.evaluation.num_samples == 260_000
    config.evaluation.classifier = str(tmp_path / "classifier.npz")
    built = experiment.build(config)
    with pytest.raises(FileNotFoundError, match="--data=mnist .*--out="):
        built.protocols["modes"](jax.random.key(0), None)
    config.evaluation.num_samples = 0
    with pytest.raises(ValueError, match="evaluation.num_samples=0: give at least 1"):
        experiment.build(config)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason=f"needs {REAL}")
def test_real_digits_score_what_their_labels_say():
    """True labels in place of a classifier: three channels score about 0.026.

    The divergence of the fixed set, 0.0043 of its digits and 0.0039 of its 128,000
    draws, and the floor.
    """
    _, labels = images.labelled("mnist", data_dir=str(REAL))
    pixels = np.round(labels * 25.5).astype(np.uint8)
    pixels = np.broadcast_to(pixels[:, None, None, None], (len(labels), 2, 2, 1))
    data = stacked.stacked(pixels, num_stacked=3)
    evaluate = mode_count.stack_modes(learner(3), Reader(), data, labels)
    found = evaluate(jax.random.key(0), None).metrics
    assert found["real_modes_true_labels"] == 1000
    assert found["real_kl_true_labels"] == pytest.approx(0.026, abs=0.002)
    assert found["real_kl"] == pytest.approx(found["real_kl_true_labels"])
