"""The pinwheel (four-spin) of Kim and Bengio 2016, as a density, by noise-contrastive estimation.

python train.py --config=configs/density_pinwheel.py
python evaluate.py --workdir=runs/density_pinwheel

Gutmann and Hyvarinen 2012. Measured, three seeds: held-out log-likelihood -2.104 to -2.109
nats, where a Gaussian mixture chosen by BIC has -2.114 to -2.131 and kernel density
estimation -2.149 to -2.170. 15 CPU seconds.
"""

from megjax.recipes import density


def get_config():
    """Coarser features and fewer steps than for Gaussians: 10,000 points are overfit."""
    config = density.plane_config("four_spin")
    config.network.scale = 4.0
    config.train.num_steps = 500
    config.train.save_every = config.train.evaluate_every = 500
    return config
