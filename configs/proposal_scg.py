"""A learned proposal on a strongly correlated Gaussian in the plane: Li, Chen and
Sommer 2021 (proposal entropy), table 1.

python train.py --config=configs/proposal_scg.py

Trains for the entropy relative to the target, which the paper does not. Measured, three
seeds: 50 to 60 seconds on one CPU core; 1 effective draw per transition in the paper's
definition (which has 0.89), 0.964 +- 0.005 in Geyer's, 0.125 per gradient where both
directions count.
"""

from megjax.recipes import proposal


def get_config():
    """Two updates of each half of the noise: eight gradients a transition."""
    config = proposal.config(**proposal.relative())
    config.train.num_steps = 10_000
    config.recipe = proposal.scg
    return config
