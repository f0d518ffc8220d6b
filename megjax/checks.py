"""Checks of what a person gave; each raises ValueError with what to give."""

import math
import numbers
import os
import pathlib
from typing import Any

from megjax import errors


def path(given: str | os.PathLike[str]) -> pathlib.Path:
    """A path with its ~ replaced by the home that it stands for.

    ValueError where it is no path, is empty, or names a user without a home.

    >>> from megjax import checks
    >>> checks.path("~/runs") == checks.path("~") / "runs"
    True
    """
    if not isinstance(given, str | os.PathLike) or isinstance(os.fspath(given), bytes):
        raise ValueError(  # noqa: TRY004
            f"{given!r:.60} is {errors.kind(given)}: give a path, text or pathlib.Path"
        )
    text = os.fspath(given)
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is no path: give the name of a file or folder")
    path = pathlib.Path(text)
    if not text.startswith("~"):
        # "./~x" is no home, and must not become one when it is read again.
        return path.absolute() if path.parts[:1] and path.parts[0][0] == "~" else path
    try:
        return path.expanduser()
    except RuntimeError as error:
        name = path.parts[0]
        raise ValueError(
            f"{text}: {name} is no home here; write ./{name} for a folder of that name"
        ) from error


def file(given: str | os.PathLike[str]) -> pathlib.Path:
    """A path of a file to write, as `path`; ValueError where it names a folder.

    >>> from megjax import checks
    >>> checks.file("digits.npz").name
    'digits.npz'
    """
    found = path(given)
    if os.fspath(given).endswith(os.sep) or not found.name or found.is_dir():
        raise ValueError(f"{os.fspath(given)} is a folder: give the name of a file")
    return found


def unmasked(name: str, value: Any) -> None:
    """ValueError where an array, or an array in a list, has masked values."""
    import numpy as np

    parts = value if isinstance(value, list | tuple) else [value]
    if num := sum(np.ma.count_masked(one) for one in parts if np.ma.is_masked(one)):
        raise ValueError(
            f"{name} has {num} masked values: fill them first, as by {name}.filled(0), "
            "or leave those rows out"
        )


def array(name: str, value: Any, ndim: int | None = None) -> None:
    """ValueError unless a value is an array of real numbers, with so many axes if given.

    What is traced will do, so that under jit this costs no time.

    >>> import numpy as np
    >>> from megjax import checks
    >>> checks.array("energies", np.ones(3), 1)
    """
    dtype = str(getattr(value, "dtype", ""))
    is_real = dtype.startswith(("float", "bfloat", "int", "uint", "bool"))
    if not is_real or not hasattr(value, "shape") or hasattr(value, "toarray"):
        what = f"of {dtype}" if dtype else errors.kind(value)
        raise ValueError(f"{name} is {what}: give an array of real numbers")
    unmasked(name, value)
    if ndim is not None and value.ndim != ndim:
        axes = f"{ndim} {'axis' if ndim == 1 else 'axes'}"
        raise ValueError(
            f"{name} is {dtype} {list(value.shape)}: give numbers with {axes}"
        )


def number(name: str, value: Any) -> None:
    """ValueError unless a value is a real number, or an array of one.

    >>> from megjax import checks
    >>> checks.number("log_z", 1.5)
    """
    is_scalar = getattr(value, "shape", None) == () and value.dtype.kind in "iuf"
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_real or is_scalar):
        raise ValueError(f"{name}={value!r:.60}: give a number")


def at_least(name: str, value: float, minimum: float) -> None:
    """ValueError where a number falls short of its minimum, or is not finite."""
    number(name, value)
    if not minimum <= value < math.inf:
        finite = "" if value < minimum else ", and a finite number"
        raise ValueError(f"{name}={value}: give at least {minimum}{finite}")


def whole(name: str, value: Any, minimum: int) -> None:
    """ValueError unless a value is a whole number from a minimum up.

    >>> from megjax import checks
    >>> checks.whole("num_samples", 1000, 1)
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < minimum:
        raise ValueError(
            f"{name}={value!r:.60}: give a whole number from {minimum} up."
        )


def positive(name: str, value: float) -> None:
    """ValueError where a number is not above 0, or is not finite."""
    number(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value}: give a finite number above 0")


def fraction(name: str, value: float) -> None:
    """ValueError where a number is not in [0, 1)."""
    number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value}: give a number in [0, 1)")


def share(name: str, value: float) -> None:
    """ValueError where a number is not from 0 to 1, both included."""
    number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: give a number from 0 to 1")


def choice(name: str, value: str, **options: Any) -> Any:
    """options[value]; ValueError naming the allowed values otherwise."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(options)}")
    return options[value]
