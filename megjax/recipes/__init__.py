"""How the values of a config become an experiment: one module a method."""

import importlib


def __getattr__(name: str):
    # On demand: `recipes.meg` in a config imports no other method.
    if not name.startswith("_"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
