"""Chains that several processes draw together: the same draws, one store, one report."""

import signal
import time

import jax
import numpy as np
import pytest

from megjax import distributed
from megjax.sampling import store
from megjax.training import evaluate
from tests import drawing
from tests.test_processes import ended, free_address, started
from tests.test_sample import STUBBED

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything drawn by two processes with four devices each."""
    folder = tmp_path_factory.mktemp("drawing")
    arguments = ["-m", "tests.drawing", free_address(), "2"]
    runs = [started([*arguments, str(i), str(folder)], num_devices=4) for i in range(2)]
    for status, text in ended(runs, timeout=900):
        assert status == 0, text
    return folder


def same(found, expected, tolerance):
    """Whether the traces and the step sizes agree."""
    assert {"x", "energy", "acceptance_rate", "step_size"} < set(found)
    for field in set(found):
        value = getattr(expected, field)
        np.testing.assert_allclose(
            found[field], value, tolerance, tolerance, err_msg=field
        )


@pytest.mark.parametrize("num", [1, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", drawing.CASES)
def test_two_processes_draw_what_one_does(name, num, folder, tmp_path):
    """To the bit with as many devices, to rounding with one."""
    if (
        num == 1
        and drawing.CASES[name]["steps"]
        and "step_size" not in drawing.CASES[name]
    ):
        pytest.skip("the warm-up amplifies rounding")
    mesh = distributed.data_mesh(jax.devices()[:num])
    expected = drawing.drawn(name, tmp_path, mesh)
    tolerance = 0 if num == 8 else 1e-4
    for process in range(2):
        same(np.load(folder / f"{name}_{process}.npz"), expected, tolerance)
    if drawing.CASES[name]["steps"]:
        draws = [store.draws(one / name) for one in (folder, tmp_path)]
        np.testing.assert_allclose(*draws, tolerance, tolerance)
        np.testing.assert_array_equal(draws[1][:, -1], expected.draws[:, -1])


def test_evaluations_share_their_chains(folder, tmp_path):
    expected = drawing.evaluated(tmp_path)
    entries = evaluate.read(folder / "evaluation")
    assert list(entries) == ["chains", "own"]
    for name, devices in (("chains", 8), ("own", 4)):
        assert entries[name]["device"] == f"{devices} x cpu"
        found = dict(entries[name]["metrics"])
        assert found.pop("num_devices") == devices
        assert len(found) > 0
        for metric, value in found.items():
            if "per_second" not in metric:
                # Rounding changes the step size that is tuned.
                expected_value = expected[name].metrics[metric]
                np.testing.assert_allclose(value, expected_value, 0.02, err_msg=metric)


TOGETHER = STUBBED.replace(
    "app.run(sample.main)", "app.run(sample.main, distributed=True, preemptible=True)"
)
LONG = ("--workdir=run", "--steps=20000", "--num=16", "--burn_in=7", "--step_size=0.3")
LONG += ("--keep_draws", "--space=data")


def pair(directory, *arguments, differing=((), ())):
    """Two processes of sample.py, with four devices each, in a directory."""
    own = [f"--coordinator={free_address()}", "--num_processes=2"]
    own += ["--heartbeat_timeout=10", "--start_timeout=60", f"--workdir={directory}"]
    return [
        started(
            ["-c", TOGETHER, *arguments, *own, f"--process_id={i}", *differing[i]], 4
        )
        for i in range(2)
    ]


def files(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*.*")
    }


def struck(directory, out, process, number):
    """(status, stderr) of two processes, one of which gets a signal while they draw."""
    runs = pair(directory, *LONG, f"--out={out}")
    draft = out / "chunks/draft.npz"
    before = draft.stat().st_mtime_ns if draft.exists() else 0
    while not (draft.exists() and draft.stat().st_mtime_ns != before):
        assert [one.poll() for one in runs] == [None, None], ended(runs)
        time.sleep(0.01)
    runs[process].send_signal(number)
    return ended(runs, timeout=900)


@pytest.mark.slow
def test_chains_of_two_processes_survive_a_death_and_a_signal(tmp_path, monkeypatch):
    monkeypatch.setenv("SAVE_SECONDS", "0")
    out = tmp_path / "killed"
    # Process 0 is the one that writes, and the coordinator of the others.
    for process in (1, 0):
        found = struck(tmp_path, out, process, signal.SIGKILL)
        assert found[process][0] == -signal.SIGKILL
        assert found[1 - process][0] not in (0, 143)
    found = struck(tmp_path, out, 1, signal.SIGTERM)
    assert [status for status, _ in found] == [143, 143], found
    for _, text in found:
        assert "SIGTERM: saved at step " in text
        assert "the same command goes on" in text
    for one in (out, tmp_path / "whole"):
        for status, text in ended(pair(tmp_path, *LONG, f"--out={one}"), timeout=900):
            assert status == 0, text
    assert files(out) == files(tmp_path / "whole")
    assert len(list((out / "chunks").glob("*.npz"))) == 22


@pytest.mark.slow
def test_mistakes_and_failures_of_one_end_both(tmp_path):
    (tmp_path / "out/samples.npz").mkdir(parents=True)
    short = ("--steps=5", "--num=16", "--step_size=0.3", f"--out={tmp_path / 'out'}")
    for differing, words in (
        (([], ["--steps=6"]), "process 1 was started with other flags than process 0"),
        (([], [f"--out={tmp_path / 'other'}"]), "samples.npz"),
    ):
        runs = pair(tmp_path, *short, differing=differing)
        for status, text in ended(runs, timeout=900):
            assert status == 1, text
            lines = [line for line in text.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, text
            assert words in lines[0]
    assert not (tmp_path / "other").exists()
