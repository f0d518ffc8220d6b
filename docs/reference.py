"""The table of public names, docs/api.md, of the docstrings: python docs/reference.py."""

import inspect
import pathlib
import pkgutil

import megjax

PAGE = pathlib.Path(__file__).with_name("api.md")
HEAD = """\
# Public names

`import megjax` costs nothing: names are imported when they are first used. Docstrings say shapes, units, errors and sources;
`help(megjax.sample)` shows one. What is neither listed here nor used in README and the guides may change without notice.

| name | purpose |
|---|---|
"""
PACKAGES = """
Packages, for their modules:

| package | purpose | modules |
|---|---|---|
"""


def page() -> str:
    """What docs/api.md has to be."""
    names = "".join(f"| `megjax.{n}` | {purpose(n)} |\n" for n in sorted(megjax._HOME))
    packages = "".join(
        f"| `megjax.{n}` | {purpose(n)} | {modules(n)} |\n" for n in megjax._MODULES
    )
    return HEAD + names + PACKAGES + packages


def purpose(name: str) -> str:
    """The first line of a docstring, as a cell."""
    doc = inspect.getdoc(getattr(megjax, name))
    return doc.splitlines()[0].replace("|", r"\|")


def modules(name: str) -> str:
    """The modules of a package."""
    paths = getattr(getattr(megjax, name), "__path__", [])
    return ", ".join(f"`{module.name}`" for module in pkgutil.iter_modules(paths))


if __name__ == "__main__":
    PAGE.write_text(page())
