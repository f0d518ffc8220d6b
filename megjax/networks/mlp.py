"""Multilayer perceptrons for vectors: the toy and KDD99 networks of MEG.

Kumar et al. 2019, in the sizes of its reference code.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from megjax.networks.layers import Linear
from megjax.networks.piecewise import LeakyReLU
from megjax.types import Array


class Trunk(linen.Module):
    """Features of vectors: x [..., n] -> [..., hidden[-1]]; piecewise linear.

    flatten: x [B, ...] of any form, as vectors.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.networks.mlp import Trunk
    >>> x = jnp.ones((3, 2))
    >>> Trunk((16, 8)).init_with_output(jax.random.key(0), x)[0].shape
    (3, 8)
    """

    hidden: tuple[int, ...]
    slope: float = 0.2
    dtype: Any = jnp.float32
    flatten: bool = False
    piecewise_linear = True

    @linen.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(len(x), -1) if self.flatten else x
        for i, features in enumerate(self.hidden):
            x = Linear(features, dtype=self.dtype, name=f"linear_{i}")(x)
            x = LeakyReLU(self.slope, name=f"activation_{i}")(x)
        return x


class Generator(linen.Module):
    """z [B, k] -> x [B, output_dim], unbounded. `train` changes nothing.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.networks.mlp import Generator
    >>> z = jnp.ones((3, 4))
    >>> Generator((8,), 2).init_with_output(jax.random.key(0), z, train=False)[0].shape
    (3, 2)
    """

    hidden: tuple[int, ...]
    output_dim: int
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, z: Array, train: bool) -> Array:
        del train
        h = z
        for i, features in enumerate(self.hidden):
            h = Linear(features, dtype=self.dtype, name=f"linear_{i}")(h)
            h = jax.nn.relu(h)
        x = Linear(self.output_dim, dtype=self.dtype, name="output")(h)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Statistics(linen.Module):
    """T(x, z) as a perceptron on both: x [B, n], z [B, k] or [M, B, k] -> z.shape[:-1].

    The part of the first layer that reads x is applied once for all M latents.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.networks.mlp import Statistics
    >>> x, z = jnp.ones((3, 2)), jnp.ones((5, 3, 4))
    >>> Statistics((8, 8)).init_with_output(jax.random.key(0), x, z)[0].shape
    (5, 3)
    """

    hidden: tuple[int, ...]
    slope: float = 0.2
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, z: Array) -> Array:
        fan_in = x.shape[-1] + z.shape[-1]
        first = self.hidden[0]
        h = Linear(first, fan_in=fan_in, dtype=self.dtype, name="linear_x")(x) + Linear(
            first, use_bias=False, fan_in=fan_in, dtype=self.dtype, name="linear_z"
        )(z)
        h = LeakyReLU(self.slope, name="activation")(h)
        h = Trunk(self.hidden[1:], self.slope, self.dtype, name="trunk")(h)
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        return Linear(1, dtype=dtype, name="output")(h)[..., 0]
