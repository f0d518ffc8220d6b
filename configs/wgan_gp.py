"""WGAN-GP with MEG's networks, the baseline of Kumar et al. 2019, tables 1 and 2.

python train.py --config=configs/wgan_gp.py:digits
python train.py --config=configs/wgan_gp.py:stacked_mnist_3
python train.py --config=configs/wgan_gp.py:stacked_mnist_3 \
    --config.wgan_gp.penalty_form=per_pixel

The paper's rows were measured with `per_pixel`, a departure from the published method;
see `wgan_gp.PER_PIXEL`. For MEG's short runs compare at the same width, steps, rates
and averages: --config.width=64 --config.train.num_steps=3000.
"""

from functools import partial

from configs import base, cifar10, digits, mnist, stacked_mnist, toy_25gaussians
from megjax.data import images, stacked, toy
from megjax.evaluation import pictures
from megjax.learners import wgan_gp
from megjax.networks import heads, mlp
from megjax.training.experiment import Experiment

MEG = {
    "digits": digits.get_config,
    "mnist": mnist.get_config,
    "stacked_mnist_3": partial(stacked_mnist.get_config, "3"),
    "stacked_mnist_4": partial(stacked_mnist.get_config, "4"),
    "cifar10": cifar10.get_config,
    "toy_25gaussians": toy_25gaussians.get_config,
}
"""MEG's experiment on each data set."""

SHARED = (
    "latent_dim",
    "average_decay",
    "num_microbatches",
    "learning_rate",
    "schedule",
    "beta1",
    "beta2",
)


def get_config(variant="digits"):
    """MEG's config of a data set with the settings of its reference's baseline."""
    if variant not in MEG:
        raise ValueError(f"data set {variant!r}: choose one of {', '.join(MEG)}")
    config = MEG[variant]()
    # What is no part of the method stays as MEG has it.
    config.wgan_gp = {name: config.meg[name] for name in SHARED} | {
        "num_energy_updates": 5,
        "penalty_weight": 10.0,
        "penalty_form": "per_example",
    }
    del config.meg
    config.variant = variant
    config.build = build
    return config


def build(config):
    """WGAN-GP on the data, and with the measurements, of the variant."""
    base.at_least("width", config.width, 1)
    if config.variant == "toy_25gaussians":
        return plane(config)
    data = image_data(config)
    trunk, _, generator = base.image_networks(config, data)
    learner = wgan_gp.wgan_gp(spec(config, heads.Energy(trunk), generator))
    built = Experiment(data, learner, {"grid": pictures.sample_grid(learner)})
    if config.variant == "cifar10":
        protocols = cifar10.protocols(config.evaluation, data, learner)
        return built._replace(protocols=protocols)
    if config.variant.startswith("stacked_mnist"):
        return stacked_mnist.measured(config, built)
    return mnist.measured(config, built) if config.variant == "mnist" else built


def plane(config):
    """WGAN-GP with perceptrons on 25 Gaussians."""
    hidden, dtype = (config.width,) * 3, base.compute_dtype(config.dtype)
    energy = heads.Energy(mlp.Trunk(hidden, dtype=dtype))
    generator = mlp.Generator(hidden, 2, dtype=dtype)
    learner = wgan_gp.wgan_gp(spec(config, energy, generator))
    return toy_25gaussians.measured(config, learner, toy.gaussians_25, toy.grid_25())


def image_data(config):
    """The training images of the variant."""
    data_dir = config.data_dir or None
    if config.variant == "digits":
        return images.digits()
    if config.variant.startswith("stacked_mnist"):
        return stacked.stacked_mnist(config.num_stacked, data_dir=data_dir)
    return images.tfds_images(config.variant, data_dir=data_dir)


def spec(config, energy, generator):
    """The specification of `config.wgan_gp` and two networks."""
    settings, num_steps = config.wgan_gp, config.train.num_steps
    base.at_least("train.num_steps", num_steps, 1)
    for field in ("latent_dim", "num_energy_updates"):
        base.at_least(f"wgan_gp.{field}", settings[field], 1)
    base.at_least("wgan_gp.penalty_weight", settings.penalty_weight, 0)
    base.fraction("wgan_gp.average_decay", settings.average_decay)
    base.divides(
        "wgan_gp.num_microbatches", settings.num_microbatches, config.batch_size
    )
    optimizer = partial(base.optimizer, settings, method="wgan_gp")
    return wgan_gp.Spec(
        energy=energy,
        generator=generator,
        latent_dim=settings.latent_dim,
        num_energy_updates=settings.num_energy_updates,
        penalty_weight=settings.penalty_weight,
        penalty=base.choice(
            "wgan_gp.penalty_form",
            settings.penalty_form,
            per_example=wgan_gp.PER_EXAMPLE,
            per_pixel=wgan_gp.PER_PIXEL,
        ),
        average_decay=settings.average_decay,
        num_microbatches=settings.num_microbatches,
        energy_optimizer=optimizer(num_steps * settings.num_energy_updates),
        generator_optimizer=optimizer(num_steps),
    )
