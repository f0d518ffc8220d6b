"""Equilibrium configurations of the square-lattice Ising model, by clusters.

Swendsen and Wang 1987; Wolff 1989 flips one of the same clusters. The set-up is that of
Mehta et al. 2019, notebook 18: 40 x 40 spins, periodic, coupling 1 between neighbours,
10,000 configurations at the temperatures 1.75, 2.25 and 2.75.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from megjax import random
from megjax.data import images
from megjax.data.dataset import Dataset
from megjax.types import Array, Key

NUM_CHAINS = 100
"""Independent chains of a set, in equal numbers of consecutive examples."""


def swendsen_wang(key: Key, spins: Array, inverse_temperature: float | Array) -> Array:
    """Spins after every cluster was given a fresh sign: [B, L, L] in {-1, 1}, likewise.

    Leaves exp(inverse_temperature * sum of s_i s_j over neighbours) invariant.
    """
    key_bonds, key_signs = jax.random.split(key)
    # An aligned pair is bound with probability 1 - exp(-2 beta).
    kept = -jnp.expm1(-2.0 * inverse_temperature)
    bound = jax.random.bernoulli(key_bonds, kept, (2, *spins.shape))
    aligned = [spins == jnp.roll(spins, -1, axis) for axis in (1, 2)]
    label = clusters(bound & jnp.stack(aligned))
    flip = jax.random.bernoulli(key_signs, shape=(spins.size,))[label]
    return jnp.where(flip, -spins, spins)


def clusters(bonds: Array) -> Array:
    """The least site of each site's cluster, int32 [B, L, L].

    bonds: bool [2, B, L, L], of every site to the next along either axis, periodic.
    Sites count through all lattices, row by row. By trees of sites, whose roots are
    hooked to lower ones and whose paths are halved, until nothing changes (Shiloach
    and Vishkin 1982): a few rounds, where passing labels to neighbours takes as many
    as the longest path has sites.
    """

    def one(carry):
        before, _ = carry
        label = before.ravel()
        for axis, bond in enumerate(bonds, 1):
            after = jnp.roll(before, -1, axis)
            # Site 0 is its own root, so that the unbound pairs change nothing there.
            high = jnp.where(bond, jnp.maximum(before, after), 0).ravel()
            low = jnp.where(bond, jnp.minimum(before, after), 0).ravel()
            label = label.at[high].min(low)
        label = label[label]
        label = label[label].reshape(before.shape)
        return label, jnp.any(label != before)

    sites = jnp.arange(bonds[0].size, dtype=jnp.int32).reshape(bonds.shape[1:])
    return jax.lax.while_loop(lambda carry: carry[1], one, (sites, jnp.bool_(True)))[0]


def configurations(
    key: Key,
    inverse_temperature: float | Array,
    *,
    size: int = 40,
    num_chains: int = NUM_CHAINS,
    num_draws: int = 100,
    num_burn_in: int = 200,
    thin: int = 10,
) -> Array:
    """Draws of independent chains: int8 [num_chains, num_draws, size, size].

    num_burn_in: sweeps from all spins up to the first draw; thin: from one to the next.
    Raises ValueError for lattices of fewer than 3 x 3 spins, whose neighbours meet twice,
    and for a negative temperature, whose bonds cannot be drawn.
    """
    _check_lattice(inverse_temperature, size)
    settings = (size, num_chains, num_draws, num_burn_in, thin)
    return _configurations(random.checked(key), inverse_temperature, *settings)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _configurations(
    key, inverse_temperature, size, num_chains, num_draws, num_burn_in, thin
):
    def sweep(spins, key):
        return swendsen_wang(key, spins, inverse_temperature), None

    def draw(spins, key):
        spins, _ = jax.lax.scan(sweep, spins, jax.random.split(key, thin))
        return spins, spins

    key_burn_in, key_draws = jax.random.split(key)
    spins = jnp.ones((num_chains, size, size), jnp.int8)
    spins, _ = jax.lax.scan(sweep, spins, jax.random.split(key_burn_in, num_burn_in))
    _, drawn = jax.lax.scan(draw, spins, jax.random.split(key_draws, num_draws))
    return jnp.swapaxes(drawn, 0, 1)


def ising(
    inverse_temperature: float,
    *,
    size: int = 40,
    num_examples: int = 10_000,
    seed: int = 0,
) -> Dataset:
    """A fixed set of lattices as images [size, size, 1] of -1 and 1.

    Made from the seed at every call. `num_examples` is a multiple of the 100 chains,
    whose draws follow each other. Raises ValueError where it is not, and for a lattice
    without two rows or a temperature that is not positive.
    """
    _check(inverse_temperature, size, num_examples)
    spins = configurations(
        jax.random.key(seed),
        inverse_temperature,
        size=size,
        num_draws=num_examples // NUM_CHAINS,
    )
    pixels = np.where(np.asarray(spins) > 0, 255, 0).astype(np.uint8)
    return images.resident("ising", pixels.reshape(-1, size, size, 1))


def chains(data: Dataset) -> np.ndarray:
    """The spins of a set of `ising` by chain: int8 [100, draws, size, size]."""
    spins = np.where(data.store > 0, 1, -1).astype(np.int8)
    return spins.reshape(NUM_CHAINS, -1, *data.shape[:2])


def _check(inverse_temperature, size, num_examples):
    if not 0 < inverse_temperature < float("inf"):
        raise ValueError(
            f"inverse_temperature={inverse_temperature}: give a positive number"
        )
    _check_lattice(inverse_temperature, size)
    if num_examples < 1 or num_examples % NUM_CHAINS:
        raise ValueError(
            f"num_examples={num_examples}: give a multiple of {NUM_CHAINS}, the chains"
        )


def _check_lattice(inverse_temperature, size):
    traced = isinstance(inverse_temperature, jax.core.Tracer)
    if not traced and not np.all(np.asarray(inverse_temperature) >= 0):
        raise ValueError(
            f"inverse_temperature={inverse_temperature}: clusters are those of aligned "
            "spins, so give 0 or more; for antiferromagnets use energies.ising with "
            "samplers.gibbs"
        )
    if size < 3:
        raise ValueError(
            f"size={size}: give at least 3; on 2 x 2 spins neighbours meet twice"
        )
