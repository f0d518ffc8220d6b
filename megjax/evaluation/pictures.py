"""Pictures of samples, for the eye."""

from functools import partial

import jax
import numpy as np

from megjax import plotting
from megjax.learners.base import Learner
from megjax.types import Evaluation, Report


def sample_grid(learner: Learner, num: int = 100) -> Evaluation:
    """An evaluation that shows `num` images from the same latents every time.

    Metrics: the range of the samples' energies.
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
