"""How well data, samples and the energy of a model of the plane agree.

Kim and Bengio 2016, figure 2, with the numbers that it lacks.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy import spatial

from megjax import plotting
from megjax.evaluation import planar
from megjax.learners.base import Learner
from megjax.metrics import grid_density
from megjax.types import Evaluation, Report

RADIUS = 0.1
"""Distance within which one point covers another."""

SHOWN = 2000


def alignment(
    learner: Learner,
    truth: planar.Truth,
    *,
    num_samples: int = 20_000,
    extent: float = 4.5,
    cells: int = 150,
) -> Evaluation:
    """An evaluation of samples and energy against points of the true density.

    truth: `held_out` is counted on a grid of cells^2 and stands for the density there,
        so give as many points as can be.

    Densities are those on the window [-extent, extent]^2 alone: exp(-E) may have no
    finite integral beyond. Metrics: the KL divergence in nats of the true density to
    exp(-beta E) at beta = 1 and at the best beta, and to a uniform one; the
    Jensen-Shannon divergence of samples and truth on 64^2 cells, with what as many
    true points have; and `collapse`.
    """
    grid = grid_density.grid(cells, extent)
    target = cell_shares(truth.held_out, cells, extent)

    @jax.jit
    def measured(key, state):
        return (
            learner.sample(key, state, num_samples),
            grid_density.grid_energies(lambda x: learner.energy(state, x), grid),
        )

    def evaluate(key, state):
        x, energies = map(np.asarray, measured(key, state))
        losses = [divergence(target, energies, beta) for beta in planar.BETAS]
        best = planar.BETAS[np.argmin(losses)]
        metrics = {
            "kl_at_beta_1": divergence(target, energies, 1.0),
            "best_beta": float(best),
            "kl_at_best_beta": float(min(losses)),
            "kl_of_uniform": divergence(target, energies, 0.0),
            "jsd_of_samples": _sampled_jsd(truth.held_out, x, extent),
            "jsd_of_truth": _sampled_jsd(
                truth.held_out[num_samples:], truth.held_out[:num_samples], extent
            ),
        }
        num = min(len(x), len(truth.x), 5000)
        metrics |= collapse(x[:num], truth.x[:num])
        return Report(metrics, _pictures(truth.x, x, energies, best, grid))

    return evaluate


def cell_shares(x: np.ndarray, cells: int, extent: float) -> np.ndarray:
    """Shares of points x [N, 2] in the window's cells, as `density.grid` orders them.

    [cells^2]; points outside count in the total but in no cell.
    """
    edges = np.linspace(-extent, extent, cells + 1)
    counts, _, _ = np.histogram2d(*x.T, bins=(edges, edges))
    return counts.ravel() / max(len(x), 1)


def divergence(target: np.ndarray, energies: np.ndarray, beta: float) -> float:
    """KL(target || exp(-beta E)) of cells in nats: target, energies [N].

    Counting instead of integrating adds about one nat per two points for each cell.
    """
    log_model = np.asarray(grid_density.cell_log_masses(jnp.asarray(energies), beta))
    seen = target > 0
    share = target[seen] / target.sum()
    return float(np.sum(share * (np.log(share) - log_model[seen])))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions over cells, in [0, log 2]."""
    mixture = (p + q) / 2

    def kl(a):
        seen = a > 0
        return np.sum(a[seen] * np.log(a[seen] / mixture[seen]))

    return float((kl(p) + kl(q)) / 2)


def collapse(
    x: np.ndarray, data: np.ndarray, radius: float = RADIUS
) -> Mapping[str, float]:
    """How far samples x [N, 2] cover as many data [N, 2] and lie on them.

    coverage: share of the data with a sample within `radius`; precision: share of the
    samples with data within it. coverage_of_truth: of one half of the data by the
    other. spread: standard deviation of samples over that of data. spacing: the median
    distance of a sample to the next over that of data; 0 at total collapse.
    """
    half = len(data) // 2
    return {
        "coverage": float(np.mean(_distances(data, x) < radius)),
        "precision": float(np.mean(_distances(x, data) < radius)),
        "coverage_of_truth": float(
            np.mean(_distances(data[:half], data[half:]) < radius)
        ),
        "spread": float(np.sqrt(np.sum(np.var(x, 0)) / np.sum(np.var(data, 0)))),
        "spacing": float(_spacing(x) / _spacing(data)),
    }


def _distances(points, others):
    """Of every point to the nearest of the others."""
    return spatial.KDTree(others).query(points)[0]


def _spacing(x):
    return np.median(spatial.KDTree(x).query(x, 2)[0][:, 1])


def _sampled_jsd(truth, x, extent, cells=64):
    """With a cell for all that lies outside the window."""

    def shares(points):
        inside = cell_shares(points, cells, extent)
        return np.append(inside, max(1 - inside.sum(), 0))

    return jensen_shannon(shares(truth), shares(x))


def _pictures(data, x, energies, best, grid):
    window = (-grid.extent, grid.extent) * 2
    size = (grid.size, grid.size)
    log_masses = grid_density.cell_log_masses(jnp.asarray(energies), best)
    values = np.exp(np.asarray(log_masses) - grid.log_cell_area).reshape(size)
    limits = tuple(np.quantile(energies, (0.002, 0.5)))
    return {
        "figure_2": plotting.aligned(
            data[:SHOWN],
            x[:SHOWN],
            energies.reshape(size),
            extent=window,
            limits=limits,
        ),
        "density": plotting.heatmap(
            values,
            extent=window,
            title=rf"$\exp(-\beta E)/Z$ on the window, $\beta$ = {best:.3g}",
        ),
    }
