"""A learned proposal on an ill-conditioned Gaussian in 50 dimensions: Li, Chen and
Sommer 2021 (proposal entropy), table 1.

python train.py --config=configs/proposal_icg.py
python sample.py --workdir=runs/proposal_icg --space=data --kernel=neural

Trains for the entropy relative to the target, which the paper does not. Measured, three
seeds: 100 seconds on one CPU core; 1 effective draw per transition in the paper's
definition (which has 0.86), 0.973 +- 0.007 in Geyer's, 0.25 per gradient (0.215).
"""

import functools
import math

import jax
import jax.numpy as jnp
import optax

from configs import base
from megjax.data.dataset import Dataset
from megjax.densities import targets
from megjax.evaluation import proposals
from megjax.learners import proposal
from megjax.networks import proposal as networks
from megjax.training.experiment import Experiment


def get_config():
    """One update of each half of the noise: four gradients a transition."""
    config = proposal_config()
    config.width = 128
    config.proposal.update({"flow_steps": 1, "initial_step_size": 1e-2})
    relative(config)
    config.train.num_steps = 4000
    config.build = build
    return config


def build(config):
    """The sampler of a Gaussian whose variances go from 0.01 to 100."""
    return proposal_experiment(config, targets.ill_conditioned_gaussian())


def proposal_config():
    """Fields of an experiment that trains a proposal on vectors."""
    config = base.get_config()
    config.batch_size, config.width = 256, 32
    config.proposal = defaults()
    config.evaluation = {"num_chains": 100, "num_steps": 2000, "burn_in": 0}
    config.train.save_every = 2000
    config.train.evaluate_every = 1_000_000
    config.train.iterations_per_call_cpu = 50
    config.train.compiler_options_cpu = base.compiler_options()
    return config


def defaults():
    """Hyperparameters; those of the paper's demonstration but for the optimizer's.

    Its learning rate is constant and 1e-3, its second beta .95, epsilon starts at .01,
    and the weight does not fall below its initial value.

    initial_step_size: of the MALA that a proposal starts as; tuned on the way where
        there is a buffer. buffer_size: 0 trains on exact draws.
    warmup_windows: of the buffer, whose covariance then is the proposal's frame; 0, the
        paper, for none.
    entropy_weight_rate: at which the weight follows the acceptance; 0 holds it.
    relative_entropy: of the proposal to the target (`learners.proposal.Spec`); False,
        the paper, for the proposal's own.
    path_gradient: of a relative entropy, with less noise where proposals are nearly
        draws of the target (`learners.proposal.Spec`); False for the usual one.
    halves: of the coordinates, which a step keeps in turn: "random", the paper, or
        "bisecting" (`networks.proposal.Vectors`).
    learned_shrinkage: of a form that can forget a distant x (`networks.proposal.Proposal`),
        for funnels; False, the paper, for not.
    """
    return {
        "flow_steps": 2,
        "gradient": "displaced",
        "coupling_masks": "random",
        "bound": 8.0,
        "learned_shrinkage": False,
        "initial_step_size": 0.05,
        "target_acceptance": 0.9,
        "entropy_weight": 0.01,
        "entropy_weight_rate": 0.1,
        "entropy_weight_floor": 1e-3,
        "entropy_weight_ceiling": 1e3,
        "relative_entropy": False,
        "path_gradient": True,
        "stop_gradient": False,
        "buffer_size": 0,
        "burn_in": 500,
        "warmup_windows": 0,
        "num_transitions": 100,
        "learning_rate": 2e-3,
        "beta1": 0.9,
        "beta2": 0.999,
        "schedule": "cosine",
        "schedule_warmup": 100,
    }


def relative(config):
    """Trains for the entropy relative to the target, at a weight that is held.

    It asks for what the acceptance asks for, so that its weight need not follow that;
    `target_acceptance` then has no say.
    """
    config.proposal.update(
        {
            "relative_entropy": True,
            "entropy_weight": 3.0,
            "entropy_weight_rate": 0.0,
        }
    )


def posterior_config():
    """Fields of an experiment on a density without an exact sampler.

    The proposal trains on its own chains, in coordinates that these whiten.
    """
    config = proposal_config()
    config.width = 64
    relative(config)
    config.proposal.update({"buffer_size": 2048, "burn_in": 150, "warmup_windows": 3})
    config.proposal.learning_rate = 3e-3
    config.evaluation.burn_in = 200
    config.train.num_steps = 5000
    return config


def proposal_experiment(config, target):
    """A proposal of perceptrons on a target of `megjax.densities.targets`."""
    learner = proposal.proposal(vector_spec(config, target))
    efficiency = proposals.efficiency(learner, trial(config, target))
    data = draws(target, source(config, target), seed=config.train.seed)
    return Experiment(data, learner, {"chains": efficiency})


def vector_spec(config, target):
    """The specification for a target; chains start at N(0, I)."""

    def starts(key, num):
        return jax.random.normal(key, (num, target.dim))

    return proposal_spec(config, target.log_density, starts, (target.dim,))


def trial(config, target):
    """What an evaluation does with the trained proposal: chains in equilibrium."""
    for field, minimum in (("num_chains", 1), ("num_steps", 1), ("burn_in", 0)):
        base.at_least(f"evaluation.{field}", config.evaluation[field], minimum)
    spec, exact = vector_spec(config, target), source(config, target)

    def starts(key, state, num):
        if config.proposal.buffer_size:
            return proposal.positions(spec, key, state, num)
        return exact(key, num)

    known = target.moments or targets.Moments(None, None)
    return proposals.Trial(
        target.log_density,
        starts,
        spec.proposal.num_gradients,
        **config.evaluation,
        mean=known.mean,
        variance=known.variance,
    )


def source(config, target):
    """Exact draws, or with a buffer the starts of chains: (key, num) -> [num, dim].

    Raises ValueError where neither is to be had.
    """
    if config.proposal.buffer_size:
        return vector_spec(config, target).start_fn
    if target.sample is None:
        raise ValueError(
            "config.proposal.buffer_size=0: this target has no exact sampler; give at "
            f"least batch_size={config.batch_size}"
        )
    return target.sample


def proposal_spec(config, log_density_fn, starts, shape):
    """The specification of `config.proposal` for a density on positions of a shape."""
    settings = config.proposal
    base.at_least("proposal.num_transitions", settings.num_transitions, 1)
    base.choice(
        "proposal.coupling_masks",
        settings.coupling_masks,
        **dict.fromkeys(networks.COUPLING_MASKS),
    )
    vectors = functools.partial(
        networks.Vectors, coupling_masks=settings.coupling_masks
    )
    proposer = proposer_fn(config, config.width, vectors)
    return proposal.Spec(
        log_density_fn,
        proposer(shape),
        starts,
        buffer=buffer(config, shape),
        num_transitions=settings.num_transitions,
        **objective(config, config.train.num_steps),
    )


def buffer(config, shape):
    """The chains to train on; None where there are exact draws."""
    settings = config.proposal
    base.at_least("proposal.burn_in", settings.burn_in, 1)
    base.at_least("proposal.warmup_windows", settings.warmup_windows, 0)
    if settings.warmup_windows and (len(shape) != 1 or not settings.buffer_size):
        raise ValueError(
            f"config.proposal.warmup_windows={settings.warmup_windows}: these need a buffer of "
            "chains of vectors; give a buffer_size, or 0 warmup_windows"
        )
    if not settings.buffer_size:
        return None
    base.at_least("proposal.buffer_size", settings.buffer_size, config.batch_size)
    return proposal.Buffer(
        settings.buffer_size, settings.burn_in, settings.warmup_windows
    )


def proposer_fn(config, width, network):
    """The network of `config.proposal`: shape of a position -> module."""
    settings = config.proposal
    base.at_least("proposal.flow_steps", settings.flow_steps, 1)
    base.positive("proposal.bound", settings.bound)
    base.positive("proposal.initial_step_size", settings.initial_step_size)
    base.at_least("width", width, 1)
    base.choice(
        "proposal.gradient", settings.gradient, **dict.fromkeys(networks.GRADIENTS)
    )
    return functools.partial(
        network,
        width=width,
        num_steps=settings.flow_steps,
        gradient=settings.gradient,
        bound=settings.bound,
        learned_shrinkage=settings.learned_shrinkage,
        initial_log_epsilon=0.5 * math.log(2 * settings.initial_step_size),
    )


def objective(config, num_updates):
    """What a proposal is trained for and how, as fields of its specification."""
    settings = config.proposal
    names = ("entropy_weight", "entropy_weight_rate", "entropy_weight_floor")
    names += ("entropy_weight_ceiling",)
    for field in (*names, "schedule_warmup"):
        base.at_least(f"proposal.{field}", settings[field], 0)
    weight = proposal.EntropyWeight(
        target_acceptance(config), *(settings[name] for name in names)
    )
    if not weight.floor <= weight.initial <= weight.ceiling:
        raise ValueError(
            f"config.proposal.entropy_weight={weight.initial}: give one from "
            f"entropy_weight_floor={weight.floor} to "
            f"entropy_weight_ceiling={weight.ceiling}"
        )
    return {
        "weight": weight,
        "relative": settings.relative_entropy,
        "path_gradient": settings.path_gradient,
        "stop_gradient": settings.stop_gradient,
        "optimizer": optimizer(settings, num_updates),
    }


def target_acceptance(config):
    """`proposal.target_acceptance`; ValueError unless it is between 0 and 1."""
    value = config.proposal.target_acceptance
    if not 0 < value < 1:
        raise ValueError(
            f"config.proposal.target_acceptance={value}: give a number between 0 and 1"
        )
    return value


def optimizer(settings, num_steps):
    """AMSGrad, its rate constant or rising for a while and then falling to 0."""
    base.at_least("proposal.learning_rate", settings.learning_rate, 0)
    base.rates_of_decay("proposal", settings)
    warmup = min(settings.schedule_warmup, num_steps // 2)
    rate = base.choice(
        "proposal.schedule",
        settings.schedule,
        constant=settings.learning_rate,
        cosine=optax.warmup_cosine_decay_schedule(
            0.0, settings.learning_rate, warmup, max(num_steps, warmup + 1)
        ),
    )
    return proposal.amsgrad(rate, beta1=settings.beta1, beta2=settings.beta2)


def draws(target, sample, *, seed):
    """An endless set of draws: example i is one of the seed's key folded with i."""

    def take(store, indices):
        del store
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), indices)
        return jax.vmap(lambda key: sample(key, 1)[0])(keys).astype(jnp.float32)

    return Dataset(target.name, (target.dim,), None, (), take)
