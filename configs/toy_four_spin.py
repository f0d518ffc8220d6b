"""MEG on the pinwheel of Kim and Bengio 2016, to hold deep directed models against.

python train.py --config=configs/toy_four_spin.py

Measured: 6 minutes on a shared CPU core; 97 % of the data within 0.1 of a sample, and
97 % the other way. The energy is worse: 1.65 nats from the truth on the plotted window
at its best inverse temperature, a uniform density 2.29 and the deep directed model 1.05.
"""

from configs import toy_two_spirals
from megjax.data import toy


def get_config():
    """As for two spirals."""
    config = toy_two_spirals.get_config()
    config.build = build
    return config


def build(config):
    """MEG on the fixed set of 10,000 points."""
    return toy_two_spirals.planar_meg(config, toy.four_spin)
