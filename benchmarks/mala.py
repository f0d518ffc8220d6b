"""Speed of one step of latent MALA, all chains together, on a config's networks.

    python -m benchmarks.mala --config=configs/stacked_mnist.py --peer=... --peer_python=...

The flags of the peer are those of `benchmarks.step`; --peer_arguments=mnist,--mala.
"""

import json
import statistics
import time

import jax
from absl import flags

from benchmarks import measure, recording
from benchmarks import step as peer
from megjax import app, distributed
from megjax.sampling import model
from megjax.training import experiment, loop

NUM = flags.DEFINE_integer("num", 64, "Chains.", 1)
STEPS = flags.DEFINE_integer("steps", 20, "Steps of a timed run.", 1)


def main() -> int:
    """Prints one line of JSON: seconds per step, ours and the peer's."""
    config = peer.CONFIG.value
    built = experiment.build(config)
    with jax.set_mesh(distributed.data_mesh()):
        key = loop.keys(config.train.seed).init
        state = loop.initial_state(
            built.learner, built.data.shape, config.batch_size, key
        )
    ours, theirs = [], []
    seconds_per_step(built.learner, state)
    for _ in range(peer.REPEATS.value):
        ours.append(seconds_per_step(built.learner, state))
        if peer.PEER.value:
            theirs.append(peer.peer_seconds())
    record = {"config": measure.config_name(), "chains": NUM.value}
    record["seconds_per_step"] = statistics.median(ours)
    record["steps_per_second"] = 1 / record["seconds_per_step"]
    if theirs:
        record["peer_seconds_per_step"] = statistics.median(theirs)
        record["speed_over_peer"] = statistics.median(theirs) / statistics.median(ours)
    print(json.dumps(*recording.recorded([record], [config.train.seed])))
    return 0


def seconds_per_step(learner, state) -> float:
    """Wall time of a whole run, starts and host copies included, per step."""
    start = time.perf_counter()
    model.sample(
        jax.random.key(0),
        learner,
        state,
        num=NUM.value,
        steps=STEPS.value,
        step_size=0.01,
        prior="none",
        num_snapshots=2,
    )
    return (time.perf_counter() - start) / STEPS.value


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
