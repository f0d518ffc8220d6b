"""Restricted Boltzmann machines with Bernoulli, spin, Gaussian and Potts units.

Smolensky 1986; Hinton 2002; Mehta et al. 2019, section 16.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from megjax.energies import exact, units
from megjax.energies.family import Family, Units
from megjax.types import Array, Key, PyTree


class Layers(NamedTuple):
    """The kinds of the two layers, static under jit.

    Copies of a layer (`units.replicated`) share bias and weights; every hidden unit
    then feels all visible copies, and the other way round.
    """

    visible: units.Kind = units.BERNOULLI
    hidden: units.Kind = units.BERNOULLI


BINARY = Layers()
"""Zeros and ones in both layers."""


def family(
    num_visible: int,
    num_hidden: int,
    *,
    visible: units.Kind = units.BERNOULLI,
    hidden: units.Kind = units.BERNOULLI,
    upward: int = 1,
    downward: int = 1,
    visible_bias: Array | None = None,
    learned_precision: bool = False,
) -> Family:
    """E(v, h) = -a.v - b.h - v W h, plus |h|^2 / 2 or p v^2 / 2 of Gaussian units.

    params: "weights" [n, m], "visible_bias" [n], "hidden_bias" [m], and
    "visible_log_precision" [n] with `learned_precision`; n counts numbers, q for a
    Potts unit. Weights start Glorot-normal, biases at 0, or `visible_bias` [n] (see
    the function of that name). Gaussian hidden units keep the variance 1: a learned one
    would be a rescaling of W. A learned precision starts at 1 whatever the kind's is.
    upward, downward: multiples of W that reach the hidden and the visible units, for
    the layers of a deep machine. Copies of the other layer are what makes that a
    model: `upward` copies of v and `downward` copies of h, of which v and h are the
    means; data are copies that agree.
    Raises ValueError where both layers are Gaussian (Z diverges as soon as W has a
    singular value of 1), where hidden units are Potts, and where a precision is to be
    learned of other units than Gaussian.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.energies.rbm import family
    >>> machine = family(4, 3)
    >>> params = machine.init(jax.random.key(0))
    >>> machine.energy(params, jnp.zeros((2, 4))).shape
    (2,)
    """
    _check(visible, hidden, learned_precision)
    layers = layer_kinds(visible, hidden, upward=upward, downward=downward)
    num_numbers = num_visible * visible.width
    return Family(
        init=functools.partial(
            init,
            shape=(num_numbers, num_hidden),
            visible_bias=visible_bias,
            learned_precision=learned_precision,
        ),
        energy=functools.partial(energy, layers=layers),
        joint=functools.partial(joint, layers=layers),
        posterior=functools.partial(posterior, layers=layers),
        start=functools.partial(start, layers=layers),
        sweep=functools.partial(sweep, layers=layers),
        mean=functools.partial(mean, layers=layers),
    )


def layer_kinds(
    visible: units.Kind = units.BERNOULLI,
    hidden: units.Kind = units.BERNOULLI,
    *,
    upward: int = 1,
    downward: int = 1,
) -> Layers:
    """The layers of `family`, for the functions of this file."""
    return Layers(units.replicated(visible, upward), units.replicated(hidden, downward))


def visible_bias(
    means: Array, *, visible: units.Kind = units.BERNOULLI, shrinkage: float = 0.01
) -> Array:
    """Biases [n] under which free visible units have the means [n] of the data.

    Means of discrete units are first pulled by the fraction `shrinkage` towards the
    uniform distribution: a pixel that is never on would get an infinite bias.
    """
    if not units.is_continuous(visible):
        uniform = visible.mean(jnp.zeros_like(means))
        means = (1 - shrinkage) * means + shrinkage * uniform
    return visible.field(means)


def init(
    key: Key,
    *,
    shape: tuple[int, int],
    visible_bias: Array | None = None,
    learned_precision: bool = False,
) -> dict[str, Any]:
    """Parameters before training."""
    params = {
        "weights": jax.nn.initializers.glorot_normal()(key, shape),
        "visible_bias": first_bias(visible_bias, shape[0]),
        "hidden_bias": jnp.zeros(shape[1]),
    }
    if learned_precision:
        params["visible_log_precision"] = jnp.zeros(shape[0])
    return params


def first_bias(visible_bias: Array | None, num: int) -> Array:
    """`visible_bias` [num], or zeros; raises ValueError at another shape."""
    if visible_bias is None:
        return jnp.zeros(num)
    if jnp.shape(visible_bias) != (num,):
        raise ValueError(
            f"visible_bias has shape {jnp.shape(visible_bias)}: give one number for"
            f" each of the {num} visible numbers."
        )
    return jnp.array(visible_bias)


def hidden_field(params: PyTree, v: Array, layers: Layers) -> Array:
    """What pulls at the hidden units [B, m] when the visible ones are v [B, n]."""
    inputs = layers.visible.copies * (v @ params["weights"])
    return layers.hidden.copies * (params["hidden_bias"] + inputs)


def visible_field(params: PyTree, h: Array, layers: Layers) -> Array:
    """What pulls at the visible units [B, n] when the hidden ones are h [B, m]."""
    inputs = layers.hidden.copies * (h @ params["weights"].T)
    return layers.visible.copies * (params["visible_bias"] + inputs)


def joint(params: PyTree, chain: Units, *, layers: Layers = BINARY) -> Array:
    """The energy of v and h together [B]."""
    v, h = chain
    reference = _visible(params, layers).reference(v) + layers.hidden.reference(h)
    bias = layers.visible.copies * (v @ params["visible_bias"])
    return reference - bias - jnp.sum(hidden_field(params, v, layers) * h, -1)


def energy(params: PyTree, v: Array, *, layers: Layers = BINARY) -> Array:
    """The free energy -log sum_h exp(-E(v, h)) [B]."""
    bias = layers.visible.copies * (v @ params["visible_bias"])
    cumulant = layers.hidden.cumulant(hidden_field(params, v, layers))
    return _visible(params, layers).reference(v) - bias - cumulant


def posterior(params: PyTree, v: Array, *, layers: Layers = BINARY) -> Units:
    """(v, E[h | v]), exactly."""
    return v, layers.hidden.mean(hidden_field(params, v, layers))


def start(key: Key, params: PyTree, v: Array, *, layers: Layers = BINARY) -> Units:
    """(v, h) with h drawn given v."""
    return v, layers.hidden.sample(key, hidden_field(params, v, layers), 1.0)


def sweep(
    key: Key,
    params: PyTree,
    chain: Units,
    inverse_temperature: float | Array = 1.0,
    *,
    layers: Layers = BINARY,
) -> Units:
    """All visible units given the hidden ones, then all hidden given the visible."""
    visible_key, hidden_key = jax.random.split(key)
    field = visible_field(params, chain[1], layers)
    v = _visible(params, layers).sample(visible_key, field, inverse_temperature)
    field = hidden_field(params, v, layers)
    return v, layers.hidden.sample(hidden_key, field, inverse_temperature)


def mean(params: PyTree, chain: Units, *, layers: Layers = BINARY) -> Array:
    """E[v | h] [B, n]."""
    return _visible(params, layers).mean(visible_field(params, chain[1], layers))


def log_partition(params: PyTree, *, layers: Layers = BINARY) -> Array:
    """log Z by a sum over all states of the smaller layer, the other summed out.

    Raises ValueError where that layer has too many states (`exact.states`).
    """
    num_visible, num_hidden = params["weights"].shape
    visible, hidden = _visible(params, layers), layers.hidden
    sum_over_hidden = units.is_continuous(visible) or (
        not units.is_continuous(hidden) and num_hidden <= num_visible
    )
    if not sum_over_hidden:
        free = functools.partial(energy, params, layers=layers)
        num_units = num_visible // visible.width
        return exact.distribution(free, visible, num_units).log_partition

    def free(h: Array) -> Array:
        bias = hidden.copies * (h @ params["hidden_bias"])
        cumulant = visible.cumulant(visible_field(params, h, layers))
        return hidden.reference(h) - bias - cumulant

    return exact.distribution(free, hidden, num_hidden).log_partition


def cumulants(kind: units.Kind, bias: Array, *, order: int) -> tuple[Array, ...]:
    """Cumulants 0 to `order` [m] of units with biases [m]; the 0th is log of the sum."""

    def one(t: Array) -> Array:
        return kind.cumulant(t[None])

    derivatives = [one]
    for _ in range(order):
        derivatives.append(jax.grad(derivatives[-1]))
    return tuple(jax.vmap(derivative)(bias) for derivative in derivatives)


def interactions(
    params: PyTree, *, layers: Layers = BINARY, order: int = 2
) -> tuple[Array, ...]:
    """Effective couplings (c_0 [], c_1 [n], c_2 [n, n], ...) of the visible units.

    The free energy is reference(v) - sum_k c_k(v, ..., v) / k! with c_k the k-th
    cumulants of the hidden units times k weights: c_2 is the J of a pairwise model,
    exactly for Gaussian hidden units, which have no other cumulants. For others the
    series cut at `order` holds for small weights. Its tensors have entries with equal
    indices: `ising.without_diagonal` folds those of c_2.
    """
    weights = layers.visible.copies * layers.hidden.copies * params["weights"]
    bias = layers.hidden.copies * params["hidden_bias"]
    terms = []
    for k, values in enumerate(cumulants(layers.hidden, bias, order=order)):
        tensor = values
        for _ in range(k):
            tensor = tensor[..., None, :] * weights
        terms.append(jnp.sum(tensor, -1))
    if order >= 1:
        terms[1] = terms[1] + layers.visible.copies * params["visible_bias"]
    return tuple(terms)


def _visible(params: PyTree, layers: Layers) -> units.Kind:
    """The visible kind, with its precision where that is a parameter."""
    if "visible_log_precision" not in params:
        return layers.visible
    precision = jnp.exp(params["visible_log_precision"])
    return units.gaussian(precision, copies=layers.visible.copies)


def _check(visible: units.Kind, hidden: units.Kind, learned_precision: bool) -> None:
    if units.is_continuous(visible) and units.is_continuous(hidden):
        raise ValueError(
            "Visible and hidden units are both Gaussian: Z diverges for large weights."
            " That model is a Gaussian; use energies.gaussian, or discrete hidden units."
        )
    if hidden.width > 1:
        raise ValueError(
            f"Hidden units are {hidden.name}: use Bernoulli, spin or Gaussian ones."
        )
    if learned_precision and not units.is_continuous(visible):
        raise ValueError(
            f"learned_precision with {visible.name} visible units: only Gaussian ones"
            " have a precision."
        )
