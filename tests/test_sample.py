"""The command line of sample.py, on a closed-form learner in place of a checkpoint."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

STUBBED = """
import os, sys
import jax, jax.numpy as jnp
from megjax.commands import sample
from megjax import app
from megjax.sampling import store
from megjax.training import loop
from megjax.learners.base import Learner
from megjax.samplers import mala

# Three coordinates have no pictures.
dim = 3 if "--space=data" in sys.argv else 2
learner = Learner(
    init=None,
    step=None,
    sample=lambda key, state, num: state * jax.random.normal(key, (num, dim)),
    energy=lambda state, x: jnp.sum(x**2, axis=1) / 2,
    latents=lambda key, num: jax.random.normal(key, (num, 2)),
    generate=lambda state, z: state * z,
)

def kernel(state, log_density_fn, has_aux):
    return mala.mala(log_density_fn, step_size=0.1, has_aux=has_aux)

def restore(workdir, recipe=None):
    config, made = {}, learner
    if workdir.name == "proposal":
        config, made = {"inverse_temperature": 3.0}, learner._replace(kernel=kernel)
    return loop.Restored(config, made, jnp.float32(1), 7, (dim,), recipe)

loop.restore = restore
store.SAVE_SECONDS = float(os.environ.get("SAVE_SECONDS", 60))
app.run(sample.main)
"""


def sample(directory, *arguments):
    """sample.py with flags, in its own process because flags are global."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", STUBBED, *arguments],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def run_directory(path, age):
    path.mkdir(parents=True)
    (path / "metrics.jsonl").touch()
    os.utime(path / "metrics.jsonl", (1e9 - age, 1e9 - age))


def test_the_newest_run_is_sampled_and_reported(tmp_path):
    run_directory(tmp_path / "runs/old", age=100)
    run_directory(tmp_path / "runs/new", age=10)
    # Sampling an old run does not make it the newest.
    (tmp_path / "runs/old/samples").mkdir()
    done = sample(tmp_path, "--steps=5", "--num=16", "--kernel=rwm", "--seed=3")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs/new/samples"
    assert np.load(out / "samples.npz")["z"].shape == (16, 2)
    assert json.loads((out / "report.json").read_text())["steps"] == 5
    assert "16 samples of runs/new at step 7 in runs/new/samples/" in done.stdout
    for word in ("step size", "acceptance", "energy", "R-hat", "ESS"):
        assert word in done.stdout


def test_latents_are_tempered(tmp_path):
    flags = ("--kernel=tempering", "--num_replicas=3", "--steps=5", "--num=4")
    done = sample(tmp_path, "--workdir=run", *flags, "--out=out")
    assert done.returncode == 0, done.stderr
    assert "acceptance" in done.stdout
    assert np.load(tmp_path / "out/samples.npz")["z"].shape == (4, 2)


def test_mistakes_are_told_in_one_line(tmp_path):
    done = sample(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: no run under runs/: name one with --workdir, or train with train.py\n"
    )
    done = sample(tmp_path, "--workdir=here", "--kernel=neural")
    assert done.returncode == 1
    assert done.stderr.startswith("error: this run has trained no proposal: name one")
    done = sample(tmp_path, "--workdir=here", "--num=0")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: num=0, steps=100: give at least 1 chain")


@pytest.mark.parametrize(
    ("given", "walked"),
    [((), 3.0), pytest.param(("2",), 2.0, marks=pytest.mark.slow)],
)
def test_a_proposal_walks_at_the_temperature_that_it_was_trained_for(
    given, walked, tmp_path
):
    flags = ["--workdir=run", "--kernel=neural", "--proposal=proposal", "--num=4"]
    flags += [f"--inverse_temperature={value}" for value in given]
    done = sample(tmp_path, *flags, "--steps=5", "--out=out")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["inverse_temperature"] == walked


LONG = ("--workdir=run", "--steps=20000", "--num=4", "--burn_in=7", "--step_size=0.3")
LONG += ("--keep_draws", "--space=data")


def started(directory, out):
    """A long walk of sample.py under way, with something of it on disk."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBED, *LONG, f"--out={out}"],
        cwd=directory,
        env=env | {"SAVE_SECONDS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    draft = directory / out / "chunks/draft.npz"
    before = draft.stat().st_mtime_ns if draft.exists() else 0
    while process.poll() is None:
        if draft.exists() and draft.stat().st_mtime_ns != before:
            return process
        time.sleep(0.01)
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_a_walk_killed_and_terminated_ends_as_the_untouched_one(tmp_path):
    process = started(tmp_path, "killed")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process = started(tmp_path, "killed")
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 128 + signal.SIGTERM
    assert told.startswith("SIGTERM: saved at step ")
    assert told.endswith(" of 20007; the same command goes on")
    for out in ("killed", "whole"):
        assert sample(tmp_path, *LONG, f"--out={out}").returncode == 0
    for part in ("", "chunks"):
        killed, whole = (
            {p.name: p.read_bytes() for p in (tmp_path / out / part).glob("*.*")}
            for out in ("killed", "whole")
        )
        assert killed == whole
    # The start, the burn-in and 20 pieces.
    assert len(list((tmp_path / "killed/chunks").glob("*.npz"))) == 22
    report = json.loads((tmp_path / "killed/report.json").read_text())
    assert (report["thin"], report["burn_in"], report["steps"]) == (2, 7, 20000)
