"""A neural energy by persistent contrastive divergence, its chains moved by MALA.

python train.py --config=configs/neural_energy.py
python train.py --config=configs/neural_energy.py:four_spin

Maximum likelihood without a generator (Tieleman 2008; Mehta et al. 2019, eq. 195), of
the energy of deep directed models, on the sets that they and MEG are measured on.

Measured: 2 minutes of one CPU core. At its best inverse temperature exp(-beta E) is 0.34
nats from the density of the spirals on the plotted window, where the deep directed
model has 0.60 and MEG 0.27, and 0.22 from that of the four spins (1.05 and 1.65); 98 %
and 96 % of the data within 0.1 of a sample.
"""

import functools

import jax
import jax.numpy as jnp

from configs import base, rbm_mnist
from megjax.learners import contrastive
from megjax.networks import experts
from megjax.recipes import deep_directed, planar_sets
from megjax.samplers import mala
from megjax.training.experiment import Experiment

SETS = ("two_spirals", "four_spin")


def get_config(name="two_spirals"):
    """Chains whose temperatures fluctuate, so that they cross from mode to mode."""
    if name not in SETS:
        raise ValueError(f"data set {name!r}: choose one of {', '.join(SETS)}")
    config = rbm_mnist.machine_config()
    del config.early_stopping, config.pixels, config.evaluation
    config.dataset, config.evaluation = name, {"num_points": 1_000_000}
    config.batch_size, config.width, config.num_layers = 200, 128, 2
    config.activation = "elu"
    config.num_experts, config.visible_std = 128, 4.0
    config.mala = {"step_size": 0.005, "num_steps": 10}
    config.contrast.update(
        {
            "num_chains": 200,
            "fluctuating_temperature": True,
            "learning_rate": 0.001,
            "num_sample_sweeps": 50,
        }
    )
    config.train.update({"num_steps": 10_000, "evaluate_every": 5000})
    config.build = build
    return config


def build(config):
    """On the fixed set of points."""
    data = planar_sets.data(config)
    learner = contrastive.contrastive(specification(config))
    return Experiment(data, learner, planar_sets.evaluations(config, data, learner))


def specification(config):
    """Of products of experts in the plane; chains start at its Gaussian."""
    for field in ("width", "num_layers", "num_experts"):
        base.at_least(field, config[field], 1)
    base.at_least("mala.num_steps", config.mala.num_steps, 1)
    base.positive("visible_std", config.visible_std)
    base.positive("mala.step_size", config.mala.step_size)
    network = experts.Experts(
        experts.Features(
            (config.width,) * config.num_layers,
            deep_directed.ACTIVATIONS[config.activation],
            dtype=base.compute_dtype(config.dtype),
        ),
        config.num_experts,
        visible_std=config.visible_std,
    )
    family = contrastive.walked(
        lambda key: network.init(key, jnp.zeros((1, 2)))["params"],
        lambda params, x: network.apply({"params": params}, x),
        functools.partial(mala.mala, step_size=config.mala.step_size),
        num_steps=config.mala.num_steps,
    )
    spec = rbm_mnist.specification(config, family, contrastive.IDENTITY)
    # |x|^2 / std^2 has no 1/2.
    std = config.visible_std / 2**0.5
    return spec._replace(start=lambda key, num: std * jax.random.normal(key, (num, 2)))
