"""Experiments with WGAN-GP, the baseline of Kumar et al. 2019, on MEG's networks."""

import functools

from megjax.learners import wgan_gp
from megjax.networks import heads, mlp
from megjax.recipes import base, image_sets, meg, planar_sets
from megjax.training.experiment import Recipe


def settings(**changes):
    """`config.wgan_gp`: the hyperparameters of `wgan_gp.Spec`.

    penalty_form: per_example or per_pixel, of `wgan_gp.Penalty`.
    """
    code = {"latent_dim": 128, "penalty_form": "per_example", **base.ADAM}
    return base.defaults(wgan_gp.Spec, **code | changes)


def as_meg(width):
    """The settings that WGAN-GP has in common with MEG, as that has them for images."""
    ours = meg.for_images(width)
    return {name: ours[name] for name in settings() if name in ours}


def image_config(dataset):
    """An experiment on a set of images, with the settings of the reference's baseline."""
    return with_images(image_sets.config(dataset))


def with_images(config):
    """Fields of `image_sets` with those of WGAN-GP."""
    config.wgan_gp = settings()
    config.ratio = base.ratio_settings()
    config.recipe = images
    return config


def plane_config(dataset):
    """An experiment on a set in the plane."""
    config = planar_sets.config(dataset)
    config.wgan_gp = settings(latent_dim=2)
    config.recipe = plane
    return config


def image_learner(config, shape, data=None):
    """WGAN-GP with MEG's convolutions on images of a shape [H, W, C]."""
    del data
    trunk, _, generator = meg.image_networks(config, shape)
    energy = heads.Energy(trunk)
    learner = wgan_gp.wgan_gp(spec(config, energy, generator))
    return base.with_ratio(config, learner, energy)


def plane_learner(config, shape, data=None):
    """WGAN-GP with MEG's perceptrons."""
    del data
    base.at_least("width", config.width, 1)
    hidden, dtype = (config.width,) * 3, base.compute_dtype(config.dtype)
    energy = heads.Energy(mlp.Trunk(hidden, dtype=dtype))
    generator = mlp.Generator(hidden, *shape, dtype=dtype)
    return wgan_gp.wgan_gp(spec(config, energy, generator))


def spec(config, energy, generator):
    """The specification of `config.wgan_gp` and two networks."""
    group, num_steps = config.wgan_gp, config.train.num_steps
    base.at_least("train.num_steps", num_steps, 1)
    base.divides("wgan_gp.num_microbatches", group.num_microbatches, config.batch_size)
    num_updates = group.num_energy_updates
    base.at_least("wgan_gp.num_energy_updates", num_updates, 1)
    optimizer = functools.partial(base.optimizer, group, method="wgan_gp")
    return wgan_gp.Spec(
        energy,
        generator,
        **base.plain_fields(wgan_gp.Spec, group),
        penalty=base.choice(
            "wgan_gp.penalty_form",
            group.penalty_form,
            per_example=wgan_gp.PER_EXAMPLE,
            per_pixel=wgan_gp.PER_PIXEL,
        ),
        energy_optimizer=optimizer(num_steps * num_updates),
        generator_optimizer=optimizer(num_steps),
    )


images = Recipe(image_sets.data, image_learner, image_sets.grid, image_sets.protocols)
plane = Recipe(planar_sets.data, plane_learner, planar_sets.evaluations)
