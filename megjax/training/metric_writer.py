"""What a run reports: metrics.jsonl, TensorBoard events, pictures, progress lines."""

import contextlib
import itertools
import json
import logging
import math
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np
import tqdm
from tqdm.contrib import logging as tqdm_logging

from megjax import checks, distributed, errors, plotting
from megjax.io import atomic

LOG = logging.getLogger(__name__)
METRICS_FILE = "metrics.jsonl"
SHOWN = ("energy_gap", "squared_score", "information", "iterations_per_second")
"""Metrics in the progress line, where a method has them."""


class Writer:
    """Writes the numbers and pictures of one run; opened by `opened`."""

    def __init__(self, workdir: pathlib.Path, first: int, num_steps: int):
        self.workdir, self.first, self.num_steps = workdir, first, num_steps
        with _writing(workdir):
            _forget(workdir / METRICS_FILE, after=first)
            self.lines = (workdir / METRICS_FILE).open("a")
            self.events = _Events(workdir / "tensorboard", first)
        self.bar = tqdm.tqdm(
            total=num_steps,
            initial=first,
            disable=not sys.stderr.isatty(),
            unit="it",
            dynamic_ncols=True,
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line of metrics; numbers that are not finite become null in the file."""
        values = {name: float(value) for name, value in scalars.items()}
        finite = {name: v for name, v in values.items() if math.isfinite(v)}
        line = {"step": step} | {name: finite.get(name) for name in values}
        with _writing(self.workdir):
            self._check_in_place()
            self.lines.write(json.dumps(line) + "\n")
            self.lines.flush()
            self.events.scalars(step, finite)

    def progress(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows where training stands: a bar on a terminal, else a line in the log.

        The line ends with the time to go where `scalars` has iterations_per_second.
        """
        shown = {name: f"{scalars[name]:.4g}" for name in SHOWN if name in scalars}
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix(shown)
        if self.bar.disable:
            words = [f"{name}={value}" for name, value in shown.items()]
            if rate := scalars.get("iterations_per_second"):
                seconds = (self.num_steps - step) / rate
                words.append(f"left={tqdm.tqdm.format_interval(seconds)}")
            LOG.info("step %d/%d %s", step, self.num_steps, " ".join(words))

    def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures uint8 [H, W, 3]: files in pictures/, and TensorBoard."""
        if not plotting.is_installed():
            return
        folder = self.workdir / "pictures"
        with _writing(self.workdir):
            folder.mkdir(exist_ok=True)
            for name, picture in pictures.items():
                plotting.write_png(folder / f"{name}_{step:07d}.png", picture)
                self.events.image(step, name, picture)

    def close(self) -> None:
        """Flushes everything."""
        with _writing(self.workdir), contextlib.ExitStack() as stack:
            for part in (self.events, self.lines, self.bar):
                stack.callback(part.close)

    def _check_in_place(self) -> None:
        """OSError where the directory has gone: what is written would be lost."""
        path, opened = self.workdir / METRICS_FILE, os.fstat(self.lines.fileno())
        if not path.exists() or not os.path.samestat(path.stat(), opened):
            raise FileNotFoundError(f"{path} has been moved or deleted")


class Silence:
    """The writer of other processes than the main one."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Nothing."""

    def progress(self, step: int, scalars: Mapping[str, float]) -> None:
        """Nothing."""

    def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Nothing."""


@contextlib.contextmanager
def opened(
    workdir: str | pathlib.Path, first: int, num_steps: int
) -> Iterator[Writer | Silence]:
    """A writer that continues a run after iteration `first`.

    What an earlier process wrote about later iterations is dropped, since they come
    again, and so is a last line that a crash cut short.
    """
    if not distributed.is_main():
        yield Silence()
        return
    writer = Writer(checks.path(workdir), first, num_steps)
    with contextlib.closing(writer), contextlib.ExitStack() as stack:
        if not writer.bar.disable:
            # Lines of the log go above the bar.
            loggers = [logging.getLogger("megjax")]
            stack.enter_context(tqdm_logging.logging_redirect_tqdm(loggers))
        yield writer


def read(workdir: str | pathlib.Path) -> list[dict[str, float]]:
    """The metrics of a run, one dict per line; the log says which lines are none."""
    path = checks.path(workdir) / METRICS_FILE
    return list(_lines(path)) if path.exists() else []


class _Events:
    """A new TensorBoard event file; TensorBoard forgets what older ones have later on.

    first: the iteration from which it does. Without the extra `tensorboard` nothing is
    written. tensorboardX's SummaryWriter hands events to a thread. That dies where the
    disk is full, and the program then waits for it forever: so this writes without it.
    """

    def __init__(self, folder: pathlib.Path, first: int):
        self.file = None
        try:
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        except ModuleNotFoundError:
            LOG.warning('no TensorBoard events: pip install "megjax[tensorboard]"')
            return
        self.summary, self.proto = summary, event_pb2
        folder.mkdir(exist_ok=True)
        self.file = event_file_writer.EventsWriter(
            str(folder / "events"), f".{os.getpid()}"
        )
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(step=first + 1, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers by name."""
        if self.file:
            summaries = [self.summary.scalar(*item) for item in values.items()]
            self._write(*[self._event(step, one) for one in summaries])

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture uint8 [H, W, 3]."""
        if self.file:
            one = self.summary.image(name, picture, dataformats="HWC")
            self._write(self._event(step, one))

    def close(self) -> None:
        """Flushes the file."""
        if self.file:
            self.file.close()

    def _event(self, step, summary):
        return self.proto.Event(wall_time=time.time(), step=step, summary=summary)

    def _write(self, *events) -> None:
        for event in events:
            self.file.write_event(event)
        self.file.flush()


@contextlib.contextmanager
def _writing(workdir: pathlib.Path) -> Iterator[None]:
    """OSErrors while writing, in one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"writing metrics to {workdir} failed ({error.strerror or error}): "
            f"{errors.remedy(error)}, then run the command again; checkpoints there are "
            "kept"
        ) from error


def _forget(path: pathlib.Path, after: int) -> None:
    """Drops the lines about iterations after `after`, and damaged ones.

    Where those are more than the last, which a crash cuts short, a copy of all stays.
    """
    if path.exists():
        kept = [line for line in _lines(path) if line["step"] <= after]
        texts = path.read_bytes().splitlines()
        if any(_parsed(text) is None for text in texts[:-1]):
            names = (f"{path.name}.damaged{i or ''}" for i in itertools.count())
            copy = next(p for p in map(path.with_name, names) if not p.exists())
            LOG.warning("%s has damaged lines: what it held is in %s", path, copy)
            shutil.copyfile(path, copy)
        text = "".join(json.dumps(line) + "\n" for line in kept)
        atomic.replace(path, lambda file: file.write(text.encode()))


def _lines(path: pathlib.Path) -> Iterator[dict[str, float]]:
    """The lines that are metrics; those that are none are left out, and said."""
    texts = path.read_bytes().splitlines()
    lines = [_parsed(text) for text in texts]
    damaged = [number for number, line in enumerate(lines, 1) if line is None]
    if damaged:
        LOG.warning(
            "%s: %d of %d lines are no metrics and left out, first line %d",
            *(path, len(damaged), len(lines), damaged[0]),
        )
    return (line for line in lines if line is not None)


def _parsed(text: bytes) -> dict[str, float] | None:
    """A line of metrics: a step and numbers, null where not finite; None for others."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return None
    plain = all(type(value) in (int, float, type(None)) for value in line.values())
    return line if plain else None
