"""Uniform noise that fills grey levels, so that images have a density.

Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models"; at
5 bits as Kingma and Dhariwal 2018 (Glow).
"""

import jax
import jax.numpy as jnp

from megjax import checks
from megjax.types import Array, Key


def dequantised(key: Key, x: Array, *, num_levels: int = 32) -> Array:
    """Images in [-1, 1] of 256 grey levels as draws of fewer levels, evenly filled.

    x: [B, ...], pixel / 127.5 - 1. Level floor(pixel num_levels / 256) becomes the
    interval of that number among num_levels equal ones in [-1, 1]. Raises ValueError
    where there is no level.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.data.dequantisation import dequantised
    >>> x = dequantised(jax.random.key(0), jnp.full((1, 4), -1.0))
    >>> bool(jnp.all((x >= -1) & (x < -1 + 2 / 32)))
    True
    """
    checks.at_least("num_levels", num_levels, 1)
    # Rounded, since pixel / 127.5 - 1 may fall short of its pixel.
    pixels = jnp.round((x + 1) * 127.5)
    levels = jnp.floor(pixels * num_levels / 256)
    noise = jax.random.uniform(key, x.shape, x.dtype)
    return 2 * (levels + noise) / num_levels - 1
