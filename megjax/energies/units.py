"""Kinds of units: what a visible or hidden unit can be, given the field on it.

Mehta et al. 2019, section 16: the functions a_i(v_i), b_mu(h_mu) and the cumulant
generating function K_mu of a hidden unit.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import random
from megjax.types import Array, Key


class Kind(NamedTuple):
    """A kind of unit; a layer of n units is an array [..., n * width].

    Under a field t a layer has the energy `reference(x) - t.x`.

    name: for messages.
    width: numbers that describe one unit; more than one for Potts units only.
    states: [S, width], values of one unit; None where they are continuous.
    reference: x -> [...], minus the log of the measure without a field; 0 for Bernoulli,
        spin and Potts units, minus the log of N(0, 1 / precision) for Gaussian units.
    cumulant: t -> [...], log of the sum (or integral) of exp(t.x - reference(x)).
    mean: t -> E[x] [..., n * width].
    sample: (key, t, inverse_temperature) -> x, where the temperature is a number or one
        per row [...]; see `replicated` for what it does to copies.
    field: E[x] -> t, the inverse of `mean`.
    replicate: copies -> Kind; see `replicated`.
    copies: how many copies this is the mean of.
    """

    name: str
    width: int
    states: np.ndarray | None
    reference: Callable[[Array], Array]
    cumulant: Callable[[Array], Array]
    mean: Callable[[Array], Array]
    sample: Callable[[Key, Array, Array], Array]
    field: Callable[[Array], Array]
    replicate: Callable[[int], "Kind"]
    copies: int = 1


def replicated(kind: Kind, copies: int) -> Kind:
    """The mean of so many copies of a unit that all feel the field t / copies.

    A function of the mean is all that an energy sees of copies that share a bias and
    weights. The mean of Bernoulli copies is a binomial divided by their number, with
    `reference` minus the log of the number of ways to reach it. That count is not an
    energy: an inverse temperature scales the field of the copies and leaves it alone.
    Raises ValueError below one copy and for copies of copies.
    """
    if copies < 1 or kind.copies != 1:
        raise ValueError(
            f"copies={copies} of {kind.copies} {kind.name} unit(s): take at least one"
            " copy of a plain unit."
        )
    return kind.replicate(copies)


def is_continuous(kind: Kind) -> bool:
    """Whether the unit's values cannot be listed."""
    return kind.states is None


def rows(inverse_temperature) -> Array:
    """A number or one per row [...] as [..., 1], to multiply a layer by."""
    return jnp.asarray(inverse_temperature)[..., None]


def _log_ways(fractions: Array, copies: int) -> Array:
    """Log of the number of ways that copies [..., n, q] fall into q states, over n."""
    if copies == 1:
        return jnp.zeros(fractions.shape[:-2], fractions.dtype)
    log_factorials = jax.scipy.special.gammaln(copies * fractions + 1)
    total = fractions.shape[-2] * jax.scipy.special.gammaln(copies + 1.0)
    return total - jnp.sum(log_factorials, (-2, -1))


@jax.custom_jvp
def _softplus(t: Array) -> Array:
    """log(1 + exp(t)), whose derivative costs one exponential instead of three."""
    return jax.nn.softplus(t)


_softplus.defjvps(lambda tangent, _, t: jax.nn.sigmoid(t) * tangent)


def _mean_below(key: Key, probs: Array, copies: int) -> Array:
    """How often, among copies, a uniform number falls below `probs`."""
    uniforms = random.uniform(key, (copies, *probs.shape), probs.dtype)
    return jnp.mean(uniforms < probs, 0, dtype=probs.dtype)


def _bernoulli(copies: int) -> Kind:
    return Kind(
        name="Bernoulli",
        width=1,
        states=np.arange(copies + 1)[:, None] / copies,
        reference=lambda x: -_log_ways(jnp.stack([x, 1 - x], -1), copies),
        cumulant=lambda t: copies * jnp.sum(_softplus(t / copies), -1),
        mean=lambda t: jax.nn.sigmoid(t / copies),
        sample=lambda key, t, inverse_temperature: _mean_below(
            key, jax.nn.sigmoid(rows(inverse_temperature) * t / copies), copies
        ),
        field=lambda mean: copies * (jnp.log(mean) - jnp.log1p(-mean)),
        replicate=_bernoulli,
        copies=copies,
    )


def _spin(copies: int) -> Kind:
    binary = _bernoulli(copies)
    return Kind(
        name="spin",
        width=1,
        states=2 * binary.states - 1,
        reference=lambda x: binary.reference((1 + x) / 2),
        cumulant=lambda t: binary.cumulant(2 * t) - jnp.sum(t, -1),
        mean=lambda t: jnp.tanh(t / copies),
        sample=lambda key, t, inverse_temperature: (
            2 * binary.sample(key, 2 * t, inverse_temperature) - 1
        ),
        field=lambda mean: copies * jnp.arctanh(mean),
        replicate=_spin,
        copies=copies,
    )


def gaussian(precision: float | Array = 1.0, *, copies: int = 1) -> Kind:
    """Real units, of variance 1 / precision at every field; precision [] or [n].

    The reference measure is the density N(0, 1 / precision), so that `cumulant` is a
    cumulant generating function and no factor of 2 pi appears anywhere else.
    """
    total = copies * precision

    def reference(x: Array) -> Array:
        return 0.5 * jnp.sum(total * x**2 - jnp.log(total / (2 * jnp.pi)), -1)

    def sample(key: Key, t: Array, inverse_temperature: Array) -> Array:
        noise = jax.random.normal(key, t.shape, t.dtype)
        return t / total + noise / jnp.sqrt(rows(inverse_temperature) * total)

    return Kind(
        name="Gaussian",
        width=1,
        states=None,
        reference=reference,
        cumulant=lambda t: 0.5 * jnp.sum(t**2 / total, -1),
        mean=lambda t: t / total,
        sample=sample,
        field=lambda mean: total * mean,
        replicate=lambda copies: gaussian(precision, copies=copies),
        copies=copies,
    )


def potts(num_states: int, *, copies: int = 1) -> Kind:
    """Units with q states, one-hot: a layer of n units is [..., n * q], unit by unit.

    Raises ValueError below two states.
    """
    if num_states < 2:
        raise ValueError(f"num_states={num_states}: a Potts unit has at least 2.")

    def sites(x: Array) -> Array:
        return x.reshape(*x.shape[:-1], -1, num_states)

    def probs(t: Array) -> Array:
        return jax.nn.softmax(sites(t) / copies)

    def sample(key: Key, t: Array, inverse_temperature: Array) -> Array:
        cumulative = jnp.cumsum(probs(rows(inverse_temperature) * t), -1)[..., :-1]
        shape = (copies, *cumulative.shape[:-1])
        uniforms = random.uniform(key, shape, t.dtype)[..., None]
        index = jnp.sum(uniforms >= cumulative, -1)
        one_hot = jax.nn.one_hot(index, num_states, dtype=t.dtype)
        return jnp.mean(one_hot, 0).reshape(t.shape)

    def cumulant(t: Array) -> Array:
        return copies * jnp.sum(jax.nn.logsumexp(sites(t) / copies, -1), -1)

    return Kind(
        name=f"{num_states}-state Potts",
        width=num_states,
        states=_occupations(num_states, copies),
        reference=lambda x: -_log_ways(sites(x), copies),
        cumulant=cumulant,
        mean=lambda t: probs(t).reshape(t.shape),
        sample=sample,
        field=lambda mean: copies * jnp.log(mean),
        replicate=functools.partial(_replicated_potts, num_states),
        copies=copies,
    )


def _replicated_potts(num_states: int, copies: int) -> Kind:
    return potts(num_states, copies=copies)


def _occupations(num_states: int, copies: int) -> np.ndarray:
    """Every way to share copies among q states, as fractions [S, q]."""
    counts = np.indices((copies + 1,) * num_states).reshape(num_states, -1).T
    return counts[counts.sum(1) == copies][::-1] / copies


BERNOULLI = _bernoulli(1)
"""Values 0 and 1."""

SPIN = _spin(1)
"""Values -1 and +1."""

GAUSSIAN = gaussian()
"""Real values of unit variance."""
