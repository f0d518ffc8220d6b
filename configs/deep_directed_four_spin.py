"""A pinwheel by a deep directed model: Kim and Bengio 2016, figure 2 (a).

python train.py --config=configs/deep_directed_four_spin.py
python train.py --config=configs/deep_directed_four_spin.py:no_entropy
python train.py --config=configs/deep_directed_four_spin.py:workshop

Measured: about 2 minutes on one CPU core; the energy's density is 1.05 nats from the
truth on the plotted window at its best inverse temperature (a uniform one 2.29), 1.50
without entropy, 2.28 with the workshop's settings.
"""

from configs import deep_directed_two_spirals
from megjax.data import toy


def get_config(variant="entropy"):
    """As for two spirals, but for a larger score penalty.

    The space between the arms is wide, and with less the energy falls below theirs at
    the ends, where few data and fewer samples lie.
    """
    config = deep_directed_two_spirals.get_config(variant)
    if variant != "workshop":
        config.deep_directed.score_weight = 0.03
    config.build = build
    return config


def build(config):
    """On the fixed set of 10,000 points."""
    return deep_directed_two_spirals.planar_model(config, toy.four_spin)
