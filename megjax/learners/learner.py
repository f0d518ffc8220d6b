"""What every training method offers, and the one way a player is updated."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from flax import struct

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

    The last two are None for methods without a generator.
    """

    init: Callable[..., PyTree]
    step: Callable[..., tuple[PyTree, dict[str, Array]]]
    sample: Callable[..., Array]
    energy: Callable[..., Array]
    num_batches: int = 1
    latents: Callable[..., Array] | None = None
    generate: Callable[..., Array] | None = None


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


def updated(
    player: Player, gradients: PyTree, optimizer: optax.GradientTransformation
) -> Player:
    """The player after one optimizer step along `gradients`."""
    updates, state = optimizer.update(gradients, player.optimizer, player.params)
    return player.replace(
        params=optax.apply_updates(player.params, updates), optimizer=state
    )
