"""A learner rests at the first check above the limit, and stays as it was."""

import jax
import jax.numpy as jnp
import pytest

from megjax.learners import stopping
from megjax.learners.base import Learner

COUNTER = Learner(
    init=lambda key, x: jnp.zeros(()),
    step=lambda key, state, x: (state + 1, {"doubled": 2 * (state + 1)}),
    sample=lambda key, state, num: jnp.full(num, state),
    energy=lambda state, x: x - state,
)


def test_by_hand():
    learner = stopping.stopped_early(COUNTER, lambda s: s / 10, limit=0.35, every=2)
    state = learner.init(jax.random.key(0), jnp.zeros((1,)))
    step, seen = jax.jit(learner.step), []
    for _ in range(8):
        state, found = step(jax.random.key(0), state, jnp.ones((1, 1)))
        seen.append((int(found["stopped"]), int(state.inner), int(found["doubled"])))
    # The gap is seen before steps 0, 2, 4: 0, 0.2, and 0.4, which is too much.
    assert seen == [(0, n, 2 * n) for n in (1, 2, 3, 4)] + [(1, 4, 8)] * 4
    assert abs(float(found["validation_gap"]) - 0.4) < 1e-6
    assert learner.sample(jax.random.key(0), state, 2).tolist() == [4, 4]
    assert learner.energy(state, jnp.ones(1)).tolist() == [-3]


def test_never_without_a_gap_and_checks_must_come():
    learner = stopping.stopped_early(COUNTER, lambda s: s * 0, limit=0.0, every=1)
    state = learner.init(jax.random.key(0), jnp.zeros((1,)))
    for _ in range(3):
        state, _ = learner.step(jax.random.key(0), state, jnp.ones((1, 1)))
    assert state.inner == 3
    with pytest.raises(ValueError, match="every=0"):
        stopping.stopped_early(COUNTER, lambda s: s, limit=0.0, every=0)
