"""Sums over every state of a small model: what estimates are held against.

Mehta et al. 2019, section 15: log Z, expectations and entropies by definition.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax.energies import units
from megjax.types import Array, EnergyFn, Key

MAX_STATES = 2**20
"""Twenty binary units."""


class Distribution(NamedTuple):
    """A distribution over all S states of n units.

    states: [S, n * width]; log_probs: [S]; log_partition: [], log Z of the energy.
    """

    states: Array
    log_probs: Array
    log_partition: Array


def states(kind: units.Kind, num_units: int) -> Array:
    """Every state of a layer [S, num_units * width]; the last unit changes fastest.

    Raises ValueError for units with continuous values and above 2^20 states.

    >>> from megjax.energies import units
    >>> from megjax.energies.exact import states
    >>> states(units.BERNOULLI, 2).tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    return joint_states([(kind, num_units)])[0]


def joint_states(layers: Sequence[tuple[units.Kind, int]]) -> tuple[Array, ...]:
    """Every state of several layers (kind, num_units) together, one array [S, ...] each.

    Raises ValueError as `states`.
    """
    log_num = sum(num * np.log2(_num_values(kind)) for kind, num in layers)
    if log_num > np.log2(MAX_STATES) + 1e-9:
        described = " and ".join(f"{num} {kind.name}" for kind, num in layers)
        raise ValueError(
            f"{described} units have 2^{log_num:.1f} states: enumeration stops at"
            f" 2^{int(np.log2(MAX_STATES))}. Use annealed importance sampling."
        )
    radices = np.repeat([_num_values(kind) for kind, _ in layers], _nums(layers))
    place, num_states = np.append(radices, 1)[::-1].cumprod()[-2::-1], np.prod(radices)
    digits = np.arange(num_states)[:, None] // place % radices
    columns = np.split(digits, np.cumsum(_nums(layers))[:-1], 1)
    return tuple(
        jnp.asarray(kind.states[column].reshape(num_states, -1), float)
        for (kind, _), column in zip(layers, columns, strict=True)
    )


def energies(energy_fn: EnergyFn, x: Array, *, batch_size: int = 2**13) -> Array:
    """Energies [S] of states x [S, n], `batch_size` at a time to save memory."""

    def one(state: Array) -> Array:
        return energy_fn(state[None])[0]

    return jax.lax.map(one, x, batch_size=min(batch_size, len(x)))


def distribution(energy_fn: EnergyFn, kind: units.Kind, num_units: int) -> Distribution:
    """exp(-E(x)) / Z over every x of a layer; raises ValueError as `states`.

    >>> import jax.numpy as jnp
    >>> from megjax.energies import units
    >>> from megjax.energies.exact import distribution, entropy
    >>> free = distribution(lambda x: jnp.zeros(len(x)), units.SPIN, 3)
    >>> print(f"{free.log_partition:.4f} {entropy(free):.4f}")  # 3 log 2
    2.0794 2.0794
    """
    x = states(kind, num_units)
    negative = -energies(energy_fn, x)
    log_partition = jax.nn.logsumexp(negative)
    return Distribution(x, negative - log_partition, log_partition)


def expectation(distribution: Distribution, values: Array) -> Array:
    """E[f] [...] of values f [S, ...], one per state."""
    return jnp.tensordot(jnp.exp(distribution.log_probs), values, 1)


def entropy(distribution: Distribution) -> Array:
    """-sum p log p, in nats (eq. 179)."""
    probs = jnp.exp(distribution.log_probs)
    surprise = jnp.where(probs > 0, -distribution.log_probs, 0.0)
    return jnp.sum(probs * surprise)


def sample(key: Key, distribution: Distribution, num: int) -> Array:
    """Independent draws [num, n * width]."""
    index = jax.random.categorical(key, distribution.log_probs, shape=(num,))
    return distribution.states[index]


def _nums(layers: Sequence[tuple[units.Kind, int]]) -> list[int]:
    return [num for _, num in layers]


def _num_values(kind: units.Kind) -> int:
    if units.is_continuous(kind):
        raise ValueError(
            f"{kind.name} units have infinitely many states: enumerate Bernoulli, spin"
            " or Potts units, or the other layer of the machine."
        )
    return len(kind.states)
