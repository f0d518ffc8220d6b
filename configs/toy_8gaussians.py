"""8 Gaussians on a ring, fresh points in every batch: Kumar et al. 2019, figure 3.

python train.py --config=configs/toy_8gaussians.py
python train.py --config=configs/toy_8gaussians.py:calibrated

Measured for `calibrated`, three seeds: 3 minutes on one CPU core; all 8 modes, 91 to
94 % of the samples within 4 standard deviations of one.
"""

from configs import toy_25gaussians
from megjax.data import toy


def get_config(variant="paper"):
    """As for 25 Gaussians."""
    config = toy_25gaussians.get_config(variant)
    config.build = build
    return config


def build(config):
    """MEG on an endless stream of points."""
    return toy_25gaussians.planar_meg(config, toy.gaussians_8, toy.ring_8())
