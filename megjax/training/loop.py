"""The one training loop: knows no method and no dataset.

Iteration t is a function of (seed, t, state) alone, and calls of the compiled step
always start at the same iterations, so a resumed run repeats an uninterrupted one bit
for bit. All processes of a run go through the same loop; the main one writes.
"""

import contextlib
import functools
import itertools
import logging
import math
import numbers
import os
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
from jax.experimental import multihost_utils

from megjax import distributed, errors
from megjax.data import order, stream
from megjax.data.dataset import Dataset
from megjax.learners.base import Learner
from megjax.training import checkpoint, experiment, metric_writer
from megjax.types import Key, Metrics, PyTree

LOG = logging.getLogger(__name__)
COLLAPSE_AFTER = 500
COLLAPSED = 0.1
"""From that iteration on, and below that share of the variance of data, is a warning."""


class Keys(NamedTuple):
    """Independent streams of one seed."""

    init: Key
    order: Key
    step: Key
    evaluation: Key


class Restored(NamedTuple):
    """A run read back from its directory, without its data.

    shape: of one example. name: of the config.
    """

    config: ml_collections.ConfigDict
    learner: Learner
    state: PyTree
    step: int
    shape: tuple[int, ...]
    recipe: experiment.Recipe
    name: str = ""

    def experiment(self) -> experiment.Experiment:
        """Its data and what to measure, with this learner.

        Raises ValueError where the data are gone, or of another shape.
        """
        with experiment.one_line_errors():
            data = self.recipe.data(self.config)
            if tuple(data.shape) != self.shape:
                raise ValueError(
                    f"the run was trained on examples of shape {list(self.shape)}, and "
                    f"its data now have {list(data.shape)}: restore them"
                )
            found = (
                make(self.config, data, self.learner)
                for make in (self.recipe.evaluations, self.recipe.protocols)
            )
            return experiment.Experiment(data, self.learner, *found)


class Window:
    """Metrics since the last log line; means over iterations, rates over wall time.

    max_energy: magnitude of energies and their gap beyond which training has diverged.
    """

    def __init__(self, samples_per_iteration: int, max_energy: float):
        self.samples_per_iteration, self.max_energy = samples_per_iteration, max_energy
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

        Raises FloatingPointError naming the first call with a metric that is not
        finite, or an energy beyond all bounds.
        """
        counts = [num for num, _ in self.found]
        found = jax.device_get([metrics for _, metrics in self.found])
        for end, num, one in zip(_ends(step, counts), counts, found):
            bad = {k: v for k, v in one.items() if self._is_bad(k, v)}
            if bad:
                words = ", ".join(f"{k} = {v:.4g}" for k, v in sorted(bad.items()))
                raise FloatingPointError(f"{words} in iterations {end - num + 1}-{end}")
        means = {
            name: float(np.average([one[name] for one in found], weights=counts))
            for name in found[0]
        }
        return means | self._resources()

    def _is_bad(self, name: str, value: np.ndarray) -> bool:
        is_energy = name.startswith("energy_") and not name.endswith("_norm")
        return not abs(value) <= (self.max_energy if is_energy else np.inf) or (
            not np.isfinite(value)
        )

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


class Run(NamedTuple):
    """A run in training. interrupted: () -> number of a signal that came, or None."""

    config: ml_collections.ConfigDict
    built: experiment.Experiment
    workdir: pathlib.Path
    checkpoints: checkpoint.Checkpoints
    interrupted: Callable[[], int | None]


class Stopped(KeyboardInterrupt):
    """Training ended early on a signal, with its state saved; carries the signal.

    No Exception, so that a loop over settings which goes on after errors ends, too.
    """

    def __init__(self, number: int, step: int):
        super().__init__(f"{signal.Signals(number).name}: saved at step {step}")
        self.number = number


def keys(seed: int, returns: int = 0) -> Keys:
    """The key streams of a seed.

    returns: how often training went back to a checkpoint; after the n-th time batches
    and noise are others than before. Raises ValueError at a seed that is none.
    """
    whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not whole or not -(2**31) <= seed < 2**32:
        raise ValueError(f"seed={seed!r:.60}: give a whole number from 0 to 2^32 - 1")
    streams = Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))
    if not returns:
        return streams
    return streams._replace(
        order=jax.random.fold_in(streams.order, returns),
        step=jax.random.fold_in(streams.step, returns),
    )


def initial_state(
    learner: Learner, shape: tuple[int, ...], batch_size: int, key: Key
) -> PyTree:
    """A fresh learner state for examples [*shape], replicated over the mesh."""
    return _init(learner, shape, batch_size)(key)


def iteration(
    learner: Learner, data: Dataset, batch_size: int, keys: Keys, resident: bool
):
    """(state, step, store) -> (state, metrics): gather a batch, update the learner.

    With `resident` the store is the whole set, else the rows of this very batch, as
    `stream.batches` gives them.
    """
    shape = (learner.num_batches, batch_size)

    def one(state, step, store):
        """One iteration of the learner on the batch of this step."""
        if resident:
            indices = order.batch_indices(
                keys.order, step, num_examples=data.num_examples, shape=shape
            )
            indices = distributed.shard(indices, axis=1)
            x = data.take(store, indices.reshape(-1)).reshape(*shape, *data.shape)
        else:
            x = distributed.mapped(lambda rows: data.take(rows, _all(rows)), store)
            x = x.reshape(*shape[::-1], *data.shape).swapaxes(0, 1)
        x = distributed.shard(x, axis=1)
        return learner.step(jax.random.fold_in(keys.step, step), state, x)

    return one


def _all(rows: PyTree) -> jax.Array:
    return jnp.arange(len(jax.tree.leaves(rows)[0]), dtype=jnp.int32)


def compiled(one, num: int, options: Mapping[str, str] | None = None):
    """(state, first step, store) -> (state, mean metrics) over `num` iterations.

    options: of the compiler. The state is donated. A single iteration is not wrapped in
    a loop, in which XLA's CPU convolutions are slow.
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
    """Options of XLA when it compiles iterations; accelerators choose themselves."""
    if jax.default_backend() != "cpu":
        return None
    return settings.compiler_options_cpu.to_dict()


def calls(
    config: ml_collections.ConfigDict,
    built: experiment.Experiment,
    first: int,
    returns: int = 0,
) -> Iterator[tuple[int, int, Callable]]:
    """(step, num, call) until `num_steps`: call(state) runs iterations step..step+num.

    returns: as for `keys`. Boundaries lie at multiples of the same number wherever
    `first` is, so a resumed run makes the calls that an uninterrupted one makes.
    """
    settings, data = config.train, built.data
    streams, resident = keys(settings.seed, returns), data.stream is None
    one = iteration(built.learner, data, config.batch_size, streams, resident)
    options = compiler_options(settings)
    program = functools.cache(lambda num: compiled(one, num, options))
    mesh = jax.sharding.get_mesh()
    if resident:
        length = iterations_per_call(settings)
        feed = itertools.repeat(distributed.replicate(data.store, mesh))
    else:
        shape = (built.learner.num_batches, config.batch_size)
        length, feed = 1, _streamed(data, streams.order, first, shape)
    step = first
    while step < settings.num_steps:
        num = min(length - step % length, settings.num_steps - step)
        yield step, num, functools.partial(program(num), first=step, store=next(feed))
        step += num


def _streamed(
    data: Dataset, key: Key, first: int, shape: tuple[int, int]
) -> Iterator[PyTree]:
    """Batches from step `first` on, each process with the rows of its own devices."""
    mesh, num = jax.sharding.get_mesh(), shape[1]
    if num % mesh.size == 0:
        rows = distributed.local_rows(num, mesh)
        for batch in stream.batches(data, key, first, shape, rows=rows):
            yield distributed.assemble(batch, math.prod(shape), mesh)
    elif jax.process_count() > 1:
        raise ValueError(
            f"config.batch_size={num}: give a multiple of the {mesh.size} devices"
        )
    else:
        yield from stream.batches(data, key, first, shape)


def train(
    config: ml_collections.ConfigDict,
    built: experiment.Experiment,
    workdir: pathlib.Path,
    *,
    name: str,
    devices: list[jax.Device] | None = None,
) -> PyTree:
    """Trains to `config.train.num_steps`, resuming what the directory holds.

    name: of the config. Returns the final state. Where metrics or the state are no longer finite, or
    energies exceed `train.max_energy`, it goes on from the last checkpoint with other
    batches and noise, all players and optimizers together, `train.max_returns` times.

    Raises ValueError where a setting is unusable or the directory holds a run with
    another config, FloatingPointError after the last return (the checkpoint stays),
    Stopped after SIGTERM, SIGINT or SIGHUP with the state saved.
    """
    _check(config)
    with (
        jax.set_mesh(distributed.data_mesh(devices)),
        stopping() as interrupted,
        checkpoint.opened(workdir, keep=config.train.keep) as checkpoints,
    ):
        checkpoint.claim(workdir, _record(config, built, name))
        run = Run(config, built, workdir, checkpoints, interrupted)
        start = latest(checkpoints, config, built.learner, built.data.shape)
        if start.step:
            num_steps = config.train.num_steps
            LOG.info("resuming at step %d of %d", start.step, num_steps)
        while True:
            try:
                state = _advanced(run, start)
                break
            except FloatingPointError as error:
                start = _returned(run, start.returns, error)
                if number := interrupted():
                    raise Stopped(number, start.step) from error
        digest = checkpoint.state_digest(state)
        LOG.info("step %d state sha256 %s", config.train.num_steps, digest)
    return state


def _advanced(run: Run, start: checkpoint.Saved) -> PyTree:
    """The final state, trained from a start, with everything due on the way."""
    settings, built = run.config.train, run.built
    state, returns = start.state, start.returns
    samples_per_iteration = built.learner.num_batches * run.config.batch_size
    window = Window(samples_per_iteration, settings.max_energy)
    with metric_writer.opened(run.workdir, start.step, settings.num_steps) as writer:
        if returns:
            writer.write(start.step, {"returns": returns})
        # A run that was to be longer, and ends here by another `num_steps`.
        ends = start.step == settings.num_steps and not start.ended
        if ends:
            state = _ended(run, state, start.step, writer)
        # Other processes may not see the directory.
        if distributed.is_main() and (ends or _is_unevaluated(run, start.step)):
            evaluate(built, settings.seed, state, start.step, writer)
        if ends:
            checkpoint.save(
                run.checkpoints, start.step, state, returns=returns, ended=True
            )
        for step, num, call in calls(run.config, built, start.step, returns):
            state, found = call(state)
            window.add(num, found)
            if step == start.step:
                jax.block_until_ready(found)
                window.pause()
            step += num
            last, stopped = step == settings.num_steps, run.interrupted()
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
                _warn_of_collapse(step, scalars)
                window = Window(samples_per_iteration, settings.max_energy)
            if last:
                state = _ended(run, state, step, writer)
            saved = functools.partial(
                checkpoint.save, run.checkpoints, step, returns=returns, ended=last
            )
            if evaluation:
                try:
                    evaluate(built, settings.seed, state, step, writer)
                except FloatingPointError:
                    raise
                except Exception:
                    # Nothing is trained twice: the next start evaluates this state.
                    saved(state)
                    raise
                window.pause()
            # Last, so that a run resumes with everything up to here written.
            if save:
                saved(state)
            if stopped and not last:
                checkpoint.finished(run.checkpoints)
                raise Stopped(stopped, step)
    return state


def _ended(run: Run, state: PyTree, step: int, writer) -> PyTree:
    """The state after what ends training."""
    if not run.built.learner.finish:
        return state
    key = jax.random.fold_in(keys(run.config.train.seed).step, step)
    state, found = run.built.learner.finish(key, state, run.built.data)
    writer.write(step, jax.device_get(found))
    return state


def _is_unevaluated(run: Run, step: int) -> bool:
    """Whether a state was saved because its evaluation failed."""
    settings = run.config.train
    if not step or step % settings.evaluate_every and step != settings.num_steps:
        return False
    found = [
        name.partition("/")[0]
        for line in metric_writer.read(run.workdir)
        if line.get("step") == step
        for name in line
    ]
    return not set(found) & set(run.built.evaluations)


def _warn_of_collapse(step: int, scalars: Mapping[str, float]) -> None:
    share = scalars.get("sample_variance", 1.0)
    if step >= COLLAPSE_AFTER and share < COLLAPSED:
        LOG.warning(
            "collapse: the samples of a batch vary %.2g times as much as data: lower "
            "the learning rate, or train with norm=per_unit or more entropy",
            share,
        )


def _returned(run: Run, returns: int, error: FloatingPointError) -> checkpoint.Saved:
    """The last checkpoint, to start from once more; raises the error at the limit.

    Counted are the returns of the whole run, which checkpoints carry on.
    """
    checkpoint.finished(run.checkpoints)
    limit = run.config.train.max_returns
    if returns >= limit:
        raise FloatingPointError(
            f"{error}, after {returns} returns to a checkpoint: lower the learning "
            "rate, scale the data, regularise more (score_weight, penalty, l2), or "
            "raise train.max_energy or max_returns"
        ) from error
    built = run.built
    saved = latest(run.checkpoints, run.config, built.learner, built.data.shape)
    LOG.warning(
        "%s: back to step %d with other batches and noise (%d of %d returns)",
        error,
        saved.step,
        returns + 1,
        limit,
    )
    return saved._replace(returns=returns + 1)


def evaluate(built, seed, state, step, writer) -> None:
    """Writes what the experiment's evaluations report; the same key every time.

    Of several processes each computes them on its own devices: none waits for another.
    """
    state = distributed.local(state)
    for name, evaluation in built.evaluations.items():
        with distributed.locally():
            report = evaluation(keys(seed).evaluation, state)
        found = ", ".join(f"{k} {v:.4g}" for k, v in report.metrics.items())
        LOG.info("step %d %s: %s", step, name, found or "see the pictures")
        if report.metrics:
            writer.write(step, {f"{name}/{k}": v for k, v in report.metrics.items()})
        writer.write_pictures(
            step, {f"{name}_{k}": v for k, v in report.pictures.items()}
        )


def latest(checkpoints, config, learner, shape, step=None) -> checkpoint.Saved:
    """The newest intact state, over the mesh that is set; a fresh one at step 0.

    shape: of one example. step: whose state to read instead.
    """
    key = keys(config.train.seed).init
    init = _init(learner, shape, config.batch_size)
    found = checkpoint.restore(checkpoints, _forms(init, key), step)
    if found is None:
        return checkpoint.Saved(0, init(key), 0)
    return found._replace(
        state=distributed.replicate(found.state, jax.sharding.get_mesh())
    )


def _forms(init: Callable, key: Key) -> PyTree:
    """Forms of the leaves of a state; ValueError where there is none of that form."""
    try:
        return jax.eval_shape(init, key)
    except errors.MISTAKES:
        raise
    except Exception as error:
        raise ValueError(
            f"the config does not fit the data's shape ({errors.failure(error)})"
        ) from error


def _record(config, built, name: str) -> checkpoint.Record:
    """What config.json holds of a run."""
    recipe = config.get("recipe")
    return checkpoint.Record(
        config=name,
        recipe=recipe and experiment.recipe_name(recipe),
        shape=tuple(built.data.shape),
        values=experiment.plain_values(config),
    )


def restore(
    workdir: pathlib.Path,
    assignments: Iterable[str] = (),
    *,
    step: int | None = None,
    recipe: experiment.Recipe | None = None,
) -> Restored:
    """The newest intact checkpoint of a run; needs neither its data nor its config file.

    All processes call it together; each has the state on its own devices. Nothing that
    the directory holds is run.

    assignments: FIELD=VALUE, carried out on the run's config before that. step: whose
    checkpoint to read instead. recipe: of a run that was trained with a user's own.
    Raises FileNotFoundError where the directory holds no run or no checkpoint yet, and
    ValueError where its config or an assignment cannot be used.
    """
    run = described(checkpoint.claimed(workdir), workdir, assignments, recipe)
    with (
        jax.set_mesh(distributed.local_mesh()),
        checkpoint.opened(
            workdir, keep=run.config.train.keep, writable=False
        ) as checkpoints,
    ):
        saved = latest(checkpoints, run.config, run.learner, run.shape, step)
    if not saved.step:
        raise FileNotFoundError(f"{workdir} has no checkpoint yet: train it first")
    return run._replace(state=saved.state, step=saved.step)


def described(
    record: checkpoint.Record,
    origin: str | pathlib.Path,
    assignments: Iterable[str] = (),
    recipe: experiment.Recipe | None = None,
) -> Restored:
    """The run of a record, without a state; nothing that the record holds is run.

    origin: where the record is from, for messages. assignments, recipe: as of `restore`.
    Raises ValueError where the record or an assignment cannot be used.
    """
    if recipe is not None and not isinstance(recipe, experiment.Recipe):
        raise ValueError(f"recipe={recipe!r:.60}: give a Recipe, as of a config")
    if recipe is None:
        if record.recipe is None:
            raise ValueError(
                f"{origin} was trained with a recipe of its user's own: give that "
                f"config, --config=FILE, as for train.py (in Python recipe=)"
            )
        recipe = experiment.recipe_named(record.recipe)
    config = experiment.from_values(record.values, recipe)
    experiment.assign(config, assignments)
    _check(config)
    with experiment.one_line_errors():
        learner = recipe.learner(config, record.shape)
    return Restored(config, learner, None, 0, record.shape, recipe, record.config)


def form(run: Restored) -> PyTree:
    """Shapes and types of the leaves of a run's state."""
    init = _init(run.learner, run.shape, run.config.batch_size)
    return _forms(init, keys(run.config.train.seed).init)


@contextlib.contextmanager
def interruption() -> Iterator[Callable[[], int | None]]:
    """Turns SIGTERM, SIGINT and SIGHUP into a question: the first that came, or None.

    A Ctrl-C after that ends the program at once. SIGHUP stays ignored under nohup.
    Outside the main thread signals are left alone.
    """
    received = []

    def receive(number, frame):
        del frame
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
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


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], int | None]]:
    """The question of `interruption` for all processes of a run at once.

    All see a signal to one at the same call: the JAX runtime takes SIGTERM,
    makes it known and agrees on the call.
    """
    if jax.process_count() == 1:
        with interruption() as interrupted:
            yield interrupted
        return
    asked, received = itertools.count(), []

    def agreed():
        if multihost_utils.reached_preemption_sync_point(next(asked)):
            received.append(signal.SIGTERM)
        return received[0] if received else None

    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    numbers = [signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = [signal.signal(number, terminate) for number in numbers]
    try:
        yield agreed
    finally:
        for number, handler in zip(numbers, previous):
            signal.signal(number, handler)


def peak_memory() -> int:
    """Peak bytes of the fullest device, or of this process where that is unknown."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(peaks, default=resident)


def _init(learner: Learner, shape: tuple[int, ...], batch_size: int) -> Callable:
    """The compiled key -> state; its shapes carry the sharding, too."""
    mesh = jax.sharding.get_mesh()
    # It runs once, and on CPU takes longer to compile than the training step.
    cpu = jax.default_backend() == "cpu"
    return jax.jit(
        lambda key: learner.init(key, jnp.zeros((batch_size, *shape))),
        out_shardings=None if mesh.empty else distributed.replicated(mesh),
        compiler_options={"xla_backend_optimization_level": 0} if cpu else None,
    )


def _check_compiler(options: Mapping[str, str] | None) -> None:
    """ValueError at an option that XLA does not know."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"config.train.compiler_options_cpu={options}: give what XLA knows "
            f"({' '.join(str(error).split())[:200]})"
        ) from error


def _check(config: ml_collections.ConfigDict) -> None:
    """ValueError where a field of the loop cannot be what it is."""
    fields = ("num_steps", "log_every", "save_every", "evaluate_every", "keep")
    fields += ("iterations_per_call", "iterations_per_call_cpu")
    values = {f"train.{name}": config.train[name] for name in fields}
    if config.train.max_returns < 0 or not config.train.max_energy > 0:
        raise ValueError(
            f"config.train.max_returns={config.train.max_returns}, max_energy="
            f"{config.train.max_energy}: give at least 0 returns, and a positive bound"
        )
    if config.train.num_steps >= 2**31:
        raise ValueError(
            f"config.train.num_steps={config.train.num_steps}: give less than 2^31"
        )
    for name, value in (values | {"batch_size": config.batch_size}).items():
        if value < 1:
            raise ValueError(f"config.{name}={value}: give at least 1")
    _check_compiler(compiler_options(config.train))
