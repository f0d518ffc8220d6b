"""Tables of the results pages: files results/*/*.json, of which the pages' are made.

`python -m benchmarks.tables` writes them into the pages; benchmarks write the files with
--record (`benchmarks.recording`). A page has `<!-- table: images/methods -->` and
`<!-- end -->` where the table of results/images/methods.json goes. Such a file has

    command, machine, versions, seeds, seconds    of all rows but those of `runs`
    source     where rows come from that no command records: a former version, or by hand
    runs       the same, and the day, of rows that were recorded, by their labels
    columns, rows    cells as text, with the digits to show
    grouped    true where the first column names a group, and is shown once in each
    keys       how many columns name a row; default 1, of grouped tables 2
    fields, words, missing    how a run's figures become cells: `benchmarks.recording`

A cell may quote figures of other tables, {TABLE | ROW | COLUMN}, as the summaries do. ROW
is the label of a row or how it begins, or several with ";" between; a column is named in
full or by how it begins. A fourth part rounds: {... | .2} is the cell's first number with
two decimals, {... | mean .2} that of all rows; there are mean, deviation, least, largest
and ratio, of the first row to the second.
"""

import decimal
import json
import pathlib
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from megjax.io import atomic

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "results"
BLOCK = re.compile(r"(?<=<!-- table: )(\S+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
QUOTED = re.compile(r"\{([^{}|]+\|[^{}]+)\}")
NUMBER = re.compile(r"-?(?:\d+(?:,\d{3})+|\d*\.?\d+(?:e-?\d+)?)")
STATISTICS = {
    "first": lambda numbers: numbers[0],
    "mean": statistics.mean,
    "deviation": statistics.stdev,
    "least": min,
    "largest": max,
    "ratio": lambda numbers: numbers[0] / numbers[1],
}

Table = dict[str, Any]


def names() -> list[str]:
    """Of all tables, as images/methods."""
    paths = sorted(FOLDER.glob("*/*.json"))
    return [path.relative_to(FOLDER).with_suffix("").as_posix() for path in paths]


def pages() -> list[pathlib.Path]:
    """Those that may have tables."""
    return [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]


def read(name: str) -> Table:
    """A table by its name. Raises ValueError where there is none."""
    try:
        return json.loads((FOLDER / f"{name}.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"no table {name}: choose of {', '.join(names())}") from None


def write(name: str, table: Mapping[str, Any]) -> None:
    """Replaces a table's file; a row a line, so that changes of different rows merge."""
    text = ",\n".join(f" {json.dumps(k)}: {_lines(v)}" for k, v in table.items())
    path = FOLDER / f"{name}.json"
    atomic.replace(path, lambda file: file.write(f"{{\n{text}\n}}\n".encode()))


def _lines(value) -> str:
    """Lists of lists and mappings of mappings in a line for each."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
    if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
        items = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
        return "{\n" + ",\n".join(items) + "\n }"
    return json.dumps(value)


def plain(cell: str) -> str:
    """A cell without its emphasis."""
    return cell.replace("**", "")


def keys(table: Table) -> int:
    """How many cells name a row."""
    return table.get("keys", 2 if table.get("grouped") else 1)


def label(table: Table, row: Sequence[str]) -> str:
    """What a row is called: its first cell, or its first ones."""
    return ", ".join(plain(cell) for cell in row[: keys(table)])


def markdown(table: Table) -> str:
    """The table as it stands on a page."""
    shown, group = [], None
    for row in table["rows"]:
        repeated = table.get("grouped") and row[0] == group
        shown.append(["", *row[1:]] if repeated else row)
        group = row[0]
    lines = (_line(row) for row in [table["columns"], *shown])
    first, *others = (QUOTED.sub(lambda found: quoted(found[1]), l) for l in lines)
    return "\n".join([first, "|" + "---|" * len(table["columns"]), *others])


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def quoted(words: str) -> str:
    """The figure that "TABLE | ROW | COLUMN | FORMAT" names; FORMAT may be left out.

    Without it all of the cell. Zeros before the point are left out, as in prose. Raises
    ValueError where there is no such cell, or more than the one that is asked for.
    """
    name, rows, column, *form = (word.strip() for word in words.split("|"))
    table = read(name)
    index = _column(table, column)
    cells = [plain(r[index]) for part in rows.split(";") for r in _rows(table, part)]
    *statistic, digits = form[0].split() if form else [""]
    if not cells or (len(cells) > 1 and not statistic):
        raise ValueError(f"{{{words}}} names {len(cells)} cells of {name}")
    text = cells[0]
    if digits:
        kind = statistic[0] if statistic else "first"
        numbers = [NUMBER.findall(cell) for cell in cells]
        if kind not in ("least", "largest"):
            numbers = [of_cell[:1] for of_cell in numbers]
        found = STATISTICS[kind]([_decimal(n) for of_cell in numbers for n in of_cell])
        # Half goes up, as a reader rounds what the table shows.
        places = decimal.Decimal(1).scaleb(-int(digits[1:]))
        text = str(found.quantize(places, decimal.ROUND_HALF_UP))
    return re.sub(r"(?<![\d.])0(?=\.\d)", "", text)


def _decimal(text: str) -> decimal.Decimal:
    return decimal.Decimal(text.replace(",", ""))


def _column(table: Table, name: str) -> int:
    columns = table["columns"]
    found = [i for i, c in enumerate(columns) if c == name] or [
        i for i, c in enumerate(columns) if c.startswith(name)
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} columns are named {name!r}: {columns}")
    return found[0]


def _rows(table: Table, start: str) -> list[list[str]]:
    """The rows of a label, or those whose labels begin so."""
    start = start.strip()
    labels = [label(table, row) for row in table["rows"]]
    matches = str.__eq__ if start in labels else str.startswith
    return [row for row, name in zip(table["rows"], labels) if matches(name, start)]


def made(text: str) -> str:
    """A page with its tables as they are in the files."""
    return BLOCK.sub(lambda b: f"{b[1]}{b[2]}\n{markdown(read(b[1]))}\n\n", text)


def differing() -> Iterator[tuple[pathlib.Path, str]]:
    """Pages whose tables are not those of the files, and their text as it should be."""
    for page in pages():
        text = page.read_text()
        if (new := made(text)) != text:
            yield page, new


def update_pages() -> None:
    """Writes all tables into their pages."""
    for page, text in differing():
        page.write_text(text)
