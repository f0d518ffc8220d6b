"""Detection of anomalies by MEG's energy: Kumar et al. 2019, tables 3 and 4."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from megjax.data import kdd99, one_class
from megjax.evaluation import anomaly
from megjax.learners import adversarial
from megjax.networks import dcgan
from megjax.recipes import base, image_sets, meg
from megjax.training.experiment import Recipe


def digit_config(digit, **options):
    """An experiment on MNIST without one digit; options: of `meg.with_images`."""
    if digit not in tuple("0123456789"):
        raise ValueError(f"held-out digit {digit!r}: choose one of 0 to 9")
    config = meg.image_config("mnist", **options)
    del config.dataset, config.evaluation
    config.digit, config.ratio.num_steps = int(digit), 0
    config.recipe = mnist_without
    return config


def vectors(config):
    """KDD99's 121 features of attacks, which are the normal class."""
    return kdd99.kdd99(data_dir=config.data_dir or None, scale=config.scale)


def digits(config):
    """Four fifths of the other digits; tested on the rest and the one."""
    return one_class.mnist_without(config.digit, data_dir=config.data_dir or None)


def vector_evaluations(config, data, learner):
    """Scores of the test half; those of the weights without their average, too."""
    del data
    test = functools.cache(lambda: vectors(config)[1])
    learners = {"anomaly": learner}
    if config.meg.average_decay:
        learners["anomaly_unaveraged"] = learner._replace(
            energy=lambda state, x: learner.energy(state.replace(average=None), x)
        )

    def detection(one):
        return anomaly.detection(anomaly.energy_scores(one), test(), quantile=0.8)

    return {
        name: base.lazily(functools.partial(detection, one))
        for name, one in learners.items()
    }


def digit_evaluations(config, data, learner):
    """A grid, and scores of the energy and of its features."""
    scorer = anomaly.energy_scores(learner, features(config))

    def detection():
        _, test = digits(config)
        return anomaly.detection(scorer, test, reference=reference(data))

    grid = image_sets.grid(config, data, learner)
    return grid | {"anomaly": base.lazily(detection)}


def digit_protocols(config, data, learner):
    """Scores of the reconstruction."""
    del data

    def detection():
        _, test = digits(config)
        return anomaly.detection(anomaly.reconstruction_scores(learner), test)

    return {"reconstruction": base.lazily(detection)}


def features(config):
    """(learner state, x) -> what the energy's last layer reads, averaged where it is.

    Standardised within each example, as `heads.Posterior` does: images with little ink
    have small features, and would be near each other whatever they show.
    """
    trunk = dcgan.Trunk(config.width, dtype=base.compute_dtype(config.dtype))

    def apply(state, x):
        weights = state.average or adversarial.weights(state)
        h = trunk.apply({"params": weights["energy"]["trunk"]}, x)
        return jax.nn.standardize(h.astype(jnp.float32))

    return apply


def reference(data, num=4000):
    """About `num` training examples, evenly spaced over the set."""
    indices = np.arange(0, data.num_examples, max(1, data.num_examples // num))
    return np.asarray(jax.jit(data.take)(data.store, indices))


kdd99_attacks = Recipe(
    lambda config: vectors(config)[0], meg.vector_learner, vector_evaluations
)
mnist_without = Recipe(
    lambda config: digits(config)[0],
    meg.image_learner,
    digit_evaluations,
    digit_protocols,
)
