import gzip
import pathlib

import numpy as np
import pytest

from megjax.data import kdd99, tables

REAL = pathlib.Path(__file__).parents[3] / "shared/data"
FILE = REAL / "kddcup99" / kdd99.FILE_NAME


def line(number, *, protocol="tcp", label="smurf."):
    """A row whose numeric columns are `number` times their position."""
    cells = [str(number * i) for i in range(41)]
    cells[1:4] = protocol, "http", "SF"
    for i in (6, 11, 20, 21):
        cells[i] = "0"
    return ",".join([*cells, label])


def write(folder, lines):
    path = folder / kdd99.FILE_NAME
    path.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    return path


def small(folder):
    lines = [line(i % 7, protocol=["udp", "icmp"][i % 2]) for i in range(20)]
    return write(folder, lines + [line(9, label="normal.")] * 10)


def test_features_are_numeric_columns_then_sorted_levels(tmp_path):
    path = write(tmp_path, [line(2, protocol="udp"), line(3), line(2, label="normal.")])
    x, labels = kdd99.table(path)
    # 34 numeric, two protocols, and six columns with one level each.
    assert x.shape == (3, 34 + 2 + 6) and x.dtype == np.float32
    assert labels.tolist() == [0, 0, 1]
    assert x[1, :5].tolist() == [0, 12, 15, 21, 24]
    assert x[:, 34:36].tolist() == [[0, 1], [1, 0], [1, 0]]
    assert (x[:, 36:] == 1).all()


def test_split_halves_the_rows_and_trains_on_attacks(tmp_path):
    rows = kdd99.table(small(tmp_path))
    train, (test, labels) = kdd99.split(rows)
    half = np.random.RandomState(42).choice(30, 15, replace=False)
    np.testing.assert_array_equal(train, rows.x[[i for i in sorted(half) if i < 20]])
    rest = [i for i in range(30) if i not in half]
    np.testing.assert_array_equal(test, rows.x[rest])
    assert labels.tolist() == [int(i >= 20) for i in rest]


def test_minmax_by_hand():
    reference = np.array([[0.0, 5, 1], [10, 5, 3]])
    scaled = tables.minmax(np.array([[5.0, 7, 5]]), reference)
    assert scaled.tolist() == [[0.5, 0, 2]]


@pytest.mark.filterwarnings("error")
def test_loader_scales_by_the_training_rows(tmp_path):
    path = str(small(tmp_path))
    train, test = kdd99.kdd99(path, scale="minmax")
    assert train.store.min() == 0 and train.store.max() == 1
    raw, raw_test = kdd99.kdd99(data_dir=str(tmp_path))
    np.testing.assert_array_equal(test.x, tables.minmax(raw_test.x, raw.store))
    np.testing.assert_array_equal(test.labels, raw_test.labels)
    assert train.store.dtype == test.x.dtype == np.float32
    taken = train.take(train.store, np.array([1, 0]))
    np.testing.assert_array_equal(taken, train.store[[1, 0]])


def test_file_is_found_in_and_next_to_the_data_folder(tmp_path):
    folder = tmp_path / "kddcup99"
    folder.mkdir()
    path = small(folder)
    (tmp_path / "tfds").mkdir()
    for data_dir in (folder, tmp_path, tmp_path / "tfds"):
        assert kdd99._found(None, str(data_dir)) == path


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"megjax.data.prepare kdd99"):
        kdd99.kdd99(data_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"No KDD Cup 99 file at .*x.gz"):
        kdd99.kdd99("x.gz")
    with pytest.raises(ValueError, match="'none' or 'minmax', not 'std'"):
        kdd99.kdd99(scale="std")
    path = small(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a complete gzip file"):
        kdd99.table(path)
    with pytest.raises(ValueError, match="need 42 columns"):
        kdd99.table(write(tmp_path, ["1,2,3"]))
    with pytest.raises(ValueError, match="is not KDD Cup 99: could not convert"):
        kdd99.table(write(tmp_path, [line(1).replace("0,tcp", "x,tcp")]))


@pytest.mark.slow
@pytest.mark.skipif(not FILE.exists(), reason=f"needs {FILE}")
def test_real_file_reproduces_the_known_protocol():
    train, test = kdd99.kdd99(data_dir=str(REAL / "tfds"), scale="minmax")
    assert train.store.shape == (198_361, 121) and test.x.shape == (247_011, 121)
    assert test.labels.mean() == pytest.approx(0.19687, abs=1e-5)
    assert (np.ptp(train.store, axis=0) == 0).sum() == 9
