"""Every grey level by enumeration, and noise that fills it evenly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.data import dequantisation, images

PIXELS = np.arange(256, dtype=np.uint8)


def drawn(num_levels, num=1, seed=0):
    """Draws [num, 256] of all pixels, as shares of the range."""
    x = jnp.broadcast_to(images.normalised(PIXELS), (num, 256))
    draw = functools.partial(dequantisation.dequantised, num_levels=num_levels)
    return (np.asarray(jax.jit(draw)(jax.random.key(seed), x), np.float64) + 1) / 2


@pytest.mark.parametrize("num_levels", [2, 32, 256])
def test_all_pixels_fall_into_their_level(num_levels):
    share = drawn(num_levels, 20)
    within = share * num_levels - PIXELS.astype(int) // (256 // num_levels)
    # Float32 may round a draw at the end of its interval.
    assert within.min() > -1e-4 and within.max() < 1 + 1e-4


def test_levels_are_filled_evenly():
    within = drawn(32, 400) * 32 % 1
    num = within.size
    assert abs(within.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / num)
    # Var of (U - 1/2)^2 is 1/80 - 1/144.
    assert abs(within.var() - 1 / 12) < 4.5 * np.sqrt(1 / 180 / num)


def test_noise_is_a_function_of_the_key():
    np.testing.assert_array_equal(drawn(32), drawn(32))
    assert np.mean(drawn(32) != drawn(32, seed=1)) > 0.99
