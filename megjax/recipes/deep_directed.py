"""Experiments with deep directed models: Kim and Bengio 2016."""

import functools

import jax
import optax

from megjax.learners import deep_directed
from megjax.networks import experts
from megjax.recipes import base, image_sets, meg, planar_sets
from megjax.training.experiment import Recipe

ACTIVATIONS = {
    "elu": jax.nn.elu,
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
}


def settings(**changes):
    """`config.deep_directed`: of `deep_directed.Spec` and the experts, as on arXiv.

    What the texts leave open is our choice. num_experts, visible_std (0 for none),
    linear: of `experts.Experts`. entropy: batch_norm (arXiv) or none (workshop).
    weight_decay: L2 of the energy. optimizer: adagrad (workshop) or adam (public code);
    beta1, beta2, schedule, warmup_steps: of Adam.
    """
    texts = base.ADAM | {
        "latent_dim": 4,
        "num_experts": 4,
        "visible_std": 1.0,
        "linear": True,
        "entropy": "batch_norm",
        "weight_decay": 0.0,
        "optimizer": "adagrad",
        "learning_rate": 0.01,
        "beta2": 0.999,
    }
    return base.defaults(deep_directed.Spec, **texts | changes)


def steady(**changes):
    """Settings under which the energy neither grows without bound nor jumps about.

    More experts and energy updates follow the data more closely. MEG's score penalty
    holds the scale of the energy, which otherwise grows into the thousands of nats, and
    averages over iterations are steady where the players oscillate.
    """
    ours = {
        "num_experts": 128,
        "num_energy_updates": 3,
        "score_weight": 0.001,
        "average_decay": 0.9995,
    }
    return settings(**ours | changes)


def plane_config(dataset, variant):
    """An experiment on a set in the plane; the variants are

    entropy, no_entropy: settings that learn well, with and without entropy.
    workshop: the workshop text, experts alone, as many as latents, and energy alone.
    """
    config = planar_sets.config(dataset)
    config.batch_size, config.width, config.num_layers = 200, 128, 3
    config.activation = "elu"
    config.train.num_steps = 10_000
    config.train.evaluate_every = 2500
    # As narrow as KDD99's networks, which are faster without the library.
    config.train.compiler_options_cpu = base.compiler_options()
    workshop = settings(visible_std=0.0, linear=False, entropy="none")
    config.deep_directed = base.choice(
        "variant",
        variant,
        entropy=steady(),
        no_entropy=steady(entropy="none"),
        workshop=workshop,
    )
    if variant == "workshop":
        config.batch_size = 100
    config.recipe = plane
    return config


def convolutional_config(config, width=64):
    """Fields of `image_sets` with those of this method on MEG's networks and rates."""
    config.width, config.norm = width, "per_unit"
    ours = meg.for_images(meg.width_of(config), image_sets.channels(config))
    shared = {name: ours[name] for name in settings() if name in ours}
    config.deep_directed = settings(num_experts=128, optimizer="adam", **shared)
    config.recipe = convolutional
    config.train.num_steps, config.train.evaluate_every = 9000, 1000
    return config


def plane_learner(config, shape, data=None):
    """A deep directed model of perceptrons."""
    del data
    base.at_least("width", config.width, 1)
    base.at_least("num_layers", config.num_layers, 1)
    hidden = (config.width,) * config.num_layers
    dtype = base.compute_dtype(config.dtype)
    activation = base.choice("activation", config.activation, **ACTIVATIONS)
    features = experts.Features(hidden, activation, dtype=dtype)
    generator = experts.Generator(hidden, tuple(shape), dtype=dtype)
    return deep_directed.deep_directed(spec(config, features, generator))


def image_learner(config, shape, data=None):
    """A deep directed model of perceptrons on pixels."""
    del data
    dtype = base.compute_dtype(config.dtype)
    for field in ("energy_hidden", "generator_hidden"):
        for width in config[field]:
            base.at_least(field, width, 1)
    features = experts.Features(tuple(config.energy_hidden), dtype=dtype)
    generator = experts.Generator(
        tuple(config.generator_hidden), tuple(shape), bounded=True, dtype=dtype
    )
    return deep_directed.deep_directed(spec(config, features, generator))


def convolutional_learner(config, shape, data=None):
    """A deep directed model with MEG's convolutions on images of a shape [H, W, C]."""
    del data
    trunk, _, generator = meg.image_networks(config, shape)
    return deep_directed.deep_directed(spec(config, trunk, generator))


def spec(config, features, generator):
    """The specification of `config.deep_directed` on two networks."""
    group = config.deep_directed
    base.at_least("train.num_steps", config.train.num_steps, 1)
    base.at_least("deep_directed.num_experts", group.num_experts, 1)
    base.at_least("deep_directed.num_energy_updates", group.num_energy_updates, 1)
    for field in ("visible_std", "weight_decay", "learning_rate"):
        base.at_least(f"deep_directed.{field}", group[field], 0)
    energy = experts.Experts(
        features,
        group.num_experts,
        visible_std=group.visible_std or None,
        linear=group.linear,
    )
    return deep_directed.Spec(
        energy,
        generator,
        **base.plain_fields(deep_directed.Spec, group),
        entropy=base.choice(
            "deep_directed.entropy",
            group.entropy,
            none=deep_directed.no_entropy,
            batch_norm=deep_directed.batch_norm_entropy,
        ),
        energy_optimizer=optimizer(
            group, group.weight_decay, config.train.num_steps * group.num_energy_updates
        ),
        generator_optimizer=optimizer(group, 0.0, config.train.num_steps),
    )


def optimizer(group, weight_decay, num_updates):
    """AdaGrad or Adam, with L2 in the gradient."""
    method = base.choice(
        "deep_directed.optimizer",
        group.optimizer,
        adagrad=optax.adagrad(group.learning_rate),
        adam=base.optimizer(group, num_updates, "deep_directed"),
    )
    return optax.chain(optax.add_decayed_weights(weight_decay), method)


plane = Recipe(planar_sets.data, plane_learner, planar_sets.evaluations)
images = Recipe(image_sets.data, image_learner, image_sets.grid, image_sets.protocols)
convolutional = Recipe(
    image_sets.data, convolutional_learner, image_sets.grid, image_sets.protocols
)
