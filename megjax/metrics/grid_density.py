"""Densities of planar energies on a grid: exp(-beta E) normalised by its sum.

Kumar et al. 2019, figure 3. The scale of a trained energy is not calibrated, so beta is
always explicit. Mass outside the grid is not seen.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax.types import Array, EnergyFn


class Grid(NamedTuple):
    """Cell centres of a square window.

    points: [size^2, 2], second coordinate fastest. extent: half width of the window.
    """

    points: np.ndarray
    size: int
    extent: float

    @property
    def log_cell_area(self) -> float:
        """Logarithm of the area of one cell."""
        return 2 * math.log(2 * self.extent / self.size)


def grid(size: int = 500, extent: float = 2.0) -> Grid:
    """The paper's window: 500 x 500 cells on [-2, 2]^2."""
    edges = np.linspace(-extent, extent, size + 1, dtype=np.float32)
    centres = (edges[:-1] + edges[1:]) / 2
    first, second = np.meshgrid(centres, centres, indexing="ij")
    return Grid(np.stack([first.ravel(), second.ravel()], axis=1), size, extent)


def grid_energies(energy_fn: EnergyFn, grid: Grid, chunks: int = 20) -> Array:
    """Energies of the grid's cells [size^2], in chunks to bound memory.

    >>> import jax.numpy as jnp
    >>> from megjax.metrics.grid_density import grid, grid_energies
    >>> cells = grid(size=10)
    >>> grid_energies(lambda x: jnp.sum(x**2, -1), cells).shape
    (100,)
    """
    points = jnp.asarray(grid.points)
    padding = -len(points) % chunks
    points = jnp.pad(points, ((0, padding), (0, 0))).reshape(chunks, -1, 2)
    energies = jax.lax.map(energy_fn, points).ravel()
    return energies[: len(energies) - padding]


def cell_log_masses(energies: Array, inverse_temperature: float) -> Array:
    """Log-probability of each cell under exp(-beta E) on the grid: [N] -> [N]."""
    return jax.nn.log_softmax(-inverse_temperature * energies)


def near(grid: Grid, centres: np.ndarray, radius: float) -> np.ndarray:
    """Which cells lie within `radius` of one of the centres [M, 2]: bool [size^2]."""
    # A third of a second, of which sampling and its commands have no need.
    from scipy import spatial

    distances, _ = spatial.KDTree(centres).query(grid.points)
    return distances < radius


def mass_curve(energies: Array, cells: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Mass of exp(-beta E) on the marked cells [N], for every beta: [len(betas)]."""

    def mass(beta):
        return jnp.sum(jnp.exp(cell_log_masses(energies, beta)) * cells)

    return np.asarray(jax.lax.map(mass, jnp.asarray(betas, jnp.float32)))


def cross_entropies(
    energies: Array, at_data: Array, grid: Grid, betas: np.ndarray
) -> np.ndarray:
    """Mean of -log p_beta over data, in nats, for every beta: [len(betas)].

    energies: of the cells [size^2]; at_data: of data points [N]. Minus the entropy of
    the true density this is its KL divergence to p_beta.
    """

    def loss(beta):
        log_z = jax.nn.logsumexp(-beta * energies) + grid.log_cell_area
        return beta * jnp.mean(at_data) + log_z

    return np.asarray(jax.lax.map(loss, jnp.asarray(betas, jnp.float32)))


def cell_shares(x: np.ndarray, cells: int, extent: float) -> np.ndarray:
    """Fractions of points x [N, 2] in the window's cells [cells^2], ordered as `grid`.

    Points outside count in the total but in no cell.
    """
    edges = np.linspace(-extent, extent, cells + 1)
    counts, _, _ = np.histogram2d(*x.T, bins=(edges, edges))
    return counts.ravel() / max(len(x), 1)


def kl_divergence(p: np.ndarray, log_q: np.ndarray) -> float:
    """KL(p || q) in nats of distributions over cells, p [N] and log q [N].

    Where p is made of counts, counting adds about one nat per two points a cell.
    """
    seen = p > 0
    return float(np.sum(p[seen] * (np.log(p[seen]) - log_q[seen])))


def jensen_shannon_divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Of two distributions over cells [N], in nats, in [0, log 2].

    >>> import numpy as np
    >>> from megjax.metrics.grid_density import jensen_shannon_divergence
    >>> print(f"{jensen_shannon_divergence(np.array([1, 0]), np.array([0, 1])):.4f}")
    0.6931
    """
    with np.errstate(divide="ignore"):
        log_mixture = np.log((p + q) / 2)
    return (kl_divergence(p, log_mixture) + kl_divergence(q, log_mixture)) / 2
