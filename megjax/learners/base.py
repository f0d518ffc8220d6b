"""What every training method offers, and what those with a generator share.

The functions from `two_players` on take the method's specification (`energy` and
`generator`, their optimizers, `latent_dim`, `average_decay`) and state (players `energy`
and `generator`, `average`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from megjax import distributed
from megjax.samplers.bijectors import Bijector
from megjax.types import Array, Key, Metrics, PyTree


class Learner(NamedTuple):
    """A training method: pure functions with their hyperparameters bound.

    init: (key, x [B, ...]) -> state
    step: (key, state, x [K, B, ...]) -> (state, metrics); one iteration
    sample: (key, state, num) -> x [num, ...]
    energy: (state, x [B, ...]) -> [B]
    num_batches: K, the batches that one iteration consumes
    latents: (key, num) -> z [num, k], draws of the latent prior
    generate: (state, z [num, k]) -> x [num, ...], in inference mode
    kernel: (state, log-density, has_aux=False) -> Kernel that proposes as it was trained
    bijector: in whose unbounded values chains on x move, where x has bounds

    The last four are None for methods without a generator, without a proposal, and
    where chains move in x itself.
    """

    init: Callable[..., PyTree]
    step: Callable[..., tuple[PyTree, dict[str, Array]]]
    sample: Callable[..., Array]
    energy: Callable[..., Array]
    num_batches: int = 1
    latents: Callable[..., Array] | None = None
    generate: Callable[..., Array] | None = None
    kernel: Callable | None = None
    bijector: Bijector | None = None


@struct.dataclass
class Player:
    """One network in training; data only.

    params: trainable parameters.
    variables: other collections, such as batch statistics.
    optimizer: state of the optimizer.
    """

    params: PyTree
    variables: PyTree
    optimizer: Any


def player(variables: PyTree, optimizer: optax.GradientTransformation) -> Player:
    """The player that owns freshly initialised network variables."""
    params = variables["params"]
    rest = {name: v for name, v in variables.items() if name != "params"}
    return Player(params, rest, optimizer.init(params))


@struct.dataclass
class TwoPlayers:
    """The state of a game of two; `average`: None, or their averaged weights."""

    energy: Player
    generator: Player
    average: PyTree = None


def updated(
    player: Player, gradients: PyTree, optimizer: optax.GradientTransformation
) -> Player:
    """The player after one optimizer step along `gradients`."""
    updates, state = optimizer.update(gradients, player.optimizer, player.params)
    return player.replace(
        params=optax.apply_updates(player.params, updates), optimizer=state
    )


def mean_gradient(
    loss: Callable,
    params: PyTree,
    batch: tuple[Array, ...],
    num_microbatches: int = 1,
    axes: tuple[int, ...] | None = None,
) -> tuple[PyTree, PyTree]:
    """Gradient of a loss over a batch and what else the loss finds, by micro-batches.

    loss: (params, *batch) -> (loss [], other results), both means over examples; then
        the means over micro-batches, which this gives, are those over the batch.
    batch: arrays with the examples along `axes`, by default along the first of each.

    One micro-batch after the other (gradient accumulation), in the memory of one: a
    loop on every platform, since XLA:CPU would run unrolled ones side by side. Raises
    ValueError where their number does not divide that of the examples.
    """
    gradient = jax.grad(loss, has_aux=True)
    if num_microbatches == 1:
        return gradient(params, *batch)
    axes = axes or (0,) * len(batch)
    parts = [microbatches(x, num_microbatches, axis) for x, axis in zip(batch, axes)]

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(params, *part)), None

    found = jax.eval_shape(gradient, params, *(part[0] for part in parts))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)
    total, _ = jax.lax.scan(add, zero, parts)
    return jax.tree.map(lambda leaf: leaf / num_microbatches, total)


def microbatches(x: Array, num: int, axis: int = 0) -> Array:
    """Micro-batch i has rows i, i + num, ...: [.., B, ..] -> [num, .., B / num, ..].

    So every device finds its share of each among the rows that it holds. Raises
    ValueError where `num` does not divide B.
    """
    size, rest = divmod(x.shape[axis], num)
    if rest:
        raise ValueError(
            f"num_microbatches={num} does not divide the batch of {x.shape[axis]} "
            "examples: change one of the two"
        )
    parts = x.reshape(*x.shape[:axis], size, num, *x.shape[axis + 1 :])
    return distributed.shard(jnp.moveaxis(parts, axis + 1, 0), axis + 1)


def two_players(spec: NamedTuple, key: Key, x: Array) -> TwoPlayers:
    """Fresh players of a game of two for data of the form of x [B, ...]."""
    key_energy, key_generator = jax.random.split(key)
    z = jnp.zeros((len(x), spec.latent_dim))
    generator = spec.generator.init(key_generator, z, train=False)
    state = TwoPlayers(
        energy=player(spec.energy.init(key_energy, x), spec.energy_optimizer),
        generator=player(generator, spec.generator_optimizer),
    )
    return state.replace(average=weights(state)) if spec.average_decay else state


def latents(spec: NamedTuple, key: Key, num: int) -> Array:
    """Draws of the Gaussian prior [num, k], split over devices at the global shape."""
    return distributed.shard(jax.random.normal(key, (num, spec.latent_dim)))


def energy_updates(
    update: Callable, spec: NamedTuple, key: Key, state: PyTree, x: Array
) -> tuple[PyTree, Metrics]:
    """An update of the energy for each batch of x [K, B, ...], one after the other.

    update: (spec, key, state, x [B, ...]) -> (state, metrics); the last ones count.
    Unrolled: convolutions inside a loop are slow on CPU.
    """
    for key_update, batch in zip(jax.random.split(key, len(x)), x):
        state, metrics = update(spec, key_update, state, batch)
    return state, metrics


def generated(
    spec: NamedTuple, generator: Player, params: PyTree, z: Array
) -> tuple[Array, Player]:
    """Training-mode samples, and the generator with its batch statistics moved on.

    As in the reference code every forward pass moves the statistics, those that only
    make negatives included.
    """
    x, variables = spec.generator.apply(
        {"params": params, **generator.variables},
        z,
        train=True,
        mutable=["batch_stats"],
    )
    return x, generator.replace(variables=generator.variables | variables)


def weights(state: PyTree) -> PyTree:
    """The weights that are averaged: those a trained model needs."""
    return {"energy": state.energy.params, "generator": state.generator.params}


def averaged(spec: NamedTuple, state: PyTree) -> PyTree:
    """The state with its averages moved on by one iteration, where it has them."""
    if state.average is None:
        return state
    rate = 1 - spec.average_decay
    return state.replace(
        average=optax.incremental_update(weights(state), state.average, rate)
    )


def norm(tree: PyTree) -> Array:
    """Euclidean norm of all leaves together: [].

    By scalar products, which XLA:CPU computes several times faster than the sums of
    `optax.tree.norm`.
    """
    dot = partial(jnp.vdot, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(sum(dot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def weight_norms(state: PyTree) -> Metrics:
    """Euclidean norm of all weights of each player."""
    return {
        f"{name}_weight_norm": norm(value.params)
        for name, value in vars(state).items()
        if isinstance(value, Player)
    }


def generate(spec: NamedTuple, state: PyTree, z: Array) -> Array:
    """Samples G(z) [B, ...] with running batch statistics: z [B, k]."""
    params = (state.average or weights(state))["generator"]
    return spec.generator.apply(
        {"params": params, **state.generator.variables}, z, train=False
    )


def sample(spec: NamedTuple, key: Key, state: PyTree, num: int) -> Array:
    """Samples of the generator [num, ...]."""
    return generate(spec, state, latents(spec, key, num))


def energy(spec: NamedTuple, state: PyTree, x: Array) -> Array:
    """E(x) of every example: [B, ...] -> [B]."""
    params = (state.average or weights(state))["energy"]
    return spec.energy.apply({"params": params}, x)
