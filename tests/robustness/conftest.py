"""Scripts that fork, and small trained runs to mistreat."""

import re
import shlex
import shutil

import pytest

from tests.robustness import scripts as forks

TRAIN = (
    *("--config.train.num_steps=20", "--config.train.save_every=10"),
    *("--config.train.log_every=10", "--config.train.evaluate_every=20"),
    "--config.train.iterations_per_call_cpu=10",
)
TOY = (
    *("--config=configs/toy_8gaussians.py", "--config.width=16"),
    *("--config.batch_size=16", "--config.meg.num_energy_updates=1", *TRAIN),
)
RBM = (
    *("--config=configs/rbm_digits.py", "--config.num_hidden=4"),
    "--config.contrast.num_sample_sweeps=2",
    *("--config.evaluation.num_examples=20", *TRAIN),
)
DRAW = ("--space=none", "--num=4")
# Shorter ones make room for others once they are done.
LONG = ("--num=2", "--steps=10500", "--keep_draws", "--step_size=0.1", "--space=data")


HUGE = "1" + 30 * "0"


def cases(text, *, words=True):
    """A parameter (case, what is said) for every case of a table.

    Its lines are "what is said :: case  case ..."; what the line above says where one
    begins with "::". The first case of a line with a star is quick. A case is a list of
    words in which quotes count as in a shell, or what stands there.
    """
    says = ""
    for line in text.replace("HUGE", HUGE).strip("\n").splitlines():
        head, _, found = line.partition("::")
        says = head.strip(" *") if head else says
        for i, case in enumerate(re.split(r"\s{2,}", found.strip())):
            quick = head[:1] == "*" and i == 0
            value = [w for one in shlex.split(case) for w in shlex.split(one)]
            yield pytest.param(
                value if words else case,
                says,
                id=case[:70],
                marks=() if quick else pytest.mark.slow,
            )


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """One process that forks every script of these tests."""
    found = forks.Scripts(tmp_path_factory.mktemp("scripts"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def runs(scripts, tmp_path_factory):
    """name -> a folder with run/ in it, trained the first time that it is asked for.

    drawn: an rbm with samples of its newest and its older checkpoint. traced: a toy
    with a long chain.
    """
    root = tmp_path_factory.mktemp("runs")

    def made(name):
        home = root / name
        if home.exists():
            return home
        if name in ("toy", "rbm"):
            line = TOY if name == "toy" else RBM
            scripts.succeed("train.py", *line, f"--workdir={home}/run")
        if name == "drawn":
            shutil.copytree(made("rbm"), home)
            shutil.copytree(home / "run", home / "half")
            shutil.rmtree(home / "half/checkpoints/20")
            for run, out in (("run", "newest"), ("half", "older")):
                flags = (f"--workdir={home}/{run}", f"--out={home}/{out}")
                scripts.succeed("sample.py", *flags, *DRAW)
        if name == "traced":
            shutil.copytree(made("toy"), home)
            flags = (f"--workdir={home}/run", f"--out={home}/out")
            scripts.succeed("sample.py", *flags, *LONG)
        return home

    return made


@pytest.fixture
def home(runs, tmp_path):
    """(name of a run or "") -> a copy of it that may be mistreated, or a new folder."""
    root = tmp_path / "home"

    def made(name=""):
        if name:
            shutil.copytree(runs(name), root)
        root.mkdir(exist_ok=True)
        return root

    yield made
    shutil.rmtree(root, ignore_errors=True)
