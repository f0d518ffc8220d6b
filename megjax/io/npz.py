"""Archives of arrays from anywhere: no pickle, no bombs, one kind of error."""

import pathlib
import zipfile
from collections.abc import Iterable

import numpy as np

MAX_UNPACKED = 2**30
"""Bytes that any archive may unpack to, however small it is."""
MAX_RATIO = 200
"""How many times its own size a larger one may unpack to; arrays seldom reach 50."""


def read(
    path: str | pathlib.Path, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; by default all.

    Raises OSError where the file cannot be read, and ValueError, which says why in one
    line, where it is damaged, no archive of plain arrays, or one that `check` refuses.

    >>> import numpy as np
    >>> from megjax.io import npz
    >>> np.savez("x.npz", x=np.ones(3))
    >>> npz.read("x.npz")["x"].sum()
    np.float64(3.0)
    """
    try:
        check(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names or file.files}
    except OSError:
        raise
    # zipfile, zlib and NumPy raise whatever their parsers do.
    except Exception as error:
        raise ValueError(words(error)) from error
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise ValueError(f"its member {name!r} is no array")  # noqa: TRY004
    return arrays


def check(path: str | pathlib.Path) -> None:
    """ValueError where an archive would unpack to too much, or outside of itself.

    Members may claim less than they hold: zipfile reads no more than they claim.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    for member in members:
        name = pathlib.PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(
                f"its member {member.filename!r} lies outside of the archive: make it "
                "again, with names alone"
            )
    check_unpacked(sum(member.file_size for member in members), path)


def check_unpacked(num_bytes: int, path: str | pathlib.Path) -> None:
    """ValueError where a small file would unpack to very many bytes."""
    if num_bytes > max(MAX_UNPACKED, MAX_RATIO * pathlib.Path(path).stat().st_size):
        raise ValueError(
            f"it would unpack to {num_bytes:,} bytes, over {MAX_RATIO} times its size: "
            "save it uncompressed, with numpy.save or savez"
        )


def words(error: Exception) -> str:
    """What an error of a parser says, in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
