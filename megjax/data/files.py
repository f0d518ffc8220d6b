"""The user's own data: a folder of images, or an array of images or vectors."""

import functools
import pathlib

import numpy as np

from megjax import extras
from megjax.data import images
from megjax.data.dataset import Dataset

_CHANNELS = {1: "L", 3: "RGB"}


def custom(
    path: str,
    *,
    image_size: int | None = None,
    num_channels: int = 3,
    standardise: bool = False,
    memory_budget: int = images.MEMORY_BUDGET,
) -> Dataset:
    """The training set at `path`: a folder, as `folder`, or a .npz/.npy, as `array`."""
    root = pathlib.Path(path).expanduser()
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size}: give a side in pixels.")
    if root.is_dir():
        return folder(
            path,
            image_size=image_size,
            num_channels=num_channels,
            memory_budget=memory_budget,
        )
    if root.suffix.lower() in (".npz", ".npy") and root.is_file():
        return array(path, standardise=standardise)
    raise FileNotFoundError(
        f"No training data at {path!r}: give a folder of images, or an .npz or .npy "
        "file of images or vectors."
    )


def folder(
    path: str,
    *,
    image_size: int | None = None,
    num_channels: int = 3,
    crop: int | None = None,
    memory_budget: int = images.MEMORY_BUDGET,
) -> Dataset:
    """All images in a folder and its subfolders, whatever format Pillow reads.

    image_size: side of the result, from the largest centred square; None where all
        images have one size already.
    num_channels: 1 for grey, 3 for colour.
    crop: side of the centred square kept first.

    ValueError names a broken file, or says that the images differ in size.
    """
    if num_channels not in _CHANNELS:
        raise ValueError(f"num_channels is 1 or 3, not {num_channels}.")
    with extras.needed("data"):
        import PIL.Image
    known = PIL.Image.registered_extensions()
    root = pathlib.Path(path).expanduser()
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in known)
    if not paths:
        raise FileNotFoundError(
            f"No images in {path!r}: put .png, .jpg or other image files there."
        )
    frame = functools.partial(
        _frame, mode=_CHANNELS[num_channels], image_size=image_size, crop=crop
    )

    def rows(indices: np.ndarray) -> np.ndarray:
        return images.stacked_rows(
            lambda some: (frame(paths[i]) for i in some), indices
        )

    shape = frame(paths[0]).shape
    return images.within_budget(
        root.resolve().name, shape, len(paths), rows, memory_budget=memory_budget
    )


def array(path: str, *, standardise: bool = False) -> Dataset:
    """The examples in a .npy file, or in an .npz with one array or one named `x`.

    Images are [N, H, W] or [N, H, W, C] with at most 4 channels: uint8; or floats
    which all lie in [0, 1], or else in [-1, 1]. Vectors are [N, D] of any number type
    and are taken as they are, or, with `standardise`, to mean 0 and variance 1 per
    column. Pickled objects are refused. ValueError says what is allowed.
    """
    x = _loaded(pathlib.Path(path).expanduser())
    return examples(x, path, pathlib.Path(path).stem, standardise=standardise)


def examples(
    x: np.ndarray, origin: str, name: str, *, standardise: bool = False
) -> Dataset:
    """The examples in an array, of the forms that `array` takes.

    origin: where it is from, for messages. ValueError says what is allowed.
    """
    if x.dtype.kind not in "biuf" or x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise ValueError(
            f"{origin} holds {x.dtype} {list(x.shape)}: give numbers, [N, D] for vectors "
            "or [N, H, W] or [N, H, W, C] for images."
        )
    if not np.isfinite(x).all():
        raise ValueError(f"{origin} holds NaN or infinite values: remove them.")
    if x.ndim == 2:
        return _table(name, _standardised(x) if standardise else x)
    x = x[..., None] if x.ndim == 3 else x
    if x.shape[-1] > 4:
        raise ValueError(
            f"{origin} holds images {list(x.shape[1:])}: channels, at most 4, come last."
        )
    return images.resident(name, x) if x.dtype == np.uint8 else _table(name, _unit(x))


def _frame(path: pathlib.Path, **options) -> np.ndarray:
    try:
        with path.open("rb") as stream:
            return images.decoded(stream, **options)
    # Pillow's readers raise whatever their parsers do.
    except Exception as error:
        raise ValueError(f"{path} is not a readable image: {error}.") from error


def _loaded(path: pathlib.Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            wanted = names[0] if len(names) == 1 else "x"
            array = loaded[wanted] if wanted in names else None
    # NumPy and zipfile raise whatever their parsers do.
    except Exception as error:
        raise ValueError(f"{path} is not a plain .npy or .npz: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(  # noqa: TRY004
            f"{path} holds arrays {names}: keep one, or name one x."
        )
    return array


def _unit(x: np.ndarray) -> np.ndarray:
    """Float images in [-1, 1], from [0, 1] where none is negative."""
    low, high = x.min(), x.max()
    if x.dtype.kind != "f" or low < -1 or high > 1:
        raise ValueError(
            f"Images of type {x.dtype} with values from {low} to {high}: give uint8, "
            "or floats in [0, 1] or in [-1, 1]."
        )
    return 2 * x - 1 if low >= 0 else x


def _standardised(x: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1; constant columns become 0."""
    x = x.astype(np.float64)
    std = x.std(0)
    return (x - x.mean(0)) / np.where(std > 0, std, 1)


def _table(name: str, x: np.ndarray) -> Dataset:
    store = x.astype(np.float32)
    return Dataset(name, store.shape[1:], len(store), store, lambda store, i: store[i])
