"""Two spirals by a deep directed model: Kim and Bengio 2016, figure 2 (b).

python train.py --config=configs/deep_directed_two_spirals.py
python train.py --config=configs/deep_directed_two_spirals.py:no_entropy
python train.py --config=configs/deep_directed_two_spirals.py:workshop

Measured: 2 minutes on one CPU core; both arms in the samples (95 % of the data within
0.1 of one) and in the energy, whose density is 0.41 nats from the truth on the plotted
window at its best inverse temperature, a uniform one 1.74. Without entropy the samples
are as good and the energy is worse (1.60); the workshop's settings, half a minute, give
neither. MEG (`toy_two_spirals`) reaches 0.27, and 98 % of the data.
"""

from megjax.recipes import deep_directed


def get_config(variant="entropy"):
    """On a fixed set of 10,000 points; the variants in `deep_directed.plane_config`."""
    return deep_directed.plane_config("two_spirals", variant)
