"""Several processes on this machine against one: numbers, signals, kills, mistakes."""

import importlib.util
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from megjax import distributed
from megjax.training import metric_writer
from tests import together

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOY = [
    "--config=configs/toy_8gaussians.py",
    "--config.width=16",
    "--config.batch_size=16",
    "--config.meg.num_energy_updates=1",
    "--config.train.num_steps=1000000",
    "--config.train.iterations_per_call_cpu=5",
    "--config.train.log_every=5",
    "--config.train.save_every=20",
    "--config.train.evaluate_every=1000000",
]
TIMES = ("per_second", "memory")


def free_address():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def started(arguments, num_devices):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(num_devices),
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def pair(workdir, arguments=("train.py", *TOY), differing=((), ())):
    """Two processes of a script that make one run."""
    address = free_address()
    flags = [f"--workdir={workdir}", f"--coordinator={address}", "--num_processes=2"]
    flags += ["--heartbeat_timeout=10", "--start_timeout=60"]
    return [
        started([*arguments, *flags, f"--process_id={i}", *own], num_devices=1)
        for i, own in enumerate(differing)
    ]


def ended(runs, timeout=60):
    """[(exit status, stderr)] of processes."""
    try:
        texts = [one.communicate(timeout=timeout)[1] for one in runs]
    finally:
        for one in runs:
            one.kill()
    return [(one.returncode, text) for one, text in zip(runs, texts)]


def step_logged(run):
    """Waits for the next line of training and returns its step."""
    for line in run.stderr:
        if found := re.search(r" step (\d+)/", line):
            return int(found[1])
    raise AssertionError("ended without a step")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick_compilation):
    """Everything trained by two processes with four devices each."""
    folder = tmp_path_factory.mktemp("together")
    address = free_address()
    arguments = ["-m", "tests.together", address, "2"]
    runs = [started([*arguments, str(i), str(folder)], num_devices=4) for i in range(2)]
    for status, text in ended(runs, timeout=240):
        assert status == 0, text
    return folder


def same(found, expected, rtol=1e-5, atol=1e-5):
    """Whether two lists of metrics agree, times and memory aside."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        for name in one:
            if not name.endswith(TIMES) and "memory" not in name:
                np.testing.assert_allclose(
                    one[name], other[name], rtol, atol, err_msg=f"{name} {one['step']}"
                )


@pytest.mark.parametrize("name", together.NAMES)
def test_two_processes_are_one_with_as_many_devices(name, folder, tmp_path):
    if name == "streamed" and importlib.util.find_spec("grain") is None:
        pytest.skip("needs grain")
    together.trained(name, tmp_path)
    found = [metric_writer.read(one / name) for one in (folder, tmp_path)]
    steps = [[line for line in lines if line["step"] < 20] for lines in found]
    assert [line["step"] for line in steps[0]] == list(range(1, 20))
    same(*steps)


@pytest.mark.parametrize("num", [1, 2, 4, 8])
def test_any_number_of_devices_goes_on(num, folder, tmp_path):
    name = "toy_25gaussians"
    shutil.copytree(folder / name, tmp_path / name)
    before = (tmp_path / name / "checkpoints").iterdir()
    assert {path.name for path in before} >= {"10", "20"}
    more = {"train.num_steps": 21, "train.evaluate_every": 100}
    together.trained(name, tmp_path, jax.devices()[:num], **more)
    reference = folder / "gone on"
    if not reference.exists():
        shutil.copytree(folder / name, reference / name)
        together.trained(name, reference, jax.devices()[:3], **more)
    last = [metric_writer.read(one / name)[-1] for one in (tmp_path, reference)]
    assert last[0]["step"] == 21
    same(last[:1], last[1:])


def test_a_signal_to_one_saves_all_at_one_step(tmp_path):
    runs = pair(tmp_path)
    step_logged(runs[0])
    runs[1].send_signal(signal.SIGTERM)
    found = ended(runs)
    assert [status for status, _ in found] == [143, 143]
    steps = [re.search(r"saved at step (\d+)", text)[1] for _, text in found]
    assert steps[0] == steps[1]
    assert (tmp_path / "checkpoints" / steps[0]).is_dir()
    # Only the main process tells how it goes.
    assert " step " not in found[1][1].partition("SIGTERM:")[0]


@pytest.mark.parametrize(
    ("differing", "words"),
    [
        ((["--config.train.seed=1"], []), "process 1 was started with another config"),
        (([], ["--workdir=/proc/none", "--config.batch_size=0"]), "batch_size=0"),
    ],
)
def test_a_mistake_of_one_ends_all_with_the_reason(differing, words, tmp_path):
    for status, text in ended(pair(tmp_path, differing=differing)):
        assert status == 1, text
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, text
        assert words in lines[0]
        assert "Traceback" not in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("127.0.0.1:1234", 2, None), "together"),
        (("127.0.0.1", 2, 0), "HOST:PORT"),
        (("127.0.0.1:99999", 2, 0), "HOST:PORT"),
        (("127.0.0.1:1234", 2, 2), "numbered 0 to"),
    ],
)
def test_settings_that_do_not_fit_are_told(given, words):
    with pytest.raises(ValueError, match=words):
        distributed.start(*given)


def test_waiting_must_be_positive():
    with pytest.raises(ValueError, match="at least 1 s"):
        distributed.start("127.0.0.1:1234", 1, 0, heartbeat_timeout=0)


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (ValueError("coordinator_address should be defined."), "no cluster found"),
        (RuntimeError("DEADLINE_EXCEEDED"), "did not all join in 300 s"),
    ],
)
def test_what_the_runtime_answers_is_put_in_words(monkeypatch, raised, words):
    def initialize(*args, **kwargs):
        raise raised

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=words):
        distributed.start()
