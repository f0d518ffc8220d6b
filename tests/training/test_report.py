"""The page about a run: what it shows, what it needs, and what it does not believe."""

import json
import re

import numpy as np
import pytest

from megjax import plotting
from megjax.training import report


@pytest.fixture
def run(tmp_path):
    """A directory as a run leaves it, without any checkpoint."""
    record = {
        "config": "<b>mine</b>",
        "recipe": "megjax.recipes.meg:plane",
        "shape": [2],
        "version": 1,
        "values": {"train": {"num_steps": 30, "seed": 4}},
    }
    (tmp_path / "config.json").write_text(json.dumps(record))
    lines = [{"step": 10 * i, "loss": 0.5 / i, "plane/kl": 2.25 - i} for i in (1, 2)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    for name in ("pictures/grid_0000010", "pictures/grid_0000020", "samples/after"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shade = np.full((2, 2, 3), len(name), np.uint8)
        plotting.write_png(tmp_path / f"{name}.png", shade)
    return tmp_path


def test_the_page_has_curves_pictures_and_tables_and_needs_no_other_file(run):
    page = report.page(run)
    assert "20 of 30 iterations" in page and "seed 4" in page
    # The last picture of each name, and two curves.
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert captions[:2] == ["pictures/grid_0000020.png", "samples/after.png"]
    assert captions[2:] == ["loss", "plane/kl"]
    assert "<td>kl</td><td>0.25</td>" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_names_of_a_run_are_text(run):
    page = report.page(run)
    assert "&lt;b&gt;mine" in page and "<b>mine" not in page


def test_a_run_that_has_just_begun_has_a_page(run):
    (run / "metrics.jsonl").unlink()
    assert "0 of 30 iterations" in report.page(run)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run: name another"):
        report.page(tmp_path)
