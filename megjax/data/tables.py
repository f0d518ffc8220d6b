"""Tables of numbers: read from CSV and Parquet, brought to float32 without surprises."""

import importlib
import logging
import pathlib
import warnings
from collections.abc import Callable, Iterable

import numpy as np

from megjax.data.dataset import Dataset
from megjax.io import npz

LOG = logging.getLogger(__name__)
FLOAT32_MAX = float(np.finfo(np.float32).max)
_NAMED = 5
"""Columns that a message names."""


def table(
    name: str,
    x: np.ndarray,
    *,
    standardise: bool = False,
    columns: Iterable[str] | None = None,
) -> Dataset:
    """Rows [N, D] of any number type as float32, as they are or standardised.

    columns: their names, for messages; by default their numbers. The `reference` of
    standardised ones has `mean` and `scale` [D], with which a model takes rows as they
    are; it has none, and the log says so, where float32 cannot hold those rows. Raises
    ValueError as `in_float32` and `standardised` do.

    >>> import numpy as np
    >>> from megjax.data.tables import table
    >>> table("two", np.array([[0, 5], [2, 5]]), standardise=True).store.tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    names = list(map(str, columns)) if columns else [str(i) for i in range(x.shape[1])]
    reference = {}
    if standardise:
        reference = _units(x, name)
        x = standardised(x, name)
    store = in_float32(x, names)
    shape, num = store.shape[1:], len(store)
    return Dataset(
        name, shape, num, store, lambda store, i: store[i], reference=reference
    )


def _units(x: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """mean and scale [D] of columns, or nothing where float32 is too coarse for them."""
    x = x.astype(np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        mean, scale = x.mean(axis=0), x.std(axis=0)
    constant = x.min(axis=0) == x.max(axis=0)
    mean, scale = np.where(constant, x[0], mean), np.where(constant, 1, scale)
    largest = np.abs(x).max(axis=0)
    held = (largest < FLOAT32_MAX / 8) & (scale > 1e-5 * largest) & (scale > 1e-30)
    if not np.all(held | constant & (largest < FLOAT32_MAX / 8)):
        LOG.warning(
            "%s: float32 cannot hold all columns as they are, so the model takes and "
            "gives standardised rows: subtract large offsets and scale such columns",
            name,
        )
        return {}
    return {"mean": mean, "scale": scale}


def in_float32(x: np.ndarray, names: list[str]) -> np.ndarray:
    """Rows [N, D] in float32, in which columns that differ in x still differ.

    Raises ValueError naming the columns that would overflow, or lose what varies in
    them; warns in the log of those that lose much of it.
    """
    with np.errstate(over="ignore", under="ignore"):
        found = x.astype(np.float32)
    overflown = ~np.all(np.isfinite(found), axis=0)
    if overflown.any():
        raise ValueError(
            f"{_columns(overflown, names)} beyond {FLOAT32_MAX:.3g}, the largest number "
            "of float32: divide them, or set standardise=True"
        )
    lost = (np.ptp(found, axis=0) == 0) & (x.max(axis=0) != x.min(axis=0))
    if lost.any():
        raise ValueError(
            f"{_columns(lost, names)} whose values float32 cannot tell apart: subtract "
            "their means and scale them, or set standardise=True"
        )
    # Where rounding is coarser than a hundredth of what varies.
    ranges = found.max(axis=0) - found.min(axis=0)
    errors = np.max(np.abs(x - found.astype(np.float64)), axis=0)
    coarse = (ranges > 0) & (errors > 0.01 * ranges)
    if coarse.any():
        LOG.warning(
            "%s that float32 rounds to steps of more than a hundredth of their range: "
            "subtract their means, or set standardise=True",
            _columns(coarse, names),
        )
    return found


def standardised(x: np.ndarray, name: str = "the table") -> np.ndarray:
    """Columns of x [N, D] with mean 0 and variance 1, float64; constant ones become 0.

    Of any magnitude that float64 has: where squares would overflow, vanish or drown in
    rounding, the column is moved and scaled first. The log says how many are constant.
    Raises ValueError where all rows are equal.

    >>> import numpy as np
    >>> from megjax.data.tables import standardised
    >>> standardised(np.array([[1e200], [3e200]])).tolist()
    [[-1.0], [1.0]]
    """
    low, high = x.min(axis=0), x.max(axis=0)
    constant = low == high
    if constant.all():
        raise ValueError(
            f"{name} has {len(x)} rows, all equal, which have no scale: give different "
            "rows, or standardise=False"
        )
    if constant.any():
        LOG.warning(
            "%s: %d of its %d columns are constant: they are 0",
            *(name, constant.sum(), len(constant)),
        )
    x = x.astype(np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        mean, std = x.mean(axis=0), x.std(axis=0)
        # Elsewhere squares vanish, or rounding reaches the result.
        largest = np.maximum(np.abs(low.astype(float)), np.abs(high.astype(float)))
        plain = np.isfinite(std) & (std > 1e-8 * largest) & (std > 1e-140)
        found = (x - mean) / np.where(plain, std, 1)
    for column in np.flatnonzero(~plain & ~constant):
        found[:, column] = _standardised_exactly(x[:, column])
    found[:, constant] = 0
    return found


def _standardised_exactly(x: np.ndarray) -> np.ndarray:
    """One column [N] that is not constant, moved and scaled without rounding first."""
    x = np.ldexp(x, -np.frexp(np.abs(x).max())[1])
    # Differences of near numbers are exact (Sterbenz).
    x = x - x.min()
    x = x / x.max()
    return (x - x.mean()) / x.std()


def minmax(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Columns of x [N, F] moved and scaled as takes those of `reference` to [0, 1].

    Columns that are constant in `reference` have no scale: they are 0.
    """
    if reference.dtype.kind != "f":
        reference = reference.astype(np.float64)
    low, high = reference.min(0), reference.max(0)
    with np.errstate(over="ignore"):
        wide = ~np.isfinite(high - low)
    if wide.any():
        # Halves of numbers so large are exact, and their differences finite.
        half = np.where(wide, 0.5, 1).astype(reference.dtype)
        x, low, high = x * half, low * half, high * half
    varies = high > low
    return np.where(varies, (x - low) / np.where(varies, high - low, 1), 0)


def csv(path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """(numbers float64 [N, D], names of columns) of a file of comma-separated values.

    A first line of numbers is a row, not a heading. Raises ValueError, ModuleNotFoundError
    where pandas is missing.
    """
    pandas = _package("pandas", path)
    separator = "\t" if path.suffix.lower() == ".tsv" else ","

    def read(**options):
        with warnings.catch_warnings():
            # Values beyond the heading would be dropped with a warning.
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            return pandas.read_csv(path, sep=separator, index_col=False, **options)

    top = _parsed(path, lambda: read(header=None, nrows=1, dtype=str)).iloc[0]
    counts = [str(i) for i in range(len(top))]
    # As pandas writes a table without names: an index, which has none, and counts.
    indexed = len(top) > 1 and list(top[1:]) == counts[:-1]
    indexed = indexed and not isinstance(top.iloc[0], str)
    has_heading = indexed or not all(map(_is_number, top))
    if list(top) == counts:
        raise ValueError(
            f"{path}: its first line counts from 0 and may be a row or a heading: name "
            "the columns there"
        )
    if not has_heading:
        LOG.warning("%s: no heading; its first line is a row of numbers", path)
    frame = _parsed(path, lambda: read(header=0 if has_heading else None))
    return _numbers(path, {str(name): frame[name].to_numpy() for name in frame})


def parquet(path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """As `csv`, of a Parquet file; ModuleNotFoundError where pyarrow is missing."""
    package = _package("pyarrow.parquet", path)

    def read():
        with package.ParquetFile(path) as file:
            unpacked = 8 * file.metadata.num_rows * file.metadata.num_columns
            npz.check_unpacked(unpacked, path)
            found = file.read()
        columns = zip(found.column_names, found.columns, strict=True)
        return {name: np.asarray(column.to_numpy()) for name, column in columns}

    return _numbers(path, _parsed(path, read))


def _package(name: str, path: pathlib.Path):
    """An imported package, of no extra, since only these files need it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ModuleNotFoundError(
            f"{path}: reading {path.suffix} needs {package}: pip install {package}, or "
            "save the numbers with numpy.save",
            name=package,
        ) from error


def _parsed(path: pathlib.Path, read: Callable):
    """What a reader makes of a file; its errors as ValueError, but for the system's."""
    try:
        return read()
    # pandas and pyarrow raise whatever their parsers do.
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None):
            raise
        raise ValueError(
            f"{path} is no readable {path.suffix} file: {npz.words(error)}"
        ) from error


def _numbers(
    path: pathlib.Path, columns: dict[str, np.ndarray]
) -> tuple[np.ndarray, list[str]]:
    """The columns side by side, without one that only numbers the rows."""
    kept = {k: v for k, v in columns.items() if not _is_index(path, k, v)}
    if len(kept) < len(columns):
        LOG.warning("%s: its column of row numbers is left out", path)
    if not kept or not len(next(iter(kept.values()))):
        raise ValueError(f"{path} holds no rows of numbers: give at least one")
    words = [name for name, values in kept.items() if values.dtype.kind not in "biuf"]
    if words:
        raise ValueError(
            f"{path}: columns {_listed(words)} are no numbers: leave them out, encode "
            "them, or fill what is missing"
        )
    with np.errstate(over="ignore"):
        x = np.stack([v.astype(np.float64) for v in kept.values()], axis=1)
    empty = [name for name, bad in zip(kept, ~np.isfinite(x).all(axis=0)) if bad]
    if empty:
        raise ValueError(
            f"{path}: columns {_listed(empty)} have missing or infinite values: fill "
            "them, or leave those rows out"
        )
    return x, list(kept)


def _is_index(path: pathlib.Path, name: str, values: np.ndarray) -> bool:
    """Whether a column is the index that pandas wrote.

    Raises ValueError where a column without a name is something else.
    """
    if name.startswith("__index_level_"):
        return True
    if not name.startswith("Unnamed: "):
        return False
    if values.dtype.kind in "iu" and np.all(np.diff(values) > 0):
        return True
    raise ValueError(f"{path}: column {name.split()[1]} has no name: name or remove it")


def _is_number(text) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _columns(chosen: np.ndarray, names: list[str]) -> str:
    found = [names[i] for i in np.flatnonzero(chosen)]
    return f"{len(found)} columns ({_listed(found)}) have values"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
