"""A learned proposal on an ill-conditioned Gaussian in 50 dimensions: Li, Chen and
Sommer 2021 (proposal entropy), table 1.

python train.py --config=configs/proposal_icg.py
python sample.py --workdir=runs/proposal_icg --space=data --kernel=neural

Trains for the entropy relative to the target, which the paper does not. Measured, three
seeds: 100 seconds on one CPU core; 1 effective draw per transition in the paper's
definition (which has 0.86), 0.973 +- 0.007 in Geyer's, 0.25 per gradient (0.215).
"""

from megjax.recipes import proposal


def get_config():
    """One update of each half of the noise: four gradients a transition."""
    config = proposal.config(
        flow_steps=1, initial_step_size=1e-2, **proposal.relative()
    )
    config.width = 128
    config.train.num_steps = 4000
    config.recipe = proposal.icg
    return config
