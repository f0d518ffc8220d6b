"""The pinwheel of Kim and Bengio 2016, as a density: noise contrast, Gutmann and Hyvarinen 2012.

python train.py --config=configs/density_pinwheel.py
python evaluate.py --workdir=runs/density_pinwheel

Measured, one seed: -2.208 nats for held-out points at inverse temperature 1.
"""

from megjax.recipes import density


def get_config():
    """The settings of every density in the plane."""
    return density.plane_config("four_spin")
