"""Calls, chunks and records of long walks, by hand and against means over all steps."""

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
    plan = Plan(0, 10**6, 10, (0, 500_000, 10**6))
    # 128 bytes a record: 2^18 are a chunk, more than 1000.
    assert chunk_end(plan, 0, 128) == 10_000
    assert chunk_end(plan, 495_000, 128) == 500_000
    assert chunk_end(plan, 0, 2**23) == 4 * 10
    assert chunk_end(plan, 0, 2**30) == 10


def trajectory(steps, call):
    """What a call makes of two chains whose infos at step t are given below."""
    windows = {
        name: np.array_split(one, call.num_steps // call.thin)
        for name, one in infos(steps).items()
    }
    reduced = {
        name: np.array([_reduced(w) for w in one]).T for name, one in windows.items()
    }
    num = call.num_steps // call.thin
    ends = np.float32([part[-1] + 1 for part in np.array_split(steps, num)])
    observed = {"energy": np.stack([ends, ends]), "rms": 2 * np.stack([ends, ends])}
    return kernel.Trajectory(observed, reduced)


def _reduced(window):
    """Sums of whole numbers, means of others."""
    if window.dtype == bool:
        return np.sum(window, axis=0, dtype=np.int32)
    return np.mean(window, axis=0, dtype=np.float32)


def infos(steps):
    """acceptance_rate, is_accepted, is_divergent of steps [T], [T, 2] each."""
    steps = np.asarray(steps)
    prob = np.stack([steps % 5 / 5, steps % 7 / 7], axis=1)
    divergent = np.stack([steps < 0, steps % 3 == 0], axis=1)
    values = (prob, prob > 0.5, divergent)
    return dict(zip(kernel.Info._fields, values, strict=True))


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
    assert record.end == 101 and not plan.columns(found, plan.OPEN)
    found = plan.columns(found, plan.OBSERVED) | plan.columns(found, plan.INFO)
    ends = [*range(thin, 101, thin), 101]
    np.testing.assert_array_equal(found["energy"], [ends, ends])
    np.testing.assert_array_equal(found["rms"], 2 * found["energy"])
    starts = [0, *ends[:-1]]
    for name, values in infos(np.arange(101)).items():
        means = [np.mean(values[a:b], axis=0) for a, b in zip(starts, ends)]
        tolerance = 1e-6 if name == "acceptance_rate" else 0
        np.testing.assert_allclose(found[name], np.float32(means).T, tolerance)
        assert found[name].dtype == np.float32
    # Fractions of proposals are exact: none of them is 0, which warnings rely on.
    assert np.all(found["is_divergent"][0] == 0)


def test_all_of_49_is_one_and_a_float_is_a_mean():
    ones, halves = np.full((2, 1), 49, np.int32), np.full((2, 1), 0.5, np.float32)
    record = plan.Record(Plan(0, 49, 49, (0, 49)), 0)
    infos = {"is_accepted": ones, "acceptance_rate": halves}
    record.add(Call(49, 49), kernel.Trajectory({}, infos))
    found = plan.columns(record.arrays(), plan.INFO)
    assert np.all(found["is_accepted"] == 1) and np.all(found["acceptance_rate"] == 0.5)
