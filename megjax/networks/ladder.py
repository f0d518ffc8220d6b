"""Networks for square images whose side is 4 times a power of two.

Kumar et al. 2019 (MEG): its CIFAR-10 networks are those of 3 stages, its CelebA ones
those of 4, in the sizes of its reference code. Every image is NHWC in [-1, 1].
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

SEED_SIDE = 4


class Trunk(linen.Module):
    """Features x [B, H, H, C] -> [B, 16 width]; piecewise linear, no normalisation.

    default_init: initial kernels from PyTorch's default instead of a normal, as the
        reference code has them for CelebA.
    remat: keep what enters a stage for the backward pass, and compute the rest of the
        stage again there.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.networks.ladder import Trunk
    >>> x = jnp.ones((1, 16, 16, 3))
    >>> jax.eval_shape(Trunk(8).init_with_output, jax.random.key(0), x)[0].shape
    (1, 128)
    """

    width: int = 512
    slope: float = 0.1
    default_init: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    piecewise_linear = True

    @linen.compact
    def __call__(self, x: Array) -> Array:
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"images of {x.shape[1:3]} pixels: make them square.")
        stage = Trunk._stage
        if self.remat:
            stage = linen.remat(stage, static_argnums=(2, 3))
        for i, features in enumerate(widths(self.width, x.shape[1])):
            x = stage(self, x, i, features)
        x = self._layer("top", self.width, (3, 1, 1), x)
        return x.reshape(len(x), -1)

    def _stage(self, x, i, features) -> Array:
        x = self._layer(f"level_{i}", features, (3, 1, 1), x)
        return self._layer(f"down_{i}", features, (4, 2, 1), x)

    def _layer(self, name, features, form, x) -> Array:
        std = None if self.default_init else kernel_std(self.width)
        x = Convolution(features, *form, kernel_std=std, dtype=self.dtype, name=name)(x)
        return LeakyReLU(self.slope, name=f"{name}_activation")(x)


class Generator(linen.Module):
    """z [B, k] -> images [B, image_size, image_size, channels] in [-1, 1].

    As in the reference code the linear seed enters the first transposed convolution
    without normalisation or nonlinearity. default_init, remat: as in `Trunk`.
    per_unit: as in `dcgan.Generator`; then the seed is normalised and rectified, too.
    """

    image_size: int
    width: int = 512
    channels: int = 3
    default_init: bool = False
    remat: bool = False
    per_unit: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, z: Array, train: bool) -> Array:
        stage = Generator._stage
        if self.remat:
            stage = linen.remat(stage, static_argnums=(2, 3, 4))
        seed = Linear(SEED_SIDE**2 * self.width, dtype=self.dtype, name="seed")
        x = seed(z).reshape(len(z), SEED_SIDE, SEED_SIDE, self.width)
        if self.per_unit:
            x = self._rectified("seed_norm", x, train)
        for i, features in enumerate(widths(self.width, self.image_size)[::-1]):
            x = stage(self, x, i, features, train)
        x = self._transposed("image", self.channels, (3, 1, 1), x)
        return jnp.tanh(x.astype(jnp.promote_types(x.dtype, jnp.float32)))

    def _stage(self, x, i, features, train) -> Array:
        x = self._transposed(f"up_{i}", features, (4, 2, 1), x)
        return self._rectified(f"norm_{i}", x, train)

    def _rectified(self, name, x, train) -> Array:
        per_unit = self.per_unit and x.shape[1] <= PER_UNIT_SIDE
        norm = BatchNorm(per_unit=per_unit, dtype=self.dtype, name=name)
        return jax.nn.relu(norm(x, train))

    def _transposed(self, name, features, form, x) -> Array:
        std = None if self.default_init else kernel_std(self.width)
        layer = TransposedConvolution(
            features, *form, kernel_std=std, dtype=self.dtype, name=name
        )
        return layer(x)


def widths(width: int, image_size: int) -> list[int]:
    """Channels of the stages from the image inwards; the innermost map has `width`.

    width / 8, / 4, / 2, then width for images above 32 pixels; small images leave out
    the outer stages. Raises ValueError where the image or the width does not fit.

    >>> from megjax.networks.ladder import widths
    >>> widths(512, 32)
    [64, 128, 256]
    """
    stages = (image_size // SEED_SIDE).bit_length() - 1
    if stages < 1 or SEED_SIDE << stages != image_size:
        raise ValueError(
            f"image_size={image_size} is none of 8, 16, 32, 64, ...: resize the images."
        )
    divisors = [8, 4, 2][-stages:] + [1] * (stages - 3)
    return [divided(width, divisor) for divisor in divisors]
