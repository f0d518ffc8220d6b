"""Experiments with learned proposals: Li, Chen and Sommer 2021 (proposal entropy)."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from megjax import checks
from megjax.data.dataset import Dataset
from megjax.densities import logistic as regressions
from megjax.densities import targets
from megjax.evaluation import proposals, sampler_comparison
from megjax.learners import proposal
from megjax.networks import proposal as networks
from megjax.recipes import base
from megjax.samplers import hmc, mala
from megjax.samplers import latent as latents
from megjax.training import loop
from megjax.training.experiment import Recipe

NETWORK = ("gradient", "coupling_masks", "bound", "learned_shrinkage")
LEAPFROG_STEPS = 4
MOON_POINTS = np.array([[-2.0, 0.0], [0.0, -4.0], [2.5, 2.25]])
"""On the ridge; the first is where the paper's figure starts."""


def settings(**changes):
    """`config.proposal`: hyperparameters of the learner, its optimizer, its network.

    They are documented at `proposal.Spec` and `proposal.Optimizer` of the learners, and
    at `networks.proposal.Vectors`.

    flow_steps: of the network. initial_step_size: of the MALA that a proposal starts
    as; tuned on the way where there is a buffer.
    """
    network = {name: getattr(networks.Vectors, name) for name in NETWORK}
    own = base.defaults(proposal.Spec) | base.defaults(proposal.Optimizer)
    return {"flow_steps": 2, "initial_step_size": 0.05} | network | own | changes


def relative():
    """Settings that train for the entropy relative to the target, at a held weight.

    It asks for what the acceptance asks for, so that its weight need not follow that;
    `target_acceptance` then has no say.
    """
    return {
        "relative_entropy": True,
        "entropy_weight": 3.0,
        "entropy_weight_rate": 0.0,
    }


def config(**changes):
    """Fields of an experiment that trains a proposal on vectors.

    changes: of the group `proposal`.
    """
    fields = base.config()
    fields.batch_size, fields.width = 256, 32
    fields.proposal = settings(**changes)
    fields.evaluation = {"num_chains": 100, "num_steps": 2000, "burn_in": 0}
    fields.train.save_every = 2000
    fields.train.evaluate_every = 1_000_000
    fields.train.iterations_per_call_cpu = 50
    fields.train.compiler_options_cpu = base.compiler_options()
    return fields


def posterior_config():
    """Fields of an experiment on a density without an exact sampler.

    The proposal trains on its own chains, with a preconditioner of their covariance.
    """
    buffer = {"buffer_size": 2048, "burn_in": 150, "warmup_windows": 3}
    fields = config(learning_rate=3e-3, **relative(), **buffer)
    fields.width = 64
    fields.evaluation.burn_in = 200
    fields.train.num_steps = 5000
    return fields


def density(target_fn, *others, source_fn=None):
    """The recipe for a density of one's own: target_fn(config) -> `targets.Target`.

    others: (config, target, learner) -> further evaluations by name.
    source_fn: (config, target) -> (key, num) -> states that training proposes from, in
        place of `source`; chains that are measured start as they do without.
    """
    return Recipe(
        partial(data, target_fn, source_fn or source),
        partial(learner, target_fn),
        partial(evaluations, target_fn, (chains, *others)),
    )


def data(target_fn, source_fn, config):
    """An endless set of exact draws, or with a buffer of starts, which nobody reads.

    Example i is one of the seed's key folded with i.
    """
    target, seed = target_fn(config), config.train.seed
    sample = source_fn(config, target)

    def take(store, indices):
        del store
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), indices)
        return jax.vmap(lambda key: sample(key, 1)[0])(keys).astype(jnp.float32)

    return Dataset(target.name, (target.dim,), None, (), take)


def learner(target_fn, config, shape, data=None):
    """A proposal of perceptrons."""
    del shape, data
    return proposal.proposal(vector_spec(config, target_fn(config)))


def evaluations(target_fn, parts, config, data, learner):
    """Those of all parts together."""
    del data
    found, target = {}, target_fn(config)
    for part in parts:
        found |= part(config, target, learner)
    return found


def chains(config, target, learner):
    """The efficiency of chains."""
    return {"chains": proposals.efficiency(learner, trial(config, target))}


def vector_spec(config, target):
    """The specification for a target; chains start at N(0, I)."""

    def starts(key, num):
        return jax.random.normal(key, (num, target.dim))

    return spec(config, target.log_density, starts, (target.dim,))


def spec(config, log_density_fn, starts, shape):
    """The specification of `config.proposal` for a density on positions of a shape."""
    group = config.proposal
    if group.buffer_size:
        base.at_least("proposal.buffer_size", group.buffer_size, config.batch_size)
    vectors = partial(networks.Vectors, coupling_masks=group.coupling_masks)
    return proposal.Spec(
        log_density_fn,
        network(config, vectors, shape, config.width),
        starts,
        **objective(config, config.train.num_steps),
    )


def network(config, module, shape, width):
    """The network of `config.proposal` for positions of a shape."""
    group = config.proposal
    base.at_least("width", width, 1)
    base.at_least("proposal.flow_steps", group.flow_steps, 1)
    base.positive("proposal.bound", group.bound)
    base.positive("proposal.initial_step_size", group.initial_step_size)
    names = {"gradient": networks.GRADIENTS, "coupling_masks": networks.COUPLING_MASKS}
    for field in names.keys() & group.keys():
        base.choice(f"proposal.{field}", group[field], **dict.fromkeys(names[field]))
    return module(
        shape,
        width=width,
        num_steps=group.flow_steps,
        gradient=group.gradient,
        bound=group.bound,
        learned_shrinkage=group.learned_shrinkage,
        initial_log_scale=0.5 * math.log(2 * group.initial_step_size),
    )


def objective(config, num_updates):
    """What a proposal is trained for and how, as fields of its specification."""
    group = config.proposal
    optimizer = {name: group[name] for name in proposal.Optimizer._fields}
    return base.plain_fields(proposal.Spec, group) | {
        "optimizer": proposal.optimizer(proposal.Optimizer(**optimizer), num_updates)
    }


def trial(config, target):
    """What an evaluation does with the trained proposal: chains in equilibrium."""
    for field, minimum in (("num_chains", 1), ("num_steps", 1), ("burn_in", 0)):
        base.at_least(f"evaluation.{field}", config.evaluation[field], minimum)
    spec, exact = vector_spec(config, target), source(config, target)

    def starts(key, state, num):
        if spec.buffer_size:
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


def tailed(config, target):
    """As `source` for a funnel, with more states far out in x0: `config.tails`.

    A proposal that is trained at draws alone hardly meets the tails of x0, covers them
    too thinly, and its chains then get stuck there. Metrics of training, such as the
    acceptance, are those of the states that it proposes from. Raises ValueError with a
    buffer, whose chains would be proposed from instead.
    """
    group = config.tails
    checks.share("config.tails.share", group.share)
    base.positive("tails.std", group.std)
    exact = source(config, target)
    if not group.share:
        return exact
    if config.proposal.buffer_size:
        raise ValueError(
            f"config.tails.share={group.share}, config.proposal.buffer_size="
            f"{config.proposal.buffer_size}: training proposes from the chains of a "
            "buffer; give 0 for one of the two"
        )
    wide = targets.funnel(**(dict(config.funnel) | {"std": group.std}))

    def sample(key, num):
        key, key_choice = jax.random.split(key)
        far = jax.random.uniform(key_choice, (num, 1)) < group.share
        return jnp.where(far, wide.sample(key, num), exact(key, num))

    return sample


def pictures(config, target, learner):
    """Proposals in the plane."""
    del learner
    return {"proposals": proposals.planar(vector_spec(config, target), MOON_POINTS)}


def first_coordinate(config, target, learner):
    """What counts in a funnel, on more chains."""
    longer = trial(config, target)._replace(num_chains=1000)
    std = config.funnel.std
    return {"x0": proposals.first_marginal(learner, longer, std=std)}


def regression(config):
    """The posterior of `config.logistic`, whose density needs the data."""
    group = config.logistic
    return regressions.regression(
        group.name,
        data_dir=config.data_dir or None,
        prior_variance=group.prior_variance,
    )


def trained(target):
    """The run that a target directory holds.

    Raises FileNotFoundError or ValueError where it is gone or has no generator.
    """
    run = loop.restore(checks.path(target))
    if run.learner.generate is None:
        raise ValueError(
            f"config.target={target!r} has no generator: name the run of a MEG"
        )
    return run


def latent_shape(method):
    """Of a latent of a method with a generator."""
    drawn = jax.eval_shape(lambda key: method.latents(key, 1), jax.random.key(0))
    return drawn.shape[1:]


def latent_spec(config, run):
    """(the specification for exp(-beta E(G(z))) p(z), its density with x as aux)."""
    base.at_least("inverse_temperature", config.inverse_temperature, 0)
    method, state = run.learner, jax.device_get(run.state)
    log_density_fn = latents.log_density(
        lambda z: method.energy(state, method.generate(state, z)),
        inverse_temperature=config.inverse_temperature,
    )
    own = spec(
        config,
        lambda z: log_density_fn(z)[0],
        method.latents,
        latent_shape(method),
    )
    return own, log_density_fn


def latent_data(config):
    """A set that nobody reads: training goes on the chains of the buffer."""
    (dim,) = latent_shape(trained(config.target).learner)
    return Dataset(
        "latents", (dim,), None, (), lambda store, i: jnp.zeros((len(i), dim))
    )


def latent_learner(config, shape, data=None):
    """A proposal in the latent space of the run `config.target`, which it reads."""
    del shape, data
    return proposal.proposal(latent_spec(config, trained(config.target))[0])


def latent_protocols(config, data, learner):
    """The comparison with MALA and HMC, against the data of the run `config.target`."""
    del data
    # Effective sample sizes need four draws, and are of the last half.
    for field, minimum in (("num_chains", 2), ("num_records", 8), ("warm_up", 1)):
        base.at_least(f"evaluation.{field}", config.evaluation[field], minimum)
    run = trained(config.target)
    own, log_density_fn = latent_spec(config, run)
    real = run.experiment().data
    indices = jnp.arange(min(real.num_examples or 2000, 2000))
    # One that needs no gradient pays a value.
    price = max(own.proposal.num_gradients, 1)
    setup = sampler_comparison.Setup(
        log_density_fn,
        run.learner.latents,
        partial(run.learner.generate, jax.device_get(run.state)),
        np.asarray(jax.jit(real.take)(real.store, indices)),
        gradients_per_record=2 * math.lcm(price, LEAPFROG_STEPS),
        **config.evaluation,
    )
    compared = sampler_comparison.equal_gradients(setup, entries(learner, price))
    return {"latents": compared}


def entries(learner, price):
    """The trained proposal at its gradients per transition, MALA and HMC."""

    def learned(state, log_density_fn, step_size):
        del step_size
        return learner.kernel(state, log_density_fn, has_aux=True)

    def langevin(state, log_density_fn, step_size):
        del state
        return mala.mala(log_density_fn, step_size=step_size, has_aux=True)

    def hamiltonian(state, log_density_fn, step_size):
        del state
        options = {
            "num_integration_steps": LEAPFROG_STEPS,
            "has_aux": True,
            "unroll": True,
        }
        return hmc.hmc(log_density_fn, step_size=step_size, **options)

    return {
        "neural": sampler_comparison.Entry(learned, price, None),
        "mala": sampler_comparison.Entry(langevin, 1, mala.TARGET_ACCEPTANCE),
        "hmc": sampler_comparison.Entry(
            hamiltonian, LEAPFROG_STEPS, hmc.TARGET_ACCEPTANCE
        ),
    }


icg = density(lambda config: targets.ill_conditioned_gaussian())
"""A Gaussian whose variances go from 0.01 to 100."""
scg = density(lambda config: targets.strongly_correlated_gaussian())
"""A Gaussian of variances 100 and 0.1 along the diagonals."""
moon = density(lambda config: targets.moon(), pictures)
"""A crescent in the plane."""
funnel = density(
    lambda config: targets.funnel(**config.funnel),
    first_coordinate,
    source_fn=tailed,
)
"""Neal's funnel, of `config.funnel`."""
logistic = density(regression)
"""The posterior of a logistic regression, of `config.logistic`."""
latent = Recipe(latent_data, latent_learner, protocols=latent_protocols)
"""The latents of the run `config.target` of a MEG."""
