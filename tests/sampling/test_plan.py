"""Calls, chunks and records of long walks, by hand and against means over all steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from megjax.samplers import kernel
from megjax.sampling import plan
from megjax.sampling.plan import Call, Plan, chunk_end


@pytest.mark.parametrize(
    "steps, thin",
    [(1, 1), (100, 1), (10_000, 1), (10_001, 2), (1_000_000, 100), (1_000_001, 101)],
)
def test_default_thinning_is_the_smallest_with_ten_thousand_records(steps, thin):
    assert plan.default_thin(steps) == thin
    assert -(-steps // thin) <= 10_000
    assert thin == 1 or -(-steps // (thin - 1)) > 10_000


def test_snapshots_lie_at_records():
    assert plan.plan(100, 1, num_snapshots=5).times == (0, 25, 50, 75, 100)
    assert plan.plan(3, 1, num_snapshots=21).times == (0, 1, 2, 3)
    assert plan.plan(100, 30, num_snapshots=5).times == (0, 30, 60, 100)
    assert plan.plan(0, 1, num_snapshots=21).times == (0,)


def calls(thin, begin, end, size):
    return list(plan.calls(Plan(9, 1000, thin, (0, 1000)), begin, end, size))


def test_calls_are_of_whole_windows_or_of_parts_of_one():
    assert calls(1, 0, 7, 3) == [(0, Call(3, 1)), (3, Call(3, 1)), (6, Call(1, 1))]
    assert calls(2, 0, 7, 5) == [(0, Call(4, 2)), (4, Call(2, 2)), (6, Call(1, 1))]
    assert calls(4, 0, 8, 3) == [
        *[(0, Call(3, 3)), (3, Call(1, 1))],
        *[(4, Call(3, 3)), (7, Call(1, 1))],
    ]
    # A burn-in that thin does not divide; then the calls are those without one.
    assert calls(4, -5, 0, 8) == [(-5, Call(1, 1)), (-4, Call(4, 4))]


@pytest.mark.parametrize("thin, size", [(1, 500), (7, 500), (100, 30), (600, 500)])
def test_calls_go_on_alike_from_wherever_they_stopped(thin, size):
    whole = calls(thin, 0, 1000, size)
    for begin, _ in whole:
        assert calls(thin, begin, 1000, size) == [c for c in whole if c[0] >= begin]


def test_chunks_end_at_snapshots_and_before_they_are_large():
    position = jnp.zeros((4, 8))
    plan = Plan(0, 10**6, 10, (0, 500_000, 10**6))
    assert chunk_end(plan, 0, position) == 10_000
    assert chunk_end(plan, 495_000, position) == 500_000
    # 128 bytes a draw: 2^18 draws are a chunk, more than 1000 records.
    draws = plan._replace(draws=True)
    assert chunk_end(draws, 0, position) == 10_000
    wide = jnp.zeros((2**10, 2**11))
    assert chunk_end(draws, 0, wide) == 4 * 10
    assert chunk_end(plan, 0, wide) == 10_000


def trajectory(steps, call):
    """What `kernel.chain` makes of two chains whose infos at step t are given below."""
    windows = [np.array_split(one, call.num_steps // call.thin) for one in infos(steps)]
    means = [np.float32([np.mean(w, axis=0) for w in one]).T for one in windows]
    ends = np.float32([part[-1] + 1 for part in np.array_split(steps, len(windows[0]))])
    observed = tuple(np.stack([ends, ends]) * scale for scale in (1, 2))
    return kernel.Trajectory(observed, kernel.Info(*means))


def infos(steps):
    """acceptance_rate, is_accepted, is_divergent of steps [T], [T, 2] each."""
    steps = np.asarray(steps)
    prob = np.stack([steps % 5 / 5, steps % 7 / 7], axis=1)
    return prob, prob > 0.5, np.stack([steps < 0, steps % 3 == 0], axis=1)


@pytest.mark.parametrize("thin, size", [(1, 4), (5, 12), (5, 3), (49, 100), (49, 8)])
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_records_are_those_of_all_steps(thin, size, stop):
    """Interrupted after `stop` calls, too; the last window is a short one."""
    times = Plan(3, 101, thin, (0, 101))
    record = plan.Record(times, -3)
    walked = [*plan.calls(times, -3, 0, size), *plan.calls(times, 0, 101, size)]
    for i, (begin, call) in enumerate(walked):
        if i == stop:
            record = plan.Record(times, record.end, record.arrays())
        record.add(call, trajectory(np.arange(begin, begin + call.num_steps), call))
    found = record.arrays()
    assert record.end == 101 and "open" not in found
    ends = [*range(thin, 101, thin), 101]
    np.testing.assert_array_equal(found["energy"], [ends, ends])
    np.testing.assert_array_equal(found["rms"], 2 * found["energy"])
    starts = [0, *ends[:-1]]
    for name, values in zip(kernel.Info._fields, infos(np.arange(101))):
        means = [np.mean(values[a:b], axis=0) for a, b in zip(starts, ends)]
        tolerance = 1e-6 if name == "acceptance_rate" else 0
        np.testing.assert_allclose(found[name], np.float32(means).T, tolerance)
        assert found[name].dtype == np.float32
    # Fractions of proposals are exact: none of them is 0, which warnings rely on.
    assert np.all(found["is_divergent"][0] == 0)


def test_a_mean_below_one_by_rounding_is_one():
    below = np.nextafter(np.float32(1), np.float32(0))
    ones = np.full((2, 1), below, np.float32)
    record = plan.Record(Plan(0, 49, 49, (0, 49)), 0)
    made = kernel.Trajectory((ones, ones), kernel.Info(ones, ones, ones))
    record.add(Call(49, 49), made)
    assert np.all(record.arrays()["is_accepted"] == 1)
