"""Energies of images by persistent contrastive divergence from a replay buffer.

Li, Chen and Sommer 2021 (proposal entropy), section 5.2.
"""

import functools
import math

import jax
import numpy as np

from megjax.data import dequantisation
from megjax.densities import reference
from megjax.evaluation import chain_stability, fidelity, held_out
from megjax.learners import adaptive_samplers, replay
from megjax.learners import proposal as learner_of_proposals
from megjax.networks import proposal as networks
from megjax.networks import smooth
from megjax.recipes import base, image_sets, proposal
from megjax.samplers import bijectors, partition
from megjax.training.experiment import Recipe

SAMPLERS = ("neural", "mala")
GAUSSIAN = reference.gaussian(1.2)
"""What annealing starts from."""

# Of proposals that train on a density that stays.
UNUSED = (
    *("buffer_size", "burn_in", "warmup_windows", "num_transitions"),
    "coupling_masks",
)


def config(dataset, sampler):
    """Fields of an image energy; those that are not the paper's are ours to choose.

    dataset: as of `image_sets`. sampler: neural or mala. num_levels: of grey. alpha: of
    the logit of images, `bijectors.logit`. replay: hyperparameters of `replay.Spec`, of
    Adam, and `step_size_rate` of MALA's step size. proposal: of the learned proposal,
    but its target_acceptance and initial_step_size are those of MALA, too.
    evaluation.num_transitions: of the long chains. evaluation.num_temperatures: of
    annealing, for the likelihood in nats; 0 leaves it out. evaluation.inception_weights: a
    file; without it there is no FID.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    fields = image_sets.config(dataset)
    del fields.remat, fields.default_init
    fields.sampler = sampler
    fields.num_levels, fields.alpha = 32, 0.05
    fields.replay = base.defaults(
        replay.Spec,
        step_size_rate=adaptive_samplers.StepSize().rate,
        learning_rate=1e-4,
        beta1=0.9,
        beta2=0.999,
        schedule="constant",
    )
    # Chains start at uniform pixels, whatever the data.
    del fields.replay.start_fn
    fields.proposal = settings()
    fields.evaluation = {
        "num_chains": 64,
        "num_transitions": 100_000,
        "num_temperatures": 0,
        "inception_weights": "",
        "cache_dir": "~/.cache/megjax",
        "num_samples": 8189,
    }
    fields.train.compiler_options_cpu = base.compiler_options()
    fields.recipe = images
    return fields


def settings():
    """The variant without R, and a constant rate, since the target goes on changing."""
    known = proposal.settings(
        width=32,
        gradient="position",
        initial_step_size=0.005,
        target_acceptance=0.6,
        learning_rate=1e-3,
        schedule="constant",
    )
    return {name: value for name, value in known.items() if name not in UNUSED}


def spec(config, shape):
    """Of images of a shape in logit space; chains start at uniform pixels."""
    group = config.replay
    base.at_least("width", config.width, 1)
    base.at_least("num_levels", config.num_levels, 2)
    base.at_least("replay.buffer_size", group.buffer_size, config.batch_size)
    if not 0 < config.alpha < 0.5:
        raise ValueError(
            f"config.alpha={config.alpha}: give a number between 0 and 0.5"
        )
    return replay.Spec(
        smooth.Energy(config.width, dtype=base.compute_dtype(config.dtype)),
        sampler(config, shape),
        bijectors.logit(config.alpha),
        functools.partial(dequantisation.dequantised, num_levels=config.num_levels),
        **base.plain_fields(replay.Spec, group),
        start_fn=jax.random.logistic,
        optimizer=base.optimizer(group, config.train.num_steps, "replay"),
    )


def sampler(config, shape):
    """The adaptive sampler of `config.sampler`."""
    group = config.proposal
    learned = base.choice("sampler", config.sampler, neural=True, mala=False)
    module = proposal.network(config, networks.Images, shape, group.width)
    num_updates = config.train.num_steps * config.replay.num_transitions
    objective = proposal.objective(config, num_updates)
    if learned:
        return adaptive_samplers.neural(
            learner_of_proposals.Spec(None, module, None, **objective)
        )
    return adaptive_samplers.langevin(
        adaptive_samplers.StepSize(
            group.target_acceptance,
            group.initial_step_size,
            config.replay.step_size_rate,
        )
    )


def learner(config, shape, data=None):
    """An energy of images and its sampler."""
    del data
    return replay.replay(spec(config, shape))


def model(config, data, learner):
    """What evaluations of the chains need to know."""
    own = spec(config, data.shape)
    return chain_stability.Model(
        learner,
        positions_fn=functools.partial(replay.positions, own),
        start_fn=functools.partial(replay.starts, own),
        noise_fn=own.noise_fn,
    )


def evaluations(config, data, learner):
    """The distance of the buffer from the data."""
    chains = model(config, data, learner)
    return {"buffer": chain_stability.buffer_distance(chains, data)}


def protocols(config, data, learner):
    """Long chains, and the FID of the buffer where there is a file of Inception."""
    group = config.evaluation
    for field in ("num_chains", "num_transitions"):
        base.at_least(f"evaluation.{field}", group[field], 1)
    found = {
        "long_run": chain_stability.long_run(
            model(config, data, learner),
            data,
            num_chains=group.num_chains,
            num_transitions=group.num_transitions,
        )
    }
    if group.get("num_temperatures"):
        found["annealing"] = likelihood(config, data, learner)
    if group.inception_weights:
        found["inception"] = fid(group, data, learner)
    return found


def likelihood(config, data, learner):
    """Nats of noisy images that were trained on, log Z by annealing there and back.

    In the coordinates of the chains, from a Gaussian that is fitted to the buffer; back
    from chains of the buffer, so as good as they are.
    """
    own, group, density = spec(config, data.shape), config.evaluation, GAUSSIAN
    base.at_least("evaluation.num_temperatures", group.num_temperatures, 1)
    dim = math.prod(data.shape)

    def energy_fn(state, u):
        log_density_fn = replay.log_density(own, state.energy.params)
        return -jax.vmap(log_density_fn)(u.reshape(len(u), *data.shape))

    def base_fn(state):
        params = density.fit(state.positions.reshape(-1, dim))
        return partition.Base(
            functools.partial(density.sample, params),
            functools.partial(density.log_prob, params),
        )

    def draws_fn(key, state, num):
        rows = jax.random.choice(key, len(state.positions), (num,))
        return state.positions[rows].reshape(num, dim)

    method = held_out.by_annealing(
        energy_fn,
        base_fn,
        draws_fn,
        num_chains=group.num_chains,
        num_steps=group.num_temperatures,
    )
    rows = np.arange(min(data.num_examples, group.num_samples), dtype=np.int32)
    x = jax.jit(data.take)(data.store, rows)
    x = np.asarray(own.noise_fn(jax.random.key(0), x))
    return held_out.held_out(learner, x, method, name="train")


def fid(group, data, learner):
    """Chains of the buffer against the images without noise, in Inception's features."""
    base.at_least("evaluation.num_samples", group.num_samples, 10)
    weights, cache_dir = group.inception_weights, group.cache_dir
    space = functools.cache(lambda: fidelity.inception_space(weights))
    return fidelity.fidelity(
        fidelity.generator(learner),
        space,
        functools.cache(lambda: fidelity.reference(data, space(), cache_dir)),
        num_samples=group.num_samples,
    )


images = Recipe(image_sets.data, learner, evaluations, protocols)
