"""Piecewise linear networks, whose score penalty `losses.penalised_energy` has cheaply.

With the activation pattern of x held fixed, such a network is affine, and the tangent
of E at x along v is a difference of two of its values.
"""

import jax.numpy as jnp
from flax import linen

from megjax.types import Array


class LeakyReLU(linen.Module):
    """max(x, slope x), with an activation pattern that can be recorded and imposed.

    The pattern is written where the collection "pattern" is mutable, and replaces the
    signs of x where that collection is given.

    >>> import jax.numpy as jnp
    >>> from megjax.networks.piecewise import LeakyReLU
    >>> LeakyReLU(0.1).apply({}, jnp.array([-2.0, 3.0]))
    Array([-0.2,  3. ], dtype=float32)
    """

    slope: float

    @linen.compact
    def __call__(self, x: Array) -> Array:
        positive = x > 0
        if self.is_mutable_collection("pattern"):
            if not self.is_initializing():
                self.put_variable("pattern", "positive", positive)
        elif self.has_variable("pattern", "positive"):
            positive = self.get_variable("pattern", "positive")
        return jnp.where(positive, x, self.slope * x)
