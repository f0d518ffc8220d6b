"""Writes the weights of a trained run to one .safetensors file, and a model card.

megjax export --workdir=runs/digits --out=digits.safetensors     # and digits.card.md
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
    """Restores the run, writes its weights and card, prints where."""
    from megjax import distributed
    from megjax.io import atomic
    from megjax.training import card, loop, weights

    distributed.find_devices()
    workdir = experiment.run_directory(WORKDIR.value)
    run = loop.restore(workdir, recipe=experiment.own_recipe(CONFIG.value))
    if distributed.is_main():
        default = f"{workdir.resolve().name}.safetensors"
        out = checks.file(default if OUT.value is None else OUT.value)
        weights.save(out, run)
        text = card.markdown(run, out.name, card.last_metrics(workdir, run.step))
        beside = out.with_name(f"{out.stem}.card.md")
        atomic.replace(beside, lambda file: file.write(text.encode()))
        app.say(f"weights of {workdir} at step {run.step} in {out}, card in {beside}")


def run() -> None:
    """The command."""
    app.run(main)
