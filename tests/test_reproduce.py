"""Reproduction by resumable runs: what is called, what is skipped, what is printed."""

import json

import pytest
from absl import flags

from benchmarks import measure, reproduce
from megjax.training import checkpoint, evaluate

SIDES = ("buffer", "floor", "start")
RUN = reproduce.Run("row", "configs/digits.py", {"meg.score_weight": 2, "width": 8})


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """The scripts that were called, in place of running them; runs in a directory."""
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["test", f"--runs={tmp_path}"])
    called = []

    def call(script, *arguments):
        called.append((script, *arguments))
        workdir = tmp_path / "digits-score_weight=2-width=8-seed=3"
        if script == "train.py":
            workdir.mkdir(exist_ok=True)
            values = {"train": {"num_steps": 9}}
            record = checkpoint.Record("digits", None, (8, 8, 1), values)
            checkpoint.claim(workdir, record)
        else:
            (workdir / "evaluation").mkdir(exist_ok=True)
            entry = {"grid": {"step": 9, "metrics": {"a": 1.5}}}
            path = workdir / "evaluation" / evaluate.FILE_NAME
            path.write_text(json.dumps(entry))

    monkeypatch.setattr(reproduce, "called", call)
    yield called
    flags.FLAGS.unparse_flags()


def test_seeds_have_a_sample_deviation():
    """KDD99's F1: squares of the deviations sum to 3.135e-5, over four."""
    values = [0.9500, 0.9456, 0.9443, 0.9424, 0.9453]
    assert measure.over_seeds(values, ".4f", ".4f") == "0.9455 +- 0.0028"
    assert measure.over_seeds([1.0, 3.0]) == "2 +- 1.4"
    assert measure.over_seeds([0.25]) == "0.25"
    assert measure.over_seeds([3569.0, 5649.0]) == "4609 +- 1500"


def test_a_run_gets_its_seed_and_fields(scripts, tmp_path):
    workdir = reproduce.trained(RUN, 3)
    assert scripts == [
        (
            "train.py",
            "--config=configs/digits.py",
            f"--workdir={workdir}",
            "--config.train.seed=3",
            "--config.meg.score_weight=2",
            "--config.width=8",
        )
    ]


def test_an_evaluation_of_the_end_is_not_repeated(scripts):
    for _ in range(2):
        found = reproduce.evaluated(RUN, "grid", 3, **{"evaluation.num": 5})
        assert found == {"a": 1.5}
    assert [script for script, *_ in scripts] == ["train.py", "evaluate.py", "train.py"]
    assert scripts[1][2:] == ("--only=grid", "--set=evaluation.num=5")
    path = RUN.workdir(3) / "evaluation" / evaluate.FILE_NAME
    path.write_text(path.read_text().replace("9", "4"))
    reproduce.evaluated(RUN, "grid", 3)
    assert scripts[-1][0] == "evaluate.py"


def test_rows_are_printed_and_kept(scripts, monkeypatch, tmp_path, capsys):
    rows = [("", "KL"), ("MEG", 0.12345678)]
    monkeypatch.setitem(reproduce.TABLES, "table1", lambda: iter(rows))
    reproduce.main("table1")
    assert capsys.readouterr().out.splitlines() == [
        "|  | KL |",
        "|---|---|",
        "| MEG | 0.1235 |",
    ]
    assert json.loads((tmp_path / "table1.json").read_text())[1] == ["MEG", "0.1235"]


def test_a_failing_script_stops_the_table(monkeypatch):
    with pytest.raises(ValueError, match="evaluate.py failed with status 1"):
        reproduce.called("evaluate.py", "--workdir=/nowhere")


def test_image_energies_have_a_cell_for_every_head(scripts, monkeypatch):
    found = {f"{m}_{s}": 1.0 for m in ("frechet", "energy_distance") for s in SIDES}
    names = ("acceptance", "energy_before", "energy_after")
    names += ("distance_before", "distance_after")
    found |= {f"{name}_{s}": 2.0 for name in names for s in ("buffer", "start")}
    monkeypatch.setattr(reproduce, "evaluated", lambda *_: found)
    log = [
        {"step": step, "entropy_per_dim": step, "acceptance": -step}
        | {"iterations_per_second": 7.0}
        for step in range(1, 21)
    ]
    log.insert(3, {"step": 3, "buffer/frechet_buffer": 0.1})
    monkeypatch.setattr(reproduce, "trained", lambda run, seed: None)
    monkeypatch.setattr(reproduce.metric_writer, "read", lambda workdir: log)
    head, *rows = reproduce.image_ebm()
    assert [len(row) for row in rows] == [len(head)] * 2
    for row, name, fid in zip(rows, ("neural", "mala"), (38.1, 43.0)):
        cells = dict(zip(head, row))
        assert cells["sampler"] == f"{name}, seed 0" and cells["paper: FID"] == fid
        assert (cells["entropy, early"], cells["late"]) == (1.5, 19.5)
        assert cells["acceptance"] == -19.5 and cells["iterations a second"] == 7


def test_a_digit_has_every_score_once_trained_beside_those_of_pixels(
    scripts, monkeypatch
):
    names = ("prevalence", "minimum_auprc")
    scores = ("neighbor_energy", "feature_distance", "energy", "score_norm")
    names += tuple(
        f"{score}_{area}"
        for score in scores
        for area in ("average_precision", "auprc", "auroc")
    )
    log = [
        {f"anomaly/{name}": share + i for i, name in enumerate(names)} | {"step": 1}
        for share in (0.25, 0.5)
    ]
    monkeypatch.setattr(reproduce, "trained", lambda run, seed: None)
    monkeypatch.setattr(reproduce.metric_writer, "read", lambda workdir: log)
    asked = []

    def module(*arguments):
        asked.append(arguments)
        kinds = {"PCA 32": "relative reconstruction", "neighbors, 9": "neighbor energy"}
        return {
            "results": [
                {"baseline": name, "score": score, "average_precision": len(asked)}
                for name, score in kinds.items()
            ]
        }

    monkeypatch.setattr(reproduce.measure, "module", module)
    for _ in range(2):
        head, *rows = reproduce.table4()
        assert [len(row) for row in rows] == [len(head)] * 10
    # The baselines of a digit are kept.
    assert len(asked) == 10 and "--config=configs/mnist_anomaly_small.py:9" in asked[-1]
    cells = dict(zip(head, rows[9]))
    assert (cells["digit"], cells["BiGAN"]) == ("9, seed 0", 0.307)
    assert cells["chance"] == 0.5 and cells["minimum"] == 1.5
    for name in scores:
        for area in ("average_precision", "auprc"):
            title = {"auprc": "AUPRC"}.get(area, "average precision")
            expected = 0.5 + names.index(f"{name}_{area}")
            assert cells[f"{title}, {name}"] == expected
    assert cells["AUROC, neighbor_energy"] == 0.5 + names.index("neighbor_energy_auroc")
    assert cells["average precision, PCA 32 of pixels"] == 10
