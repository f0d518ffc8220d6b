"""MNIST without one digit, for anomaly detection: Kumar et al. 2019, table 4.

python train.py --config=configs/mnist_anomaly.py:1

60 iterations at width 32 were run on the real data; the scores are not evaluated yet.
"""

from configs import base
from megjax.data import heldout


def get_config(digit="1"):
    """The reference's settings; 55 epochs of its 790 energy updates."""
    if digit not in tuple("0123456789"):
        raise ValueError(f"held-out digit {digit!r}: choose one of 0 to 9")
    config = base.image_config(28, penalty=100.0)
    config.digit = int(digit)
    config.train.num_steps = 55 * 790 // config.meg["num_energy_updates"]
    config.build = build
    return config


def build(config):
    """MEG on four fifths of the other digits."""
    data, _ = heldout.mnist_without(config.digit, data_dir=config.data_dir or None)
    return base.image_meg(config, data)
