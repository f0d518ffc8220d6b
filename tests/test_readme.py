"""README's Python runs as it is typed, one block after the other."""

import pathlib
import re

import pytest

TEXT = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
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
