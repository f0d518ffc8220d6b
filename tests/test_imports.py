"""No file imports from another package of its own layer, or from above."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LAYERS = {
    "types": 0,
    "errors": 0,
    "extras": 0,
    "checks": 0,
    "app": 0,
    "distributed": 0,
    "random": 0,
    "io": 1,
    "plotting": 1,
    "losses": 1,
    "networks": 1,
    "energies": 1,
    "data": 1,
    "densities": 2,
    "metrics": 2,
    "samplers": 2,
    "learners": 3,
    "evaluation": 4,
    "sampling": 5,
    "training": 5,
    "estimators": 6,
    "recipes": 7,
    "api": 8,
    "cli": 9,
}
FILES = sorted(
    path for path in (ROOT / "megjax").rglob("*.py") if path.name != "__init__.py"
)


def package(path):
    """The top-level file or package of megjax that a path belongs to."""
    return path.relative_to(ROOT / "megjax").parts[0].removesuffix(".py")


def imported_packages(source):
    """Packages that a source text imports, `from megjax import x` included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts == ["megjax"]:
                yield from (alias.name for alias in node.names)
            elif parts[0] in ("megjax", "configs"):
                yield parts[1] if parts[0] == "megjax" else "configs"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] in ("megjax", "configs"):
                    yield parts[1] if parts[0] == "megjax" else "configs"


def violations(own, source):
    return [
        other
        for other in imported_packages(source)
        if other != own and LAYERS.get(other, 99) >= max(LAYERS[own], 1)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_come_from_below(path):
    assert package(path) in LAYERS, "give the new package a layer"
    assert violations(package(path), path.read_text()) == []


def test_violations_are_seen():
    assert violations("samplers", "from megjax.learners import meg") == ["learners"]
    assert violations("learners", "import configs.base") == ["configs"]
    assert violations("training", "from megjax import sampling") == ["sampling"]
    assert violations("learners", "from megjax.samplers import mala") == []


def importers(name):
    """Files of megjax that import a module of the standard library."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            names.append(getattr(node, "module", None) or "")
            if name in [text.partition(".")[0] for text in names]:
                yield str(path.relative_to(ROOT / "megjax"))


def test_pickles_and_the_network_have_no_other_door():
    # There is a restricted reader; downloads are TFDS's and scikit-learn's, on demand.
    assert set(importers("pickle")) == {"io/tensors.py"}
    for name in ("urllib", "requests", "http", "shelve", "marshal", "joblib"):
        assert not list(importers(name))
