"""The two spirals of Kim and Bengio 2016, as a density, by noise-contrastive estimation (NCE).

python train.py --config=configs/density_two_spirals.py
python evaluate.py --workdir=runs/density_two_spirals

Gutmann and Hyvarinen 2012. Measured, three seeds: KL 0.016 to 0.019 nats at inverse
temperature 1; held-out log-likelihood -2.67 nats, where a Gaussian mixture chosen by BIC has
-2.69 and kernel density estimation -2.70. 20 CPU seconds.
"""

from megjax.recipes import density


def get_config():
    """Coarser features and fewer steps than for Gaussians: 10,000 points are overfit."""
    config = density.plane_config("two_spirals")
    config.network.scale = 4.0
    config.train.num_steps = 800
    config.train.save_every = config.train.evaluate_every = 800
    return config
