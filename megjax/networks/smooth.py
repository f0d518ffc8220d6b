"""An energy of images with two derivatives, for samplers that are trained through dE.

The form is that of Nijkamp et al. 2019, "Learning Non-Convergent Non-Persistent
Short-Run MCMC", with swish for its leaky ReLU, whose second derivative is zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from megjax.networks.layers import Convolution, Linear
from megjax.types import Array

LAST_SIDE = 4


class Energy(linen.Module):
    """E(x) of square images: x [B, H, H, C] -> [B], H = 4 * 2^n.

    width: channels at full size; twice as many each time the side is halved, to 4.
    Raises ValueError at other sides.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.networks.smooth import Energy
    >>> x = jnp.ones((2, 8, 8, 3))
    >>> jax.eval_shape(Energy(4).init_with_output, jax.random.key(0), x)[0].shape
    (2,)
    """

    width: int
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        height, side = x.shape[1:3]
        num, rest = divmod(side, LAST_SIDE)
        if height != side or rest or num & (num - 1):
            raise ValueError(f"images of {height} x {side} pixels: want 4 * 2^n.")
        features = self.width
        x = Convolution(features, 3, 1, 1, dtype=self.dtype, name="level")(x)
        for i in range(num.bit_length() - 1):
            features *= 2
            x = jax.nn.swish(x)
            x = Convolution(features, 4, 2, 1, dtype=self.dtype, name=f"down_{i}")(x)
        x = jax.nn.swish(x).reshape(len(x), -1)
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return Linear(1, dtype=dtype, name="output")(x)[..., 0]
