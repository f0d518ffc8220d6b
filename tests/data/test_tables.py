"""Tables: scaling at the edges of floating point, CSV and Parquet, other files."""

import pathlib
import pickle
import sys

import numpy as np
import pytest

from megjax.data import files, tables
from megjax.io import npz

pandas = pytest.importorskip("pandas")
arrow = pytest.importorskip("pyarrow")

RNG = np.random.RandomState(0)
TINY = np.finfo(np.float64).smallest_subnormal
NEAR = np.nextafter(14.62, 15)


def said(caplog):
    return " | ".join(record.getMessage() for record in caplog.records)


def scaled(column):
    """One column standardised beside an ordinary one, which must not notice."""
    other = np.linspace(-1, 2, len(column))
    both = np.stack([np.asarray(column, np.float64), other], axis=1)
    found = tables.table("t", both, standardise=True).store
    pair = np.stack([other, other], axis=1)
    expected = (pair - pair.mean(0)) / pair.std(0)
    np.testing.assert_array_equal(found[:, 1], np.float32(expected)[:, 1])
    return found[:, 0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "value", [14.62, 0.1, -0.0, 1e200, 1e-200, 1e39, 1.7e308, -1.7e308, TINY, 1 / 3]
)
@pytest.mark.parametrize("num", [2, 7, 1001])
def test_a_constant_column_is_zero(value, num):
    assert (scaled(np.full(num, value)) == 0).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((1e200, 2e200), (-1.7e308, 1.7e308), (1e-200, 3e-200), (0, TINY)),
        *((1e39, 2e39), (14.62, NEAR), (1e16, 1e16 + 2), (-1e-300, 1e300), (0, 1)),
        *((2**62, 2**62 + 1024), (-0.0, 5e-324), (1 - 2**-53, 1)),
    ],
)
def test_two_values_become_minus_one_and_one(low, high):
    """Whatever their magnitude and however near to each other."""
    assert scaled([low, high] * 5).tolist() == [-1, 1] * 5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [14.62, 1e200, 1e-200, 1e39, 0.0])
@pytest.mark.parametrize("num", [3, 1000])
def test_one_row_apart_from_the_others(value, num):
    """(x - mean) / std of n - 1 zeros and a one."""
    column = np.full(num, value)
    column[-1] = 2 * value or 1.0
    one = np.sqrt(num - 1)
    np.testing.assert_allclose(scaled(column)[-1], one, rtol=1e-6)
    np.testing.assert_allclose(scaled(column)[:-1], -1 / one, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-20, 1, 1e20, 1e160, 1e300])
def test_scaling_does_not_depend_on_the_unit(scale):
    x = RNG.normal(size=(50, 3))
    expected = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(tables.standardised(x * scale), expected, rtol=1e-9)


def test_ordinary_tables_keep_their_bits():
    for x in (
        RNG.normal(size=(99, 5)),
        RNG.randint(0, 50, (99, 5)),
        RNG.rand(99, 2) + 9,
    ):
        plain = (x - x.astype(float).mean(0)) / x.astype(float).std(0)
        np.testing.assert_array_equal(tables.standardised(x), plain)
        store = tables.table("t", x).store
        np.testing.assert_array_equal(store, x.astype(np.float32))


@pytest.mark.parametrize("num", [1, 2, 50])
def test_equal_rows_have_no_scale(num):
    x = np.tile([3.0, 14.62], (num, 1))
    with pytest.raises(
        ValueError, match=f"t has {num} rows, all equal.*standardise=False"
    ):
        tables.table("t", x, standardise=True)
    assert tables.table("t", x).num_examples == num


def test_constant_columns_are_counted(caplog):
    tables.table("t", np.array([[1, 2, 3], [1, 5, 3]]), standardise=True)
    assert "t: 2 of its 3 columns are constant: they are 0" in said(caplog)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([1e39, 0], r"1 columns \(1\) have values beyond 3.4e\+38"),
        ([1e200, 0], "beyond 3.4e.38, the largest number of float32: divide"),
        ([-1.7e308, 0], "or set standardise=True"),
        (
            [1e-200, 0],
            r"1 columns \(1\) have values whose values float32|cannot tell apart",
        ),
        ([1e-60, 2e-60], "cannot tell apart: subtract their means"),
        ([1.7e18, 1.7e18 + 1e9], "cannot tell apart"),
        ([14.62, NEAR], "cannot tell apart"),
    ],
)
def test_what_float32_cannot_hold_is_refused(column, words):
    x = np.stack([np.zeros(2), np.array(column)], axis=1)
    with pytest.raises(ValueError, match=words):
        tables.table("t", x)
    x[0, 0] = 1
    assert np.ptp(tables.table("t", x, standardise=True).store[:, 1]) == 2


@pytest.mark.parametrize("kind", ["bool", "int8", "uint16", "int64", "float16"])
def test_number_types_of_tables(kind):
    x = np.array([[0, 1], [1, 0], [1, 1]], kind)
    assert tables.table("t", x).store.tolist() == [[0, 1], [1, 0], [1, 1]]
    assert tables.table("t", x, standardise=True).store.std(0) == pytest.approx([1, 1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("low", "high"), [(-1.7e308, 1.7e308), (0, TINY), (14.62, NEAR), (-1e200, 0)]
)
def test_minmax_reaches_0_and_1_at_the_edges(low, high):
    x = np.array([[low, 1.0], [high, 1.0], [low, 1.0]])
    assert tables.minmax(x, x).tolist() == [[0, 0], [1, 0], [0, 0]]
    ints = np.array([[-128, 0], [127, 0]], np.int8)
    assert tables.minmax(ints, ints).tolist() == [[0, 0], [1, 0]]


TABLES = {
    "a heading": "a,b\n1,2.5\n3,4\n",
    "no heading": "1,2.5\n3,4\n",
    "spaces": "a, b\n1, 2.5\n3, 4\n",
    "an index": ",a,b\n0,1,2.5\n1,3,4\n",
    "a selected index": ",a,b\n3,1,2.5\n17,3,4\n",
    "windows": "a,b\r\n1,2.5\r\n3,4\r\n",
    "a mark of byte order": "\ufeffa,b\n1,2.5\n3,4\n",
    "quotes": '"a","b"\n"1","2.5"\n"3","4"\n',
    "blank lines": "a,b\n\n1,2.5\n\n3,4\n\n",
    "exponents": "a,b\n1e0,25e-1\n3,4\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_comma_separated_values(tmp_path, name):
    path = tmp_path / "x.csv"
    path.write_text(TABLES[name])
    data = files.custom(str(path))
    assert data.store.tolist() == [[1, 2.5], [3, 4]] and data.name == "x"
    path.with_suffix(".TSV").write_text("a\tb\n1\t2.5\n3\t4\n")
    assert files.custom(str(path.with_suffix(".TSV"))).store.tolist() == [
        [1, 2.5],
        [3, 4],
    ]
    standard = files.custom(str(path), standardise=True)
    assert standard.store.tolist() == [[-1, -1], [1, 1]]


def test_what_is_guessed_of_a_table_is_said(tmp_path, caplog):
    path = tmp_path / "x.csv"
    path.write_text(TABLES["no heading"])
    files.custom(str(path))
    assert "x.csv: no heading; its first line is a row of numbers" in said(caplog)
    path.write_text(TABLES["an index"])
    files.custom(str(path))
    assert "x.csv: its column of row numbers is left out" in said(caplog)


def test_what_pandas_writes_comes_back(tmp_path):
    path, x = tmp_path / "x.csv", RNG.normal(size=(20, 2)) * [1e-9, 1e9]
    for index in (False, True):
        pandas.DataFrame(x, columns=["a", "b"]).to_csv(path, index=index)
        np.testing.assert_allclose(tables.csv(path)[0], x, rtol=1e-15)
    pandas.DataFrame(x).to_csv(path)
    np.testing.assert_allclose(tables.csv(path)[0], x, rtol=1e-15)
    # Columns without names get the heading 0,1.
    pandas.DataFrame(x).to_csv(path, index=False)
    with pytest.raises(ValueError, match="x.csv: its first line counts from 0.*name"):
        tables.csv(path)


WRONG = {
    "": "no readable .csv file",
    "a,b\n": "holds no rows of numbers",
    "a,b\n1,x\n": "columns b are no numbers: leave them out",
    "name,city\nJo,Rome\n": "columns name, city are no numbers",
    "a,b\n1,\n3,4\n": "columns b have missing or infinite values: fill them",
    "a,b\n1,inf\n3,4\n": "columns b have missing or infinite",
    "a,b\n1,1e999\n3,4\n": "columns b have missing or infinite",
    "1,,3\n4,5,6\n": "missing or infinite",
    "a,b\n1,2\n3,4,5\n": "no readable .csv file: .*Expected 2 fields in line 3, saw 3",
    "a,b\n1,2,9\n3,4,5\n": "Length of header or names does not match length of data",
    "a;b\n1,5;2,5\n": "x.csv",
    "0,1\n1,2\n": "may be a row or a heading",
    "a,b\n2020-01-01,1\n": "columns a are no numbers",
    'a,b\n"1,000",2\n': "columns a are no numbers",
    "a,\n1,0.5\n2,0.7\n": "column 1 has no name: name or remove it",
    "a,b\n1,1e40\n2,2\n": r"1 columns \(b\) have values beyond",
    "\0\0\0\0\n": "x.csv",
}


@pytest.mark.parametrize("text", WRONG)
def test_tables_that_are_none_are_refused_by_name(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=WRONG[text]) as error:
        files.custom(str(path))
    assert "\n" not in str(error.value)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("größe,b\n1,2\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match="x.csv is no readable .csv file: 'utf-8' codec"
    ):
        files.custom(str(path))


def parquet(path, **columns):
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table(columns), path)
    return str(path)


def test_parquet_tables(tmp_path, caplog):
    path = tmp_path / "x.parquet"
    x = files.custom(parquet(path, a=[1, 3], b=[2.5, 4.0], c=[True, False])).store
    assert x.tolist() == [[1, 2.5, 1], [3, 4, 0]]
    frame = pandas.DataFrame({"a": [1.0, 2, 3]})[1:]
    frame.to_parquet(path, index=True)
    assert files.custom(str(path)).store.tolist() == [[2], [3]]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": [1, None]}, "columns a have missing"),
        ({"a": [True, None]}, "columns a are no numbers"),
        ({"a": ["x", "y"], "b": [1, 2]}, "columns a are no numbers"),
        ({"a": [[1, 2], [3]]}, "columns a are no numbers"),
        ({"a": np.array(["2020-01-01"], "M8[s]")}, "columns a are no numbers"),
        ({"a": []}, "holds no rows"),
        ({}, "holds no rows"),
        ({"a": [1.0, np.nan]}, "columns a have missing or infinite"),
    ],
)
def test_parquet_tables_that_are_none(tmp_path, columns, words):
    with pytest.raises(ValueError, match=words):
        files.custom(parquet(tmp_path / "x.parquet", **columns))


@pytest.mark.parametrize("how", ["garbage", "half", "empty"])
def test_damaged_parquet_is_refused_by_name(tmp_path, how):
    path = pathlib.Path(parquet(tmp_path / "x.parquet", a=np.arange(1000)))
    content = path.read_bytes()
    changed = {"garbage": bytes(range(256)), "half": content[:900], "empty": b""}
    path.write_bytes(changed[how])
    with pytest.raises(ValueError, match="x.parquet is no readable .parquet file"):
        files.custom(str(path))


def test_a_parquet_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_UNPACKED", 2**20)
    path = parquet(tmp_path / "x.parquet", a=np.ones(10**6, np.int8))
    assert pathlib.Path(path).stat().st_size < 10_000
    with pytest.raises(ValueError, match="x.parquet.*would unpack to 8,000,000 bytes"):
        files.custom(path)


@pytest.mark.parametrize(
    ("suffix", "package"), [("csv", "pandas"), ("parquet", "pyarrow")]
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, suffix, package):
    path = tmp_path / f"x.{suffix}"
    path.write_text("a\n1\n")
    for name in (package, f"{package}.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    words = f"reading .{suffix} needs {package}: pip install {package}, or save"
    with pytest.raises(ModuleNotFoundError, match=words):
        files.custom(str(path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(
            (f"x{s}", "an archive: unpack it and give the folder")
            for s in files._ARCHIVES
        ),
        ("x.tar.gz", "an archive: unpack it"),
        ("x.csv.gz", "an archive: unpack it"),
        *((f"x{s}", "could run a program: save the array") for s in files._PROGRAMS),
        ("x.png", "one image: give the folder that it lies in"),
        ("x.xlsx", "a file of another type: give a folder of images, or an .npz"),
        ("x", "a file of another type"),
    ],
)
def test_files_of_other_types_are_told_what_to_do(tmp_path, name, words):
    path = tmp_path / name
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match=f"No training data at .*{words}"):
        files.custom(str(path))


MASKED = np.ma.array(np.zeros((4, 3)), mask=np.eye(4, 3))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (MASKED, "x has [0-9]+ masked values: fill them first"),
        (np.ma.array(np.zeros((2, 8, 8), np.uint8), mask=True), "masked values"),
        ([[1, 2], [3]], "x is no array of numbers.*rows of one length"),
        ([["a", "b"]], "x holds <U1"),
        ([[None, 1]], "x holds object"),
        (np.zeros((3, 2), complex), "complex128"),
        (np.zeros((4, 8, 8), np.uint16), "uint16.*such as x / 65535"),
        (np.zeros((4, 8, 8), bool), "bool.*give uint8, or floats"),
        (np.full((4, 8, 8), 128.0), r"from 128.0 to 128.0.*such as x / 255"),
        (np.zeros((4, 3, 8, 8), np.uint8), "channels, at most 4, come last"),
        (np.float32("nan") * np.ones((3, 2)), "NaN or infinite"),
        (7, r"\[\]: give numbers"),
        (None, "object"),
    ],
)
def test_arrays_that_are_no_examples(x, words):
    with pytest.raises(ValueError, match=words):
        files.examples(x, "x", "array")


def test_a_sparse_matrix_is_told_to_be_dense(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(np.eye(4))
    with pytest.raises(ValueError, match="x is a sparse matrix: give x.toarray"):
        files.examples(matrix, "x", "array")
    sparse.save_npz(tmp_path / "x.npz", matrix)
    with pytest.raises(
        ValueError, match="x.npz holds a sparse matrix: save its toarray"
    ):
        files.custom(str(tmp_path / "x.npz"))


def test_a_masked_array_without_masked_values_is_an_array():
    x = np.ma.array([[1.0, 2], [3, 4]])
    assert files.examples(x, "x", "array").store.tolist() == [[1, 2], [3, 4]]


def test_standardised_tables_say_in_which_units(caplog):
    x = RNG.normal(size=(50, 3)) * [1e-3, 1, 1e5] + [1, 0, -1e6]
    x = np.c_[x, np.full(50, 0.1)]
    data = tables.table("x", x, standardise=True)
    mean, scale = data.reference["mean"], data.reference["scale"]
    np.testing.assert_allclose(mean + scale * data.store, x, rtol=1e-6)
    assert scale[3] == 1 and not tables.table("x", x).reference
    assert "the model takes" not in said(caplog)
    for far in (x * 1e200, x + 1e12):
        assert not tables.table("far", far, standardise=True).reference
        assert "far: float32 cannot hold all columns as they are" in said(caplog)


def test_columns_that_float32_rounds_are_warned_of(caplog):
    seconds = 1.7e9 + 100 * RNG.uniform(size=(50, 1))
    tables.table("x", np.c_[seconds, seconds - 1.7e9], columns=["time", "since"])
    assert "1 columns (time) have values that float32 rounds to steps" in said(caplog)
    caplog.clear()
    tables.table("x", seconds, standardise=True)
    tables.table("x", np.c_[seconds - 1.7e9, np.full(50, 0.1)])
    assert "rounds to steps" not in said(caplog)
