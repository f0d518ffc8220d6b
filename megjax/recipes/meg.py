"""Experiments with maximum entropy generators: Kumar et al. 2019."""

import optax

from megjax import losses
from megjax.data import dataset, files
from megjax.learners import base as learners
from megjax.learners import meg
from megjax.networks import dcgan, experts, heads, ladder, mlp
from megjax.recipes import base, density, image_sets, planar_sets
from megjax.training.experiment import Recipe


def settings(**changes):
    """`config.meg`: the hyperparameters of `meg.Spec`, as the paper's code has them.

    refinement_steps, refinement_step_size: of `meg.Refinement`; 0 steps are none.
    num_components: of `heads.Posterior`, under the variational bound. statistics_rate:
    of the statistics network, times that of the others.
    """
    code = {
        "num_components": 1,
        "statistics_rate": 1.0,
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


def for_images(width, num_channels=1, *, deep=False):
    """Settings for images, chosen by the time that MNIST takes to a given quality.

    Against the paper's: Adam without momentum, at a rate far above, that falls; one
    update of the energy per update of the generator, which the penalty at data allows;
    the variational bound, which does not saturate, on the energy's own features.
    Adam's memory of squared gradients is short: those of the first iterations, before
    samples are where the data are, are thirty times as large as later ones, and with
    beta2 .99 the players hardly moved for the next 600. docs/results/images.md has what
    each is worth. At twice the rate some runs are better and some have an energy that no
    longer follows the generator. Adam moves what a layer gives in proportion to rate x
    width, hence the division (Yang et al. 2021), and all the more the deeper a network
    is. More channels take more of the penalty: with 0.1 on stacked digits the energy
    left the generator.

    deep: of eight layers (`ladder`) instead of four (`dcgan`), a quarter of the rate: at
    the whole the energy of eight was flat on CIFAR-10 by iteration 2400.
    """
    return {
        "latent_dim": 32,
        "num_energy_updates": 1,
        "score_weight": num_channels / 10,
        "bound": "variational",
        "num_marginals": 0,
        "information_weight": 0.03,
        "statistics_rate": 0.125,
        "shared_features": True,
        "average_decay": 0.995,
        "learning_rate": (0.064 if deep else 0.256) / width,
        "schedule": "cosine",
        "warmup_steps": 200,
        "beta1": 0.0,
        "beta2": 0.95,
    }


def width_of(config):
    """A reference, so that a learning rate follows a width that is set later."""
    return config.get_ref("width").to_float()


def image_config(dataset, **options):
    """An experiment on a set of images; options: of `with_images`."""
    return with_images(image_sets.config(dataset), **options)


def with_images(
    config, *, width=512, networks="convolutional", paper=False, penalty=10.0
):
    """Fields of `image_sets` with those of MEG.

    networks: of `image_networks`. paper: the settings of the reference code, which averages its penalty over pixels
    where we sum over them, hence the division.
    """
    config.width, config.recipe = width, images
    config.ratio = base.ratio_settings()
    if paper:
        config.meg = settings(score_weight=penalty / image_sets.side(config) ** 2)
        return config
    config.networks = networks
    deep = networks == "convolutional" and image_sets.side(config) != 28
    ours = for_images(width_of(config), image_sets.channels(config), deep=deep)
    config.meg = settings(**ours)
    config.norm = "per_unit"
    config.ratio.num_steps = 2000
    return config


def plane_config(dataset, variant="paper"):
    """An experiment on a set in the plane, as in the paper or calibrated.

    `calibrated` ends with NCE (`learners/density_finish`), which makes exp(-E) the
    density of the data; the three players alone leave it about two nats away. A hundred
    times smaller penalty than the paper's lets the energy follow modes this narrow. At
    constant rates the players circle, and the average of the energy over many rounds is
    far better than any of them. Longer runs flatten the energy, since nothing but the
    penalty acts on it once the samples match the data.
    """
    base.choice("variant", variant, paper=None, calibrated=None)
    config = planar_sets.config(dataset)
    config.meg = settings(latent_dim=2)
    config.recipe = plane
    config.finish = density.finish_settings()
    if variant == "calibrated":
        config.width = 128
        config.train.num_steps = 6000
        config.train.evaluate_every = 2000
        ours = {"score_weight": 0.001, "average_decay": 0.999}
        ours |= {"learning_rate": 5e-4, "schedule": "constant"}
        config.meg.update(in_nats() | ours)
        config.finish.num_steps = 3000
        # With half as many log Z of 25 Gaussians of one seed in three is .007 off.
        config.evaluation.num_cells = 2000
    return config


def image_learner(config, shape, data=None):
    """MEG with the reference's convolutions on images of a shape [H, W, C]."""
    del data
    trunk, slope, generator = image_networks(config, shape)
    latent_dim = config.meg.latent_dim
    statistics = heads.Statistics(trunk, latent_dim, config.width, slope)
    if config.meg.bound == "variational":
        statistics = posterior(config, trunk)
    energy = heads.Energy(trunk)
    learner = meg.meg(spec(config, energy, generator, statistics))
    return base.with_ratio(config, learner, energy)


def posterior(config, trunk):
    """The statistics network of the variational bound."""
    num = config.meg.get("num_components", 1)
    trunk = None if config.meg.get("shared_features") else trunk
    return heads.Posterior(trunk, config.meg.latent_dim, num)


def image_networks(config, shape):
    """(trunk, its slope, generator) for images of a shape.

    The convolutions of the reference, which for 28 pixels are strided ones alone; with
    config.networks="strided" those for 17 to 32 pixels, with "dense" perceptrons.
    """
    base.at_least("width", config.width, 1)
    side, channels = shape[0], shape[-1]
    options = {"dtype": base.compute_dtype(config.dtype)}
    kind = config.get("networks", "convolutional")
    kinds = {"convolutional": None, "strided": None, "dense": True}
    if base.choice("networks", kind, **kinds):
        if config.remat:
            raise ValueError("config.remat=True: dense networks cannot; give False")
        hidden = (config.width,) * 2
        trunk = mlp.Trunk(hidden, flatten=True, **options)
        generator = experts.Generator(hidden, tuple(shape), bounded=True, **options)
        return trunk, trunk.slope, generator
    per_unit = base.choice(
        "norm", config.get("norm", "batch"), batch=False, per_unit=True
    )
    family, slope = ladder, 0.1
    if side == 28 or kind == "strided":
        family, slope = dcgan, 0.2
        dcgan.sides(side)
        if config.remat:
            raise ValueError(
                "config.remat=True: the networks for 28x28 pixels, or of strided "
                "convolutions alone, cannot; give False"
            )
    else:
        options |= {"remat": config.remat, "default_init": config.default_init}
    trunk = family.Trunk(config.width, slope, **options)
    generator = family.Generator(
        width=config.width,
        channels=channels,
        image_size=side,
        per_unit=per_unit,
        **options,
    )
    return trunk, slope, generator


def spec(config, energy, generator, statistics):
    """The specification of `config.meg` and three networks."""
    group, num_steps = config.meg, config.train.num_steps
    base.at_least("train.num_steps", num_steps, 1)
    base.divides("meg.num_microbatches", group.num_microbatches, config.batch_size)
    base.at_least("meg.num_energy_updates", group.num_energy_updates, 1)
    base.at_least("meg.num_components", group.get("num_components", 1), 1)
    adam = base.optimizer(group, num_steps)
    statistics_rate = group.get("statistics_rate", 1.0)
    base.at_least("meg.statistics_rate", statistics_rate, 0)
    statistics_adam = optax.chain(adam, optax.scale(statistics_rate))
    if group.get("shared_features") and not isinstance(statistics, heads.Posterior):
        raise ValueError(
            "config.meg.shared_features=True: only images with bound='variational' have "
            "it; give False"
        )
    refinement = meg.Refinement(group.refinement_steps, group.refinement_step_size)
    return meg.Spec(
        energy,
        generator,
        statistics if group.information_weight else None,
        **base.plain_fields(meg.Spec, group),
        bound=base.choice(
            "meg.bound",
            group.bound,
            jensen_shannon=losses.jensen_shannon,
            donsker_varadhan=losses.donsker_varadhan,
            info_nce=losses.info_nce,
            variational=losses.variational,
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
        statistics_optimizer=adam if statistics_rate == 1 else statistics_adam,
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
    learner = meg.meg(perceptrons(config, shape, hidden, hidden))
    return density.with_density(config, learner)


def plane_protocols(config, data, learner):
    """Densities: of the energy after the final NCE stage, and before it."""
    hidden = (config.width,) * 3
    before = meg.meg(perceptrons(config, data.shape, hidden, hidden))
    return density.finish_protocols(config, data, learner, before)


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
    """The images or vectors at `config.path`.

    Fills in `config.examples`, the digest of a file, against another one when the run
    goes on; and `config.mean` and `config.scale` of vectors that are standardised, with
    which the model of the run takes and gives rows as they are.
    """
    if not config.path:
        raise ValueError(
            "config.path is empty: give --config.path=FOLDER, .npy, .npz, .csv or "
            ".parquet of your data"
        )
    data = files.custom(
        config.path,
        image_size=config.image_size,
        num_channels=config.num_channels,
        standardise=config.standardise,
    )
    if config.get("examples") == "":
        config.examples = dataset.digest(data)
        for name, values in data.reference.items():
            config[name] = tuple(values.tolist())
    return data


def custom_learner(config, shape, data=None):
    """MEG with convolutions on images, with perceptrons on vectors in their own units."""
    if len(shape) > 1:
        return image_learner(config, shape, data)
    learner = vector_learner(config, shape, data)
    # A run of an earlier version has none: its model takes standardised rows.
    if not config.get("scale", ()):
        return learner
    return learners.in_units(learner, config.mean, config.scale)


def custom_evaluations(config, data, learner):
    """A grid of samples where they are images."""
    return {} if len(data.shape) == 1 else image_sets.grid(config, data, learner)


plane = Recipe(
    planar_sets.data, plane_learner, planar_sets.evaluations, plane_protocols
)
custom = Recipe(custom_data, custom_learner, custom_evaluations)
images = Recipe(image_sets.data, image_learner, image_sets.grid, image_sets.protocols)
