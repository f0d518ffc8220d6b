"""Batch order as a pure function of (key, step): a keyed bijection visits every epoch.

Generalised Feistel cipher on Z_a x Z_b with cycle walking: Black and Rogaway, Ciphers
with Arbitrary Finite Domains (CT-RSA 2002).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from megjax.types import Array, Key

_SMALL = 256


def batch_indices(
    key: Key, step: Array | int, *, num_examples: int | None, shape: tuple[int, ...]
) -> Array:
    """The examples of one training step, int32 `shape`, usually (K, B).

    Every epoch is a fresh permutation of [0, num_examples) of which the last, partial
    step is dropped: no example comes twice in an epoch. A set smaller than a step is
    walked through several times within it. O(1) per index; nothing is stored or sorted.

    key: fixes the order of all epochs; the same at every step.
    step: int32, may be traced.
    num_examples: up to 2^31 - 1. None for endless sets: indices then count up from
        0, through the negative numbers after 2^31 examples, and repeat after 2^32.
    """
    size = math.prod(shape)
    step = jnp.asarray(step, jnp.int32)
    offsets = jnp.arange(size, dtype=jnp.int32)
    if num_examples is None:
        return (step * size + offsets).reshape(shape)
    if num_examples >= size:
        steps_per_epoch = num_examples // size
        epochs = (step // steps_per_epoch)[None]
        positions = step % steps_per_epoch * size + offsets
        indices = _permuted(key, epochs, positions[None], num_examples=num_examples)
    else:
        walks = -(-size // num_examples)
        epochs = step * walks + jnp.arange(walks, dtype=jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(num_examples), (walks, num_examples))
        indices = _permuted(key, epochs, positions, num_examples=num_examples)
    # Fused into a reduction over the batch, XLA:CPU of jax 0.12 writes this out once for
    # every use of every value in it, and never comes to an end.
    indices = jax.lax.optimization_barrier(indices)
    return indices.reshape(-1)[:size].reshape(shape)


def _permuted(key: Key, epochs: Array, positions: Array, *, num_examples: int) -> Array:
    """Row e of `positions` [E, P] through the permutation of epoch `epochs[e]`."""
    sides = _sides(num_examples)
    # Small sides mix slowly: with 8 rounds pairs of 5 examples are off by 10 %.
    num_rounds = 16 if num_examples < _SMALL else 8
    round_keys = jax.vmap(
        lambda epoch: jax.random.bits(jax.random.fold_in(key, epoch), (num_rounds,))
    )(epochs)
    cipher = jax.vmap(functools.partial(_feistel, sides=sides))
    x = cipher(round_keys, positions.astype(jnp.uint32))
    # A cycle holds at most a * b - N outsiders, so this many steps bring all back in.
    for _ in range(sides[0] * sides[1] - num_examples):
        x = jnp.where(x < num_examples, x, cipher(round_keys, x))
    return x.astype(jnp.int32)


def _feistel(round_keys: Array, x: Array, *, sides: tuple[int, int]) -> Array:
    """A permutation of [0, a * b): x = left * b + right, one side moved per round."""
    a, b = (np.uint32(side) for side in sides)
    left, right = x // b, x % b
    for i in range(0, len(round_keys), 2):
        left = (left + _hash(right, round_keys[i]) % a) % a
        right = (right + _hash(left, round_keys[i + 1]) % b) % b
    return left * b + right


def _hash(x: Array, key: Array) -> Array:
    """32 well mixed bits of (x, key): the finaliser of MurmurHash3, keyed twice."""
    x = (x ^ key) * np.uint32(0x9E3779B1)
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16) ^ (key >> 7)


@functools.lru_cache
def _sides(num_examples: int) -> tuple[int, int]:
    """(a, b), both near sqrt(N), whose product exceeds N by as little as possible."""
    root = math.isqrt(num_examples - 1) + 1
    a = np.arange(root, max(root + 1, min(2 * root, num_examples // 2 + 1)))
    b = -(-num_examples // a)
    best = np.argmin(a * b - num_examples)
    return int(a[best]), int(b[best])
