"""The table of samplers, small: every column is filled and means what it says."""

import functools
from unittest import mock

import jax
import numpy as np
import pytest

from benchmarks import proposals
from megjax.data import targets

SMALL = proposals.Settings(num_chains=16, num_draws=200, warm_up=100)


@pytest.mark.parametrize(
    "label", ["MALA", pytest.param("NUTS", marks=pytest.mark.slow)]
)
def test_a_baseline_is_measured(label):
    target = targets.gaussian("", np.array([1.0, 4.0]))
    keys = jax.random.split(jax.random.key(0))
    ready = proposals.BASELINES[label](keys[0], target, SMALL)
    found = proposals.measured(keys[1], ready, target, SMALL)
    assert 0.4 < found["acceptance"] < 1 and found["non_finite"] == 0
    assert 0.5 < found["variance_ratio_lowest"] < found["variance_ratio_highest"] < 2
    assert 0.05 < found["ess_above"] <= 1
    gradients = found["gradients_per_draw"]
    assert gradients == 1 if label == "MALA" else 1 < gradients < 20
    per_gradient = found["ess_above"] / gradients
    np.testing.assert_allclose(found["ess_above_per_gradient"], per_gradient)
    assert "ess_above_published" not in found
    # Four times the variance makes a quarter of every correlation, as German's.
    inflated = target.moments._replace(variance=4 * target.moments.variance)
    again = proposals.measured(keys[1], ready, target, SMALL, published=inflated)
    assert again["ess_above"] == found["ess_above"]
    assert again["ess_above_published"] > 1.2 * found["ess_above"]


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
    per_transition = cells["ESS/MH, cut at .05, least"]
    assert cells["per 5000, cut at .05"] == 5000 * per_transition
    assert rows[0][2:] != rows[1][2:]
    first, second = rows[0][2], rows[1][2]
    mean, _, deviation = rows[2][2].split()
    np.testing.assert_allclose(float(mean), (first + second) / 2, rtol=1e-3)
    spread = abs(first - second) / np.sqrt(2)
    np.testing.assert_allclose(float(deviation), spread, rtol=0.05)
    # Trained proposals stand below the baselines, made from their directories.
    made = mock.create_autospec(proposals.learned, side_effect=untrained)
    monkeypatch.setattr(proposals, "learned", made)
    table_of_learned = table.func(
        ["scg"], lambda config, seed: tmp_path, **table.keywords | {"seeds": 1}
    )
    assert [row[1] for row in table_of_learned][1:] == [
        "MALA, seed 0",
        "learned proposal, seed 0",
    ]
    assert made.call_args.kwargs["workdir"] == tmp_path
    # Measured once.
    monkeypatch.setattr(proposals, "measured", None)
    assert list(table())[1:] == rows
