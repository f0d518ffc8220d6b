"""Experiments with maximum entropy generators: Kumar et al. 2019."""

from megjax import losses
from megjax.data import files
from megjax.learners import meg
from megjax.networks import dcgan, heads, ladder, mlp
from megjax.recipes import base, image_sets, planar_sets
from megjax.training.experiment import Recipe


def settings(**changes):
    """`config.meg`: the hyperparameters of `meg.Spec`, as the paper's code has them.

    refinement_steps, refinement_step_size: of `meg.Refinement`; 0 steps are none.
    """
    code = {
        "latent_dim": 128,
        "information_weight": 0.5,
        **base.ADAM,
        "refinement_steps": 0,
        "refinement_step_size": 0.01,
    }
    return base.defaults(meg.Spec, **code | changes)


def in_nats():
    """Settings that let the entropy act from the start, for short runs and densities.

    InfoNCE does not saturate as the Jensen-Shannon bound does: the entropy keeps its
    unit, the nat, and gives it to the energy.
    """
    return steady() | {
        "bound": "info_nce",
        "pairing": "roll_rows",
        "num_marginals": 15,
        "information_weight": 1.0,
    }


def steady():
    """Decaying rates and averaged weights, which stop the players from circling."""
    return {"average_decay": 0.995, "learning_rate": 3e-4, "schedule": "cosine"}


def image_config(dataset, penalty=10.0):
    """An experiment on a set of images, with the reference's settings."""
    return with_images(image_sets.config(dataset), penalty)


def with_images(config, penalty=10.0):
    """Fields of `image_sets` with those of MEG.

    The reference code averages the penalty over pixels and we sum over them, hence the
    division.
    """
    config.meg = settings(score_weight=penalty / image_sets.side(config) ** 2)
    config.recipe = images
    return config


def plane_config(dataset, variant="paper"):
    """An experiment on a set in the plane, as in the paper or calibrated.

    Under `calibrated` exp(-E) itself is near the density of the data. A hundred times
    smaller penalty than the paper's lets the energy follow modes this narrow. At
    constant rates the players circle, and the average of the energy over many rounds is
    far better than any of them. Longer runs flatten the energy, since nothing but the
    penalty acts on it once the samples match the data.
    """
    base.choice("variant", variant, paper=None, calibrated=None)
    config = planar_sets.config(dataset)
    config.meg = settings(latent_dim=2)
    config.recipe = plane
    if variant == "calibrated":
        config.width = 128
        config.train.num_steps = 6000
        config.train.evaluate_every = 2000
        ours = {"score_weight": 0.001, "average_decay": 0.999}
        ours |= {"learning_rate": 5e-4, "schedule": "constant"}
        config.meg.update(in_nats() | ours)
    return config


def image_learner(config, shape, data=None):
    """MEG with the reference's convolutions on images of a shape [H, W, C]."""
    del data
    trunk, slope, generator = image_networks(config, shape)
    latent_dim = config.meg.latent_dim
    statistics = heads.Statistics(trunk, latent_dim, config.width, slope)
    return meg.meg(spec(config, heads.Energy(trunk), generator, statistics))


def image_networks(config, shape):
    """(trunk, its slope, generator) of the reference for images of a shape."""
    base.at_least("width", config.width, 1)
    side, channels = shape[0], shape[-1]
    options = {"dtype": base.compute_dtype(config.dtype)}
    family, slope, size = ladder, 0.1, {"image_size": side}
    if side == 28:
        family, slope, size = dcgan, 0.2, {}
        if config.remat:
            raise ValueError(
                "config.remat=True: the networks for 28x28 pixels cannot; give False"
            )
    else:
        options |= {"remat": config.remat, "default_init": config.default_init}
    trunk = family.Trunk(config.width, slope, **options)
    generator = family.Generator(
        width=config.width, channels=channels, **options, **size
    )
    return trunk, slope, generator


def spec(config, energy, generator, statistics):
    """The specification of `config.meg` and three networks."""
    group, num_steps = config.meg, config.train.num_steps
    base.at_least("train.num_steps", num_steps, 1)
    base.divides("meg.num_microbatches", group.num_microbatches, config.batch_size)
    base.at_least("meg.num_energy_updates", group.num_energy_updates, 1)
    adam = base.optimizer(group, num_steps)
    refinement = meg.Refinement(group.refinement_steps, group.refinement_step_size)
    return meg.Spec(
        energy,
        generator,
        statistics,
        **base.plain_fields(meg.Spec, group),
        bound=base.choice(
            "meg.bound",
            group.bound,
            jensen_shannon=losses.jensen_shannon,
            donsker_varadhan=losses.donsker_varadhan,
            info_nce=losses.info_nce,
        ),
        pairing=base.choice(
            "meg.pairing",
            group.pairing,
            shuffle_dimensions=meg.shuffle_dimensions,
            shuffle_rows=meg.shuffle_rows,
            roll_rows=meg.roll_rows,
            fresh=meg.fresh,
        ),
        refinement=refinement if group.refinement_steps else None,
        energy_optimizer=base.optimizer(group, num_steps * group.num_energy_updates),
        generator_optimizer=adam,
        statistics_optimizer=adam,
    )


def vector_learner(config, shape, data=None):
    """MEG with the reference's perceptrons for KDD99 on vectors [D]."""
    del data
    hidden = (256, 128, 128)
    return meg.meg(perceptrons(config, shape, hidden, (64, 128)))


def plane_learner(config, shape, data=None):
    """MEG with the reference's perceptrons for the plane."""
    del data
    base.at_least("width", config.width, 1)
    hidden = (config.width,) * 3
    return meg.meg(perceptrons(config, shape, hidden, hidden))


def perceptrons(config, shape, hidden, generator_hidden):
    """The specification with perceptrons on vectors of a shape."""
    dtype = base.compute_dtype(config.dtype)
    return spec(
        config,
        energy=heads.Energy(mlp.Trunk(hidden, dtype=dtype)),
        generator=mlp.Generator(generator_hidden, *shape, dtype=dtype),
        statistics=mlp.Statistics(hidden, dtype=dtype),
    )


def custom_data(config):
    """The images or vectors at `config.path`."""
    if not config.path:
        raise ValueError(
            "config.path is empty: give --config.path=FOLDER, .npy or .npz of your data"
        )
    return files.custom(
        config.path,
        image_size=config.image_size,
        num_channels=config.num_channels,
        standardise=config.standardise,
    )


def custom_learner(config, shape, data=None):
    """MEG with convolutions on images, with perceptrons on vectors."""
    learner = vector_learner if len(shape) == 1 else image_learner
    return learner(config, shape, data)


def custom_evaluations(config, data, learner):
    """A grid of samples where they are images."""
    return {} if len(data.shape) == 1 else image_sets.grid(config, data, learner)


plane = Recipe(planar_sets.data, plane_learner, planar_sets.evaluations)
custom = Recipe(custom_data, custom_learner, custom_evaluations)
images = Recipe(image_sets.data, image_learner, image_sets.grid, image_sets.protocols)
