"""8 Gaussians on a ring, fresh points in every batch, as a density: noise contrast, Gutmann and Hyvarinen 2012.

python train.py --config=configs/density_8gaussians.py
python evaluate.py --workdir=runs/density_8gaussians

Measured, three seeds: 0.001 to 0.002 nats from the truth at inverse temperature 1, log Z off
by less than 0.012; 32 CPU seconds.
"""

from megjax.recipes import density


def get_config():
    """The settings of every density in the plane."""
    return density.plane_config("gaussians_8")
