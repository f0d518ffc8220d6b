"""What every config starts from, and the wiring that MEG configs share."""

import hashlib
import math
import pathlib

import ml_collections
import optax
from jax import numpy as jnp

from megjax import losses
from megjax.evaluation import classifier, fidelity, pictures
from megjax.learners import meg
from megjax.networks import dcgan, heads, ladder
from megjax.training.experiment import Experiment


def get_config():
    """Fields that the training loop reads."""
    config = ml_collections.ConfigDict()
    config.batch_size = 64
    config.dtype = "float32"
    config.train = {
        "seed": 0,
        "num_steps": 100_000,
        "log_every": 100,
        "save_every": 1000,
        "evaluate_every": 5000,
        # Iterations in one compiled call; see docs/architecture.md.
        "iterations_per_call": 50,
        "iterations_per_call_cpu": 1,
        "compiler_options_cpu": compiler_options("dot", "reduce"),
        "keep": 3,
        # Where training diverges it goes on from the last checkpoint, so many times.
        "max_returns": 3,
        "max_energy": 1e7,
    }
    return config


def compiler_options(*operations):
    """The operations that XLA:CPU hands to its library of kernels (YNN).

    Its own choice adds convolutions, which are slower there: 4.7 s an iteration of
    CIFAR-10 at width 512 against 4.0. Dense networks of width 256 and less are faster
    without the library.
    """
    names = {"dot": "INDIVIDUAL_DOT", "reduce": "REDUCE"}
    kinds = ",".join(f"LIBRARY_FUSION_TYPE_{names[name]}" for name in operations)
    return {"xla_cpu_experimental_ynn_fusion_type": kinds}


def meg_defaults():
    """Hyperparameters of the paper's Algorithm 1, with its code's choices."""
    return {
        "latent_dim": 128,
        "num_energy_updates": 5,
        "score_weight": 0.1,
        "information_weight": 0.5,
        "bound": "jensen_shannon",
        "pairing": "shuffle_dimensions",
        "num_marginals": 1,
        "generator_first": True,
        "average_decay": 0.0,
        # Parts of a batch whose gradients are accumulated, in less memory.
        "num_microbatches": 1,
        "learning_rate": 1e-4,
        "beta1": 0.5,
        "beta2": 0.9,
        "schedule": "constant",
        "refinement_steps": 0,
        "refinement_step_size": 0.01,
    }


def in_nats():
    """Settings that let the entropy act from the start, for short runs and densities.

    InfoNCE does not saturate as the Jensen-Shannon bound does: the entropy keeps its
    unit, the nat, and gives it to the energy. Decaying rates and averaged weights stop
    the players from circling around their equilibrium.
    """
    return {
        "bound": "info_nce",
        "pairing": "roll_rows",
        "num_marginals": 15,
        "information_weight": 1.0,
        "average_decay": 0.995,
        "learning_rate": 3e-4,
        "schedule": "cosine",
    }


def image_config(side, penalty=10.0):
    """Fields of an experiment on images with `side` pixels a side.

    The reference code averages the penalty over pixels and we sum over them, hence the
    division.
    """
    config = get_config()
    config.data_dir = ""
    config.width = 512
    # Recompute activations instead of keeping them; for large images.
    config.remat = False
    config.meg = meg_defaults() | {"score_weight": penalty / side**2}
    return config


def classifier_space(path, name):
    """The features of a classifier of the set `name`, in a file."""
    found = classifier.load(path, data=name)
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    return fidelity.classifier_space(found, digest)


def image_meg(config, data, **initial):
    """MEG on images; initial: as of `image_networks`."""
    at_least("width", config.width, 1)
    trunk, slope, generator = image_networks(config, data, **initial)
    learner = meg.meg(
        meg_spec(
            config,
            energy=heads.Energy(trunk),
            generator=generator,
            statistics=heads.Statistics(
                trunk, config.meg.latent_dim, config.width, slope
            ),
        )
    )
    return Experiment(data, learner, {"grid": pictures.sample_grid(learner)})


def image_networks(config, data, **initial):
    """(trunk, its slope, generator) of the reference for images of the data's form.

    initial: `default_init` of the networks for 4 x 2^n pixels.
    """
    side, channels = data.shape[0], data.shape[-1]
    settings = {"dtype": compute_dtype(config.dtype)}
    family, slope, size = ladder, 0.1, {"image_size": side}
    if side == 28:
        family, slope, size = dcgan, 0.2, {}
        if config.remat:
            raise ValueError(
                "config.remat=True: the networks for 28x28 pixels cannot; give False"
            )
    else:
        settings |= {"remat": config.remat, **initial}
    trunk = family.Trunk(config.width, slope, **settings)
    generator = family.Generator(
        width=config.width, channels=channels, **settings, **size
    )
    return trunk, slope, generator


def meg_spec(config, energy, generator, statistics):
    """The MEG specification of `config.meg` and three networks."""
    settings = config.meg
    at_least("train.num_steps", config.train.num_steps, 1)
    for field in ("latent_dim", "num_energy_updates", "num_marginals"):
        at_least(f"meg.{field}", settings[field], 1)
    for field in (
        *("score_weight", "information_weight", "refinement_steps"),
        "refinement_step_size",
    ):
        at_least(f"meg.{field}", settings[field], 0)
    fraction("meg.average_decay", settings.average_decay)
    divides("meg.num_microbatches", settings.num_microbatches, config.batch_size)
    adam = optimizer(settings, config.train.num_steps)
    return meg.Spec(
        energy=energy,
        generator=generator,
        statistics=statistics,
        latent_dim=settings.latent_dim,
        num_energy_updates=settings.num_energy_updates,
        score_weight=settings.score_weight,
        information_weight=settings.information_weight,
        bound=choice(
            "meg.bound",
            settings.bound,
            jensen_shannon=losses.jensen_shannon,
            donsker_varadhan=losses.donsker_varadhan,
            info_nce=losses.info_nce,
        ),
        pairing=choice(
            "meg.pairing",
            settings.pairing,
            shuffle_dimensions=meg.shuffle_dimensions,
            shuffle_rows=meg.shuffle_rows,
            roll_rows=meg.roll_rows,
            fresh=meg.fresh,
        ),
        num_marginals=settings.num_marginals,
        generator_first=settings.generator_first,
        average_decay=settings.average_decay,
        num_microbatches=settings.num_microbatches,
        refinement=meg.Refinement(
            settings.refinement_steps, settings.refinement_step_size
        )
        if settings.refinement_steps
        else None,
        energy_optimizer=optimizer(
            settings, config.train.num_steps * settings.num_energy_updates
        ),
        generator_optimizer=adam,
        statistics_optimizer=adam,
    )


def optimizer(settings, num_updates, method="meg"):
    """Adam, its rate constant (reference) or decaying to 0 along a cosine.

    The cosine ends with `train.num_steps`: to raise that for a finished run lifts the
    rate again.
    """
    at_least(f"{method}.learning_rate", settings.learning_rate, 0)
    rates_of_decay(method, settings)
    rate = choice(
        f"{method}.schedule",
        settings.schedule,
        constant=settings.learning_rate,
        cosine=optax.cosine_decay_schedule(settings.learning_rate, num_updates),
    )
    return optax.adam(rate, settings.beta1, settings.beta2)


def rates_of_decay(method, settings):
    """ValueError where Adam could not take its averages."""
    for field in ("beta1", "beta2"):
        fraction(f"{method}.{field}", settings[field])


def compute_dtype(value):
    """float32 or bfloat16, for the arithmetic of networks; parameters stay float32."""
    return choice("dtype", value, float32=jnp.float32, bfloat16=jnp.bfloat16)


def choice(field, value, **options):
    """options[value]; ValueError naming the allowed values otherwise."""
    if value not in options:
        raise ValueError(
            f"config.{field}={value!r}: choose one of {', '.join(options)}"
        )
    return options[value]


def at_least(field, value, minimum):
    """ValueError where a number falls short of its minimum, or is not finite."""
    if not minimum <= value < math.inf:
        finite = "" if value < minimum else ", and a finite number"
        raise ValueError(f"config.{field}={value}: give at least {minimum}{finite}")


def positive(field, value):
    """ValueError where a number is not above 0, or is not finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"config.{field}={value}: give a finite number above 0")


def fraction(field, value):
    """ValueError where a number is not in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"config.{field}={value}: give a number in [0, 1)")


def divides(field, value, batch_size):
    """ValueError where a number of parts of a batch is not one that can be."""
    at_least(field, value, 1)
    if batch_size % value:
        raise ValueError(
            f"config.{field}={value} does not divide config.batch_size={batch_size}: "
            "change one of the two"
        )
