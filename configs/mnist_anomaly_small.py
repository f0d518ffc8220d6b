"""MNIST without one digit, with narrow networks in few iterations: on two CPU cores.

python train.py --config=configs/mnist_anomaly_small.py:1

The main score is `neighbor_energy`, of the nearest training images in the energy's
features; it was chosen on digits 3 and 8. Measured: about 100 s of CPU time per digit;
average precision .31 (digit 1, below chance) to .97, mean .78 (nearest neighbors of raw
pixels .76).
"""

from megjax.recipes import anomalies


def get_config(digit="1"):
    """The settings of `mnist_small` on the data of `mnist_anomaly`, narrower still.

    beta2 is the one that the recorded results were measured with.
    """
    config = anomalies.digit_config(digit, width=32)
    config.meg.beta2 = 0.99
    config.train.num_steps = config.train.evaluate_every = 2500
    return config
