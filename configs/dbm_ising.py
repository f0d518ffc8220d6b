"""A deep Boltzmann machine of square-lattice Ising configurations.

python train.py --config=configs/dbm_ising.py:2.25
python evaluate.py --workdir=runs/dbm_ising-2.25

After Mehta et al. 2019, notebook 18, on 16 x 16 spins in place of 40 x 40 and with more
hidden units for each. The notebook's steps are too few and too short to learn more than
noise (its reconstruction error is that of random spins), so rates are higher here, and
samples of the model are judged by their energy and magnetisation. The argument is the temperature.

All units are spins, so that the model starts with the symmetry of the lattice, and its
gradient is that of centred units. One hidden unit can be one bond, of which there are
two for each site.

Measured at 2.25: 5 minutes on a shared CPU core; samples of the model have an energy of
-1.480 +- 0.007 (data -1.483 +- 0.002), but fluctuate too little: mean abs(m)
0.761 +- 0.007 against 0.741 +- 0.002, specific heat 1.18 +- 0.07 against 1.46.
"""

from megjax.recipes import boltzmann


def get_config(temperature="2.25"):
    """Layers of 512 and 32 hidden units: 30 epochs each, then 160 together."""
    config = boltzmann.deep_lattice_config(
        temperature, l1=1e-6, num_sweeps=4, learning_rate=0.003
    )
    config.size = 16
    config.num_hidden_1, config.num_hidden_2 = 512, 32
    config.num_pretraining_steps = 30 * 95
    config.joint_learning_rate = 0.003
    config.train.num_steps = config.train.evaluate_every = (2 * 30 + 160) * 95
    config.train.log_every = 95
    return config
