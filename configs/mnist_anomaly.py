"""MNIST without one digit, for anomaly detection: Kumar et al. 2019, table 4.

python train.py --config=configs/mnist_anomaly.py:1

The full width and length have not been run: `mnist_anomaly_small` has, on two CPU cores.
"""

from megjax.recipes import anomalies

EPOCH = 158
"""Iterations of five energy updates on batches of 64."""


def get_config(digit="1"):
    """The reference's settings; 55 epochs."""
    config = anomalies.digit_config(digit, paper=True, penalty=100.0)
    config.train.iterations_per_call = 79
    config.train.num_steps = 55 * EPOCH
    config.train.log_every = config.train.evaluate_every = EPOCH
    config.train.save_every = 5 * EPOCH
    return config
