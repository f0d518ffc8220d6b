"""A learned proposal on Neal's funnel: Li, Chen and Sommer 2021 (proposal entropy),
table 1 and figure 2.

python train.py --config=configs/proposal_funnel.py:1
python train.py --config=configs/proposal_funnel.py:3

:1 is the funnel of NeuTra, 100 dimensions with x0 ~ N(0, 1) and x_i | x0 ~
N(0, exp(-2 x0)); :3 is Neal's own, 20 dimensions with x0 ~ N(0, 9) and x_i | x0 ~
N(0, exp(-x0)).

Differences from the paper: the entropy is relative to the target and differentiated by
the path gradient, coupling masks are bisecting, shrinkage is learned, and there is no R.
Half of the training states of :3 come from a funnel with a wider x0.

Measured: effective sample size (ESS) of x0 by the paper's truncated estimator, at one
gradient per transition. :3, five seeds, 25 minutes each on one CPU core: 0.76 +- 0.03
per transition (paper: 0.256; HMC and NUTS: 0.001). :1, three seeds, 28 minutes each:
0.64 +- 0.01 per gradient (paper: 0.037; NUTS: 4e-5).
"""

from megjax.recipes import proposal


def get_config(std="3"):
    """The funnel of a standard deviation of x0; more updates still improve it."""
    config = proposal.config(
        initial_step_size=0.01,
        coupling_masks="bisecting",
        learned_shrinkage=True,
        # With R training takes twice as long and a transition 28 gradients or 16, not
        # 1; without learned shrinkage R is worth a third more on the first funnel.
        gradient="position",
        **proposal.relative(),
    )
    config.width = 64
    # So many bisections part x0 from every other coordinate, ceil(log2 dim). With one
    # less its chains stand still wherever one is left with it: that one cannot follow.
    if std == "1":
        config.funnel = {"dim": 100, "std": 1.0, "power": 2.0}
        config.proposal.flow_steps = 7
        config.batch_size, config.train.num_steps = 128, 20_000
        tails = 0.0
    elif std == "3":
        config.funnel = {"dim": 20, "std": 3.0, "power": 1.0}
        config.proposal.flow_steps = 5
        config.train.num_steps = 20_000
        tails = 0.5
    else:
        raise ValueError(f"variant {std!r}: choose one of 1, 3")
    # Of the states that training proposes from, so many are this far out in x0.
    config.tails = {"share": tails, "std": 1.5 * config.funnel.std}
    config.recipe = proposal.funnel
    return config
