"""Two values, and a split without overlap."""

import numpy as np
import pytest

from megjax.data import binary


def test_rounded_by_hand():
    found = binary.rounded(np.array([0, 127, 128, 255], np.uint8))
    assert found.tolist() == [0, 0, 255, 255] and found.dtype == np.uint8


def test_drawn_has_the_grey_level_as_its_mean():
    pixels = np.tile(np.array([0, 51, 204, 255], np.uint8), (50_000, 1))
    found = binary.drawn(pixels, seed=1)
    assert set(np.unique(found)) == {0, 255}
    means = (found > 0).mean(axis=0)
    np.testing.assert_allclose(means, [0, 0.2, 0.8, 1], atol=0.01)
    assert means[0] == 0 and means[3] == 1
    assert not np.array_equal(found, binary.drawn(pixels, seed=2))


def test_a_split_holds_every_image_once():
    pixels = np.zeros((40, 2, 3, 1), np.uint8)
    pixels.reshape(40, 6)[:] = np.arange(40)[:, None] >> np.arange(6) & 1
    pixels *= 255
    labels = np.arange(40, dtype=np.int32)
    data = binary.split("bits", pixels, labels, held_out_fraction=0.1)
    train, held_out = data.reference["train"], data.reference["validation"]
    assert held_out.x.shape == (4, 2, 3, 1)
    together = np.concatenate([train.labels, held_out.labels])
    assert sorted(together) == list(range(40))
    for x, labels in (train, held_out):
        number = (x.reshape(len(x), 6) > 0) @ (2 ** np.arange(6))
        assert number.tolist() == labels.tolist()
    assert set(np.unique(train.x)) == {-1.0, 1.0}
    batch = data.take(data.store, np.arange(3))
    np.testing.assert_array_equal(batch, train.x[:3])
    with pytest.raises(ValueError, match=r"held_out_fraction=0.001 of 40 images"):
        binary.split("bits", pixels, labels, held_out_fraction=0.001)
