"""Energy and statistics networks on any trunk.

Kumar et al. 2019 (MEG). A trunk maps x [B, ...] to features [B, F] in its compute
dtype; the numbers that leave a head are float32 at least.
"""

import jax.numpy as jnp
from flax import linen

from megjax.networks.layers import Linear
from megjax.networks.piecewise import LeakyReLU
from megjax.types import Array


class Energy(linen.Module):
    """E(x) = w . trunk(x) + b: x [B, ...] -> [B].

    >>> import jax.numpy as jnp
    >>> from megjax import Energy
    >>> import jax
    >>> from megjax.networks import mlp
    >>> network, x = Energy(mlp.Trunk((8,))), jnp.ones((3, 2))
    >>> network.init_with_output(jax.random.key(0), x)[0].shape
    (3,)
    """

    trunk: linen.Module

    @property
    def piecewise_linear(self) -> bool:
        """Whether `losses.penalised_energy` may take its shortcut."""
        return getattr(self.trunk, "piecewise_linear", False)

    @linen.compact
    def __call__(self, x: Array) -> Array:
        h = self.trunk(x)
        dtype = jnp.promote_types(h.dtype, jnp.float32)
        return Linear(1, dtype=dtype, name="output")(h)[..., 0]


class Statistics(linen.Module):
    """T(x, z): x [B, ...], z [B, k] or [M, B, k] -> z.shape[:-1].

    The trunk runs once for all M latents of an x.

    >>> import jax.numpy as jnp
    >>> from megjax import Statistics
    >>> import jax
    >>> from megjax.networks import mlp
    >>> network = Statistics(mlp.Trunk((8,)), latent_dim=3, width=8)
    >>> x, z = jnp.ones((4, 2)), jnp.ones((5, 4, 3))
    >>> network.apply(network.init(jax.random.key(0), x, z), x, z).shape
    (5, 4)
    """

    trunk: linen.Module
    latent_dim: int
    width: int
    slope: float = 0.2

    @linen.compact
    def __call__(self, x: Array, z: Array) -> Array:
        h = self.trunk(x)
        dtype = h.dtype
        h = Linear(self.latent_dim, dtype=dtype, name="projection")(h)
        h = jnp.broadcast_to(h, (*z.shape[:-1], self.latent_dim))
        h = jnp.concatenate([h, z.astype(dtype)], axis=-1)
        h = Linear(self.width, dtype=dtype, name="joint")(h)
        h = LeakyReLU(self.slope, name="activation")(h)
        dtype = jnp.promote_types(dtype, jnp.float32)
        return Linear(1, dtype=dtype, name="output")(h)[..., 0]
