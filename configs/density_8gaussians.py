"""8 Gaussians on a ring, fresh points in every batch, as a density: noise contrast, Gutmann and Hyvarinen 2012.

python train.py --config=configs/density_8gaussians.py
python evaluate.py --workdir=runs/density_8gaussians

MEASURED
"""

from megjax.recipes import density


def get_config():
    """The settings of every density in the plane."""
    return density.plane_config("gaussians_8")
