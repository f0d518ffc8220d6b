"""A learned proposal on Neal's funnel: Li, Chen and Sommer 2021 (proposal entropy),
table 1 and figure 2.

python train.py --config=configs/proposal_funnel.py:1
python train.py --config=configs/proposal_funnel.py:3

:1 is the funnel of NeuTra, 100 dimensions with x0 ~ N(0, 1) and x_i | x0 ~
N(0, exp(-2 x0)); :3 is Neal's own, 20 dimensions with x0 ~ N(0, 9) and x_i | x0 ~
N(0, exp(-x0)).

Other than the paper: the entropy relative to the target, by the gradient along the
path, halves of the coordinates that separate every two, and far moves; no R.

Measured, effective draws of x0 in the paper's definition, at one gradient per
transition, three seeds. :3, 25 minutes each on one CPU core: 0.71 +- 0.12 per
transition (paper 0.256), where HMC and NUTS have 0.001. :1, 28 minutes: 0.64 +- 0.01
per gradient (paper 0.037), where NUTS has 4e-5.
"""

from configs import proposal_icg
from megjax.densities import targets
from megjax.evaluation import proposals

VARIANTS = {
    "1": {"dim": 100, "std": 1.0, "power": 2.0},
    "3": {"dim": 20, "std": 3.0, "power": 1.0},
}


def get_config(std="3"):
    """The funnel of a standard deviation of x0; it goes on improving with updates."""
    config = proposal_icg.proposal_config()
    if std not in VARIANTS:
        raise ValueError(f"variant {std!r}: choose one of {', '.join(VARIANTS)}")
    config.funnel = VARIANTS[std]
    config.width = 64
    config.batch_size = 128 if std == "1" else 256
    proposal_icg.relative(config)
    config.proposal.update(
        {
            # Of 100 coordinates only seven halvings part x0 from every other.
            "flow_steps": 7 if std == "1" else 4,
            "initial_step_size": 0.01,
            "coupling_masks": "bisecting",
            "learned_shrinkage": True,
            # With R training takes twice as long and a transition 28 gradients or 16,
            # not 1; without far moves it is worth a third more on the first funnel.
            "gradient": "position",
        }
    )
    config.train.num_steps = 20_000 if std == "1" else 30_000
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
