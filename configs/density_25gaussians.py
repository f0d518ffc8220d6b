"""25 Gaussians on a grid, as a density: noise contrast, Gutmann and Hyvarinen 2012.

python train.py --config=configs/density_25gaussians.py
python evaluate.py --workdir=runs/density_25gaussians

MEASURED
"""

from megjax.recipes import density


def get_config():
    """The settings of every density in the plane."""
    return density.plane_config("gaussians_25")
