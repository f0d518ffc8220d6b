"""Densities in the plane: Kumar et al., Maximum Entropy Generators for Energy-Based
Models (2019), figure 3, and Kim and Bengio, Deep Directed Generative Models with
Energy-Based Probability Estimation (2016), figure 2.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import checks
from megjax.data.dataset import Dataset
from megjax.types import Array, Key


class Mixture(NamedTuple):
    """Equally weighted isotropic Gaussians.

    centres: float32 [M, D]
    std: of every component along every axis
    """

    centres: np.ndarray
    std: float


def grid_25() -> Mixture:
    """The density of `gaussians_25`: pitch 2 and std 0.05, divided by 2.828."""
    axis = np.arange(-4.0, 5.0, 2.0)
    centres = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(25, 2)
    return Mixture(np.float32(centres / 2.828), 0.05 / 2.828)


def ring_8() -> Mixture:
    """The density of `gaussians_8`: radius 2 and std 0.02, divided by 1.414."""
    angles = np.arange(8) * np.pi / 4
    centres = 2 * np.stack([np.cos(angles), np.sin(angles)], -1)
    return Mixture(np.float32(centres / 1.414), 0.02 / 1.414)


def mixture_log_density(mixture: Mixture, x: Array) -> Array:
    """log p(x) in nats, [...], at points x [..., D].

    >>> import jax.numpy as jnp
    >>> from megjax.data.toy import grid_25, mixture_log_density
    >>> x = jnp.array([[0.0, 0.0], [0.3, 0.3]])
    >>> density = jnp.exp(mixture_log_density(grid_25(), x))
    >>> bool(density[0] > density[1])
    True
    """
    num, dim = mixture.centres.shape
    squares = jnp.sum((x[..., None, :] - mixture.centres) ** 2, -1)
    log_terms = -squares / (2 * mixture.std**2)
    log_normaliser = np.log(num) + dim / 2 * np.log(2 * np.pi * mixture.std**2)
    return jax.nn.logsumexp(log_terms, axis=-1) - log_normaliser


def gaussians_25(*, seed: int = 0, num_examples: int = 100_000) -> Dataset:
    """A fixed set from `grid_25`, the same number of points around every centre.

    `num_examples` is rounded down to a multiple of 25; ValueError where that is 0.

    >>> from megjax.data.toy import gaussians_25
    >>> gaussians_25(num_examples=1000).store.shape
    (1000, 2)
    """
    checks.at_least("num_examples", num_examples, 25)
    mixture = grid_25()
    component = np.arange(num_examples - num_examples % 25) % 25
    noise = jax.random.normal(jax.random.key(seed), (len(component), 2))
    points = mixture.centres[component] + mixture.std * np.asarray(noise)
    return _fixed("25gaussians", points)


def gaussians_8(*, seed: int = 0) -> Dataset:
    """Fresh draws from `ring_8`: an endless set."""
    mixture = ring_8()

    def point(key: Key) -> Array:
        component_key, noise_key = jax.random.split(key)
        component = jax.random.randint(component_key, (), 0, len(mixture.centres))
        noise = jax.random.normal(noise_key, (2,))
        return jnp.asarray(mixture.centres)[component] + mixture.std * noise

    return _endless("8gaussians", point, seed=seed)


def swiss_roll(*, seed: int = 0, noise: float = 0.25) -> Dataset:
    """Fresh draws from scikit-learn's roll seen from its side, divided by 7.5.

    (t cos t, t sin t) plus `noise` times a normal, t uniform on [1.5 pi, 4.5 pi].
    ValueError where `noise` is negative or not finite.
    """
    checks.at_least("noise", noise, 0)

    def point(key: Key) -> Array:
        angle_key, noise_key = jax.random.split(key)
        t = 1.5 * jnp.pi * (1 + 2 * jax.random.uniform(angle_key))
        roll = t * jnp.stack([jnp.cos(t), jnp.sin(t)])
        return (roll + noise * jax.random.normal(noise_key, (2,))) / 7.5

    return _endless("swissroll", point, seed=seed)


def swiss_roll_log_density(x: Array, noise: float = 0.25) -> Array:
    """log p(x) of `swiss_roll`, [..., 2] -> [...], by a sum over points of its curve.

    Of 400 points at the default noise, where it is off by 4e-5 in the mean over draws,
    and of more where there is less noise. Raises ValueError where `noise` is not positive.

    >>> import jax.numpy as jnp
    >>> from megjax.data.toy import swiss_roll_log_density
    >>> x = jnp.array([[0.0, 0.0], [0.0, -0.63]])
    >>> bool(jnp.diff(swiss_roll_log_density(x))[0] > 0)
    True
    """
    checks.positive("noise", noise)
    num = 400 * max(1, math.ceil(0.25 / noise))
    t = 1.5 * np.pi * (1 + 2 * (np.arange(num) + 0.5) / num)
    curve = (t * np.stack([np.cos(t), np.sin(t)])).T / 7.5
    return mixture_log_density(Mixture(np.float32(curve), noise / 7.5), x)


def two_spirals(*, seed: int = 0, num_examples: int = 10_000) -> Dataset:
    """A fixed set on two interleaved arms, within a radius of about 3.5.

    Kim and Bengio name the set without defining it; this is our reading: radius
    3 pi sqrt(u), jitter uniform on [0, 0.5], all over 3, then noise of std 0.1.
    """
    checks.at_least("num_examples", num_examples, 1)
    keys = jax.random.split(jax.random.key(seed), 3)
    radius = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(keys[0], (num_examples, 1)))
    arm = jnp.concatenate([-jnp.cos(radius), jnp.sin(radius)], 1) * radius
    arm += jax.random.uniform(keys[1], (num_examples, 2), maxval=0.5)
    mirror = jnp.where(jnp.arange(num_examples) % 2, -1.0, 1.0)[:, None]
    points = mirror * arm / 3 + 0.1 * jax.random.normal(keys[2], (num_examples, 2))
    return _fixed("two_spirals", points)


def two_spirals_log_density(x: Array) -> Array:
    """log p(x) of `two_spirals`, [..., 2] -> [...], by a sum over points of its arms.

    Around each, a uniform square that the normal noise has smoothed: a product of
    differences of its distribution function.

    >>> import jax.numpy as jnp
    >>> from megjax.data.toy import two_spirals_log_density
    >>> x = jnp.array([[0.3, 0.3], [9.0, 9.0]])
    >>> bool(jnp.diff(two_spirals_log_density(x))[0] < 0)
    True
    """
    radius = 3 * np.pi * np.sqrt((np.arange(1000) + 0.5) / 1000)
    arm = (np.stack([-np.cos(radius), np.sin(radius)]) * radius).T / 3

    def one(x):
        distances = jnp.stack([x - arm, -x - arm])
        ends = jax.scipy.stats.norm.cdf(distances / 0.1)
        ends -= jax.scipy.stats.norm.cdf((distances - 0.5 / 3) / 0.1)
        return jnp.log(jnp.mean(jnp.prod(ends * 3 / 0.5, axis=-1)))

    flat = jax.lax.map(one, jnp.reshape(x, (-1, 2)), batch_size=256)
    return flat.reshape(x.shape[:-1])


def four_spin(*, seed: int = 0, num_examples: int = 10_000) -> Dataset:
    """A fixed set on a pinwheel of four arms.

    Kim and Bengio name the set without defining it; this is our reading: around
    radius 1, std 0.3 along and 0.1 across an arm, turned by exp(radius) / 4, times 2.
    """
    checks.at_least("num_examples", num_examples, 1)
    noise = jax.random.normal(jax.random.key(seed), (num_examples, 2))
    along, across = 1 + 0.3 * noise[:, 0], 0.1 * noise[:, 1]
    angle = jnp.arange(num_examples) % 4 * (jnp.pi / 2) + 0.25 * jnp.exp(along)
    x = along * jnp.cos(angle) + across * jnp.sin(angle)
    y = across * jnp.cos(angle) - along * jnp.sin(angle)
    return _fixed("four_spin", 2 * jnp.stack([x, y], 1))


def _fixed(name: str, points: Array | np.ndarray) -> Dataset:
    store = np.asarray(points, np.float32)
    return Dataset(name, (2,), len(store), store, lambda store, i: store[i])


def _endless(name: str, point: Callable[[Key], Array], *, seed: int) -> Dataset:
    """Example i is `point` at the key of `seed` folded with i."""

    def take(store: tuple, indices: Array) -> Array:
        del store
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), indices)
        return jax.vmap(point)(keys)

    return Dataset(name, (2,), None, (), take)
