"""Energy and statistics networks on any trunk.

Kumar et al. 2019 (MEG). A trunk maps x [B, ...] to features [B, F] in its compute
dtype; the numbers that leave a head are float32 at least.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen

from megjax import checks
from megjax.networks.layers import Linear
from megjax.networks.piecewise import LeakyReLU
from megjax.types import Array


class Energy(linen.Module):
    """E(x) = w . trunk(x) + b: x [B, ...] -> [B]; with_features: (that, trunk(x)).

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
    def __call__(
        self, x: Array, with_features: bool = False
    ) -> Array | tuple[Array, Array]:
        checks.array("x", x)
        h = self.trunk(x)
        dtype = jnp.promote_types(h.dtype, jnp.float32)
        energies = Linear(1, dtype=dtype, name="output")(h)[..., 0]
        return (energies, h) if with_features else energies


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
        _check_latents(x, z, self.latent_dim)
        h = self.trunk(x)
        dtype = h.dtype
        h = Linear(self.latent_dim, dtype=dtype, name="projection")(h)
        h = jnp.broadcast_to(h, (*z.shape[:-1], self.latent_dim))
        h = jnp.concatenate([h, z.astype(dtype)], axis=-1)
        h = Linear(self.width, dtype=dtype, name="joint")(h)
        h = LeakyReLU(self.slope, name="activation")(h)
        dtype = jnp.promote_types(dtype, jnp.float32)
        return Linear(1, dtype=dtype, name="output")(h)[..., 0]


def _check_latents(x: Array, z: Array, latent_dim: int) -> None:
    """ValueError unless latents are [B, k] or [M, B, k] for x [B, ...]."""
    checks.array("x", x)
    checks.array("z", z)
    if z.ndim not in (2, 3) or z.shape[-2:] != (len(x), latent_dim):
        raise ValueError(
            f"x has shape {list(x.shape)} and z {list(z.shape)}: give z as [B, k] or "
            f"[M, B, k] with one of k={latent_dim} numbers for each x"
        )


MIN_STD = 0.05
"""Of a posterior's Gaussians: it bounds the log-density where a generator's samples
determine their latents, which without a bound would grow until it overflows."""


class Posterior(linen.Module):
    """T(x, z) = log q(z | x) - log N(z; 0, I): x [B, ...], z [M, B, k] -> [M, B].

    The statistics network of the variational bound `losses.variational`. q is a
    mixture of `num_components` Gaussians whose means and, by way of a sigmoid between
    `MIN_STD` and 1, deviations follow linearly from the trunk's features; at first they
    are near 1, those of the prior. Layer norm keeps the means of that size whatever the
    size of the features, which the energy's change by thousands.

    z may be [B, k], too. trunk: None where x are features already, such as the
    energy's.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import Posterior
    >>> from megjax.networks import mlp
    >>> network = Posterior(mlp.Trunk((8,)), latent_dim=3)
    >>> x, z = jnp.ones((4, 2)), jnp.ones((1, 4, 3))
    >>> network.apply(network.init(jax.random.key(0), x, z), x, z).shape
    (1, 4)
    """

    trunk: linen.Module | None
    latent_dim: int
    num_components: int = 1

    @linen.compact
    def __call__(self, x: Array, z: Array) -> Array:
        _check_latents(x, z, self.latent_dim)
        h = self.trunk(x) if self.trunk else x
        dtype = jnp.promote_types(h.dtype, jnp.float32)
        h = linen.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)(h)
        num, dim = self.num_components, self.latent_dim
        outputs = Linear(num * (2 * dim + 1), dtype=dtype, name="output")(h)
        outputs = outputs.reshape(len(h), num, 2 * dim + 1)
        mean = outputs[..., :dim]
        narrowness = jax.nn.sigmoid(outputs[..., dim : 2 * dim] - 3)
        log_std = math.log(MIN_STD) * narrowness
        log_weight = jax.nn.log_softmax(outputs[..., -1])
        z = z.astype(dtype)[..., None, :]
        scaled = (z - mean) * jnp.exp(-log_std)
        # The constants of the two Gaussians cancel.
        log_ratio = jnp.sum((z**2 - scaled**2) / 2 - log_std, axis=-1)
        return jax.nn.logsumexp(log_weight + log_ratio, axis=-1)
