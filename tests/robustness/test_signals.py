"""Closed terminals, pipes that nobody reads, and signals to a whole group of processes."""

import contextlib
import errno
import io
import os
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

from megjax import api, app, errors
from megjax.training import checkpoint, experiment, loop

FOREVER = (
    *("train.py", "--config=configs/toy_8gaussians.py", "--config.width=16"),
    *("--config.batch_size=16", "--config.meg.num_energy_updates=1"),
    *("--config.train.log_every=50", "--config.train.save_every=100000"),
    *("--config.train.num_steps=1000000", "--config.train.evaluate_every=1000000"),
)


@pytest.fixture(autouse=True)
def no_nohup():
    """SIGHUP as a terminal has it, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_become_a_question(name):
    number = signal.Signals[name]
    before = [signal.getsignal(n) for n in (number, signal.SIGINT)]
    with loop.interruption() as interrupted:
        assert interrupted() is None
        os.kill(os.getpid(), number)
        assert interrupted() == number
    assert [signal.getsignal(n) for n in (number, signal.SIGINT)] == before


@pytest.mark.parametrize("first", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_second_ctrl_c_ends_the_program(first):
    with pytest.raises(KeyboardInterrupt), loop.interruption() as interrupted:
        os.kill(os.getpid(), signal.Signals[first])
        assert interrupted() == signal.Signals[first]
        os.kill(os.getpid(), signal.SIGINT)


def test_signals_of_one_kind_count_once():
    with loop.interruption() as interrupted:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted() == signal.SIGHUP


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with loop.interruption() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupted() is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def unheard():
    """What `app.say` remembers, empty before and after."""
    app.UNHEARD.clear()
    yield app.UNHEARD
    app.UNHEARD.clear()


def test_output_that_nobody_reads_any_more_ends_nothing(unheard):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        for _ in range(3):
            app.say("a line", stream)
    assert [error.errno for error in unheard] == [errno.EPIPE]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_terminals_and_pipes_may_go(number, unheard, tmp_path):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(number, os.strerror(number))

        def fileno(self):
            return file.fileno()

    with (tmp_path / "x").open("w") as file:
        app.say("a line", Gone())
    assert len(unheard) == 1


def test_a_full_disk_under_the_output_is_told(unheard):
    with (
        open("/dev/full", "w") as stream,
        pytest.raises(OSError, match="No space left"),
    ):
        app.say("a line", stream)
    assert not unheard


@pytest.mark.parametrize(("status", "expected"), [(None, 141), (0, 141), (3, 3)])
def test_the_status_tells_of_a_pipe_that_broke(status, expected, unheard, monkeypatch):
    def main():
        unheard.append(BrokenPipeError())
        return status

    monkeypatch.setattr(app.absl_app, "run", lambda main, **_: main(["a script"]))
    with pytest.raises(SystemExit) as end:
        app.run(main)
    assert end.value.code == expected


@pytest.mark.parametrize("chosen", ["cuda", "tpu", "rocm", "nope", "cuda,cpu"])
def test_a_device_that_is_not_there_is_one_line(chosen, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", chosen)
    error = RuntimeError(f"Unable to initialize backend {chosen!r}: no such\n devices")

    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        app._one_line(main)
    assert end.value.code == 1 and errors.is_backend(error)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS={chosen}: there is no such device")
    assert line.endswith("unset JAX_PLATFORMS, or install that JAX")


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda'")]
)
def test_devices_are_looked_for_before_anything_else(error, monkeypatch):
    def fails():
        raise error

    monkeypatch.setattr(jax, "devices", fails)
    with pytest.raises(
        ValueError, match=r"JAX_PLATFORMS=.*no such device.*unset JAX_P"
    ):
        api.train("toy_8gaussians", workdir="/nowhere")


def test_other_errors_of_the_runtime_keep_their_traceback():
    def main():
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        app._one_line(main)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py"])
def test_scripts_on_a_machine_without_the_device(script, tmp_path):
    flags = FOREVER[1:] if script == "train.py" else ()
    found = subprocess.run(
        [sys.executable, script, *flags, f"--workdir={tmp_path}/run"],
        cwd=experiment.ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1 and "Traceback" not in found.stderr
    lines = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert script != "train.py" or "JAX_PLATFORMS=cuda" in lines[0]


def saved(workdir):
    return [int(p.name) for p in (workdir / checkpoint.DIRECTORY).glob("*")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_work_since_the_last_save_is_kept(name, scripts, tmp_path):
    process = scripts.start(*FOREVER, f"--workdir={tmp_path}").stepping(600)
    process.kill(signal.Signals[name])
    found = process.answer(600)
    step = re.search(rf"{name}: saved at step (\d+); the same command", found.stderr)
    assert found.status == 128 + signal.Signals[name] and int(step[1]) in saved(
        tmp_path
    )


@pytest.fixture
def started(tmp_path):
    """Starts train.py in a group of its own, which ends with the test."""
    made = []

    def start(**options):
        made.append(
            subprocess.Popen(
                [sys.executable, *FOREVER, f"--workdir={tmp_path}/run"],
                cwd=experiment.ROOT,
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
                start_new_session=True,
                **options,
            )
        )
        return made[0]

    yield start
    for process in made:
        process.kill()
        process.wait()


def stepped(tmp_path, process, seconds=600):
    """Waits for its first line of metrics."""
    lines, end = tmp_path / "run/metrics.jsonl", time.monotonic() + seconds
    while not (lines.exists() and lines.stat().st_size):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [["SIGTERM"], ["SIGHUP"], ["SIGINT", "SIGINT"], ["SIGHUP", "SIGTERM", "SIGINT"]],
)
def test_a_signal_to_the_whole_group_loses_nothing(numbers, tmp_path, started):
    """A second Ctrl-C ends at once: with 130, or as the first had been told."""
    log = (tmp_path / "log").open("w")
    process = started(stdout=log, stderr=log)
    stepped(tmp_path, process)
    for name in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.Signals[name])
    status = process.wait(120)
    text = (tmp_path / "log").read_text()
    assert status in (128 + signal.Signals[numbers[0]], 130) and "Traceback" not in text
    assert len(numbers) > 1 or saved(tmp_path / "run")
    # Nothing half-written is in the way.
    assert loop.restore(tmp_path / "run").step if saved(tmp_path / "run") else True


@pytest.mark.slow
def test_a_log_that_nobody_reads_any_more_does_not_end_training(tmp_path, started):
    """As by `train.py 2>&1 | head -1`; a signal still saves."""
    process = started(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.readline()
    process.stdout.close()
    stepped(tmp_path, process)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM and saved(tmp_path / "run")


@pytest.mark.slow
def test_a_terminal_that_is_closed_loses_nothing(tmp_path, started):
    """The progress bar has nowhere to go, and neither have the last words."""
    ours, theirs = os.openpty()
    process = started(stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    stepped(tmp_path, process)
    os.close(ours)
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(120) == 128 + signal.SIGHUP and saved(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["sample.py", "evaluate.py"])
def test_results_are_written_though_nobody_reads_of_them(script, runs, home):
    root = home("toy")
    flags = ["--steps=3", "--num=4"] if script == "sample.py" else []
    process = subprocess.Popen(
        [sys.executable, script, f"--workdir={root}/run", f"--out={root}/out", *flags],
        cwd=experiment.ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    text = process.stderr.read().decode()
    assert process.wait(300) == 128 + signal.SIGPIPE and "Traceback" not in text
    name = "report.json" if script == "sample.py" else "evaluation.json"
    assert (root / "out" / name).exists()
