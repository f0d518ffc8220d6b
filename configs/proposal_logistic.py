"""A learned proposal on the posterior of a logistic regression: Li, Chen and Sommer
2021 (proposal entropy), table 1.

python train.py --config=configs/proposal_logistic.py:german

Also :australian and :heart. The sets are looked for in and beside
--config.data_dir, by default ~/tensorflow_datasets.

The proposal works in coordinates that its buffer whitens, and trains for its entropy
relative to the target by the gradient along the path, none of which the paper does.

Measured, effective draws per 5000 transitions in the paper's definition (its own), three
seeds: heart 4450 +- 18 (3600) after three minutes on one CPU core, australian 4491 +- 24
(2950) after four, german 4235 +- 17 (3150) after seven. With the paper's entropy: 3858,
3308, and 2149 (one seed).
"""

from configs import base, proposal_icg
from megjax.densities import logistic


def get_config(name="german"):
    """The posterior of one of the three sets, prior N(0, 100)."""
    config = proposal_icg.posterior_config()
    base.choice("logistic.name", name, **logistic.FILES)
    config.logistic = {"name": name, "prior_variance": logistic.PRIOR_VARIANCE}
    config.data_dir = ""
    config.build = build
    return config


def build(config):
    """The sampler of the posterior, trained on its own chains."""
    target = logistic.regression(
        config.logistic.name,
        data_dir=config.data_dir or None,
        prior_variance=config.logistic.prior_variance,
    )
    return proposal_icg.proposal_experiment(config, target)
