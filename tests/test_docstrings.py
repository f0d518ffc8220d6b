"""The examples in the docstrings of megjax run as typed, and print what they say."""

import doctest
import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PATHS = sorted(
    path
    for path in (ROOT / "megjax").rglob("*.py")
    if ">>>" in path.read_text() and path.parent.name != "configs"
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples(path, tmp_path, monkeypatch):
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)
    # Without the names of the module: what a reader types is what stands there.
    found = doctest.DocTestFinder().find(module, name, globs={})
    examples = [example for example in found if example.examples]
    assert examples, "an example that doctest does not find"
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=options)
    report = []
    for example in examples:
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)
