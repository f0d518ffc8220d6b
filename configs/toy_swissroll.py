"""A swiss roll seen from its side: Kumar et al. 2019, figure 3.

python train.py --config=configs/toy_swissroll.py
python train.py --config=configs/toy_swissroll.py:calibrated

`calibrated` has a final stage of noise-contrastive estimation (NCE), as for 25 Gaussians.
Measured, three seeds: KL 0.002 to 0.003 nats. Before that stage: 3 minutes on one CPU core;
85 to 92 % of exp(-E) within 0.1 of a datum.
"""

from megjax.recipes import meg


def get_config(variant="paper"):
    """As for 25 Gaussians, on an endless stream; the density is a sum over the curve."""
    return meg.plane_config("swiss_roll", variant)
