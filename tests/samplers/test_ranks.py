"""The rank test itself, and every kernel of a gradient or none put to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import ranks
from scipy import stats

from megjax.densities import targets
from megjax.samplers import hmc, kernel, mala, preconditioner, rwm

FALSE_ALARM = 1e-4
FACTOR = jnp.array([[0.7, 0.0], [-0.3, 0.5]])


def kernels(log_density):
    return {
        "rwm": rwm.rwm(log_density, step_size=1.0),
        "mala": mala.mala(log_density, step_size=0.3),
        "diagonal mala": mala.mala(
            log_density, step_size=0.5, factor=jnp.array([0.5, 0.9])
        ),
        "dense mala": mala.mala(log_density, step_size=0.8, factor=FACTOR),
        "hmc": hmc.hmc(log_density, step_size=0.7, num_integration_steps=3),
        "dense hmc": hmc.hmc(
            log_density, step_size=1.2, num_integration_steps=2, factor=FACTOR
        ),
        "jittered hmc": hmc.hmc(
            log_density, step_size=0.9, num_integration_steps=3, jitter=1.0
        ),
    }


@pytest.mark.parametrize("name", kernels(None))
def test_right_kernels_pass_over_twenty_seeds(name):
    target = targets.moon()
    right = kernels(target.log_density)[name]
    run = functools.partial(ranks.p_value, num_replicates=2000)
    found = [run(jax.random.key(i), right, target) for i in range(20)]
    # At least uniform: each is the smallest of several, times their number.
    assert stats.kstest(found, "uniform", alternative="greater").pvalue > 1e-3
    assert np.min(found) > FALSE_ALARM


def mutant(mistake, log_density):
    """Preconditioned MALA or HMC with one mistake."""
    init = functools.partial(mala.init, log_density_fn=log_density, has_aux=False)
    path = hmc.Path(0.9, 3, FACTOR)

    def langevin(key, state):
        normal, log_uniform = kernel.noise(key, state.position)
        drift = 0.8 * preconditioner.squared(FACTOR, state.gradient)
        if mistake == "drift without the preconditioner":
            drift = 0.8 * state.gradient
        move = drift + jnp.sqrt(1.6) * preconditioner.scaled(FACTOR, normal)
        proposal = init(state.position + move)
        ratio = mala.log_ratio(state, proposal, step_size=0.8, factor=FACTOR)
        if mistake == "no Hastings term":
            ratio = proposal.log_density - state.log_density
        if mistake == "ratio without the preconditioner":
            ratio = mala.log_ratio(state, proposal, step_size=0.8)
        if mistake == "reused key":
            log_uniform = jnp.log(jax.scipy.stats.norm.cdf(normal[0]))
        moved, info = kernel.accepted_move(log_uniform, ratio, state, proposal)
        if mistake == "stale gradient":
            moved = moved._replace(gradient=state.gradient)
        return moved, info

    def hamiltonian(key, state):
        momentum, log_uniform = kernel.noise(key, state.position)
        if mistake == "stale gradient in the path":
            state = state._replace(gradient=jnp.zeros_like(state.gradient))
        own = path
        if mistake == "jitter by the position":
            own = path._replace(step_size=0.9 / (1 + jnp.abs(state.position[0])))
        proposal, end = hmc.leapfrog(state, momentum, init_fn=init, path=own)
        ratio = hmc.log_ratio(state, momentum, proposal, end)
        if mistake == "no kinetic energy":
            ratio = proposal.log_density - state.log_density
        if mistake == "kinetic energy with the wrong sign":
            ratio = hmc.log_ratio(state, end, proposal, momentum)
        if mistake == "no half kick at the end":
            gradient = preconditioner.transposed(FACTOR, proposal.gradient)
            ratio = hmc.log_ratio(state, momentum, proposal, end - 0.45 * gradient)
        return kernel.accepted_move(log_uniform, ratio, state, proposal)

    step = langevin if mistake in LANGEVIN_MISTAKES else hamiltonian
    return kernel.Kernel(init, step)


LANGEVIN_MISTAKES = (
    "drift without the preconditioner",
    "no Hastings term",
    "ratio without the preconditioner",
    "reused key",
    "stale gradient",
)
HAMILTONIAN_MISTAKES = (
    "stale gradient in the path",
    "no kinetic energy",
    "kinetic energy with the wrong sign",
    "no half kick at the end",
    "jitter by the position",
)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["", *LANGEVIN_MISTAKES, *HAMILTONIAN_MISTAKES])
def test_mutants_fail(mistake):
    target = targets.moon()
    found = ranks.p_value(
        jax.random.key(1), mutant(mistake, target.log_density), target
    )
    assert found > FALSE_ALARM if mistake == "" else found < 1e-8
