"""What a model of the plane has learned: samples, densities, and the mass on the modes.

Kumar et al. 2019, figure 3; the mass curve shows at which inverse temperature the
energy is a density.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import plotting
from megjax.evaluation import density, modes
from megjax.learners.learner import Learner
from megjax.types import Evaluation, Report

BETAS = np.logspace(-1, 3, 41)
RADIUS = 0.1
"""Distance from a mode that counts as near it."""


class Truth(NamedTuple):
    """What is known of a planar training set.

    x: data points [N, 2]. centres: of its modes [M, 2], or None.
    std: of a mode. entropy: of the true density in nats, or None.
    """

    x: np.ndarray
    centres: np.ndarray | None = None
    std: float = 0.0
    entropy: float | None = None


def planar(
    learner: Learner, truth: Truth, *, num_samples: int = 5000, extent: float = 2.0
) -> Evaluation:
    """An evaluation of a model of the plane, on the window [-extent, extent]^2.

    Metrics: mode coverage of the samples, the mass of exp(-beta E) near modes (or near
    data) at beta = 1, 10, 100, the beta whose density gives the data the highest
    likelihood, and that likelihood in nats. With a known entropy also the KL of the
    truth to the density at beta = 1 and at the best beta.
    """
    grid = density.grid(extent=extent)
    centres = truth.x[:2000] if truth.centres is None else truth.centres
    cells = density.near(grid, centres, RADIUS)

    @jax.jit
    def measured(key, state):
        return (
            learner.sample(key, state, num_samples),
            density.grid_energies(lambda x: learner.energy(state, x), grid),
            learner.energy(state, jnp.asarray(truth.x[:20000])),
        )

    def evaluate(key, state):
        x, energies, at_data = measured(key, state)
        curve = density.mass_curve(energies, cells, BETAS)
        losses = density.cross_entropies(energies, at_data, grid, BETAS)
        metrics = _metrics(np.asarray(x), curve, losses, truth)
        best = BETAS[np.argmin(losses)]
        return Report(metrics, _pictures(x, energies, curve, best, cells, grid, truth))

    return evaluate


def _metrics(x, curve, losses, truth):
    best = int(np.argmin(losses))
    one = int(np.argmin(np.abs(BETAS - 1)))
    metrics = {
        f"mass_at_beta_{beta}": float(np.interp(np.log(beta), np.log(BETAS), curve))
        for beta in (1, 10, 100)
    }
    metrics |= {"best_beta": float(BETAS[best]), "best_beta_mass": float(curve[best])}
    metrics["log_likelihood_at_best_beta"] = -float(losses[best])
    metrics["log_likelihood_at_beta_1"] = -float(losses[one])
    if truth.entropy is not None:
        metrics["kl_at_best_beta"] = float(losses[best]) - truth.entropy
        metrics["kl_at_beta_1"] = float(losses[one]) - truth.entropy
    if truth.centres is not None:
        metrics |= modes.coverage(x, truth.centres, truth.std)
    return metrics


def _pictures(x, energies, curve, best, cells, grid, truth):
    window = (-grid.extent, grid.extent) * 2
    near = "modes" if truth.centres is not None else "data"

    def heatmap(beta):
        log_masses = density.cell_log_masses(energies, beta) - grid.log_cell_area
        values = np.exp(np.asarray(log_masses)).reshape(grid.size, grid.size)
        return plotting.heatmap(
            values,
            extent=window,
            title=rf"$\exp(-\beta E)/Z$ on the window, $\beta$ = {beta:.3g}",
        )

    uniform = np.full(len(BETAS), cells.mean())
    return {
        "data": plotting.scatter(truth.x[:1600], extent=window, title="data"),
        "samples": plotting.scatter(x[:1600], extent=window, title="generator"),
        "density_beta_1": heatmap(1.0),
        "density_best_beta": heatmap(best),
        "mass_curve": plotting.curves(
            {
                rf"$\exp(-\beta E)$ within {RADIUS} of the {near}": (BETAS, curve),
                "uniform": (BETAS, uniform),
            },
            x_label=r"inverse temperature $\beta$",
            y_label="share of mass",
            log_x=True,
        ),
    }
