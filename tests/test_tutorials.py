"""Tutorials name what there is, stand in the site, and run from an empty folder."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

import megjax

ROOT = pathlib.Path(__file__).parent.parent
PATHS = sorted((ROOT / "docs/tutorials").glob("*.py"))
SITE = (ROOT / "mkdocs.yml").read_text()


def modules(tree):
    """(name in the file -> module or object of megjax) by its imports."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(
            alias.name == "megjax" for alias in node.names
        ):
            found["megjax"] = megjax
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "megjax":
            for alias in node.names:
                found[alias.asname or alias.name] = member(node.module, alias.name)
    return found


def member(module, name):
    """An attribute of a module, or a module below it; AttributeError without either."""
    parent = importlib.import_module(module)
    if not hasattr(parent, name):
        try:
            return importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError:
            pass
    return getattr(parent, name)


def dotted(node):
    """["megjax", "fit"] of the expression megjax.fit; None of others."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *names[::-1]] if isinstance(node, ast.Name) else None


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_a_tutorial_uses_is_there(path):
    text = path.read_text()
    tree = ast.parse(text)
    known = modules(tree)
    assert known, "nothing of megjax"
    for node in ast.walk(tree):
        first, *rest = dotted(node) or [""]
        if first in known:
            value = known[first]
            for name in rest:
                value = getattr(value, name)
    for name in re.findall(r"`megjax\.([\w.]+)", text):
        value = megjax
        for part in name.split("."):
            value = getattr(value, part)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_tutorial_is_a_page_of_cells(path):
    first, *cells = re.split(r"^# %%", path.read_text(), flags=re.MULTILINE)
    assert not first and cells[0].startswith(" [markdown]\n# # ")
    for cell in cells:
        kind, *lines = cell.split("\n")
        assert kind in ("", " [markdown]"), kind
        if kind:
            assert all(line[:1] in ("", "#") for line in lines), cell
    assert f"tutorials/{path.name}" in SITE


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path, tmp_path):
    # As a reader has it: no virtual devices and no flags of the tests.
    ours = {"XLA_FLAGS", "NPROC", "DISPLAY"}
    environment = {name: v for name, v in os.environ.items() if name not in ours}
    environment |= {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
