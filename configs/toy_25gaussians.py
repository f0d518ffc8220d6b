"""25 Gaussians on a grid: Kumar et al. 2019, figure 3.

python train.py --config=configs/toy_25gaussians.py
python train.py --config=configs/toy_25gaussians.py:calibrated

`calibrated` ends with noise contrast, after which exp(-E) / Z is the density of the data.
Measured, three seeds: 5 CPU minutes; all 25 modes, 99.9 % of the samples within 4
standard deviations of one, 0.003 to 0.006 nats from the truth. Before that, seeds 0 to
2: 76 to 87 % of the generator's samples there, 60 to 69 % of exp(-E) within 0.1 of a
mode, 1.8 to 2.2 nats. The paper's settings would take over 2 hours there (100,000
iterations at 13 a second) and have not been run to the end.
"""

from megjax.recipes import meg


def get_config(variant="paper"):
    """On a fixed set of 100,000 points; both variants in `meg.plane_config`."""
    return meg.plane_config("gaussians_25", variant)
