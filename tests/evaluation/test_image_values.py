"""Distances between images and features that are none: refused, or warned of, with why."""

import types
import zipfile

import numpy as np
import pytest

import megjax
from megjax.data import images
from megjax.data.dataset import Dataset
from megjax.evaluation import fidelity, inception
from megjax.metrics import frechet

RNG = np.random.RandomState(0)
PIXELS = RNG.randint(0, 256, (20, 4, 4, 3), np.uint8)
UNIT = PIXELS / np.float32(255)
SIGNED = PIXELS / np.float32(127.5) - 1
WRONG = {
    "floats in [0, 1]": (UNIT, r"float32 from 0 to 1: give np.round\(255 \* x\)"),
    "floats in [-1, 1]": (
        SIGNED,
        r"from -1 to 1: give np.round\(127.5 \* \(x \+ 1\)\)",
    ),
    "floats to 255": (
        PIXELS.astype(float),
        r"from 0 to 255: give np.round\(x\).astype",
    ),
    "float16": (UNIT.astype(np.float16), "of float16 from 0 to 1"),
    "normal": (RNG.normal(size=PIXELS.shape), r"give np.round\(255 \* \(x - x.min"),
    "uint16": (PIXELS.astype(np.uint16) * 257, "of uint16 from 0 to 65535"),
    "int64": (PIXELS.astype(np.int64), "of int64 from 0 to 255"),
    "bool": (PIXELS > 9, "of bool: give uint8 from 0 to 255"),
    "nan": (np.full(PIXELS.shape, np.nan), "from nan to nan"),
    "masked": (np.ma.array(PIXELS, mask=PIXELS > 9), "masked values: fill them"),
    "channels first": (
        PIXELS.transpose(0, 3, 1, 2).repeat(9, 3),
        "come last; give x.tr",
    ),
    "no channels": (PIXELS[..., 0], r"give \[N, H, W, C\], x\[..., None\] of grey"),
    "one image": (PIXELS[0], r"form \[4, 4, 3\]: give \[N, H, W, C\]"),
    "no images": (PIXELS[:0], r"form \[0, 4, 4, 3\]: give"),
    "no pixels": (PIXELS[:, :0], r"form \[20, 0, 4, 3\]: give"),
    "vectors": (PIXELS.reshape(20, -1), r"form \[20, 48\]: give"),
}


def outputs(pixels):
    x = np.asarray(pixels, np.float32).reshape(len(pixels), -1)
    return x[:, :5], x[:, 5:8]


SPACE = fidelity.Space("own", "none", outputs, "distance", "kernel", "score")


@pytest.mark.parametrize("name", WRONG)
def test_pixels_that_are_none(name):
    x, words = WRONG[name]
    network = inception.Inception({}, "none")
    for call in (
        lambda x: fidelity.summary(x, SPACE),
        network.outputs,
        lambda x: images.resident("own", x),
    ):
        with pytest.raises(ValueError, match=words):
            call(x)


@pytest.mark.parametrize("num_channels", [2, 4])
def test_inception_takes_1_or_3_channels(num_channels):
    x = np.zeros((2, 8, 8, num_channels), np.uint8)
    with pytest.raises(
        ValueError, match=f"{num_channels} channels: Inception takes 1 or 3"
    ):
        inception.Inception({}, "none").outputs(x)


@pytest.mark.parametrize("x", [UNIT, SIGNED, PIXELS.astype(np.int32)])
def test_only_uint8_is_normalised(x):
    with pytest.raises(ValueError, match="give uint8, as fidelity.quantised makes"):
        images.normalised(x)


def said(caplog):
    return " | ".join(record.getMessage() for record in caplog.records)


def test_samples_are_floats_around_minus_one_to_one(caplog):
    for x in (PIXELS, PIXELS.astype(np.int64), PIXELS > 9):
        with pytest.raises(ValueError, match=r"images of .*: give floats in \[-1, 1\]"):
            fidelity.quantised(x)
    np.testing.assert_array_equal(fidelity.quantised(SIGNED), PIXELS)
    fidelity.quantised(1.5 * SIGNED)
    assert not said(caplog)
    fidelity.quantised(PIXELS.astype(np.float32))
    assert "values of images lie outside [-1, 1], from 0 to 255: they are clipped" in (
        said(caplog)
    )


def own(x):
    return Dataset("own", x.shape[1:], len(x), x, lambda store, i: store[i])


def test_a_set_that_is_compared_with_lies_in_minus_one_to_one(tmp_path, caplog):
    for x in (PIXELS.astype(np.float32), 3 * SIGNED):
        with pytest.raises(ValueError, match=r"own has values from .*return images in"):
            fidelity.reference(own(x), SPACE, str(tmp_path))
    fidelity.reference(own(SIGNED), SPACE, str(tmp_path))
    assert "below 0" not in said(caplog)
    fidelity.reference(own(UNIT), SPACE, str(tmp_path))
    assert "no value of own lies below 0: its images should span [-1, 1]" in said(
        caplog
    )


ROWS = RNG.normal(size=(30, 4))
BAD_ROWS = {
    "one row": (ROWS[0], r"are float64 \[4\]: give numbers \[N, F\]"),
    "images": (PIXELS, r"are uint8 \[20, 4, 4, 3\]: give"),
    "no rows": (ROWS[:0], r"\[0, 4\]: give numbers"),
    "no columns": (ROWS[:, :0], r"\[30, 0\]: give numbers"),
    "complex": (ROWS * 1j, "complex128"),
    "text": (ROWS.astype(str), "<U"),
    "bool": (ROWS > 0, "are bool"),
    "objects": (ROWS.astype(object), "are object"),
    "masked": (
        np.ma.array(ROWS, mask=ROWS > 1),
        "masked values: fill them first",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_features_that_are_none(name):
    x, words = BAD_ROWS[name]
    for call in (
        frechet.moments,
        lambda x: frechet.kernel_distance(x, ROWS),
        lambda x: frechet.kernel_distance(ROWS, x),
        frechet.inception_score,
        lambda x: frechet.summary([(x, ROWS)]),
        lambda x: frechet.summary([(ROWS, x)]),
    ):
        with pytest.raises(ValueError, match=words):
            call(x)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(value):
    x = ROWS.copy()
    x[3, 1] = value
    for call in (
        frechet.moments,
        lambda x: frechet.kernel_distance(x, ROWS),
        lambda x: frechet.kernel_distance(ROWS, x),
        frechet.inception_score,
        lambda x: frechet.summary([(ROWS, x)]),
    ):
        with pytest.raises(FloatingPointError, match="some .* are not finite"):
            call(x)


MEAN, COVARIANCE = ROWS.mean(0), np.cov(ROWS.T)
SKEW = COVARIANCE + np.triu(np.ones((4, 4)), 1)


@pytest.mark.parametrize(
    ("mean", "covariance", "words"),
    [
        (MEAN * np.nan, COVARIANCE, "moments that are not finite"),
        (MEAN, COVARIANCE * np.inf, "moments that are not finite"),
        (MEAN, SKEW, "not symmetric: give np.cov"),
        (MEAN, -COVARIANCE, "a covariance with a variance of -"),
        (MEAN, np.diag([1.0, -1, 1, 1]), "a variance of -1: give np.cov"),
        (MEAN[:3], COVARIANCE, "moments of shapes"),
        (MEAN[None], COVARIANCE, "moments of shapes"),
        (1.0, COVARIANCE, "moments of shapes"),
        (MEAN, ROWS, "moments of shapes"),
    ],
)
def test_moments_that_are_none(mean, covariance, words):
    for order in (1, -1):
        pairs = [(mean, covariance), (MEAN, COVARIANCE)][::order]
        with pytest.raises(ValueError, match=words):
            frechet.frechet_distance(*pairs[0], *pairs[1])


def test_features_of_two_networks_are_not_compared():
    with pytest.raises(
        ValueError, match="features of 4 and 3 dimensions: take both from"
    ):
        frechet.kernel_distance(ROWS, ROWS[:, :3])


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": np.ones(3)},
        {"covariance": np.ones((4, 3))},
        {"features": np.ones((30, 5), np.float32)},
        {"score": np.ones(3)},
        {"num": np.array("many")},
        {"more": np.ones(3)},
        {"mean": np.array([{}, 1, 2, 3])},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_summary_edited_by_hand_is_refused_by_name(tmp_path, changes):
    path, made = tmp_path / "a.npz", frechet.summary([(ROWS, ROWS)])
    frechet.cached(path, "abc", lambda: made)
    arrays = {"fingerprint": np.array("abc"), **made._asdict()}
    np.savez(path, **arrays)
    frechet.cached(path, "abc", pytest.fail)
    before = arrays | changes
    np.savez(path, **before)
    content = path.read_bytes()
    with pytest.raises(ValueError, match="a.npz is damaged .*remove the file"):
        frechet.cached(path, "abc", lambda: made)
    assert path.read_bytes() == content


def test_a_summary_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mean.npy", bytes(2**21))
    with pytest.raises(ValueError, match="a.npz is damaged"):
        frechet.cached(path, "abc", pytest.fail)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (PIXELS, r"x holds pixels of uint8: give images in \[-1, 1\], x / 127.5 - 1"),
        (
            np.ma.array(SIGNED, mask=SIGNED > 0),
            "x has [0-9]+ masked values: fill them first",
        ),
    ],
    ids=["uint8", "masked"],
)
def test_a_model_of_images_takes_floats(x, words):
    model = object.__new__(megjax.Model)
    model.shape, model.state = (4, 4, 3), None
    model.learner = types.SimpleNamespace(
        energy=lambda state, x: x.sum((1, 2, 3)), generate=None
    )
    for call in (model.energy, model.score_samples):
        with pytest.raises(ValueError, match=words):
            call(x)
    assert model.energy(SIGNED).shape == (20,)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (
            np.ma.array(SIGNED, mask=SIGNED > 0),
            "x has [0-9]+ masked values: fill them first",
        ),
        (PIXELS.astype(np.uint16), "uint16.*give uint8, or floats"),
        (255 * UNIT, r"from 0.0 to 255.0: give uint8, or floats .* such as x / 255"),
        (np.full((9, 2), 1e39), r"2 columns \(0, 1\) have values beyond 3.4e\+38"),
        ([[1, 2], [3]], "x is no array of numbers"),
    ],
    ids=["masked", "uint16", "floats to 255", "beyond float32", "ragged"],
)
def test_an_array_that_no_model_can_fit(x, words):
    with pytest.raises(ValueError, match=words):
        megjax.fit(x, num_steps=1)
