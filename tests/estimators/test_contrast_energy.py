import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from megjax import EnergyDetector
from megjax.estimators import base, contrast_energy
from tests.energies import test_neighbours

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROWS = np.random.default_rng(0).normal(size=(60, 2)) * [1, 50] + [0, 1000]


def small(**changes):
    settings = {"num_steps": 4, "hidden": (8,), "batch_size": 8, "random_state": 0}
    return EnergyDetector(energy="contrast", **settings | changes)


@pytest.fixture
def untrained(monkeypatch):
    """Initial weights for trained ones."""
    monkeypatch.setattr(
        base, "trained", lambda learner, state, *_, **__: jax.device_get(state)
    )


def by_hand(params, x):
    """3 leaky(2 x_1 - x_2) + 1 of the network, and the confinement."""
    before = 2 * x[:, 0] - x[:, 1]
    leaky = np.where(before > 0, before, 0.2 * before)
    return 3 * leaky + 1 + 0.005 * np.sum(x**2, axis=1)


def test_an_energy_by_hand(untrained):
    one = small(hidden=(1,)).fit([[0.0, -2], [2, 0], [0, 2], [2, 0]])
    one.contrast_["params"] = {
        "trunk": {
            "linear_0": {
                "kernel": np.array([[2.0], [-1]], np.float32),
                "bias": np.zeros(1, np.float32),
            }
        },
        "output": {
            "kernel": np.array([[3.0]], np.float32),
            "bias": np.ones(1, np.float32),
        },
    }
    # Means 1 and 0, deviations 1 and the root of 2.
    x = np.array([[1.0, 0], [1.5, 1], [0, -1]])
    energies = by_hand(None, (x - [1, 0]) / [1, 2**0.5])
    np.testing.assert_allclose(one.score_samples(x), -energies, rtol=1e-5)


def test_noise_has_widths_of_all_orders():
    x = jnp.zeros((4000, 50))
    widths = np.std(contrast_energy._noisy(jax.random.key(0), x), axis=1)
    logs = np.log(widths)
    assert abs(logs.mean() - np.log(0.5)) < 0.1 and widths.min() < 0.06
    assert abs(logs.std() - np.log(100) / 12**0.5) < 0.1 and 4 < widths.max() < 7


def test_the_loss_is_logistic_regression():
    # Gradients of one step against finite differences of scikit-learn's log loss.
    learner = contrast_energy.learner(contrast_energy.Contrast(2, (8,), 5, 1e-3))
    x = jax.random.normal(jax.random.key(0), (1, 8, 2))
    state = learner.init(jax.random.key(1), x[0])
    key = jax.random.key(2)
    loss = learner.step(key, state, x)[1]["loss"]
    noisy = contrast_energy._noisy(key, x[0])
    network = contrast_energy._network((8,))
    logits = -np.concatenate(
        [contrast_energy._energy(state.params, v, network) for v in (x[0], noisy)]
    )
    labels = np.repeat([1, 0], 8)
    expected = 2 * metrics.log_loss(labels, 1 / (1 + np.exp(-np.float64(logits))))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_row_one_range_outside_is_worse_than_all_within(untrained):
    for seed in range(30):
        rows, rng = test_neighbours.weird_table(seed)
        one = small().fit(rows)
        beyond = one.score_samples(np.stack(list(test_neighbours.outside(rows, rng))))
        assert np.isfinite(beyond).all()
        assert beyond.max() < one.score_samples(rows).min(), seed


def test_a_trained_one_is_kept_and_says_what_it_is(tmp_path):
    one = small().fit(ROWS)
    assert (one.predict(ROWS) == -1).sum() == 6
    one.save(tmp_path / "one.npz")
    for other in (
        EnergyDetector.load(tmp_path / "one.npz"),
        pickle.loads(pickle.dumps(one)),
    ):
        assert other.energy == "contrast"
        np.testing.assert_array_equal(
            other.score_samples(ROWS), one.score_samples(ROWS)
        )
    shares = one.explain([[0, 1000], [9, 1000], [0, 5000]])
    np.testing.assert_allclose(shares.sum(1), 1)
    assert shares[1, 0] > 0.5 and shares[2, 1] > 0.9
    np.testing.assert_array_equal(
        small().fit(ROWS).score_samples(ROWS), one.score_samples(ROWS)
    )
    with pytest.raises(ValueError, match="num_steps=0: give a whole number from 1"):
        small(num_steps=0).fit(ROWS)


@pytest.mark.slow
def test_holes_between_clusters_are_found():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 500)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.normal(
        size=(500, 2)
    )
    one = EnergyDetector(energy="contrast", num_steps=1000, random_state=0).fit(
        ring[:400]
    )
    hole = rng.normal(size=(100, 2)) * 0.2
    scores = one.score_samples(np.concatenate([ring[400:], hole]))
    assert metrics.roc_auc_score(np.repeat([1, 0], 100), scores) > 0.95
