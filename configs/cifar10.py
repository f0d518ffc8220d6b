"""CIFAR-10: Kumar et al. 2019, table 2.

python train.py --config=configs/cifar10.py

The full length needs an accelerator (docs/gpu.md); 60 iterations at width 32 were run on
the real data.
"""

from configs import base
from megjax.data import images


def get_config():
    """The reference's settings."""
    config = base.image_config(32)
    config.build = build
    return config


def build(config):
    """MEG on the training split."""
    data = images.tfds_images("cifar10", data_dir=config.data_dir or None)
    return base.image_meg(config, data)
