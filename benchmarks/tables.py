"""The tables of the results pages, made from results/*/*.json.

    python -m benchmarks.tables            # writes them into the pages
    python -m benchmarks.tables --check    # changes nothing; status 1 where one differs
    python -m benchmarks.tables --record=densities/finish --workdir=runs/x --name="8 Gaussians"

The last puts a trained run that `evaluate.py` has evaluated into a table, as the table's
`fields` say (`benchmarks.recording`): {name}, {seed}, {num_steps}, {seconds} of training,
{EVALUATION[METRIC]}, and of metrics.jsonl {last[METRIC]}.
"""

import pathlib
import sys

import numpy as np
from absl import flags

from benchmarks import recording, results
from megjax import app, checks
from megjax.training import checkpoint, evaluate, metric_writer

# Another benchmark in the same process, as in the tests, may have flags of these names.
OWN = {"allow_override": True}
CHECK = flags.DEFINE_bool(
    "check", False, "Name pages that differ, write nothing.", **OWN
)
WORKDIR = flags.DEFINE_string("workdir", None, "A trained and evaluated run.", **OWN)
NAME = flags.DEFINE_string("name", "", "What its row is called, {name} in `fields`.")


def main() -> int:
    """Writes the pages, compares them, or records a run first."""
    if CHECK.value:
        found = [page.relative_to(results.ROOT) for page, _ in results.differing()]
        for page in found:
            app.say(f"{page} differs from results/: run benchmarks.tables", sys.stderr)
        return int(bool(found))
    if WORKDIR.value:
        recorded(checks.path(WORKDIR.value))
    results.update_pages()
    return 0


def recorded(workdir: pathlib.Path) -> None:
    """Puts a run's figures into the tables of --record."""
    if not recording.RECORD.value:
        raise ValueError("no table: give --record, as --record=densities/finish")
    entries = evaluate.read(workdir / "evaluation")
    if not entries:
        raise ValueError(f"nothing is evaluated in {workdir}: run evaluate.py first")
    found = figures(workdir, entries)
    *_, last = entries.values()
    run = recording.provenance() | {
        "machine": last["device"],
        "versions": {"jax": last["jax"]},
        "seeds": [found["seed"]],
        "seconds": found["seconds"],
    }
    for name in recording.RECORD.value:
        recording.update(name, found, run)


def figures(workdir: pathlib.Path, entries) -> dict[str, object]:
    """What `fields` may name."""
    train = checkpoint.claimed(workdir).values["train"]
    log = metric_writer.read(workdir)
    rates = [r for line in log if (r := line.get("iterations_per_second"))]
    seconds = train["num_steps"] / float(np.median(rates)) if rates else None
    return {
        "name": NAME.value,
        "seed": train["seed"],
        "num_steps": train["num_steps"],
        "seconds": seconds and round(seconds, 1),
        "last": {metric: value for line in log for metric, value in line.items()},
    } | {name: entry["metrics"] for name, entry in entries.items()}


if __name__ == "__main__":
    app.run(main)
