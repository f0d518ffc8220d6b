"""scikit-learn's 1797 handwritten digits, 8x8: the demo.

python train.py --config=configs/digits.py
"""

from configs import base
from megjax.data import images


def get_config():
    """A narrow network that trains on two CPU cores in minutes."""
    config = base.image_config(8)
    config.width = 64
    config.meg.latent_dim = 16
    config.train.num_steps = 4000
    config.train.evaluate_every = 1000
    config.build = build
    return config


def build(config):
    """MEG on the images that ship with scikit-learn."""
    return base.image_meg(config, images.digits())
