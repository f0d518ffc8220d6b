"""The user's own data: a folder of images, an array of images or vectors, or a table."""

import os
import pathlib
from typing import Any

import numpy as np

from megjax import checks
from megjax.data import folders, images, tables
from megjax.data.dataset import Dataset
from megjax.io import npz

TABLES = {".csv": tables.csv, ".tsv": tables.csv, ".parquet": tables.parquet}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif")
_PROGRAMS = (".pkl", ".pickle", ".joblib", ".pt", ".pth")
_KNOWN = (
    "give a folder of images, or an .npz or .npy file of images or vectors, or a .csv or "
    ".parquet table of numbers"
)


def custom(
    path: str,
    *,
    image_size: int | None = None,
    num_channels: int = 3,
    standardise: bool = False,
    memory_budget: int = images.MEMORY_BUDGET,
) -> Dataset:
    """The training set at `path`: a folder, as `folders.folder`, or a file, as `array`.

    FileNotFoundError where there is none; ValueError at files of other types.
    """
    root = checks.path(path)
    if root.is_dir():
        return folders.folder(
            path,
            image_size=image_size,
            num_channels=num_channels,
            memory_budget=memory_budget,
        )
    if not os.path.lexists(root):
        raise FileNotFoundError(f"No training data at {path!r}: {_KNOWN}.")
    if root.suffix.lower() not in (".npz", ".npy", *TABLES) or not root.is_file():
        raise ValueError(f"No training data at {path!r}{_instead(root)}.")
    return array(path, standardise=standardise)


def array(path: str, *, standardise: bool = False) -> Dataset:
    """The examples in a .npy file, or in an .npz with one array or one named `x`.

    Images are [N, H, W] or [N, H, W, C] with at most 4 channels: uint8; or floats
    which all lie in [0, 1], or else in [-1, 1]. Vectors are [N, D] of any number type
    and are taken as they are, or, with `standardise`, to mean 0 and variance 1 per
    column. A .csv, .tsv (pandas reads them) or .parquet (pyarrow) is such vectors, a
    row each. Pickled objects are refused. ValueError says what is allowed.
    """
    file = checks.path(path)
    if file.suffix.lower() in TABLES:
        x, columns = TABLES[file.suffix.lower()](file)
        return tables.table(file.stem, x, standardise=standardise, columns=columns)
    return examples(_loaded(file), path, file.stem, standardise=standardise)


def examples(x: Any, origin: str, name: str, *, standardise: bool = False) -> Dataset:
    """The examples in an array, of the forms that `array` takes.

    origin: where it is from, for messages. ValueError says what is allowed; masked
    values and sparse matrices are refused.
    """
    x = numbers(x, origin)
    if x.ndim == 2:
        return tables.table(name, x, standardise=standardise)
    x = x[..., None] if x.ndim == 3 else x
    if x.shape[-1] > 4:
        raise ValueError(
            f"{origin} holds images {list(x.shape[1:])}: channels, at most 4, come last."
        )
    if x.dtype == np.uint8:
        return images.resident(name, x)
    store = _unit(x).astype(np.float32)
    return Dataset(name, store.shape[1:], len(store), store, lambda store, i: store[i])


def numbers(x: Any, origin: str) -> np.ndarray:
    """An array of finite numbers [N, D], [N, H, W] or [N, H, W, C]; else ValueError."""
    checks.unmasked(origin, x)
    if hasattr(x, "toarray"):
        raise ValueError(f"{origin} is a sparse matrix: give x.toarray().")
    try:
        x = np.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{origin} is no array of numbers ({npz.words(error)}): give rows of one "
            "length."
        ) from error
    if x.dtype.kind not in "biuf" or x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise ValueError(
            f"{origin} holds {x.dtype} {list(x.shape)}: give numbers, [N, D] for vectors "
            "or [N, H, W] or [N, H, W, C] for images."
        )
    if not np.isfinite(x).all():
        raise ValueError(f"{origin} holds NaN or infinite values: remove them.")
    return x


def _instead(root: pathlib.Path) -> str:
    """What to do about a file that is no training data."""
    suffix = root.suffix.lower()
    if suffix in _ARCHIVES:
        return ", an archive: unpack it and give the folder, or the file that is in it"
    if suffix in _PROGRAMS:
        return ", which could run a program: save the array with numpy.save, as .npy"
    if suffix in _IMAGES:
        return ", one image: give the folder that it lies in"
    return f", a file of another type: {_KNOWN}"


def _loaded(path: pathlib.Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
        wanted = names[0] if len(names) == 1 else "x"
        found = npz.read(path, [wanted]) if wanted in names else {}
    # NumPy and zipfile raise whatever its parsers do.
    except Exception as error:
        if getattr(error, "errno", None):
            raise
        raise ValueError(
            f"{path} is not a plain .npy or .npz: {npz.words(error)}"
        ) from error
    if {"format", "data", "shape"} <= set(names):
        raise ValueError(f"{path} holds a sparse matrix: save its toarray().")
    if not found:
        raise ValueError(f"{path} holds arrays {names}: keep one, or name one x.")
    return found[wanted]


def _unit(x: np.ndarray) -> np.ndarray:
    """Float images in [-1, 1], from [0, 1] where none is negative."""
    low, high = x.min(), x.max()
    if x.dtype.kind != "f" or low < -1 or high > 1:
        top = np.iinfo(x.dtype).max if x.dtype.kind == "u" else 255
        raise ValueError(
            f"Images of type {x.dtype} with values from {low} to {high}: give uint8, "
            f"or floats in [0, 1] or in [-1, 1], such as x / {top}."
        )
    return 2 * x - 1 if low >= 0 else x
