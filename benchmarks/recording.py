"""Figures that a benchmark prints as rows of tables in results/: --record=TABLE.

    python -m benchmarks.modes --record=sampling/modes

A benchmark passes what it prints through `recorded`. A row replaces the one of its label,
where there is one. Figures that the record lacks become `missing`, and those that this
drops are named; columns without a template keep what they have, and the row's run names
them as `kept`. A record that does not name a row of a table is passed over there.

`fields` of a table has a row of templates for every row that a record makes, a template
for each column, null where a cell is not measured: "{log_z:.4f} +- {log_z_error:.4f}".
{0} is the record's first value; ".3f" writes .451, "0.3f" 0.451. Without `fields` columns
are named as the figures are. `words` are what the page has for words of the benchmark,
`missing` stands for figures that a record does not have, `only` tells which records the
table has.
"""

import os
import pathlib
import platform
import re
import shlex
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from absl import flags

from benchmarks import results
from megjax import app

RECORD = flags.DEFINE_list("record", [], "Tables that get the rows, as images/methods.")
START = time.perf_counter()
"""Before what a benchmark does for its first record."""


def recorded(
    records: Iterable[Mapping[str, object]], seeds: Sequence[int]
) -> Iterator[Mapping[str, object]]:
    """Passes records on; those of --record's tables are on disk before the next begins.

    Raises ValueError at once where there is no such table. seeds: of records that do not
    say so themselves, as "seed", "MEG, seed 0" or "NUTS, mean of 3" do.
    """
    for name in RECORD.value:
        results.read(name)
    return _recorded(records, seeds)


def _recorded(records, seeds):
    start = START
    for record in records:
        seconds = round(time.perf_counter() - start, 1)
        own = {"seeds": _seeds(record) or list(seeds), "seconds": seconds}
        for name in RECORD.value:
            update(name, record, provenance() | own)
        yield record
        start = time.perf_counter()


def _seeds(record) -> list[int]:
    if "seed" in record:
        return [record["seed"]]
    words = _words(record)
    if means := re.search(r"mean of (\d+)", words):
        return list(range(int(means[1])))
    return list(map(int, re.findall(r"seed (\d+)", words)))


def _words(record) -> str:
    return " ".join(value for value in record.values() if isinstance(value, str))


def provenance() -> dict[str, object]:
    """The command that runs, its machine and versions, and the day."""
    module = f"benchmarks.{pathlib.Path(sys.argv[0]).stem}"
    own = [word for word in sys.argv[1:] if not word.startswith("--record=")]
    return {
        "command": shlex.join(["python", "-m", module, *own]),
        "machine": machine(),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }


def machine() -> str:
    """Cores that this process may use, and NVIDIA's devices.

    jax is not asked: it would take the memory of the device, which others need that a
    benchmark starts.
    """
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    name = models[0] if models else platform.machine()
    found = [f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores of {name}"]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        found += done.stdout.splitlines()
    return ", ".join(found)


def update(name: str, record: Mapping[str, object], run: Mapping[str, object]) -> None:
    """Puts the rows of a record into a table and its page; run: how they came about."""
    table = results.read(name)
    runs = table.get("runs", {})
    for row in rows(table, record):
        label = results.label(table, [cell or "" for cell in row])
        old, missing = _put(table, label, row), table.get("missing", "")
        changes = list(zip(table["columns"], old, row))
        kept = [column for column, before, cell in changes if before and cell is None]
        runs[label] = run | ({"kept": kept} if kept else {})
        lost = [
            f"no {column}, so {results.plain(before)} is dropped"
            for column, before, cell in changes
            if cell == missing and before not in ("", missing)
        ]
        if lost:
            app.say(f"{name}, {label}: this run has {'; '.join(lost)}", sys.stderr)
    columns = {key: table.pop(key) for key in ("columns", "rows")}
    results.write(name, table | {"runs": runs} | columns)
    results.update_pages()


def _put(table, label, row) -> list[str]:
    """Replaces the row of that label, whose former cells it returns, or adds one."""
    every = table["rows"]
    labels = [results.label(table, old) for old in every]
    if labels.count(label) > 1:
        raise ValueError(
            f"{labels.count(label)} rows are called {label!r}: tell them apart"
        )
    if label in labels:
        old = every[labels.index(label)]
        # Names of rows keep their emphasis; figures have lost theirs, as others may lead.
        num, before = results.keys(table), list(old)
        old[num:] = (a if b is None else b for a, b in zip(old[num:], row[num:]))
        return before
    group = [i for i, old in enumerate(every) if results.plain(old[0]) == row[0]]
    place = group[-1] + 1 if group and table.get("grouped") else len(every)
    every.insert(place, [cell or "" for cell in row])
    return []


def rows(table, record: Mapping[str, object]) -> Iterator[list[str | None]]:
    """Cells that a record makes, None where a table does not say how.

    None of rows that the record does not name, or has no figure of, nor of records in
    whose words the table's `only`, a regular expression, is not found.
    """
    if not re.search(table.get("only", ""), _words(record)):
        return
    cells = Cells(table.get("words", {}), table.get("missing", ""))
    num = results.keys(table)
    if "fields" in table:
        every = [
            [cells.filled(t, record) if t else None for t in templates]
            for templates in table["fields"]
        ]
    else:
        columns = table["columns"]
        every = [[cells.cell(record[c]) if c in record else None for c in columns]]
    for row in every:
        names, figures = set(row[:num]), set(row[num:]) - {None, cells.missing}
        if figures and not names & {None, cells.missing}:
            yield row


class Cells(string.Formatter):
    """Figures and templates as tables show them.

    words: for words of a benchmark. missing: for what is None, infinite or NaN, and for
    templates that name what a record lacks.
    """

    def __init__(self, words: Mapping[str, str], missing: str):
        self.words, self.missing = words, missing

    def cell(self, value: object) -> str:
        """One figure."""
        return self.filled("{value}", {"value": value})

    def filled(self, template: str, record: Mapping[str, object]) -> str:
        """A template with the figures of a record."""
        try:
            return self.vformat(template, list(record.values())[:1], record)
        except KeyError:
            return self.missing

    def get_field(self, name, args, kwargs):
        """As usual, but names may have points and brackets in them."""
        if name in kwargs:
            return kwargs[name], name
        return super().get_field(name, args, kwargs)

    def format_field(self, value, spec):
        """As usual, but .451 where the spec is ".3f", and 0.451 where it is "0.3f"."""
        if isinstance(value, str):
            return self.words.get(value, value)
        if value is None or not np.isfinite(value):
            raise KeyError
        if isinstance(value, float):
            spec = spec or "0.4g"
        text = format(value, spec.removeprefix("0") if spec.startswith("0.") else spec)
        return re.sub(r"^(-?)0\.", r"\1.", text) if spec.startswith(".") else text
