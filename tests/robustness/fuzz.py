"""Bad flags, configs, files and run directories: one line each, no traceback, no loss.

    python -m tests.robustness.fuzz [--only=SUBSTRING] [--num=30] [--seed=0] [--quick]

Every case runs a script of the project in a fork of this process, on copies of small
trained runs. One that must be refused ends with a status other than 0 and one line
that begins with "error: ", and leaves every file as it was; one that must do no harm
ends with the result of an undamaged run. Prints a table by kind and every failure.
"""

import collections
import contextlib
import hashlib
import logging
import os
import pathlib
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from absl import flags

from megjax import app
from megjax.evaluation import classifier, inception, likelihood, planar  # noqa: F401
from megjax.training import experiment
from tests.robustness import bad_input

OWN_FLAGS = ("only", "num", "seed", "seconds", "quick")
LOG_LINE = re.compile(r"(\d\d:\d\d:\d\d|[IWEF]\d{4} \d\d:\d\d:[\d.]+) ")
UNCLEAR = re.compile(
    r"Traceback|object at 0x|NoneType|no attribute|positional arg|subscriptable|unhashable"
    r"|not iterable|index out of range|<class|<function|INTERNAL|unexpected keyword"
)
"""Words that tell a programmer something, and the person who typed nothing."""


class Answer(NamedTuple):
    """What a script said: status None where it had to be killed."""

    status: int | None
    stdout: str
    stderr: str
    seconds: float


class Found(NamedTuple):
    """A case, its answer, and what is wrong with that; None where nothing is."""

    case: bad_input.Case
    answer: Answer
    fault: str | None


def answer(
    script: str, arguments: Iterable[str], output: pathlib.Path, seconds: float
) -> Answer:
    """Runs a script in a fork of this process, which must not have touched a device."""
    start = time.monotonic()
    sys.stdout.flush()
    streams = [output.with_suffix(name) for name in (".stdout", ".stderr")]
    if not (child := os.fork()):
        _child(script, arguments, streams)
    killed = False
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - start > seconds and not killed:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.01)
    status = None if killed else os.waitstatus_to_exitcode(done[1])
    texts = [path.read_text(errors="replace") for path in streams]
    return Answer(status, *texts, time.monotonic() - start)


def _child(script, arguments, streams) -> NoReturn:
    """The script as if Python had been started with it."""
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    logging.getLogger("megjax").handlers.clear()
    for name in OWN_FLAGS:
        delattr(flags.FLAGS, name)
    sys.argv = [script, *arguments]
    status = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
        status = 99
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def prepared(root: pathlib.Path, name: str, seconds: float) -> pathlib.Path:
    """The directory of a run of `mistakes.RUNS`, made the first time.

    Raises RuntimeError with what a script printed where it fails.
    """
    home = root / name
    if home.exists():
        return home
    base, change, commands = bad_input.RUNS[name]
    partial = root / f"{name}.partial"
    if base:
        shutil.copytree(prepared(root, base, seconds), partial)
    partial.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        change(partial, stack)
    for script, *arguments in commands:
        given = [one.replace("{root}", str(partial)) for one in arguments]
        found = answer(script, given, root / "output", 10 * seconds)
        if found.status:
            raise RuntimeError(f"{script} {' '.join(given)}: {found.stderr}")
    partial.rename(home)
    return home


def checked(case: bad_input.Case, root: pathlib.Path, seconds: float) -> Found:
    """Runs a case in its own directory and judges the answer."""
    runs, home = root / "runs", root / "case"
    if case.run:
        shutil.copytree(prepared(runs, case.run, seconds), home)
    home.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        case.damage(home, stack)
        before = _files(home)
        given = [one.replace("{root}", str(home)) for one in case.arguments]
        script = case.script.replace("{root}", str(home))
        found = answer(script, given, root / "output", seconds)
        wrong = fault(case, found, before, _files(home))
        if not wrong and not found.status:
            wrong = case.check(home, runs / case.run)
    return Found(case, found, wrong)


def fault(
    case: bad_input.Case,
    found: Answer,
    before: Mapping[str, str],
    after: Mapping[str, str],
) -> str | None:
    """What is wrong with an answer; before, after: path -> digest of all files."""
    if found.status is None:
        return "did not end in time"
    if "Traceback" in found.stderr or found.status < 0:
        return f"traceback, status {found.status}"
    refused = bool(found.status)
    if refused != case.refused and case.refused is not None:
        return "was refused" if refused else "was accepted"
    return _refusal_fault(case, found, before, after) if refused else None


def _refusal_fault(case, found, before, after) -> str | None:
    lines = [one for one in found.stderr.splitlines() if not LOG_LINE.match(one)]
    # Results that were there before may have been printed.
    lines += [] if case.writes else found.stdout.splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return "said more, or less, than one line"
    if UNCLEAR.search(lines[0]) or len(lines[0]) > 1200:
        return "is not said in a person's words"
    if not re.search(case.says, lines[0]):
        return f"did not say {case.says!r}"
    lost = [path for path, digest in before.items() if after.get(path) != digest]
    if case.writes and "run/metrics.jsonl" in after:
        # Training went on for a while.
        lost = [path for path in lost if path != "run/metrics.jsonl"]
    left = [] if case.writes else [path for path in after if path not in before]
    if lost or left:
        return f"changed {lost}, left {left}"
    return None


def _files(home: pathlib.Path) -> Mapping[str, str]:
    """path -> sha256 of all files below a directory but locks, which are empty."""
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def results(
    cases: Iterable[bad_input.Case], root: pathlib.Path, seconds: float
) -> Iterator[Found]:
    """Runs cases one after the other, each within a time limit."""
    os.chdir(experiment.ROOT)
    os.environ["TFDS_DATA_DIR"] = "/nowhere"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(root / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    (root / "runs").mkdir()
    for case in cases:
        yield checked(case, root, seconds)


def _table(found: list[Found]) -> None:
    kinds = dict.fromkeys(one.case.kind for one in found)
    print(f"\n{'kind':20}{'cases':>7}{'failed':>8}{'median s':>10}{'most s':>8}")
    for kind in [*kinds, "all"]:
        own = [one for one in found if kind in (one.case.kind, "all")]
        failed = sum(one.fault is not None for one in own)
        seconds = [one.answer.seconds for one in own]
        print(
            f"{kind:20}{len(own):7}{failed:8}"
            f"{np.median(seconds):10.2f}{max(seconds):8.1f}"
        )


def _spread(cases, num, rng) -> list[bad_input.Case]:
    """A random choice of cases with as many of every kind as can be."""
    rng.shuffle(cases)
    ranks, ranked = collections.Counter(), []
    for case in cases:
        ranked.append((ranks[case.kind], case))
        ranks[case.kind] += 1
    return [case for _, case in sorted(ranked, key=lambda pair: pair[0])][:num]


def main() -> int:
    """Runs the cases that flags choose; 1 where one fails."""
    only, num = flags.FLAGS.only, flags.FLAGS.num
    cases = [one for one in bad_input.cases(flags.FLAGS.seed) if only in one.title]
    if not cases:
        raise ValueError(f"--only={only}: part of no case's title")
    if flags.FLAGS.quick:
        cases = [one for one in cases if one.run in ("", "rbm") and one.refused]
        cases = [one for one in cases if one.kind != "full disks"]
    if num:
        cases = _spread(cases, num, random.Random(flags.FLAGS.seed))
    root = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    found = []
    try:
        for one in results(cases, root, flags.FLAGS.seconds):
            found.append(one)
            if one.fault:
                words = " ".join((one.case.script, *one.case.arguments))
                print(f"\n{one.case.title}: {one.fault}\n+ {words}")
                print(one.answer.stdout + one.answer.stderr[-3000:], flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    _table(found)
    return int(any(one.fault for one in found))


if __name__ == "__main__":
    flags.DEFINE_string("only", "", "Only cases with this in their title.")
    flags.DEFINE_integer("num", 0, "Cases to draw; default all.")
    flags.DEFINE_bool("quick", False, "Only cases that need little training.")
    flags.DEFINE_integer("seed", 0, "Of the draw, and of damaged bits.")
    flags.DEFINE_float("seconds", 60, "Limit of a case.")
    app.run(main)
