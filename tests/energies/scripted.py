"""Transition matrices of sweeps, from the very code that draws.

A scripted kind of unit does not draw: it returns the state it is told to and notes how
probable that was under the field it was given.
"""

import jax
import jax.numpy as jnp
import numpy as np


def scripted(kind, script, log_probs):
    """`kind` that plays the states in `script`, one per call."""
    script = iter(script)

    def sample(key, t, inverse_temperature):
        x = next(script)
        # What p(x) is for the field beta t: the measure of copies is not scaled.
        scaled = jnp.asarray(inverse_temperature)[..., None] * t
        log_prob = jnp.sum(scaled * x, -1) - kind.reference(x) - kind.cumulant(scaled)
        log_probs.append(log_prob)
        return x

    return kind._replace(sample=sample)


def transition_matrix(sweep_fn, states, plan, *, loops=False):
    """[S, S], from row to column, of a sweep over layers.

    sweep_fn: (kinds, chain) -> chain, with one kind per entry of `plan`.
    states: a tuple of layers [S, n]. plan: for every kind (kind, layer, columns of
    each of its calls in order). loops: whether the sweep draws inside a compiled loop,
    which is then run step by step.
    """
    num = len(states[0])
    before = tuple(np.repeat(layer, num, 0) for layer in states)
    after = tuple(np.tile(layer, (num, 1)) for layer in states)

    def run(before, after):
        log_probs = []
        kinds = [
            scripted(kind, [after[layer][:, c] for c in calls], log_probs)
            for kind, layer, calls in plan
        ]
        return sweep_fn(kinds, before), sum(log_probs)

    if loops:
        with jax.disable_jit():
            reached, log_probs = run(*jax.tree.map(jnp.asarray, (before, after)))
    else:
        reached, log_probs = jax.jit(run)(before, after)
    for got, wanted in zip(reached, after, strict=True):
        np.testing.assert_array_equal(got, wanted)
    return np.exp(log_probs).reshape(num, num)


def check_invariance(matrix, energies, inverse_temperature=1.0):
    """Rows of a transition matrix sum to 1, and it keeps exp(-beta E) / Z."""
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    weights = np.exp(-inverse_temperature * np.asarray(energies))
    probs = weights / weights.sum()
    np.testing.assert_allclose(probs @ matrix, probs, atol=1e-12)


def frequencies(x, states):
    """How often each of `states` [S, n] occurs among x [N, n]."""
    x, states = np.asarray(x), np.asarray(states)
    code = np.sqrt(np.arange(2, 2 + states.shape[1]))
    order = np.argsort(states @ code)
    ranks = np.searchsorted((states @ code)[order] + 1e-6, x @ code)
    index = order[np.minimum(ranks, len(states) - 1)]
    np.testing.assert_array_equal(states[index], x)
    return np.bincount(index, minlength=len(states)) / len(x)


def check_frequencies(x, states, probs, *, sigmas=5):
    """Frequencies lie within so many standard errors of `probs` [S]."""
    probs = np.asarray(probs)
    error = np.sqrt(probs * (1 - probs) / len(x)) + 1e-9
    worst = np.max(np.abs(frequencies(x, states) - probs) / error)
    assert worst < sigmas, worst
