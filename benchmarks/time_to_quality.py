"""Time to a given quality on MNIST: ours against the same game in eager PyTorch.

    taskset -c 0 python -m benchmarks.time_to_quality --peer_python=PYTHON_WITH_TORCH \
      --data_dir=../shared/data/tfds

Both play configs/mnist_small.py without the density ratio, from the same initial weights,
with batches and latents of their own. They take turns, --every so many iterations, so
that what else the machine does slows both; our compilation counts. Quality is the Frechet
distance of samples to training images in the features of --classifier. --check compares
the arithmetic instead, with status 1 where it differs: for after a change to either.
"""

import contextlib
import itertools
import json
import math
import os
import pathlib
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from absl import flags
from flax import traverse_util

from benchmarks import measure, recording, reproduce
from megjax import app, distributed
from megjax.evaluation import classifier_metrics, fidelity
from megjax.recipes import image_sets
from megjax.training import experiment, loop

PEER_PYTHON = flags.DEFINE_string("peer_python", "python3", "Python that has torch.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 1500, "Iterations of a run.", 1)
EVERY = flags.DEFINE_integer("every", 100, "Iterations between evaluations.", 1)
DISTANCE = flags.DEFINE_float("distance", 5.0, "Frechet distance to reach.", 0.0)
CHECK = flags.DEFINE_bool("check", False, "Compare the arithmetic, train nothing.")
PEER = pathlib.Path(__file__).with_name("mnist_peer.py")
PLAYERS = ("energy", "generator", "statistics")
LOSSES = ("information", "energy_real", "energy_fake", "squared_score")
NUM_CHECKED = 3
TOLERANCE = 2e-3
"""Steps of Adam differ most, where a gradient is near 0."""

IDLE = re.compile("generator/(seed|convolution_[012])/bias")
"""Before a norm: their gradient is 0 but for rounding, of which Adam makes whole steps."""


class Point(NamedTuple):
    """How far a run is: training until now, of the wall and of the CPU, and its worth."""

    iterations: float
    seconds: float
    cpu_seconds: float
    distance: float


def main() -> int:
    """Prints a table as it grows, then one line of JSON."""
    config = experiment.load("mnist_small")
    config.ratio.num_steps = 0
    config.train.num_steps, config.train.evaluate_every = NUM_STEPS.value, EVERY.value
    config.evaluation.classifier = reproduce.CLASSIFIER.value
    config.data_dir = reproduce.DATA_DIR.value or ""
    if CHECK.value:
        # The rate rises and falls within what is compared.
        config.meg.warmup_steps, config.train.num_steps = 2, NUM_CHECKED + 1
    # As on a fresh machine.
    jax.config.update("jax_enable_compilation_cache", False)
    built = experiment.build(config)
    with jax.set_mesh(distributed.data_mesh()):
        if CHECK.value:
            return check(config, built)
        curves = table(config, built, distances(config, built))
    found = summary(curves, DISTANCE.value)
    seeds = range(reproduce.SEEDS.value or 1)
    measure.report(*recording.recorded([found], seeds))
    return 0


def table(config, built, distance) -> dict[str, list[list[Point]]]:
    """Prints every point as it comes; a curve for each name and seed."""
    curves = {"ours": [], "peer": []}
    print("| seed | | iterations | seconds | CPU seconds | Frechet distance |")
    print("|---|---|---|---|---|---|", flush=True)
    for seed in range(reproduce.SEEDS.value or 1):
        config.train.seed = seed
        for curve in curves.values():
            curve.append([])
        for name, point in played(config, built, distance):
            curves[name][-1].append(point)
            cells = (seed, name, *(f"{value:.5g}" for value in point))
            print("|", " | ".join(map(str, cells)), "|", flush=True)
    return curves


def summary(
    curves: Mapping[str, Sequence[Sequence[Point]]], distance: float
) -> dict[str, float | None]:
    """Iterations and seconds to a distance, means over seeds, and theirs over ours.

    None where a run does not get there.
    """
    record = {"distance": distance}
    for name, some in curves.items():
        points = [reached(curve, distance) for curve in some]
        means = np.mean(points, axis=0).tolist() if all(points) else [None] * 3
        record |= {f"{name}_{k}": v for k, v in zip(Point._fields[:3], means)}
    for field in Point._fields[:3]:
        ours, theirs = record[f"ours_{field}"], record[f"peer_{field}"]
        record[f"{field}_ratio"] = theirs / ours if ours and theirs else None
    return record


def reached(curve: Sequence[Point], distance: float) -> Point | None:
    """Where a curve first comes down to a distance; None where it does not.

    Between two evaluations the logarithm of the distance is taken for linear.
    """
    for i, point in enumerate(curve):
        if point.distance <= distance:
            before = curve[max(i - 1, 0)]
            fall = math.log(before.distance / point.distance)
            share = math.log(before.distance / distance) / fall if fall else 1.0
            return Point(*(a + share * (b - a) for a, b in zip(before, point)))
    return None


def played(config, built, distance) -> Iterator[tuple[str, Point]]:
    """Points of both runs of a seed, in turns."""
    num_steps = config.train.num_steps
    with tempfile.TemporaryDirectory() as directory:
        ours = Ours(config, built)
        prepare(directory, config, built, ours.state)
        with Peer(directory) as peer:
            for num in (*range(EVERY.value, num_steps, EVERY.value), num_steps):
                # The peer first: whether it has torch is known at once.
                for name, run in (("peer", peer), ("ours", ours)):
                    times = run.train(num)
                    yield name, Point(num, *times, distance(run.samples()))


class Ours:
    """A run of ours, whose time includes initialisation and compilation."""

    def __init__(self, config, built):
        self.config, self.built, self.done = config, built, 0
        self.sample = jax.jit(built.learner.sample, static_argnums=2)
        self.times = np.zeros(2)
        with self._timed():
            self.loop = measure.Loop(config, built)
            jax.block_until_ready(self.state)

    @contextlib.contextmanager
    def _timed(self):
        start = np.array([time.perf_counter(), time.process_time()])
        yield
        self.times += [time.perf_counter(), time.process_time()] - start

    @property
    def state(self):
        """Of the learner."""
        return self.loop.state

    def train(self, num: int) -> np.ndarray:
        """Trains to an iteration; seconds until then, of the wall and of the CPU."""
        with self._timed():
            self.done += self.loop.run(num - self.done)
        return self.times

    def samples(self) -> np.ndarray:
        """Of the averaged generator: float32 [N, H, W, C]."""
        num, size = self.config.evaluation.num_samples, classifier_metrics.BATCH_SIZE
        key = loop.keys(self.config.train.seed).evaluation
        keys = jax.random.split(key, -(-num // size))
        found = [np.asarray(self.sample(key, self.state, size)) for key in keys]
        return np.concatenate(found)[:num]


class Peer:
    """The peer's run, in a process of its own, from what `prepare` wrote."""

    def __init__(self, directory: str):
        self.line, self.path = command(directory), pathlib.Path(directory)

    def __enter__(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.line, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, *error):
        self.process.communicate()

    def train(self, num: int) -> np.ndarray:
        """As of `Ours`. Raises ValueError where the peer has ended."""
        with contextlib.suppress(BrokenPipeError):
            print(num, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(
                f"{' '.join(self.line)} ended: give --peer_python that has torch"
            )
        found = json.loads(line)
        return np.array([found["seconds"], found["cpu_seconds"]])

    def samples(self) -> np.ndarray:
        """As of `Ours`."""
        return np.load(self.path / "samples.npy")


def command(directory: str, *options: str) -> list[str]:
    """That runs the peer."""
    return [PEER_PYTHON.value, str(PEER), directory, *options]


def distances(config, built) -> Callable[[np.ndarray], float]:
    """Samples [N, H, W, C] -> their distance to as many training images."""
    space = image_sets.classifier_space(config.evaluation.classifier, config.dataset)
    some = built.data.store[: config.evaluation.num_samples]
    real = classifier_metrics.outputs(space, some)

    def distance(x):
        found = classifier_metrics.outputs(space, fidelity.quantised(x))
        return classifier_metrics.distance(found, real)

    return distance


def prepare(directory: str, config, built, state) -> None:
    """Writes what the peer reads."""
    settings = config.meg.to_dict() | {
        "width": config.width,
        "batch_size": config.batch_size,
        "num_steps": config.train.num_steps,
        "num_samples": config.evaluation.num_samples,
        "seed": config.train.seed,
        "threads": len(os.sched_getaffinity(0)),
    }
    path = pathlib.Path(directory)
    (path / "settings.json").write_text(json.dumps(settings))
    np.save(path / "pixels.npy", built.data.store)
    np.savez(path / "weights.npz", **weights(state))


def weights(state) -> dict[str, np.ndarray]:
    """Parameters and running statistics, by PLAYER/LAYER/NAME."""
    found = {}
    for name in PLAYERS:
        player = getattr(state, name)
        for tree in (player.params, *player.variables.values()):
            found |= flat(name, tree)
    average = state.average
    found |= flat("average/energy", average["energy"])
    for tree in average["generator"].values():
        found |= flat("average/generator", tree)
    return found


def flat(name: str, tree) -> dict[str, np.ndarray]:
    """The leaves of a tree by NAME/PATH."""
    return traverse_util.flatten_dict({name: jax.tree.map(np.array, tree)}, sep="/")


def check(config, built) -> int:
    """Prints how far iterations of both are apart, from the same weights and noise."""
    learner, batch_size = built.learner, config.batch_size
    streams = loop.keys(config.train.seed)
    keys = jax.random.split(streams.step, NUM_CHECKED)
    z = np.stack([latents(learner, key, batch_size) for key in keys])
    rows = np.arange(NUM_CHECKED * batch_size)
    x = built.data.take(built.data.store, rows)
    x = x.reshape(NUM_CHECKED, batch_size, *built.data.shape)
    state = loop.initial_state(learner, built.data.shape, batch_size, streams.init)
    with tempfile.TemporaryDirectory() as directory:
        prepare(directory, config, built, state)
        np.savez(pathlib.Path(directory, "given.npz"), x=x, z=z)
        subprocess.run(command(directory, "--check"), check=True)
        theirs = dict(np.load(pathlib.Path(directory, "found.npz")))
    ours = checked(config, learner, state, keys, x, z)
    record = differences(ours, theirs, weights(state))
    measure.report(record)
    return int(max(record.values()) > TOLERANCE)


def latents(learner, key, num: int) -> np.ndarray:
    """What an iteration draws for the generator's and the energy's update: [2, B, k]."""
    key_energy, key_generator = jax.random.split(key)
    (key_energy,) = jax.random.split(key_energy, 1)
    keys = [jax.random.split(key)[0] for key in (key_generator, key_energy)]
    return np.stack([learner.latents(key, num) for key in keys])


def checked(config, learner, state, keys, x, z) -> dict[str, np.ndarray]:
    """What the peer writes with --check."""
    options = loop.compiler_options(config.train)
    update = jax.jit(learner.step, compiler_options=options)
    found = {
        "energies": np.asarray(learner.energy(state, x[0])),
        "samples": np.asarray(learner.generate(state, z[0, 0])),
    }
    for i, key in enumerate(keys):
        state, metrics = update(key, state, x[i : i + 1])
        if i == 0:
            found |= {name: np.asarray(metrics[name]) for name in LOSSES}
            for name in PLAYERS:
                # Of Adam without momentum the first moment is the gradient.
                moment = optax.tree.get(getattr(state, name).optimizer, "mu")
                found |= flat(f"gradient/{name}", moment)
    return found | {f"after/{k}": v for k, v in weights(state).items()}


def differences(ours, theirs, before) -> dict[str, float]:
    """Root mean square differences, relative to ours.

    A step is all that a player's weights, or the averages, move from where they were.
    """
    for found in (ours, theirs):
        for name, start in before.items():
            found[f"step/{name}"] = found[f"after/{name}"].ravel() - start.ravel()
    record = {}
    groups = itertools.product(("gradient/", "step/"), (*PLAYERS, "average"))
    for prefix in ("energies", "samples", *LOSSES, *map("".join, groups)):
        some = [n for n in ours if n.startswith(prefix) and not IDLE.search(n)]
        if some:
            pair = ([found[name] for name in some] for found in (ours, theirs))
            record[prefix.replace("/", "_")] = apart(*pair)
    return record


def apart(ours, theirs) -> float:
    """Of two lists of arrays."""
    a, b = (np.concatenate([np.ravel(x) for x in found]) for found in (ours, theirs))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


if __name__ == "__main__":
    app.run(main)
