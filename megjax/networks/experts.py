"""Products of experts on learned features, and a generator of the same form reversed.

Kim and Bengio, "Deep Directed Generative Models with Energy-Based Probability
Estimation", 2016: the workshop text (equation 2) and the longer arXiv:1606.03439.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from megjax.networks.layers import BatchNorm, Linear
from megjax.types import Array


class Features(linen.Module):
    """Features of flattened examples: x [B, ...] -> [B, hidden[-1]].

    activation: one that grows no faster than its argument, so that a quadratic term in
        x keeps exp(-E) integrable.
    """

    hidden: tuple[int, ...]
    activation: Callable[[Array], Array] = jax.nn.elu
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(len(x), -1)
        for i, features in enumerate(self.hidden):
            linear = Linear(features, dtype=self.dtype, name=f"linear_{i}")
            x = self.activation(linear(x))
        return x


class Experts(linen.Module):
    """E(x) = |x|^2 / visible_std^2 - b . x - sum_i softplus(w_i . f(x) + b_i).

    x [B, ...] -> [B]. Each expert is a hidden unit of a restricted Boltzmann machine
    on features f, summed out; their sum grows with their number.

    features: f, x [B, ...] -> [B, F].
    visible_std: of the quadratic term of the arXiv version, which has no 1/2; None,
        the workshop text, leaves it out. Without it exp(-E) has no finite integral
        over all of space: bounded features leave E bounded, others let it fall for
        ever along some ray.
    linear: whether to have the term b . x.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.networks.experts import Experts, Features
    >>> network, x = Experts(Features((8,)), num_experts=4), jnp.ones((3, 2))
    >>> network.init_with_output(jax.random.key(0), x)[0].shape
    (3,)
    """

    features: linen.Module
    num_experts: int
    visible_std: float | None = None
    linear: bool = False

    @linen.compact
    def __call__(self, x: Array) -> Array:
        h = self.features(x)
        dtype = jnp.promote_types(h.dtype, jnp.float32)
        logits = Linear(self.num_experts, dtype=dtype, name="experts")(h)
        energy = -jnp.sum(jax.nn.softplus(logits), axis=-1)
        x = x.reshape(len(x), -1).astype(dtype)
        if self.visible_std is not None:
            energy += jnp.sum(jnp.square(x / self.visible_std), axis=-1)
        if self.linear:
            bias = self.param("visible_bias", linen.initializers.zeros, x.shape[-1:])
            energy -= x @ bias
        return energy


class Generator(linen.Module):
    """z [B, k] -> x [B, *shape]: perceptron with batch normalisation before each ReLU.

    bounded: whether a tanh ends it, for images in [-1, 1].
    """

    hidden: tuple[int, ...]
    shape: tuple[int, ...]
    bounded: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, z: Array, train: bool) -> Array:
        h = z
        for i, features in enumerate(self.hidden):
            # Of no use before a normalisation, which takes the mean away.
            linear = Linear(
                features, use_bias=False, dtype=self.dtype, name=f"linear_{i}"
            )
            norm = BatchNorm(dtype=self.dtype, name=f"norm_{i}")
            h = jax.nn.relu(norm(linear(h), train))
        x = Linear(math.prod(self.shape), dtype=self.dtype, name="output")(h)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (jnp.tanh(x) if self.bounded else x).reshape(len(z), *self.shape)
