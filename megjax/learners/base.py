"""What every training method offers, and the steps of any player."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from megjax import distributed
from megjax.samplers import bijectors
from megjax.samplers.bijectors import Bijector
from megjax.types import Array, PyTree


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

    log_partition: state -> log Z in nats of exp(-E), where it can be had exactly or is
        learned with the energy
    log_ratio: (state, x [B, ...]) -> log p_data - log p_G [B], where it was fitted
    finish: (key, state, data) -> (state, metrics), what ends training; on the host

    The last seven are None for methods without a generator, without a proposal, where
    chains move in x itself, where log Z is not known, and without a density ratio.

    Names of metrics have a meaning for the training loop: it stops where any metric is
    not finite, and where one called energy_... (but not energy_..._norm) grows beyond
    the largest energy that the run allows. So call means of energies energy_..., and
    nothing else. A terminal shows a few names (`training.metric_writer`); all are
    written.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.learners import meg
    >>> from megjax.networks import heads, mlp
    >>> spec = meg.Spec(
    ...     energy=heads.Energy(mlp.Trunk((8,))),
    ...     generator=mlp.Generator((8,), output_dim=2),
    ...     statistics=mlp.Statistics((8, 8)),
    ...     latent_dim=2,
    ...     num_energy_updates=1,
    ... )
    >>> learner, x, key = meg.meg(spec), jnp.ones((1, 4, 2)), jax.random.key(0)
    >>> state = jax.jit(learner.init)(key, x[0])
    >>> state, metrics = jax.eval_shape(learner.step, key, state, x)  # or jax.jit
    >>> "energy_gap" in metrics
    True
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
    log_partition: Callable[..., Array] | None = None
    log_ratio: Callable[..., Array] | None = None
    finish: Callable | None = None


def of_inner(learner: Learner) -> Learner:
    """The learner for states that hold its own as `.inner`; `init`, `step` excepted."""

    def inner(function, position):
        if function is None:
            return None

        def call(*args, **named):
            args = list(args)
            args[position] = args[position].inner
            return function(*args, **named)

        return call

    return learner._replace(
        sample=inner(learner.sample, 1),
        energy=inner(learner.energy, 0),
        generate=inner(learner.generate, 0),
        kernel=inner(learner.kernel, 0),
        log_partition=inner(learner.log_partition, 0),
        log_ratio=inner(learner.log_ratio, 0),
    )


def in_units(learner: Learner, mean: Array, scale: Array) -> Learner:
    """The learner of standardised vectors, for vectors x = mean + scale u as they are.

    mean, scale: [D]. `init`, `step` and `finish` stay those of training on u. exp(-E)
    is then a density of x up to a constant, as before; a `log_partition` is corrected.
    """
    mean, scale = jnp.asarray(mean, jnp.float32), jnp.asarray(scale, jnp.float32)

    def taking(function):
        return function and (lambda state, x: function(state, (x - mean) / scale))

    def giving(function):
        return function and (lambda *args: mean + scale * function(*args))

    def log_partition(state):
        return learner.log_partition(state) + jnp.sum(jnp.log(scale))

    return learner._replace(
        sample=giving(learner.sample),
        energy=taking(learner.energy),
        generate=giving(learner.generate),
        bijector=bijectors.affine(mean, scale),
        log_partition=learner.log_partition and log_partition,
        log_ratio=taking(learner.log_ratio),
    )


@struct.dataclass
class Player:
    """One network in training; data only.

    params: trainable parameters.
    variables: other collections, such as batch statistics.
    optimizer: state of the optimizer.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from megjax.learners.base import player
    >>> from megjax.networks import mlp
    >>> variables = mlp.Trunk((4,)).init(jax.random.key(0), jnp.ones((1, 2)))
    >>> sorted(vars(player(variables, optax.sgd(0.1))))
    ['optimizer', 'params', 'variables']
    """

    params: PyTree
    variables: PyTree
    optimizer: Any


def player(variables: PyTree, optimizer: optax.GradientTransformation) -> Player:
    """The player that owns freshly initialised network variables."""
    params = variables["params"]
    rest = {name: v for name, v in variables.items() if name != "params"}
    return Player(params, rest, optimizer.init(params))


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


def norm(tree: PyTree) -> Array:
    """Euclidean norm of all leaves together: [].

    By scalar products, which XLA:CPU computes several times faster than the sums of
    `optax.tree.norm`.
    """
    dot = partial(jnp.vdot, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(sum(dot(leaf, leaf) for leaf in jax.tree.leaves(tree)))
