"""Batches of sets that exceed the memory budget, read ahead by grain.

The order is that of `order.batch_indices`, so a set gives the same batches whether it
streams or lives on the device.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from megjax import extras
from megjax.data import order
from megjax.data.dataset import Dataset
from megjax.types import Key

_LAST_STEP = 2**31 - 1


def batches(
    dataset: Dataset,
    key: Key,
    first_step: int,
    shape: tuple[int, int],
    *,
    rows: np.ndarray | None = None,
    num_threads: int = 4,
    prefetch: int = 8,
) -> Iterator[Any]:
    """Rows for `dataset.take`, leading axis B * K, of step `first_step` and all after.

    key, shape: (K, B), as for `order.batch_indices`. The K examples of a place in the
    batch follow each other, so that a part of the batch is a part of the rows.
    rows: the places in the batch to read; by default all B.
    prefetch: steps read ahead, by `num_threads` threads.

    ValueError where the set lives on the device; ImportError where grain is missing.
    """
    if dataset.stream is None:
        raise ValueError(f"Dataset {dataset.name!r} lives on the device: index it.")
    with extras.needed("data"):
        import grain
    indices = _host_indices(key, dataset.num_examples, shape, rows)
    steps = grain.MapDataset.range(first_step, _LAST_STEP)
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=max(prefetch, num_threads)
    )
    found = steps.map(lambda step: dataset.stream(indices(step)))
    return iter(found.to_iter_dataset(options))


def _host_indices(key, num_examples, shape, rows):
    """step -> int32 [len(rows) * K], off the accelerator, whose queue is full of training."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = jax.local_devices()[0]
    data = jax.device_put(np.asarray(jax.random.key_data(key)), device)
    impl = jax.random.key_impl(key)

    @jax.jit
    def indices(data, step):
        key = jax.random.wrap_key_data(data, impl=impl)
        return order.batch_indices(key, step, num_examples=num_examples, shape=shape)

    def on_host(step: int) -> np.ndarray:
        step = jax.device_put(np.int32(step), device)
        found = np.asarray(indices(data, step)).T
        return (found if rows is None else found[rows]).reshape(-1)

    return on_host
