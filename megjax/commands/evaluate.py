"""Measures a trained run: python evaluate.py --workdir=runs/digits

Runs what the run's config names, or with --only=NAME,... some of it, and leaves
evaluation.json and pictures in --out. --set=FIELD=VALUE changes a field of the config
first, such as evaluation.num_samples. Several processes draw chains together, and the
main one computes the rest.
"""

from absl import flags

from megjax import app, checks
from megjax.training import experiment

WORKDIR = flags.DEFINE_string("workdir", None, "Run; default the newest under runs/.")
ONLY = flags.DEFINE_list("only", [], "Names of evaluations; default all.")
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE of the config; repeatable.")
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.", 0, 2**32 - 1)
CONFIG = flags.DEFINE_string(
    "config", None, "Config file of a run whose recipe is not megjax's."
)
OUT = flags.DEFINE_string("out", None, "Directory; default evaluation/ in the run.")
PATHS = ("workdir", "config", "out")
"""Flags whose values may differ between processes, which see disks of their own."""


def main() -> None:
    """Restores the run, evaluates, writes, prints.

    Several processes draw chains together; the main one does the rest.
    """
    # Imported after the flags, so that --help and mistakes answer at once.
    from megjax import distributed
    from megjax.training import evaluate, loop

    distributed.find_devices()
    app.check_flags(__name__, but=PATHS)
    workdir = experiment.run_directory(WORKDIR.value)
    out = checks.path(workdir / "evaluation" if OUT.value is None else OUT.value)
    restored = loop.restore(
        workdir, SET.value, recipe=experiment.own_recipe(CONFIG.value)
    )
    reports = evaluate.evaluate(
        restored, ONLY.value, out, seed=SEED.value, changed=SET.value
    )
    if distributed.is_main():
        app.say(f"{workdir} at step {restored.step}; results in {out}/")
    for name, report in reports:
        app.say(name)
        for metric, value in report.metrics.items():
            app.say(f"  {metric:36} {value:.6g}")
    distributed.done()


def run() -> None:
    """The command."""
    app.run(main, distributed=True)
