"""The record through which a training set reaches the compiled step, and labelled sets."""

import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from megjax import checks


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
    reference: what evaluations compare with, by name, such as examples held out.

    >>> import numpy as np
    >>> from megjax.data import toy
    >>> data = toy.gaussians_25(num_examples=100)
    >>> data.take(data.store, np.array([0, 1, 2])).shape
    (3, 2)
    """

    name: str
    shape: tuple[int, ...]
    num_examples: int | None
    store: Any
    take: Callable
    stream: Callable[[np.ndarray], Any] | None = None
    reference: Mapping[str, Any] = MappingProxyType({})


def digest(data: Dataset) -> str:
    """SHA-256 of a set of one array that is in memory; empty for others.

    The record of a run has it, so that it does not go on with other examples.
    """
    if not isinstance(data.store, np.ndarray):
        return ""
    return hashlib.sha256(np.ascontiguousarray(data.store).data).hexdigest()


class Labelled(NamedTuple):
    """Examples with labels.

    x: [N, ...]; for evaluations float32 as `Dataset.take` returns them.
    labels: [N], int32 where they number classes; for anomaly sets 1 = anomaly.
    """

    x: np.ndarray
    labels: np.ndarray


def find_file(
    names: tuple[str, ...], folder: str, data_dir: str | None
) -> pathlib.Path:
    """The first of some files that lies in `data_dir`, its `folder`, or one next to it.

    data_dir: by default $TFDS_DATA_DIR or ~/tensorflow_datasets. Raises
    FileNotFoundError that names the folders.
    """
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = checks.path(data_dir).absolute()
    folders = (root, root / folder, root.parent / folder)
    for path in (place / name for place in folders for name in names):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"No {' or '.join(names)} in {', '.join(map(str, folders))}"
    )
