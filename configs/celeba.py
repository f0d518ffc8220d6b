"""CelebA faces, cropped to 140 pixels and resized to 64: Kumar et al. 2019, figure 4.

python train.py --config=configs/celeba.py

Needs an accelerator; run on made-up images only, for want of the data.
"""

from configs import base
from megjax.data import images


def get_config():
    """The reference's settings."""
    config = base.image_config(64)
    config.image_size = 64
    config.build = build
    return config


def build(config):
    """MEG on the training split."""
    data = images.tfds_images(
        "celeb_a",
        data_dir=config.data_dir or None,
        image_size=config.image_size,
        crop=140,
    )
    # The reference leaves PyTorch's default initialisation here.
    return base.image_meg(config, data, default_init=True)
