"""A learned proposal in the latent space of a trained MEG: exp(-beta E(G(z))) p(z).

python train.py --config=configs/digits.py
python train.py --config=configs/proposal_latent.py --config.target=runs/digits
python sample.py --workdir=runs/digits --kernel=neural --proposal=runs/proposal_latent
python evaluate.py --workdir=runs/proposal_latent

Measured on the digits of the demo: two minutes of CPU time for training and
comparison. The effective sample size of the energy per 1000 gradients is .80 for the
learned proposal, .79 for HMC and .78 for MALA. See docs/results/proposals.md.
"""

from megjax.recipes import proposal


def get_config():
    """The digits of the demo; `target` is the run directory of any MEG."""
    config = proposal.config(
        flow_steps=1,
        # E(G(z)) is piecewise linear, and gradients through dU at x + R miss its kinks.
        # Without R a transition costs one gradient, not four.
        gradient="position",
        relative_entropy=True,
        target_acceptance=0.5,
        entropy_weight_ceiling=3.0,
        buffer_size=1024,
        burn_in=200,
        num_transitions=20,
    )
    config.target = "runs/digits"
    config.inverse_temperature = 5.0
    config.batch_size, config.width = 128, 64
    config.evaluation = {"num_chains": 256, "num_records": 400, "warm_up": 100}
    config.train.num_steps = 4000
    config.train.iterations_per_call_cpu = 1
    config.recipe = proposal.latent
    return config
