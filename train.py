"""Trains the experiment of a config: python train.py --config=configs/mnist.py

Any field is overridden with --config.field=value. The run lives in --workdir (default
runs/NAME); started again, it resumes there.
"""

import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from megjax import app

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, path[:argument]."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; default runs/NAME.")
FLAGS = flags.FLAGS


def main() -> int:
    """Builds the experiment and trains it; the exit status."""
    # Imported after the flags, so that --help and mistakes answer at once.
    from megjax.training import experiment, loop

    config_file = experiment.portable(FLAGS["config"].config_filename)
    workdir = pathlib.Path(WORKDIR.value or f"runs/{experiment.name(config_file)}")
    config = CONFIG.value
    try:
        loop.train(config, experiment.built(config), workdir, config_file=config_file)
    except loop.Stopped as stopped:
        print(f"{stopped}; the same command resumes", file=sys.stderr)
        return 128 + stopped.number
    return 0


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, distributed=True, preemptible=True)
