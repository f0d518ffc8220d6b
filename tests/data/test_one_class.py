import pathlib

import numpy as np
import pytest

from megjax.data import one_class

REAL = pathlib.Path(__file__).parents[3] / "shared/data/tfds"


def example_set():
    """1000 images that carry their own number, of classes 0 to 4."""
    numbers = np.arange(1000)
    pixels = np.stack([numbers // 256, numbers % 256], 1).astype(np.uint8)
    return pixels.reshape(1000, 2, 1, 1), (numbers % 5).astype(np.int32)


def identity(x):
    """The numbers back from normalised pixels."""
    high, low = np.rint((x.reshape(len(x), 2) + 1) * 127.5).astype(int).T
    return high * 256 + low


def test_split_is_disjoint_complete_and_labelled():
    pixels, labels = example_set()
    train, test = one_class.one_class(pixels, labels, held_out=3, name="a", seed=1)
    trained = identity(train.take(train.store, np.arange(train.num_examples)))
    tested = identity(test.x)
    assert train.num_examples == 640 and len(test.x) == 160 + 200
    assert set(trained) & set(tested) == set()
    assert set(trained) | set(tested) == set(range(1000))
    assert not (labels[trained] == 3).any()
    np.testing.assert_array_equal(test.labels, labels[tested] == 3)
    assert test.labels.dtype == np.int32 and test.x.dtype == np.float32


def test_seed_chooses_the_split():
    pixels, labels = example_set()
    stores = [
        one_class.one_class(pixels, labels, held_out=3, name="a", seed=seed)[0].store
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(stores[0], stores[1])
    assert (stores[0] != stores[2]).any()


def test_bad_classes_are_refused():
    pixels, labels = example_set()
    with pytest.raises(ValueError, match=r"Holding 7 .* labels are \[0, 1, 2, 3, 4\]"):
        one_class.one_class(pixels, labels, held_out=7, name="a", seed=1)
    with pytest.raises(ValueError, match="0 to 9, not 10"):
        one_class.mnist_without(10)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason=f"needs {REAL}")
def test_real_digit_has_the_known_anomaly_share():
    train, test = one_class.mnist_without(1, data_dir=str(REAL))
    assert train.num_examples == int(0.8 * (70_000 - 7877))
    assert train.num_examples + len(test.x) == 70_000
    assert test.labels.mean() == pytest.approx(0.388, abs=5e-4)
    assert test.x.shape[1:] == train.shape == (28, 28, 1)
