"""Cluster moves against enumerated lattices and clusters found another way."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import coo_matrix, csgraph

from megjax.data import ising


def least_sites(bonds):
    """The least site of every site's connected component, by SciPy: one lattice."""
    size = bonds.shape[-1]
    sites = np.arange(size**2).reshape(size, size)
    pairs = [
        (sites[bond], np.roll(sites, -1, axis)[bond]) for axis, bond in enumerate(bonds)
    ]
    first, second = (np.concatenate(part) for part in zip(*pairs))
    graph = coo_matrix((np.ones(len(first)), (first, second)), (size**2,) * 2)
    _, component = csgraph.connected_components(graph, directed=False)
    least = np.full(component.max() + 1, size**2)
    np.minimum.at(least, component, sites.ravel())
    return least[component].reshape(size, size)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.6, 1.0])
def test_clusters_are_connected_components(share):
    bonds = np.random.RandomState(0).uniform(size=(2, 3, 12, 12)) < share
    found = np.asarray(jax.jit(ising.clusters)(jnp.asarray(bonds)))
    for i in range(3):
        np.testing.assert_array_equal(found[i], least_sites(bonds[:, i]) + 144 * i)


def test_a_long_snake_is_one_cluster():
    # One spiral path through every site, where labels have the longest way to go.
    bonds = np.zeros((2, 1, 8, 8), bool)
    bonds[1, 0, :, :7] = True
    for row in range(7):
        bonds[0, 0, row, 7 if row % 2 == 0 else 0] = True
    assert np.all(ising.clusters(jnp.asarray(bonds)) == 0)


def enumerated(beta):
    """All 3 x 3 lattices and their probabilities."""
    spins = np.array(list(itertools.product([-1, 1], repeat=9))).reshape(-1, 3, 3)
    aligned = spins * (np.roll(spins, -1, 1) + np.roll(spins, -1, 2))
    weights = np.exp(beta * aligned.sum((1, 2)))
    return spins, weights / weights.sum()


@pytest.mark.parametrize("beta", [0.2, 0.44])
def test_moves_leave_the_enumerated_distribution_invariant(beta):
    """Draws of the exact distribution, moved once, have its histogram of energies."""
    spins, probs = enumerated(beta)
    num = 100_000
    rows = np.random.RandomState(0).choice(len(spins), num, p=probs)
    start = jnp.asarray(spins[rows])
    moved = np.asarray(jax.jit(ising.swendsen_wang)(jax.random.key(0), start, beta))
    code = ((moved.reshape(num, 9) > 0) @ (1 << np.arange(9)[::-1])).astype(int)
    counts = np.bincount(code, minlength=512)
    # Pearson's chi-squared over 512 states: mean 511, standard deviation 32.
    chi_squared = np.sum((counts - num * probs) ** 2 / (num * probs))
    assert abs(chi_squared - 511) < 5 * 32
    assert np.mean(np.any(moved != spins[rows], axis=(1, 2))) > 0.5


@pytest.mark.slow
def test_hot_and_cold_limits():
    start = jnp.ones((50, 6, 6), jnp.int8)
    hot = ising.swendsen_wang(jax.random.key(0), start, 0.0)
    # Without a coupling all spins are drawn anew.
    assert abs(float(jnp.mean(hot))) < 4 / np.sqrt(1800)
    cold = ising.swendsen_wang(jax.random.key(1), start, 20.0)
    assert jnp.all(jnp.abs(jnp.mean(cold, (1, 2))) == 1)
    assert 5 < int(jnp.sum(cold[:, 0, 0] == 1)) < 45


@pytest.mark.slow
def test_a_set_is_images_of_its_seed():
    data = ising.ising(0.5, size=4, num_examples=200)
    assert data.shape == (4, 4, 1) and data.num_examples == 200
    x = data.take(data.store, jnp.arange(200))
    assert x.dtype == jnp.float32 and set(np.unique(x)) == {-1.0, 1.0}
    again = ising.ising(0.5, size=4, num_examples=200)
    other = ising.ising(0.5, size=4, num_examples=200, seed=1)
    np.testing.assert_array_equal(data.store, again.store)
    assert np.any(data.store != other.store)
    np.testing.assert_array_equal(
        ising.chains(data), np.asarray(x).reshape(100, 2, 4, 4)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inverse_temperature": 0.0}, "inverse_temperature=0.0: give a positive"),
        ({"inverse_temperature": float("nan")}, "give a positive number"),
        ({"size": 2}, "size=2: give at least 3"),
        ({"num_examples": 150}, "num_examples=150: give a multiple of 100"),
    ],
)
def test_unusable_settings(change, message):
    with pytest.raises(ValueError, match=message):
        ising.ising(**{"inverse_temperature": 0.5} | change)


@pytest.mark.parametrize(
    ("inverse_temperature", "size", "message"),
    [
        (-0.6, 8, "inverse_temperature=-0.6: clusters .* give 0 or more"),
        (float("nan"), 8, "inverse_temperature=nan: clusters"),
        (0.4, 2, "size=2: give at least 3"),
    ],
)
def test_configurations_that_cannot_be_drawn(inverse_temperature, size, message):
    with pytest.raises(ValueError, match=message):
        ising.configurations(jax.random.key(0), inverse_temperature, size=size)
