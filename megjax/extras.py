"""Packages that an extra of megjax installs: one line that names it where it lacks."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed(extra: str) -> Iterator[None]:
    """Surrounds imports of packages that the core does not bring.

    extra: one of `[project.optional-dependencies]` in pyproject.toml.
    Raises ModuleNotFoundError with the command that installs what is missing.

    >>> from megjax.extras import needed
    >>> with needed("plot"):
    ...     import no_such_package
    Traceback (most recent call last):
    ModuleNotFoundError: no_such_package is not installed: pip install "megjax[plot]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "megjax":
            raise
        raise ModuleNotFoundError(
            f"{error.name.partition('.')[0]} is not installed: "
            f'pip install "megjax[{extra}]"',
            name=error.name,
        ) from error
