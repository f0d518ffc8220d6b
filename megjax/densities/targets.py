"""Densities to try samplers on, with what is known of them in closed form.

Li, Chen and Sommer, A Neural Network MCMC Sampler That Maximizes Proposal Entropy
(2021), section 5; the densities of Levy et al. 2018 (L2HMC), Neal 2003 and Haario et
al. 1999.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax.data import toy
from megjax.types import Array, Key, LogDensityFn

FUNNEL_BOUND = 25.0


class Moments(NamedTuple):
    """Means [dim] and variances [dim] of the coordinates, float64."""

    mean: np.ndarray
    variance: np.ndarray


class Target(NamedTuple):
    """A density on R^dim.

    name: for messages and tables.
    log_density: one position [dim] -> log p in nats, up to a constant.
    sample: (key, num) -> exact draws [num, dim]; None where nobody knows how.
    moments: closed form, or long runs of another sampler; None where unknown.

    >>> import jax
    >>> from megjax.densities.targets import funnel
    >>> target = funnel(dim=3, std=1.0)
    >>> target.sample(jax.random.key(0), 5).shape
    (5, 3)
    """

    name: str
    dim: int
    log_density: LogDensityFn
    sample: Callable[[Key, int], Array] | None = None
    moments: Moments | None = None


def starts(target: Target, key: Key, num: int) -> Array:
    """Positions for chains to start at: exact draws, else of N(0, I): [num, dim]."""
    if target.sample is not None:
        return target.sample(key, num)
    return jax.random.normal(key, (num, target.dim))


def gaussian(name: str, covariance: np.ndarray) -> Target:
    """N(0, C) for a covariance [dim, dim], or [dim] where it is diagonal.

    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from megjax.densities.targets import gaussian
    >>> target = gaussian("normal", np.array([1.0, 4.0]))
    >>> float(target.log_density(jnp.array([0.0, 2.0])))
    -0.5
    """
    covariance = np.asarray(covariance, np.float64)
    diagonal = covariance.ndim == 1
    dim = len(covariance)
    factor = np.sqrt(covariance) if diagonal else np.linalg.cholesky(covariance)
    # Rows of the inverse factor turn x into independent standard normals.
    inverse = 1 / factor if diagonal else np.linalg.inv(factor)

    def whitened(x):
        matrix = jnp.asarray(inverse, x.dtype)
        return matrix * x if diagonal else matrix @ x

    def sample(key, num):
        noise = jax.random.normal(key, (num, dim))
        matrix = jnp.asarray(factor, noise.dtype)
        return noise * matrix if diagonal else noise @ matrix.T

    def log_density(x):
        return -0.5 * jnp.sum(whitened(x) ** 2)

    variance = covariance if diagonal else np.diag(covariance)
    return Target(name, dim, log_density, sample, Moments(np.zeros(dim), variance))


def ill_conditioned_gaussian(dim: int = 50) -> Target:
    """ICG: independent, variances log-linear from 0.01 to 100."""
    return gaussian(f"icg-{dim}", np.logspace(-2, 2, dim))


def strongly_correlated_gaussian() -> Target:
    """SCG: variances 100 and 0.1 along axes turned by pi / 4.

    The second variance as in L2HMC's code; its paper says 0.01.
    """
    return gaussian("scg", np.array([[50.05, -49.95], [-49.95, 50.05]]))


def banana(*, std: float = 1.0, bend: float = 1.0, shift: float = 0.0) -> Target:
    """x0 ~ N(0, std^2), x1 | x0 ~ N(bend x0^2 + shift, 1).

    >>> from megjax.densities.targets import banana
    >>> banana().moments.mean.tolist()
    [0.0, 1.0]
    """

    def log_density(x):
        ridge = bend * x[0] ** 2 + shift
        return -0.5 * (x[0] / std) ** 2 - 0.5 * (x[1] - ridge) ** 2

    def sample(key, num):
        noise = jax.random.normal(key, (num, 2))
        first = std * noise[:, 0]
        return jnp.stack([first, bend * first**2 + shift + noise[:, 1]], axis=1)

    mean = np.array([0.0, bend * std**2 + shift])
    variance = np.array([std**2, 1 + 2 * (bend * std**2) ** 2])
    return Target("banana", 2, log_density, sample, Moments(mean, variance))


def moon() -> Target:
    """The crescent of the proposal paper's figure 1: a banana through (0, -4)."""
    return banana(shift=-4.0)._replace(name="moon")


def funnel(*, dim: int, std: float, power: float = 1.0) -> Target:
    """Neal's funnel: x0 ~ N(0, std^2), x_i | x0 ~ N(0, exp(-power x0)).

    The proposal paper writes power 2, NeuTra's funnel mirrored, and its code computes
    power 1. Var x_i = exp(power^2 std^2 / 2), with tails too heavy to see that in
    draws from std = 3. The exponent stops at 25, or nine standard deviations where
    that is more, so that float32 stays finite far outside; the density remains exact
    and its sampler stops there too. Raises ValueError where dim < 2.
    """
    if dim < 2:
        raise ValueError(f"dim={dim}: a funnel has at least 2 coordinates.")
    bound = max(FUNNEL_BOUND, 9 * power * std)
    is_first = np.arange(dim) == 0

    def log_precision(first):
        return jnp.clip(power * first, -bound, bound)

    def log_density(x):
        # Selected, not sliced: the padding in a slice's gradient is slow on CPUs.
        first = jnp.sum(jnp.where(is_first, x, 0.0))
        log_scale = log_precision(first)
        rest = jnp.sum(jnp.where(is_first, 0.0, x) ** 2)
        widths = jnp.exp(log_scale) * rest - (dim - 1) * log_scale
        return -0.5 * ((first / std) ** 2 + widths)

    def sample(key, num):
        noise = jax.random.normal(key, (num, dim))
        first = std * noise[:, :1]
        rest = noise[:, 1:] * jnp.exp(-0.5 * log_precision(first))
        return jnp.concatenate([first, rest], axis=1)

    variance = np.full(dim, np.exp(0.5 * (power * std) ** 2))
    variance[0] = std**2
    moments = Moments(np.zeros(dim), variance)
    return Target(f"funnel-{std:g}", dim, log_density, sample, moments)


def mixture(name: str, components: toy.Mixture) -> Target:
    """Equally weighted isotropic Gaussians, as `toy.grid_25` and `toy.ring_8`."""
    centres = np.asarray(components.centres, np.float64)
    num_components, dim = centres.shape

    def sample(key, num):
        component_key, noise_key = jax.random.split(key)
        chosen = jax.random.randint(component_key, (num,), 0, num_components)
        noise = jax.random.normal(noise_key, (num, dim))
        return jnp.asarray(centres, noise.dtype)[chosen] + components.std * noise

    def log_density(x):
        return toy.mixture_log_density(components, x).astype(x.dtype)

    moments = Moments(centres.mean(0), centres.var(0) + components.std**2)
    return Target(name, dim, log_density, sample, moments)
