"""Wasserstein GAN with gradient penalty: energy and generator as two players.

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved Training of Wasserstein
GANs", 2017; the functions below follow its Algorithm 1. The energy is minus the critic.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen

from megjax import checks, distributed, losses
from megjax.learners import adversarial, base
from megjax.learners.adversarial import TwoPlayers
from megjax.learners.base import Learner
from megjax.types import Array, Key, Metrics


def between(key: Key, real: Array, fake: Array) -> Array:
    """Points on the lines from samples to data, one coefficient each: [B, ...]."""
    shape = (len(real),) + (1,) * (real.ndim - 1)
    fraction = distributed.shard(jax.random.uniform(key, shape, real.dtype))
    return fake + fraction * (real - fake)


def between_elements(key: Key, real: Array, fake: Array) -> Array:
    """Points in the boxes between them, one coefficient per element: [B, ...]."""
    fraction = distributed.shard(jax.random.uniform(key, real.shape, real.dtype))
    return fake + fraction * (real - fake)


class Penalty(NamedTuple):
    """Where the energy is asked for a gradient of norm 1, and which norm that is.

    interpolation: (key, real [B, ...], fake [B, ...]) -> points [B, ...].
    deviation: gradients [B, ...] -> squared deviations from norm 1 [B].
    """

    interpolation: Callable
    deviation: Callable


PER_EXAMPLE = Penalty(between, losses.norm_deviation)
"""The method as published: the critic changes by at most 1 per unit of distance."""

PER_PIXEL = Penalty(between_elements, losses.pixel_norm_deviation)
"""What MEG's reference code has in its place; see `pixel_norm_deviation`."""


class Spec(NamedTuple):
    """Networks and hyperparameters of one WGAN-GP.

    energy: x [B, ...] -> [B], minus the critic. generator: (z [B, k], train) ->
        x [B, ...].
    num_energy_updates: energy updates per generator update (n_critic in the paper).
    penalty_weight: lambda in the paper.
    average_decay: as of MEG; 0, the paper's choice, keeps no averages.
    num_microbatches: as of MEG.
    """

    energy: linen.Module
    generator: linen.Module
    latent_dim: int
    num_energy_updates: int = 5
    penalty_weight: float = 10.0
    penalty: Penalty = PER_EXAMPLE
    average_decay: float = 0.0
    num_microbatches: int = 1
    energy_optimizer: optax.GradientTransformation = optax.adam(1e-4, 0.5, 0.9)
    generator_optimizer: optax.GradientTransformation = optax.adam(1e-4, 0.5, 0.9)


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    for field in ("latent_dim", "num_energy_updates", "num_microbatches"):
        checks.whole(f"wgan_gp.{field}", getattr(spec, field), 1)
    checks.at_least("wgan_gp.penalty_weight", spec.penalty_weight, 0)
    checks.fraction("wgan_gp.average_decay", spec.average_decay)
    return spec


def wgan_gp(spec: Spec) -> Learner:
    """Wasserstein GAN with gradient penalty (Gulrajani et al. 2017), the baseline.

    Raises ValueError as `checked` does.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import wgan_gp
    >>> from megjax.learners.wgan_gp import Spec
    >>> from megjax.networks import heads, mlp
    >>> energy, generator = heads.Energy(mlp.Trunk((8,))), mlp.Generator((8,), 2)
    >>> learner = wgan_gp(Spec(energy, generator, latent_dim=3))
    >>> state = learner.init(jax.random.key(0), jnp.ones((4, 2)))
    >>> learner.sample(jax.random.key(1), state, 5).shape
    (5, 2)
    """
    return adversarial.assembled(
        checked(spec),
        energy_update=energy_update,
        generator_update=generator_update,
    )


def energy_update(
    spec: Spec, key: Key, state: TwoPlayers, x: Array
) -> tuple[TwoPlayers, Metrics]:
    """One descent of E at data minus E at samples, plus the penalty between them.

    Lines 3 to 9. The samples are made for the whole batch at once, whatever the
    micro-batches.
    """
    key_latents, key_interpolation = jax.random.split(key)
    z = adversarial.latents(spec, key_latents, len(x))
    fake, generator = adversarial.generated(
        spec, state.generator, state.generator.params, z
    )
    points = spec.penalty.interpolation(key_interpolation, x, fake)

    def loss(params, x, fake, points):
        energy_fn = partial(spec.energy.apply, {"params": params})
        energy_real, energy_fake = energy_fn(x), energy_fn(fake)
        contrast = losses.energy_contrast(energy_real, energy_fake)
        _, slope, penalty = losses.gradient_penalty(
            energy_fn, points, spec.penalty.deviation, spec.penalty_weight
        )
        return contrast + jnp.mean(penalty), {
            "energy_real": jnp.mean(energy_real),
            "energy_fake": jnp.mean(energy_fake),
            # Lipschitz constant times distance, as far as E is the best critic.
            "wasserstein": -contrast,
            "gradient_penalty": jnp.mean(penalty),
            "slope_norm": jnp.mean(losses.norms(slope)),
        }

    gradient, metrics = base.mean_gradient(
        loss, state.energy.params, (x, fake, points), spec.num_microbatches
    )
    metrics["energy_gradient_norm"] = base.norm(gradient)
    metrics["sample_variance"] = adversarial.relative_variance(fake, x)
    return state.replace(
        energy=base.updated(state.energy, gradient, spec.energy_optimizer),
        generator=generator,
    ), metrics


def generator_update(
    spec: Spec, key: Key, state: TwoPlayers, num: int
) -> tuple[TwoPlayers, Metrics]:
    """One descent of E at samples (lines 11 and 12)."""
    z = adversarial.latents(spec, key, num)

    def loss(params, z):
        x, generator = adversarial.generated(spec, state.generator, params, z)
        energy_fake = spec.energy.apply({"params": state.energy.params}, x)
        return jnp.mean(energy_fake), generator.variables

    gradient, variables = base.mean_gradient(
        loss, state.generator.params, (z,), spec.num_microbatches
    )
    generator = state.generator.replace(variables=variables)
    generator = base.updated(generator, gradient, spec.generator_optimizer)
    return state.replace(generator=generator), {
        "generator_gradient_norm": base.norm(gradient)
    }
