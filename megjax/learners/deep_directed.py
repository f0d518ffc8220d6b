"""Deep directed models: an energy and a generator that learn from each other.

Kim and Bengio, "Deep Directed Generative Models with Energy-Based Probability
Estimation", 2016. The workshop text has no entropy, arXiv:1606.03439 the one of batch
normalisation's scales.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen

from megjax import checks, losses
from megjax.learners import adversarial, base
from megjax.learners.adversarial import TwoPlayers
from megjax.learners.base import Learner, Player
from megjax.types import Array, Key, Metrics, PyTree


def no_entropy(params: PyTree) -> Array:
    """0: the generator seeks low energy alone, as in the workshop text."""
    del params
    return jnp.zeros(())


def batch_norm_entropy(params: PyTree) -> Array:
    """`losses.batch_norm_entropy` of a generator's weights, as in the arXiv text.

    Raises ValueError where the generator has no batch normalisation.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    scales = [leaf for path, leaf in leaves if path[-1].key == "scale"]
    if not scales:
        raise ValueError(
            "the batch-norm entropy needs a generator with batch normalisation: use "
            "one, or entropy 'none'"
        )
    return losses.batch_norm_entropy(scales)


class Spec(NamedTuple):
    """Networks and hyperparameters of one deep directed model.

    energy: x [B, ...] -> [B]. generator: (u [B, k], train) -> x [B, ...].
    latent_bound: c; the generator's input is uniform on [-c, c]^k. The paper leaves c
        open.
    entropy: weights of the generator -> nats, that it maximises beside low energy.
    entropy_weight: 1 in the arXiv text.
    score_weight: of |grad_x E|^2 at data, which bounds the growth of the energy's
        scale as in MEG; 0, the paper's choice, leaves it out.
    average_decay: as of MEG; 0, the paper's choice, keeps no averages.
    """

    energy: linen.Module
    generator: linen.Module
    latent_dim: int
    latent_bound: float = 1.0
    num_energy_updates: int = 1
    entropy: Callable[[PyTree], Array] = no_entropy
    entropy_weight: float = 1.0
    score_weight: float = 0.0
    average_decay: float = 0.0
    energy_optimizer: optax.GradientTransformation = optax.adagrad(0.01)
    generator_optimizer: optax.GradientTransformation = optax.adagrad(0.01)


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    for field in ("latent_dim", "num_energy_updates"):
        checks.whole(f"deep_directed.{field}", getattr(spec, field), 1)
    for field in ("entropy_weight", "score_weight"):
        checks.at_least(f"deep_directed.{field}", getattr(spec, field), 0)
    checks.positive("deep_directed.latent_bound", spec.latent_bound)
    checks.fraction("deep_directed.average_decay", spec.average_decay)
    return spec


def deep_directed(spec: Spec) -> Learner:
    """Deep directed generative models (Kim and Bengio 2016).

    Its latents z are standard normals, whose distribution function makes the uniform
    inputs: a Markov chain on z meets no walls, and the Gaussian prior is the right one.
    Raises ValueError as `checked` does.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import deep_directed
    >>> from megjax.learners.deep_directed import Spec
    >>> from megjax.networks import experts
    >>> energy = experts.Experts(experts.Features((8,)), 4)
    >>> learner = deep_directed(Spec(energy, experts.Generator((8,), (2,)), latent_dim=3))
    >>> state = learner.init(jax.random.key(0), jnp.ones((4, 2)))
    >>> learner.sample(jax.random.key(1), state, 5).shape
    (5, 2)
    """
    return adversarial.assembled(
        checked(spec),
        energy_update=energy_update,
        generator_update=generator_update,
        sample=sample,
        generate=generate,
    )


def uniform(spec: Spec, z: Array) -> Array:
    """Standard normals as uniform variables on [-c, c], element by element (eq. 3)."""
    return spec.latent_bound * jax.scipy.special.erf(z / math.sqrt(2))


def generate(spec: Spec, state: TwoPlayers, z: Array) -> Array:
    """Samples [B, ...] of latents z [B, k], with running batch statistics."""
    return adversarial.generate(spec, state, uniform(spec, z))


def sample(spec: Spec, key: Key, state: TwoPlayers, num: int) -> Array:
    """Samples of the generator [num, ...]."""
    return generate(spec, state, adversarial.latents(spec, key, num))


def generated(
    spec: Spec, key: Key, generator: Player, params: PyTree, num: int
) -> tuple[Array, Player]:
    """Fresh training-mode samples [num, ...], and the generator moved on."""
    u = uniform(spec, adversarial.latents(spec, key, num))
    return adversarial.generated(spec, generator, params, u)


def energy_update(
    spec: Spec, key: Key, state: TwoPlayers, x: Array
) -> tuple[TwoPlayers, Metrics]:
    """One descent of the energy at data minus that at samples (equations 1 and 4)."""
    fake, generator = generated(
        spec, key, state.generator, state.generator.params, len(x)
    )

    def loss(params):
        real, penalised = _energies(spec, params, x)
        energy_fake = spec.energy.apply({"params": params}, fake)
        return losses.energy_contrast(penalised, energy_fake), {
            "energy_real": jnp.mean(real),
            "energy_fake": jnp.mean(energy_fake),
        }

    gradient, metrics = jax.grad(loss, has_aux=True)(state.energy.params)
    metrics["energy_gap"] = metrics["energy_fake"] - metrics["energy_real"]
    metrics["energy_gradient_norm"] = base.norm(gradient)
    metrics["sample_variance"] = adversarial.relative_variance(fake, x)
    return state.replace(
        energy=base.updated(state.energy, gradient, spec.energy_optimizer),
        generator=generator,
    ), metrics


def _energies(spec: Spec, params: PyTree, x: Array) -> tuple[Array, Array]:
    """Energies of data and penalised energies [B]; the penalty costs two passes."""
    if not spec.score_weight:
        return (spec.energy.apply({"params": params}, x),) * 2
    real, _, penalised = losses.penalised_energy(
        spec.energy, params, x, spec.score_weight
    )
    return real, penalised


def generator_update(
    spec: Spec, key: Key, state: TwoPlayers, num: int
) -> tuple[TwoPlayers, Metrics]:
    """One descent of the energy at samples (equation 5), less the entropy."""

    def loss(params):
        x, generator = generated(spec, key, state.generator, params, num)
        energy_fake = spec.energy.apply({"params": state.energy.params}, x)
        entropy = spec.entropy(params)
        return jnp.mean(energy_fake) - spec.entropy_weight * entropy, (
            generator,
            entropy,
        )

    gradient, (generator, entropy) = jax.grad(loss, has_aux=True)(
        state.generator.params
    )
    generator = base.updated(generator, gradient, spec.generator_optimizer)
    return state.replace(generator=generator), {
        "entropy": entropy,
        "generator_gradient_norm": base.norm(gradient),
    }
