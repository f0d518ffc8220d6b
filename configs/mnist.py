"""MNIST, or another set of its form, with the networks of stacked MNIST.

python train.py --config=configs/mnist.py
python train.py --config=configs/mnist.py:fashion_mnist

Speed as `stacked_mnist`; the full length needs an accelerator.
"""

from configs import base
from megjax.data import images

NAMES = ("mnist", "fashion_mnist", "kmnist")


def get_config(name="mnist"):
    """The reference's settings for stacked MNIST."""
    if name not in NAMES:
        raise ValueError(f"data set {name!r}: choose one of {', '.join(NAMES)}")
    config = base.image_config(28)
    config.name = name
    config.build = build
    return config


def build(config):
    """MEG on the training split."""
    data = images.tfds_images(config.name, data_dir=config.data_dir or None)
    return base.image_meg(config, data)
