"""What a model of the plane has learned: samples, densities, and the mass on the modes.

Kumar et al. 2019, figure 3; the mass curve shows at which inverse temperature the
energy is a density.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import plotting
from megjax.data import toy
from megjax.learners.base import Learner
from megjax.metrics import coverage, grid_density
from megjax.types import Evaluation, Report

BETAS = np.logspace(-1, 3, 41)
RADIUS = 0.1
"""Distance from a mode that counts as near it."""


class Truth(NamedTuple):
    """What is known of a planar training set.

    x: training points [N, 2]. held_out: points of the same density that no training
    saw [M, 2]. mixture: that density, where it has a closed form.
    """

    x: np.ndarray
    held_out: np.ndarray
    mixture: toy.Mixture | None = None


def planar(
    learner: Learner, truth: Truth, *, num_samples: int = 5000, extent: float = 2.0
) -> Evaluation:
    """An evaluation of a model of the plane, on the window [-extent, extent]^2.

    Metrics: the mass of exp(-beta E) near modes (or near data) at beta = 1, 10, 100;
    the beta whose density gives training points the highest likelihood, and the mean
    log-likelihood of held-out points in nats at that beta and at 1. With a known
    density also mode coverage of the samples, what the density itself gives the
    held-out points, and the difference, its KL divergence to the model.
    """
    grid = grid_density.grid(extent=extent)
    centres = truth.mixture.centres if truth.mixture else truth.x[:2000]
    cells = grid_density.near(grid, centres, RADIUS)

    @jax.jit
    def measured(key, state):
        return (
            learner.sample(key, state, num_samples),
            grid_density.grid_energies(lambda x: learner.energy(state, x), grid),
            learner.energy(state, jnp.asarray(truth.x)),
            learner.energy(state, jnp.asarray(truth.held_out)),
        )

    def evaluate(key, state):
        x, energies, at_data, at_held_out = measured(key, state)
        curve = grid_density.mass_curve(energies, cells, BETAS)
        losses = grid_density.cross_entropies(energies, at_data, grid, BETAS)
        best = BETAS[np.argmin(losses)]
        held_out = -grid_density.cross_entropies(
            energies, at_held_out, grid, np.array([1.0, best])
        )
        metrics = _masses(curve, best) | _likelihoods(held_out, truth)
        if truth.mixture:
            metrics |= coverage.coverage(np.asarray(x), *truth.mixture)
        return Report(metrics, _pictures(x, energies, curve, best, cells, grid, truth))

    return evaluate


def _masses(curve, best):
    def mass(beta):
        return float(np.interp(np.log(beta), np.log(BETAS), curve))

    return {f"mass_at_beta_{beta}": mass(beta) for beta in (1, 10, 100)} | {
        "best_beta": float(best),
        "best_beta_mass": mass(best),
    }


def _likelihoods(held_out, truth):
    """held_out: mean log-likelihood of held-out points at beta = 1 and at the best."""
    names = ("beta_1", "best_beta")
    metrics = {
        f"held_out_log_likelihood_at_{name}": float(value)
        for name, value in zip(names, held_out)
    }
    if truth.mixture:
        log_p = toy.mixture_log_density(truth.mixture, jnp.asarray(truth.held_out))
        ceiling = float(jnp.mean(log_p))
        metrics["held_out_log_likelihood_of_truth"] = ceiling
        metrics |= {
            f"kl_at_{name}": ceiling - float(value)
            for name, value in zip(names, held_out)
        }
    return metrics


def _pictures(x, energies, curve, best, cells, grid, truth):
    window = (-grid.extent, grid.extent) * 2
    near = "modes" if truth.mixture else "data"

    def heatmap(beta):
        log_masses = grid_density.cell_log_masses(energies, beta) - grid.log_cell_area
        values = np.exp(np.asarray(log_masses)).reshape(grid.size, grid.size)
        return plotting.heatmap(
            values,
            extent=window,
            title=rf"$\exp(-\beta E)/Z$ on the window, $\beta$ = {beta:.3g}",
        )

    uniform = np.full(len(BETAS), cells.mean())
    return {
        "data": plotting.scatter(truth.x[:1600], extent=window, title="data"),
        "samples": plotting.scatter(x[:1600], extent=window, title="samples"),
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
