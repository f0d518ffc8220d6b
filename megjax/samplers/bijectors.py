"""Chains that walk in coordinates without bounds on positions that have some.

The logit of images: Dinh, Sohl-Dickstein and Bengio 2017 (Real NVP), section 4.1.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from megjax.samplers.kernel import Kernel
from megjax.types import Array, LogDensityFn


class Bijector(NamedTuple):
    """A smooth bijection of positions x [...], each |x| < limit, and coordinates u.

    inward: x -> u. outward: u -> x. Both act on any leading axes.
    log_det: log |det dx / du| at u, of one position [...] -> [].
    """

    inward: Callable[[Array], Array]
    outward: Callable[[Array], Array]
    log_det: Callable[[Array], Array]
    limit: float = math.inf


IDENTITY = Bijector(lambda x: x, lambda u: u, lambda u: jnp.zeros((), u.dtype))


def logit(alpha: float = 0.05) -> Bijector:
    """u = logit(alpha + (1 - 2 alpha) (x + 1) / 2), so that [-1, 1] is within bounds.

    Symmetric, and written 2 artanh((1 - 2 alpha) x). Raises ValueError unless alpha is
    between 0 and 1/2.
    """
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha={alpha}: give a number between 0 and 0.5.")
    scale = 1 - 2 * alpha

    def log_det(u):
        slopes = math.log(2 / scale) - jax.nn.softplus(u) - jax.nn.softplus(-u)
        return jnp.sum(slopes)

    return Bijector(
        lambda x: 2 * jnp.arctanh(scale * x),
        lambda u: jnp.tanh(u / 2) / scale,
        log_det,
        1 / scale,
    )


def density(
    log_density_fn: LogDensityFn, coordinates: Bijector, *, has_aux: bool = False
) -> LogDensityFn:
    """The log-density of u where positions x have `log_density_fn`.

    has_aux: both return (value, aux).
    """

    def transformed(u):
        found = log_density_fn(coordinates.outward(u))
        value, aux = found if has_aux else (found, None)
        value = value + coordinates.log_det(u)
        return (value, aux) if has_aux else value

    return transformed


class State(NamedTuple):
    """position: x [...]; inner: the state of the chain in u; aux: of the density."""

    position: Array
    inner: Any
    aux: Any = None


def walked(
    kernel_fn: Callable[..., Kernel],
    log_density_fn: LogDensityFn,
    coordinates: Bijector,
    *,
    has_aux: bool = False,
) -> Kernel:
    """The kernel of a density of x whose chain moves in u.

    kernel_fn: (log-density of u, has_aux=) -> Kernel, whose states have an `aux`.
    """
    log_density_fn = density(log_density_fn, coordinates, has_aux=has_aux)
    inner = kernel_fn(log_density_fn, has_aux=has_aux)
    seen = functools.partial(_seen, coordinates)

    def step(key, state):
        moved, info = inner.step(key, state.inner)
        return seen(moved), info

    return Kernel(lambda x: seen(inner.init(coordinates.inward(x))), step)


def _seen(coordinates, inner) -> State:
    return State(coordinates.outward(inner.position), inner, inner.aux)
