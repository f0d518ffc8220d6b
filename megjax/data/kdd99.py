"""KDD Cup 99, 10 % file, for anomaly detection: Kumar et al. (2019), table 3.

The protocol is Zenati et al., Efficient GAN-Based Anomaly Detection (2018): "normal"
traffic, 20 % of the rows, is the anomaly; attacks are what one trains on.
"""

import gzip
import os
import pathlib
import zlib
from typing import NamedTuple

import numpy as np

from megjax.data.dataset import Dataset, LabelledExamples

FILE_NAME = "kddcup.data_10_percent.gz"

_NUM_COLUMNS = 42
_SYMBOLIC = (1, 2, 3, 6, 11, 20, 21)
_NORMAL = b"normal."


class Table(NamedTuple):
    """The rows of the file, in its order.

    x: float32 [N, F], the numeric columns, then one column for each level of each
        symbolic column, in sorted order of the levels; 121 columns for the 10 % file.
    is_anomaly: bool [N], normal traffic.
    """

    x: np.ndarray
    is_anomaly: np.ndarray


def kdd99(
    path: str | None = None, *, data_dir: str | None = None, scale: str = "none"
) -> tuple[Dataset, LabelledExamples]:
    """(train, test): 198,361 attacks, and the other half's attacks and normals.

    path: of the gzipped CSV file; else it is looked for in and next to `data_dir`.
    scale: "none" as the reference, whose scaling has no effect, so that networks see
        values up to 6.9e8; or "minmax", each column to [0, 1] over the training rows.

    The labels of the test set are 1 for anomalies, 19.687 % of 247,011 rows.
    FileNotFoundError and ValueError say where the file was expected or what is wrong.
    """
    if scale not in ("none", "minmax"):
        raise ValueError(f"scale is 'none' or 'minmax', not {scale!r}.")
    train, test, labels = split(table(_found(path, data_dir)))
    if scale == "minmax":
        train, test = minmax(train, train), minmax(test, train)
    dataset = Dataset(
        "kdd99", train.shape[1:], len(train), train, lambda store, i: store[i]
    )
    return dataset, LabelledExamples(test, labels)


def split(rows: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(train x, test x, test labels int32): the reference's halves of the rows.

    A random half with seed 42 trains, less its anomalies. The reference then draws as
    many test anomalies as make 20 %, more than exist, so all of them are in the test.
    """
    num = len(rows.x)
    half = np.random.RandomState(42).choice(num, round(num / 2), replace=False)
    in_train = np.zeros(num, bool)
    in_train[half] = True
    labels = rows.is_anomaly[~in_train].astype(np.int32)
    return rows.x[in_train & ~rows.is_anomaly], rows.x[~in_train], labels


def minmax(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Columns of x [N, F] moved and scaled as takes those of `reference` to [0, 1].

    Columns that are constant in `reference`, 9 of the 121, have no scale: they are 0.
    """
    low, high = reference.min(0), reference.max(0)
    varies = high > low
    return np.where(varies, (x - low) / np.where(varies, high - low, 1), 0)


def table(path: pathlib.Path) -> Table:
    """The gzipped CSV file as features and labels.

    Only distinct rows are parsed: two thirds of the file are repetitions.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).split()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file: {error}.") from error
    rows = {line: number for number, line in enumerate(dict.fromkeys(lines))}
    cells = [line.split(b",") for line in rows]
    if not cells or any(len(row) != _NUM_COLUMNS for row in cells):
        raise ValueError(f"{path} is not KDD Cup 99: its rows need 42 columns.")
    columns = [np.array(column) for column in zip(*cells, strict=True)]
    order = np.array([rows[line] for line in lines])
    return Table(_features(columns, path)[order], (columns[-1] == _NORMAL)[order])


def _features(columns: list[np.ndarray], path: pathlib.Path) -> np.ndarray:
    numeric = [i for i in range(_NUM_COLUMNS - 1) if i not in _SYMBOLIC]
    try:
        x = [columns[i].astype(np.float32)[:, None] for i in numeric]
    except ValueError as error:
        raise ValueError(f"{path} is not KDD Cup 99: {error}.") from error
    x += [columns[i][:, None] == np.unique(columns[i]) for i in _SYMBOLIC]
    return np.concatenate(x, axis=1, dtype=np.float32)


def _found(path: str | None, data_dir: str | None) -> pathlib.Path:
    """The file itself, or where `prepare` or a neighbour of the TFDS sets keeps it."""
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = pathlib.Path(data_dir).expanduser().absolute()
    folders = (root, root / "kddcup99", root.parent / "kddcup99")
    candidates = [folder / FILE_NAME for folder in folders]
    if path:
        candidates = [pathlib.Path(path).expanduser()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"No KDD Cup 99 file at {', '.join(map(str, candidates))}: point "
        "--config.data_dir at its folder, or fetch it with "
        f"`python -m megjax.data.prepare kdd99 --data_dir={data_dir}`."
    )
