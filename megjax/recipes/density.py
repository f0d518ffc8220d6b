"""Energies that are densities at inverse temperature 1: `learners.noise_contrastive`."""

import functools

import jax
import ml_collections
import numpy as np
import optax
from flax import traverse_util

from megjax.data import dataset, files, toy
from megjax.data.dataset import Dataset
from megjax.densities import gaussian_mixtures, reference
from megjax.evaluation import held_out
from megjax.learners import density_finish, noise_contrastive
from megjax.networks import fourier
from megjax.recipes import base, planar_sets
from megjax.training.experiment import Recipe

CURVES = {
    "swiss_roll": toy.swiss_roll_log_density,
    "two_spirals": toy.two_spirals_log_density,
}
"""True log-densities, where they are known and no mixture."""

WINDOW = 6.0
"""Half width of the window of quadrature, in standard deviations of the data."""

NUM_CELLS = 1000
"""Of quadrature a side."""


def config():
    """The fields of every density.

    density: of `noise_contrastive.Spec` and its optimizer; weight_decay of the network's
        kernels is AdamW's.
    network: of `fourier.Energy` on whitened data.
    noise: shares of a box, of a Gaussian `spread` times as wide as the data, of round
        kernels of the `widths` around `num_points` rows, and of mixtures of Gaussians,
        num_components, strengths and spreads as of `gaussian_mixtures`, all of whitened
        data. Shares need not have sum 1; 0 is none.
    evaluation: in the plane num_points that are held out, and num_cells of quadrature a
    side; of tables num_chains and num_steps of annealing.
    """
    fields = base.config()
    fields.batch_size = 512
    fields.density = base.defaults(
        noise_contrastive.Spec,
        learning_rate=2e-3,
        beta1=0.9,
        beta2=0.999,
        schedule="cosine",
        weight_decay=0.0,
    )
    fields.network = {
        "hidden": (128, 128),
        "num_features": 128,
        "scale": 10.0,
        "coordinates": True,
        "confinement": 1.0,
    }
    fields.noise = {
        "box": 0.15,
        "gaussian": 0.1,
        "kernels": 0.75,
        "spread": 1.5,
        "widths": (0.03, 0.15),
        "num_points": 500,
        "mixtures": 0.0,
        "num_components": (2, 4, 8, 16, 32),
        "strengths": (0.2, 1.0),
        "spreads": (1.0, 2.0, 4.0),
    }
    fields.evaluation = {"num_points": 20_000, "num_cells": NUM_CELLS}
    fields.train.num_steps = 3000
    fields.train.save_every = fields.train.evaluate_every = 3000
    fields.train.iterations_per_call_cpu = 50
    fields.train.compiler_options_cpu = base.compiler_options()
    return fields


def plane_config(dataset):
    """A density of a set of `planar_sets`."""
    fields = config()
    fields.dataset = dataset
    fields.recipe = plane
    return fields


def table_config():
    """A density of the rows of `path`, a .npy or .npz file.

    held_out_share: of the rows, that no training sees and evaluations report;
    validation_share: of the others, that choose among the weights.
    """
    fields = config()
    fields.path = fields.examples = ""
    fields.held_out_share = fields.validation_share = 0.1
    fields.density.num_validation = 500
    fields.density.weight_decay = 0.01
    fields.batch_size = 256
    fields.density.tilt = True
    fields.density.num_importance = 20_000
    fields.network.update({"num_features": 64, "scale": 0.5, "confinement": 0.0})
    shares = {"box": 0.0, "gaussian": 0.0, "kernels": 0.0, "mixtures": 1.0}
    fields.noise.update(shares)
    fields.train.num_steps = 1000
    fields.train.save_every = fields.train.evaluate_every = 1000
    fields.evaluation = {"num_chains": 64, "num_steps": 200}
    fields.recipe = table
    return fields


def noise(group):
    """The noise of `config.noise`: a mixture of those with a share."""
    for field in ("box", "gaussian", "kernels", "mixtures"):
        base.at_least(f"noise.{field}", group[field], 0)
    # All of them, so that no wrong field passes where its share is 0.
    parts = {
        "box": reference.box(),
        "gaussian": reference.gaussian(group.spread),
        "kernels": reference.kernel_density(
            tuple(group.widths), num_points=group.num_points
        ),
        "mixtures": gaussian_mixtures.gaussian_mixtures(
            tuple(group.num_components),
            strengths=tuple(group.strengths),
            spreads=tuple(group.spreads),
        ),
    }
    shares = {name: group[name] for name in parts if group[name] > 0}
    if not shares:
        raise ValueError("config.noise has no share above 0: give one of them one")
    weights = np.array(list(shares.values())) / sum(shares.values())
    return reference.mixture([parts[name] for name in shares], weights)


def optimizer(settings, num_steps):
    """Adam, or AdamW that decays the kernels of layers and nothing else."""
    adam = base.optimizer(settings, num_steps, "density")
    base.at_least("density.weight_decay", settings.weight_decay, 0)
    if not settings.weight_decay:
        return adam
    rate = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    if settings.schedule == "constant":
        rate = settings.learning_rate

    def kernels(weights):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: getattr(path[-1], "key", None) == "kernel", weights
        )

    return optax.adamw(
        rate,
        settings.beta1,
        settings.beta2,
        weight_decay=settings.weight_decay,
        mask=kernels,
    )


def finish_settings():
    """`config.finish`: of `density_finish.Spec`; num_steps 0 leaves the energy as it is.

    num_steps: at most as many as training has. share, num_draws: of the generator's
    samples, and `widths` of the kernels around them, of whitened data. density, network
    and noise are as of `config`, but the noise has no kernels around data.
    """
    fields = config()
    fields.noise.kernels = 0.0
    own = {
        "num_steps": 0,
        "batch_size": fields.batch_size,
        "widths": fields.noise.widths,
    }
    groups = {name: fields[name] for name in ("density", "network", "noise")}
    return base.defaults(density_finish.Spec, **own, **groups)


def with_density(config, learner):
    """The learner, its energy finished as a density where the config asks."""
    group = config.get("finish")
    if not group:
        return learner
    base.at_least("finish.num_steps", group.num_steps, 0)
    num_steps = max(1, min(group.num_steps, config.train.num_steps))
    own = ml_collections.ConfigDict(
        group.to_dict() | {"dtype": config.dtype, "train": {"num_steps": num_steps}}
    )
    base.at_least("finish.num_draws", group.num_draws, 1)
    fields = base.plain_fields(density_finish.Spec, group) | {"num_steps": num_steps}
    try:
        generated = reference.kernel_density(
            tuple(group.widths), num_points=group.num_draws
        )
        finish = density_finish.checked(
            density_finish.Spec(spec(own), generated, **fields)
        )
    except ValueError as error:
        raise ValueError(_in_finish(group.to_dict(), str(error))) from error
    return density_finish.with_density(learner, finish) if group.num_steps else learner


def _in_finish(group, words):
    """What is wrong with a field of a config of densities, said of `config.finish`."""
    words = words.removeprefix("config.").removeprefix("finish.")
    name, _, rest = words.partition("=")
    names = traverse_util.flatten_dict(group, sep=".")
    found = [each for each in names if f".{each}".endswith(f".{name}")]
    return f"config.finish.{found[0]}={rest}" if found else f"config.finish: {words}"


def spec(config):
    """The specification of a config."""
    group = config.network
    base.at_least("network.num_features", group.num_features, 0)
    base.positive("network.scale", group.scale)
    base.at_least("network.confinement", group.confinement, 0)
    if not (group.confinement or config.density.tilt):
        raise ValueError(
            "config.network.confinement=0 leaves exp(-E) without a finite integral: give "
            "a number above 0, or config.density.tilt=True"
        )
    if group.num_features % 2 or not (group.num_features or group.coordinates):
        raise ValueError(
            f"config.network.num_features={group.num_features}: give an even number, and "
            "not 0 without coordinates"
        )
    energy = fourier.Energy(
        tuple(group.hidden),
        group.num_features,
        group.scale,
        group.coordinates,
        group.confinement,
        dtype=base.compute_dtype(config.dtype),
    )
    return noise_contrastive.Spec(
        energy,
        noise(config.noise),
        objective=config.density.objective,
        **base.plain_fields(noise_contrastive.Spec, config.density),
        optimizer=optimizer(config.density, config.train.num_steps),
    )


def learner(config, shape, data=None):
    """Noise-contrastive estimation on vectors."""
    del shape
    return noise_contrastive.noise_contrastive(spec(config), data)


def table_data(config):
    """The rows of a file but for those held out and those that choose weights."""
    if not config.path:
        raise ValueError("config.path is empty: give --config.path=FILE.npy or .npz")
    whole = files.array(config.path)
    if len(whole.shape) != 1:
        raise ValueError(
            f"{config.path} holds images {list(whole.shape)}: flatten them to rows"
        )
    if config.get("examples") == "":
        config.examples = dataset.digest(whole)
    return split(whole, config)


def split(data, config):
    """The data without the held-out and the validation rows, which are its reference."""
    base.fraction("held_out_share", config.held_out_share)
    base.fraction("validation_share", config.validation_share)
    rows = np.asarray(data.store)
    order = np.random.RandomState(config.train.seed).permutation(len(rows))
    num_held_out = int(config.held_out_share * len(rows))
    rest = order[num_held_out:]
    num_validation = int(config.validation_share * len(rest))
    if config.density.num_validation and not num_validation:
        raise ValueError(
            f"{len(rows)} rows leave none for validation: give more, or "
            "config.density.num_validation=0"
        )
    train = rows[rest[num_validation:]]
    known = {"held_out": rows[order[:num_held_out]]}
    known["validation"] = rows[rest[:num_validation]]
    known = {name: part for name, part in known.items() if len(part)}
    return Dataset(
        data.name, data.shape, len(train), train, lambda s, i: s[i], None, known
    )


def plane_evaluations(config, data, learner):
    """Held-out nats, with log Z by quadrature, and the divergence from the truth."""
    window_fn = functools.partial(noise_contrastive.window, size=WINDOW)
    return {"likelihood": plane_likelihood(config, learner, window_fn)}


def finish_protocols(config, data, learner, before):
    """Of a finished energy its nats; and what is shown of the learner `before`."""
    if not config.get("finish") or not config.finish.num_steps:
        return {}

    def likelihood():
        return plane_likelihood(
            config,
            learner,
            lambda state: noise_contrastive.window(state.density, size=WINDOW),
        )

    def before_finish():
        (shown,) = planar_sets.evaluations(config, data, before).values()
        return lambda key, state: shown(key, state.inner)

    made = {"likelihood": likelihood, "before_finish": before_finish}
    return {name: base.lazily(make) for name, make in made.items()}


def plane_likelihood(config, learner, window_fn):
    """The evaluation of held-out points of `config.dataset`.

    window_fn: state -> corners of the quadrature.
    """
    num = config.evaluation.num_points
    base.at_least("evaluation.num_points", num, 1)
    source = planar_sets.SOURCES[config.dataset](seed=2**31 - 1)
    # No run has this seed, so no run trains on these points.
    x = planar_sets.points(source, num)
    num_cells = config.evaluation.get("num_cells", NUM_CELLS)
    method = held_out.by_quadrature(learner, window_fn, num_cells=num_cells)
    truth = CURVES.get(config.dataset)
    if config.dataset in planar_sets.MIXTURES:
        mixture = planar_sets.MIXTURES[config.dataset]()
        truth = functools.partial(toy.mixture_log_density, mixture)
    return held_out.held_out(learner, x, method, truth=truth)


def table_evaluations(config, data, learner):
    """Held-out nats, with log Z by importance sampling from the noise."""
    if "held_out" not in data.reference:
        return {}
    own = spec(config)
    method = held_out.by_importance(
        learner,
        functools.partial(noise_contrastive.noise_of, own),
        num=own.num_importance,
    )
    x = data.reference["held_out"]
    return {"likelihood": held_out.held_out(learner, x, method)}


def table_protocols(config, data, learner):
    """Held-out nats, with log Z by annealing from the noise, there and back."""
    if "held_out" not in data.reference:
        return {}
    group, own = config.evaluation, spec(config)
    for field in ("num_chains", "num_steps"):
        base.at_least(f"evaluation.{field}", group[field], 1)
    method = held_out.by_annealing(
        learner.energy,
        functools.partial(noise_contrastive.noise_of, own),
        learner.sample,
        num_chains=group.num_chains,
        num_steps=group.num_steps,
    )
    x = data.reference["held_out"]
    return {"annealing": held_out.held_out(learner, x, method)}


plane = Recipe(planar_sets.data, learner, plane_evaluations)
table = Recipe(table_data, learner, table_evaluations, table_protocols)
