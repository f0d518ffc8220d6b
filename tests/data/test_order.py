import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from megjax import distributed
from megjax.data import order

KEY = jax.random.key(7)


def epoch(num_examples, shape, first=0, key=KEY):
    """All indices of the epoch that starts at step `first`."""
    num_steps = num_examples // int(np.prod(shape))
    batch = functools.partial(
        order.batch_indices, key, num_examples=num_examples, shape=shape
    )
    indices = jax.jit(jax.vmap(batch))(first + jnp.arange(num_steps))
    return np.asarray(indices).reshape(-1)


@pytest.mark.parametrize("num_examples", [1, 2, 13, 1797, 198_361])
def test_an_epoch_of_single_examples_is_a_permutation(num_examples):
    indices = epoch(num_examples, (1,), first=3 * num_examples)
    assert sorted(indices) == list(range(num_examples))


@pytest.mark.parametrize("shape", [(5, 64), (3, 7)])
def test_no_example_comes_twice_in_an_epoch(shape):
    indices = epoch(1797, shape)
    assert len(set(indices)) == len(indices) == 1797 // np.prod(shape) * np.prod(shape)
    assert indices.min() >= 0 and indices.max() < 1797


def test_epochs_keys_and_steps_differ():
    first, second = epoch(100, (10,)), epoch(100, (10,), first=10)
    other = epoch(100, (10,), key=jax.random.key(8))
    assert sorted(first) == sorted(second) == sorted(other)
    assert (first == second).sum() < 10 and (first == other).sum() < 10


def test_small_sets_are_walked_through_several_times_in_a_step():
    indices = order.batch_indices(KEY, 4, num_examples=10, shape=(5, 5))
    counts = np.bincount(np.asarray(indices).ravel(), minlength=10)
    assert indices.shape == (5, 5) and set(counts) == {2, 3}
    walks = np.asarray(indices).ravel()[:20].reshape(2, 10)
    assert sorted(walks[0]) == sorted(walks[1]) == list(range(10))
    assert (walks[0] != walks[1]).any()


def test_indices_by_plain_integers():
    """The cipher again, one example at a time, in Python's unbounded integers."""
    num_examples, step, size = 1797, 1_234_567, 12
    steps_per_epoch = num_examples // size
    bits = jax.random.bits(jax.random.fold_in(KEY, step // steps_per_epoch), (8,))
    a, b = order._sides(num_examples)

    def mixed(x, key):
        x = (x ^ key) * 0x9E3779B1 % 2**32
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16) ^ (key >> 7)

    def cipher(x):
        left, right = divmod(x, b)
        for even, odd in np.asarray(bits).reshape(4, 2).tolist():
            left = (left + mixed(right, even)) % a
            right = (right + mixed(left, odd)) % b
        return left * b + right

    expected = []
    for i in range(size):
        x = cipher(step % steps_per_epoch * size + i)
        while x >= num_examples:
            x = cipher(x)
        expected.append(x)
    indices = order.batch_indices(KEY, step, num_examples=num_examples, shape=(3, 4))
    assert indices.dtype == jnp.int32
    assert indices.reshape(-1).tolist() == expected


def test_sides_multiply_to_little_more_than_the_set():
    assert order._sides(60_000) == (250, 240)
    for num_examples in [*range(1, 500), 50_000, 202_599, 2**31 - 1]:
        a, b = order._sides(num_examples)
        assert 0 <= a * b - num_examples <= 8 and a * b < 2**32


@pytest.mark.parametrize("num_examples", [5, 6, 13])
def test_positions_and_pairs_are_uniform_over_keys(num_examples):
    keys = jax.random.split(jax.random.key(1), 20_000)
    walk = functools.partial(
        order.batch_indices, step=5, num_examples=num_examples, shape=(num_examples,)
    )
    x = np.asarray(jax.jit(jax.vmap(lambda key: walk(key)))(keys))
    for position in range(num_examples):
        counts = np.bincount(x[:, position], minlength=num_examples)
        assert stats.chisquare(counts).pvalue > 1e-5
    for first, second in [(0, 1), (0, num_examples - 1), (2, 4)]:
        pairs = np.bincount(
            x[:, first] * num_examples + x[:, second], minlength=num_examples**2
        )
        allowed = ~np.eye(num_examples, dtype=bool).reshape(-1)
        assert pairs[~allowed].sum() == 0
        assert stats.chisquare(pairs[allowed]).pvalue > 1e-5


def test_neighbours_of_a_large_set_are_independent():
    """Serial correlation of a whole epoch, within 4.5 standard errors of 0."""
    indices = epoch(60_000, (100,)).astype(float)
    for lag in (1, 2, 240, 250):
        correlation = np.corrcoef(indices[:-lag], indices[lag:])[0, 1]
        assert abs(correlation) < 4.5 / np.sqrt(60_000)


def test_endless_sets_count_up_and_wrap_round():
    indices = functools.partial(order.batch_indices, num_examples=None, shape=(2, 3))
    assert indices(KEY, 0).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert indices(KEY, 2).reshape(-1).tolist() == [12, 13, 14, 15, 16, 17]
    last = 2**31 // 6
    wrapped = indices(KEY, last).reshape(-1).tolist()
    assert wrapped[:2] == [2**31 - 2, 2**31 - 1] and wrapped[2] == -(2**31)


def test_one_trace_serves_all_steps_and_late_steps_do_not_overflow():
    traces = []

    @jax.jit
    def batch(step):
        traces.append(step)
        return order.batch_indices(KEY, step, num_examples=60_000, shape=(5, 256))

    for step in (0, 45, 46, 10_000_000, 2**31 - 1):
        indices = np.asarray(batch(step))
        assert len(np.unique(indices)) == 5 * 256
        assert indices.min() >= 0 and indices.max() < 60_000
    assert len(traces) == 1


def test_devices_agree():
    def batch(step):
        indices = order.batch_indices(KEY, step, num_examples=1000, shape=(2, 64))
        return distributed.shard(indices, axis=1)

    with jax.set_mesh(distributed.data_mesh(jax.devices())):
        sharded = jax.jit(batch)(9)
    np.testing.assert_array_equal(sharded, batch(9))
