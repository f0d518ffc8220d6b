"""What long chains record, and in which compiled calls and chunks they are drawn.

One record in `thin` steps (Geyer 1992, section 3.6), so that memory is bounded by the
records, not by the steps. Everything here follows from the settings, never from where
a run was interrupted.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from megjax import distributed
from megjax.samplers import kernel

MAX_RECORDS = 10_000
"""Per chain, unless a person chooses the thinning."""

RECORDS_PER_CHUNK = 1000
BYTES_PER_CHUNK = 2**25
OBSERVED, INFO, OPEN = "observed_", "info_", "open_"
"""What the names of a record's arrays begin with; `OPEN` holds sums over a window."""


class Plan(NamedTuple):
    """When chains are recorded; steps count from the end of the burn-in.

    times: at which a chunk ends whatever its size, 0 and the end included.
    """

    burn_in: int
    steps: int
    thin: int
    times: tuple[int, ...]


class Call(NamedTuple):
    """Steps of one compiled call, static under jit; thin divides num_steps."""

    num_steps: int
    thin: int


def plan(steps: int, thin: int, *, burn_in: int = 0, num_snapshots: int = 2) -> Plan:
    """Snapshots in equal distances, as far as records allow."""
    times = np.linspace(0, steps, num_snapshots)[:-1].astype(int) // thin * thin
    times = sorted({0, *times.tolist(), steps})
    return Plan(burn_in, steps, thin, tuple(times))


def default_thin(steps: int) -> int:
    """The smallest thinning that makes at most `MAX_RECORDS` records."""
    return max(1, math.ceil(steps / MAX_RECORDS))


def calls(plan: Plan, begin: int, end: int, size: int) -> Iterator[tuple[int, Call]]:
    """(begin, call) of calls of at most `size` steps from begin to end.

    A call is of whole windows, or of a part of one: of those that are longer than
    `size`, and of the last where thin does not divide the steps.
    """
    while begin < end:
        left = plan.thin - begin % plan.thin
        windows = min(size, end - begin) // plan.thin
        if windows and left == plan.thin:
            call = Call(windows * plan.thin, plan.thin)
        else:
            num_steps = min(left, size, end - begin)
            call = Call(num_steps, num_steps)
        yield begin, call
        begin += call.num_steps


def chunk_end(plan: Plan, begin: int, num_bytes: int) -> int:
    """Where the chunk from `begin` ends: at a snapshot, or before it grows too large.

    num_bytes: of one record of all chains.
    """
    num = min(RECORDS_PER_CHUNK, max(1, BYTES_PER_CHUNK // max(1, num_bytes)))
    time = next(time for time in plan.times if time > begin)
    return min(time, begin + num * plan.thin)


def columns(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin with a prefix, without it."""
    return {
        k.removeprefix(prefix): v
        for k, v in arrays.items()
        if k[: len(prefix)] == prefix
    }


class Record:
    """What the steps of a chunk left, as it grows, on the host.

    begin: step of its first call. arrays: of `arrays()` of a record that goes on here.
    """

    def __init__(self, plan: Plan, begin: int, arrays: Mapping[str, Any] | None = None):
        arrays = arrays or {}
        self.plan, self.end, self.waiting = plan, begin, None
        self.columns = {
            prefix + name: [values]
            for prefix in (OBSERVED, INFO)
            for name, values in columns(arrays, prefix).items()
        }
        # Sums over the window that is not complete yet, [chains, 1] each.
        self.open = columns(arrays, OPEN)

    def add(self, call: Call, trajectory: kernel.Trajectory) -> None:
        """Takes what a call made, still on the device; waits for the call before it.

        trajectory: of dicts; infos of whole numbers are sums over windows, others
        means. So the device is never idle, and at most two calls are under way.
        """
        self._absorb()
        self.waiting = (self.end, call, trajectory)
        self.end += call.num_steps

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> [chains, records, ...], and sums where a window is not complete."""
        self._absorb()
        whole = {k: np.concatenate(v, axis=1) for k, v in self.columns.items()}
        self.columns = {k: [v] for k, v in whole.items()}
        return whole | {OPEN + name: sums for name, sums in self.open.items()}

    def _absorb(self) -> None:
        if self.waiting is None:
            return
        begin, call, trajectory = self.waiting
        self.waiting = None
        if begin < 0:
            jax.block_until_ready(trajectory)
            return
        observations, infos = jax.device_get(distributed.gathered(trajectory))
        means = self._closed(begin + call.num_steps, call, infos)
        if means is not None:
            found = {OBSERVED + k: v for k, v in observations.items()}
            found |= {INFO + k: v for k, v in means.items()}
            for name, values in found.items():
                self.columns.setdefault(name, []).append(values)

    def _closed(self, end, call, infos) -> dict[str, np.ndarray] | None:
        """Means [chains, windows] over the windows that are complete at `end`."""
        if call.thin == self.plan.thin:
            return {k: _mean(v, call.thin) for k, v in infos.items()}
        for name, values in infos.items():
            whole = np.issubdtype(values.dtype, np.integer)
            sums = np.float64(values) * (1 if whole else call.thin)
            self.open[name] = self.open.get(name, 0.0) + sums
        if end % self.plan.thin and end != self.plan.steps:
            return None
        length = (end - 1) % self.plan.thin + 1
        means = {k: np.float32(sums / length) for k, sums in self.open.items()}
        self.open = {}
        return means


def _mean(values, length):
    """Compiled means are off in the last bit, in which 49 of 49 may be less than 1:
    those of whole numbers are taken here."""
    if np.issubdtype(values.dtype, np.integer):
        return np.float32(values / length)
    return values
