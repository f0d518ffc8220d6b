"""Pages of results show what results/ holds; a run's figures come into the right row."""

import decimal
import importlib.util
import json
import pathlib
import re
import sys

import pytest
from absl import flags

from benchmarks import recording, reproduce, results, tables

ROOT = results.ROOT
NAMES = results.names()
PAGES = [*(ROOT / "docs" / "results").glob("*.md"), ROOT / "README.md"]
PAGES.append(ROOT / "RESULTS.md")
SUMMARIES = [
    name
    for name in NAMES
    if results.read(name).get("command") == "python -m benchmarks.tables"
]
MEASURED = [name for name in NAMES if name not in SUMMARIES]
FIGURE = re.compile(r"(?<![\w.])-?\d*\.\d+")


def page_of(name):
    folder, file = name.split("/")
    if folder == "summary":
        return ROOT / f"{file.upper()}.md"
    return ROOT / "docs" / "results" / f"{folder}.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_shows_its_files_and_no_other_table(page):
    text = page.read_text()
    assert results.made(text) == text, "run python -m benchmarks.tables"
    typed = results.BLOCK.sub("", text)
    assert not re.search(r"(?m)^\|", typed), "a table of no file: see CONTRIBUTING.md"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_on_its_page_once(name):
    shown = [match[1] for match in results.BLOCK.finditer(page_of(name).read_text())]
    assert shown.count(name) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_where_its_rows_come_from(name):
    table = results.read(name)
    for found in [table, *table.get("runs", {}).values()]:
        assert found.get("command") or found["source"]
        if name in MEASURED:
            assert found["machine"] and found["versions"]["jax"] and found["seeds"]
    command = table.get("command", "")
    for module in re.findall(r"python -m (\S+)", command):
        assert importlib.util.find_spec(module)
    for script in re.findall(r"(?:python |--config=)(\w\S*\.py)", command):
        assert (ROOT / script).exists() or script == "configs/X.py"


@pytest.mark.parametrize("name", MEASURED)
def test_a_command_records_a_table_or_it_says_why_none_does(name):
    table = results.read(name)
    if "source" in table:
        assert "fields" not in table
        return
    found = re.search(r"python -m benchmarks\.(\w+)", table["command"])
    if not found:  # `benchmarks.tables --workdir` records it.
        assert "python train.py" in table["command"] and table["fields"]
        return
    text = (ROOT / "benchmarks" / f"{found[1]}.py").read_text()
    assert "recording.recorded(" in text
    if "fields" not in table:
        for column in table["columns"]:
            assert column in text + table["command"], column


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_told_apart_and_have_a_cell_for_every_column(name):
    table = results.read(name)
    labels = [results.label(table, row) for row in table["rows"]]
    assert len(set(labels)) == len(labels)
    for row in [*table["rows"], *table.get("fields", [])]:
        assert len(row) == len(table["columns"])
    assert set(table.get("runs", {})) <= set(labels)


@pytest.mark.parametrize("name", SUMMARIES)
def test_summaries_quote_their_figures(name):
    for row in results.read(name)["rows"]:
        for cell in row:
            typed = results.QUOTED.sub("", cell).replace("version 0.1", "")
            assert FIGURE.findall(typed.replace("T = 2.25", "")) == []


def rounded(number, figure):
    """Whether a number of a page is the figure, to the figure's digits."""
    step = decimal.Decimal(1).scaleb(-len(figure.split(".")[1]))
    number = decimal.Decimal(number.replace(",", ""))
    return abs(abs(number) - abs(decimal.Decimal(figure))) <= step / 2


def statements(page):
    """Sentences of a page, and rows of its tables with their heads and groups."""
    for block in page.read_text().split("\n\n"):
        if not block.startswith("|"):
            yield from re.split(r"(?<=[.;:]) ", block.replace("\n", " "))
            continue
        head, _, *rows = block.splitlines()
        group = ""
        for row in rows:
            group = row.split("|")[1].strip() or group
            yield f"{head} {group} {row}"


def words(text):
    """Those of five letters and more, by which two statements are of one thing."""
    return set(re.findall(r"[a-z]{5,}", re.sub(r"\(.*?\)", "", text.lower())))


def test_what_falls_short_is_first_and_has_the_figures_of_its_pages():
    text = (ROOT / "RESULTS.md").read_text()
    assert len(text.splitlines()) <= 60
    headings = re.findall(r"(?m)^## (.*)", text)
    assert headings[0] == "What falls short"
    first = text.split("## Summary")[0]
    items = re.split(r"(?m)^- ", first)[1:]
    for item in items:
        links = re.findall(r"\]\((docs/results/\w+\.md)\)", item)
        pages = [ROOT / link for link in links] or PAGES
        near = [s for p in pages for s in statements(p) if words(s) & words(item)]
        numbers = results.NUMBER.findall(" ".join(near))
        for figure in FIGURE.findall(item.replace("version 0.1", "")):
            assert any(rounded(number, figure) for number in numbers), (figure, item)


def reproduced():
    """(table, what `benchmarks.reproduce` calls it); figure4 trains for its heads."""
    for name in MEASURED:
        table = results.read(name)
        command = re.match(
            r"python -m benchmarks.reproduce (\w+)", table.get("command", "")
        )
        if command and command[1] != "figure4" and "fields" in table:
            yield name, command[1]


@pytest.mark.parametrize(("name", "command"), list(reproduced()))
def test_fields_of_reproduced_tables_name_what_is_printed(name, command):
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["test"])
    heads = next(reproduce.TABLES[command]())
    record = dict.fromkeys(heads, 1.0)
    assert len(record) == len(heads)
    for templates in results.read(name)["fields"]:
        for template in filter(None, templates):
            recording.Cells({}, "").vformat(template, [1.0], record)


TABLE = {
    "title": "Small",
    "command": "python -m benchmarks.modes",
    "machine": "one core",
    "versions": {"jax": "0.10.2", "python": "3.11"},
    "seeds": [0],
    "grouped": True,
    "words": {"nuts": "NUTS", "grid": "25 Gaussians"},
    "missing": "-",
    "fields": [
        ["{target}", "{kernel}", "{draws:,}", "{log_z:.2f} +- {error:0.2f}", None]
    ],
    "columns": ["target", "kernel", "draws", "log Z", "paper"],
    "rows": [
        ["25 Gaussians", "**NUTS**", "1,000", "**.50 +- 0.10**", ".7"],
        ["25 Gaussians", "HMC", "2,000", "-", ""],
        ["two modes", "NUTS", "4,000", "-.25 +- 0.20", ""],
    ],
}
PAGE = "# A page\n\n<!-- table: a/b -->\n\n<!-- end -->\n\nText.\n"
SHOWN = """\
| target | kernel | draws | log Z | paper |
|---|---|---|---|---|
| 25 Gaussians | **NUTS** | 1,000 | **.50 +- 0.10** | .7 |
| | HMC | 2,000 | - | |
| two modes | NUTS | 4,000 | -.25 +- 0.20 | |
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkout with one table on one page."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    (tmp_path / "results" / "a").mkdir(parents=True)
    results.write("a/b", TABLE)
    (tmp_path / "page.md").write_text(results.made(PAGE))
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["test", "--record=a/b"])
    yield tmp_path
    flags.FLAGS.unparse_flags()


def test_a_file_is_read_as_written_with_a_row_a_line(folder):
    assert results.read("a/b") == TABLE
    lines = (folder / "results" / "a" / "b.json").read_text().splitlines()
    assert sum('"NUTS"]' in line or "**NUTS**" in line for line in lines) == 1
    assert SHOWN in (folder / "page.md").read_text()


def test_a_figure_changed_by_hand_is_found_and_undone(folder, capsys):
    page = folder / "page.md"
    right = page.read_text()
    page.write_text(right.replace("2,000", "2,001"))
    flags.FLAGS.check = True
    assert tables.main() == 1
    assert "page.md differs" in capsys.readouterr().err
    flags.FLAGS.check = False
    assert tables.main() == 0 and page.read_text() == right
    flags.FLAGS.check = True
    assert tables.main() == 0


def test_a_table_takes_the_records_that_it_is_of(folder):
    results.write("a/b", TABLE | {"only": "mean of|(?<!grid)nuts"})
    base = {"target": "grid", "draws": 1, "log_z": 1.0, "error": 0.1}
    names = ("nuts, seed 0", "hmc, seed 0", "hmc, mean of 3")
    list(recording.recorded([base | {"kernel": name} for name in names], [0]))
    kernels = [row[1] for row in results.read("a/b")["rows"]]
    assert "hmc, seed 0" not in kernels
    assert {"nuts, seed 0", "hmc, mean of 3"} < set(kernels)


def test_a_record_replaces_its_row_and_no_other(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x/modes.py", "--record=a/b", "--seed=3"])
    record = {"target": "grid", "kernel": "nuts", "draws": 12345, "log_z": -0.256}
    record |= {"error": 0.1}
    assert list(recording.recorded([record], [3])) == [record]
    table = results.read("a/b")
    new = ["25 Gaussians", "**NUTS**", "12,345", "-.26 +- 0.10", ".7"]
    assert table["rows"] == [new, *TABLE["rows"][1:]]
    ((label, run),) = table["runs"].items()
    assert label == "25 Gaussians, NUTS" and run["seeds"] == [3]
    assert run["command"] == "python -m benchmarks.modes --seed=3"
    assert run["machine"] and run["versions"]["jax"] and run["seconds"] > 0
    assert "| 12,345 | -.26 +- 0.10 | .7 |" in (folder / "page.md").read_text()
    rest = {k: v for k, v in table.items() if k not in ("rows", "runs")}
    assert rest == {k: v for k, v in TABLE.items() if k != "rows"}


def test_a_new_row_joins_its_group_and_lacks_what_was_not_measured(folder):
    record = {"target": "grid", "kernel": "smc", "draws": 7, "seed": 5}
    list(recording.recorded([record], [0]))
    table = results.read("a/b")
    assert table["rows"][2] == ["25 Gaussians", "smc", "7", "-", ""]
    assert len(table["rows"]) == 4
    assert table["runs"]["25 Gaussians, smc"]["seeds"] == [5]
    # Nothing but the names of a row: none is written.
    list(recording.recorded([{"target": "grid", "kernel": "mala"}], [0]))
    assert results.read("a/b") == table


@pytest.mark.parametrize(
    ("template", "value", "cell"),
    [
        ("{x:.3f}", 0.4512, ".451"),
        ("{x:0.3f}", 0.4512, "0.451"),
        ("{x:.2f}", -0.256, "-.26"),
        ("{x:.2f}", 10.5, "10.50"),
        ("{x:.1f}", 0.96, "1.0"),
        ("{x:.3g}", 5.452, "5.45"),
        ("{x:,.0f}", 25450.0, "25,450"),
        ("{x}", 0.123456, "0.1235"),
        ("{x}", 12, "12"),
        ("{x[a b/c.d]:0.1f}", {"a b/c.d": 2.0}, "2.0"),
        ("{0} of {a, b at .05:0.1f}", "nuts", "NUTS of 7.0"),
        ("{x:.3f}", float("nan"), "-"),
        ("{y}", 1.0, "-"),
    ],
)
def test_a_figure_is_written_as_its_template_shows(template, value, cell):
    cells = recording.Cells({"nuts": "NUTS"}, "-")
    assert cells.filled(template, {"x": value, "a, b at .05": 7.0}) == cell


def test_figures_that_a_run_lacks_are_dropped_by_name_and_kept_ones_said(
    folder, capsys
):
    """A row is of one run: no older figure stays beside new ones without a word."""
    record = {"target": "grid", "kernel": "nuts", "draws": 7, "log_z": float("nan")}
    list(recording.recorded([record], [0]))
    table = results.read("a/b")
    assert table["rows"][0] == ["25 Gaussians", "**NUTS**", "7", "-", ".7"]
    assert table["runs"]["25 Gaussians, NUTS"]["kept"] == ["paper"]
    assert capsys.readouterr().err == (
        "a/b, 25 Gaussians, NUTS: this run has no log Z, so .50 +- 0.10 is dropped\n"
    )
    # What was missing before, or is new, is not lost.
    list(recording.recorded([record, record | {"kernel": "smc"}], [0]))
    assert capsys.readouterr().err == ""
    assert "kept" not in results.read("a/b")["runs"]["25 Gaussians, smc"]


@pytest.mark.parametrize(
    ("words", "seeds"),
    [("NUTS", [7]), ("NUTS, seed 3", [3]), ("NUTS, mean of 3", [0, 1, 2])],
)
def test_a_record_may_name_its_seeds(folder, words, seeds):
    record = {"target": "grid", "kernel": words, "draws": 7}
    list(recording.recorded([record], [7]))
    assert results.read("a/b")["runs"][f"25 Gaussians, {words}"]["seeds"] == seeds


def test_a_record_of_another_table_is_passed_over(folder):
    """As `adbench --published` makes rows of sets, then of methods."""
    results.write("a/b", TABLE | {"fields": [["{set}", "{kernel}", "{n}", None, None]]})
    list(recording.recorded([{"kernel": "hmc", "n": 1, "target": "grid"}], [0]))
    assert results.read("a/b")["rows"] == TABLE["rows"]
    table = {"command": "x", "columns": ["set", "KL"], "rows": [["old", "1"]]}
    results.write("a/b", table)
    list(recording.recorded([{"method": "PCA", "KL": 2}], [0]))
    assert results.read("a/b")["rows"] == [["old", "1"]]


def test_rows_are_on_disk_before_the_next_record(folder):
    def records():
        yield {"target": "grid", "kernel": "nuts", "draws": 1}
        assert results.read("a/b")["rows"][0][2] == "1"

    list(recording.recorded(records(), [0]))


def test_a_record_of_several_rows_and_columns_named_as_its_figures(folder):
    table = {"command": "x", "columns": ["", "KL"], "rows": [["old", "1"]]}
    results.write("a/b", table)
    list(recording.recorded([{"": "MEG, seed 4", "KL": 0.123456}], [0]))
    found = results.read("a/b")
    assert found["rows"][1] == ["MEG, seed 4", "0.1235"]
    assert found["runs"]["MEG, seed 4"]["seeds"] == [4]
    fields = [["ours", "{kl[ours]:.2f}"], ["theirs", "{kl[theirs]:.2f}"]]
    results.write("a/b", table | {"fields": fields})
    list(recording.recorded([{"kl": {"ours": 1.25, "theirs": None}}], [0]))
    assert results.read("a/b")["rows"] == [["old", "1"], ["ours", "1.25"]]


def test_a_reproduced_table_is_recorded_as_it_is_printed(folder, monkeypatch, capsys):
    results.write(
        "a/b", {"command": "x", "columns": ["", "KL"], "rows": [["old", "1"]]}
    )
    flags.FLAGS.runs = str(folder / "runs")
    rows = [("", "KL"), ("MEG, seed 2", 0.12345678), ("floor", "-")]
    monkeypatch.setitem(reproduce.TABLES, "table1", lambda: iter(rows))
    reproduce.main("table1")
    table = results.read("a/b")
    assert table["rows"] == [["old", "1"], ["MEG, seed 2", "0.1235"], ["floor", "-"]]
    assert [run["seeds"] for run in table["runs"].values()] == [[2], [0]]
    assert "| MEG, seed 2 | 0.1235 |" in capsys.readouterr().out


def test_mistakes_are_found_before_anything_runs(folder):
    flags.FLAGS.record = ["a/c"]
    with pytest.raises(ValueError, match="no table a/c: choose of a/b"):
        recording.recorded((1 / 0 for _ in [0]), [0])
    results.write("a/b", TABLE | {"rows": TABLE["rows"][:1] * 2})
    record = {"target": "grid", "kernel": "nuts", "draws": 1}
    with pytest.raises(ValueError, match="2 rows are called '25 Gaussians, NUTS'"):
        recording.update("a/b", record, {})


@pytest.mark.parametrize(
    ("words", "figure"),
    [
        ("a/b | 25 Gaussians, NUTS | log Z", ".50 +- .10"),
        ("a/b | 25 Gaussians, N | draws", "1,000"),
        ("a/b | 25 Gaussians, NUTS | log Z | .1", ".5"),
        ("a/b | two modes | log | .1", "-.3"),
        ("a/b | 25 Gaussians | draws | mean .0", "1500"),
        ("a/b | 25 Gaussians; two modes | draws | largest .0", "4000"),
        ("a/b | 25 Gaussians | draws | deviation .1", "707.1"),
        ("a/b | two modes; 25 Gaussians, NUTS | log Z | least .2", "-.25"),
        ("a/b | 25 Gaussians, NUTS; two modes | draws | ratio .2", ".25"),
    ],
)
def test_a_figure_is_quoted(folder, words, figure):
    assert results.quoted(words) == figure
    page = results.markdown(TABLE | {"rows": [["", "", f"**{{{words}}}**", "{x}", ""]]})
    assert page.splitlines()[-1] == f"| | | **{figure}** | {{x}} | |"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a/b | 25 Gaussians | draws", "names 2 cells of a/b"),
        ("a/b | 25 Gaussians | draws | .1", "names 2 cells"),
        ("a/b | three modes | draws", "names 0 cells"),
        ("a/b | two modes | seconds", "0 columns are named 'seconds'"),
    ],
)
def test_what_cannot_be_quoted_is_said(folder, words, message):
    with pytest.raises(ValueError, match=message):
        results.quoted(words)


def test_a_finished_run_comes_into_its_row(folder, monkeypatch):
    fields = [
        ["{name}", "{seed}", "{num_steps:,}", "{plane[kl]:.2f}", "{last[a/b]:0.1f}"]
    ]
    results.write("a/b", TABLE | {"fields": fields})
    workdir = folder / "run"
    (workdir / "evaluation").mkdir(parents=True)
    entry = {"metrics": {"kl": 0.125}, "device": "1 x cpu", "jax": "0.10.9"}
    (workdir / "evaluation" / "evaluation.json").write_text(
        json.dumps({"plane": entry})
    )
    lines = [
        {"step": 5, "iterations_per_second": 50.0, "a/b": 2},
        {"step": 9, "a/b": 3},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    values = {"train": {"seed": 8, "num_steps": 1000}}
    record = tables.checkpoint.Record("digits", None, (2,), values)
    monkeypatch.setattr(tables.checkpoint, "claimed", {workdir: record}.get)
    flags.FLAGS.workdir, flags.FLAGS.name = str(workdir), "HMC"
    assert tables.main() == 0
    table = results.read("a/b")
    assert table["rows"][-1] == ["HMC", "8", "1,000", ".12", "3.0"]
    run = table["runs"]["HMC, 8"]
    assert run["machine"] == "1 x cpu" and run["versions"] == {"jax": "0.10.9"}
    assert run["seconds"] == 20 and run["seeds"] == [8]
    flags.FLAGS.record = []
    with pytest.raises(ValueError, match="give --record"):
        tables.main()
    flags.FLAGS.record = ["a/b"]
    flags.FLAGS.workdir = str(pathlib.Path(folder))
    with pytest.raises(ValueError, match="nothing is evaluated"):
        tables.main()
