"""The one training loop: knows no method and no dataset.

Iteration t is a function of (seed, t, state) alone, and calls of the compiled step
always start at the same iterations, so a resumed run repeats an uninterrupted one bit
for bit.
"""

import contextlib
import functools
import itertools
import logging
import math
import pathlib
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from megjax import checkpoint, experiment, metrics, parallel
from megjax.data import order, stream
from megjax.data.dataset import Dataset
from megjax.learners.learner import Learner
from megjax.types import Key, Metrics, PyTree

LOG = logging.getLogger(__name__)


class Keys(NamedTuple):
    """Independent streams of one seed."""

    init: Key
    order: Key
    step: Key
    evaluation: Key


class Restored(NamedTuple):
    """A run read back from its directory."""

    config: ml_collections.ConfigDict
    experiment: experiment.Experiment
    state: PyTree
    step: int


class Window:
    """Metrics since the last log line; means over iterations, rates over wall time."""

    def __init__(self, samples_per_iteration: int):
        self.samples_per_iteration = samples_per_iteration
        self.found = []
        self.pause()

    def pause(self) -> None:
        """Leaves the time until now out of the rates: compilation, evaluations."""
        self.num_timed, self.start = 0, time.perf_counter()

    def add(self, num: int, found: Metrics) -> None:
        """Takes the mean metrics of a call of `num` iterations, still on the device.

        Waits for the call before last, so that at most two are under way.
        """
        self.found.append((num, found))
        self.num_timed += num
        if len(self.found) > 1:
            jax.block_until_ready(self.found[-2])

    def scalars(self, step: int) -> dict[str, float]:
        """Finite means and rates of the window that ends with `step`.

        Raises FloatingPointError naming the first call with a non-finite metric.
        """
        counts = [num for num, _ in self.found]
        found = jax.device_get([metrics for _, metrics in self.found])
        for end, num, one in zip(_ends(step, counts), counts, found):
            bad = [name for name, value in one.items() if not np.isfinite(value)]
            if bad:
                raise FloatingPointError(
                    f"{', '.join(sorted(bad))} not finite in iterations "
                    f"{end - num + 1}-{end}: lower the learning rate, or raise "
                    "score_weight; the last checkpoint is kept"
                )
        means = {
            name: float(np.average([one[name] for one in found], weights=counts))
            for name in found[0]
        }
        return means | self._resources()

    def _resources(self) -> dict[str, float]:
        """Rates and peak memory; no rates where nothing was timed."""
        resources = {"peak_memory_gib": peak_memory() / 2**30}
        if self.num_timed:
            rate = self.num_timed / (time.perf_counter() - self.start)
            resources["iterations_per_second"] = rate
            resources["samples_per_second"] = rate * self.samples_per_iteration
        return resources


def _ends(step: int, counts: list[int]) -> list[int]:
    """The last iteration of each of consecutive calls that end with `step`."""
    return list(step - sum(counts) + np.cumsum(counts))


class Stopped(Exception):
    """Training ended early on a signal, with its state saved; carries the signal."""

    def __init__(self, number: int, step: int):
        super().__init__(f"{signal.Signals(number).name}: saved at step {step}")
        self.number = number


def keys(seed: int) -> Keys:
    """The key streams of a seed."""
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def initial_state(learner: Learner, data: Dataset, batch_size: int, key: Key) -> PyTree:
    """A fresh learner state, replicated over the mesh that is set."""
    return _init(learner, data, batch_size)(key)


def iteration(
    learner: Learner, data: Dataset, batch_size: int, keys: Keys, resident: bool
):
    """(state, step, store) -> (state, metrics): gather a batch, update the learner.

    With `resident` the store is the whole set, else the rows of this very batch.
    """
    shape = (learner.num_batches, batch_size)

    def one(state, step, store):
        """One iteration of the learner on the batch of this step."""
        if resident:
            indices = order.batch_indices(
                keys.order, step, num_examples=data.num_examples, shape=shape
            )
        else:
            indices = jnp.arange(math.prod(shape), dtype=jnp.int32).reshape(shape)
        indices = parallel.shard(indices, axis=1)
        x = data.take(store, indices.reshape(-1)).reshape(*shape, *data.shape)
        x = parallel.shard(x, axis=1)
        return learner.step(jax.random.fold_in(keys.step, step), state, x)

    return one


def compiled(one, num: int, options: Mapping[str, str] | None = None):
    """(state, first step, store) -> (state, mean metrics) over `num` iterations.

    options: of the compiler. The state is donated. A single iteration is not wrapped in a loop, in which XLA's
    CPU convolutions are slow.
    """

    def call(state, first, store):
        if num == 1:
            return one(state, first, store)
        state, metrics = jax.lax.scan(
            lambda state, step: one(state, step, store),
            state,
            first + jnp.arange(num, dtype=jnp.int32),
        )
        return state, jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)

    return jax.jit(call, donate_argnums=0, compiler_options=options)


def iterations_per_call(settings: ml_collections.ConfigDict) -> int:
    """Iterations of one compiled call, such that everything is due between calls."""
    cpu = jax.default_backend() == "cpu"
    return math.gcd(
        settings.iterations_per_call_cpu if cpu else settings.iterations_per_call,
        settings.log_every,
        settings.save_every,
        settings.evaluate_every,
    )


def compiler_options(settings: ml_collections.ConfigDict) -> dict[str, str] | None:
    """What XLA is told when it compiles iterations; accelerators choose themselves."""
    if jax.default_backend() != "cpu":
        return None
    return settings.compiler_options_cpu.to_dict()


def calls(
    config: ml_collections.ConfigDict, built: experiment.Experiment, first: int
) -> Iterator[tuple[int, int, Callable]]:
    """(step, num, call) until `num_steps`: call(state) runs iterations step..step+num.

    Boundaries lie at multiples of the same number wherever `first` is, so a resumed
    run makes the calls that an uninterrupted one makes.
    """
    settings, data = config.train, built.data
    streams, resident = keys(settings.seed), data.stream is None
    one = iteration(built.learner, data, config.batch_size, streams, resident)
    options = compiler_options(settings)
    program = functools.cache(lambda num: compiled(one, num, options))
    mesh = jax.sharding.get_mesh()
    if resident:
        length = iterations_per_call(settings)
        feed = itertools.repeat(parallel.replicate(data.store, mesh))
    else:
        shape = (built.learner.num_batches, config.batch_size)
        length, feed = 1, stream.batches(data, streams.order, first, shape)
    step = first
    while step < settings.num_steps:
        num = min(length - step % length, settings.num_steps - step)
        yield step, num, functools.partial(program(num), first=step, store=next(feed))
        step += num


def train(
    config: ml_collections.ConfigDict,
    built: experiment.Experiment,
    workdir: pathlib.Path,
    *,
    config_file: str,
    devices: list[jax.Device] | None = None,
) -> PyTree:
    """Trains to `config.train.num_steps`, resuming what the directory holds.

    Returns the final state. Raises ValueError where a setting is unusable or the
    directory holds a run with another config, FloatingPointError at non-finite metrics
    (the last good checkpoint stays), Stopped after SIGTERM or SIGINT with the state
    saved.
    """
    settings = config.train
    _check(config)
    samples_per_iteration = built.learner.num_batches * config.batch_size
    with (
        jax.set_mesh(parallel.data_mesh(devices)),
        interruption() as interrupted,
        checkpoint.opened(workdir, keep=settings.keep) as checkpoints,
    ):
        checkpoint.claim(workdir, config_file, experiment.plain_values(config))
        state, first = latest(checkpoints, config, built)
        if first:
            LOG.info("resuming at step %d of %d", first, settings.num_steps)
        with metrics.opened(workdir, first, settings.num_steps) as writer:
            window = Window(samples_per_iteration)
            for step, num, call in calls(config, built, first):
                state, found = call(state)
                window.add(num, found)
                if step == first:
                    jax.block_until_ready(found)
                    window.pause()
                step += num
                last, stopped = step == settings.num_steps, interrupted()
                log, save = (
                    last or stopped or step % every == 0
                    for every in (settings.log_every, settings.save_every)
                )
                evaluation = last or step % settings.evaluate_every == 0
                if log or save or evaluation:
                    scalars = window.scalars(step)
                if log:
                    writer.write(step, scalars)
                    writer.progress(step, scalars)
                    window = Window(samples_per_iteration)
                if evaluation:
                    evaluate(built, settings.seed, state, step, writer)
                    window.pause()
                # Last, so that a run resumes with everything up to here written.
                if save:
                    checkpoint.save(checkpoints, step, state)
                if stopped and not last:
                    checkpoint.finished(checkpoints)
                    raise Stopped(stopped, step)
            digest = checkpoint.state_digest(state)
            LOG.info("step %d state sha256 %s", settings.num_steps, digest)
    return state


def evaluate(built, seed, state, step, writer) -> None:
    """Writes what the experiment's evaluations report; the same key every time."""
    for name, evaluation in built.evaluations.items():
        report = evaluation(keys(seed).evaluation, state)
        found = ", ".join(f"{k} {v:.4g}" for k, v in report.metrics.items())
        LOG.info("step %d %s: %s", step, name, found or "see the pictures")
        if report.metrics:
            writer.write(step, {f"{name}/{k}": v for k, v in report.metrics.items()})
        writer.write_pictures(
            step, {f"{name}_{k}": v for k, v in report.pictures.items()}
        )


def latest(checkpoints, config, built) -> tuple[PyTree, int]:
    """The newest intact state and its step, or a fresh state and 0."""
    key = keys(config.train.seed).init
    init = _init(built.learner, built.data, config.batch_size)
    found = checkpoint.restore(checkpoints, init.eval_shape(key))
    return (found[1], found[0]) if found else (init(key), 0)


def restore(workdir: pathlib.Path, assignments: Iterable[str] = ()) -> Restored:
    """The newest intact checkpoint of a run, with its experiment rebuilt.

    assignments: FIELD=VALUE, carried out on the run's config before that.
    Raises FileNotFoundError where the directory holds no run or no checkpoint yet, and
    ValueError where its config or an assignment cannot be used.
    """
    config_file, values = checkpoint.claimed(workdir)
    config = experiment.load(config_file, values)
    experiment.assign(config, assignments)
    built = config.build(config)
    with (
        jax.set_mesh(parallel.data_mesh()),
        checkpoint.opened(
            workdir, keep=config.train.keep, writable=False
        ) as checkpoints,
    ):
        state, step = latest(checkpoints, config, built)
    if not step:
        raise FileNotFoundError(f"{workdir} has no checkpoint yet: train it first")
    return Restored(config, built, state, step)


@contextlib.contextmanager
def interruption() -> Iterator[Callable[[], int | None]]:
    """Turns SIGTERM and SIGINT into a question: the number of the first that came.

    A Ctrl-C after that ends the program at once. Outside the main thread signals are
    left alone.
    """
    received = []

    def receive(number, frame):
        del frame
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        previous = [signal.signal(number, receive) for number in numbers]
    except ValueError:
        yield lambda: None
        return
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in zip(numbers, previous):
            signal.signal(number, handler)


def peak_memory() -> int:
    """Peak bytes of the fullest device, or of this process where that is unknown."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(peaks, default=resident)


def _init(learner: Learner, data: Dataset, batch_size: int) -> Callable:
    """The compiled key -> state; its shapes carry the sharding, too."""
    mesh = jax.sharding.get_mesh()
    # It runs once, and on CPU takes longer to compile than the training step.
    cpu = jax.default_backend() == "cpu"
    return jax.jit(
        lambda key: learner.init(key, jnp.zeros((batch_size, *data.shape))),
        out_shardings=None if mesh.empty else parallel.replicated(mesh),
        compiler_options={"xla_backend_optimization_level": 0} if cpu else None,
    )


def _check(config: ml_collections.ConfigDict) -> None:
    """ValueError where a field of the loop is not a positive number."""
    fields = ("num_steps", "log_every", "save_every", "evaluate_every", "keep")
    fields += ("iterations_per_call", "iterations_per_call_cpu")
    values = {f"train.{name}": config.train[name] for name in fields}
    for name, value in (values | {"batch_size": config.batch_size}).items():
        if value < 1:
            raise ValueError(f"config.{name}={value}: give at least 1")
