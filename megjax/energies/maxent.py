"""Distributions of largest entropy with given expectations of features.

Jaynes 1957; Mehta et al. 2019, eqs. 179-183 and 198. The features are the model: another
choice is another assumption.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from megjax.energies import units
from megjax.energies.family import Family
from megjax.types import Array, EnergyFn, Key

FeaturesFn = Callable[[Array], Array]
"""v [B, n] -> f(v) [B, k]."""


def family(
    features_fn: FeaturesFn, num_features: int, *, kind: units.Kind = units.SPIN
) -> Family:
    """p(v) = exp(sum_i lambda_i f_i(v)) / Z (eq. 181), over units of one kind.

    params: "multipliers" lambda [k], at first 0. The gradient of -log p is
    E[f] - f(v), so maximum likelihood matches expectations to the data's.
    A sweep visits unit after unit and evaluates the features of all its states. Real
    units have no such sweep, so `sweep` is None.
    """
    energy_fn = functools.partial(energy, features_fn=features_fn)

    def sweep(key, params, chain, inverse_temperature=1.0):
        bound = functools.partial(energy_fn, params)
        v = single_site_sweep(key, bound, chain[0], inverse_temperature, kind=kind)
        return (v,)

    return Family(
        init=lambda key: {"multipliers": jnp.zeros(num_features)},
        energy=energy_fn,
        joint=lambda params, chain: energy_fn(params, chain[0]),
        posterior=lambda params, v: (v,),
        start=lambda key, params, v: (v,),
        sweep=None if units.is_continuous(kind) else sweep,
        mean=None,
    )


def energy(params: dict[str, Array], v: Array, *, features_fn: FeaturesFn) -> Array:
    """-sum_i lambda_i f_i(v) [B]."""
    return -features_fn(v) @ params["multipliers"]


def single_site_sweep(
    key: Key,
    energy_fn: EnergyFn,
    v: Array,
    inverse_temperature: float | Array = 1.0,
    *,
    kind: units.Kind,
) -> Array:
    """Every unit of v [B, n * width] in turn, drawn given the others, for any energy.

    One evaluation of S * B energies per unit with S states.
    """
    states = jnp.asarray(kind.states, v.dtype)

    def visit(i: Array, v: Array) -> Array:
        def energies(state: Array) -> Array:
            own = jnp.broadcast_to(state, (len(v), kind.width))
            return energy_fn(_replaced(v, own, i * kind.width))

        by_state = jax.vmap(energies, out_axes=-1)(states)
        logits = -units.rows(inverse_temperature) * by_state
        index = jax.random.categorical(jax.random.fold_in(key, i), logits)
        return _replaced(v, states[index], i * kind.width)

    return jax.lax.fori_loop(0, v.shape[-1] // kind.width, visit, v)


def dual(multipliers: Array, features: Array, target: Array) -> Array:
    """log Z(lambda) - lambda.target [], from features of all states [S, k].

    Convex; its minimum is the distribution with E[f] = target [k], and its value there
    the entropy of that distribution.

    >>> import jax.numpy as jnp
    >>> from megjax.energies.maxent import dual
    >>> states = jnp.array([[0.0], [1.0]])
    >>> print(f"{dual(jnp.zeros(1), states, jnp.array([0.5])):.4f}")  # log 2
    0.6931
    """
    return jax.nn.logsumexp(features @ multipliers) - multipliers @ target


def dual_gradient(multipliers: Array, features: Array, target: Array) -> Array:
    """E[f] - target [k] (eqs. 182-183), arguments as of `dual`."""
    return jax.nn.softmax(features @ multipliers) @ features - target


def expectation_gradient(
    energy_derivatives: Array, values: Array, probs: Array | None = None
) -> Array:
    """d<f> / d theta = -Cov(dE / d theta, f) [p] (eq. 198).

    energy_derivatives: [S, p] and values of f: [S], of all states with their `probs`
    [S], or of samples without. Samples are centred leave-one-out, which leaves no
    bias: each against the mean of f over the others. The print lacks the mean over
    samples, the centring and a sign.
    """
    if probs is None:
        num = len(values)
        centred = (values - jnp.mean(values)) * num / (num - 1)
        return -centred @ energy_derivatives / num
    return -(probs * (values - probs @ values)) @ energy_derivatives


def _replaced(v: Array, own: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(v, own, start, 1)
