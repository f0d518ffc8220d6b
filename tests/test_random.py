import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from megjax import random


@pytest.mark.parametrize(
    "key, count, expected",
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        (
            (0x13198A2E, 0x03707344),
            (0x243F6A88, 0x85A308D3),
            (0xC4923A9C, 0x483DF7A0),
        ),
    ],
)
def test_known_answers_of_random123(key, count, expected):
    words = (jnp.uint32(word) for word in (*key, *count))
    assert tuple(int(word) for word in random.hashed(*words)) == expected


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_fold_in_is_that_of_jax(impl):
    key = jax.random.key(7, impl=impl)
    for index in (0, 1, 123456, 2**31 - 1):
        ours = jax.jit(random.fold_in)(key, index)
        theirs = jax.random.fold_in(key, index)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(
            jax.random.key_data(ours), jax.random.key_data(theirs)
        )


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (3, 4), (1, 2, 3)])
def test_bits_are_distinct_words(impl, shape):
    keys = jax.random.split(jax.random.key(0, impl=impl), 1000)
    words = np.asarray(jax.vmap(lambda key: random.bits(key, shape))(keys))
    assert words.shape == (1000, *shape) and words.dtype == np.uint32
    assert len(np.unique(words)) > words.size - 5
    assert stats.kstest(words.ravel() / 2.0**32, "uniform").pvalue > 1e-3


def test_words_of_one_key_are_those_of_a_hash_of_counts():
    key = jax.random.key(3)
    first, second = random.hashed(
        *jax.random.key_data(key), jnp.uint32([0, 1]), jnp.uint32([2, 3])
    )
    expected = np.concatenate([first, second])[:3]
    np.testing.assert_array_equal(random.bits(key, (3,)), expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_uniforms_have_the_moments_of_the_unit_interval(dtype):
    u = random.uniform(jax.random.key(5), (100, 999), dtype)
    assert u.shape == (100, 999) and u.dtype == dtype
    assert 0 <= u.min() and u.max() < 1
    u = np.asarray(u, np.float64)
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    # Neighbours along either axis, and the halves of a row, know nothing of each other.
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u[:, :499], u[:, 500:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_uniforms_take_their_bits_from_the_top():
    key = jax.random.key(2)
    words = np.asarray(random.bits(key, (2, 3)))
    np.testing.assert_array_equal(random.uniform(key, (2, 3)), (words >> 9) / 2.0**23)
