"""The order of stages, what passes between them, and resuming in the middle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.learners import stages
from megjax.learners.base import Learner


def adder(amount):
    """A learner whose state sums its batches and counts by `amount`."""

    def step(key, state, x):
        return state + amount * jnp.sum(x), {"sum": jnp.sum(x)}

    return Learner(
        init=lambda key, x: jnp.zeros(()),
        step=step,
        sample=lambda key, state, num: jnp.full(num, state),
        energy=lambda state, x: x - state,
    )


LEARNER = stages.stages(
    [
        stages.Stage(adder(1.0), 3),
        stages.Stage(adder(10.0), 2, data=lambda key, states, x: x + states[0]),
        stages.Stage(
            adder(100.0), 9, enter=lambda key, states, own: states[0] + states[1]
        ),
    ]
)


def test_by_hand():
    state = LEARNER.init(jax.random.key(0), jnp.zeros((1,)))
    x, seen = jnp.ones((1, 1)), []
    step = jax.jit(LEARNER.step)
    for _ in range(7):
        state, found = step(jax.random.key(1), state, x)
        seen.append((float(found["stage"]), *map(float, state.states)))
    assert seen == [
        (0, 1, 0, 0),
        (0, 2, 0, 0),
        (0, 3, 0, 0),
        # Data of the second stage: 1 + 3.
        (1, 3, 40, 0),
        (1, 3, 80, 0),
        (2, 3, 80, 183),
        (2, 3, 80, 283),
    ]
    assert LEARNER.sample(jax.random.key(0), state, 2).tolist() == [283, 283]
    assert LEARNER.energy(state, jnp.ones(1)).tolist() == [-282]


def test_stages_must_take_equal_numbers_of_batches():
    other = adder(1.0)._replace(num_batches=2)
    with pytest.raises(ValueError, match="different numbers of batches"):
        stages.stages([stages.Stage(adder(1.0), 3), stages.Stage(other, 3)])
    assert np.isfinite(LEARNER.num_batches)
