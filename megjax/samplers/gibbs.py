"""Gibbs sweeps of an energy with closed-form conditionals, as a Markov chain kernel.

Geman and Geman 1984.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from megjax import checks, errors
from megjax.energies.family import Family, Units
from megjax.samplers.kernel import Info, Kernel, floats
from megjax.types import Array, Key, PyTree


class State(NamedTuple):
    """Visible units [n] and every hidden layer [m] of one chain."""

    position: Array
    hidden: Units


def gibbs(
    family: Family, params: PyTree, *, inverse_temperature: float | Array = 1.0
) -> Kernel:
    """Gibbs sampler: a step is one sweep of all units; `init` takes those of one chain.

    Units of chains [B, ...] come from `family.start`; the caller vmaps over them. Every
    step is accepted. Raises ValueError where the family has no sweep.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import gibbs
    >>> from megjax.energies import rbm
    >>> family = rbm.family(4, 3)
    >>> params = family.init(jax.random.key(0))
    >>> chains = family.start(jax.random.key(1), params, jnp.zeros((2, 4)))
    >>> kernel = gibbs(family, params)
    >>> states = jax.vmap(kernel.init)(chains)
    >>> states, info = jax.vmap(kernel.step)(jax.random.split(jax.random.key(2)), states)
    >>> states.position.shape
    (2, 4)
    """
    if not isinstance(family, Family):
        raise ValueError(  # noqa: TRY004
            f"family is {errors.kind(family)}: give one, as of energies.rbm.family"
        )
    if family.sweep is None:
        raise ValueError("This energy has no Gibbs sweep: use samplers.mala or rwm.")
    checks.number("inverse_temperature", inverse_temperature)
    bound = functools.partial(
        step, family=family, params=params, inverse_temperature=inverse_temperature
    )
    return Kernel(init, bound)


def init(units: Units) -> State:
    """The state of one chain at its units: visible [n] first, then hidden layers."""
    visible, *hidden = map(floats, units)
    return State(visible, tuple(hidden))


def step(
    key: Key, state: State, *, family: Family, params: PyTree, inverse_temperature
) -> tuple[State, Info]:
    """One sweep."""
    batch = jax.tree.map(lambda layer: layer[None], (state.position, *state.hidden))
    swept = family.sweep(key, params, batch, inverse_temperature)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(layer)) for layer in swept]))
    moved = init(tuple(layer[0] for layer in swept))
    return moved, Info(jnp.ones(()), jnp.array(True), ~finite)
