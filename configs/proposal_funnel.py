"""A learned proposal on Neal's funnel: Li, Chen and Sommer 2021 (proposal entropy),
table 1 and figure 2.

python train.py --config=configs/proposal_funnel.py:1
python train.py --config=configs/proposal_funnel.py:3

:1 is the funnel of NeuTra, 100 dimensions with x0 ~ N(0, 1) and x_i | x0 ~
N(0, exp(-2 x0)); :3 is Neal's own, 20 dimensions with x0 ~ N(0, 9) and x_i | x0 ~
N(0, exp(-x0)).

At these settings a job for an accelerator; it has not been run. 1500 steps at N = 2,
width 64 and batch 256 (77 seconds on one CPU core) give 0.001 effective draws of x0 per
transition.
"""

from configs import proposal_icg
from megjax.data import targets
from megjax.evaluation import proposals

VARIANTS = {
    "1": {"dim": 100, "std": 1.0, "power": 2.0},
    "3": {"dim": 20, "std": 3.0, "power": 1.0},
}


def get_config(std="3"):
    """The funnel of a standard deviation of x0. Train it as long as it takes."""
    config = proposal_icg.proposal_config()
    if std not in VARIANTS:
        raise ValueError(f"variant {std!r}: choose one of {', '.join(VARIANTS)}")
    config.funnel = VARIANTS[std]
    config.batch_size, config.width = 512, 128
    config.proposal.update(
        {"flow_steps": 4, "target_acceptance": 0.7, "initial_step_size": 0.01}
    )
    config.train.num_steps = 50_000
    config.build = build
    return config


def build(config):
    """The sampler of the funnel; what counts is the first coordinate."""
    target = targets.funnel(**config.funnel)
    built = proposal_icg.proposal_experiment(config, target)
    trial = proposal_icg.trial(config, target)
    marginal = proposals.first_marginal(
        built.learner, trial._replace(num_chains=1000), std=config.funnel.std
    )
    return built._replace(evaluations=built.evaluations | {"x0": marginal})
