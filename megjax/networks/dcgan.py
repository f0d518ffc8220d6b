"""Networks of strided convolutions alone, for images of 17 to 32 pixels a side.

Kumar et al. 2019 (MEG) have them for MNIST and stacked MNIST, in the sizes of its
reference code, after DCGAN (Radford et al. 2016). Every image is NHWC in [-1, 1].
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from megjax.networks.layers import (
    PER_UNIT_SIDE,
    BatchNorm,
    Convolution,
    Linear,
    TransposedConvolution,
    divided,
    kernel_std,
)
from megjax.networks.piecewise import LeakyReLU
from megjax.types import Array


class Trunk(linen.Module):
    """Features x [B, H, H, C] -> [B, 4 width]; piecewise linear, no normalisation.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.networks.dcgan import Trunk
    >>> x = jnp.ones((1, 28, 28, 1))
    >>> jax.eval_shape(Trunk(8).init_with_output, jax.random.key(0), x)[0].shape
    (1, 32)
    """

    width: int = 512
    slope: float = 0.2
    dtype: Any = jnp.float32
    piecewise_linear = True

    @linen.compact
    def __call__(self, x: Array) -> Array:
        for i, divisor in enumerate((8, 4, 2, 1)):
            x = Convolution(
                divided(self.width, divisor),
                *(5, 2, 2),
                kernel_std=kernel_std(self.width),
                dtype=self.dtype,
                name=f"convolution_{i}",
            )(x)
            x = LeakyReLU(self.slope, name=f"activation_{i}")(x)
        return x.reshape(len(x), -1)


class Generator(linen.Module):
    """z [B, k] -> images [B, image_size, image_size, channels] in [-1, 1].

    Sides 2, 4, 7, 14, 28, or 2, 4, 8, 16, 32. Raises ValueError at an image_size that
    four halvings do not bring to 2. per_unit: of the norms of the maps of at most `layers.PER_UNIT_SIDE` pixels a side.
    """

    width: int = 512
    channels: int = 1
    image_size: int = 28
    per_unit: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, z: Array, train: bool) -> Array:
        x = Linear(4 * self.width, dtype=self.dtype, name="seed")(z)
        x = x.reshape(len(x), 2, 2, self.width)
        hidden = [divided(self.width, divisor) for divisor in (2, 4, 8)]
        layers = zip([*hidden, self.channels], sides(self.image_size)[1:])
        for i, (features, side) in enumerate(layers):
            output_padding = side - (2 * x.shape[1] - 1)
            per_unit = self.per_unit and x.shape[1] <= PER_UNIT_SIDE
            norm = BatchNorm(per_unit=per_unit, dtype=self.dtype, name=f"norm_{i}")
            x = jax.nn.relu(norm(x, train))
            x = TransposedConvolution(
                features,
                *(5, 2, 2, output_padding),
                kernel_std=kernel_std(self.width),
                dtype=self.dtype,
                name=f"convolution_{i}",
            )(x)
        return jnp.tanh(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


def sides(image_size: int) -> list[int]:
    """Sides of the maps from the innermost to the image.

    Raises ValueError at images that four halvings do not bring to 2 pixels.

    >>> from megjax.networks.dcgan import sides
    >>> sides(28)
    [2, 4, 7, 14, 28]
    """
    found = [image_size]
    for _ in range(4):
        found.append(-(-found[-1] // 2))
    if found[-1] != 2:
        raise ValueError(
            f"image_size={image_size}: networks of strided convolutions alone take 17 "
            "to 32 pixels a side; resize the images or give networks='convolutional'"
        )
    return found[::-1]
