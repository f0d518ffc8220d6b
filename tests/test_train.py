"""What train.py answers to mistakes, signals and kills."""

import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from megjax.training import checkpoint, experiment

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIGITS = "--config=configs/digits.py"
TOY = "--config=configs/toy_8gaussians.py"

TINY = [
    TOY,
    "--config.width=16",
    "--config.batch_size=16",
    "--config.meg.num_energy_updates=1",
    "--config.train.log_every=100",
    "--config.train.save_every=100",
]

# One process forks for every command line: the imports take most of the time.
FORKS = """
import json, os, sys
import jax, orbax.checkpoint
from megjax.commands import train
from megjax.recipes import anomalies, meg
from megjax import app
from megjax.training import experiment, loop as training

def told(arguments):
    read, write = os.pipe()
    if not (child := os.fork()):
        os.dup2(write, 1), os.dup2(write, 2)
        sys.argv = ["train.py", *arguments]
        try:
            train.flags.mark_flag_as_required("config")
            app.run(train.main)
        except SystemExit as error:
            sys.stderr.flush()
            os._exit(error.code or 0)
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(99)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text

print(json.dumps([told(arguments) for arguments in json.load(sys.stdin)]))
"""


def environment(**more):
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "TFDS_DATA_DIR": "/nowhere",
        **more,
    }


def train(*arguments, **more):
    return subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
    )


# name -> (flags, with {root} for a directory; what the line says).
MISTAKES = {
    "no config": ([], "Flag --config must have a value"),
    "unknown config": (["--config=configs/nope.py"], "No such file.*'configs/nope.py'"),
    "a directory": (["--config=configs"], "no config file 'configs': give"),
    "no Python": (["--config={root}/broken.py"], r"broken.py, line 1\)"),
    "unknown flag": ([DIGITS, "--nope=3"], "Unknown command line flag 'nope'"),
    "positional": ([DIGITS, "extra"], "unexpected argument 'extra': flags are --name"),
    "argument": (["--config=configs/mnist.py:x"], "data set 'x': choose one of mnist"),
    "digit": (["--config=configs/mnist_anomaly.py:10"], "digit '10': choose one of 0"),
    "stacked": (
        ["--config=configs/stacked_mnist.py:5"],
        "'5' stacked .* choose 3 or 4",
    ),
    "field": ([DIGITS, "--config.nope=3"], "the config has no field nope"),
    "deep field": ([DIGITS, "--config.meg.nope=3"], "the config has no field nope"),
    "type": ([DIGITS, "--config.width=wide"], "--config.width=wide: invalid literal"),
    "width": ([DIGITS, "--config.width=0"], "config.width=0: give at least 1"),
    "batch": ([DIGITS, "--config.batch_size=0"], "config.batch_size=0: give at least"),
    "steps": ([DIGITS, "--config.train.num_steps=0"], "config.train.num_steps=0: give"),
    "bound": ([DIGITS, "--config.meg.bound=x"], "config.meg.bound='x': choose one of"),
    "dtype": ([DIGITS, "--config.dtype=half"], "config.dtype='half': choose one of"),
    "data": (
        ["--config=configs/cifar10.py"],
        "No prepared dataset 'cifar10' in /nowhe",
    ),
    "table": (
        ["--config=configs/kdd99.py"],
        "No kddcup.data_10_percent.gz in /nowhere",
    ),
    "no path": (
        ["--config=configs/custom.py"],
        "config.path is empty: give --config.p",
    ),
    "path": (
        ["--config=configs/custom.py", "--config.path=/nowhere"],
        "No training data at '/nowhere': give a folder",
    ),
    "broken array": (
        ["--config=configs/custom.py", "--config.path={root}/broken.npy"],
        "broken.npy",
    ),
    "memory": (
        [*TINY, "--config.width=400000"],
        "out of memory .*: lower config.batch",
    ),
    "file": ([TOY, "--workdir={root}/file"], "/file is no directory: name another"),
    "below a file": ([TOY, "--workdir={root}/file/run"], "file/run is no directory"),
    "another run": (
        [TOY, "--workdir={root}/other", "--config.batch_size=8"],
        r"holds a run with another config \(batch_size: the run has 3, given 8",
    ),
    "damaged record": ([TOY, "--workdir={root}/damaged"], "config.json is damaged"),
    "lost record": ([TOY, "--workdir={root}/lost"], "config.json is missing"),
    "damaged states": (
        [TOY, "--workdir={root}/empty"],
        "every checkpoint in .*/empty/checkpoints is damaged: delete that directory",
    ),
}


@functools.cache
def runs_config():
    return experiment.plain_values(experiment.load("toy_8gaussians"))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """name -> (exit status, what is printed), after the same workdir where not given."""
    root = tmp_path_factory.mktemp("mistakes")
    (root / "broken.py").write_text("def (")
    (root / "broken.npy").write_bytes(b"\x93NUMPY")
    (root / "file").touch()
    for name in ("other", "damaged", "lost", "empty"):
        (root / name).mkdir()
        values = runs_config() | ({"batch_size": 3} if name == "other" else {})
        record = checkpoint.Record("toy_8gaussians", "meg.plane", (2,), values)
        checkpoint.claim(root / name, record)
        (root / name / "checkpoints/5").mkdir(parents=True)
    (root / "damaged/config.json").write_text("{")
    (root / "lost/config.json").unlink()
    lines = [
        [f"--workdir={root}/run", *(a.format(root=root) for a in arguments)]
        for arguments, _ in MISTAKES.values()
    ]
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        cwd=ROOT,
        env=environment(),
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(MISTAKES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_one_line(answers, name):
    status, text = answers[name]
    lines = [line for line in text.splitlines() if "is damaged (" not in line]
    if name == "damaged record":
        lines = text.splitlines()
    assert status == 1 and len(lines) == 1, text
    assert re.match(f"error: .*{MISTAKES[name][1]}", lines[0]), text


@pytest.mark.slow
def test_the_script_itself_tells_them(tmp_path):
    done = train("--config=configs/mnist.py", f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: No prepared dataset 'mnist' in /nowhere")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
    done = train("--config=configs/mnist.py", MEGJAX_TRACEBACK="1")
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Processes of these tests compile once."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_signals_save_and_exit(tmp_path, cache, number, status):
    with subprocess.Popen(
        [sys.executable, "train.py", *TINY, f"--workdir={tmp_path}"]
        + ["--config.train.num_steps=1000000"],
        cwd=ROOT,
        env=environment(**cache),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while "step " not in process.stderr.readline():
            pass
        process.send_signal(number)
        text = process.stderr.read()
    assert process.returncode == status, text
    step = re.search(
        rf"^{number.name}: saved at step (\d+); the same .*\n\Z", text, re.MULTILINE
    )
    assert (tmp_path / "checkpoints" / step[1]).is_dir()
    assert "Traceback" not in text


@pytest.mark.slow
def test_kills_leave_the_run_as_it_was():
    line = [
        sys.executable,
        "-m",
        "tests.robustness.faults",
        "--only=kills",
        "--kills=2",
    ]
    line += ["--steps=1500", f"--seed={time.time_ns() % 10**6}"]
    done = subprocess.run(
        line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as it should be" in done.stdout
