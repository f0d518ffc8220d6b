"""A learned proposal in the latent space of a trained MEG: exp(-beta E(G(z))) p(z).

python train.py --config=configs/digits.py
python train.py --config=configs/proposal_latent.py --config.target=runs/digits
python sample.py --workdir=runs/digits --kernel=neural --proposal=runs/proposal_latent
python evaluate.py --workdir=runs/proposal_latent

Measured on the digits of the demo: two minutes of training and four of comparison on
one CPU core. Per 1000 gradients the learned proposal makes 1.44 effective draws of the
energy, HMC 1.45 and MALA 1.29. See RESULTS.md.
"""

import math
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from configs import base, proposal_icg
from megjax.data.dataset import Dataset
from megjax.evaluation import sampler_comparison
from megjax.learners import proposal
from megjax.samplers import hmc, latent, mala
from megjax.training import loop
from megjax.training.experiment import Experiment

LEAPFROG_STEPS = 4


def get_config():
    """The digits of the demo; `target` is the run directory of any MEG."""
    config = proposal_icg.proposal_config()
    config.target = "runs/digits"
    config.inverse_temperature = 5.0
    config.batch_size, config.width = 128, 64
    config.proposal.update(
        {
            "flow_steps": 1,
            # E(G(z)) is piecewise linear, and gradients through dU at x + R miss its
            # kinks. Without R a transition costs one gradient, not four.
            "gradient": "position",
            "relative_entropy": True,
            "target_acceptance": 0.5,
            "entropy_weight_ceiling": 3.0,
            "buffer_size": 1024,
            "burn_in": 200,
        }
    )
    config.proposal.num_transitions = 20
    config.evaluation = {"num_chains": 256, "num_records": 400, "warm_up": 100}
    config.train.num_steps = 4000
    config.train.iterations_per_call_cpu = 1
    config.build = build
    return config


def build(config):
    """The sampler of latents; the comparison with MALA and HMC is a protocol."""
    run = trained(config.target)
    method, state = run.learner, jax.device_get(run.state)
    if method.generate is None:
        raise ValueError(
            f"config.target={config.target!r} has no generator: name the run of a MEG"
        )
    base.at_least("inverse_temperature", config.inverse_temperature, 0)
    # Effective sample sizes need four draws, and are of the last half.
    for field, minimum in (("num_chains", 2), ("num_records", 8), ("warm_up", 1)):
        base.at_least(f"evaluation.{field}", config.evaluation[field], minimum)
    log_density_fn = latent.log_density(
        lambda z: method.energy(state, method.generate(state, z)),
        inverse_temperature=config.inverse_temperature,
    )
    shape = jax.eval_shape(lambda key: method.latents(key, 1), jax.random.key(0)).shape
    spec = proposal_icg.proposal_spec(
        config, lambda z: log_density_fn(z)[0], method.latents, shape[1:]
    )
    learner = proposal.proposal(spec)
    data = run.experiment().data
    indices = jnp.arange(min(data.num_examples or 2000, 2000))
    setup = sampler_comparison.Setup(
        log_density_fn,
        method.latents,
        partial(method.generate, state),
        np.asarray(jax.jit(data.take)(data.store, indices)),
        gradients_per_record=2 * math.lcm(price(spec), LEAPFROG_STEPS),
        **config.evaluation,
    )
    compared = {
        "latents": sampler_comparison.equal_gradients(setup, contestants(learner, spec))
    }
    return Experiment(prior(shape[1]), learner, {}, compared)


def trained(target):
    """The run that a target directory holds."""
    return loop.restore(pathlib.Path(target))


def price(spec):
    """Gradients of a transition of the proposal; one that needs none pays a value."""
    return max(spec.proposal.num_gradients, 1)


def contestants(learner, spec):
    """The trained proposal, MALA and HMC."""

    def learned(state, log_density_fn, step_size):
        del step_size
        return learner.kernel(state, log_density_fn, has_aux=True)

    def langevin(state, log_density_fn, step_size):
        del state
        return mala.mala(log_density_fn, step_size=step_size, has_aux=True)

    def hamiltonian(state, log_density_fn, step_size):
        del state
        return hmc.hmc(
            log_density_fn,
            step_size=step_size,
            num_steps=LEAPFROG_STEPS,
            has_aux=True,
            unroll=True,
        )

    return {
        "neural": sampler_comparison.Entry(learned, price(spec), None),
        "mala": sampler_comparison.Entry(langevin, 1, mala.TARGET_ACCEPTANCE),
        "hmc": sampler_comparison.Entry(
            hamiltonian, LEAPFROG_STEPS, hmc.TARGET_ACCEPTANCE
        ),
    }


def prior(dim):
    """A set that nobody reads: training goes on the chains of the buffer."""
    return Dataset(
        "latents", (dim,), None, (), lambda store, i: jnp.zeros((len(i), dim))
    )
