"""25 Gaussians on a grid: Kumar et al. 2019, figure 3.

python train.py --config=configs/toy_25gaussians.py
python train.py --config=configs/toy_25gaussians.py:calibrated

Measured for `calibrated`, three seeds: 3 minutes on one CPU core; all 25 modes, 76 to
87 % of the samples within 4 standard deviations of one, 60 to 69 % of exp(-E) within
0.1 of one. The paper's settings would take over 2 hours there (100,000 iterations at 13 a second) and have
not been run to the end.
"""

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from megjax.data import toy
from megjax.evaluation import planar
from megjax.learners import meg
from megjax.networks import heads, mlp
from megjax.training.experiment import Experiment

VARIANTS = ("paper", "calibrated")


def get_config(variant="paper"):
    """The settings of a variant."""
    config = base.get_config()
    config.batch_size, config.width = 256, 512
    config.meg = base.meg_defaults() | {"latent_dim": 2}
    config.train.iterations_per_call_cpu = 50
    config.train.evaluate_every = 10_000
    if variant == "calibrated":
        calibrate(config)
    elif variant != "paper":
        raise ValueError(f"variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config.build = build
    return config


def calibrate(config):
    """Settings under which exp(-E) itself is near the density of the data.

    A hundred times smaller penalty than the paper's lets the energy follow modes this
    narrow. At constant rates the players circle, and the average of the energy over
    many rounds is far better than any of them. Longer runs flatten the energy, since
    nothing but the penalty acts on it once the samples match the data.
    """
    config.width = 128
    config.train.num_steps = 6000
    config.train.evaluate_every = 2000
    config.meg.update(
        base.in_nats()
        | {
            "score_weight": 0.001,
            "average_decay": 0.999,
            "learning_rate": 5e-4,
            "schedule": "constant",
        }
    )


def build(config):
    """MEG on the fixed set of 100,000 points."""
    return planar_meg(config, toy.gaussians_25, toy.grid_25())


def planar_meg(config, source, mixture=None):
    """MEG with perceptrons in the plane, on the set of a seed: source(seed=...).

    mixture: the true density where it is known.
    """
    base.at_least("width", config.width, 1)
    hidden, dtype = (config.width,) * 3, base.compute_dtype(config.dtype)
    learner = meg.meg(
        base.meg_spec(
            config,
            energy=heads.Energy(mlp.Trunk(hidden, dtype=dtype)),
            generator=mlp.Generator(hidden, 2, dtype=dtype),
            statistics=mlp.Statistics(hidden, dtype=dtype),
        )
    )
    return measured(config, learner, source, mixture)


def measured(config, learner, source, mixture=None):
    """A learner in the plane, on the set of a seed and measured on points beside it."""
    data = source(seed=config.train.seed)
    # No run has this seed, so no run trains on these points.
    held_out = points(source(seed=2**31 - 1))
    truth = planar.Truth(points(data), held_out, mixture)
    return Experiment(data, learner, {"plane": planar.planar(learner, truth)})


def points(data, num=20_000):
    """Points of a planar set [num, 2]."""
    indices = jnp.arange(num)
    # A set may lie in any order, so its points are drawn over all of it.
    if data.num_examples:
        indices = jax.random.permutation(jax.random.key(0), data.num_examples)[:num]
    return np.asarray(jax.jit(data.take)(data.store, indices))
