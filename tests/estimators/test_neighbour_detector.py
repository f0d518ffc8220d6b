import pickle

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn import exceptions, pipeline, preprocessing
from sklearn.base import clone

from megjax import EnergyDetector, PyODEnergyDetector
from megjax.energies import neighbours
from megjax.estimators import detector

ROWS = np.random.default_rng(0).normal(size=(100, 3)) * [1, 50, 0.1] + [0, 1000, 0]
FAR = ROWS[:1] + [[0, 0, 30.0]]


@pytest.fixture(scope="module")
def fitted():
    return EnergyDetector(random_state=0).fit(ROWS)


def test_scores_and_offset_are_of_leave_one_out_energies(fitted):
    energies = neighbours.energy(neighbours.fit(ROWS), ROWS)
    np.testing.assert_array_equal(fitted.score_samples(ROWS), -energies)
    np.testing.assert_array_equal(fitted.energies_, energies)
    assert fitted.offset_ == np.percentile(-energies, 10)
    assert (fitted.predict(ROWS) == -1).sum() == 10
    assert fitted.predict(FAR) == [-1]


def test_contamination_auto_is_tukeys_fence(fitted):
    one = clone(fitted).set_params(contamination="auto").fit(ROWS)
    quarter, three = np.percentile(one.energies_, (25, 75))
    assert one.offset_ == pytest.approx(-(three + 1.5 * (three - quarter)))
    # Of Gaussians a few in a hundred lie beyond; of contaminated tables the anomalies.
    assert (one.predict(ROWS) == -1).sum() < 10
    far = np.random.default_rng(1).normal(size=(10, 3)) * [30, 900, 3] + [0, 1000, 0]
    both = np.concatenate([ROWS, far])
    assert (one.fit(both).predict(far) == -1).mean() > 0.8


def test_a_share_of_the_rows_sees_clusters_among_the_training_rows():
    """Twelve alike among 300: each other's neighbours, and a small part of a tenth."""
    random = np.random.default_rng(0)
    normal, new = random.normal(size=(2, 300, 4))
    cluster = 4 + 0.05 * random.normal(size=(24, 4))
    rows = np.concatenate([normal, cluster[:12]])
    few, many = (
        EnergyDetector(num_neighbors=num, random_state=0).fit(rows)
        for num in (5, np.float32(0.1))
    )
    assert many.state_["num_neighbors"] == 31
    assert np.median(few.score_samples(new)) < np.median(few.score_samples(cluster))
    assert many.score_samples(cluster).max() < np.quantile(
        many.score_samples(new), 0.02
    )
    # Of few rows a share would be less than what is an average.
    assert EnergyDetector(num_neighbors=0.1).fit(ROWS[:20]).state_["num_neighbors"] == 5


@pytest.mark.parametrize("max_stored", [5000, 30])
def test_partial_fits_end_as_one_fit(max_stored):
    whole = EnergyDetector(max_stored=max_stored, random_state=3).fit(ROWS)
    parts = EnergyDetector(max_stored=max_stored, random_state=3)
    for rows in (ROWS[:1], ROWS[1:20], ROWS[20:45], ROWS[45:]):
        parts.partial_fit(rows)
    assert parts.n_samples_seen_ == 100
    assert len(parts.state_["rows"]) == min(max_stored, 100)
    np.testing.assert_array_equal(parts.score_samples(FAR), whole.score_samples(FAR))
    assert parts.offset_ == whole.offset_


def test_stored_rows_are_a_uniform_sample():
    rows, counts = np.arange(20.0)[:, None], np.zeros(20)
    for seed in range(400):
        random_state = np.random.RandomState(seed)
        first = detector._sampled(rows[:0], rows[:7], 0, 5, random_state)
        stored = detector._sampled(first, rows[7:], 7, 5, random_state)
        assert len(np.unique(stored)) == 5
        counts[stored[:, 0].astype(int)] += 1
    assert stats.chisquare(counts).pvalue > 0.01


def test_rows_outside_all_that_were_seen_are_worst_though_few_are_stored():
    one = EnergyDetector(max_stored=10, random_state=0).fit(ROWS)
    width = np.ptp(ROWS, axis=0)
    outside = np.concatenate(
        [ROWS.max(0) + np.diag(width), ROWS.min(0) - np.diag(width)]
    )
    assert one.score_samples(outside).max() < one.score_samples(ROWS).min()


def test_p_values_are_uniform_in_the_far_tail():
    """Of many wide columns with long tails, where new rows are often out of range.

    While stored rows were in ranges that have them the shares were .024, .027, .041.
    """
    levels, found = np.array([1, 2, 5]) / 250, []
    for seed in range(20):
        random = np.random.default_rng(seed)
        rows, new = (random.standard_t(3, size=(n, 30)) for n in (249, 1000))
        p_values = EnergyDetector().fit(rows).p_values(new)
        found.append(np.mean(p_values[:, None] <= levels + 1e-9, axis=0))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0) - levels) < 3 * error)
    assert np.all(3 * error < 0.01)


def test_the_guard_of_a_stored_row_is_over_the_ranges_of_the_others():
    rows = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [6.0, 5.5], [1.5, 5.0]])
    state = neighbours.fit(rows)
    found = neighbours.left_out_guard(state)
    for i, row in enumerate(rows):
        others = np.delete(rows, i, axis=0)
        width = np.ptp(others, axis=0)
        # The second column is constant without row 3: its unit is then its range.
        width = np.where(width > 0, width, 0.5)
        outside = np.maximum(row - others.max(0), others.min(0) - row) / width
        worst = np.maximum(outside, 0).max()
        lift = state["guard"] * np.clip(2 * worst - 1, 0, 1)
        assert found[i] == pytest.approx(lift + np.log1p(worst))
    assert found[3] > state["guard"] and found[1] == found[2] == 0
    assert not neighbours.left_out_guard(neighbours.fit(rows[:2])).any()


def test_p_values_by_hand_and_of_normal_rows(fitted):
    assert fitted.p_values(FAR)[0] == 1 / 101
    new = np.random.default_rng(5).normal(size=(1400, 3)) * [1, 50, 0.1] + [0, 1000, 0]
    one = EnergyDetector(random_state=0).fit(new[:1200])
    found = one.p_values(new[1200:])
    assert stats.kstest(found, "uniform").pvalue > 0.05
    energies = neighbours.energy(one.state_, new[1200:], new=True)
    stored = one.energies_ + neighbours.left_out_guard(one.state_)
    expected = [(1 + np.sum(stored >= e)) / 1201 for e in energies]
    np.testing.assert_allclose(found, expected)


def test_what_is_not_fitted_says_so():
    for name in ("score_samples", "p_values", "explain"):
        with pytest.raises(exceptions.NotFittedError, match="is not fitted yet"):
            getattr(EnergyDetector(), name)(ROWS)


def test_explain_names_the_column(fitted):
    shares = fitted.explain(FAR)
    assert shares.shape == (1, 3) and shares.argmax() == 2
    np.testing.assert_allclose(shares.sum(1), 1)


def test_all_that_is_fitted_is_kept(fitted, tmp_path):
    fitted.save(tmp_path / "one.npz")
    loaded = EnergyDetector.load(tmp_path / "one.npz")
    for one in (loaded, pickle.loads(pickle.dumps(fitted))):
        for name in ("score_samples", "p_values", "explain", "predict"):
            np.testing.assert_array_equal(
                getattr(one, name)(ROWS), getattr(fitted, name)(ROWS)
            )
        one.partial_fit(FAR)
        assert one.n_samples_seen_ == 101
    assert fitted.n_samples_seen_ == 100


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"energy": "forest"},
            "energy='forest': choose one of 'neighbours', 'contrast'",
        ),
        ({"num_neighbors": 0}, "num_neighbors=0: give a whole number from 1 up"),
        ({"num_neighbors": 0.6}, r"num_neighbors=0.6: give a number in \(0, 0.5\]"),
        ({"num_neighbors": 0.0}, r"num_neighbors=0.0: give a number in \(0, 0.5\]"),
        ({"max_stored": 2.5}, "max_stored=2.5: give a whole number from 2 up"),
        ({"contamination": "most"}, "contamination='most': give a number in"),
        ({"contamination": 0.7}, "contamination=0.7: give a number in"),
        (
            {"num_steps": 20},
            "num_steps=20 is of energy='contrast' or energy='meg', not of 'neighbours'",
        ),
        (
            {"energy": "contrast", "latent_dim": 2},
            "latent_dim=2 is of energy='meg', not",
        ),
        ({"criterion": "score_norm"}, "criterion='score_norm' is of energy='meg'"),
        ({"hidden": np.array([8])}, "is of energy='contrast' or energy='meg'"),
        ({"energy": "meg", "num_neighbors": 3}, "num_neighbors=3 is of energy='neighb"),
    ],
)
def test_unusable_parameters_are_refused(changes, words, fitted):
    with pytest.raises(ValueError, match=words):
        EnergyDetector(**changes).fit(ROWS)
    # And where they were set after the fit.
    one = pickle.loads(pickle.dumps(fitted)).set_params(**changes)
    with pytest.raises(ValueError, match=words):
        one.score_samples(ROWS)


def changed(value):
    rows = ROWS.astype(object if isinstance(value, str) else float)
    rows[3, 1] = value
    return rows


BAD = [
    (changed(np.nan), "Input X contains NaN: leave those rows out, or fill them"),
    (changed(np.inf), "Input X contains infinity or a value too large.*: leave those"),
    (changed("red"), "could not convert string to float: 'red': give numbers; encode"),
    (np.ma.masked_greater(ROWS, 1100), "X has [0-9]+ masked values: fill them"),
    (sparse.csr_array(ROWS), "Sparse data was passed.*dense data is required"),
    (ROWS[:, :2], "X has 2 features, but EnergyDetector is expecting 3 features"),
    (ROWS[0], "Expected 2D array, got 1D array instead"),
    (ROWS[:0], "Found array with 0 sample"),
    (ROWS + 1j, "Complex data not supported"),
]


@pytest.mark.parametrize("rows, words", BAD, ids=[words[:20] for _, words in BAD])
@pytest.mark.parametrize(
    "name", ["fit", "partial_fit", "score_samples", "predict", "explain", "p_values"]
)
def test_unusable_tables_are_refused_in_a_line(name, rows, words, fitted):
    if name == "fit" and rows.shape == (100, 2):
        pytest.skip("a new fit")
    one = pickle.loads(pickle.dumps(fitted))
    with pytest.raises((TypeError, ValueError), match=words) as error:
        getattr(one, name)(rows)
    assert "\n" not in str(error.value)
    np.testing.assert_array_equal(one.score_samples(FAR), fitted.score_samples(FAR))


def test_a_mask_that_hides_nothing_is_no_mask(fitted):
    rows = np.ma.masked_array(ROWS, mask=False)
    np.testing.assert_array_equal(
        fitted.score_samples(rows), fitted.score_samples(ROWS)
    )


def test_integers_booleans_and_frames():
    pandas = pytest.importorskip("pandas")
    table = np.random.default_rng(0).integers(5, size=(50, 2))
    expected = EnergyDetector().fit(table.astype(float)).score_samples(table)
    for rows in (
        table,
        table.astype(np.uint8),
        table.tolist(),
        table.astype(np.float32),
    ):
        found = EnergyDetector().fit(rows).score_samples(rows)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    EnergyDetector().fit(table > 2).predict(table > 2)
    frame = pandas.DataFrame(table, columns=["age", "size"])
    one = EnergyDetector().fit(frame)
    assert one.feature_names_in_.tolist() == ["age", "size"]
    with pytest.raises(ValueError, match="feature names"):
        one.predict(frame[["size", "age"]])
    for dated in (frame.assign(day=pandas.Timestamp(0)), frame.astype("M8[ns]")):
        with pytest.raises(ValueError, match="was given dates .datetime64.*numbers"):
            EnergyDetector().fit(dated)
    adapter = PyODEnergyDetector().fit(frame)
    assert adapter.feature_names_in_.tolist() == ["age", "size"]


def test_pyod_confidence_by_hand(fitted):
    one = PyODEnergyDetector(EnergyDetector(), contamination=0.1).fit(ROWS)
    labels, confidence = one.predict(ROWS, return_confidence=True)
    np.testing.assert_array_equal(labels, one.labels_)
    np.testing.assert_array_equal(confidence, one.predict_confidence(ROWS))
    # 90 rows of 100 are normal: with p the posterior of a score's rank, the label is
    # that of an anomaly where more than 90 of 100 rows fall below.
    for i in (0, int(labels.argmax())):
        rank = (1 + np.sum(one.decision_scores_ <= one.decision_scores_[i])) / 102
        binomial = stats.binom.pmf(np.arange(91, 101), 100, rank).sum()
        expected = binomial if labels[i] else 1 - binomial
        assert confidence[i] == pytest.approx(expected)
    probabilities, again = one.predict_proba(ROWS, return_confidence=True)
    np.testing.assert_array_equal(probabilities, one.predict_proba(ROWS))
    np.testing.assert_array_equal(again, confidence)


def test_pyod_within_scikit_learn(tmp_path):
    one = PyODEnergyDetector(contamination=0.2)
    assert not hasattr(one, "n_features_in_")
    line = pipeline.make_pipeline(preprocessing.StandardScaler(), clone(one)).fit(ROWS)
    assert line.predict(ROWS).sum() == 20 and line[-1].n_features_in_ == 3
    assert line.predict_proba(FAR)[0, 1] == 1
    again = pickle.loads(pickle.dumps(line))
    np.testing.assert_array_equal(
        again.decision_function(FAR), line.decision_function(FAR)
    )
    assert not hasattr(line[-1], "feature_names_in_")


def test_pyod_takes_auto_and_refuses_what_is_not(fitted):
    one = PyODEnergyDetector(contamination="auto").fit(ROWS)
    assert one.labels_.sum() < 10 and one.contamination == "auto"
    one.set_params(contamination=3)
    for call in (one.predict, one.fit, one.predict_proba, one.predict_confidence):
        with pytest.raises(ValueError, match="contamination=3: give a number"):
            call(ROWS)
    with pytest.raises(ValueError, match="Invalid parameter 'colour'"):
        one.set_params(colour=1)


def test_constant_and_huge_columns_and_few_rows():
    rows = np.c_[ROWS, np.full(100, 14.62), 1e200 * ROWS[:, 0], np.full(100, 1e39)]
    one = EnergyDetector().fit(rows)
    x = rows[:1].repeat(3, axis=0)
    x[1, 3], x[2, 5] = 15.7, 2e39
    scores = one.score_samples(x)
    assert scores[1:].max() < one.score_samples(rows).min()
    assert EnergyDetector().fit([[14.62, 1]]).predict(
        [[14.62, 1], [0, 1]]
    ).tolist() == [
        1,
        -1,
    ]


@pytest.mark.parametrize(
    "detector", ["x", 3, EnergyDetector, preprocessing.StandardScaler(), [1]]
)
def test_pyod_refuses_what_is_no_detector(detector):
    one = PyODEnergyDetector().fit(ROWS)
    one.set_params(detector=detector)
    for call in (one.fit, one.predict, one.decision_function, one.predict_proba):
        with pytest.raises(ValueError, match="detector=.*: give an outlier detector"):
            call(ROWS)


def test_pyod_without_a_detector_has_none_of_its_parameters():
    with pytest.raises(ValueError, match="detector__num_neighbors: there is no det"):
        PyODEnergyDetector().set_params(detector__num_neighbors=3)
    one = PyODEnergyDetector().set_params(
        detector=EnergyDetector(), detector__num_neighbors=3
    )
    assert one.detector.num_neighbors == 3


@pytest.mark.parametrize(
    "changes", [{"random_state": "x"}, {"random_state": -1}, {"verbose": "x"}]
)
def test_a_random_state_or_verbosity_that_is_none(changes, fitted):
    one = pickle.loads(pickle.dumps(fitted)).set_params(**changes)
    for call in (one.fit, one.score_samples):
        with pytest.raises(ValueError, match=r"seed|Seed|verbose='x'"):
            call(ROWS)
