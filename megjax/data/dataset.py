"""The record through which a training set reaches the compiled step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """A training set: arrays to keep on the device, and how to read a batch from them.

    name: for messages and file names.
    shape: of one example, without the batch axis.
    num_examples: size of a fixed set; None where every index is a fresh draw.
    store: pytree of host arrays that the loop places on the devices once (uint8
        pixels, float tables, index tables; may be empty). Empty also when `stream`
        is set.
    take: (store, indices int32 [B]) -> x float32 [B, *shape]; pure and traceable,
        called inside the compiled step. Images come out as NHWC in [-1, 1].
    stream: for sets that exceed the memory budget, (indices int32 [B], host array) ->
        rows with the structure of `store`, leading axis B; the loop then calls
        `take(rows, arange(B))`. None for sets that live on the device.
    """

    name: str
    shape: tuple[int, ...]
    num_examples: int | None
    store: Any
    take: Callable
    stream: Callable[[np.ndarray], Any] | None = None


class LabelledExamples(NamedTuple):
    """Held-out examples for an evaluation.

    x: float32 [N, ...] as `Dataset.take` returns them.
    labels: int32 [N]; for anomaly sets 1 = anomaly.
    """

    x: np.ndarray
    labels: np.ndarray
