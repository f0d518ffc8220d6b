import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from megjax.samplers import threefry


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
    assert tuple(int(word) for word in threefry.hashed(*words)) == expected


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_fold_in_is_that_of_jax(impl):
    key = jax.random.key(7, impl=impl)
    for index in (0, 1, 123456, 2**31 - 1):
        ours = jax.jit(threefry.fold_in)(key, index)
        theirs = jax.random.fold_in(key, index)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(
            jax.random.key_data(ours), jax.random.key_data(theirs)
        )


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("num", [1, 2, 5])
def test_bits_are_distinct_words(impl, num):
    keys = jax.random.split(jax.random.key(0, impl=impl), 1000)
    words = np.asarray(jax.vmap(lambda key: threefry.bits(key, num))(keys))
    assert words.shape == (1000, num) and words.dtype == np.uint32
    assert len(np.unique(words)) > 1000 * num - 5
    assert stats.kstest(words.ravel() / 2.0**32, "uniform").pvalue > 1e-3


def test_words_of_one_key_are_those_of_a_hash_of_counts():
    key = jax.random.key(3)
    first, second = threefry.hashed(
        *jax.random.key_data(key), jnp.uint32([0, 1]), jnp.uint32([2, 3])
    )
    expected = np.concatenate([first, second])[:3]
    np.testing.assert_array_equal(threefry.bits(key, 3), expected)
