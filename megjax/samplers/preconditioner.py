"""The shape of a proposal: a factor L of the covariance L L^T that its noise has.

Roberts and Stramer 2002, section 4; a mass matrix of HMC is (L L^T)^-1.
"""

import jax
import jax.numpy as jnp

from megjax.types import Array


def scaled(factor: Array | None, x: Array) -> Array:
    """L x, [...] -> [...].

    factor: None for the identity, [...] like x for a diagonal, or a matrix [dim, dim]
    for positions [dim].
    """
    if factor is None:
        return x
    factor = jnp.asarray(factor, x.dtype)
    return factor @ x if _dense(factor, x) else factor * x


def transposed(factor: Array | None, x: Array) -> Array:
    """L^T x; as `scaled`."""
    if factor is None:
        return x
    factor = jnp.asarray(factor, x.dtype)
    return x @ factor if _dense(factor, x) else factor * x


def squared(factor: Array | None, x: Array) -> Array:
    """L L^T x; as `scaled`."""
    return scaled(factor, transposed(factor, x))


def solved(factor: Array | None, x: Array) -> Array:
    """L^-1 x; as `scaled`, with a matrix that is lower triangular."""
    if factor is None:
        return x
    factor = jnp.asarray(factor, x.dtype)
    if _dense(factor, x):
        return jax.scipy.linalg.solve_triangular(factor, x, lower=True)
    return x / factor


def solved_transposed(factor: Array | None, x: Array) -> Array:
    """L^-T x; as `solved`."""
    if factor is None:
        return x
    factor = jnp.asarray(factor, x.dtype)
    if _dense(factor, x):
        return jax.scipy.linalg.solve_triangular(factor, x, trans=1, lower=True)
    return x / factor


def covariance_factor(x: Array) -> Array:
    """L, lower triangular, of the covariance of draws x [N, dim]: [dim, dim].

    Correlations are taken for a little smaller than they are, by 0.005 / (N + 5) (the
    weight that Stan's warm-up gives to its diagonal), so that fewer draws than
    dimensions give a factor too.
    """
    covariance = jnp.cov(x, rowvar=False)
    shrinkage = 5e-3 / (len(x) + 5)
    diagonal = jnp.diag(jnp.diag(covariance))
    return jnp.linalg.cholesky(covariance + shrinkage * (diagonal - covariance))


def _dense(factor, x) -> bool:
    """Raises ValueError where the shapes do not fit."""
    if factor.shape == x.shape:
        return False
    if x.ndim == 1 and factor.shape == x.shape * 2:
        return True
    raise ValueError(
        f"factor has shape {factor.shape}: want {x.shape} for a diagonal, or a square "
        "matrix for a position with one axis."
    )
