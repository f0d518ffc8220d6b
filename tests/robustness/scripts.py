"""Runs scripts of the project in forks of one process that has its imports done.

    python -m tests.robustness.scripts

reads a line of JSON per script and answers with the process id; `Scripts` is its other
side, and judges what a script says: one that refuses ends with a status other than 0 and
one line that begins with "error: ", and leaves every file as it was.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOG_LINE = re.compile(
    r"(\d\d:\d\d:\d\d|[IWEF]\d{4} \d\d:\d\d:[\d.]+|WARNING: Logging before flag) "
)
UNCLEAR = re.compile(
    r"Traceback|object at 0x|NoneType|no attribute|positional arg|subscriptable|unhashable"
    r"|not iterable|index out of range|<class|<function|unexpected keyword"
    r"|(?<!out of memory \()INTERNAL"
)
"""Words that tell a programmer something, and the person who typed nothing."""
STATUS, STDOUT, STDERR = "status", "stdout", "stderr"


class Answer(NamedTuple):
    """What a script said, and its exit status; negative: the signal that killed it."""

    status: int
    stdout: str
    stderr: str


class Process:
    """A script under way, with its output in the files of a folder."""

    def __init__(self, folder: pathlib.Path, pid: int):
        self.folder, self.pid = folder, pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return (self.folder / STATUS).exists()

    def text(self, name: str = STDERR) -> str:
        """What it has printed so far."""
        return (self.folder / name).read_text(errors="replace")

    def stepping(self, seconds: float = 600) -> "Process":
        """Waits for its first line about a training step, or its end."""
        return self._until(
            lambda: re.search(r" step \d+/", self.text()) or self.ended, seconds
        )

    def kill(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def answer(self, seconds: float = 600) -> Answer:
        """Waits for its end; raises TimeoutError, having killed it, where that is late."""
        self._until(lambda: self.ended, seconds)
        status = int((self.folder / STATUS).read_text())
        return Answer(status, self.text(STDOUT), self.text())

    def _until(self, done, seconds: float) -> "Process":
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                self.kill(signal.SIGKILL)
                raise TimeoutError(f"no end in {seconds} s: {self.text()}")
            time.sleep(0.005)
        return self


class Scripts:
    """Starts scripts, their output in numbered folders below `folder`."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.count = folder, 0
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "TFDS_DATA_DIR": "/nowhere",
            "PYTHONPATH": str(ROOT),
        }
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.robustness.scripts"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """Ends the process that forks."""
        self.server.stdin.close()
        self.server.wait(60)

    def start(
        self, script: str, *arguments: str, devices: int = 1, fresh: bool = False
    ) -> Process:
        """A script under way on so many virtual devices.

        fresh: without the imports, for several processes: their runtime has threads.
        """
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir(parents=True)
        request = {"line": [script, *map(str, arguments)], "folder": str(folder)}
        request |= {"devices": devices, "fresh": fresh}
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return Process(folder, int(self.server.stdout.readline()))

    def run(self, *line: str, seconds: float = 600, devices: int = 1) -> Answer:
        """A script from beginning to end."""
        process = self.start(*line, devices=devices)
        found = process.answer(seconds)
        shutil.rmtree(process.folder)
        return found

    def succeed(self, *line: str, **more) -> Answer:
        """A script that must end with status 0."""
        found = self.run(*line, **more)
        assert found.status == 0, f"{' '.join(line)}: {found}"
        return found

    def refusal_fault(
        self,
        home: pathlib.Path,
        line: Iterable[str],
        says: str = "",
        *,
        writes: bool = False,
    ) -> str | None:
        """What is no refusal of a script that works in `home`, {root}; None if nothing.

        says: a regular expression in what it says. writes: it may leave new files.
        """
        before = files(home)
        found = self.run(*(one.replace("{root}", str(home)) for one in line))
        if wrong := fault(found, says, writes):
            return f"{wrong}: {found}"
        after = files(home)
        changed = {path for path in before if after.get(path) != before[path]}
        if writes and "run/metrics.jsonl" in after:
            # Training went on for a while.
            changed.discard("run/metrics.jsonl")
        left = () if writes else after.keys() - before.keys()
        if changed or left:
            return f"changed {changed}, left {left}: {found}"
        return None


def fault(found: Answer, says: str = "", writes: bool = False) -> str | None:
    """What is wrong with an answer that must be a refusal; None where nothing is."""
    if "Traceback" in found.stderr or found.status < 0:
        return f"traceback, status {found.status}"
    if not found.status:
        return "was accepted"
    lines = [one for one in found.stderr.splitlines() if not LOG_LINE.match(one)]
    # Results that were there before may have been printed.
    lines += [] if writes else found.stdout.splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return "said more, or less, than one line"
    # An error of a program that a person wrote is told with its file and line.
    plain = "config cannot be built (" in lines[0] or not UNCLEAR.search(lines[0])
    if not plain or len(lines[0]) > 1200:
        return "is not said in a person's words"
    return None if re.search(says, lines[0]) else f"did not say {says!r}"


def files(home: pathlib.Path) -> dict[str, str]:
    """path -> sha256 of all files below a directory but locks, which are empty."""
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def _serve() -> None:
    """Forks for every line of stdin, and answers with the process id of the fork."""
    import orbax.checkpoint  # noqa: F401

    from megjax.evaluation import classifier, inception, likelihood  # noqa: F401
    from megjax.sampling import draw, store, trace  # noqa: F401
    from megjax.training import evaluate, experiment, loop  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for text in sys.stdin:
        request = json.loads(text)
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(**request)


def _keep(line: list[str], folder: str, devices: int, fresh: bool) -> NoReturn:
    """Forks the script, tells its id, waits for it and writes its status down."""
    streams = [
        os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT)
        for name in (STDOUT, STDERR)
    ]
    if not (child := os.fork()):
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream, number)
        if fresh:
            os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)
            os.execv(sys.executable, [sys.executable, *line])
        _script(line, devices)
    print(child, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    partial = pathlib.Path(folder, "partial")
    partial.write_text(str(status))
    partial.rename(partial.with_name(STATUS))
    os._exit(0)


def _script(line: list[str], devices: int) -> NoReturn:
    """The script as if Python had been started with it."""
    import jax

    logging.getLogger("megjax").handlers.clear()
    jax.config.update("jax_num_cpu_devices", devices)
    script, *_ = sys.argv = line
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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
