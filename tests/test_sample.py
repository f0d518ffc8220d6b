"""The command line of sample.py, on a closed-form learner in place of a checkpoint."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent

STUBBED = """
import sys, types
import jax, jax.numpy as jnp
import sample
from megjax import command, training
from megjax.learners.learner import Learner

learner = Learner(
    init=None,
    step=None,
    sample=lambda key, state, num: state * jax.random.normal(key, (num, 2)),
    energy=lambda state, x: jnp.sum(x**2, axis=1) / 2,
    latents=lambda key, num: jax.random.normal(key, (num, 2)),
    generate=lambda state, z: state * z,
)

def restore(workdir):
    built = types.SimpleNamespace(learner=learner)
    return training.Restored(None, built, jnp.float32(1), 7)

training.restore = restore
command.run(sample.main)
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
    assert done.stderr.startswith("error: num=0, steps=100: both must be at least 1")
