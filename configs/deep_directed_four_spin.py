"""A pinwheel by a deep directed model: Kim and Bengio 2016, figure 2 (a).

python train.py --config=configs/deep_directed_four_spin.py
python train.py --config=configs/deep_directed_four_spin.py:no_entropy
python train.py --config=configs/deep_directed_four_spin.py:workshop

Measured: about 2 minutes on one CPU core; the energy's density is 1.52 nats from the
truth on the plotted window at its best inverse temperature (a uniform one 2.29), 1.80
without entropy, 2.28 with the workshop's settings.
"""

from megjax.recipes import deep_directed


def get_config(variant="entropy"):
    """As for two spirals, but for a larger score penalty.

    The space between the arms is wide, and with less the energy falls below theirs at
    the ends, where few data and fewer samples lie.
    """
    config = deep_directed.plane_config("four_spin", variant)
    if variant != "workshop":
        config.deep_directed.score_weight = 0.03
    return config
