"""What a long walk records, and in which compiled calls and chunks it is made.

One record in `thin` steps (Geyer 1992, section 3.6), so that memory is bounded by the
records, not by the steps. Everything here follows from the settings, never from where a
walk was interrupted.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from megjax.samplers import kernel

MAX_RECORDS = 10_000
"""Per chain, unless a person chooses the thinning."""

RECORDS_PER_CHUNK = 1000
BYTES_PER_CHUNK = 2**25
OBSERVED = ("energy", "rms", "draws")
"""What `kernel.chain` observes for a `Record`; the draws only where they are kept."""

RECORDED = ("energy", "rms", *kernel.Info._fields)


class Plan(NamedTuple):
    """When a walk records; steps count from the end of the burn-in.

    times: of the snapshots, 0 and the end included. draws: whether positions are
    recorded, too.
    """

    burn_in: int
    steps: int
    thin: int
    times: tuple[int, ...]
    draws: bool = False


class Call(NamedTuple):
    """Steps to walk in one compiled call, static under jit; thin divides num_steps."""

    num_steps: int
    thin: int
    draws: bool = False


def plan(
    steps: int, thin: int, *, burn_in: int = 0, num_snapshots: int, draws: bool = False
) -> Plan:
    """Snapshots in equal distances, as far as records allow."""
    times = np.linspace(0, steps, num_snapshots)[:-1].astype(int) // thin * thin
    times = sorted({0, *times.tolist(), steps})
    return Plan(burn_in, steps, thin, tuple(times), draws)


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
            call = Call(windows * plan.thin, plan.thin, plan.draws)
        else:
            num_steps = min(left, size, end - begin)
            call = Call(num_steps, num_steps, plan.draws)
        yield begin, call
        begin += call.num_steps


def chunk_end(plan: Plan, begin: int, position: jax.Array) -> int:
    """Where the chunk from `begin` ends: at a snapshot, or before it grows too large.

    position: of all chains [chains, ...].
    """
    num = RECORDS_PER_CHUNK
    if plan.draws:
        num = min(num, max(1, BYTES_PER_CHUNK // position.nbytes))
    time = next(time for time in plan.times if time > begin)
    return min(time, begin + num * plan.thin)


class Record:
    """What the steps of a chunk left, as it grows, on the host.

    begin: step of its first call. arrays: of `arrays()` of a record that goes on here.
    """

    def __init__(self, plan: Plan, begin: int, arrays: Mapping[str, Any] | None = None):
        arrays = arrays or {}
        names = [*RECORDED, "draws"]
        self.plan, self.end = plan, begin
        self.columns = {name: [arrays[name]] for name in names if name in arrays}
        # Sums over the window that is not complete yet, [3, chains, 1].
        self.open = arrays.get("open", 0.0)
        self.waiting = None

    def add(self, call: Call, trajectory: kernel.Trajectory) -> None:
        """Takes what a call made, still on the device; waits for the call before it.

        So the device is never idle, and at most two calls are under way.
        """
        self._absorb()
        self.waiting = (self.end, call, trajectory)
        self.end += call.num_steps

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> [chains, records, ...]; `open` where a window is not complete."""
        self._absorb()
        whole = {k: np.concatenate(v, axis=1) for k, v in self.columns.items()}
        self.columns = {k: [v] for k, v in whole.items()}
        return whole | ({"open": self.open} if np.ndim(self.open) else {})

    def _absorb(self) -> None:
        if self.waiting is None:
            return
        begin, call, trajectory = self.waiting
        self.waiting = None
        if begin < 0:
            jax.block_until_ready(trajectory)
            return
        observations, infos = jax.device_get(trajectory)
        means = self._closed(begin + call.num_steps, call, infos)
        if means is not None:
            found = dict(zip(OBSERVED, observations))
            found |= dict(zip(kernel.Info._fields, means))
            for name, values in found.items():
                self.columns.setdefault(name, []).append(values)

    def _closed(self, end, call, means):
        """Means [3, chains, windows] over the windows that are complete at `end`."""
        if self.plan.thin == 1:
            return means
        # Compiled means are off in the last bit: 49 of 49 may come out below 1.
        means = np.stack(means)
        sums = np.float64(means) * call.thin
        sums[1:] = np.rint(sums[1:])
        if call.thin == self.plan.thin:
            means[1:] = sums[1:] / call.thin
            return means
        self.open = self.open + sums
        if end % self.plan.thin and end != self.plan.steps:
            return None
        means = np.float32(self.open / ((end - 1) % self.plan.thin + 1))
        self.open = 0.0
        return means
