"""Comparisons of trees of float64 arrays."""

import functools

import chex
import jax.numpy as jnp
import optax

close = functools.partial(chex.assert_trees_all_close, rtol=1e-9, atol=1e-12)


def furthest(a, b):
    """Largest difference between numbers of two trees."""
    return optax.tree.norm(optax.tree.sub(a, b), ord=jnp.inf)
