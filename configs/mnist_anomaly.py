"""MNIST without one digit, for anomaly detection: Kumar et al. 2019, table 4.

python train.py --config=configs/mnist_anomaly.py:1

The full width and length have not been run: `mnist_anomaly_small` has, on two CPU cores.
"""

import jax
import numpy as np

from configs import base
from megjax.data import one_class
from megjax.evaluation import anomaly
from megjax.learners import adversarial
from megjax.networks import dcgan

DIGITS = tuple("0123456789")
EPOCH = 158
"""Iterations of five energy updates on batches of 64."""


def get_config(digit="1"):
    """The reference's settings; 55 epochs."""
    if digit not in DIGITS:
        raise ValueError(f"held-out digit {digit!r}: choose one of 0 to 9")
    config = base.image_config(28, penalty=100.0)
    config.digit = int(digit)
    config.train.num_steps = 55 * EPOCH
    config.train.log_every = config.train.evaluate_every = EPOCH
    config.train.save_every = 5 * EPOCH
    config.train.iterations_per_call = EPOCH // 2
    config.build = build
    return config


def build(config):
    """MEG on four fifths of the other digits, tested on the rest and the one."""
    data, test = one_class.mnist_without(config.digit, data_dir=config.data_dir or None)
    built = base.image_meg(config, data)
    learner = built.learner
    scorer = anomaly.energy_scores(learner, features(config))
    reconstruction = anomaly.detection(anomaly.reconstruction_scores(learner), test)
    return built._replace(
        evaluations={
            **built.evaluations,
            "anomaly": anomaly.detection(scorer, test, reference=reference(data)),
        },
        protocols={"reconstruction": reconstruction},
    )


def features(config):
    """(learner state, x) -> what the energy's last layer reads, averaged where it is."""
    trunk = dcgan.Trunk(config.width, dtype=base.compute_dtype(config.dtype))

    def apply(state, x):
        params = (state.average or adversarial.weights(state))["energy"]["trunk"]
        return trunk.apply({"params": params}, x)

    return apply


def reference(data, num=4000):
    """About `num` training examples, evenly spaced over the set."""
    indices = np.arange(0, data.num_examples, max(1, data.num_examples // num))
    return np.asarray(jax.jit(data.take)(data.store, indices))
