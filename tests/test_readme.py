"""README's Python runs as it is typed; no page links to what is not there."""

import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_first_block_samples_a_density_in_fifteen_lines():
    first = BLOCKS[0]
    assert "megjax.sample(" in first and len(first.split("\n")) <= 17
    names = {}
    exec(first, names)  # noqa: S102
    assert names["draws"].posterior["loc"].shape == (4, 1000)


def images(names):
    assert names["images"].shape == (16, 8, 8, 1)
    assert names["chains"].posterior.z.shape[:2] == (16, 100)
    energies = names["energies"]
    again = names["again"].energy(names["images"])
    np.testing.assert_array_equal(again, energies)


def anomalies(names):
    detector, rows = names["detector"], names["rows"]
    assert np.all(detector.predict(rows)[5:] == -1)
    again = names["EnergyDetector"].load("detector.npz")
    np.testing.assert_array_equal(
        again.score_samples(rows), detector.score_samples(rows)
    )


def boltzmann(names):
    machine, pixels = names["machine"], names["pixels"]
    assert machine.transform(pixels).shape == (1797, 200)
    assert machine.sample(16).shape == (16, 64)
    noise = np.random.default_rng(0).permuted(pixels, axis=1)
    assert np.mean(machine.score_samples(pixels)) > np.mean(
        machine.score_samples(noise)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "check"),
    list(zip(BLOCKS[1:], (images, anomalies, boltzmann), strict=True)),
    ids=["images", "anomalies", "boltzmann"],
)
def test_the_other_blocks_run(block, check, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)  # noqa: S102
    check(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []
