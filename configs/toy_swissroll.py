"""A swiss roll seen from its side: Kumar et al. 2019, figure 3.

python train.py --config=configs/toy_swissroll.py
python train.py --config=configs/toy_swissroll.py:calibrated

`calibrated` ends with noise contrast, as for 25 Gaussians: 0.002 to 0.003 nats from the
truth. Measured before that, three seeds as well: 3 minutes on one CPU core; 85 to 92 %
of exp(-E) within 0.1 of a datum.
"""

from megjax.recipes import meg


def get_config(variant="paper"):
    """As for 25 Gaussians, on an endless stream; the density has no closed form."""
    return meg.plane_config("swiss_roll", variant)
