"""What training minimises: information bounds, contrast, score penalties, entropy.

Functions of energies, logits or an `energy_fn`; nothing draws or owns weights.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen

from megjax import checks
from megjax.types import Array, EnergyFn, PyTree


def jensen_shannon(joint: Array, marginal: Array) -> Array:
    """Jensen-Shannon information bound (MEG eq. 7), in nats, at most 0.

    joint: T(x, z) on joint pairs [B]; marginal: T on independent pairs [M, B].
    At the optimal T it is 2 JSD(joint || product) - 2 log 2, in [-2 log 2, 0]; it
    saturates, so it is not an estimate of the mutual information. Algorithm 1 of the
    paper prints minus this with a wrong sign in both terms; eq. 7 is right. Raises
    ValueError for other shapes, as the two bounds below do.

    >>> import jax.numpy as jnp
    >>> from megjax import jensen_shannon
    >>> print(f"{jensen_shannon(jnp.zeros(4), jnp.zeros((1, 4))):.4f}")  # -2 log 2
    -1.3863
    """
    _check_pairs(joint, marginal)
    return -jnp.mean(jax.nn.softplus(-joint)) - jnp.mean(jax.nn.softplus(marginal))


def donsker_varadhan(joint: Array, marginal: Array) -> Array:
    """Donsker-Varadhan bound on the mutual information (MINE), in nats.

    joint: [B]; marginal: [M, B]. Belghazi et al. 2018. Its minibatch gradient is
    biased by the logarithm of a mean.

    >>> import jax.numpy as jnp
    >>> from megjax import donsker_varadhan
    >>> float(donsker_varadhan(jnp.ones(4), jnp.zeros((2, 4))))
    1.0
    """
    _check_pairs(joint, marginal)
    log_mean = jax.nn.logsumexp(marginal) - jnp.log(marginal.size)
    return jnp.mean(joint) - log_mean


def info_nce(joint: Array, marginal: Array) -> Array:
    """InfoNCE bound on the mutual information (van den Oord et al. 2018), in nats.

    joint: [B]; marginal: [M, B], column i holding the M negatives of x_i. At most
    log(M + 1), so it needs many negatives.

    >>> import jax.numpy as jnp
    >>> from megjax import info_nce
    >>> float(info_nce(jnp.zeros(4), jnp.zeros((9, 4))))
    0.0
    """
    _check_pairs(joint, marginal)
    candidates = jnp.concatenate([joint[None], marginal])
    log_mean = jax.nn.logsumexp(candidates, axis=0) - jnp.log(len(candidates))
    return jnp.mean(joint - log_mean)


def variational(joint: Array, marginal: Array) -> Array:
    """Variational bound on the mutual information (Barber and Agakov 2003), in nats.

    joint: log q(z|x) - log p(z) [B] of a density q, as `networks.heads.Posterior` has
    it; marginal: not used, [M, B] with any M, 0 included. I(x; z) minus the mean
    divergence of q from the true posterior: unlike the other bounds it has no limit,
    and for a generator without noise none is reached. Raises ValueError for other
    shapes.

    >>> import jax.numpy as jnp
    >>> from megjax import variational
    >>> float(variational(jnp.array([1.0, 3.0]), jnp.zeros((0, 2))))
    2.0
    """
    _check_pairs(joint, marginal)
    return jnp.mean(joint)


def energy_contrast(real: Array, fake: Array) -> Array:
    """Mean energy of data minus mean energy of negatives (MEG eq. 3): [B], [N] -> [].

    >>> import jax.numpy as jnp
    >>> from megjax import energy_contrast
    >>> float(energy_contrast(jnp.array([1.0, 3.0]), jnp.array([5.0])))
    -3.0
    """
    checks.array("real", real, 1)
    checks.array("fake", fake, 1)
    if not real.size or not fake.size:
        raise ValueError(f"{real.size} and {fake.size} energies: give at least 1 each")
    return jnp.mean(real) - jnp.mean(fake)


def squared_score(energy_fn: EnergyFn, x: Array) -> Array:
    """|grad_x E(x)|^2 of every example: [B, ...] -> [B].

    The sum runs over all axes but the batch. The reference code sums over channels
    and averages over pixels: its weight w is `w / (height * width)` here.

    >>> import jax.numpy as jnp
    >>> from megjax import squared_score
    >>> squared_score(lambda x: x @ jnp.array([3.0, 4.0]), jnp.ones((2, 2)))
    Array([25., 25.], dtype=float32)
    """
    _check_floats("x", x)
    gradient = jax.grad(lambda x: jnp.sum(_energies(energy_fn, x)))(x)
    return _squared(gradient)


def penalised_energy(
    network: linen.Module, params: PyTree, x: Array, weight: float
) -> tuple[Array, Array, Array]:
    """Energies, squared scores, and E + weight |grad_x E|^2 of examples x [B, ...].

    Three arrays [B]. The third has the value and the exact parameter gradient of the
    penalised energy, without differentiating a backward pass backwards. The one score
    penalty of all methods: a network that says `piecewise_linear = True`, all of whose
    nonlinearities then are `networks.piecewise.LeakyReLU`s, has it one pass cheaper
    than others, which are treated as `gradient_penalty` does.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import penalised_energy
    >>> from megjax.networks import heads, mlp
    >>> network, x = heads.Energy(mlp.Trunk((8,))), jnp.ones((3, 2))
    >>> params = network.init(jax.random.key(0), x)["params"]
    >>> energies, squared, penalised = penalised_energy(network, params, x, 0.1)
    >>> bool(jnp.allclose(penalised, energies + 0.1 * squared))
    True
    """
    _check_floats("x", x)
    checks.number("weight", weight)
    if getattr(network, "piecewise_linear", False):
        return _piecewise_linear_penalty(network, params, x, weight)
    energy_fn = partial(network.apply, {"params": params})
    energies, score, penalty = gradient_penalty(energy_fn, x, _squared, weight)
    return energies, _squared(score), energies + penalty


def _piecewise_linear_penalty(network, params, x, weight):
    """`penalised_energy` of a network that is affine where its pattern is held fixed.

    With v the score and the pattern of x held fixed, |grad E|^2 has the gradient of
    2 dE(x)[v], so the sum is the affine network at x + 2 weight v. Four passes: forward
    at x, back to v, forward at x + 2 weight v, and the parameters' gradient, whose
    signals back through the layers are those of v: the compiler finds them equal where
    the loss is the mean of the third array, whence the mean below.
    """
    frozen = jax.lax.stop_gradient(params)

    def mean_energy(x):
        energies, pattern = network.apply({"params": frozen}, x, mutable=["pattern"])
        return jnp.mean(energies), (energies, pattern)

    score, (energies, pattern) = jax.grad(mean_energy, has_aux=True)(x)
    score = len(x) * score
    squared = _squared(score)
    affine = network.apply({"params": params, **pattern}, x + 2 * weight * score)
    return energies, squared, affine - weight * squared


def gradient_penalty(
    energy_fn: EnergyFn, x: Array, deviation: Callable[[Array], Array], weight: float
) -> tuple[Array, Array, Array]:
    """Energies, gradients grad_x E, and weight * deviation(grad_x E).

    x [B, ...] -> [B], [B, ...] and [B]; deviation: gradients [B, ...] -> [B], such as
    `norm_deviation`. The third has the value and the exact parameter gradient of the
    penalty, by forward-over-reverse: to first order it moves with the directional
    derivative of E along the penalty's own slope v, held fixed, whatever the penalty.
    Four passes for a piecewise linear E, whose signals back through the layers serve
    twice: the compiler finds them equal where the loss is the mean of the penalty,
    whence the mean below.

    >>> import jax.numpy as jnp
    >>> from megjax import gradient_penalty, norm_deviation
    >>> energy_fn = lambda x: x @ jnp.array([3.0, 4.0])
    >>> gradient_penalty(energy_fn, jnp.ones((1, 2)), norm_deviation, 10.0)[2]
    Array([160.], dtype=float32)
    """
    _check_floats("x", x)
    checks.number("weight", weight)
    gradient = jax.grad(lambda x: jnp.mean(_energies(energy_fn, x)))(x)
    gradient = jax.lax.stop_gradient(len(x) * gradient)
    penalty, pullback = jax.vjp(lambda g: weight * deviation(g), gradient)
    (direction,) = pullback(jnp.ones_like(penalty))
    energies, slope = jax.jvp(energy_fn, (x,), (direction,))
    if penalty.shape != (len(x),):
        raise ValueError(f"deviation returns shape {list(penalty.shape)}: return [B]")
    return energies, gradient, penalty + slope - jax.lax.stop_gradient(slope)


def norm_deviation(gradient: Array) -> Array:
    """(|g| - 1)^2 of every example (Gulrajani et al. 2017, eq. 3): [B, ...] -> [B].

    >>> import jax.numpy as jnp
    >>> from megjax import norm_deviation
    >>> norm_deviation(jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [16.0, 0.0]
    """
    _check_floats("gradient", gradient)
    return jnp.square(norms(gradient) - 1)


def pixel_norm_deviation(gradient: Array) -> Array:
    """(|g| - 1)^2 with a norm for each pixel, over channels, averaged over pixels.

    [B, ..., C] -> [B]. What MEG's reference code asks of its WGAN-GP: images of P
    pixels then have gradients of norm sqrt(P). For vectors this is `norm_deviation`.

    >>> import jax.numpy as jnp
    >>> from megjax import pixel_norm_deviation
    >>> pixel_norm_deviation(jnp.ones((1, 2, 2, 1))).tolist()
    [0.0]
    """
    _check_floats("gradient", gradient, 2)
    deviation = jnp.square(_norm(gradient, -1) - 1)
    return jnp.mean(deviation, axis=range(1, deviation.ndim))


def norms(gradient: Array) -> Array:
    """Euclidean norm over all axes but the batch: [B, ...] -> [B]."""
    return _norm(gradient, range(1, gradient.ndim))


def _squared(gradient: Array) -> Array:
    return jnp.sum(jnp.square(gradient), axis=range(1, gradient.ndim))


def batch_norm_entropy(scales: PyTree, epsilon: float = 1e-8) -> Array:
    """Entropy of Gaussians whose standard deviations are batch normalisation's scales.

    Kim and Bengio 2016. scales: arrays of any form; the sum over all their elements of
    log(2 pi e g^2 + epsilon) / 2, in nats. Kim and Bengio's arXiv version takes it for
    the entropy of a generator. It is not one: to multiply scales before a ReLU by a
    constant and to divide the next weights by it leaves the generator as it is and
    raises the sum, without bound.

    >>> import jax.numpy as jnp
    >>> from megjax import batch_norm_entropy
    >>> print(f"{batch_norm_entropy({'scale': jnp.ones(2)}):.4f}")  # of N(0, I)
    2.8379
    """
    checks.at_least("epsilon", epsilon, 0)
    for scale in jax.tree.leaves(scales):
        checks.array("scales", scale)
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


def _energies(energy_fn: EnergyFn, x: Array) -> Array:
    """energy_fn(x) [B]. Raises ValueError where it returns another shape."""
    found = energy_fn(x)
    if jnp.shape(found) != (len(x),):
        raise ValueError(
            f"energy_fn returns shape {list(jnp.shape(found))} for {len(x)} examples: "
            "return one energy for each, [B]"
        )
    return found


def _check_floats(name: str, x: Array, min_ndim: int = 1) -> None:
    """ValueError unless x is an array of floats [B, ...] with so many axes at least."""
    checks.array(name, x)
    if x.ndim < min_ndim or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is {x.dtype} {list(x.shape)}: give floats [B, ...]")


def _check_pairs(joint: Array, marginal: Array) -> None:
    checks.array("joint", joint, 1)
    checks.array("marginal", marginal, 2)
    if marginal.shape[1:] != joint.shape or not joint.size:
        raise ValueError(
            f"joint has shape {list(joint.shape)} and marginal {list(marginal.shape)}: "
            "give [B] and [M, B]"
        )
