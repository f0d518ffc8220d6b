"""Files that outlive kills: written whole or not at all; arrays are checked when read.

Arrays lie in an .npz with their SHA-256 inside. Nothing is ever unpickled.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import BinaryIO

import numpy as np

from megjax import errors
from megjax.io import npz

LOG = logging.getLogger(__name__)
DIGEST = "sha256"


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays to a file, or leaves what was there.

    Raises OSError in one line where the disk refuses.
    """
    # One order of names and in memory, so that equal arrays make equal files.
    arrays = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    digest = np.array(_digest(arrays))
    replace(path, lambda file: np.savez(file, **arrays, **{DIGEST: digest}))


def read(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file; None where it is missing or, with a warning, damaged."""
    try:
        return checked(path)
    except FileNotFoundError:
        return None
    except ValueError:
        LOG.warning("%s is damaged: what it held is made again", path)
        return None


def checked(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file that `write` wrote.

    Raises FileNotFoundError, and ValueError where the file is damaged or another's.
    """
    try:
        arrays = npz.read(path)
        digest = str(arrays.pop(DIGEST))
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"no arrays with their SHA-256 ({error})") from error
    if digest != _digest(arrays):
        raise ValueError("its SHA-256 does not match")
    return arrays


def folder(path: pathlib.Path) -> pathlib.Path:
    """Makes a folder and those above it, unless it is there; the folder.

    Raises NotADirectoryError or OSError in one line where it cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"{path} is no directory, or below a file: name another"
        ) from error
    except OSError as error:
        raise OSError(
            f"no folder {path} can be made ({error.strerror or error}): "
            f"{errors.remedy(error)}"
        ) from error
    return path


def replace(path: pathlib.Path, write_fn: Callable[[BinaryIO], None]) -> None:
    """Replaces a file by what `write_fn` writes, once all of it is on the disk.

    Raises OSError in one line where the disk refuses; the old file is then there still.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write_fn(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        # Half a file on a full disk would only be in the way.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(_failure(path, error)) from error


def _failure(path: pathlib.Path, error: OSError) -> str:
    """Why a file could not be written, and what to do."""
    if os.path.isdir(path):
        return f"writing {path} failed: it is a folder; give the name of a file"
    if not os.path.exists(path.parent):
        return f"writing {path} failed: there is no folder {path.parent}; make it first"
    return (
        f"writing {path} failed ({error.strerror or error}): {errors.remedy(error)}, "
        "then run the command again; earlier files are kept"
    )


def _sync(directory: pathlib.Path) -> None:
    """Makes the names in a directory outlive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        total.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()
