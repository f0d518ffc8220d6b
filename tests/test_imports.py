"""No file imports from another package of its own layer, or from above."""

import ast
import functools
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
LAYERS = {
    "types": 0,
    "errors": 0,
    "extras": 0,
    "checks": 0,
    "app": 0,
    "distributed": 0,
    "random": 0,
    "io": 0.5,
    "plotting": 1,
    "losses": 1,
    "networks": 1,
    "energies": 1,
    "data": 1,
    "densities": 2,
    "metrics": 2,
    "samplers": 2,
    "learners": 3,
    "sampling": 4,
    "evaluation": 5,
    "training": 6,
    "estimators": 7,
    "recipes": 8,
    "api": 9,
    "commands": 10,
    "cli": 11,
}
CONFIGS = 99
"""Above all packages: nothing of megjax imports a config."""


@functools.cache
def trees():
    """The syntax tree of every file of megjax, by its path below the package."""
    root = ROOT / "megjax"
    paths = sorted(
        path for path in root.rglob("*.py") if path.parent != root / "configs"
    )
    return {str(p.relative_to(root)): ast.parse(p.read_text()) for p in paths}


def imported(tree):
    """Dotted names that a tree imports, `from package import name` as package.name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def violations(own, tree):
    """Packages and files of megjax, or configs, that a layer must not import."""
    for name in imported(tree):
        root, _, rest = name.partition(".")
        other = rest.partition(".")[0] if root == "megjax" else root
        if root not in ("megjax", "configs") or other == own:
            continue
        if LAYERS.get(other, CONFIGS) >= max(LAYERS[own], 1):
            yield other


def test_imports_come_from_below():
    found = {}
    for path, tree in trees().items():
        own = path.partition("/")[0].removesuffix(".py")
        # The public names of the package are imported where they are asked for.
        if path == "__init__.py":
            continue
        assert own in LAYERS, f"{path}: give the new package a layer"
        found[path] = sorted(set(violations(own, tree)))
    assert {path: names for path, names in found.items() if names} == {}


def test_violations_are_seen():
    def seen(own, source):
        return list(violations(own, ast.parse(source)))

    assert seen("samplers", "from megjax.learners import meg") == ["learners"]
    assert seen("learners", "import configs.base") == ["configs"]
    assert seen("sampling", "from megjax import training") == ["training"]
    assert seen("estimators", "import megjax.api") == ["api"]
    assert seen("learners", "from megjax.samplers import mala") == []


def test_pickles_and_the_network_have_no_other_door():
    # There is a restricted reader; downloads are TFDS's and scikit-learn's, on demand.
    importers = {}
    for path, tree in trees().items():
        for name in imported(tree):
            importers.setdefault(name.partition(".")[0], set()).add(path)
    assert importers["pickle"] == {"io/tensors.py"}
    for name in ("urllib", "requests", "http", "shelve", "marshal", "joblib"):
        assert name not in importers
