"""The table of samplers, small: every column is filled and means what it says."""

import functools
from unittest import mock

import jax
import numpy as np
import pytest

from benchmarks import proposals
from configs import proposal_icg
from megjax.densities import targets
from megjax.recipes import proposal as recipe
from megjax.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = proposals.Settings(num_chains=16, num_draws=200, warm_up=100)


@pytest.mark.parametrize(
    "label",
    [
        pytest.param(label, marks=[] if label == "MALA" else pytest.mark.slow)
        for label in proposals.BASELINES
    ],
)
def test_a_baseline_is_measured(label):
    target = targets.gaussian("", np.array([1.0, 4.0]))
    keys = jax.random.split(jax.random.key(0))
    ready = proposals.BASELINES[label](keys[0], target, SMALL)
    found = proposals.measured(keys[1], ready, target, SMALL)
    assert 0.4 < found["acceptance"] < 1 and found["divergent"] == 0
    assert 0.5 < found["variance_ratio_lowest"] < found["variance_ratio_highest"] < 2
    assert 0.05 < found["ess_above"] <= 1
    gradients = found["gradients_per_draw"]
    assert gradients == 1 if "MALA" in label else 1 < gradients < 20
    per_gradient = found["ess_above"] / gradients
    np.testing.assert_allclose(found["ess_above_per_gradient"], per_gradient)
    assert "ess_above_published" not in found
    # Four times the variance makes a quarter of every correlation, as German's.
    inflated = target.moments._replace(variance=4 * target.moments.variance)
    again = proposals.measured(keys[1], ready, target, SMALL, published=inflated)
    assert again["ess_above"] == found["ess_above"]
    assert again["ess_above_published"] > 1.2 * found["ess_above"]


def test_a_trained_proposal_is_measured(monkeypatch, tmp_path):
    """Of a run before its first update: MALA, at a hundred updates in four seconds."""
    config = proposal_icg.get_config()
    config.width = 8
    target = targets.gaussian("", np.array([1.0, 4.0]))
    learner = recipe.density(lambda config: target).learner(config, (2,))
    state = learner.init(jax.random.key(0), np.zeros((4, 2), np.float32))
    run = loop.Restored(config, learner, state, 100, (2,), None)
    monkeypatch.setattr(loop, "restore", {tmp_path: run}.get)
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 100, "iterations_per_second": 25.0}\n'
    )
    ready = proposals.learned(jax.random.key(1), tmp_path, target, SMALL)
    assert ready.warm_up_seconds == 4
    found = proposals.measured(jax.random.key(2), ready, target, SMALL)
    assert 0.9 < found["acceptance"] < 1
    assert found["gradients_per_draw"] == 4
    assert 0.1 < found["variance_ratio_lowest"] < found["variance_ratio_highest"] < 3


def untrained(key, workdir, target, settings):
    return proposals.langevin(key, target, settings)


def test_the_table_has_a_cell_for_every_heading(monkeypatch, tmp_path):
    row = proposals.ROWS["scg"]._replace(settings=SMALL)
    monkeypatch.setitem(proposals.ROWS, "scg", row)
    monkeypatch.setattr(proposals, "BASELINES", {"MALA": proposals.langevin})
    table = functools.partial(
        proposals.table, ["scg"], None, runs=tmp_path, data_dir=None, seeds=2
    )
    headings, *rows = table()
    assert [row[:2] for row in rows] == [
        ("scg", "MALA, seed 0"),
        ("scg", "MALA, seed 1"),
        ("scg", "MALA, mean of 2"),
    ]
    assert all(len(row) == len(headings) for row in rows)
    cells = dict(zip(headings, rows[0]))
    per_transition = cells["ESS (truncated), least"]
    assert cells["ESS (truncated) per 5000"] == 5000 * per_transition
    assert rows[0][2:] != rows[1][2:]
    first, second = rows[0][2], rows[1][2]
    mean, _, deviation = rows[2][2].split()
    np.testing.assert_allclose(float(mean), (first + second) / 2, rtol=1e-3)
    spread = abs(first - second) / np.sqrt(2)
    np.testing.assert_allclose(float(deviation), spread, rtol=0.05)
    # Trained proposals stand below the baselines, made from their directories.
    made = mock.create_autospec(proposals.learned, side_effect=untrained)
    monkeypatch.setattr(proposals, "learned", made)
    table_of_learned = functools.partial(
        table.func, ["scg"], lambda *_: tmp_path, **table.keywords | {"seeds": 1}
    )
    assert [row[1] for row in table_of_learned()][1:] == [
        "MALA, seed 0",
        "learned proposal, seed 0",
    ]
    assert made.call_args.kwargs["workdir"] == tmp_path
    # Measured once, and again under other settings or after more training.
    measure = mock.Mock(side_effect=proposals.measured)
    monkeypatch.setattr(proposals, "measured", measure)
    assert list(table())[1:] == rows
    assert list(table_of_learned())[1:] and not measure.called
    (tmp_path / "metrics.jsonl").write_text('{"step": 7}\n')
    list(table_of_learned())
    assert measure.call_count == 1
    longer = row._replace(settings=SMALL._replace(num_draws=300))
    monkeypatch.setitem(proposals.ROWS, "scg", longer)
    list(table())
    assert measure.call_count == 3
