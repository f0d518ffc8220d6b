"""A learned proposal on a crescent in the plane: Li, Chen and Sommer 2021 (proposal
entropy), figure 1.

python train.py --config=configs/proposal_moon.py

Measured: after 60 seconds on one CPU core, proposals cover the crescent from any of its
points and nine of ten are accepted.
"""

from megjax.recipes import proposal


def get_config():
    """The demonstration of the paper's code, with the optimizer of the other configs."""
    config = proposal.config()
    config.batch_size = 512
    config.train.num_steps = 5000
    config.recipe = proposal.moon
    return config
