"""Scalars that the players climb: information bounds, entropy, contrast, penalties.

Everything here takes energies, logits or an `energy_fn`; nothing draws or owns weights.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from megjax.types import Array, EnergyFn, PyTree


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


def gradient_penalty(
    energy_fn: EnergyFn, x: Array, deviation: Callable[[Array], Array], weight: float
) -> tuple[Array, Array]:
    """Gradients grad_x E and weight * deviation(grad_x E), with its cheap gradient.

    x [B, ...] -> [B, ...] and [B]; deviation: gradients [B, ...] -> [B]. The second has
    the value and the exact parameter gradient of the penalty, by forward-over-reverse:
    to first order it moves with the directional derivative of E along the penalty's own
    slope v, held fixed, whatever the penalty. Four passes for a piecewise linear E,
    whose signals back through the layers serve twice: the compiler finds them equal
    where the loss is the mean of the penalty, whence the mean below.
    """
    gradient = jax.grad(lambda x: jnp.mean(energy_fn(x)))(x)
    gradient = jax.lax.stop_gradient(len(x) * gradient)
    penalty, pullback = jax.vjp(lambda g: weight * deviation(g), gradient)
    (direction,) = pullback(jnp.ones_like(penalty))
    _, slope = jax.jvp(energy_fn, (x,), (direction,))
    chex.assert_shape([penalty, slope], (len(x),))
    return gradient, penalty + slope - jax.lax.stop_gradient(slope)


def norm_deviation(gradient: Array) -> Array:
    """(|g| - 1)^2 of every example (Gulrajani et al. 2017, eq. 3): [B, ...] -> [B]."""
    return jnp.square(norms(gradient) - 1)


def pixel_norm_deviation(gradient: Array) -> Array:
    """(|g| - 1)^2 with a norm for each pixel, over channels, averaged over pixels.

    [B, ..., C] -> [B]. What MEG's reference code asks of its WGAN-GP: images of P
    pixels then have gradients of norm sqrt(P). For vectors this is `norm_deviation`.
    """
    deviation = jnp.square(_norm(gradient, -1) - 1)
    return jnp.mean(deviation, axis=range(1, deviation.ndim))


def norms(gradient: Array) -> Array:
    """Euclidean norm over all axes but the batch: [B, ...] -> [B]."""
    return _norm(gradient, range(1, gradient.ndim))


def batch_norm_entropy(scales: PyTree, epsilon: float = 1e-8) -> Array:
    """Entropies of Gaussians that have batch normalisation's scales g for deviations.

    scales: arrays of any form; the sum over all their elements of
    log(2 pi e g^2 + epsilon) / 2, in nats. Kim and Bengio's arXiv version takes it for
    the entropy of a generator. It is not one: to multiply scales before a ReLU by a
    constant and to divide the next weights by it leaves the generator as it is and
    raises the sum, without bound.
    """
    entropies = [
        jnp.sum(jnp.log(2 * jnp.pi * jnp.e * jnp.square(g) + epsilon)) / 2
        for g in jax.tree.leaves(scales)
    ]
    return sum(entropies, jnp.zeros(()))


def _norm(x: Array, axes) -> Array:
    # The norm's derivative at 0 is taken for 0; plain autodiff says NaN.
    squared = jnp.sum(jnp.square(x), axes)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def _check_pairs(joint: Array, marginal: Array) -> None:
    chex.assert_rank([joint, marginal], [1, 2])
    chex.assert_equal_shape_suffix([joint, marginal], 1)
