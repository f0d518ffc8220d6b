"""The couplings of the square-lattice Ising model, learned back from its configurations.

python train.py --config=configs/maxent_ising.py:2.75
python sample.py --workdir=runs/maxent_ising-2.75 --space=none
python evaluate.py --workdir=runs/maxent_ising-2.75

Maximum entropy given the mean of every spin and of every product of neighbours (Mehta
et al. 2019, section 15): one coupling for each of 3200 bonds, all of them 1 / T in
truth. The argument is the temperature of notebook 18: 1.75, 2.25 or 2.75.

Measured at 1.75 and 2.25: one or two minutes on a shared CPU core; mean couplings
0.5730 and 0.4448 with standard errors of 0.0008 and 0.0003, for 1 / T = 0.5714 and
0.4444; energies and magnetisations of fantasies within 2.5 standard errors of the data.
"""

import jax.numpy as jnp

from configs import base, rbm_mnist
from megjax.data import ising as lattice
from megjax.energies import ising
from megjax.evaluation import ising as observables
from megjax.learners import contrastive
from megjax.training.experiment import Experiment

TEMPERATURES = ("1.75", "2.25", "2.75")


def get_config(temperature="2.75"):
    """Chains that restart at the data, and a rate that falls to 0 against their noise.

    Persistent chains start disordered. Below the critical temperature they then freeze
    in domains, and the couplings grow far too large to melt these.
    """
    if temperature not in TEMPERATURES:
        raise ValueError(
            f"temperature {temperature!r}: choose one of {', '.join(TEMPERATURES)}"
        )
    config = rbm_mnist.machine_config()
    config.batch_size = 500
    config.inverse_temperature = 1 / float(temperature)
    config.size, config.num_examples = 40, 10_000
    config.contrast.update(
        {
            "num_chains": 500,
            "persistent": False,
            "method": "sgd",
            "learning_rate": 0.3,
            "num_sample_sweeps": 1000,
        }
    )
    config.evaluation = {"num_fantasies": 500}
    config.train.num_steps = 600
    config.train.log_every = 100
    config.train.evaluate_every = 600
    config.build = build
    return config


def build(config):
    """Spins on the edges of the lattice."""
    data = lattice.ising(
        config.inverse_temperature,
        size=config.size,
        num_examples=config.num_examples,
        seed=config.train.seed,
    )
    base.at_least("evaluation.num_fantasies", config.evaluation.num_fantasies, 2)
    family = ising.family(config.size**2, edges=ising.square_lattice(config.size))
    coding = contrastive.spins(data.shape)
    learner = contrastive.contrastive(rbm_mnist.specification(config, family, coding))
    return Experiment(
        data,
        learner,
        {
            "ising": observables.ising(
                learner,
                lattice.chains(data),
                config.inverse_temperature,
                num_samples=config.evaluation.num_fantasies,
            ),
            "couplings": observables.recovered(
                lambda state: jnp.ravel(state.model.params["couplings"]),
                config.inverse_temperature,
            ),
        },
    )
