"""Random bits for many short draws: Threefry written out where it is used.

Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3; the hash behind
`jax.random`'s default keys. On CPUs `jax.random` hashes in a loop of its own, which
costs a step of a small Markov chain more than the density; written out, the hash fuses
with what uses it, and both words of a hash are used where `jax.random` keeps one.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from megjax.types import Array, Key

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def checked(key: Any) -> Key:
    """One typed key, also of those that `jax.random.PRNGKey` makes; else ValueError."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(
        key.dtype, jax.dtypes.prng_key
    )
    if getattr(key, "dtype", None) == np.uint32 and np.shape(key) == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    if not typed or key.shape:
        words = " ".join(str(key).split())
        raise ValueError(f"key={words:.60}: give jax.random.key(seed).")
    return key


def fold_in(key: Key, index: Array) -> Key:
    """`jax.random.fold_in` for index [] >= 0, in the same bits."""
    if not _is_threefry(key):
        return jax.random.fold_in(key, index)
    words = jax.random.key_data(key)
    first, second = hashed(words[0], words[1], jnp.uint32(0), jnp.uint32(index))
    return jax.random.wrap_key_data(jnp.stack([first, second]), impl=_impl(key))


def uniform(key: Key, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Uniform on [0, 1), of a shape with at least one axis.

    Not the numbers of `jax.random.uniform`, except in other types than float32.
    """
    if dtype != jnp.float32:
        return jax.random.uniform(key, shape, dtype)
    # Random mantissas of numbers in [1, 2).
    words = (bits(key, shape) >> np.uint32(9)) | np.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(words, jnp.float32) - 1


def bits(key: Key, shape: tuple[int, ...]) -> Array:
    """Random words uint32, of a shape with at least one axis.

    Not those of `jax.random.bits`, except for keys of other generators. Along the last
    axis come the first words of all hashes, then the second ones.
    """
    if not _is_threefry(key):
        return jax.random.bits(key, shape, jnp.uint32)
    words = jax.random.key_data(key)
    half = (*shape[:-1], (shape[-1] + 1) // 2)
    counts = jax.lax.iota(jnp.uint32, 2 * math.prod(half)).reshape(2, *half)
    pair = hashed(words[0], words[1], *counts)
    return jnp.concatenate(pair, -1)[..., : shape[-1]]


def hashed(
    key_0: Array, key_1: Array, count_0: Array, count_1: Array
) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds, of uint32 arrays that broadcast."""
    schedule = (key_0, key_1, key_0 ^ key_1 ^ PARITY)
    x, y = count_0 + schedule[0], count_1 + schedule[1]
    for i in range(5):
        for rotation in ROTATIONS[i % 2]:
            x = x + y
            y = (y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))
            y = x ^ y
        x = x + schedule[(i + 1) % 3]
        y = y + schedule[(i + 2) % 3] + np.uint32(i + 1)
    return x, y


def _impl(key):
    return str(jax.random.key_impl(key))


def _is_threefry(key) -> bool:
    return _impl(key) == "threefry2x32"
