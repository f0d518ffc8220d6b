"""Writes the weights of a trained run to one .safetensors file.

megjax export --workdir=runs/digits --out=digits.safetensors
"""

import pathlib

from absl import flags

from megjax import app, checks
from megjax.training import experiment

WORKDIR = flags.DEFINE_string("workdir", None, "Run; default the newest under runs/.")
OUT = flags.DEFINE_string("out", None, "File; default NAME.safetensors of the run.")
CONFIG = flags.DEFINE_string(
    "config", None, "Config file of a run whose recipe is not megjax's."
)


def main() -> None:
    """Restores the run, writes its weights, prints where."""
    from megjax import distributed
    from megjax.training import loop, weights

    distributed.find_devices()
    workdir = checks.path(WORKDIR.value or experiment.newest(pathlib.Path("runs")))
    run = loop.restore(workdir, recipe=experiment.own_recipe(CONFIG.value))
    if distributed.is_main():
        out = checks.path(OUT.value or f"{workdir.resolve().name}.safetensors")
        weights.save(out, run)
        app.say(f"weights of {workdir} at step {run.step} in {out}")


def run() -> None:
    """The command."""
    app.run(main)
