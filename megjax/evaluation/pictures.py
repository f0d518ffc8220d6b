"""Pictures of samples and of chains."""

from functools import partial

import jax
import numpy as np

from megjax import plotting
from megjax.learners.base import Learner
from megjax.metrics import mcmc
from megjax.types import Evaluation, Report


def sample_grid(learner: Learner, num: int = 100) -> Evaluation:
    """An evaluation that shows `num` images from the same latents every time.

    Metrics: mean and standard deviation of the samples' energies.
    """
    draw = jax.jit(partial(learner.sample, num=num))
    energy = jax.jit(learner.energy)

    def evaluate(key, state):
        x = draw(key, state)
        energies = np.asarray(energy(state, x))
        return Report(
            {
                "energy_mean": float(energies.mean()),
                "energy_std": float(energies.std()),
            },
            {"samples": plotting.image_grid(np.asarray(x))},
        )

    return evaluate


def chains(x: np.ndarray, *, num_lags: int = 100) -> dict[str, np.ndarray]:
    """Traces, ranks and autocorrelations of x [chains, draws, dim], first 4 dimensions.

    >>> import numpy as np
    >>> from megjax.evaluation.pictures import chains
    >>> sorted(chains(np.random.default_rng(0).normal(size=(2, 50, 1))))
    ['autocorrelations', 'ranks', 'traces']
    """
    x = np.asarray(x)[..., :4]
    panels = {f"$x_{i}$": x[..., i] for i in range(x.shape[2])}
    correlations = mcmc.autocorrelations(x, mcmc.Estimator())[:num_lags]
    lags = np.arange(len(correlations))
    return {
        "traces": plotting.traces(panels),
        "ranks": plotting.ranks(panels),
        "autocorrelations": plotting.curves(
            {name: (lags, correlations[:, i]) for i, name in enumerate(panels)},
            x_label="lag (transitions)",
            y_label="autocorrelation",
        ),
    }
