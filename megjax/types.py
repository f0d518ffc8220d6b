"""Names for the values that cross file boundaries."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Key = jax.Array
PyTree = Any
Metrics = dict[str, Array]

EnergyFn = Callable[[Array], Array]
"""x [B, ...] -> energies [B]; energy = -log p + const, so low is likely."""

LogDensityFn = Callable[[Array], Array]
"""One position [...] -> scalar log-density, up to a constant."""


class Report(NamedTuple):
    """What an evaluation found.

    metrics: name -> number, for the log.
    pictures: name -> uint8 [H, W, 3], for the eye.

    >>> from megjax import Report
    >>> Report({"acceptance": 0.6}).metrics["acceptance"]
    0.6
    """

    metrics: Mapping[str, float]
    pictures: Mapping[str, np.ndarray] = {}


Evaluation = Callable[[Key, PyTree], Report]
"""(key, learner state) -> Report."""


class SharedEvaluation(NamedTuple):
    """An evaluation whose chains several processes draw together: all of them run it."""

    evaluate: Evaluation

    def __call__(self, key: Key, state: PyTree) -> Report:
        return self.evaluate(key, state)
