"""MEG on the pinwheel of Kim and Bengio 2016, to hold deep directed models against.

python train.py --config=configs/toy_four_spin.py

Not yet run to its end.
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
