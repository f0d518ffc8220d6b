"""25 Gaussians on a grid: Kumar et al. 2019, figure 3.

python train.py --config=configs/toy_25gaussians.py
python train.py --config=configs/toy_25gaussians.py:calibrated

Measured for `calibrated`, three seeds: 3 minutes on one CPU core; all 25 modes, 76 to
87 % of the samples within 4 standard deviations of one, 60 to 69 % of exp(-E) within
0.1 of one. The paper's settings would take over 2 hours there (100,000 iterations at 13 a second) and have
not been run to the end.
"""

from megjax.recipes import meg


def get_config(variant="paper"):
    """On a fixed set of 100,000 points; both variants in `meg.plane_config`."""
    return meg.plane_config("gaussians_25", variant)
