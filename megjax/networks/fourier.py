"""Energies of vectors that can follow narrow modes and have a finite partition function.

Random Fourier features: Tancik et al. 2020, "Fourier Features Let Networks Learn High
Frequency Functions in Low Dimensional Domains".
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from megjax.types import Array


class Features(linen.Module):
    """cos b.x and sin b.x of random b: x [..., D] -> [..., num].

    num: even. scale: standard deviation of the entries of b, in radians per unit of x;
    features resolve differences of about 1 / scale. b is drawn once and never trained;
    it is a parameter, so that it is saved wherever weights are.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.networks.fourier import Features
    >>> Features(8, 10.0).init_with_output(jax.random.key(0), jnp.ones((3, 2)))[0].shape
    (3, 8)
    """

    num: int
    scale: float
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        init = linen.initializers.normal(self.scale)
        shape = (x.shape[-1], self.num // 2)
        frequencies = jax.lax.stop_gradient(self.param("frequencies", init, shape))
        # Of angles far above 1, half precision would keep no digit.
        angles = jnp.matmul(x, frequencies, precision=jax.lax.Precision.HIGHEST)
        h = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return h.astype(self.dtype)


class Energy(linen.Module):
    """E(x) = |x|^2 / (2 confinement^2) + f(x, features of x): x [B, D] -> [B].

    f is a perceptron with SiLU, so it grows at most linearly, and the square wins:
    exp(-E) has a finite integral whatever the weights. It starts at f = 0, where exp(-E) is
    a Gaussian of standard deviation `confinement`. confinement: 0 leaves the square out.

    num_features, scale: of `Features`; 0 features are none. coordinates: whether f sees
    x beside its features.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.networks.fourier import Energy
    >>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    >>> Energy((8,), num_features=4).init_with_output(jax.random.key(0), x)[0]
    Array([ 0. , 12.5], dtype=float32)
    """

    hidden: tuple[int, ...]
    num_features: int = 128
    scale: float = 10.0
    coordinates: bool = True
    confinement: float = 1.0
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        parts = [x.astype(self.dtype)] if self.coordinates else []
        if self.num_features:
            parts.append(Features(self.num_features, self.scale, self.dtype)(x))
        h = jnp.concatenate(parts, axis=-1)
        for i, width in enumerate(self.hidden):
            h = jax.nn.silu(linen.Dense(width, dtype=self.dtype, name=f"linear_{i}")(h))
        dtype = jnp.promote_types(h.dtype, jnp.float32)
        zeros = linen.initializers.zeros
        last = linen.Dense(1, dtype=dtype, kernel_init=zeros, name="output")(h)[..., 0]
        if not self.confinement:
            return last
        return last + jnp.sum(x**2, axis=-1) / (2 * self.confinement**2)
