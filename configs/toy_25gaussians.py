"""25 Gaussians on a grid: Kumar et al. 2019, figure 3.

python train.py --config=configs/toy_25gaussians.py
python train.py --config=configs/toy_25gaussians.py:calibrated

`calibrated` has a final stage of noise-contrastive estimation (NCE), after which
exp(-E) / Z is the density of the data. Measured, three seeds: 5 CPU minutes; all 25 modes,
99.9 % of the samples within 4 standard deviations of one, KL 0.003 to 0.006 nats. Before
that stage 76 to 87 % of the generator's samples are there, 60 to 69 % of exp(-E) is within
0.1 of a mode, and KL is 1.8 to 2.2 nats at beta = 1 (1.6 to 2.2 at the best beta). The
paper's settings (100,000 iterations at 8 a second) would take over 3 hours and have not
been run to the end.
"""

from megjax.recipes import meg


def get_config(variant="paper"):
    """On a fixed set of 100,000 points; both variants in `meg.plane_config`."""
    return meg.plane_config("gaussians_25", variant)
