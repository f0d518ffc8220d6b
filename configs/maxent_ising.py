"""The couplings of the square-lattice Ising model, learned back from its configurations.

python train.py --config=configs/maxent_ising.py:2.75
python sample.py --workdir=runs/maxent_ising-2.75 --space=none
python evaluate.py --workdir=runs/maxent_ising-2.75

Maximum entropy given the mean of every spin and of every product of neighbours (Mehta
et al. 2019, section 15): one coupling for each of 3200 bonds, all of them 1 / T in
truth. The argument is the temperature of notebook 18: 1.75, 2.25 or 2.75.

Measured at 1.75 and 2.25: one or two minutes on a shared CPU core; mean couplings
0.5730 and 0.4448 with standard errors of 0.0008 and 0.0003, for 1 / T = 0.5714 and
0.4444; energies and magnetisations of samples of the model within 2.5 standard errors of the
data.
"""

from megjax.recipes import boltzmann


def get_config(temperature="2.75"):
    """Chains that restart at the data, and a rate that falls to 0 against their noise.

    Persistent chains start disordered. Below the critical temperature they then freeze
    in domains, and the couplings grow far too large to melt these.
    """
    config = boltzmann.lattice_config(
        temperature,
        num_chains=500,
        persistent=False,
        method="sgd",
        learning_rate=0.3,
    )
    config.batch_size = 500
    config.train.num_steps = config.train.evaluate_every = 600
    config.train.log_every = 100
    return config
