import sys
import time

import jax
import numpy as np
import pytest

from megjax.data import images, order, stream

KEY = jax.random.key(5)


def example_set(memory_budget):
    pixels = np.random.RandomState(0).randint(0, 256, (50, 3, 3, 1), np.uint8)
    return images.within_budget(
        "a", (3, 3, 1), 50, lambda i: pixels[i], memory_budget=memory_budget
    )


@pytest.mark.slow
@pytest.mark.parametrize("first_step", [0, 1234])
@pytest.mark.parametrize("places", [None, np.array([1, 2, 5])])
def test_streamed_and_resident_batches_are_identical(first_step, places):
    pytest.importorskip("grain")
    resident, streamed = example_set(10_000), example_set(0)
    take = jax.jit(resident.take)
    rows = stream.batches(streamed, KEY, first_step, (2, 6), rows=places)
    own = np.arange(6) if places is None else places
    for step in range(first_step, first_step + 9):
        indices = order.batch_indices(KEY, step, num_examples=50, shape=(2, 6))
        expected = take(resident.store, indices[:, own].T.reshape(-1))
        x = jax.jit(streamed.take)(next(rows), np.arange(2 * len(own)))
        np.testing.assert_array_equal(x, expected)


def test_batches_are_read_ahead():
    pytest.importorskip("grain")
    read = []
    data = example_set(0)
    counted = data._replace(stream=lambda i: read.append(i) or data.stream(i))
    rows = stream.batches(counted, KEY, 0, (1, 5), num_threads=2, prefetch=4)
    next(rows)
    deadline = time.monotonic() + 10
    while len(read) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(read) >= 3


def test_resident_set_is_refused():
    with pytest.raises(ValueError, match="'a' lives on the device"):
        stream.batches(example_set(10_000), KEY, 0, (2, 6))


def test_missing_grain_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"grain is not installed.*megjax\[data\]"):
        stream.batches(example_set(0), KEY, 0, (2, 6))
