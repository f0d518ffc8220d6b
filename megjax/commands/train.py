"""Trains the experiment of a config: python train.py --config=configs/mnist.py

--config=mnist names the same one. Any field is overridden with --config.field=value. The run lives in --workdir (default
runs/NAME); started again, it resumes there.
"""

import sys

from absl import flags

from megjax import app, checks
from megjax.training import experiment

CONFIG = experiment.define_flag()
flags.declare_key_flag("config")
WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; default runs/NAME.")
FLAGS = flags.FLAGS


def main() -> int:
    """Builds the experiment and trains it; the exit status."""
    # Imported after the flags, so that --help and mistakes answer at once.
    from megjax import distributed
    from megjax.training import loop

    distributed.find_devices()
    config_file = FLAGS["config"].config_filename
    default = experiment.directory(config_file)
    workdir = checks.path(default if WORKDIR.value is None else WORKDIR.value)
    name = experiment.name(config_file)
    config = CONFIG.value
    try:
        loop.train(config, experiment.build(config), workdir, name=name)
    except loop.Stopped as stopped:
        app.say(f"{stopped}; the same command resumes", sys.stderr)
        return 128 + stopped.number
    return 0


def run() -> None:
    """The command."""
    flags.mark_flag_as_required("config")
    app.run(main, distributed=True, preemptible=True)
