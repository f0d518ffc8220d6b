"""The distribution of largest entropy with given means and covariances.

Mehta et al. 2019, eqs. 186-188 and 196, with the sign of a determinant corrected.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from megjax.energies.family import Family, Units
from megjax.types import Array, Key, PyTree


def family(num_dims: int) -> Family:
    """E(x) = -a.x - x J x / 2 with J = -L L^T, which is never positive.

    params: "bias" a [n] and "factor" [n, n], whose lower triangle is L; at first the
    standard normal distribution. A sweep is an independent exact draw.
    """

    def init(key: Key) -> dict[str, Any]:
        del key
        return {"bias": jnp.zeros(num_dims), "factor": jnp.eye(num_dims)}

    return Family(
        init=init,
        energy=energy,
        joint=lambda params, chain: energy(params, chain[0]),
        posterior=lambda params, v: (v,),
        start=lambda key, params, v: (v,),
        sweep=sweep,
        mean=None,
    )


def energy(params: PyTree, x: Array) -> Array:
    """The energy [B] of x [B, n]; minus log p up to `log_partition`."""
    return 0.5 * jnp.sum((x @ _factor(params)) ** 2, -1) - x @ params["bias"]


def sweep(
    key: Key,
    params: PyTree,
    chain: Units,
    inverse_temperature: float | Array = 1.0,
) -> Units:
    """A draw from N(mean, covariance / inverse_temperature), whatever the chain was."""
    x = chain[0]
    noise = jax.random.normal(key, x.shape, x.dtype)
    scaled = noise / jnp.sqrt(jnp.asarray(inverse_temperature)[..., None])
    return (moments(params)[0] + _solve(params, scaled.T, transposed=True).T,)


def log_partition(params: PyTree) -> Array:
    """log Z [] (eq. 187).

    Z is the root of (2 pi)^n det(-J^-1), times exp(-a J^-1 a / 2); the print has
    det(J^-1), which is negative for odd n.
    """
    bias = params["bias"]
    half_log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(params["factor"]))))
    whitened = _solve(params, bias)
    half_square = 0.5 * jnp.sum(whitened**2)
    return 0.5 * len(bias) * math.log(2 * math.pi) - half_log_det + half_square


def entropy(params: PyTree) -> Array:
    """The differential entropy [], in nats."""
    num_dims = len(params["bias"])
    half_log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(params["factor"]))))
    return 0.5 * num_dims * (1 + math.log(2 * math.pi)) - half_log_det


def couplings(params: PyTree) -> Array:
    """J [n, n], minus the precision matrix."""
    factor = _factor(params)
    return -factor @ factor.T


def moments(params: PyTree) -> tuple[Array, Array]:
    """(mean [n], covariance [n, n]) = (-J^-1 a, -J^-1) (eq. 188)."""
    num_dims = len(params["bias"])
    inverse = _solve(params, jnp.eye(num_dims, dtype=params["factor"].dtype))
    covariance = inverse.T @ inverse
    return covariance @ params["bias"], covariance


def from_couplings(bias: Array, couplings: Array) -> dict[str, Array]:
    """Parameters with the given a [n] and J [n, n]; not under jit.

    Raises ValueError where J is not negative definite and Z diverges.

    >>> import jax.numpy as jnp
    >>> from megjax.energies.gaussian import from_couplings, moments
    >>> params = from_couplings(jnp.array([1.0]), jnp.array([[-2.0]]))
    >>> [round(float(v.squeeze()), 4) for v in moments(params)]
    [0.5, 0.5]
    """
    factor = jnp.linalg.cholesky(-couplings)
    if not jnp.all(jnp.isfinite(factor)):
        raise ValueError(
            "couplings are not negative definite, so Z diverges: they are minus the"
            " precision matrix."
        )
    return {"bias": bias, "factor": factor}


def maximum_likelihood(x: Array) -> dict[str, Array]:
    """Parameters with the mean and covariance of data [N, n] (eq. 196); not under jit.

    The covariance is that of the data, a mean over N, not N - 1. Raises ValueError
    where it is singular, as for N <= n.
    """
    mean = jnp.mean(x, 0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    if len(x) <= x.shape[1] or not jnp.all(
        jnp.isfinite(jnp.linalg.cholesky(covariance))
    ):
        raise ValueError(
            f"The covariance of {len(x)} points in {x.shape[1]} dimensions is singular:"
            " give more points, or drop dimensions that depend on others."
        )
    precision = jnp.linalg.inv(covariance)
    symmetric = (precision + precision.T) / 2
    return from_couplings(symmetric @ mean, -symmetric)


def _factor(params: PyTree) -> Array:
    return jnp.tril(params["factor"])


def _solve(params: PyTree, rhs: Array, *, transposed: bool = False) -> Array:
    """L^-1 rhs, or L^-T rhs."""
    trans = int(transposed)
    factor = params["factor"]
    return jax.scipy.linalg.solve_triangular(factor, rhs, lower=True, trans=trans)
