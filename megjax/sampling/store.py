"""A long run of chains on disk: its chunks, so that a kill costs a minute, and its progress.

Short runs leave nothing. The first chunks are held in memory; once the run has lasted
`SAVE_SECONDS` they go to the directory, and from then on every chunk as it ends and a
draft of the one under way. A chunk depends on the settings alone, not on when it
was interrupted.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import pathlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from tqdm.contrib import logging as tqdm_logging

from megjax import checks, distributed
from megjax.io import atomic
from megjax.types import PyTree

LOG = logging.getLogger(__name__)
SAVE_SECONDS = 60.0
"""Between saves, and between lines of the log."""

LONG = 10_000
"""Steps beyond which a run is saved on a signal and kept after its end."""

SETTINGS_FILE, DRAFT_FILE, LOCK_FILE = "run.json", "draft.npz", "lock"
OWN_NAME = re.compile(r"run\.json|(draft|\d{3}_(start|burn_in|\d{12,}_\d{12,}))\.npz")
START, BURN_IN = -2, -1
"""Where the chunks of what was made before the chains start and of their burn-in
begin; both end at 0."""

LEAF = "state_"
"""What the names of the leaves of a PyTree begin with in the arrays of a chunk."""


class Stopped(Exception):
    """A run ended early on a signal; carries the signal."""

    def __init__(self, number: int, progress: str, kept: bool):
        verb = "saved" if kept else "stopped"
        what = "the same command goes on" if kept else "so short a run is not kept"
        super().__init__(f"{signal.Signals(number).name}: {verb} at {progress}; {what}")
        self.number = number


class Chunk(NamedTuple):
    """What a group of chains did from step `begin` to `end`, counted after the burn-in.

    A draft ends where it was saved, within the burn-in before 0.
    """

    group: int
    begin: int
    end: int
    arrays: Mapping[str, Any]


class TraceStore:
    """The chunks of one run; without a directory it keeps nothing.

    labels: () -> what tells this run from others and its sampler cannot know.
    draws: whether the sampler shall put the positions into the chunks.
    replaces: whether a finished run of other settings and at most `LONG` steps makes
        room for this one, instead of refusing it.
    interrupted: () -> the number of a signal that asks to stop, or None.
    """

    def __init__(
        self,
        directory: pathlib.Path | None = None,
        labels: Callable[[], Mapping[str, Any]] = dict,
        *,
        draws: bool = False,
        replaces: bool = False,
        interrupted: Callable[[], int | None] = lambda: None,
    ):
        self.directory, self.labels, self.draws = directory, labels, draws
        self.replaces, self.interrupted = replaces, interrupted
        self.settings, self.progress = {}, None
        self.kept, self.locked, self.held = False, False, []
        self.saved = time.monotonic()
        self.stack = contextlib.ExitStack()

    def claim(self, settings: Mapping[str, Any], total: int, thin: int) -> int:
        """Takes the settings of the run and, where they fit, the chunks on disk.

        settings: JSON values, among them steps and thin; total: steps of all groups,
        burn-in included. thin: to use where the settings have None and the run is
        new. Returns the thinning. Raises ValueError where the directory has a run of
        other settings, naming them; only `steps` may differ, and grow.
        """
        self.show(total, shown=bool(self.directory))
        found = _found(self.directory)
        if found or self.draws:
            self._lock()
            found = _found(self.directory)
        replaceable = self.replaces and found and found["finished"]
        replaceable = replaceable and found["total"] <= LONG
        if settings["thin"] is None:
            known = found and not replaceable
            settings = {
                **settings,
                "thin": found["settings"]["thin"] if known else thin,
            }
        self.settings = dict(settings)
        if not self.locked:
            return self.settings["thin"]
        self._label()
        words = _difference(found["settings"], self.settings) if found else None
        if words and not replaceable:
            raise ValueError(
                f"{self.directory} holds another run ({words}): give the same values "
                "to go on with it, use another directory, or delete that one"
            )
        if words:
            _empty(self.directory)
        self._keep()
        return self.settings["thin"]

    def show(self, total: int, *, shown: bool) -> None:
        """Counts the progress of `total` steps from now on."""
        self.progress = Progress(total, shown=shown)
        self.stack.callback(self.progress.bar.close)

    def chunk(self, group: int, begin: int) -> Chunk | None:
        """The intact chunk on disk that begins there."""
        for end in self._ends(group, begin):
            arrays = self._read(_name(group, begin, end))
            if arrays is not None:
                return Chunk(group, begin, end, arrays)
        return None

    def end(self, group: int, begin: int) -> int | None:
        """Where a chunk on disk that begins there ends, intact or not."""
        return next(iter(self._ends(group, begin)), None)

    def draft(self, group: int, begin: int, end: int) -> Chunk | None:
        """The draft of the chunk from begin to end."""
        arrays = self._read(DRAFT_FILE)
        if arrays is None:
            return None
        draft = Chunk(*(int(i) for i in arrays["place"]), arrays)
        fits = (draft.group, draft.begin) == (group, begin) and draft.end <= end
        return draft if fits else None

    def add(self, chunk: Chunk) -> None:
        """Writes a finished chunk, or holds it while the run is young."""
        if self.kept:
            self._write(_name(*chunk[:3]), chunk)
            # A shorter run's last window may have left one that ends elsewhere.
            for end in _ends(self.directory, chunk.group, chunk.begin):
                if end != chunk.end:
                    (self.directory / _name(*chunk[:2], end)).unlink()
            (self.directory / DRAFT_FILE).unlink(missing_ok=True)
        elif self.directory:
            self.held.append(chunk)

    def advance(self, num_steps: int, draft_fn: Callable[[], Chunk]) -> None:
        """Counts steps that were made, and saves a draft where it is time.

        Raises Stopped after a signal.
        """
        self.progress.add(num_steps)
        number = self.interrupted()
        if self.directory and self._is_due(number):
            self._keep()
            self._write(DRAFT_FILE, draft_fn())
        if number:
            raise Stopped(number, str(self.progress), self.kept)

    def finish(self) -> None:
        """To be called when what is made of the run is written: short ones go."""
        if not self.kept:
            return
        if self.draws or self.progress.total > LONG:
            (self.directory / DRAFT_FILE).unlink(missing_ok=True)
            for path in self.directory.glob("*.tmp"):
                if OWN_NAME.match(path.name):
                    path.unlink()
            self._record(finished=True)
        else:
            _empty(self.directory)
            (self.directory / LOCK_FILE).unlink()
            # There may be files that are not ours.
            with contextlib.suppress(OSError):
                self.directory.rmdir()

    def _is_due(self, number: int | None) -> bool:
        """Whether it is time for a draft; number: of a signal that came."""
        due = time.monotonic() - self.saved >= SAVE_SECONDS
        return due or bool(number and (self.kept or self.progress.total > LONG))

    def _keep(self) -> None:
        """From now on the run is on disk."""
        if self.kept:
            return
        self._lock()
        self._label()
        self._record(finished=False)
        self.kept = True
        for chunk in self.held:
            self.add(chunk)
        self.held = []

    def _lock(self) -> None:
        """Makes the directory and holds its lock, which goes with the process."""
        if self.locked:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(
                f"{self.directory} is no directory: name another"
            ) from error
        file = self.stack.enter_context((self.directory / LOCK_FILE).open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process samples in {self.directory}: wait for it, or use "
                "another directory"
            ) from error
        self.locked = True

    def _label(self) -> None:
        """Adds the labels: late, since the digest of a large model takes a while."""
        # As JSON gives them back.
        self.settings = json.loads(json.dumps(dict(self.labels()) | self.settings))
        self.labels = dict

    def _record(self, finished: bool) -> None:
        saved = {"settings": self.settings, "finished": finished}
        saved |= {"total": self.progress.total}
        text = json.dumps(saved | {"sha256": _token(saved)}, indent=2) + "\n"
        path = self.directory / SETTINGS_FILE
        atomic.replace(path, lambda file: file.write(text.encode()))

    def _write(self, name: str, chunk: Chunk) -> None:
        place = {"place": np.array(chunk[:3]), "run": np.array(self._run())}
        atomic.write(self.directory / name, {**chunk.arrays, **place})
        self.saved = time.monotonic()

    def _read(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of a chunk of this run."""
        arrays = atomic.read(self.directory / name) if self.kept else None
        return arrays if arrays and arrays.get("run") == self._run() else None

    def _run(self) -> str:
        """What every chunk of this run carries, however far it goes."""
        return _token(self.settings | {"steps": None})

    def _ends(self, group: int, begin: int) -> list[int]:
        """Ends of the chunks on disk that begin there, the longest first.

        Not of those that end in a window which a longer run does not cut short.
        """
        if not self.kept:
            return []
        ends = _ends(self.directory, group, begin)
        thin, steps = self.settings["thin"], self.settings["steps"]
        return [end for end in ends if end % thin == 0 or end == steps]


class SharedStore(TraceStore):
    """The store of a run that several processes draw together: the main one's disk.

    All call its methods at the same points, with the same chunks, and are given what
    the main one reads. `interrupted` tells all of them the same.
    """

    def claim(self, settings: Mapping[str, Any], total: int, thin: int) -> int:
        if distributed.is_main():
            thin = super().claim(settings, total, thin)
        else:
            self.show(total, shown=False)
        return int(distributed.broadcast(np.int64(thin)))

    def chunk(self, group: int, begin: int) -> Chunk | None:
        return _sent(super().chunk(group, begin) if distributed.is_main() else None)

    def end(self, group: int, begin: int) -> int | None:
        end = super().end(group, begin) if distributed.is_main() else None
        return int(distributed.broadcast(np.int64(end or 0))) or None

    def draft(self, group: int, begin: int, end: int) -> Chunk | None:
        found = super().draft(group, begin, end) if distributed.is_main() else None
        return _sent(found)

    def add(self, chunk: Chunk) -> None:
        if distributed.is_main():
            super().add(chunk)

    def finish(self) -> None:
        if distributed.is_main():
            super().finish()

    def _is_due(self, number: int | None) -> bool:
        return bool(distributed.broadcast(np.uint8(super()._is_due(number))))

    def _keep(self) -> None:
        if distributed.is_main():
            super()._keep()
        self.kept = True

    def _write(self, name: str, chunk: Chunk) -> None:
        if distributed.is_main():
            super()._write(name, chunk)


def _sent(chunk: Chunk | None) -> Chunk | None:
    """The chunk of the main process on every one."""
    arrays = dict(chunk.arrays) if chunk else {}
    forms = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    text = distributed.broadcast_text(json.dumps(chunk and [*chunk[:3], forms]))
    if (received := json.loads(text)) is None:
        return None
    *place, forms = received
    if not distributed.is_main():
        arrays = {k: np.zeros(shape, dtype) for k, (dtype, shape) in forms.items()}
    return Chunk(*place, {k: distributed.broadcast(arrays[k]) for k in forms})


class Progress:
    """How far a run is: a bar on a terminal, else a line in the log now and then."""

    def __init__(self, total: int, *, shown: bool):
        self.total, self.done, self.skipped, self.shown = total, 0, 0, shown
        self.start = self.logged = time.monotonic()
        disable = not (shown and sys.stderr.isatty())
        # Runs of seconds need no bar.
        self.bar = tqdm.tqdm(
            total=total, disable=disable, unit="step", dynamic_ncols=True, delay=5
        )

    def __str__(self):
        return f"step {self.done} of {self.total}"

    def skip(self, num_steps: int) -> None:
        """Counts steps that an earlier process has made."""
        self.done += num_steps
        self.skipped += num_steps
        self.bar.update(num_steps)
        if not self.bar.disable:
            # Left out of the bar's rate.
            self.bar.initial += num_steps

    def add(self, num_steps: int) -> None:
        """Counts steps that were made just now."""
        self.done += num_steps
        self.bar.update(num_steps)
        now = time.monotonic()
        if self.shown and self.bar.disable and now - self.logged >= SAVE_SECONDS:
            seconds = (now - self.start) / (self.done - self.skipped)
            left = tqdm.tqdm.format_interval(seconds * (self.total - self.done))
            LOG.info("%s left=%s", str(self), left)
            self.logged = now


@contextlib.contextmanager
def opened(
    directory: str | pathlib.Path, labels=dict, *, shared: bool = False, **options
) -> Iterator[TraceStore]:
    """The store of the chains in a directory, which need not be there yet.

    labels, options: as of `TraceStore`. shared: whether all processes draw them
    together; else each of several has a directory of its own.
    """
    of_all = shared and jax.process_count() > 1
    kept = (SharedStore if of_all else TraceStore)(
        checks.path(directory), labels, **options
    )
    with kept.stack:
        if sys.stderr.isatty():
            # Lines of the log go above the bar.
            loggers = [logging.getLogger("megjax")]
            kept.stack.enter_context(tqdm_logging.logging_redirect_tqdm(loggers))
        yield kept


@contextlib.contextmanager
def unkept(total: int, *, shown: bool) -> Iterator[TraceStore]:
    """A store that keeps nothing, of `total` steps; shown: with a progress bar."""
    store = TraceStore()
    with store.stack:
        store.show(total, shown=shown)
        yield store


def leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a PyTree as arrays of a chunk."""
    found = jax.tree.leaves(distributed.gathered(tree))
    return {f"{LEAF}{i}": leaf for i, leaf in enumerate(found)}


def draws(directory: str | pathlib.Path) -> np.ndarray:
    """The draws in the chunks of a run, finished or not: [chains, draws, ...].

    Those of all chains that are as far as the first. Raises FileNotFoundError where
    there are none, ValueError where a chunk is damaged.
    """
    directory = checks.path(directory)
    groups = [
        np.concatenate(found, axis=1)
        for group in range(len(list(directory.glob("*_start.npz"))))
        if (found := list(_draws(directory, group)))
    ]
    if not groups:
        raise FileNotFoundError(
            f"{directory} has no draws: sample with --keep_draws, and name the chunks/ "
            "of its --out"
        )
    num = groups[0].shape[1]
    return np.concatenate([one for one in groups if one.shape[1] == num])


def _draws(directory: pathlib.Path, group: int) -> Iterator[np.ndarray]:
    """Draws of one group, chunk by chunk: [chains, draws, ...] each."""
    begin = 0
    while ends := _ends(directory, group, begin):
        path = directory / _name(group, begin, ends[0])
        arrays = atomic.read(path)
        if arrays is None:
            raise ValueError(f"{path} is damaged: run the same command again")
        if "observed_draws" not in arrays:
            return
        yield arrays["observed_draws"]
        begin = ends[0]


def _name(group: int, begin: int, end: int) -> str:
    if begin in (START, BURN_IN):
        return f"{group:03d}_{'start' if begin == START else 'burn_in'}.npz"
    return f"{group:03d}_{begin:012d}_{end:012d}.npz"


def _ends(directory: pathlib.Path, group: int, begin: int) -> list[int]:
    """Ends of the chunks in a directory that begin there, the longest first."""
    if begin in (START, BURN_IN):
        return [0] if (directory / _name(group, begin, 0)).exists() else []
    stems = [
        path.stem for path in directory.glob(_name(group, begin, 0)[:17] + "*.npz")
    ]
    ends = [stem.split("_")[2] for stem in stems]
    return sorted((int(end) for end in ends if end.isdigit()), reverse=True)


def _found(directory: pathlib.Path | None) -> dict[str, Any] | None:
    """What is recorded of the run in a directory: settings, finished, total."""
    path = directory and directory / SETTINGS_FILE
    if not (path and path.exists()):
        return None
    try:
        saved = json.loads(path.read_text())
        if not isinstance(saved, dict) or saved.pop("sha256", "") != _token(saved):
            raise ValueError("its digest does not match")
        return saved
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete {directory} to start again, or use "
            "another directory"
        ) from error


def _difference(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """The settings that forbid to go on, in words; None where there are none."""
    names = [name for name in given if saved.get(name) != given[name]]
    if saved["steps"] <= given["steps"]:
        names = [name for name in names if name != "steps"]
    there = {name: f"{saved[name]!r} there" for name in names if name in saved}
    words = [
        # By an earlier version.
        f"{name}: {there.get(name, 'not recorded there')}, given {given[name]!r}"
        for name in names
    ]
    return "; ".join(words) or None


def _empty(directory: pathlib.Path) -> None:
    """Deletes a run, its settings last, so that a kill leaves no chunks of nobody.

    Other files in the directory are its user's.
    """
    for path in directory.glob("*.npz*"):
        if OWN_NAME.match(path.name):
            path.unlink()
    (directory / SETTINGS_FILE).unlink(missing_ok=True)


def _token(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
