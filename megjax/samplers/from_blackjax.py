"""Samplers of blackjax behind our contract: NUTS, MCLMC, and any algorithm of its own.

Cabezas et al. 2024 (BlackJAX); Hoffman and Gelman 2014 (NUTS); Robnik et al. 2023
(microcanonical Langevin Monte Carlo).
"""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from megjax import extras
from megjax.samplers.kernel import Kernel, check_step_size, evaluated, floats
from megjax.types import Array, Key, LogDensityFn, PyTree

TARGET_ACCEPTANCE = 0.8
"""Of NUTS; Stan's."""

INFOS = (
    "acceptance_rate",
    "is_accepted",
    "is_divergent",
    "energy",
    "num_integration_steps",
    "num_trajectory_expansions",
)
"""What of blackjax's infos is kept: its scalars, by its own names."""


class NutsInfo(NamedTuple):
    """Of one transition; scalars.

    acceptance_rate: mean over the path. energy: of position and momentum.
    num_integration_steps: gradients. num_trajectory_expansions: depth of the tree.
    """

    acceptance_rate: Array
    is_accepted: Array
    is_divergent: Array
    energy: Array
    num_integration_steps: Array
    num_trajectory_expansions: Array


class MclmcInfo(NamedTuple):
    """Of one step, which is never rejected; scalars.

    is_divergent: whether it was undone, as not finite. energy_change: its error.
    """

    is_divergent: Array
    energy_change: Array


class MclmcParameters(NamedTuple):
    """length: in which momenta are forgotten []. step_size: []. variances: [dim]."""

    length: Array
    step_size: Array
    variances: Array


def nuts(
    log_density_fn: LogDensityFn,
    *,
    step_size: float | Array,
    max_num_doublings: int = 10,
) -> Kernel:
    """The no-U-turn sampler of a density of positions [dim], with unit mass.

    Up to 2^max_num_doublings evaluations of the gradient per step. Other masses:
    `window_adaptation.kernel`. Raises ValueError as `mala.mala`, ModuleNotFoundError
    without blackjax.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.samplers.from_blackjax import nuts
    >>> fixed = nuts(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
    >>> state, info = fixed.step(jax.random.key(0), fixed.init(jnp.zeros(2)))
    >>> bool(info.acceptance_rate > 0.5)
    True
    """
    check_step_size(step_size)
    module = _blackjax("nuts")
    transition = module.build_kernel()
    density = functools.partial(evaluated, log_density_fn)

    def step(key, state):
        mass = jnp.ones(state.position.size, state.position.dtype)
        state, info = transition(
            key, state, density, step_size, mass, max_num_doublings
        )
        found = {k: getattr(info, k) for k in NutsInfo._fields if hasattr(info, k)}
        return state, NutsInfo(is_accepted=jnp.bool_(True), **found)

    return Kernel(lambda position: module.init(_wide(position), density), step)


def mclmc(log_density_fn: LogDensityFn, parameters: MclmcParameters) -> Kernel:
    """Microcanonical Langevin Monte Carlo: two gradients per step, nothing rejected.

    Its draws have a bias that the tuning keeps small (5e-4 per dimension of variance
    of the energy's error). `init` needs a key: (position, key) -> state. Raises
    ModuleNotFoundError without blackjax.
    """
    module = _blackjax("mclmc")
    transition = module.build_kernel()
    density = functools.partial(evaluated, log_density_fn)

    def init(position, key):
        return module.init(_wide(position), density, key)

    def step(key, state):
        state, info = transition(
            key,
            state,
            density,
            inverse_mass_matrix=parameters.variances,
            L=parameters.length,
            step_size=parameters.step_size,
        )
        return state, MclmcInfo(~info.nonans, info.energy_change)

    return Kernel(init, step)


def mclmc_warm_up(
    key: Key, log_density_fn: LogDensityFn, positions: Array, num_steps: int
) -> tuple[PyTree, MclmcParameters]:
    """States of chains [chains, ...] and what blackjax's tuning finds for them.

    positions: [chains, dim]. Every chain is tuned by itself, in about `num_steps`
    steps; then all take the means.
    """
    with extras.needed("sampling"):
        from blackjax.adaptation import mclmc_adaptation
    module = _blackjax("mclmc")
    transition = module.build_kernel()

    def tuned(key, position):
        key_init, key_tune = jax.random.split(key)
        # Its shares are of the steps to be run: three and a third of them are 1.
        state, found, _ = mclmc_adaptation.mclmc_find_L_and_step_size(
            mclmc_kernel=transition,
            num_steps=num_steps,
            state=module.init(position, log_density_fn, key_init),
            rng_key=key_tune,
            logdensity_fn=log_density_fn,
            frac_tune1=0.3,
            frac_tune2=0.3,
            frac_tune3=0.3,
        )
        return state, found

    states, found = jax.vmap(tuned)(jax.random.split(key, len(positions)), positions)
    mean = [jnp.mean(found.L), jnp.mean(found.step_size)]
    return states, MclmcParameters(*mean, jnp.mean(found.inverse_mass_matrix, axis=0))


def from_algorithm(algorithm: Any) -> Kernel:
    """A `blackjax.SamplingAlgorithm`, or anything with its `init` and `step`.

    `init` of the result takes (position, key), and passes the key on where the
    algorithm's takes one. Of its infos the scalars that we know are kept.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.samplers.from_blackjax import from_algorithm
    >>> import blackjax
    >>> theirs = blackjax.hmc(lambda x: -jnp.sum(x**2), 0.3, jnp.ones(2), 5)
    >>> from_algorithm(theirs).init(jnp.ones(2), jax.random.key(0)).logdensity
    Array(-2., dtype=float32)
    """
    arguments = inspect.signature(algorithm.init).parameters.values()
    takes_key = sum(each.kind is not each.KEYWORD_ONLY for each in arguments) > 1

    def init(position, key):
        return algorithm.init(position, key) if takes_key else algorithm.init(position)

    def step(key, state):
        state, info = algorithm.step(key, state)
        known = [
            k for k in INFOS if hasattr(info, k) and not jnp.ndim(getattr(info, k))
        ]
        return state, _info_type(tuple(known))(*(getattr(info, k) for k in known))

    return Kernel(init, step)


@functools.cache
def _info_type(names):
    return NamedTuple("Info", [(name, Array) for name in names])


def _wide(position) -> Array:
    """The position in JAX's own floats, in which blackjax adds up."""
    return floats(position).astype(jnp.result_type(float))


def _blackjax(name: str):
    """A module of `blackjax.mcmc`."""
    with extras.needed("sampling"):
        import blackjax.mcmc

    return getattr(blackjax.mcmc, name)
