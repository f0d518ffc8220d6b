"""Small experiments for tests that train them in one process and in several.

python -m tests.together COORDINATOR NUM_PROCESSES PROCESS_ID FOLDER
"""

import pathlib
import sys

import jax
import numpy as np

from megjax import distributed
from megjax.data.dataset import Dataset
from megjax.training import experiment, loop

NAMES = ("toy_25gaussians", "rbm_digits", "streamed")
SMALL = {
    "batch_size": 32,
    "train.num_steps": 20,
    "train.log_every": 1,
    "train.save_every": 10,
    "train.evaluate_every": 20,
}
PLAYERS = {"width": 16, "meg.num_energy_updates": 1}
MACHINE = {"num_hidden": 16, "contrast.num_chains": 32, "evaluation.num_examples": 8}
TABLE = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)


def streamed():
    """A set in the plane that is read row by row."""
    return Dataset(
        "rows", (2,), len(TABLE), (), lambda rows, i: rows[i], lambda i: TABLE[i]
    )


def chosen(name, **more):
    """The config of a name, made small."""
    stem = "toy_25gaussians" if name == "streamed" else name
    config = experiment.load(stem)
    narrow = MACHINE if name == "rbm_digits" else PLAYERS
    config.update_from_flattened_dict(SMALL | narrow | more)
    return config


def trained(name, folder, devices=None, **more):
    """Trains a name in a folder of its own; the final state."""
    config = chosen(name, **more)
    built = experiment.build(config)
    built = built._replace(evaluations={})
    if name == "streamed":
        built = built._replace(data=streamed())
    workdir = pathlib.Path(folder) / name
    return loop.train(config, built, workdir, name=name, devices=devices)


def main(coordinator, num_processes, process_id, folder):
    """Joins the others and trains everything."""
    jax.config.update("jax_disable_most_optimizations", True)
    distributed.start(
        coordinator, int(num_processes), int(process_id), preemptible=True
    )
    for name in NAMES:
        trained(name, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
