"""README's Python runs as it is typed; no page links to what is not there."""

import pathlib
import re

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


@pytest.mark.slow
@pytest.mark.parametrize("i", range(1, len(BLOCKS)))
def test_the_other_blocks_run(i, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[i], {})  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []
