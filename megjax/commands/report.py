"""Writes one HTML page about a run: curves, pictures, what was measured, settings.

megjax report --workdir=runs/digits     # runs/digits/report.html
"""

from absl import flags

from megjax import app, checks
from megjax.training import experiment

WORKDIR = flags.DEFINE_string("workdir", None, "Run; default the newest under runs/.")
OUT = flags.DEFINE_string("out", None, "File; default report.html in the run.")


def main() -> None:
    """Reads the run's directory, writes the page, prints where."""
    from megjax.io import atomic
    from megjax.training import report

    workdir = experiment.run_directory(WORKDIR.value)
    text = report.page(workdir)
    default = workdir / "report.html"
    out = checks.file(default if OUT.value is None else OUT.value)
    atomic.replace(out, lambda file: file.write(text.encode()))
    app.say(f"report of {workdir} in {out}")


def run() -> None:
    """The command."""
    app.run(main)
