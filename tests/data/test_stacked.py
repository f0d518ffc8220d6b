import pathlib

import jax
import numpy as np
import pytest

from megjax.data import images, stacked

REAL = pathlib.Path(__file__).parents[3] / "shared/data/tfds"


def test_table_is_the_reference_draw():
    np.random.seed(111)
    expected = np.random.randint(0, 60_000, size=(128_000, 3))
    table = stacked.index_table(60_000, num_stacked=3)
    assert table.dtype == np.int32 and table.shape == (128_000, 3)
    np.testing.assert_array_equal(table, expected)
    assert stacked.index_table(60_000, num_stacked=4).shape == (1_280_000, 4)


def test_channels_are_the_images_of_the_table():
    pixels = np.random.RandomState(0).randint(0, 256, (20, 4, 5, 1), np.uint8)
    data = stacked.stacked(pixels, num_stacked=4)
    assert data.shape == (4, 5, 4) and data.num_examples == 1_280_000
    indices = np.array([0, 7, 1_279_999])
    x = np.asarray(jax.jit(data.take)(data.store, indices))
    table = stacked.index_table(20, num_stacked=4)
    for row, index in zip(x, indices, strict=True):
        for channel in range(4):
            expected = pixels[table[index, channel], ..., 0] / 127.5 - 1
            np.testing.assert_allclose(row[..., channel], expected, atol=1e-6)


@pytest.mark.parametrize("num_stacked", [0, 2, 5])
def test_other_stacks_are_refused(num_stacked):
    with pytest.raises(ValueError, match=f"3 or 4 channels, not {num_stacked}"):
        stacked.index_table(10, num_stacked=num_stacked)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason=f"needs {REAL}")
def test_real_stacks_are_as_far_from_uniform_as_their_digits_say():
    """KL(modes || uniform) of the set: 3 KL(digit) and (M - 1) / 2N of sampling."""
    pixels, labels = images.labelled("mnist", data_dir=str(REAL))
    table = stacked.index_table(len(labels), num_stacked=3)
    modes = labels[table] @ [100, 10, 1]
    share = np.bincount(modes, minlength=1000) / len(modes)
    digit = np.bincount(labels, minlength=10) / len(labels)
    digit_divergence = (digit * np.log(digit * 10)).sum()
    assert digit_divergence == pytest.approx(0.00143, abs=1e-5)
    divergence = (share * np.log(share * 1000)).sum()
    expected = 3 * digit_divergence + 999 / (2 * 128_000)
    standard_error = 3e-4
    assert divergence == pytest.approx(expected, abs=4 * standard_error)
    data = stacked.stacked(pixels, num_stacked=3)
    assert data.shape == (28, 28, 3) and data.num_examples == 128_000
