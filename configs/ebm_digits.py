"""An energy of 8x8 digits by persistent contrastive divergence, sampled by its own
learned proposal: the image experiment of Li, Chen and Sommer 2021 (proposal entropy),
section 5.2, at a size for one CPU core.

python train.py --config=configs/ebm_digits.py
python train.py --config=configs/ebm_digits.py:mala
python evaluate.py --workdir=runs/ebm_digits
python sample.py --workdir=runs/ebm_digits --space=data --kernel=neural --steps=1000

Measured: 4 minutes of one shared CPU core with the learned proposal and 30 seconds with
MALA; strokes of digits. The chains are 2.5 and 2.6 from the data in squared Frechet
distance of pixels, where other digits are 0.6 and the start 39. See RESULTS.md.
"""

import functools

import jax

from configs import base, proposal_icg
from megjax.data import dequantisation, images
from megjax.evaluation import chain_stability
from megjax.learners import adaptive_samplers, proposal, replay
from megjax.networks import proposal as networks
from megjax.networks import smooth
from megjax.samplers import bijectors
from megjax.training.experiment import Experiment

SAMPLERS = ("neural", "mala")


def get_config(sampler="neural"):
    """Fewer chains and transitions than the paper, and narrow networks."""
    config = ebm_config(sampler)
    config.width = 16
    config.proposal.width, config.proposal.flow_steps = 8, 1
    config.replay.update(
        {
            "buffer_size": 512,
            "num_transitions": 10,
            "learning_rate": 1e-3,
            "schedule": "cosine",
        }
    )
    config.train.update({"num_steps": 800, "save_every": 40, "evaluate_every": 200})
    config.evaluation.update({"num_chains": 128, "num_transitions": 2000})
    config.build = build
    return config


def build(config):
    """On the images that ship with scikit-learn."""
    return image_energy(config, images.digits())


def ebm_config(sampler):
    """Fields of an image energy; those that are not the paper's are ours to choose.

    sampler: neural or mala. replay.num_transitions: of a chain in an iteration.
    proposal: of the learned proposal, but its target_acceptance and initial_step_size
    are those of MALA, too. evaluation.num_transitions: of the long chains.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    config = base.get_config()
    config.sampler = sampler
    config.num_levels, config.alpha = 32, 0.05
    config.replay = {
        "buffer_size": 10_000,
        "num_transitions": 40,
        "step_size_rate": 0.1,
        "magnitude_weight": 0.0,
        "learning_rate": 1e-4,
        "beta1": 0.9,
        "beta2": 0.999,
        "schedule": "constant",
    }
    config.proposal = proposal_defaults()
    config.evaluation = {"num_chains": 64, "num_transitions": 100_000}
    config.train.compiler_options_cpu = base.compiler_options()
    return config


def proposal_defaults():
    """The variant without R, and a constant rate, since the target goes on changing."""
    unused = (
        "buffer_size",
        "burn_in",
        "warmup_windows",
        "num_transitions",
        "coupling_masks",
    )
    settings = proposal_icg.defaults()
    return {k: v for k, v in settings.items() if k not in unused} | {
        "width": 32,
        "gradient": "position",
        "initial_step_size": 0.005,
        "target_acceptance": 0.6,
        "learning_rate": 1e-3,
        "schedule": "constant",
    }


def image_energy(config, data):
    """The energy of a set of images, its sampler, and what to measure."""
    spec = specification(config, data.shape)
    learner = replay.replay(spec)
    for field in ("num_chains", "num_transitions"):
        base.at_least(f"evaluation.{field}", config.evaluation[field], 1)
    model = chain_stability.Model(
        learner,
        positions_fn=functools.partial(replay.positions, spec),
        start_fn=functools.partial(replay.starts, spec),
        noise_fn=spec.noise_fn,
    )
    long_run = chain_stability.long_run(
        model,
        data,
        num_chains=config.evaluation.num_chains,
        num_transitions=config.evaluation.num_transitions,
    )
    evaluations = {"buffer": chain_stability.buffer_distance(model, data)}
    return Experiment(data, learner, evaluations, {"long_run": long_run})


def specification(config, shape):
    """Of images of a shape in logit space; chains start at uniform pixels."""
    settings = config.replay
    base.at_least("width", config.width, 1)
    base.at_least("num_levels", config.num_levels, 2)
    base.at_least("replay.num_transitions", settings.num_transitions, 1)
    base.at_least("replay.buffer_size", settings.buffer_size, config.batch_size)
    base.at_least("replay.magnitude_weight", settings.magnitude_weight, 0)
    if not 0 < config.alpha < 0.5:
        raise ValueError(
            f"config.alpha={config.alpha}: give a number between 0 and 0.5"
        )
    return replay.Spec(
        smooth.Energy(config.width, dtype=base.compute_dtype(config.dtype)),
        walker(config, shape),
        bijectors.logit(config.alpha),
        functools.partial(dequantisation.dequantised, num_levels=config.num_levels),
        buffer_size=settings.buffer_size,
        num_transitions=settings.num_transitions,
        start_fn=jax.random.logistic,
        magnitude_weight=settings.magnitude_weight,
        optimizer=base.optimizer(settings, config.train.num_steps, "replay"),
    )


def walker(config, shape):
    """The sampler of `config.sampler`."""
    learned = base.choice("sampler", config.sampler, neural=True, mala=False)
    base.at_least("replay.step_size_rate", config.replay.step_size_rate, 0)
    proposer = proposal_icg.proposer_fn(config, config.proposal.width, networks.Images)
    num_updates = config.train.num_steps * config.replay.num_transitions
    objective = proposal_icg.objective(config, num_updates)
    if learned:
        return adaptive_samplers.neural(
            proposal.Spec(None, proposer(shape), None, **objective)
        )
    return adaptive_samplers.langevin(
        adaptive_samplers.StepSize(
            proposal_icg.target_acceptance(config),
            config.proposal.initial_step_size,
            config.replay.step_size_rate,
        )
    )
