"""Sets in the plane by name (`config.dataset`): their points, and what is measured."""

import jax
import jax.numpy as jnp
import numpy as np

from megjax.data import toy
from megjax.evaluation import density_fit, planar
from megjax.recipes import base

SOURCES = {
    "gaussians_25": toy.gaussians_25,
    "gaussians_8": toy.gaussians_8,
    "swiss_roll": toy.swiss_roll,
    "two_spirals": toy.two_spirals,
    "four_spin": toy.four_spin,
}
MIXTURES = {"gaussians_25": toy.grid_25, "gaussians_8": toy.ring_8}
"""The true density, where it has a closed form."""

SAMPLED = ("two_spirals", "four_spin")
"""Sets of Kim and Bengio 2016, whose density many fresh points stand for."""


def config(dataset):
    """The fields of an experiment in the plane, but for those of the method.

    evaluation.num_points: that stand for the true density, or are held out.
    """
    fields = base.config()
    fields.dataset = dataset
    fields.batch_size, fields.width = 256, 512
    num_points = 1_000_000 if dataset in SAMPLED else 20_000
    fields.evaluation = {"num_points": num_points}
    fields.train.iterations_per_call_cpu = 50
    fields.train.evaluate_every = 10_000
    return fields


def data(config):
    """The points of `config.dataset` and the run's seed: a fixed set, or a stream."""
    return base.choice("dataset", config.dataset, **SOURCES)(seed=config.train.seed)


def evaluations(config, data, learner):
    """Samples and energy beside fresh points, as the paper of the set shows them."""
    num = config.evaluation.num_points
    base.at_least("evaluation.num_points", num, 1)
    source, seed = SOURCES[config.dataset], 2**31 - 1
    # No run has this seed, so no run trains on these points.
    if config.dataset in SAMPLED:
        truth = planar.Truth(data.store, source(seed=seed, num_examples=num).store)
        return {"plane": density_fit.alignment(learner, truth)}
    mixture = MIXTURES.get(config.dataset, lambda: None)()
    held_out = points(source(seed=seed), num)
    truth = planar.Truth(points(data, num), held_out, mixture)
    return {"plane": planar.planar(learner, truth)}


def points(data, num):
    """Points of a planar set [num, 2]."""
    indices = jnp.arange(num)
    # A set may lie in any order, so its points are drawn over all of it.
    if data.num_examples:
        indices = jax.random.permutation(jax.random.key(0), data.num_examples)[:num]
    return np.asarray(jax.jit(data.take)(data.store, indices))
