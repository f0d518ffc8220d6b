"""KDD Cup 99, 10 % file, for anomaly detection: Kumar et al. (2019), table 3.

The protocol is Zenati et al., Efficient GAN-Based Anomaly Detection (2018): "normal"
traffic, 20 % of the rows, is the anomaly; attacks are what one trains on.
"""

import gzip
import pathlib
import zlib

import numpy as np

from megjax import checks
from megjax.data import tables
from megjax.data.dataset import Dataset, Labelled, find_file

FILE_NAME = "kddcup.data_10_percent.gz"

_NUM_COLUMNS = 42
_MAX_BYTES = 2**30
"""Of the unpacked file; the 10 % file has 75 MB, the full one 743 MB."""
_SYMBOLIC = (1, 2, 3, 6, 11, 20, 21)
_NORMAL = b"normal."


def kdd99(
    path: str | None = None, *, data_dir: str | None = None, scale: str = "none"
) -> tuple[Dataset, Labelled]:
    """(train, test): 198,361 attacks, and the other half's attacks and normals.

    path: of the gzipped CSV file; else it is looked for in and next to `data_dir`.
    scale: "none" as the reference, whose scaling has no effect, so that networks see
        values up to 6.9e8; or "minmax", each column to [0, 1] over the training rows.

    The labels of the test set are 1 for anomalies, 19.687 % of 247,011 rows.
    FileNotFoundError and ValueError say where the file was expected or what is wrong.
    """
    if scale not in ("none", "minmax"):
        raise ValueError(f"scale is 'none' or 'minmax', not {scale!r}.")
    train, test = split(table(_found(path, data_dir)))
    if scale == "minmax":
        test = test._replace(x=tables.minmax(test.x, train))
        train = tables.minmax(train, train)
    dataset = Dataset(
        "kdd99", train.shape[1:], len(train), train, lambda store, i: store[i]
    )
    return dataset, test


def split(rows: Labelled) -> tuple[np.ndarray, Labelled]:
    """(train x, test set): split in two as the reference does.

    A random half with seed 42 trains, less its anomalies. The reference then draws as
    many test anomalies as make 20 %, more than exist, so all of them are in the test.
    """
    num = len(rows.x)
    half = np.random.RandomState(42).choice(num, round(num / 2), replace=False)
    in_train = np.zeros(num, bool)
    in_train[half] = True
    test = Labelled(rows.x[~in_train], rows.labels[~in_train])
    return rows.x[in_train & (rows.labels == 0)], test


def table(path: pathlib.Path) -> Labelled:
    """The rows of the gzipped CSV file, in its order, labelled 1 for normal traffic.

    x: float32 [N, F], the numeric columns, then one column for each level of each
    symbolic column, in sorted order of the levels; 121 columns for the 10 % file. Only
    distinct rows are parsed: two thirds of the file are repetitions.
    """
    try:
        with gzip.open(path) as stream:
            content = stream.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file: {error}.") from error
    if len(content) > _MAX_BYTES:
        raise ValueError(
            f"{path} is not KDD Cup 99: it unpacks to more than {_MAX_BYTES:,} bytes."
        )
    lines = content.split()
    rows = {line: number for number, line in enumerate(dict.fromkeys(lines))}
    cells = [line.split(b",") for line in rows]
    if not cells or any(len(row) != _NUM_COLUMNS for row in cells):
        raise ValueError(f"{path} is not KDD Cup 99: its rows need 42 columns.")
    columns = [np.array(column) for column in zip(*cells, strict=True)]
    order = np.array([rows[line] for line in lines])
    labels = (columns[-1] == _NORMAL).astype(np.int32)
    return Labelled(_features(columns, path)[order], labels[order])


def _features(columns: list[np.ndarray], path: pathlib.Path) -> np.ndarray:
    numeric = [i for i in range(_NUM_COLUMNS - 1) if i not in _SYMBOLIC]
    try:
        with np.errstate(over="ignore"):
            x = [columns[i].astype(np.float32)[:, None] for i in numeric]
    except ValueError as error:
        raise ValueError(f"{path} is not KDD Cup 99: {error}.") from error
    if not all(np.isfinite(column).all() for column in x):
        raise ValueError(f"{path} is not KDD Cup 99: some numbers are not finite.")
    x += [columns[i][:, None] == np.unique(columns[i]) for i in _SYMBOLIC]
    return np.concatenate(x, axis=1, dtype=np.float32)


def _found(path: str | None, data_dir: str | None) -> pathlib.Path:
    """The file itself, or where `prepare` or a neighbour of the TFDS sets keeps it."""
    try:
        if path is None:
            return find_file((FILE_NAME,), "kddcup99", data_dir)
        if checks.path(path).is_file():
            return checks.path(path)
        raise FileNotFoundError(f"No KDD Cup 99 file at {path}")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: point --config.data_dir at the folder of KDD Cup 99, or fetch it "
            "with `python -m megjax.data.prepare kdd99 --data_dir=FOLDER`."
        ) from None
