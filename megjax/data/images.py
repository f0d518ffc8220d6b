"""Image sets prepared by TensorFlow Datasets, read without TensorFlow, and digits.

Pixels stay uint8 until a batch is taken; a batch is pixel / 127.5 - 1, in [-1, 1].
"""

import concurrent.futures
import functools
import io
import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from megjax import extras
from megjax.data.dataset import Dataset
from megjax.types import Array

MEMORY_BUDGET = 4 * 2**30
"""Bytes of pixels above which a set streams; CelebA at 64x64 has 2.3 GiB."""

_CHUNK = 4096


def normalised(pixels: Array) -> Array:
    """uint8 pixels as float32 in [-1, 1].

    >>> import numpy as np
    >>> from megjax.data.images import normalised
    >>> normalised(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]
    """
    return pixels.astype(np.float32) / 127.5 - 1


def resident(name: str, pixels: np.ndarray) -> Dataset:
    """Images uint8 [N, H, W, C] that live on the device.

    >>> import numpy as np
    >>> from megjax.data.images import resident
    >>> data = resident("grey", np.zeros((10, 8, 8, 1), np.uint8))
    >>> data.take(data.store, np.array([0, 1])).shape
    (2, 8, 8, 1)
    """
    return Dataset(name, pixels.shape[1:], len(pixels), pixels, _take)


def within_budget(
    name: str,
    shape: tuple[int, ...],
    num_examples: int,
    rows: Callable[[np.ndarray], np.ndarray],
    *,
    memory_budget: int,
) -> Dataset:
    """Images resident on the device, or streamed where their bytes exceed the budget.

    rows: indices [B] -> uint8 [B, *shape]
    """
    if num_examples * math.prod(shape) <= memory_budget:
        return resident(name, rows(np.arange(num_examples)))
    return Dataset(name, shape, num_examples, (), _take, stream=rows)


def _take(store: Array, indices: Array) -> Array:
    return normalised(store[indices])


def tfds_images(
    name: str,
    *,
    split: str = "train",
    data_dir: str | None = None,
    image_size: int | None = None,
    crop: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Dataset:
    """A prepared TFDS image set; over `memory_budget` bytes of pixels it streams.

    name: mnist, fashion_mnist, kmnist, cifar10, celeb_a, oxford_flowers102, or any
        other set with an `image` feature.
    split: in TFDS notation: `train`, `train+test`, `train[:80%]`, or `all`.
    data_dir: where the sets lie; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
    image_size: side to resize to; None where all images have one size already.
    crop: side of the centred square kept before resizing, 140 for CelebA faces; by
        default the largest square, or the whole image where nothing is resized.

    FileNotFoundError names the directory tried and the command that prepares the set;
    ValueError an unknown split, another file format, or images that differ in size.
    """
    source = _source(name, split=split, data_dir=data_dir)
    rows = functools.partial(_rows, source, image_size=image_size, crop=crop)
    shape = rows(np.arange(1)).shape[1:]
    return within_budget(
        name, shape, len(source.records), rows, memory_budget=memory_budget
    )


def labelled(
    name: str,
    *,
    split: str = "train",
    data_dir: str | None = None,
    image_size: int | None = None,
    crop: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, H, W, C], labels int32 [N]) of a set that has labels.

    Arguments and errors as for `tfds_images`.
    """
    source = _source(name, split=split, data_dir=data_dir)
    if "label" not in source.features:
        raise ValueError(
            f"Dataset {name!r} has no labels: it has {', '.join(source.features)}."
        )
    indices = np.arange(len(source.records))
    return _rows(source, indices, image_size=image_size, crop=crop), source.labels()


def digits_labelled() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: (uint8 [1797, 8, 8, 1], labels int32 [1797]).

    Its 17 grey levels are spread over 0..255.
    """
    with extras.needed("estimators"):
        from sklearn import datasets
    digits = datasets.load_digits()
    pixels = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    return pixels, digits.target.astype(np.int32)


def digits() -> Dataset:
    """scikit-learn's 1797 real handwritten digits, 8x8, part of its installation."""
    return resident("digits", digits_labelled()[0])


def decoded(
    encoded: bytes | IO[bytes],
    *,
    mode: str,
    image_size: int | None = None,
    crop: int | None = None,
) -> np.ndarray:
    """One encoded image as uint8 [H, W, C], upright, cropped, then resized.

    mode: of Pillow, L or RGB.
    image_size: side of the result (bilinear, antialiased); None keeps the size.
    crop: side of the centred square kept first; by default the largest square where
        the image is resized.
    """
    with extras.needed("data"):
        import PIL.Image
        import PIL.ImageOps
    stream = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    with PIL.Image.open(stream) as image:
        image = PIL.ImageOps.exif_transpose(image)
        image = image if image.mode == mode else image.convert(mode)
        side = crop or (min(image.size) if image_size else None)
        if side:
            left, top = ((extent - side) // 2 for extent in image.size)
            image = image.crop((left, top, left + side, top + side))
        if image_size and image.size != (image_size, image_size):
            size = (image_size, image_size)
            image = image.resize(size, PIL.Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def stacked_rows(
    read: Callable[[Sequence[int]], Any], indices: np.ndarray
) -> np.ndarray:
    """uint8 [B, H, W, C] of images read a chunk at a time, large ones in threads.

    read: indices -> iterable of uint8 [H, W, C]

    ValueError where the images differ in size.
    """
    indices = [int(i) for i in indices]
    first = next(iter(read(indices[:1])))
    rows = np.empty((len(indices), *first.shape), np.uint8)

    def fill(start: int) -> None:
        chunk = indices[start : start + _CHUNK]
        for offset, image in enumerate(read(chunk)):
            if image.shape != first.shape:
                raise ValueError(
                    f"Images differ in size, {first.shape} and {image.shape}: give "
                    "image_size, the side they should all be resized to."
                )
            rows[start + offset] = image

    # Threads gain nothing on small images, whose decoding seldom frees the interpreter.
    workers = min(32, os.cpu_count() or 1) if first.size > 32 * 32 * 3 else 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, range(0, len(indices), _CHUNK)))
    return rows


class _Source(NamedTuple):
    """Serialised records of a TFDS split.

    records: random access, `records[i]` -> bytes of a tf.train.Example
    features: names
    mode: of Pillow, L or RGB
    """

    records: Any
    features: list[str]
    mode: str

    def blobs(self, indices: Sequence[int]) -> list[bytes]:
        """Encoded images."""
        return [
            feature["image"].bytes_list.value[0] for feature in self._parsed(indices)
        ]

    def labels(self) -> np.ndarray:
        """int32 [N]."""
        parsed = self._parsed(range(len(self.records)))
        return np.array([f["label"].int64_list.value[0] for f in parsed], np.int32)

    def _parsed(self, indices: Sequence[int]) -> list[Any]:
        # Parsing here and not through the features' decoders: those take 10 us for each
        # feature of each record, and CelebA has 52 that nobody asked for.
        with extras.needed("data"):
            from tensorflow_datasets.proto import tf_example_pb2

        parse = tf_example_pb2.Example.FromString
        records = self.records.__getitems__(list(indices))
        return [parse(record).features.feature for record in records]


def _rows(source: _Source, indices: np.ndarray, **framing: int | None) -> np.ndarray:
    """uint8 [B, H, W, C]; `framing` as for `decoded`."""
    frame = functools.partial(decoded, mode=source.mode, **framing)
    return stacked_rows(lambda some: map(frame, source.blobs(some)), indices)


def _source(name: str, *, split: str, data_dir: str | None) -> _Source:
    with extras.needed("data"):
        import tensorflow_datasets as tfds
    builder = tfds.builder_from_directory(_version_dir(name, data_dir))
    features = builder.info.features
    if "image" not in features:
        raise ValueError(
            f"Dataset {name!r} has no images: it has {', '.join(features)}."
        )
    try:
        records = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    except NotImplementedError:
        raise ValueError(
            f"{builder.data_dir} is not in array_record format, which random access "
            f"needs: prepare it elsewhere, `python -m megjax.data.prepare {name} "
            "--data_dir=...`."
        ) from None
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"Cannot read split {split!r} of {name!r}: it has "
            f"{', '.join(builder.info.splits)}, joined by + or sliced as train[:80%]."
        ) from error
    if not len(records):
        raise ValueError(f"Split {split!r} of {name!r} is empty.")
    mode = "L" if features["image"].shape[-1] == 1 else "RGB"
    return _Source(records, list(features), mode)


def _version_dir(name: str, data_dir: str | None) -> pathlib.Path:
    """The newest prepared version of a set."""
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = pathlib.Path(data_dir).expanduser()
    versions = [path.parent for path in (root / name).glob("*/dataset_info.json")]
    versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    if not versions:
        raise FileNotFoundError(
            f"No prepared dataset {name!r} in {root.absolute()}: point data_dir "
            "(train.py: --config.data_dir, else --data_dir) at the folder that holds "
            "it, or prepare it there with "
            f"`python -m megjax.data.prepare {name} --data_dir={data_dir}`."
        )
    return max(versions, key=lambda path: [int(n) for n in path.name.split(".")])
