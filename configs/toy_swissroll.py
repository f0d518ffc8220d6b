"""A swiss roll seen from its side: Kumar et al. 2019, figure 3.

python train.py --config=configs/toy_swissroll.py
python train.py --config=configs/toy_swissroll.py:calibrated

Measured for `calibrated`, three seeds: 3 minutes on one CPU core; 85 to 92 % of exp(-E)
within 0.1 of a datum.
"""

from configs import toy_25gaussians
from megjax.data import toy


def get_config(variant="paper"):
    """As for 25 Gaussians."""
    config = toy_25gaussians.get_config(variant)
    config.build = build
    return config


def build(config):
    """MEG on an endless stream of points; the true density has no closed form."""
    return toy_25gaussians.planar_meg(config, toy.swiss_roll)
