"""Oxford flowers, all 8,189 images, at 32 pixels or any side of 4 * 2^n.

python train.py --config=configs/flowers.py
python train.py --config=configs/flowers.py --config.image_size=64

The full length needs an accelerator; 60 iterations at width 32 were run on the real data.
"""

from configs import base
from megjax.data import images


def get_config():
    """The reference's settings for CIFAR-10."""
    config = base.image_config(32)
    config.image_size = 32
    config.build = build
    return config


def build(config):
    """MEG on all three splits."""
    return base.image_meg(config, flowers(config))


def flowers(config):
    """The images of all three splits at the side of the config."""
    return images.tfds_images(
        "oxford_flowers102",
        split="all",
        data_dir=config.data_dir or None,
        image_size=config.image_size,
    )
