"""Writes the weights of a trained run to one .safetensors file.

megjax export --workdir=runs/digits --out=digits.safetensors
"""

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
    workdir = experiment.run_directory(WORKDIR.value)
    run = loop.restore(workdir, recipe=experiment.own_recipe(CONFIG.value))
    if distributed.is_main():
        default = f"{workdir.resolve().name}.safetensors"
        out = checks.file(default if OUT.value is None else OUT.value)
        weights.save(out, run)
        app.say(f"weights of {workdir} at step {run.step} in {out}")


def run() -> None:
    """The command."""
    app.run(main)
