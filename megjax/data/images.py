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

from megjax import checks, extras
from megjax.data.dataset import Dataset
from megjax.types import Array

MEMORY_BUDGET = 4 * 2**30
"""Bytes of pixels above which a set streams; CelebA at 64x64 has 2.3 GiB."""

BACKGROUND = (255, 255, 255)
"""White: the colour behind transparent pixels, where no other is given."""

MAX_PIXELS = 2 * 89_478_485
"""Of one image, where Pillow refuses, too: half a gigabyte once it is decoded."""

_CHUNK = 4096
_PROGRAMS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats of which Pillow decodes nothing, or hands the file to a program."""
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_MAX_CHANNELS = 4


class Refused(ValueError):
    """An intact image that cannot be used as it is; the message says what to do."""


class Decoded(NamedTuple):
    """An image uint8 [H, W, C], and what a person should know of how it was made.

    first_of_several: only the first of its frames or pages was taken.
    composited: it had transparent pixels, which show the background.
    """

    pixels: np.ndarray
    first_of_several: bool
    composited: bool


def normalised(pixels: Array) -> Array:
    """uint8 pixels as float32 in [-1, 1]. Raises ValueError for other types.

    >>> import numpy as np
    >>> from megjax.data.images import normalised
    >>> normalised(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]
    """
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"pixels of type {pixels.dtype}: give uint8, as fidelity.quantised makes of "
            "images in [-1, 1]"
        )
    return pixels.astype(np.float32) / 127.5 - 1


def check_levels(pixels: Array, name: str = "pixels") -> None:
    """ValueError unless `pixels` are uint8, with what makes them so.

    >>> import numpy as np
    >>> from megjax.data.images import check_levels
    >>> check_levels(np.array([0.0, 1.0]))
    Traceback (most recent call last):
    ValueError: pixels of float64 from 0 to 1: give np.round(255 * x).astype(np.uint8)
    """
    checks.unmasked(name, pixels)
    if pixels.dtype != np.uint8:
        if not pixels.size or not np.issubdtype(pixels.dtype, np.number):
            raise ValueError(f"{name} of {pixels.dtype}: give uint8 from 0 to 255")
        low, high = np.min(pixels), np.max(pixels)
        made = "np.round(x)"
        if low >= -1 and high <= 1:
            made = "np.round(127.5 * (x + 1))" if low < 0 else "np.round(255 * x)"
        elif not (low >= 0 and high <= 255):
            made = "np.round(255 * (x - x.min()) / np.ptp(x))"
        raise ValueError(
            f"{name} of {pixels.dtype} from {low:.6g} to {high:.6g}: give "
            f"{made}.astype(np.uint8)"
        )


def check_pixels(pixels: Array, name: str = "pixels") -> None:
    """ValueError unless `pixels` are images uint8 [N, H, W, C], channels last.

    name: for the message, which says how to make them.

    >>> import numpy as np
    >>> from megjax.data.images import check_pixels
    >>> check_pixels(np.zeros((10, 8, 8, 3), np.uint8))
    """
    form = f"{name} of form {list(pixels.shape)}"
    if pixels.ndim != 4 or 0 in pixels.shape:
        raise ValueError(f"{form}: give [N, H, W, C], x[..., None] of grey images")
    if pixels.shape[-1] > _MAX_CHANNELS:
        raise ValueError(
            f"{form}: channels, at most {_MAX_CHANNELS}, come last; give "
            "x.transpose(0, 2, 3, 1) where they come first"
        )
    check_levels(pixels, name)


def resident(name: str, pixels: np.ndarray) -> Dataset:
    """Images uint8 [N, H, W, C] that live on the device; else ValueError.

    >>> import numpy as np
    >>> from megjax.data.images import resident
    >>> data = resident("grey", np.zeros((10, 8, 8, 1), np.uint8))
    >>> data.take(data.store, np.array([0, 1])).shape
    (2, 8, 8, 1)
    """
    check_pixels(pixels, f"the pixels of {name!r}")
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
    return streamed(name, shape, num_examples, rows)


def streamed(
    name: str,
    shape: tuple[int, ...],
    num_examples: int,
    rows: Callable[[np.ndarray], np.ndarray],
) -> Dataset:
    """Images that `rows` reads batch by batch: indices [B] -> uint8 [B, *shape]."""
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


def decoded(encoded: bytes | IO[bytes], **options: Any) -> np.ndarray:
    """The pixels of an encoded image, uint8 [H, W, C]; options and errors as `decode`."""
    return decode(encoded, **options).pixels


def decode(
    encoded: bytes | IO[bytes],
    *,
    mode: str,
    image_size: int | None = None,
    crop: int | None = None,
    background: tuple[int, int, int] = BACKGROUND,
) -> Decoded:
    """One encoded image, upright, opaque, in 8 bits, cropped, then resized.

    mode: of Pillow, L or RGB.
    image_size: side of the result (bilinear, antialiased); None keeps the size.
    crop: side of the centred square kept first; by default the largest square where
        the image is resized.
    background: red, green and blue behind transparent pixels.

    Grey levels of 16 bits are scaled from the range of the file (12 bits in some TIFF),
    floats from [0, 1]. Raises `Refused` for levels without a range (32 bits, floats
    beyond), for more than `MAX_PIXELS` pixels and for a crop beyond the image; what
    Pillow raises, for files that are no images.
    """
    with extras.needed("data"):
        import PIL.Image
        import PIL.ImageOps
    stream = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    with _opened(stream) as image:
        # The two pictures of a stereo camera are no sequence.
        several = getattr(image, "is_animated", False) and image.format != "MPO"
        largest = _largest_level(image)
        image = PIL.ImageOps.exif_transpose(image)
        image, composited = _opaque(_in_8_bits(image, largest), background)
        image = image if image.mode == mode else image.convert(mode)
        side = crop or (min(image.size) if image_size else None)
        if side:
            if side > min(image.size):
                raise Refused(
                    f"crop={side} of an image of {image.width} x {image.height} pixels: "
                    "give its smaller side at most"
                )
            left, top = ((extent - side) // 2 for extent in image.size)
            image = image.crop((left, top, left + side, top + side))
        if image_size and image.size != (image_size, image_size):
            size = (image_size, image_size)
            image = image.resize(size, PIL.Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return Decoded(pixels, several, composited)


@functools.cache
def formats() -> tuple[str, ...]:
    """Names of the formats that Pillow itself decodes, in the order it tries them."""
    with extras.needed("data"):
        import PIL.Image
    PIL.Image.init()
    return tuple(name for name in PIL.Image.ID if name not in _PROGRAMS)


def _opened(stream: IO[bytes]) -> Any:
    """Pillow's image, of which only the head has been read."""
    import PIL.Image

    too_many = f"more than {MAX_PIXELS:,} pixels: make it smaller first"
    try:
        image = PIL.Image.open(stream, formats=formats())
    except PIL.Image.DecompressionBombError as error:
        raise Refused(too_many) from error
    # A program may have lifted Pillow's limit.
    if math.prod(image.size) > MAX_PIXELS:
        raise Refused(too_many)
    return image


def _largest_level(image: Any) -> float | None:
    """The level that means white in an image of more than 8 bits; None in others.

    Raises `Refused` where the format does not say.
    """
    if image.mode.startswith("I;16"):
        bits = image.tag_v2.get(258, (16,))[0] if image.format == "TIFF" else 16
        return 2.0**bits - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 65535.0
    if image.mode == "F":
        return 1.0
    if image.mode == "I":
        raise Refused(
            "grey levels of 32 bits, or signed ones, whose range is not known: save it "
            "with 8 or 16 bits, or give an array of floats in [0, 1] as .npy"
        )
    return None


def _in_8_bits(image: Any, largest: float | None) -> Any:
    """The image in one of Pillow's modes of 8 bits, with its transparency.

    Raises `Refused` for levels outside [0, largest].
    """
    import PIL.Image

    if image.mode == "LAB":
        return _from_lab(image)
    if largest is None:
        return image
    levels = np.asarray(image, np.float32)
    low, high = levels.min(), levels.max()
    if not (low >= 0 and high <= largest):
        raise Refused(
            f"levels from {low:.6g} to {high:.6g}: scale floats to [0, 1], or save it "
            "with 8 or 16 bits"
        )
    scaled = np.rint(levels * 255 / np.float32(largest)).astype(np.uint8)
    found = PIL.Image.fromarray(scaled)
    if "transparency" in image.info:
        opaque = np.where(levels == image.info["transparency"], 0, 255)
        found.putalpha(PIL.Image.fromarray(opaque.astype(np.uint8)))
    return found


def _from_lab(image: Any) -> Any:
    """CIELAB as sRGB."""
    try:
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    except ImportError as error:
        raise Refused("its colours are CIELAB: save it as RGB") from error


def _opaque(image: Any, background: tuple[int, int, int]) -> tuple[Any, bool]:
    """(the image without transparency, whether it had transparent pixels)."""
    import PIL.Image

    if image.mode not in _ALPHA and "transparency" not in image.info:
        return image, False
    premultiplied = {"RGBa": "RGBA", "La": "LA"}
    if image.mode in premultiplied:
        image = image.convert(premultiplied[image.mode])
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image, False
    canvas = PIL.Image.new("RGBA", image.size, (*background, 255))
    return PIL.Image.alpha_composite(canvas, image), True


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

    with threads(first) as pool:
        list(pool.map(fill, range(0, len(indices), _CHUNK)))
    return rows


def threads(image: np.ndarray) -> concurrent.futures.ThreadPoolExecutor:
    """A pool for images such as this one; one thread where more gain nothing.

    That is small images, whose decoding seldom frees the interpreter.
    """
    workers = min(32, os.cpu_count() or 1) if image.size > 32 * 32 * 3 else 1
    return concurrent.futures.ThreadPoolExecutor(workers)


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
    root = checks.path(data_dir)
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
