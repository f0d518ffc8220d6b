"""evaluate.py: what it writes, what it keeps, and what it refuses."""

import json
import math
import os
import pathlib
import subprocess
import sys
import types

import jax.numpy as jnp
import ml_collections
import numpy as np
import PIL.Image
import pytest

from megjax.training import evaluate, experiment, loop
from megjax.types import Report

ROOT = pathlib.Path(__file__).resolve().parents[2]
PICTURE = np.full((4, 6, 3), 200, np.uint8)


def restored(protocols=None, **evaluations):
    recipe = experiment.Recipe(
        data=lambda config: types.SimpleNamespace(shape=(3,)),
        learner=None,
        evaluations=lambda *_: evaluations,
        protocols=lambda *_: protocols or {},
    )
    return loop.Restored(None, None, jnp.ones(3), 7, (3,), recipe)


def constant(**metrics):
    return lambda key, state: Report(metrics, {"shot": PICTURE})


def run(found, out, names=(), seed=0):
    return dict(evaluate.evaluate(found, names, out, seed=seed))


def test_metrics_and_pictures_are_written(tmp_path):
    found = restored(protocols={"slow": constant(b=2)}, quick=constant(a=np.float32(1)))
    reports = run(found, tmp_path / "new/out")
    assert list(reports) == ["quick", "slow"]
    entries = evaluate.read(tmp_path / "new/out")
    assert entries["quick"]["metrics"] == {"a": 1.0}
    assert entries["slow"]["metrics"] == {"b": 2}
    assert entries["quick"]["step"] == 7
    shown = np.asarray(PIL.Image.open(tmp_path / "new/out/quick_shot.png"))
    np.testing.assert_array_equal(shown, PICTURE)


def test_changed_fields_are_on_record(tmp_path):
    found = restored(quick=constant(a=1))
    for changed in ((), ["evaluation.num=5"]):
        dict(evaluate.evaluate(found, (), tmp_path, seed=0, changed=changed))
        assert evaluate.read(tmp_path)["quick"].get("changed", []) == list(changed)


def test_the_state_is_handed_over(tmp_path):
    found = restored(total=lambda key, state: Report({"sum": jnp.sum(state)}))
    assert run(found, tmp_path)["total"].metrics["sum"] == 3


def test_one_seed_gives_one_key(tmp_path):
    keys = []
    found = restored(a=lambda key, state: keys.append(key) or Report({}))
    for seed in (0, 0, 1):
        run(found, tmp_path, seed=seed)
    assert keys[0] == keys[1] and keys[0] != keys[2]


def test_other_entries_stay_and_the_same_one_is_replaced(tmp_path):
    run(restored(a=constant(v=1), b=constant(v=1)), tmp_path)
    run(restored(a=constant(v=2), b=constant(v=2)), tmp_path, names=["a"])
    entries = evaluate.read(tmp_path)
    assert [entries[name]["metrics"]["v"] for name in "ab"] == [2, 1]


def test_finished_entries_survive_a_failure(tmp_path):
    def fails(key, state):
        raise ValueError("no weights")

    with pytest.raises(ValueError, match="no weights"):
        run(restored(a=constant(v=1), b=fails), tmp_path)
    assert list(evaluate.read(tmp_path)) == ["a"]


def test_what_is_no_number_becomes_null(tmp_path):
    run(restored(a=constant(nan=math.nan, inf=math.inf, one=1)), tmp_path)
    text = (tmp_path / evaluate.FILE_NAME).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["a"]["metrics"] == {
        "nan": None,
        "inf": None,
        "one": 1,
    }


def test_unknown_names_and_empty_experiments_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="no evaluation .c. .--only.: the run's config has a, b"
    ):
        run(restored(protocols={"b": constant()}, a=constant()), tmp_path, names=["c"])
    with pytest.raises(ValueError, match="names no evaluation"):
        run(restored(), tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_damaged_results_are_told(tmp_path, text):
    (tmp_path / evaluate.FILE_NAME).write_text(text)
    with pytest.raises(ValueError, match="remove it"):
        run(restored(a=constant()), tmp_path)


def config():
    return ml_collections.ConfigDict(
        {"width": 4, "name": "x", "evaluation": {"rate": 0.5, "path": ""}}
    )


def test_assignments_have_the_type_of_their_field():
    found = config()
    experiment.assign(
        found, ["width=8", "evaluation.rate=0.25", "evaluation.path=a=b.npz"]
    )
    assert (found.width, found.evaluation.rate) == (8, 0.25)
    assert found.evaluation.path == "a=b.npz"


@pytest.mark.parametrize(
    "assignment",
    ["width", "height=3", "evaluation=3", "evaluation.no=1", "width=x", "width.a=1"],
)
def test_wrong_assignments_are_refused(assignment):
    with pytest.raises(ValueError, match=assignment.split("=", maxsplit=1)[0]):
        experiment.assign(config(), [assignment])


def test_results_do_not_make_a_run_the_newest(tmp_path):
    for age, name in enumerate(("young", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        os.utime(tmp_path / name / "config.json", (1e9 - age, 1e9 - age))
    (tmp_path / "old/evaluation").mkdir()
    assert experiment.newest(tmp_path) == tmp_path / "young"


def command_line(*arguments, cwd):
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_run_is_one_line(tmp_path):
    for arguments in ((), ("--workdir=nowhere",)):
        done = command_line(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert "--workdir" in done.stderr
