"""Rows that a machine cannot be of: refused wherever rows are given, and said why."""

import json
import re

import jax
import numpy as np
import pytest
from scipy import sparse

from megjax.data import binary
from megjax.data.dataset import Dataset, Labelled
from megjax.estimators import base
from megjax.estimators.rbm import RBM
from megjax.io import atomic
from megjax.recipes import boltzmann

pytestmark = pytest.mark.usefixtures("quick_compilation")

BITS = np.random.RandomState(0).randint(0, 2, (20, 6)).astype(np.float64)
METHODS = ("transform", "score_samples", "gibbs", "reconstruct", "pseudo_likelihood")


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """What is refused does not depend on training."""

    def start(learner, state, rows, steps, **settings):
        return jax.device_get(state)

    monkeypatch.setattr(base, "trained", start)


def machine(**changes):
    return RBM(**{"n_components": 3, "n_iter": 1, "random_state": 0} | changes)


def changed(value, row=3, column=2, dtype=np.float64):
    rows = BITS.astype(dtype)
    rows[row, column] = value
    return rows


OUTSIDE = {
    "grey levels": (255 * BITS, r"from 0 to 255: .*\[0, 1\]; give X / 255, scale"),
    "grey levels of uint8": (np.uint8(255 * BITS), "from 0 to 255: .*give X / 255"),
    "signs": (2 * BITS - 1, r"from -1 to 1: .*give \(X \+ 1\) / 2, scale"),
    "signs of int8": (np.int8(2 * BITS - 1), r"give \(X \+ 1\) / 2"),
    "counts": (np.int64(7 * BITS), "from 0 to 7: .*give X / 7, or X > 0 of counts"),
    "one count": (changed(2), "from 0 to 2"),
    "slightly above": (changed(1.001), r"from 0 to 1.001"),
    "slightly below": (changed(-0.001), "from -0.001 to 1"),
    "normal": (np.random.RandomState(1).normal(size=(20, 6)), "MinMaxScaler"),
    "beyond float32": (changed(1e39), r"from 0 to 1e\+39: visible='bernoulli'"),
    "float32": (changed(3, dtype=np.float32), "choose visible='gaussian'"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_rows_outside_the_unit_interval(name):
    rows, words = OUTSIDE[name]
    with pytest.raises(ValueError, match=words):
        machine().fit(rows)
    started = machine().partial_fit(BITS)
    before = started.components_.copy()
    for method in ("partial_fit", *METHODS):
        with pytest.raises(ValueError, match=words):
            getattr(started, method)(rows)
    with pytest.raises(ValueError, match=words):
        started.sample(2, start=rows)
    with pytest.raises(ValueError, match=words):
        machine().partial_fit(rows)
    np.testing.assert_array_equal(started.components_, before)


UNUSABLE = {
    "nan": (changed(np.nan), "NaN"),
    "infinity": (changed(np.inf), "infinity"),
    "masked": (np.ma.array(BITS, mask=BITS > 2), None),
    "masked values": (np.ma.array(BITS, mask=BITS > 0.5), "masked values: fill them"),
    "masked grey levels": (np.ma.array(255 * BITS, mask=BITS > 0), "masked values"),
    "sparse": (sparse.csr_matrix(BITS), "toarray"),
    "sparse coordinates": (sparse.coo_array(BITS), "toarray"),
    "text": (np.full((20, 6), "x"), "string"),
    "objects": (np.full((20, 6), None), "None|NaN|float"),
    "complex": (BITS * 1j, "[Cc]omplex"),
    "one row": (BITS[0], "[Rr]eshape"),
    "no rows": (BITS[:0], "0 sample"),
    "other columns": (BITS[:, :5], "6 features"),
    "dates": (np.zeros((20, 6), "M8[s]"), "[Dd]ate|DType|dtype"),
}


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_rows_that_are_none(name, visible):
    rows, words = UNUSABLE[name]
    started = machine(visible=visible).fit(BITS)
    calls = [
        getattr(started, method) for method in METHODS[: 5 - (visible != "bernoulli")]
    ]
    if name != "other columns":
        calls += [machine(visible=visible).fit, started.partial_fit]
    for call in calls:
        if words is None:
            call(rows)
            continue
        with pytest.raises((ValueError, TypeError), match=words):
            call(rows)


@pytest.mark.parametrize(
    "kind", ["bool", "int8", "uint8", "int64", "float16", "float32", "list", "float"]
)
def test_zeros_and_ones_of_any_type_are_rows(kind):
    rows = BITS.tolist() if kind == "list" else BITS.astype(kind)
    expected, found = machine().fit(BITS), machine().fit(rows)
    np.testing.assert_array_equal(found.intercept_visible_, expected.intercept_visible_)
    for method in METHODS:
        if method != "gibbs":
            values = getattr(found, method)(rows), getattr(expected, method)(BITS)
            np.testing.assert_allclose(*values, rtol=1e-6)


def test_what_a_scaler_rounds_is_inside():
    hidden = machine().fit(changed(1 + 1e-12)).transform(changed(-1e-9))
    assert np.all((hidden >= 0) & (hidden <= 1))
    assert np.all(np.isfinite(machine().fit(changed(0.5)).transform(changed(0.5))))


@pytest.mark.parametrize("value", [1e39, -1e39, 1e200])
def test_real_rows_beyond_float32(value):
    started = machine(visible="gaussian").fit(BITS)
    for call in (
        machine(visible="gaussian").fit,
        started.transform,
        started.partial_fit,
    ):
        with pytest.raises(ValueError, match=r"float32 has 3.4e\+38 at most; scale"):
            call(changed(value))
    started.transform(changed(1e30))


PIXELS = np.uint8(255 * BITS).reshape(20, 2, 3, 1)
LABELS = np.zeros(20, np.int32)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (BITS.reshape(20, 2, 3, 1), "of float64 from 0 to 1: give np.round.255"),
        (PIXELS / 127.5 - 1, "float64 from -1 to 1: give np.round.127.5"),
        (PIXELS.astype(np.int64), "of int64 from 0 to 255"),
        (PIXELS.astype(bool), "of bool: give uint8"),
        (np.ma.array(PIXELS, mask=PIXELS > 0), "masked values"),
    ],
    ids=["unit", "signs", "int64", "bool", "masked"],
)
def test_pixels_of_two_values_are_made_of_uint8(pixels, words):
    for call in (
        binary.rounded,
        binary.drawn,
        lambda x: binary.split("x", x, LABELS, held_out_fraction=0.2),
    ):
        with pytest.raises(ValueError, match=words):
            call(pixels)


def test_a_split_takes_two_values_only():
    with pytest.raises(
        ValueError, match="other values than 0 and 255: give binary.round"
    ):
        binary.split("x", PIXELS // 2, LABELS, held_out_fraction=0.2)
    with pytest.raises(ValueError, match="20 images and 19 labels"):
        binary.split("x", PIXELS, LABELS[1:], held_out_fraction=0.2)


@pytest.mark.parametrize("factor", [2, 255, np.nan])
def test_a_config_of_a_machine_takes_images_in_minus_one_to_one(factor):
    x = np.float32(factor) * np.ones((4, 2, 3, 1), np.float32)
    known = {"train": Labelled(x, LABELS[:4])}
    data = Dataset("own", (2, 3, 1), 4, x, lambda store, i: store[i], reference=known)
    with pytest.raises(
        ValueError, match=r"own has values from .*give images in \[-1, 1\]"
    ):
        boltzmann.image_learner(boltzmann.image_config("digits"), (2, 3, 1), data)


def edited(path, **changes):
    """Changes arrays or the header of a saved machine, with a digest that matches."""
    arrays = atomic.checked(path)
    header = json.loads(str(arrays["header"]))
    for name, value in changes.items():
        if name in header:
            header[name] = header[name] | value if isinstance(value, dict) else value
        elif value is None:
            del arrays[name]
        else:
            arrays[name] = value
    atomic.write(path, arrays | {"header": np.array(json.dumps(header))})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"parameters": {"nope": 1}},
            "damaged, or was not written by RBM.save 2: .*nope",
        ),
        ({"parameters": {"visible": "potts"}}, "visible='potts': choose one of"),
        ({"parameters": {"n_components": "many"}}, "n_components='many'"),
        ({"parameters": {"learning_rate": float("nan")}}, "learning_rate=nan"),
        ({"parameters": [1]}, "damaged"),
        ({"fitted": {"fit": 3}}, "fit is no fitted attribute of RBM"),
        ({"fitted": {"__class__": "x"}}, "__class__ is no fitted attribute"),
        ({"fitted": {"random_state_": 3}}, "damaged"),
        (
            {"fitted": {"n_features_in_": 5}},
            "components_ is float32 .3, 6., not .3, 5.",
        ),
        ({"components_": np.ones((3, 7), np.float32)}, "not .3, 6."),
        ({"components_": None}, "components_"),
        (
            {"components_": np.full((3, 6), np.nan, np.float32)},
            "components_ is not finite",
        ),
        ({"components_": np.ones((3, 6), int)}, "components_ is int64"),
        (
            {"intercept_hidden_": np.ones(2, np.float32)},
            "intercept_hidden_ is float32 .2,",
        ),
        ({"v_samples_": np.ones(6, np.float32)}, "v_samples_"),
        ({"written_by": "RBM.save 1"}, "was written by RBM.save 1, this is RBM.save 2"),
        ({"written_by": 3}, "was written by 3"),
    ],
)
def test_a_machine_edited_by_hand_is_refused_by_name(tmp_path, changes, words):
    path = tmp_path / "one.npz"
    machine().fit(BITS).save(path)
    RBM.load(path)
    edited(path, **changes)
    with pytest.raises(ValueError, match=f"one.npz.*{words}") as error:
        RBM.load(path)
    assert not re.search("Traceback|\n", str(error.value))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"visible": "nope"}, "visible='nope': choose one of"),
        (
            {"visible": "gaussian"},
            "visible='gaussian' was set after the fit: fit again",
        ),
        ({"visible": ["bernoulli"]}, "choose one of 'bernoulli'"),
        ({"n_components": 5}, "n_components=5 was set after the fit: fit again"),
        ({"n_components": 0}, "give a whole number from 1"),
        ({"batch_size": True}, "batch_size=True: give a whole number"),
        ({"num_sweeps": 0}, "num_sweeps=0: give a whole number"),
        ({"learning_rate": "x"}, "learning_rate='x': give a number"),
        ({"l1": -1}, "l1=-1: give a number"),
        ({"persistent": "x"}, "persistent='x': choose one of True, False"),
        ({"verbose": "x"}, "verbose='x': give a whole number"),
        ({"random_state": "x"}, "'x' cannot be used to seed"),
        ({"learned_precision": True}, "only visible='gaussian' has a precision"),
    ],
)
def test_values_that_are_set_after_the_fit_do_not_score(changes, words):
    """Before, some scored, and visible was looked up."""
    started = machine().fit(BITS).set_params(**changes)
    for method in ("transform", "score_samples", "reconstruct", "gibbs", "partial_fit"):
        with pytest.raises(ValueError, match=words):
            getattr(started, method)(BITS)
    with pytest.raises(ValueError, match=words):
        started.sample(2, num_sweeps=1)


@pytest.mark.parametrize("rows", [BITS[0], BITS * 1j, np.where(BITS > 0, np.nan, 0)])
def test_what_is_wrong_with_rows_is_said_in_a_line(rows):
    with pytest.raises(ValueError) as error:
        machine().fit(rows)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_rows_with_masks_in_a_list_are_refused():
    with pytest.raises(ValueError, match="masked values: fill them"):
        machine().fit([np.ma.masked_greater(row, 0.5) for row in BITS])
