"""Early stopping as part of a learner, so that the loop and its checkpoints carry it.

Hinton 2012, "A practical guide to training restricted Boltzmann machines", section 6:
a free energy that is lower for training data than for held-out data means overfitting.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from megjax import checks
from megjax.learners import base
from megjax.learners.base import Learner
from megjax.types import Array, Key, Metrics, PyTree


@struct.dataclass
class State:
    """inner: of the learner. count: steps so far []. gap: last measured [].

    stopped: whether the learner rests []. found: metrics of its last step.
    """

    inner: PyTree
    count: Array
    gap: Array
    stopped: Array
    found: Metrics


def stopped_early(
    learner: Learner, gap_fn: Callable[[PyTree], Array], *, limit: float, every: int
) -> Learner:
    """A learner that rests once gap_fn(state) exceeds the limit, measured every so often.

    Steps after that leave everything as it is, and cost nothing. Adds the metrics
    `validation_gap` and `stopped`. Raises ValueError where every < 1.
    """
    checks.whole("early_stopping.every", every, 1)
    return base.of_inner(learner)._replace(
        init=partial(init, learner),
        step=partial(step, learner, gap_fn, limit, every),
    )


def init(learner: Learner, key: Key, x: Array) -> State:
    """A fresh state for data of the form of x [B, ...]."""
    inner = learner.init(key, x)
    batches = jnp.broadcast_to(x, (learner.num_batches, *x.shape))
    found = jax.eval_shape(learner.step, key, inner, batches)[1]
    found = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), found)
    zero = jnp.zeros([], jnp.int32)
    return State(inner, zero, jnp.zeros([]), jnp.zeros([], bool), found)


def step(
    learner: Learner,
    gap_fn: Callable[[PyTree], Array],
    limit: float,
    every: int,
    key: Key,
    state: State,
    x: Array,
) -> tuple[State, Metrics]:
    """One step, unless it is time to rest: x [K, B, ...]."""
    due = (state.count % every == 0) & ~state.stopped
    gap = jax.lax.cond(due, lambda: gap_fn(state.inner), lambda: state.gap)
    stopped = state.stopped | (gap > limit)
    inner, found = jax.lax.cond(
        stopped,
        lambda: (state.inner, state.found),
        lambda: learner.step(key, state.inner, x),
    )
    after = State(inner, state.count + 1, gap, stopped, found)
    return after, found | {
        "validation_gap": gap,
        "stopped": stopped.astype(gap.dtype),
    }
