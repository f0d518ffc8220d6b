"""Inception-v3 as the FID measures with it: TensorFlow's graph of 2015-12-05.

Szegedy et al. 2016 (Inception-v3); Heusel et al. 2017 (FID). Against the network of the
paper, average pools leave the padding out, the last block pools by maximum, and there
are 1008 classes. Layers have the names of the public weight files.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen

from megjax.types import Array

NUM_FEATURES = 2048
NUM_CLASSES = 1008
MIN_SIDE = 75
"""Smallest side of an image that leaves a pixel to pool over; the FID resizes to 299."""


class Layer(linen.Module):
    """Convolution without bias, normalisation by stored statistics, ReLU.

    Full float32 products: an accelerator's default would cost three digits.
    """

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @linen.compact
    def __call__(self, x: Array) -> Array:
        x = linen.Conv(
            self.features,
            self.kernel,
            self.stride,
            self.padding,
            use_bias=False,
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )(x)
        norm = linen.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")
        return jax.nn.relu(norm(x))


class Inception(linen.Module):
    """Images [B, H, H, 3] in [-1, 1] -> (features [B, 2048], logits [B, 1008]).

    The features are means over the last map. The logits lack the bias of the
    classifier, as those that the Inception score is made of. Inference only.
    """

    @linen.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = _valid(x, "Conv2d_1a_3x3", 32, 2)
        x = _valid(x, "Conv2d_2a_3x3", 32, 1)
        x = _halved(_chain(x, ("Conv2d_2b_3x3", 64, 3)))
        x = _chain(x, ("Conv2d_3b_1x1", 80, 1))
        x = _halved(_valid(x, "Conv2d_4a_3x3", 192, 1))
        for letter, pool_features in zip("bcd", (32, 64, 64)):
            x = BlockA(pool_features, name=f"Mixed_5{letter}")(x)
        x = BlockB(name="Mixed_6a")(x)
        for letter, features in zip("bcde", (128, 160, 160, 192)):
            x = BlockC(features, name=f"Mixed_6{letter}")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(_mean_pool, name="Mixed_7b")(x)
        x = BlockE(_max_pool, name="Mixed_7c")(x)
        features = jnp.mean(x, axis=(1, 2))
        classifier = linen.Dense(
            NUM_CLASSES,
            use_bias=False,
            precision=jax.lax.Precision.HIGHEST,
            name="fc",
        )
        return features, classifier(features)


class BlockA(linen.Module):
    """Branches of 1x1, 5x5, twice 3x3, and a pool: [B, H, H, C] -> 224 + pool."""

    pool_features: int

    @linen.compact
    def __call__(self, x: Array) -> Array:
        return _joined(
            _chain(x, ("branch1x1", 64, 1)),
            _chain(x, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
            _chain(
                x,
                ("branch3x3dbl_1", 64, 1),
                ("branch3x3dbl_2", 96, 3),
                ("branch3x3dbl_3", 96, 3),
            ),
            _chain(_mean_pool(x), ("branch_pool", self.pool_features, 1)),
        )


class BlockB(linen.Module):
    """From 35 x 35 to 17 x 17: [B, H, H, C] -> 480 + C channels."""

    @linen.compact
    def __call__(self, x: Array) -> Array:
        double = _chain(x, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3))
        return _joined(
            _valid(x, "branch3x3", 384, 2),
            _valid(double, "branch3x3dbl_3", 96, 2),
            _halved(x),
        )


class BlockC(linen.Module):
    """Kernels of 7x7 as products of 1x7 and 7x1: [B, H, H, C] -> 768 channels."""

    features: int

    @linen.compact
    def __call__(self, x: Array) -> Array:
        wide, tall, features = (1, 7), (7, 1), self.features
        return _joined(
            _chain(x, ("branch1x1", 192, 1)),
            _chain(
                x,
                ("branch7x7_1", features, 1),
                ("branch7x7_2", features, wide),
                ("branch7x7_3", 192, tall),
            ),
            _chain(
                x,
                ("branch7x7dbl_1", features, 1),
                ("branch7x7dbl_2", features, tall),
                ("branch7x7dbl_3", features, wide),
                ("branch7x7dbl_4", features, tall),
                ("branch7x7dbl_5", 192, wide),
            ),
            _chain(_mean_pool(x), ("branch_pool", 192, 1)),
        )


class BlockD(linen.Module):
    """From 17 x 17 to 8 x 8: [B, H, H, C] -> 512 + C channels."""

    @linen.compact
    def __call__(self, x: Array) -> Array:
        single = _chain(x, ("branch3x3_1", 192, 1))
        separated = _chain(
            x,
            ("branch7x7x3_1", 192, 1),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
        )
        return _joined(
            _valid(single, "branch3x3_2", 320, 2),
            _valid(separated, "branch7x7x3_4", 192, 2),
            _halved(x),
        )


class BlockE(linen.Module):
    """Branches that fork into 1x3 and 3x1: [B, H, H, C] -> 2048 channels.

    pool: of the last branch. Mixed_7b averages and Mixed_7c takes the maximum.
    """

    pool: Callable[[Array], Array]

    @linen.compact
    def __call__(self, x: Array) -> Array:
        single = _chain(x, ("branch3x3_1", 384, 1))
        double = _chain(x, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
        return _joined(
            _chain(x, ("branch1x1", 320, 1)),
            _chain(single, ("branch3x3_2a", 384, (1, 3))),
            _chain(single, ("branch3x3_2b", 384, (3, 1))),
            _chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
            _chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
            _chain(self.pool(x), ("branch_pool", 192, 1)),
        )


def _chain(x: Array, *layers: tuple) -> Array:
    """Layers (name, features, kernel) that keep the size, in the current module."""
    for name, features, kernel in layers:
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        x = Layer(features, kernel, name=name)(x)
    return x


def _valid(x: Array, name: str, features: int, stride: int) -> Array:
    """A 3x3 layer without padding, in the current module."""
    return Layer(features, (3, 3), stride, "VALID", name=name)(x)


def _halved(x: Array) -> Array:
    """Every other maximum over 3x3."""
    return linen.max_pool(x, (3, 3), (2, 2), "VALID")


def _mean_pool(x: Array) -> Array:
    """Means over 3x3 without the padding."""
    return linen.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _max_pool(x: Array) -> Array:
    return linen.max_pool(x, (3, 3), (1, 1), "SAME")


def _joined(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)
