"""MNIST without one digit, with narrow networks in few iterations: on two CPU cores.

python train.py --config=configs/mnist_anomaly_small.py:1

`neighbor_energy` is the score to read: nearest training images in the features of the
energy, chosen on digits 3 and 8. Measured: about 100 s of CPU a digit; average precision
.31 (digit 1, below chance) to .97, .78 on average, neighbors of raw pixels .76.
"""

from megjax.recipes import anomalies


def get_config(digit="1"):
    """The settings of `mnist_small` on the data of `mnist_anomaly`, narrower still.

    beta2 is what it was when the table was measured.
    """
    config = anomalies.digit_config(digit, width=32)
    config.meg.beta2 = 0.99
    config.train.num_steps = config.train.evaluate_every = 2500
    return config
