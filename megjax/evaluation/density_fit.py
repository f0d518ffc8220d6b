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
from megjax.metrics import coverage, grid_density
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
    true points have; `nearby`, and the relative spread of the samples.
    """
    grid = grid_density.grid(cells, extent)
    target = grid_density.cell_shares(truth.held_out, cells, extent)

    def divergence(energies, beta):
        log_masses = grid_density.cell_log_masses(jnp.asarray(energies), beta)
        return grid_density.kl_divergence(target / target.sum(), np.asarray(log_masses))

    @jax.jit
    def measured(key, state):
        return (
            learner.sample(key, state, num_samples),
            grid_density.grid_energies(lambda x: learner.energy(state, x), grid),
        )

    def evaluate(key, state):
        x, energies = map(np.asarray, measured(key, state))
        divergences = [divergence(energies, beta) for beta in planar.BETAS]
        best = planar.BETAS[np.argmin(divergences)]
        metrics = {
            "kl_at_beta_1": divergence(energies, 1.0),
            "best_beta": float(best),
            "kl_at_best_beta": float(min(divergences)),
            "kl_of_uniform": divergence(energies, 0.0),
            "jsd_of_samples": _sampled_jsd(truth.held_out, x, extent),
            "jsd_of_truth": _sampled_jsd(
                truth.held_out[num_samples:], truth.held_out[:num_samples], extent
            ),
        }
        num = min(len(x), len(truth.x), 5000)
        metrics |= nearby(x[:num], truth.x[:num])
        metrics |= coverage.relative_spread(x[:num], truth.x[:num])
        return Report(metrics, _pictures(truth.x, x, energies, best, grid))

    return evaluate


def nearby(
    x: np.ndarray, data: np.ndarray, radius: float = RADIUS
) -> Mapping[str, float]:
    """How far samples x [N, 2] cover as many data [N, 2] and lie on them.

    coverage: fraction of the data with a sample within `radius`; precision: of the
    samples with data within it. coverage_of_truth: of one half of the data by the
    other.
    """
    half = len(data) // 2
    pairs = {
        "coverage": (data, x),
        "precision": (x, data),
        "coverage_of_truth": (data[:half], data[half:]),
    }
    return {
        name: float(np.mean(spatial.KDTree(others).query(points)[0] < radius))
        for name, (points, others) in pairs.items()
    }


def _sampled_jsd(truth, x, extent, cells=64):
    """With a cell for all that lies outside the window."""

    def shares(points):
        inside = grid_density.cell_shares(points, cells, extent)
        return np.append(inside, max(1 - inside.sum(), 0))

    return grid_density.jensen_shannon_divergence(shares(truth), shares(x))


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
