"""Folders of images: which files are images, and what is said of the others."""

import functools
import logging
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from megjax import checks, extras
from megjax.data import images
from megjax.data.dataset import Dataset
from megjax.io import npz

LOG = logging.getLogger(__name__)
CHANNELS = {1: "L", 3: "RGB"}
_CHUNK = 64
"""Images that a thread reads at a time."""
_NAMED = 5
"""Files that a message names."""


class Contents(NamedTuple):
    """Files below a folder: those named as images in order, others by reason."""

    paths: list[pathlib.Path]
    left_out: dict[str, list[pathlib.Path]]


def folder(
    path: str,
    *,
    image_size: int | None = None,
    num_channels: int = 3,
    crop: int | None = None,
    background: tuple[int, int, int] = images.BACKGROUND,
    memory_budget: int = images.MEMORY_BUDGET,
) -> Dataset:
    """All images in a folder and its subfolders, whatever format Pillow decodes.

    image_size: side of the result, from the largest centred square; None where all
        images have one size already.
    num_channels: 1 for grey, 3 for colour.
    crop: side of the centred square kept first.
    background: red, green and blue, 0 to 255, behind transparent pixels.

    Hidden files, files of other types, empty ones, links that lead to no file, and what
    Pillow cannot read are left out; the log says how many and why, and of how many
    images only the first frame is used. Every image is read once before training, also
    where the set is streamed. Levels of more than 8 bits are scaled as `images.decode`
    says.

    ValueError names an image that cannot be used as it is, or says that the images
    differ in size, or that none can be read; FileNotFoundError where there are none.
    """
    _check(image_size, num_channels, crop, background)
    root = checks.path(path)
    read = functools.partial(
        _read,
        mode=CHANNELS[num_channels],
        image_size=image_size,
        crop=crop,
        background=tuple(background),
    )
    paths, left_out = contents(root)
    if not paths:
        raise FileNotFoundError(_no_images(path, left_out))
    first = _first(paths, read)
    fits = len(paths) * math.prod(first.pixels.shape) <= memory_budget
    store = np.empty((len(paths), *first.pixels.shape), np.uint8) if fits else None
    outcomes = _outcomes(paths, read, first, store)
    good = np.array([not isinstance(found, str) for found in outcomes])
    _report(root, dict(zip(paths, outcomes, strict=True)), left_out)
    if fits:
        # Nothing is copied where all are good.
        store = store if good.all() else store[good]
        return images.resident(root.resolve().name, store)
    kept = [path for path, is_good in zip(paths, good, strict=True) if is_good]

    def rows(indices: np.ndarray) -> np.ndarray:
        return images.stacked_rows(
            lambda some: (_pixels(read, kept[i]) for i in some), indices
        )

    return images.streamed(root.resolve().name, first.pixels.shape, len(kept), rows)


def contents(root: pathlib.Path) -> Contents:
    """What lies below a folder. Links to folders are not followed; they may be circles.

    Raises OSError where a folder below cannot be read.
    """
    paths, left_out = [], {}
    endings = _suffixes()
    for place, names, files in os.walk(root, onerror=_raised):
        place = pathlib.Path(place)
        for name in sorted(names):
            if name.startswith(".") or (place / name).is_symlink():
                reason = "hidden" if name.startswith(".") else "links to folders"
                left_out.setdefault(reason, []).append(place / name)
        names[:] = [name for name in names if not name.startswith(".")]
        for name in sorted(files):
            reason = _reason(place / name, endings)
            found = left_out.setdefault(reason, []) if reason else paths
            found.append(place / name)
    return Contents(sorted(paths), left_out)


def _reason(path: pathlib.Path, endings: Mapping[str, str]) -> str | None:
    """Why a file is no image by its name and size; None where it may be one."""
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() not in endings:
        return "of other types"
    if path.is_symlink() and not os.path.exists(path):
        return "links that lead nowhere"
    if not path.is_file():
        return "no regular files"
    return None if path.stat().st_size else "empty"


@functools.cache
def _suffixes() -> dict[str, str]:
    """Endings of the names of images, and the formats that they stand for."""
    with extras.needed("data"):
        import PIL.Image
    known = {*images.formats(), "MPO"}
    found = PIL.Image.registered_extensions().items()
    return {suffix: name for suffix, name in found if name in known}


def _raised(error: OSError) -> None:
    raise error


def _read(path: pathlib.Path, **options) -> images.Decoded | str:
    """The image of a file, or why there is none in it.

    Raises ValueError naming a file whose image cannot be used as it is, OSError where
    the disk does not give the file.
    """
    try:
        with path.open("rb") as stream:
            return images.decode(stream, **options)
    except images.Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except MemoryError:
        raise
    # Pillow's readers raise whatever their parsers do.
    except Exception as error:
        # Errors of the system have a number; Pillow's of truncated files have none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return _words(error)


def _words(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "no format that Pillow decodes"
    return npz.words(error)


def _pixels(read, path: pathlib.Path) -> np.ndarray:
    """uint8 [H, W, C]; raises ValueError where the file has changed since it was read."""
    found = read(path)
    if isinstance(found, str):
        raise ValueError(  # noqa: TRY004
            f"{path} is not a readable image any more: {found}; restore it, or remove it "
            "and start again"
        )
    return found.pixels


def _first(paths: Iterable[pathlib.Path], read) -> images.Decoded:
    """The first image that can be read. Raises ValueError where there is none."""
    found = None
    for path in paths:
        found = read(path)
        if not isinstance(found, str):
            return found
    raise ValueError(f"{path} is not a readable image: {found}, nor is any other there")


def _outcomes(
    paths: list[pathlib.Path],
    read,
    first: images.Decoded,
    store: np.ndarray | None,
) -> list[images.Decoded | str]:
    """Of every file its image without pixels, which are in `store`, or why there is none.

    Raises ValueError where an image differs in size from the first.
    """
    shape = first.pixels.shape

    def outcome(i: int) -> images.Decoded | str:
        found = read(paths[i])
        if isinstance(found, str):
            return found
        if found.pixels.shape != shape:
            raise ValueError(
                f"Images differ in size, {shape} and {found.pixels.shape} of {paths[i]}: "
                "give image_size, the side they should all be resized to."
            )
        if store is not None:
            store[i] = found.pixels
        return found._replace(pixels=None)

    def chunk(start: int) -> list:
        stop = min(start + _CHUNK, len(paths))
        return [outcome(i) for i in range(start, stop)]

    with images.threads(first.pixels) as pool:
        parts = list(pool.map(chunk, range(0, len(paths), _CHUNK)))
    return [one for part in parts for one in part]


def _report(
    root: pathlib.Path,
    outcomes: Mapping[pathlib.Path, images.Decoded | str],
    left_out: Mapping[str, list[pathlib.Path]],
) -> None:
    """Says what was left out, and what was not taken as it is."""
    bad = {path: why for path, why in outcomes.items() if isinstance(why, str)}
    used = {path: one for path, one in outcomes.items() if path not in bad}
    parts = [f"{len(some)} {why} ({_named(some)})" for why, some in left_out.items()]
    if bad:
        each = {path: f"{path.name!a}: {why}" for path, why in bad.items()}
        parts.append(f"{len(bad)} that cannot be read ({_named(bad, each)})")
    if parts:
        LOG.warning("%s: %d images; left out: %s", root, len(used), ", ".join(parts))
    if several := [path for path, one in used.items() if one.first_of_several]:
        LOG.warning(
            "%s: %d images have several frames, of which the first is used (%s)",
            *(root, len(several), _named(several)),
        )
    if composited := [path for path, one in used.items() if one.composited]:
        LOG.warning(
            "%s: %d images have transparent pixels, which show the background (%s)",
            *(root, len(composited), _named(composited)),
        )


def _named(
    paths: Iterable[pathlib.Path], words: Mapping[pathlib.Path, str] | None = None
) -> str:
    """The first few files in words."""
    names = [words[path] if words else f"{path.name!a}" for path in paths]
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _no_images(path: str, left_out: Mapping[str, list[pathlib.Path]]) -> str:
    found = [f"{len(some)} {why} ({_named(some)})" for why, some in left_out.items()]
    holds = f", but {', '.join(found)}" if found else ""
    return f"No images in {path!r}{holds}: put .png, .jpg or other image files there."


def _check(image_size, num_channels, crop, background) -> None:
    """ValueError at options of `folder` that cannot be."""
    if num_channels not in CHANNELS:
        raise ValueError(f"num_channels is 1 or 3, not {num_channels}.")
    largest = math.isqrt(images.MAX_PIXELS)
    for name, side in (("image_size", image_size), ("crop", crop)):
        whole = isinstance(side, int | np.integer) and not isinstance(side, bool)
        if side is not None and not (whole and 1 <= side <= largest):
            raise ValueError(
                f"{name}={side!r}: give a side in pixels, 1 to {largest}, or None"
            )
    levels = tuple(background) if np.iterable(background) else ()
    whole = all(isinstance(level, int) and 0 <= level <= 255 for level in levels)
    if len(levels) != 3 or not whole:
        raise ValueError(f"background={background!r}: give three levels from 0 to 255")
