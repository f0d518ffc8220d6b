"""Deep Boltzmann machines: two or more hidden layers, and their layerwise pre-training.

Salakhutdinov and Hinton 2009; Mehta et al. 2019, section 16.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from megjax.energies import exact, rbm, units
from megjax.energies.family import Family, Units
from megjax.types import Array, Key, PyTree

Kinds = tuple[units.Kind, ...]
"""The kind of every layer, the visible one first; static under jit."""

Hidden = units.Kind | Sequence[units.Kind]
"""The kind of all hidden layers, or one for each, from the bottom."""


def family(
    sizes: Sequence[int],
    *,
    visible: units.Kind = units.BERNOULLI,
    hidden: Hidden = units.BERNOULLI,
    num_updates: int = 20,
    visible_bias: Array | None = None,
) -> Family:
    """E(v, h) = -a.v - sum_l b_l.h_l - v W_1 h_1 - h_1 W_2 h_2 - ...

    Layers of Gaussian units add their |h|^2 / 2 (or p v^2 / 2); summed out they leave
    couplings between all units of the two layers beside them.
    sizes: (num_visible, num_hidden_1, num_hidden_2, ...). hidden: of all hidden layers,
    or a kind for each.
    params: "weights_l" [n_(l-1), n_l], "hidden_bias_l" [n_l], "visible_bias" [n], with
    l from 1. Weights start Glorot-normal, biases at 0 or `visible_bias` [n].
    num_updates: of the mean field, see `mean_field`; its posterior replaces the hidden
    units, which have no closed form, so `energy` is None.
    The bounds and the annealing of `evaluation.likelihood` are for two-valued units.
    Raises ValueError below two hidden layers, for Potts hidden units, and where
    neighbouring layers are both Gaussian, see `layer_kinds`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.energies.dbm import family
    >>> machine = family((4, 3, 2))
    >>> params = machine.init(jax.random.key(0))
    >>> [layer.shape for layer in machine.posterior(params, jnp.zeros((5, 4)))]
    [(5, 4), (5, 3), (5, 2)]
    """
    kinds = layer_kinds(len(sizes) - 1, visible=visible, hidden=hidden)
    numbers = tuple(n * kind.width for n, kind in zip(sizes, kinds, strict=True))
    return Family(
        init=functools.partial(init, numbers=numbers, visible_bias=visible_bias),
        energy=None,
        joint=functools.partial(joint, kinds=kinds),
        posterior=functools.partial(posterior, kinds=kinds, num_updates=num_updates),
        start=functools.partial(start, kinds=kinds, num_updates=num_updates),
        sweep=functools.partial(sweep, kinds=kinds),
        mean=functools.partial(mean, kinds=kinds),
    )


def layer_kinds(
    num_hidden_layers: int,
    *,
    visible: units.Kind = units.BERNOULLI,
    hidden: Hidden = units.BERNOULLI,
) -> Kinds:
    """The kinds of the layers of `family`, for the functions of this file.

    Between discrete layers a Gaussian one keeps its variance at all weights, so that Z
    is finite. The quadratic form of two Gaussian neighbours is positive only while W has
    no singular value of 1 or more; training would leave that range unnoticed, so they
    are refused. Nothing is lost: integrated out, both leave pair couplings as one does.
    Raises ValueError as `family`, and where `hidden` has not a kind for each layer.
    """
    if num_hidden_layers < 2:
        raise ValueError(
            f"{num_hidden_layers} hidden layer(s): a deep machine has at least two, see"
            " energies.rbm for one."
        )
    shared = isinstance(hidden, units.Kind)
    kinds = (visible, *([hidden] * num_hidden_layers if shared else hidden))
    if len(kinds) != num_hidden_layers + 1:
        raise ValueError(
            f"{len(kinds) - 1} kinds for {num_hidden_layers} hidden layers: give one"
            " kind for all, or one for each."
        )
    _check(kinds)
    return kinds


def _check(kinds: Kinds) -> None:
    for kind in kinds[1:]:
        if kind.width > 1:
            raise ValueError(
                f"Hidden units are {kind.name}: use Bernoulli, spin or Gaussian ones."
            )
    for layer, pair in enumerate(itertools.pairwise(kinds), 1):
        if all(map(units.is_continuous, pair)):
            raise ValueError(
                f"Layers {layer - 1} and {layer} are both Gaussian: Z diverges for large"
                " weights. Put discrete units into one of them, or leave it out."
            )


def init(
    key: Key, *, numbers: tuple[int, ...], visible_bias: Array | None
) -> dict[str, Any]:
    """Parameters before training."""
    glorot = jax.nn.initializers.glorot_normal()
    params = {"visible_bias": rbm.first_bias(visible_bias, numbers[0])}
    for layer in range(1, len(numbers)):
        shape = numbers[layer - 1], numbers[layer]
        weights = glorot(jax.random.fold_in(key, layer), shape)
        params[f"weights_{layer}"] = weights
        params[f"hidden_bias_{layer}"] = jnp.zeros(numbers[layer])
    return params


def field(params: PyTree, chain: Units, layer: int) -> Array:
    """What pulls at a layer [B, n_layer], given its neighbours in `chain`."""
    total = _bias(params, layer)
    if layer > 0:
        total = total + chain[layer - 1] @ params[f"weights_{layer}"]
    if layer < len(chain) - 1:
        total = total + chain[layer + 1] @ params[f"weights_{layer + 1}"].T
    return total


def joint(params: PyTree, chain: Units, *, kinds: Kinds) -> Array:
    """The energy of all layers together [B]."""
    reference = sum(kind.reference(x) for kind, x in zip(kinds, chain, strict=True))
    return reference - _attraction(params, chain)


def mean_field(
    params: PyTree, v: Array, *, kinds: Kinds, num_updates: int = 20
) -> tuple[Units, Array]:
    """Expected layers (v, E[h_1], ...) and how far the last update moved them [B].

    The product of independent units closest to p(h | v), by `num_updates` updates of
    the odd layers given the even ones and of the even given the odd. Each lowers the
    `variational_energy`, so no damping is needed. It starts from a pass upwards in
    which every layer below the top doubles its input, as in layerwise pre-training.
    The change is the largest one of any hidden unit.
    """
    chain = _upward(params, v, kinds)

    def update(chain, _):
        return _mean_field_update(params, chain, kinds), None

    before, _ = jax.lax.scan(update, chain, length=num_updates - 1)
    after = _mean_field_update(params, before, kinds)
    moved = [
        jnp.max(jnp.abs(new - old), -1)
        for new, old in zip(after[1:], before[1:], strict=True)
    ]
    return after, jnp.max(jnp.stack(moved), 0)


def posterior(
    params: PyTree, v: Array, *, kinds: Kinds, num_updates: int = 20
) -> Units:
    """(v, E[h_1], E[h_2], ...) of the mean field given v."""
    return mean_field(params, v, kinds=kinds, num_updates=num_updates)[0]


def variational_energy(params: PyTree, chain: Units, *, kinds: Kinds) -> Array:
    """An upper bound on the free energy of v [B], from any expected hidden layers.

    E_q[E(v, h)] - H(q) for independent units with the means in `chain`; the bound is
    lowest at the mean field. Minus this minus log Z bounds log p(v) from below.
    """
    energy = kinds[0].reference(chain[0]) - _attraction(params, chain)
    for kind, means in zip(kinds[1:], chain[1:], strict=True):
        t = kind.field(_inside(means, kind))
        energy = energy - kind.cumulant(t) + jnp.sum(t * means, -1)
    return energy


def _inside(means: Array, kind: units.Kind) -> Array:
    """Means that some finite field has: at its edges a discrete unit's is infinite."""
    if units.is_continuous(kind):
        return means
    edge = jnp.finfo(means.dtype).eps
    return jnp.clip(means, kind.states.min() + edge, kind.states.max() - edge)


def start(
    key: Key, params: PyTree, v: Array, *, kinds: Kinds, num_updates: int = 20
) -> Units:
    """v and hidden layers drawn from the mean field: near p(h | v), not from it."""
    chain = posterior(params, v, kinds=kinds, num_updates=num_updates)
    keys = jax.random.split(key, len(kinds))
    drawn = [
        kind.sample(k, field(params, chain, layer), 1.0)
        for layer, (kind, k) in enumerate(zip(kinds, keys, strict=True))
    ]
    return v, *drawn[1:]


def sweep(
    key: Key,
    params: PyTree,
    chain: Units,
    inverse_temperature: float | Array = 1.0,
    *,
    kinds: Kinds,
    clamped: bool = False,
) -> Units:
    """The odd layers given the even ones, then the even (v among them) given the odd.

    clamped: v keeps its value, and the sweep leaves p(h | v) invariant.
    """
    keys = jax.random.split(key, len(kinds))
    layers = list(chain)
    for layer in _alternating(len(kinds)):
        if layer > 0 or not clamped:
            t = field(params, tuple(layers), layer)
            layers[layer] = kinds[layer].sample(keys[layer], t, inverse_temperature)
    return tuple(layers)


def mean(params: PyTree, chain: Units, *, kinds: Kinds) -> Array:
    """E[v | h] [B, n]."""
    return kinds[0].mean(field(params, chain, 0))


def free_energy(params: PyTree, v: Array, *, kinds: Kinds) -> Array:
    """-log sum_h exp(-E(v, h)) [B], with hidden units summed or integrated out.

    By a sum over the states of every other hidden layer, of the even or the odd ones,
    whichever is less; the layers between have a closed form. Raises ValueError where
    that is too many (`exact.states`), or both have a Gaussian layer.
    """
    states = _fewest_states(params, kinds, first=1)
    num = len(next(iter(states.values())))

    def one(x: Array) -> Array:
        layers = states | {0: jnp.broadcast_to(x, (num, len(x)))}
        return -jax.nn.logsumexp(-_summed(params, layers, kinds))

    return jax.lax.map(one, v)


def log_partition(params: PyTree, *, kinds: Kinds) -> Array:
    """log Z, by a sum over the states of the even or the odd layers, whichever is less.

    Raises ValueError as `free_energy`.
    """
    states = _fewest_states(params, kinds, first=0)
    return jax.nn.logsumexp(-_summed(params, states, kinds))


def stack(
    sizes: Sequence[int],
    *,
    visible: units.Kind = units.BERNOULLI,
    hidden: Hidden = units.BERNOULLI,
    visible_bias: Array | None = None,
) -> tuple[Family, ...]:
    """The machines with one hidden layer that pre-train a deep one, bottom first.

    A layer inside has neighbours on both sides, and the half of its input that a
    machine does not see is replaced by a second copy of the half it does: the first
    doubles W upwards, the last doubles W downwards. The machines between double both
    ways, which makes them plain ones with weights 2 W; `compose` divides these by 2.
    Each trains on the `posterior` of the one below: E[h | v], or draws from it.
    """
    kinds = layer_kinds(len(sizes) - 1, visible=visible, hidden=hidden)
    last = len(sizes) - 2
    return tuple(
        rbm.family(
            sizes[i],
            sizes[i + 1],
            visible=kinds[i],
            hidden=kinds[i + 1],
            upward=2 if i == 0 else 1,
            downward=2 if i == last else 1,
            visible_bias=visible_bias if i == 0 else None,
        )
        for i in range(last + 1)
    )


def compose(stacked: Sequence[PyTree]) -> dict[str, Array]:
    """Parameters of the deep machine from those of the `stack`, bottom first.

    The field on every layer inside is the mean of the fields that the machines below
    and above it put there: weights between inner layers are halved, and a bias is the
    mean of the two trained for it. With two hidden layers p(h_1) is then the normalised
    geometric mean of what the two machines make of it. Paysage multiplies only the
    lower machine's input; here both are.
    """
    last = len(stacked) - 1
    params = {"visible_bias": stacked[0]["visible_bias"]}
    for i, machine in enumerate(stacked):
        half = 0.5 if 0 < i < last else 1.0
        params[f"weights_{i + 1}"] = half * machine["weights"]
        bias = machine["hidden_bias"]
        if i < last:
            bias = 0.5 * (bias + stacked[i + 1]["visible_bias"])
        params[f"hidden_bias_{i + 1}"] = bias
    return params


def _bias(params: PyTree, layer: int) -> Array:
    return params[f"hidden_bias_{layer}" if layer else "visible_bias"]


def _num_units(params: PyTree, kinds: Kinds) -> list[int]:
    return [len(_bias(params, i)) // kind.width for i, kind in enumerate(kinds)]


def _alternating(num_layers: int) -> list[int]:
    """Odd layers, then even ones."""
    return [*range(1, num_layers, 2), *range(0, num_layers, 2)]


def _attraction(params: PyTree, chain: Units) -> Array:
    """Biases and weights between layers [B]: minus the energy without a reference."""
    total = sum(x @ _bias(params, layer) for layer, x in enumerate(chain))
    for layer in range(1, len(chain)):
        inputs = chain[layer - 1] @ params[f"weights_{layer}"]
        total = total + jnp.sum(inputs * chain[layer], -1)
    return total


def _upward(params: PyTree, v: Array, kinds: Kinds) -> Units:
    """One pass from the data to the top; every layer but the top doubles its input."""
    chain = [v]
    for layer in range(1, len(kinds)):
        doubled = 2.0 if layer < len(kinds) - 1 else 1.0
        inputs = doubled * (chain[-1] @ params[f"weights_{layer}"])
        chain.append(kinds[layer].mean(_bias(params, layer) + inputs))
    return tuple(chain)


def _mean_field_update(params: PyTree, chain: Units, kinds: Kinds) -> Units:
    layers = list(chain)
    for layer in _alternating(len(kinds)):
        if layer > 0:
            layers[layer] = kinds[layer].mean(field(params, tuple(layers), layer))
    return tuple(layers)


def _fewest_states(params: PyTree, kinds: Kinds, *, first: int) -> dict[int, Array]:
    """Layer -> all states of every other layer, from `first` or the one above it on."""
    nums = _num_units(params, kinds)

    def num_bits(layers: Sequence[int]) -> float:
        if any(units.is_continuous(kinds[i]) for i in layers):
            return math.inf
        return sum(nums[i] * math.log2(len(kinds[i].states)) for i in layers)

    choices = [range(layer, len(kinds), 2) for layer in (first, first + 1)]
    layers = min(choices, key=num_bits)
    states = exact.joint_states([(kinds[i], nums[i]) for i in layers])
    return dict(zip(layers, states, strict=True))


def _summed(params: PyTree, layers: dict[int, Array], kinds: Kinds) -> Array:
    """The energy of some layers [B], the others summed out: of neighbours at most one."""
    chain = tuple(layers.get(i) for i in range(len(kinds)))
    energy = 0.0
    for layer, kind in enumerate(kinds):
        x = chain[layer]
        if x is None:
            energy = energy - kind.cumulant(field(params, chain, layer))
            continue
        energy = energy + kind.reference(x) - x @ _bias(params, layer)
        if layer and chain[layer - 1] is not None:
            inputs = chain[layer - 1] @ params[f"weights_{layer}"]
            energy = energy - jnp.sum(inputs * x, -1)
    return energy
