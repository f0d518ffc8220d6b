"""Methods one after the other in one run, each starting from what the last one found.

Hinton, Osindero and Teh 2006: layers trained greedily, then together.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from megjax.learners.base import Learner
from megjax.types import Array, Key, Metrics, PyTree


class Stage(NamedTuple):
    """A learner and when it is its turn.

    num_steps: of this stage; the last stage goes on for as long as training does.
    enter: (key, states of all stages, own fresh state) -> own state at its first step.
    data: (key, states of all stages, x [K, B, ...]) -> its batches.
    """

    learner: Learner
    num_steps: int
    enter: Callable[[Key, tuple, PyTree], PyTree] = lambda key, states, own: own
    data: Callable[[Key, tuple, Array], Array] = lambda key, states, x: x


@struct.dataclass
class State:
    """count: steps so far []; states: of every stage."""

    count: Array
    states: Any


def stages(stages: Sequence[Stage]) -> Learner:
    """The learner of consecutive stages; it samples, and has energies, by the last.

    All must take as many batches and have the same metrics, to which it adds the
    number of the stage. Before the last stage begins, `sample` and `energy` are those
    of a learner that knows nothing. Raises ValueError where the numbers of batches
    differ.
    """
    stages = tuple(stages)
    last = stages[-1].learner
    if len({stage.learner.num_batches for stage in stages}) > 1:
        raise ValueError("stages take different numbers of batches: give them the same")
    return Learner(
        init=partial(init, stages),
        step=partial(step, stages),
        sample=lambda key, state, num: last.sample(key, state.states[-1], num),
        energy=lambda state, x: last.energy(state.states[-1], x),
        num_batches=last.num_batches,
    )


def init(stages: Sequence[Stage], key: Key, x: Array) -> State:
    """Fresh states of all stages for data of the form of x [B, ...]."""
    states = ()
    for i, stage in enumerate(stages):
        key_data, key_init = jax.random.split(jax.random.fold_in(key, i))
        own = stage.data(key_data, states, x[None])[0]
        states = (*states, stage.learner.init(key_init, own))
    return State(jnp.zeros([], jnp.int32), states)


def step(
    stages: Sequence[Stage], key: Key, state: State, x: Array
) -> tuple[State, Metrics]:
    """One step of the stage whose turn it is: x [K, B, ...]."""
    ends = jnp.asarray(np.cumsum([stage.num_steps for stage in stages[:-1]]), jnp.int32)
    index = jnp.sum(state.count >= ends)
    branches = [
        partial(_one, stage, i, _first(ends, i)) for i, stage in enumerate(stages)
    ]
    states, found = jax.lax.switch(index, branches, key, state, x)
    found |= {"stage": index.astype(jnp.float32)}
    return State(state.count + 1, states), found


def _first(ends: Array, index: int) -> Array | int:
    return ends[index - 1] if index else 0


def _one(stage, index, first, key, state, x):
    key_enter, key_data, key_step = jax.random.split(key, 3)
    own = jax.lax.cond(
        state.count == first,
        lambda: stage.enter(key_enter, state.states, state.states[index]),
        lambda: state.states[index],
    )
    x = stage.data(key_data, state.states, x)
    own, found = stage.learner.step(key_step, own, x)
    return (*state.states[:index], own, *state.states[index + 1 :]), found
