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


def at_least(name: str, value: float, minimum: float) -> None:
    """ValueError where a number falls short of its minimum, or is not finite."""
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
        raise ValueError(f"{name}={value!r}: give a whole number from {minimum} up.")


def positive(name: str, value: float) -> None:
    """ValueError where a number is not above 0, or is not finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value}: give a finite number above 0")


def fraction(name: str, value: float) -> None:
    """ValueError where a number is not in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value}: give a number in [0, 1)")


def choice(name: str, value: str, **options: Any) -> Any:
    """options[value]; ValueError naming the allowed values otherwise."""
    if value not in options:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(options)}")
    return options[value]
