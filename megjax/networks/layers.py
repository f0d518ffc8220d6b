"""Layers with the geometry and the initial distributions of PyTorch's defaults.

Those are what the reference code of Kumar et al. 2019 (MEG) is built on.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen import initializers

from megjax.networks import convolution
from megjax.types import Array


def uniform(fan_in: int) -> initializers.Initializer:
    """U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)): PyTorch's default, for biases too."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def divided(width: int, divisor: int) -> int:
    """width / divisor; raises ValueError where that is no whole number."""
    if width % divisor:
        raise ValueError(
            f"width={width} is not divisible by {divisor}: use a multiple of 8."
        )
    return width // divisor


def kernel_std(width: int) -> float:
    """Standard deviation of initial kernels: the reference's 0.02 at its width of 512.

    Narrower networks get as much more as keeps the scale of what a layer passes on;
    with 0.02 four narrow layers in a row would let almost nothing through.
    """
    return 0.02 * math.sqrt(512 / width)


class Linear(linen.Module):
    """x [..., n] -> [..., features].

    fan_in: sets the initial scale; by default n. Larger where the layer is one summand
        of a layer on more inputs.
    """

    features: int
    use_bias: bool = True
    fan_in: int | None = None
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        init = uniform(self.fan_in or x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", init, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


class Convolution(linen.Module):
    """x [B, H, W, C] -> [B, h, w, features], as PyTorch's Conv2d.

    kernel_std: of the kernel's initial normal distribution; None for PyTorch's default,
        which biases always have.
    """

    features: int
    kernel_size: int
    stride: int
    padding: int
    kernel_std: float | None = None
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel, bias = _convolution_params(self, shape, self.features)
        y = convolution.convolution(
            x.astype(self.dtype), kernel, stride=self.stride, padding=self.padding
        )
        return y + bias


class TransposedConvolution(linen.Module):
    """y [B, h, w, D] -> [B, H, W, features], as PyTorch's ConvTranspose2d.

    kernel_std: as in `Convolution`.
    """

    features: int
    kernel_size: int
    stride: int
    padding: int
    output_padding: int = 0
    kernel_std: float | None = None
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, y: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, self.features, y.shape[-1])
        kernel, bias = _convolution_params(self, shape, self.features)
        x = convolution.transposed_convolution(
            y.astype(self.dtype),
            kernel,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
        )
        return x + bias


def _convolution_params(layer, shape, features) -> tuple[Array, Array]:
    # PyTorch takes the third axis for the inputs of a transposed convolution as well.
    default = uniform(math.prod(shape[:3]))
    normal = initializers.normal(layer.kernel_std) if layer.kernel_std else default
    kernel = layer.param("kernel", normal, shape)
    bias = layer.param("bias", default, (features,))
    return kernel.astype(layer.dtype), bias.astype(layer.dtype)


PER_UNIT_SIDE = 8
"""Side of the largest maps of a generator that are normalised unit by unit."""


class BatchNorm(linen.Module):
    """Normalises x [..., C] over all axes but the last (Ioffe and Szegedy 2015).

    Statistics are of the whole batch, whatever devices it is split over, in float32 at
    least. As in PyTorch the running variance is the unbiased one (flax keeps the biased
    one) and `momentum` is the weight of the new batch.

    per_unit: normalise over the batch alone, every position and channel of a map
        [B, H, W, C] by itself, as behind a dense layer. Over positions as well, the
        variance of a channel can be that of a pattern that no example departs from:
        what depends on z may then vanish, and a generator collapse.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    scale_std: float = 0.02
    per_unit: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        axes = (0,) if self.per_unit else tuple(range(x.ndim - 1))
        features = x.shape[len(axes) :]
        scale = self.param("scale", _around_one(self.scale_std), features)
        bias = self.param("bias", initializers.zeros, features)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var = jnp.mean(x, axes), jnp.var(x, axes)
        if train and not self.is_initializing():
            num = x.size // mean.size
            unbiased = var * (num / max(num - 1, 1))
            running_mean.value += self.momentum * (mean - running_mean.value)
            running_var.value += self.momentum * (unbiased - running_var.value)
        y = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(self.dtype)


def _around_one(std: float) -> initializers.Initializer:
    def init(key, shape, dtype=jnp.float32):
        return 1 + std * jax.random.normal(key, shape, dtype)

    return init
