"""What methods with an energy and a generator share: MEG, WGAN-GP, deep directed.

The functions take the method's specification (`energy` and `generator`, their
optimizers, `latent_dim`, `num_energy_updates`, `average_decay`) and state (players
`energy` and `generator`, `average`).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from megjax import distributed
from megjax.learners.base import Learner, Player, norm, player
from megjax.types import Array, Key, Metrics, PyTree


@struct.dataclass
class TwoPlayers:
    """The state of two players; `average`: None, or their averaged weights."""

    energy: Player
    generator: Player
    average: PyTree = None


def assembled(
    spec: NamedTuple,
    *,
    energy_update: Callable,
    generator_update: Callable,
    generator_first: bool = False,
    **changes: Callable,
) -> Learner:
    """The learner of a specification, from this file's functions but for `changes`.

    The rest as of `step`.
    """
    shared = {
        "init": two_players,
        "step": partial(
            step,
            energy_update=energy_update,
            generator_update=generator_update,
            generator_first=generator_first,
        ),
        "sample": sample,
        "energy": energy,
        "latents": latents,
        "generate": generate,
    }
    bound = {name: partial(f, spec) for name, f in (shared | changes).items()}
    return Learner(**bound, num_batches=spec.num_energy_updates)


def two_players(spec: NamedTuple, key: Key, x: Array) -> TwoPlayers:
    """Two fresh players for data of the form of x [B, ...]."""
    key_energy, key_generator = jax.random.split(key)
    z = jnp.zeros((len(x), spec.latent_dim))
    generator = spec.generator.init(key_generator, z, train=False)
    return with_average(
        spec,
        TwoPlayers(
            energy=player(spec.energy.init(key_energy, x), spec.energy_optimizer),
            generator=player(generator, spec.generator_optimizer),
        ),
    )


def with_average(spec: NamedTuple, state: PyTree) -> PyTree:
    """The fresh state, with averages where the specification asks for them."""
    if not spec.average_decay:
        return state
    return state.replace(average=weights(state) | {"count": jnp.zeros([], jnp.int32)})


def latents(spec: NamedTuple, key: Key, num: int) -> Array:
    """Draws of the Gaussian prior [num, k], split over devices at the global shape."""
    return distributed.shard(jax.random.normal(key, (num, spec.latent_dim)))


def step(
    spec: NamedTuple,
    key: Key,
    state: PyTree,
    x: Array,
    *,
    energy_update: Callable,
    generator_update: Callable,
    generator_first: bool = False,
) -> tuple[PyTree, Metrics]:
    """One iteration, an update of the energy for each batch of x [K, B, ...].

    energy_update: (spec, key, state, x [B, ...]) -> (state, metrics).
    generator_update: (spec, key, state, num) -> (state, metrics).
    """
    key_energy, key_generator = jax.random.split(key)
    metrics = {}
    if generator_first:
        state, metrics = generator_update(spec, key_generator, state, x.shape[1])
    state, found = energy_updates(energy_update, spec, key_energy, state, x)
    if not generator_first:
        state, metrics = generator_update(spec, key_generator, state, x.shape[1])
    state = averaged(spec, state)
    return state, found | metrics | weight_norms(state)


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
    """What a trained model needs, and what is averaged.

    "energy": its parameters. "generator": all its variables, since the batch statistics
    of one set of weights are wrong for another.
    """
    generator = {"params": state.generator.params, **state.generator.variables}
    return {"energy": state.energy.params, "generator": generator}


def averaged(spec: NamedTuple, state: PyTree) -> PyTree:
    """The state with its averages moved on by one iteration, where it has them.

    The decay rises to the specification's from 0 as t / (t + 10), so that averages
    forget the initial weights however few iterations there are.
    """
    if state.average is None:
        return state
    average = dict(state.average)
    count = average.pop("count")
    rate = jnp.maximum(1 - spec.average_decay, 10 / (count + 10))
    average = optax.incremental_update(weights(state), average, rate)
    return state.replace(average=average | {"count": count + 1})


def weight_norms(state: PyTree) -> Metrics:
    """Euclidean norm of all weights of each player."""
    return {
        f"{name}_weight_norm": norm(value.params)
        for name, value in vars(state).items()
        if isinstance(value, Player)
    }


def generate(spec: NamedTuple, state: PyTree, z: Array) -> Array:
    """Samples G(z) [B, ...] with running batch statistics: z [B, k]."""
    variables = (state.average or weights(state))["generator"]
    return spec.generator.apply(variables, z, train=False)


def sample(spec: NamedTuple, key: Key, state: PyTree, num: int) -> Array:
    """Samples of the generator [num, ...]."""
    return generate(spec, state, latents(spec, key, num))


def relative_variance(fake: Array, x: Array) -> Array:
    """Variance of samples over their batch as a share of that of data: [B, ...] -> [].

    Summed over elements. Near 0 the generator has collapsed: its samples no longer
    depend on z. The training loop warns of that under the name `sample_variance`.
    """
    variance = partial(jnp.var, axis=0)
    return jnp.sum(variance(fake)) / (jnp.sum(variance(x)) + 1e-12)


def energy(spec: NamedTuple, state: PyTree, x: Array) -> Array:
    """E(x) of every example: [B, ...] -> [B]."""
    return spec.energy.apply({"params": energy_params(state)}, x)


def energy_params(state: PyTree) -> PyTree:
    """The parameters of the energy, averaged where the state has averages."""
    return (state.average or weights(state))["energy"]
