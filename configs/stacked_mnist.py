"""Stacked MNIST: three (or four) digits as channels, 1000 (10,000) modes.

    python train.py --config=configs/stacked_mnist.py:3

Kumar et al. 2019, table 1.

Measured: 0.68 iterations a second at width 512 on two CPU cores, so the full length needs
an accelerator; 60 iterations at width 32 were run on the real data.
"""

from configs import base
from megjax.data import stacked


def get_config(num_stacked="3"):
    """The reference's settings."""
    if num_stacked not in ("3", "4"):
        raise ValueError(f"{num_stacked!r} stacked digits: choose 3 or 4")
    config = base.image_config(28)
    config.num_stacked = int(num_stacked)
    config.build = build
    return config


def build(config):
    """MEG on the fixed set of 128 * 10^n stacks, composed on the device."""
    data = stacked.stacked_mnist(config.num_stacked, data_dir=config.data_dir or None)
    return base.image_meg(config, data)
