"""Maximum entropy generators: energy, generator and statistics network as three players.

Kumar, Goyal, Courville, Bengio, "Maximum Entropy Generators for Energy-Based Models",
2019; the functions below follow its Algorithm 1.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen, struct

from megjax import checks, losses
from megjax.data import order
from megjax.learners import adversarial, base
from megjax.learners.base import Learner, Player
from megjax.samplers import latent, mala
from megjax.samplers.kernel import chain
from megjax.types import Array, Key, Metrics, PyTree


def shuffle_dimensions(key: Key, z: Array) -> Array:
    """Every latent dimension shuffled over the batch on its own (paper): [B, k].

    By the keyed bijections of the batch order: sorting takes a hundred times as long.
    """
    num, dim = z.shape
    shuffled = partial(order.batch_indices, step=0, num_examples=num, shape=(num,))
    rows = jax.vmap(shuffled)(jax.random.split(key, dim))
    return jnp.take_along_axis(z, rows.T, axis=0)


def shuffle_rows(key: Key, z: Array) -> Array:
    """One permutation of whole latents (reference code): [B, k]."""
    return jax.random.permutation(key, z, axis=0)


def roll_rows(key: Key, z: Array) -> Array:
    """Latents rolled by a random shift, so that none meets its own sample: [B, k]."""
    return jnp.roll(z, jax.random.randint(key, (), 1, len(z)), axis=0)


def fresh(key: Key, z: Array) -> Array:
    """Latents drawn afresh from the prior: [B, k]."""
    return jax.random.normal(key, z.shape, z.dtype)


class Refinement(NamedTuple):
    """Latent MALA steps that move the negatives towards low energy before their use.

    The paper's abstract promises such samples in the negative phase; its reference
    code leaves them out. The prior is part of the target, so few steps stay near it.
    """

    num_steps: int
    step_size: float = 0.01
    inverse_temperature: float = 1.0


class Spec(NamedTuple):
    """Networks and hyperparameters of one MEG.

    energy: x [B, ...] -> [B]. generator: (z [B, k], train) -> x [B, ...].
    statistics: (x [B, ...], z [M, B, k]) -> [M, B]; None to train
        without the entropy: a GAN with a zero-centred penalty at data.
    shared_features: whether the statistics network reads the features of x that the
        energy, called with `with_features=True`, returns beside its value, instead of
        x; the energy does not learn for it. A trunk less to run, as in InfoGAN.
    num_energy_updates: energy updates per generator update (n_phi in the paper).
    score_weight: of |grad_x E|^2 at data, summed over all axes but the batch.
    information_weight: of the bound against the energy in the generator's loss; 1 in
        the paper, 0.5 in its code. It also scales the statistics network's gradient,
        which leaves Adam's updates as they are.
    bound: (joint [B], marginal [M, B]) -> nats. pairing: (key, z) -> independent z.
    num_marginals: M, independent latents per sample; 0 for `losses.variational`, which
        has no use for any.
    generator_first: update order within an iteration; True as the reference code,
        False as Algorithm 1 prints it.
    average_decay: per iteration, of the running averages of the generator's and the
        energy's weights, which `sample`, `generate` and `energy` then use: the players
        circle around their equilibrium. 0, the paper's choice, keeps none.
    num_microbatches: gradients are accumulated over so many parts of a batch, one after
        the other. Nothing else changes but that, in the generator's update, batch
        normalisation sees one part at a time ("ghost" batch normalisation), and so does
        a bound that is no mean over examples (Donsker-Varadhan).
    """

    energy: linen.Module
    generator: linen.Module
    statistics: linen.Module | None
    latent_dim: int
    shared_features: bool = False
    num_energy_updates: int = 5
    score_weight: float = 0.1
    information_weight: float = 1.0
    bound: Callable = losses.jensen_shannon
    pairing: Callable = shuffle_dimensions
    num_marginals: int = 1
    generator_first: bool = True
    average_decay: float = 0.0
    num_microbatches: int = 1
    refinement: Refinement | None = None
    energy_optimizer: optax.GradientTransformation = optax.adam(1e-4, 0.5, 0.9)
    generator_optimizer: optax.GradientTransformation = optax.adam(1e-4, 0.5, 0.9)
    statistics_optimizer: optax.GradientTransformation = optax.adam(1e-4, 0.5, 0.9)


@struct.dataclass
class State:
    """The three players; `average`: None, or averaged weights of two of them.

    statistics: None when trained without the entropy.
    """

    energy: Player
    generator: Player
    statistics: Player | None
    average: PyTree = None


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    for field in ("latent_dim", "num_energy_updates"):
        checks.whole(f"meg.{field}", getattr(spec, field), 1)
    fewest = 0 if spec.bound is losses.variational else 1
    checks.whole("meg.num_marginals", spec.num_marginals, fewest)
    for field in ("score_weight", "information_weight"):
        checks.at_least(f"meg.{field}", getattr(spec, field), 0)
    checks.whole("meg.num_microbatches", spec.num_microbatches, 1)
    checks.fraction("meg.average_decay", spec.average_decay)
    if spec.refinement:
        checks.whole("meg.refinement_steps", spec.refinement.num_steps, 1)
        checks.at_least("meg.refinement_step_size", spec.refinement.step_size, 0)
    return spec


def meg(spec: Spec) -> Learner:
    """Maximum entropy generators: three players (Kumar et al. 2019, Algorithm 1).

    Raises ValueError as `checked` does.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import meg
    >>> from megjax.learners.meg import Spec
    >>> from megjax.networks import heads, mlp
    >>> spec = Spec(
    ...     energy=heads.Energy(mlp.Trunk((8,))),
    ...     generator=mlp.Generator((8,), 2),
    ...     statistics=mlp.Statistics((8, 8)),
    ...     latent_dim=3,
    ... )
    >>> learner, x = meg(spec), jnp.ones((spec.num_energy_updates, 4, 2))
    >>> state = learner.init(jax.random.key(0), x[0])
    >>> state, metrics = learner.step(jax.random.key(1), state, x)
    >>> learner.energy(state, x[0]).shape
    (4,)
    """
    return adversarial.assembled(
        checked(spec),
        energy_update=energy_update,
        generator_update=generator_update,
        generator_first=spec.generator_first,
        init=init,
    )


def init(spec: Spec, key: Key, x: Array) -> State:
    """Fresh players for data of the form of x [B, ...]."""
    key_energy, key_generator, key_statistics = jax.random.split(key, 3)
    z = jnp.zeros((len(x), spec.latent_dim))
    generator = spec.generator.init(key_generator, z, train=False)
    statistics = None
    if spec.statistics:
        seen = x
        if spec.shared_features:
            found = spec.energy.init_with_output(key_energy, x, with_features=True)
            seen = found[0][1]
        statistics = base.player(
            spec.statistics.init(key_statistics, seen, z[None]),
            spec.statistics_optimizer,
        )
    state = State(
        energy=base.player(spec.energy.init(key_energy, x), spec.energy_optimizer),
        generator=base.player(generator, spec.generator_optimizer),
        statistics=statistics,
    )
    return adversarial.with_average(spec, state)


def energy_update(
    spec: Spec, key: Key, state: State, x: Array
) -> tuple[State, Metrics]:
    """One descent of E at data minus E at samples, plus the score penalty at data.

    Equation 3. The samples are made for the whole batch at once, whatever the
    micro-batches.
    """
    key_latents, key_refinement = jax.random.split(key)
    z = adversarial.latents(spec, key_latents, len(x))
    if spec.refinement:
        z = refined(spec, key_refinement, state, z)
    fake, generator = adversarial.generated(
        spec, state.generator, state.generator.params, z
    )

    def loss(params, x, fake):
        real, squared_score, penalised = losses.penalised_energy(
            spec.energy, params, x, spec.score_weight
        )
        energy_fake = spec.energy.apply({"params": params}, fake)
        return losses.energy_contrast(penalised, energy_fake), {
            "energy_real": jnp.mean(real),
            "energy_fake": jnp.mean(energy_fake),
            "squared_score": jnp.mean(squared_score),
        }

    gradient, metrics = base.mean_gradient(
        loss, state.energy.params, (x, fake), spec.num_microbatches
    )
    metrics["energy_gap"] = metrics["energy_fake"] - metrics["energy_real"]
    metrics["energy_gradient_norm"] = base.norm(gradient)
    metrics["sample_variance"] = adversarial.relative_variance(fake, x)
    return state.replace(
        energy=base.updated(state.energy, gradient, spec.energy_optimizer),
        generator=generator,
    ), metrics


def generator_update(
    spec: Spec, key: Key, state: State, num: int
) -> tuple[State, Metrics]:
    """One joint descent of generator (eq. 8) and statistics network (eq. 7).

    They minimise the same cross-entropy, so one backward pass serves both.
    """
    key_latents, key_pairs = jax.random.split(key)
    z = adversarial.latents(spec, key_latents, num)
    features = {"with_features": True} if spec.shared_features else {}

    def loss(params, z, *independent):
        x, generator = adversarial.generated(
            spec, state.generator, params["generator"], z
        )
        found = spec.energy.apply({"params": state.energy.params}, x, **features)
        energy_fake, seen = found if spec.shared_features else (found, x)
        total, metrics = jnp.mean(energy_fake), {}
        if spec.statistics:
            logits = spec.statistics.apply(
                {"params": params["statistics"]},
                seen,
                jnp.concatenate([z[None], *independent]),
            )
            metrics["information"] = spec.bound(logits[0], logits[1:])
            total -= spec.information_weight * metrics["information"]
        return total, (generator.variables, metrics)

    params, batch = {"generator": state.generator.params}, (z,)
    if spec.statistics:
        params["statistics"] = state.statistics.params
        if spec.num_marginals:
            pairs = jax.random.split(key_pairs, spec.num_marginals)
            batch += (jax.vmap(spec.pairing, (0, None))(pairs, z),)
    gradient, (variables, metrics) = base.mean_gradient(
        loss, params, batch, spec.num_microbatches, axes=(0, 1)
    )
    generator = state.generator.replace(variables=variables)
    players = {
        "generator": base.updated(
            generator, gradient["generator"], spec.generator_optimizer
        )
    }
    if spec.statistics:
        players["statistics"] = base.updated(
            state.statistics, gradient["statistics"], spec.statistics_optimizer
        )
    norms = {f"{name}_gradient_norm": base.norm(g) for name, g in gradient.items()}
    return state.replace(**players), metrics | norms


def refined(spec: Spec, key: Key, state: State, z: Array) -> Array:
    """Latents [B, k] after a few MALA steps under p(z) exp(-beta E(G(z))).

    With the weights in training, averaged or not.
    """
    state = state.replace(average=None)
    log_density = latent.log_density(
        lambda z: adversarial.energy(spec, state, adversarial.generate(spec, state, z)),
        inverse_temperature=spec.refinement.inverse_temperature,
        prior="gaussian",
    )
    kernel = mala.mala(log_density, step_size=spec.refinement.step_size, has_aux=True)

    def move(key, z):
        moved, _ = chain(key, kernel, kernel.init(z), spec.refinement.num_steps)
        return moved.position

    return jax.vmap(move)(jax.random.split(key, len(z)), z)
