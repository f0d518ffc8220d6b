"""Random inputs to the public functions of data: a result in its domain, or one line.

What is raised is one of megjax's errors, raised by megjax and not from within NumPy, JAX,
Pillow or a reader, and in a person's words; what is returned is what an independent rule
says of the input. `FUZZ=2000` inputs, each reproduced by its number.
"""

import gzip
import io
import json
import os
import pathlib
import re
import traceback
import zipfile

import jax
import numpy as np
import PIL.Image
import pytest

from megjax import errors
from megjax.data import (
    binary,
    dequantisation,
    files,
    folders,
    images,
    kdd99,
    one_class,
    stacked,
    tables,
    toy,
)
from megjax.estimators import base
from megjax.estimators.rbm import RBM
from megjax.evaluation import fidelity, inception
from megjax.io import atomic, npz, tensors
from megjax.metrics import frechet
from megjax.training import checkpoint, metric_writer
from tests.robustness.scripts import UNCLEAR

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUICK, ALL = 63, int(os.environ.get("FUZZ", "2000"))
OURS = re.compile(r"/megjax/|/sklearn/(utils|base)")
DTYPES = (
    *("uint8", "uint8", "float32", "float32", "float64", "int8", "int64", "uint16"),
    *("bool", "float16", "complex64", "U2", "object", "M8[s]"),
)


def pick(rng, *values):
    return values[rng.randint(len(values))]


def form(rng):
    """Mostly images and tables, sometimes neither, sometimes empty."""
    ndim = pick(rng, 0, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4, 5)
    shape = list(rng.randint(1, 7, ndim))
    if ndim == 4:
        shape[3] = pick(rng, 1, 1, 3, 3, 2, 4, 8)
    if ndim and rng.rand() < 0.05:
        shape[rng.randint(ndim)] = 0
    return tuple(map(int, shape))


def array(rng, shape=None, dtype=None):
    """Numbers of many types and ranges, at times with a flaw."""
    shape = form(rng) if shape is None else shape
    dtype = dtype or pick(rng, *DTYPES)
    low, high = pick(
        rng,
        (0, 1),
        (-1, 1),
        (0, 255),
        (-5, 5),
        (14.62, 14.62),
        (1e38, 1e40),
        (0, 1e-200),
    )
    x = np.asarray(low + (high - low) * rng.rand(*shape))
    if rng.rand() < 0.3:
        x = np.asarray(np.rint(x))
    if rng.rand() < 0.1 and x.size:
        x = np.where(rng.rand(*shape) < 0.2, pick(rng, np.nan, np.inf, -np.inf), x)
    with np.errstate(all="ignore"):
        x = (
            np.nan_to_num(x).astype("i8").astype(dtype)
            if dtype == "M8[s]"
            else (np.asarray(x).astype(dtype))
        )
    if rng.rand() < 0.07:
        x = np.ma.array(x, mask=rng.rand(*shape) < 0.3)
    return x


def plain(x):
    return x.dtype.kind in "biuf" and not np.ma.is_masked(x) and np.isfinite(x).all()


def mutated(rng, content):
    """Bytes as they are, cut, with bits flipped, or with a piece twice."""
    how = rng.randint(4)
    if how == 0 or len(content) < 2:
        return content
    if how == 1:
        return content[: rng.randint(len(content))]
    if how == 2:
        changed = bytearray(content)
        for place in rng.randint(len(content), size=rng.randint(1, 9)):
            changed[place] ^= 1 << rng.randint(8)
        return bytes(changed)
    first, last = sorted(rng.randint(len(content), size=2))
    return content[:last] + content[first:]


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def is_image_array(x):
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] > 4):
        return False
    unit = x.dtype.kind == "f" and x.size and x.min() >= -1 and x.max() <= 1
    return x.dtype == np.uint8 or bool(unit)


def is_float32(x):
    with np.errstate(all="ignore"):
        found = x.astype(np.float32)
    differ = x.max(0) != x.min(0)
    return np.isfinite(found).all() and (np.ptp(found, 0)[differ] > 0).all()


def examples(rng, folder):
    x, standardise = array(rng), bool(rng.randint(2))
    usable = x.ndim in (2, 3, 4) and 0 not in x.shape and plain(x)
    if usable and x.ndim == 2:
        usable = (x.max(0) != x.min(0)).any() if standardise else is_float32(x)
    elif usable:
        usable = is_image_array(x)

    def call():
        data = files.examples(x, "x", "x", standardise=standardise)
        found = np.asarray(data.take(data.store, np.arange(len(x))))
        assert np.isfinite(found).all() and found.shape == (len(x), *data.shape)
        assert x.ndim == 2 or np.abs(found).max() <= 1

    return call, bool(usable)


def array_file(rng, folder):
    file, x = io.BytesIO(), array(rng)
    suffix = pick(rng, "npy", "npz")
    names = {pick(rng, "x", "a"): x, "b": x} if rng.rand() < 0.2 else {"x": x}
    np.save(file, x) if suffix == "npy" else np.savez(file, **names)
    path = written(folder / f"x.{suffix}", mutated(rng, file.getvalue()))
    return lambda: files.custom(path), None


def table_file(rng, folder):
    x = array(
        rng, (rng.randint(0, 5), rng.randint(1, 4)), pick(rng, "float64", "U2", "i8")
    )
    text = "\n".join(",".join(map(str, row)) for row in x)
    text = pick(rng, "", "a,b,c\n", ",a\n", "0,1\n", "\ufeffa\n") + text
    path = written(folder / pick(rng, "x.csv", "x.tsv"), mutated(rng, text.encode()))
    return lambda: files.custom(path, standardise=bool(rng.randint(2))), None


def picture(rng):
    """An encoded image of some mode, size and format."""
    mode = pick(
        rng, "1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "LAB"
    )
    size = tuple(map(int, rng.randint(1, 9, 2)))
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": "uint16", "I": "int32", "F": "float32"}[mode]
        levels = rng.rand(*size) * pick(rng, 1, 255, 65535)
        image = PIL.Image.fromarray(levels.astype(kind))
    else:
        pixels = rng.randint(0, 256, (size[1], size[0], 4), np.uint8)
        whole = PIL.Image.fromarray(pixels, "RGBA")
        image = PIL.Image.new("LAB", size) if mode == "LAB" else whole.convert(mode)
    stream = io.BytesIO()
    for kind in (pick(rng, "PNG", "TIFF", "GIF", "JPEG", "BMP", "WEBP", "PPM"), "TIFF"):
        try:
            image.save(stream, format=kind)
        # Not every format has every mode.
        except (OSError, ValueError):
            continue
        break
    return stream.getvalue()


def image_folder(rng, folder):
    for i in range(rng.randint(1, 4)):
        suffix = pick(rng, "png", "jpg", "tif", "gif", "txt", "")
        name = pick(rng, "", ".", "sub/") + f"{i}" + (suffix and f".{suffix}")
        content = mutated(rng, picture(rng))
        written(folder / "images" / name, content)
    options = {
        "image_size": pick(rng, 4, 4, 1, None, 0, -1, 2.5),
        "num_channels": pick(rng, 1, 3, 3, 2),
        "crop": pick(rng, None, None, None, 3, 0),
    }

    def call():
        data = folders.folder(str(folder / "images"), **options)
        assert data.store.dtype == np.uint8 and data.shape[2] == options["num_channels"]

    return call, None


def levels(rng, folder):
    x = array(rng, rng.randint(1, 5, 3).tolist())
    call = pick(rng, binary.rounded, binary.drawn)
    return lambda: call(x), bool(x.dtype == np.uint8 and not np.ma.is_masked(x))


def pixels(rng, folder):
    x = array(rng)
    usable = (
        x.dtype == np.uint8 and x.ndim == 4 and 0 not in x.shape and x.shape[3] <= 4
    )
    usable = bool(usable and not np.ma.is_masked(x))
    return lambda: images.resident("x", x), usable


def split_sets(rng, folder):
    x = array(rng, (rng.randint(1, 9), 2, 2, 1), pick(rng, "uint8", "uint8", "float32"))
    labels = rng.randint(0, 3, len(x) + (rng.rand() < 0.1)).astype(np.int32)
    number = pick(rng, 0.1, 0.5, 0.9, 0, 1, -1, np.nan)

    def first():
        one_class.one_class(
            *(x, labels), held_out=1, name="x", seed=0, train_fraction=number
        )

    def second():
        binary.split("x", x, labels, held_out_fraction=number)

    return pick(rng, first, second), None


def stacks(rng, folder):
    x = array(rng, (3, 2, 2, pick(rng, 1, 1, 3)))
    num = pick(rng, 3, 2, 0, 5)
    usable = x.dtype == np.uint8 and x.shape[3] == 1 and num == 3
    usable = bool(usable and not np.ma.is_masked(x))
    return lambda: stacked.stacked(x, num_stacked=num), usable


def toys(rng, folder):
    num = int(pick(rng, 100, 25, 24, 1, 0, -1, -25))
    call = pick(rng, toy.gaussians_25, toy.two_spirals, toy.four_spin)
    usable = num >= (25 if call is toy.gaussians_25 else 1)
    if rng.rand() < 0.3:
        noise = float(pick(rng, 0, 0.5, -1, np.nan, np.inf))
        return lambda: toy.swiss_roll(noise=noise), 0 <= noise < np.inf
    return lambda: call(num_examples=num), usable


def noise(rng, folder):
    num = pick(rng, 32, 1, 0, -3)
    x = np.zeros((2, 3), np.float32)
    call = dequantisation.dequantised
    return lambda: call(jax.random.key(0), x, num_levels=num), num >= 1


def columns(rng, folder):
    x = array(rng, (rng.randint(1, 30), rng.randint(1, 4)), "float64")
    x = np.nan_to_num(np.asarray(x), posinf=1.0, neginf=0.0)
    x = x * 10.0 ** rng.randint(-300, 260, x.shape[1])
    usable = bool((x.max(0) != x.min(0)).any())

    def call():
        store = tables.table("x", x, standardise=True).store
        mean, std = store.mean(0, dtype=float), store.std(0, dtype=float)
        constant = x.max(0) == x.min(0)
        assert (store[:, constant] == 0).all() and np.abs(mean).max() < 1e-5
        assert np.abs(std[~constant] - 1).max() < 1e-5
        scaled = tables.minmax(x, x)
        assert scaled.min() == 0 and scaled.max() == 1

    return call, usable


def features(rng, folder):
    x = array(rng, pick(rng, None, (12, 3)))
    usable = x.dtype.kind in "fiu" and x.ndim == 2 and 0 not in x.shape
    usable = bool(usable and plain(x))
    if rng.rand() < 0.5:
        return lambda: frechet.moments(x), usable
    other = np.random.RandomState(0).normal(size=(12, 3))
    call = lambda: frechet.kernel_distance(x, other, num_subsets=1)
    return call, bool(usable and x.shape[1] == 3 and len(x) > 1)


def distances(rng, folder):
    mean, covariance = array(rng, (3,), "float64"), array(rng, (3, 3), "float64")
    if rng.rand() < 0.5:
        covariance = covariance @ covariance.T
    fine = np.eye(3)

    def call():
        found = frechet.frechet_distance(mean, covariance, np.zeros(3), fine)
        assert np.isfinite(found)

    return call, None


def samples(rng, folder):
    x = array(rng)
    floats = x.dtype.kind == "f"
    finite = floats and np.isfinite(np.asarray(x, np.float32)).all()
    return lambda: fidelity.quantised(x), bool(finite)


SPACE = fidelity.Space(
    "own", "", lambda x: (x.reshape(len(x), -1),) * 2, "frechet", "kernel", "score"
)


def compared(rng, folder):
    x = array(rng)
    if rng.rand() < 0.5:
        call = inception.Inception({}, "").outputs
        return (lambda: call(x)) if x.dtype != np.uint8 else (lambda: None), None
    usable = (
        x.dtype == np.uint8 and x.ndim == 4 and 0 not in x.shape and x.shape[3] <= 4
    )
    usable = bool(usable and not np.ma.is_masked(x) and len(x) >= 10)
    return lambda: fidelity.summary(x, SPACE), usable


MACHINES = {}


def rows(rng, folder):
    visible = pick(rng, "bernoulli", "gaussian")
    if visible not in MACHINES:
        fitted = RBM(2, n_iter=1, random_state=0, visible=visible)
        MACHINES[visible] = fitted.fit(np.random.RandomState(0).randint(0, 2, (9, 3)))
    x = array(rng, pick(rng, (5, 3), (5, 3), (5, 3), (5, 4), (3,), (0, 3)))
    usable = x.shape == (5, 3) and plain(x)
    if usable and visible == "bernoulli":
        usable = x.min() >= -1e-6 and x.max() <= 1 + 1e-6
    elif usable:
        usable = np.abs(x.astype(float)).max() <= np.finfo(np.float32).max
    call = pick(rng, "transform", "score_samples", "reconstruct", "partial_fit")
    usable = None if x.dtype.kind in "OU" else bool(usable)
    return lambda: getattr(MACHINES[visible], call)(x), usable


def stored(rng, folder):
    """Files of ours and of others, mutated."""
    file, x = io.BytesIO(), array(rng, (4, 3), "float32")
    np.savez(file, x=np.asarray(x))
    path = pathlib.Path(written(folder / "a.npz", mutated(rng, file.getvalue())))
    call = pick(rng, npz.read, tensors.load, atomic.checked, RBM.load)
    return lambda: call(path), None


def kdd(rng, folder):
    row = b",".join([b"1", b"tcp", b"http", b"SF", *[b"3"] * 37, b"smurf."])
    row = row.replace(b"3", pick(rng, b"3", b"nan", b"1e99", b"x", b""), 1)
    content = gzip.compress(mutated(rng, (row + b"\n") * 5))
    path = pathlib.Path(written(folder / kdd99.FILE_NAME, mutated(rng, content)))

    def call():
        assert np.isfinite(kdd99.table(path).x).all()

    return call, None


def records(rng, folder):
    record = {"version": 1, "config": "x", "recipe": "meg.plane", "shape": [2]}
    text = json.dumps(record | {"values": {"width": 3}}).encode()
    written(folder / checkpoint.CONFIG_FILE, mutated(rng, text))
    return lambda: checkpoint.claimed(folder), None


def metric_lines(rng, folder):
    text = b"".join(b'{"step": %d, "a": 1.5}\n' % i for i in range(6))
    written(folder / metric_writer.METRICS_FILE, mutated(rng, text))

    def call():
        for line in metric_writer.read(folder):
            assert type(line["step"]) is int
            assert all(type(v) in (int, float, type(None)) for v in line.values())

    return call, True


def zips(rng, folder):
    path = folder / f"x{pick(rng, '.npz', '.zip', '.pth', '.csv', '.parquet', '.npy')}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for _ in range(rng.randint(1, 3)):
            name = pick(rng, "x.npy", "../x.npy", "/x", "a/data.pkl", "x")
            archive.writestr(f"{name}", bytes(rng.randint(0, 256, 40, np.uint8)))
    written(path, mutated(rng, path.read_bytes()))
    call = pick(rng, files.custom, tensors.load)
    return lambda: call(str(path)), False


CALLS = (
    *(examples, array_file, table_file, image_folder, levels, pixels, split_sets),
    *(stacks, toys, noise, columns, features, distances, samples, compared, rows),
    *(stored, kdd, records, metric_lines, zips),
)


def judged(call, usable):
    """What is wrong with the answer to an input; None where nothing is."""
    try:
        call()
    except AssertionError:
        raise
    except errors.MISTAKES as error:
        message = errors.message(error)
        frames = traceback.extract_tb(error.__traceback__)
        if usable:
            return f"refused what is usable: {message}"
        if not OURS.search(frames[-1].filename):
            return f"raised by {frames[-1].filename}: {message}"
        if not message or (UNCLEAR.search(message) and "sklearn" not in str(frames)):
            return f"not in a person's words: {message}"
        return None
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return "silent, though out of its domain" if usable is False else None


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """What is refused does not depend on training."""

    def start(learner, state, rows, steps, **settings):
        return jax.device_get(state)

    monkeypatch.setattr(base, "trained", start)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, QUICK), pytest.param(QUICK, ALL, marks=pytest.mark.slow)],
)
def test_random_inputs(first, last, tmp_path):
    wrong = {}
    for number in range(first, last):
        rng = np.random.RandomState(number)
        kind = CALLS[number % len(CALLS)]
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            fault = judged(*kind(rng, folder))
        except AssertionError as error:
            fault = f"a wrong result: {error}"
        if fault:
            wrong[f"{number} {kind.__name__}"] = fault
    assert not wrong, "\n".join(f"{name}: {words}" for name, words in wrong.items())
