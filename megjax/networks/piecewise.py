"""Piecewise linear energies: the penalised energy's gradient in one backward pass less.

With the activation pattern of x held fixed, such a network is affine, and the tangent
of E at x along v is a difference of two of its values.
"""

import jax
import jax.numpy as jnp
from flax import linen

from megjax.types import Array, PyTree


class LeakyReLU(linen.Module):
    """max(x, slope x), with an activation pattern that can be recorded and imposed.

    The pattern is written where the collection "pattern" is mutable, and replaces the
    signs of x where that collection is given.
    """

    slope: float

    @linen.compact
    def __call__(self, x: Array) -> Array:
        positive = x > 0
        if self.is_mutable_collection("pattern"):
            if not self.is_initializing():
                self.put_variable("pattern", "positive", positive)
        elif self.has_variable("pattern", "positive"):
            positive = self.get_variable("pattern", "positive")
        return jnp.where(positive, x, self.slope * x)


def penalised_energy(
    energy: linen.Module, params: PyTree, x: Array, weight: float
) -> tuple[Array, Array, Array]:
    """Energies, squared scores, and E + weight |grad_x E|^2 with its cheap gradient.

    x [B, ...] -> three arrays [B]. The third has the value and the exact gradient in
    `params` of the penalised energy, the first two have none. `energy` must be
    piecewise linear in x, all its nonlinearities being `LeakyReLU`s.

    With v the score and the pattern of x held fixed, |grad E|^2 has the gradient of
    2 dE(x)[v], so the sum is the affine network at x + 2 weight v. Four passes: forward
    at x, back to v, forward at x + 2 weight v, and the parameters' gradient, whose
    signals back through the layers are those of v: the compiler finds them equal where
    the loss is the mean of the third array, whence the mean below.
    """
    frozen = jax.lax.stop_gradient(params)

    def mean_energy(x):
        energies, pattern = energy.apply({"params": frozen}, x, mutable=["pattern"])
        return jnp.mean(energies), (energies, pattern)

    score, (energies, pattern) = jax.grad(mean_energy, has_aux=True)(x)
    score = len(x) * score
    squared = jnp.sum(jnp.square(score), axis=range(1, x.ndim))
    affine = energy.apply({"params": params, **pattern}, x + 2 * weight * score)
    return energies, squared, affine - weight * squared
