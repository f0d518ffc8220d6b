"""Checks of numbers that a person gave; each raises ValueError with what to give."""

import math
from typing import Any


def at_least(name: str, value: float, minimum: float) -> None:
    """ValueError where a number falls short of its minimum, or is not finite."""
    if not minimum <= value < math.inf:
        finite = "" if value < minimum else ", and a finite number"
        raise ValueError(f"{name}={value}: give at least {minimum}{finite}")


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
