import gzip
import json
import pathlib
import pickle
import runpy
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import ensemble, metrics, pipeline, preprocessing
from sklearn.base import clone
from sklearn.utils import estimator_checks

import megjax
from megjax.data import kdd99
from megjax.data.dataset import Dataset
from megjax.estimators import base, meg_energy
from megjax.estimators.detector import EnergyDetector, PyODEnergyDetector
from megjax.io import atomic
from megjax.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = pathlib.Path(__file__).parents[2]
ROWS = np.random.RandomState(0).normal(size=(40, 2)) * [1, 50] + [0, 1000]


def small(**changes):
    settings = {
        "energy": "meg",
        "hidden": (8, 8),
        "generator_hidden": (8,),
        "latent_dim": 2,
        "num_steps": 4,
        "batch_size": 8,
        "random_state": 0,
    }
    return EnergyDetector(**settings | changes)


def seen(detector, rows):
    """Rows as the networks see them."""
    return meg_energy.scaled(rows, detector.center_, detector.scale_)


@pytest.fixture(scope="module")
def fitted():
    return small().fit(ROWS)


@pytest.fixture
def untrained(monkeypatch):
    """Initial weights for trained ones, but for the 300 rows of scikit-learn's checks.

    Training compiles for every number of columns: scikit-learn's have 6.
    """
    trained = base.trained

    def start(learner, state, rows, steps, **settings):
        if len(rows) != 300:
            return jax.device_get(state)
        return trained(learner, state, rows, steps, **settings)

    monkeypatch.setattr(base, "trained", start)


@estimator_checks.parametrize_with_checks([EnergyDetector()])
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


@pytest.mark.slow
@estimator_checks.parametrize_with_checks([small()])
def test_scikit_learn_conformance_of_meg(estimator, check, untrained):
    check(estimator)


def by_hand(**changes):
    """E(x) = 3 leaky(2 x_1 - x_2 - 1/2) + 1 on two columns scaled to [0, 1]."""
    one = small(hidden=(1,), **changes).fit([[10.0, 0], [14, 5], [10, 3]])
    one.params_ = {
        "trunk": {
            "linear_0": {
                "kernel": np.array([[2.0], [-1]], np.float32),
                "bias": np.array([-0.5], np.float32),
            }
        },
        "output": {
            "kernel": np.array([[3.0]], np.float32),
            "bias": np.array([1.0], np.float32),
        },
    }
    return one


def test_scores_by_hand(untrained):
    # Scaled: (0.5, 0) and (0, 1); before the leaky unit 0.5 and -1.5.
    x = [[12, 0], [10, 5]]
    energies = [3 * 0.5 + 1, 3 * -0.3 + 1]
    found = by_hand(criterion="energy").score_samples(x)
    np.testing.assert_allclose(found, np.negative(energies), rtol=1e-6)
    norms = [3 * 5**0.5, 0.2 * 3 * 5**0.5]
    found = by_hand(criterion="score_norm").score_samples(x)
    np.testing.assert_allclose(found, np.negative(norms), rtol=1e-6)


def test_scores_agree_with_finite_differences(untrained):
    one = small().fit(ROWS)
    x, step = ROWS[:20], 1e-3
    slopes = [
        (one.score_samples(x + step * unit) - one.score_samples(x - step * unit))
        / (2 * step)
        for unit in np.diag(one.scale_)
    ]
    norms = -one.set_params(criterion="score_norm").score_samples(x)
    close = np.isclose(np.linalg.norm(slopes, axis=0), norms, rtol=1e-2)
    # But where a unit changes its sign within the step.
    assert close.mean() > 0.9


@pytest.mark.slow
def test_training_is_the_learner_stepped_by_hand(fitted):
    rows = seen(fitted, ROWS)
    game = base.hyperparameters(meg_energy.Game, fitted)
    learner, streams = meg_energy.learner(game), loop.keys(7)
    data = Dataset("rows", (2,), 40, None, lambda rows, i: rows[i])
    step = jax.jit(
        loop.iteration(learner, data, 8, streams, True),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state = learner.init(streams.init, jnp.zeros((8, 2)))
    for i in range(4):
        state, _ = step(state, jnp.int32(i), rows)
    found = meg_energy.trained(game, rows, seed=7, batch_size=8, verbose=False)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        found,
        dict(state.average["energy"]),
    )


def test_contamination_is_the_share_of_outliers(fitted):
    labels = fitted.predict(ROWS)
    scores = fitted.score_samples(ROWS)
    assert (labels == -1).sum() == 4
    assert scores[labels == -1].max() < fitted.offset_ <= scores[labels == 1].min()
    np.testing.assert_array_equal(
        fitted.decision_function(ROWS), scores - fitted.offset_
    )
    np.testing.assert_array_equal(small().fit_predict(ROWS), labels)


def test_random_state_decides_everything(fitted):
    same = small(random_state=np.random.RandomState(0)).fit(ROWS)
    np.testing.assert_array_equal(same.score_samples(ROWS), fitted.score_samples(ROWS))
    other = small(random_state=1).fit(ROWS)
    assert (other.score_samples(ROWS) != fitted.score_samples(ROWS)).any()


def test_training_compiles_once_whatever_the_seed_and_the_number_of_rows():
    before = base._advanced._cache_size()
    for seed, num in ((3, 40), (4, 40), (4, 60), (4, 250)):
        rows = np.resize(ROWS, (num, 2))
        small(random_state=seed, hidden=(8, 7)).fit(rows)
    assert base._advanced._cache_size() == before + 1


def test_a_score_does_not_depend_on_its_company(fitted):
    x = np.random.RandomState(1).normal(size=(1500, 2)) * 100
    scores = fitted.score_samples(x)
    for some in (slice(1499, None), slice(1000, 1100), slice(None, None, -1)):
        np.testing.assert_array_equal(fitted.score_samples(x[some]), scores[some])


def test_lists_fit_as_arrays(fitted):
    one = small().fit(ROWS.tolist())
    np.testing.assert_array_equal(one.score_samples(ROWS), fitted.score_samples(ROWS))


def test_any_table_fits(untrained):
    constant = small().fit(np.c_[ROWS, np.full(40, 7.0)])
    assert constant.scale_[2] == 1 and seen(constant, np.full((1, 3), 9.0))[0, 2] == 2
    huge = np.array([[1e300, -1e300]])
    assert np.isfinite(small().fit(ROWS).score_samples(huge)).all()
    assert np.isfinite(small().fit([[1.0, 2]]).offset_)


def test_scalings(untrained):
    moved = seen(small(scaling="minmax").fit(ROWS), ROWS)
    assert moved.min(0).tolist() == [0, 0]
    np.testing.assert_allclose(moved.max(0), 1, rtol=1e-6)
    moved = seen(small(scaling="standard").fit(ROWS), ROWS)
    np.testing.assert_allclose(moved.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(moved.std(0), 1, rtol=1e-5)
    unscaled = seen(small(scaling=None).fit(ROWS), ROWS)
    np.testing.assert_array_equal(unscaled, ROWS.astype(np.float32))


def test_names_of_columns_are_kept(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=["a", "b"])
    named = small().fit(frame)
    named.save(tmp_path / "named.npz")
    for one in (named, EnergyDetector.load(tmp_path / "named.npz")):
        assert one.feature_names_in_.tolist() == ["a", "b"]
        with pytest.raises(ValueError, match="feature names"):
            one.predict(frame[["b", "a"]])


def test_another_fit_forgets_the_former(untrained):
    one = EnergyDetector(random_state=0).fit(ROWS)
    one.set_params(energy="meg", hidden=(8,), batch_size=8)
    with pytest.raises(
        ValueError, match="energy='meg' was set after the fit: fit again"
    ):
        one.score_samples(ROWS)
    one.fit(ROWS)
    assert not hasattr(one, "state_") and not hasattr(one, "energies_")
    for name in ("partial_fit", "p_values"):
        assert not hasattr(one, name)
    np.testing.assert_allclose(one.explain(ROWS).sum(1), 1, rtol=1e-6)
    one.set_params(hidden=(4, 4))
    assert one.score_samples(ROWS).shape == (40,)


def test_a_criterion_that_is_none_does_not_score(fitted):
    one = pickle.loads(pickle.dumps(fitted)).set_params(criterion="loss")
    with pytest.raises(ValueError, match="criterion='loss': choose one of 'energy'"):
        one.score_samples(ROWS)


def test_files_of_before_energies_could_be_chosen_are_megs(fitted, tmp_path):
    path = tmp_path / "one.npz"
    fitted.save(path)
    arrays = atomic.checked(path)
    header = json.loads(str(arrays["header"]))
    for name in ("energy", "num_neighbors", "max_stored"):
        del header["parameters"][name]
    atomic.write(path, arrays | {"header": np.array(json.dumps(header))})
    old = EnergyDetector.load(path)
    np.testing.assert_array_equal(old.score_samples(ROWS), fitted.score_samples(ROWS))
    assert old.get_params() == fitted.get_params()


@pytest.mark.slow
def test_far_rows_are_found():
    rng = np.random.RandomState(0)
    normal, far = rng.normal(size=(256, 2)), rng.uniform(4, 8, size=(64, 2))
    far *= rng.choice([-1, 1], far.shape)
    one = small(hidden=(32, 32), num_steps=600, batch_size=64, learning_rate=3e-3)
    scores = one.fit(normal[:128]).score_samples(np.concatenate([normal[128:], far]))
    assert metrics.roc_auc_score(np.repeat([1, 0], [128, 64]), scores) > 0.9


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"criterion": "loss"}, "criterion='loss': choose one of 'energy'"),
        ({"scaling": "none"}, "scaling='none': choose one of 'minmax', 'standard'"),
        ({"contamination": 0.6}, r"contamination=0.6: give a number in \(0, 0.5\]"),
        ({"contamination": "no"}, "contamination='no': give a number"),
        ({"hidden": 64}, "hidden=64: give widths such as"),
        ({"hidden": ()}, r"hidden=\(\): give widths such as"),
        (
            {"generator_hidden": (8, 0)},
            "generator_hidden=0: give a whole number from 1",
        ),
        ({"batch_size": 1}, "batch_size=1: give a whole number from 2 up"),
        ({"num_steps": 0.5}, "num_steps=0.5: give a whole number from 1 up"),
        ({"score_weight": -1}, "score_weight=-1: give a number in"),
        ({"learning_rate": 0}, "learning_rate=0: give a number in"),
        ({"average_decay": 1}, "average_decay=1: give a number in"),
    ],
)
def test_unusable_parameters_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        small(**changes).fit(ROWS)


def test_divergence_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(meg_energy, "_LARGEST", 1e30)
    with pytest.raises(FloatingPointError, match="lower learning_rate, .* or scale"):
        small(scaling=None).fit(ROWS * 1e28)


def test_progress_is_shown_on_request(capsys):
    small().fit(ROWS)
    assert capsys.readouterr().err == ""
    small(verbose=True).fit(ROWS)
    assert "4/4" in capsys.readouterr().err


def test_saved_and_pickled_detectors_score_the_same(fitted, tmp_path):
    path = tmp_path / "detector.any"
    fitted.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["detector.any"]
    for one in (EnergyDetector.load(path), pickle.loads(pickle.dumps(fitted))):
        assert one.get_params() == fitted.get_params()
        np.testing.assert_array_equal(one.predict(ROWS), fitted.predict(ROWS))
        np.testing.assert_array_equal(
            one.decision_function(ROWS), fitted.decision_function(ROWS)
        )
        with pytest.raises(ValueError, match="2 features"):
            one.predict(ROWS[:, :1])


def test_numpy_numbers_are_saved(tmp_path):
    one = small(hidden=np.array([8, 8]), contamination=np.float32(0.25))
    one.set_params(num_steps=np.int64(4), random_state=np.random.RandomState(0))
    one.fit(ROWS).save(tmp_path / "one")
    back = EnergyDetector.load(tmp_path / "one")
    assert back.hidden == (8, 8) and back.contamination == 0.25
    assert back.random_state is None
    np.testing.assert_array_equal(back.predict(ROWS), one.predict(ROWS))


def rewritten(path, **changes):
    """The file at `path` with some of its arrays replaced, digest as it was."""
    with np.load(path, allow_pickle=False) as saved:
        arrays = dict(saved)
    with path.open("wb") as file:
        np.savez(file, **arrays | changes)


def test_damaged_and_foreign_files_are_refused(fitted, tmp_path):
    path = tmp_path / "one.npz"
    load = EnergyDetector.load
    with pytest.raises(FileNotFoundError, match="no file .*one.npz: write one"):
        load(path)
    fitted.save(path)
    whole = path.read_bytes()
    for torn in (
        whole[: len(whole) // 2],
        b"",
        b"text",
        whole[:300] + b"!" + whole[301:],
    ):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match="is damaged"):
            load(path)
    for array in (np.zeros(3), np.array({"a": 1})):
        with path.open("wb") as file:
            np.save(file, array)
        with pytest.raises(ValueError, match="was not written by EnergyDetector"):
            load(path)
    atomic.write(path, {"a": np.zeros(2)})
    with pytest.raises(ValueError, match="was not written by EnergyDetector"):
        load(path)
    path.write_bytes(whole)
    with np.load(path, allow_pickle=False) as saved:
        arrays = dict(saved) | {"center_": fitted.center_ + 1}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="SHA-256 does not match"):
        load(path)


def test_files_of_another_class_or_version_are_refused(fitted, tmp_path, monkeypatch):
    fitted.save(tmp_path / "one")
    with pytest.raises(ValueError, match="by EnergyDetector.save 2, this is RBM.save"):
        megjax.RBM.load(tmp_path / "one")
    monkeypatch.setattr(base, "_VERSION", "3")
    with pytest.raises(ValueError, match="EnergyDetector.save 2, this is .*save 3"):
        EnergyDetector.load(tmp_path / "one")


def test_files_hold_no_pickle(fitted, tmp_path):
    fitted.save(tmp_path / "one")
    with zipfile.ZipFile(tmp_path / "one") as file:
        names = file.namelist()
        headers = [file.read(name)[:200] for name in names]
    assert "header.npy" in names and "sha256.npy" in names
    assert not any(b"'|O'" in header for header in headers)


def test_it_works_within_scikit_learn(fitted):
    line = pipeline.make_pipeline(preprocessing.MinMaxScaler(), small(scaling=None))
    np.testing.assert_array_equal(line.fit(ROWS).predict(ROWS), fitted.predict(ROWS))


def test_pyod_sign_threshold_and_labels(fitted):
    one = PyODEnergyDetector(small(contamination=0.5), contamination=0.1).fit(ROWS)
    np.testing.assert_array_equal(one.decision_scores_, -fitted.score_samples(ROWS))
    assert one.threshold_ == pytest.approx(np.percentile(one.decision_scores_, 90))
    np.testing.assert_array_equal(one.labels_, fitted.predict(ROWS) == -1)
    np.testing.assert_array_equal(one.predict(ROWS), one.labels_)
    assert one.labels_.sum() == 4 and one.detector.contamination == 0.5
    np.testing.assert_array_equal(one.fit_predict(ROWS), one.labels_)


def test_pyod_probabilities_by_hand(fitted, monkeypatch):
    one = PyODEnergyDetector(small()).fit(ROWS)
    one.decision_scores_ = np.array([-1.0, 3.0])
    scores = np.array([-2.0, 0.0, 3.0, 4.0])
    monkeypatch.setattr(one, "decision_function", lambda x: scores)
    anomaly = [0, 0.25, 1, 1]
    expected = np.stack([1 - np.array(anomaly), anomaly], axis=1)
    np.testing.assert_allclose(one.predict_proba(None), expected)
    # Mean 1, standard deviation 2: one deviation above, erf(1 / sqrt 2) = 0.6827.
    unified = one.predict_proba(None, method="unify")[:, 1]
    np.testing.assert_allclose(unified, [0, 0, 0.6826895, 0.8663856], rtol=1e-6)
    with pytest.raises(ValueError, match="method='x': choose 'linear' or 'unify'"):
        one.predict_proba(None, method="x")


def test_pyod_adapter_takes_any_outlier_detector():
    forest = ensemble.IsolationForest(random_state=0)
    one = PyODEnergyDetector(forest).fit(ROWS)
    expected = clone(forest).set_params(contamination=0.1).fit(ROWS)
    np.testing.assert_array_equal(one.predict(ROWS), expected.predict(ROWS) == -1)


@pytest.mark.slow
def test_example_runs(untrained, tmp_path, monkeypatch, capsys):
    cells = ["0", "tcp", "http", "SF", *["0"] * 37]
    lines = [
        ",".join([str(i % 7), *cells[1:], "normal." if i % 5 == 0 else "smurf."])
        for i in range(40)
    ]
    path = tmp_path / kdd99.FILE_NAME
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    runpy.run_path(str(ROOT / "examples/kdd99_anomaly.py"))
    assert capsys.readouterr().out.startswith("F1 0.")


def test_import_of_the_package_is_light():
    code = (
        "import sys, megjax; assert 'EnergyDetector' in dir(megjax); "
        "heavy = {'jax', 'sklearn', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert megjax.EnergyDetector is EnergyDetector
    with pytest.raises(AttributeError, match="no attribute 'Detector'"):
        _ = megjax.Detector
