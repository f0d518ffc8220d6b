"""Scalars that the players climb: information bounds, score penalty, energy contrast.

Everything here takes energies, logits or an `energy_fn`; nothing draws or owns weights.
"""

import chex
import jax
import jax.numpy as jnp

from megjax.types import Array, EnergyFn


def jensen_shannon(joint: Array, marginal: Array) -> Array:
    """Jensen-Shannon information bound (MEG eq. 7), in nats, at most 0.

    joint: T(x, z) on joint pairs [B]; marginal: T on independent pairs [M, B].
    At the optimal T it is 2 JSD(joint || product) - 2 log 2, in [-2 log 2, 0]; it
    saturates, so it is not an estimate of the mutual information. Algorithm 1 of the
    paper prints minus this with a wrong sign in both terms; eq. 7 is right.
    """
    _check_pairs(joint, marginal)
    return -jnp.mean(jax.nn.softplus(-joint)) - jnp.mean(jax.nn.softplus(marginal))


def donsker_varadhan(joint: Array, marginal: Array) -> Array:
    """Donsker-Varadhan bound on the mutual information (MINE), in nats.

    joint: [B]; marginal: [M, B]. Its minibatch gradient is biased by the logarithm of
    a mean.
    """
    _check_pairs(joint, marginal)
    log_mean = jax.nn.logsumexp(marginal) - jnp.log(marginal.size)
    return jnp.mean(joint) - log_mean


def info_nce(joint: Array, marginal: Array) -> Array:
    """InfoNCE bound on the mutual information (van den Oord et al. 2018), in nats.

    joint: [B]; marginal: [M, B], column i holding the M negatives of x_i. At most
    log(M + 1), so it needs many negatives.
    """
    _check_pairs(joint, marginal)
    candidates = jnp.concatenate([joint[None], marginal])
    log_mean = jax.nn.logsumexp(candidates, axis=0) - jnp.log(len(candidates))
    return jnp.mean(joint - log_mean)


def energy_contrast(real: Array, fake: Array) -> Array:
    """Mean energy of data minus mean energy of negatives (MEG eq. 3): [B], [N] -> []."""
    chex.assert_rank([real, fake], 1)
    return jnp.mean(real) - jnp.mean(fake)


def squared_score(energy_fn: EnergyFn, x: Array) -> Array:
    """|grad_x E(x)|^2 of every example: [B, ...] -> [B].

    The sum runs over all axes but the batch. The reference code sums over channels
    and averages over pixels: its weight w is `w / (height * width)` here.
    """
    gradient = jax.grad(lambda x: jnp.sum(energy_fn(x)))(x)
    return jnp.sum(jnp.square(gradient), axis=range(1, x.ndim))


def penalised_energy(
    energy_fn: EnergyFn, x: Array, weight: float
) -> tuple[Array, Array, Array]:
    """Energies, squared scores, and E + weight |grad_x E|^2 with its cheap gradient.

    x [B, ...] -> three arrays [B]. The third has the value and the exact parameter
    gradient of the penalised energy, by forward-over-reverse: with the score v held
    fixed, |grad E|^2 has the gradient of twice the directional derivative of E along
    v, so no backward pass is differentiated backwards.
    """
    score = jax.lax.stop_gradient(jax.grad(lambda x: jnp.sum(energy_fn(x)))(x))
    energies, squared = jax.jvp(energy_fn, (x,), (score,))
    chex.assert_shape([energies, squared], (x.shape[0],))
    penalty = 2 * squared - jax.lax.stop_gradient(squared)
    return energies, squared, energies + weight * penalty


def _check_pairs(joint: Array, marginal: Array) -> None:
    chex.assert_rank([joint, marginal], [1, 2])
    chex.assert_equal_shape_suffix([joint, marginal], 1)
