"""A learned proposal on a crescent in the plane: Li, Chen and Sommer 2021 (proposal
entropy), figure 1.

python train.py --config=configs/proposal_moon.py

Measured: 60 seconds on one CPU core; proposals that cover the crescent from any of its
points, nine of ten accepted.
"""

import numpy as np

from configs import proposal_icg
from megjax.densities import targets
from megjax.evaluation import proposals

POINTS = np.array([[-2.0, 0.0], [0.0, -4.0], [2.5, 2.25]])
"""On the ridge; the first is where the paper's figure starts."""


def get_config():
    """The demonstration of the paper's code, with the optimizer of the others here."""
    config = proposal_icg.proposal_config()
    config.batch_size = 512
    config.train.num_steps = 5000
    config.build = build
    return config


def build(config):
    """The sampler of the crescent, with pictures of its proposals."""
    target = targets.moon()
    built = proposal_icg.proposal_experiment(config, target)
    spec = proposal_icg.vector_spec(config, target)
    pictures = {"proposals": proposals.planar(spec, POINTS)}
    return built._replace(evaluations=built.evaluations | pictures)
