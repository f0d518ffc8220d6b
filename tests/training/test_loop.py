import contextlib
import itertools
import os
import pathlib
import signal
import threading
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from megjax import distributed
from megjax.data.dataset import Dataset
from megjax.learners.base import Learner
from megjax.training import checkpoint, experiment, loop, metric_writer
from megjax.types import Report

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = np.random.RandomState(0).normal(size=(256, 3)).astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def compiled_once(tmp_path_factory):
    """Programs that several tests compile come from a cache."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def table(streamed=False):
    def take(store, indices):
        return store[indices]

    if streamed:
        return Dataset("table", (3,), 256, (), take, lambda indices: TABLE[indices])
    return Dataset("table", (3,), 256, TABLE, take)


def learner(bad_step=None, traces=None):
    """Stochastic gradient descent to the mean of the data, on K = 2 noisy batches.

    bad_step: the iteration, from 1, whose loss is not finite. traces: counts traces.
    """

    def init(key, x):
        return {"w": jax.random.normal(key, x.shape[1:]), "count": jnp.int32(0)}

    def step(key, state, x):
        if traces is not None:
            traces.append(x.shape)
        noise = jax.random.normal(key, state["w"].shape)
        residual = state["w"] - jnp.mean(x, axis=(0, 1)) + 0.1 * noise
        count = state["count"] + 1
        loss = jnp.sum(residual**2)
        found = {"loss": loss, "count": count.astype(jnp.float32), "energy_gap": 99.0}
        if bad_step is not None:
            found["loss"] = jnp.where(count == bad_step, jnp.nan, loss)
        return {"w": state["w"] - 0.1 * residual, "count": count}, found

    return Learner(init, step, sample=None, energy=None, num_batches=2)


def config_of(num_steps=20, **settings):
    train = {
        "seed": 0,
        "num_steps": num_steps,
        "log_every": 4,
        "save_every": 4,
        "evaluate_every": 8,
        "iterations_per_call": 2,
        "iterations_per_call_cpu": 2,
        "compiler_options_cpu": {},
        "keep": 3,
        "max_returns": 0,
        "max_energy": 100.0,
    }
    return ml_collections.ConfigDict({"batch_size": 8, "train": train | settings})


def train(workdir, config, learner=None, data=None, evaluations=None, devices=1):
    built = experiment.Experiment(
        table() if data is None else data,
        globals()["learner"]() if learner is None else learner,
        evaluations or {},
    )
    return loop.train(
        config,
        built,
        workdir,
        name="none",
        devices=jax.devices()[:devices],
    )


def at(step, action):
    """An evaluation that acts once the state has come to a step."""

    def evaluation(key, state):
        if int(state["count"]) == step:
            action()
        return Report({"count": float(state["count"])})

    return {"act": evaluation}


def kill(number):
    return lambda: os.kill(os.getpid(), number)


def signalled(monkeypatch, stop):
    """As if SIGTERM came during the call of two iterations that ends at `stop`."""
    steps = iter(range(2, stop + 2, 2))

    @contextlib.contextmanager
    def interruption():
        yield lambda: signal.SIGTERM if next(steps, None) == stop else None

    monkeypatch.setattr(loop, "stopping", interruption)


def steps_on_disk(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def logged(workdir, name="loss"):
    return {
        line["step"]: line[name] for line in metric_writer.read(workdir) if name in line
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The digest of the state after 20 iterations, and its metrics."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    state = train(workdir, config_of())
    return checkpoint.state_digest(state), logged(workdir)


def test_metrics_are_means_over_the_window(tmp_path):
    train(tmp_path, config_of(num_steps=10))
    # Means of 1..4, 5..8 and of the short window 9, 10.
    assert logged(tmp_path, "count") == {4: 2.5, 8: 6.5, 10: 9.5}
    assert steps_on_disk(tmp_path) == [4, 8, 10]


def test_loop_by_hand(tmp_path):
    """The same iterations written out, without call, store, mesh or checkpoint."""
    config = config_of(num_steps=6)
    state = train(tmp_path, config)
    one, streams = learner(), loop.keys(0)
    expected = one.init(streams.init, jnp.zeros((8, 3)))
    for step in range(6):
        indices = loop.order.batch_indices(
            streams.order, step, num_examples=256, shape=(2, 8)
        )
        key = jax.random.fold_in(streams.step, step)
        expected, _ = one.step(key, expected, jnp.asarray(TABLE)[indices])
    np.testing.assert_allclose(state["w"], expected["w"], rtol=1e-5)
    assert int(state["count"]) == 6


def test_rates_are_of_the_window_and_leave_pauses_out():
    window = loop.Window(samples_per_iteration=16, max_energy=1.0)
    time.sleep(0.3)
    window.pause()
    window.add(3, {"loss": jnp.float32(1)})
    window.add(1, {"loss": jnp.float32(5)})
    start = time.perf_counter()
    time.sleep(0.05)
    found = window.scalars(step=4)
    spent = time.perf_counter() - start
    assert found["loss"] == 2
    assert 4 / (spent + 0.05) < found["iterations_per_second"] < 4 / 0.05
    assert found["samples_per_second"] == 16 * found["iterations_per_second"]
    assert found["peak_memory_gib"] > 0


def test_a_window_of_only_the_first_call_has_no_rate(tmp_path):
    train(tmp_path, config_of(num_steps=8, iterations_per_call_cpu=4))
    first, second = metric_writer.read(tmp_path)
    assert "iterations_per_second" not in first and "loss" in first
    assert second["iterations_per_second"] > 0


@pytest.mark.parametrize(("bad", "words"), [(7, "7-8"), (8, "7-8"), (9, "9-10")])
def test_non_finite_metrics_name_the_iterations(tmp_path, bad, words):
    with pytest.raises(FloatingPointError, match=f"loss = nan in .* {words},"):
        train(tmp_path, config_of(), learner(bad_step=bad))
    good = (bad - 1) // 4 * 4
    assert steps_on_disk(tmp_path)[-1] == good
    assert max(logged(tmp_path)) == good


def test_a_run_resumes_before_its_non_finite_iteration(tmp_path, uninterrupted):
    with pytest.raises(FloatingPointError):
        train(tmp_path, config_of(), learner(bad_step=11))
    state = train(tmp_path, config_of())
    assert checkpoint.state_digest(state) == uninterrupted[0]
    assert logged(tmp_path) == uninterrupted[1]


def unlucky(iteration, spoiled):
    """The learner, whose iteration is spoiled under the keys of no return.

    spoiled: (state, metrics) -> (state, metrics)
    """
    key = jax.random.fold_in(loop.keys(0).step, iteration - 1)
    bad, good = jax.random.key_data(key), learner()

    def step(key, state, x):
        found = good.step(key, state, x)
        is_bad = jnp.all(jax.random.key_data(key) == bad)
        return jax.tree.map(
            lambda a, b: jnp.where(is_bad, a, b), spoiled(*found), found
        )

    return good._replace(step=step)


def nan_loss(state, found):
    return state, found | {"loss": jnp.nan}


def nan_state(state, found):
    return state | {"w": state["w"] * jnp.nan}, found


def high_energy(state, found):
    return state, found | {"energy_gap": jnp.float32(-401.0)}


@pytest.fixture(scope="module")
def returned(tmp_path_factory):
    """The state of 20 iterations, 4 as always and 16 under the keys of a return."""
    workdir = tmp_path_factory.mktemp("returned")
    state = train(workdir, config_of(num_steps=4))
    built = experiment.Experiment(table(), learner(), {})
    with jax.set_mesh(distributed.data_mesh(jax.devices()[:1])):
        for _, _, call in loop.calls(config_of(), built, 4, returns=1):
            state, _ = call(state)
    return checkpoint.state_digest(state)


@pytest.mark.parametrize(
    ("iteration", "spoiled"),
    [(7, nan_loss), (7, nan_state), (8, nan_state), (5, high_energy)],
)
def test_a_divergence_goes_back_with_other_noise(
    tmp_path, iteration, spoiled, returned, caplog
):
    method = unlucky(iteration, spoiled)
    state = train(tmp_path, config_of(max_returns=1), method)
    assert checkpoint.state_digest(state) == returned
    assert logged(tmp_path, "returns") == {4: 1}
    assert sorted(logged(tmp_path)) == [4, 8, 12, 16, 20]
    assert "back to step 4 with other batches and noise (1 of 1 returns)" in caplog.text


def test_returns_are_counted_over_kills(tmp_path, returned):
    method = unlucky(7, nan_loss)
    with pytest.raises(loop.Stopped):
        train(
            tmp_path,
            config_of(max_returns=1),
            method,
            evaluations=at(16, kill(signal.SIGTERM)),
        )
    state = train(tmp_path, config_of(max_returns=1), method)
    assert checkpoint.state_digest(state) == returned


def test_a_fresh_start_is_a_checkpoint_too(tmp_path):
    state = train(tmp_path, config_of(max_returns=1), unlucky(2, nan_loss))
    assert int(state["count"]) == 20
    assert logged(tmp_path, "returns") == {0: 1}


def test_returns_end(tmp_path):
    words = "loss = nan in iterations 5-6, after 2 returns to a checkpoint: lower the"
    with pytest.raises(FloatingPointError, match=words):
        train(tmp_path, config_of(max_returns=2), learner(bad_step=6))
    assert steps_on_disk(tmp_path) == [4]
    assert logged(tmp_path, "returns") == {4: 2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, number, uninterrupted):
    before = signal.getsignal(number)
    with pytest.raises(loop.Stopped, match="saved at step 10") as stopped:
        train(tmp_path, config_of(), evaluations=at(8, kill(number)))
    assert stopped.value.number == number and steps_on_disk(tmp_path) == [4, 8, 10]
    assert signal.getsignal(number) == before
    state = train(tmp_path, config_of())
    assert checkpoint.state_digest(state) == uninterrupted[0]


def test_a_signal_stops_a_run_that_diverges(tmp_path, monkeypatch):
    calls = itertools.count(1)

    @contextlib.contextmanager
    def stopping():
        yield lambda: signal.SIGTERM if next(calls) >= 20 else None

    monkeypatch.setattr(loop, "stopping", stopping)
    with pytest.raises(loop.Stopped, match="SIGTERM: saved at step 4"):
        train(tmp_path, config_of(max_returns=10**6), learner(bad_step=6))
    assert steps_on_disk(tmp_path) == [4]


def test_a_loop_that_goes_on_after_errors_stops():
    assert not issubclass(loop.Stopped, Exception)


@pytest.mark.parametrize("stop", [2, 6, 8, 14, 18])
def test_a_resumed_run_has_the_same_bits(tmp_path, monkeypatch, stop, uninterrupted):
    """Stopped at calls that are due for nothing, for a log line, for evaluation."""
    signalled(monkeypatch, stop)
    evaluations = at(0, None)
    with pytest.raises(loop.Stopped, match=f"step {stop}$"):
        train(tmp_path, config_of(), evaluations=evaluations)
    state = train(tmp_path, config_of(), evaluations=evaluations)
    assert checkpoint.state_digest(state) == uninterrupted[0]
    assert logged(tmp_path, "act/count") == {8: 8, 16: 16, 20: 20}
    later = {s: v for s, v in uninterrupted[1].items() if s >= stop + 4}
    assert later.items() <= logged(tmp_path).items()


def test_a_signal_from_another_thread_stops_a_long_run(tmp_path):
    timer = threading.Timer(1.0, kill(signal.SIGTERM))
    timer.start()
    with pytest.raises(loop.Stopped) as stopped:
        train(tmp_path, config_of(num_steps=10**9, log_every=1000, save_every=1000))
    step = int(str(stopped.value).split()[-1])
    assert step % 2 == 0 and steps_on_disk(tmp_path)[-1] == step


def test_a_signal_in_the_last_call_lets_the_run_finish(
    tmp_path, monkeypatch, uninterrupted
):
    signalled(monkeypatch, 20)
    state = train(tmp_path, config_of(), evaluations=at(0, None))
    assert checkpoint.state_digest(state) == uninterrupted[0]
    assert steps_on_disk(tmp_path)[-1] == 20
    assert logged(tmp_path, "act/count") == {8: 8, 16: 16, 20: 20}


def test_a_crash_in_an_evaluation_leaves_no_gap(tmp_path, uninterrupted):
    def crash():
        raise RuntimeError("evaluation")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="evaluation"):
            train(tmp_path, config_of(save_every=12), evaluations=at(16, crash))
        # What was trained is kept, and evaluated by the next start.
        assert steps_on_disk(tmp_path) == [12, 16]
    state = train(tmp_path, config_of(), evaluations=at(0, None))
    assert checkpoint.state_digest(state) == uninterrupted[0]
    assert logged(tmp_path) == uninterrupted[1]
    assert logged(tmp_path, "act/count") == {8: 8, 16: 16, 20: 20}


def test_a_finished_run_started_again_changes_nothing(tmp_path, uninterrupted):
    evaluations = at(0, None)
    train(tmp_path, config_of(), evaluations=evaluations)
    text = (tmp_path / "metrics.jsonl").read_text()
    state = train(tmp_path, config_of(), evaluations=evaluations)
    assert checkpoint.state_digest(state) == uninterrupted[0]
    assert (tmp_path / "metrics.jsonl").read_text() == text
    assert steps_on_disk(tmp_path) == [12, 16, 20]


def test_a_run_of_more_iterations_is_not_passed_off_as_a_shorter_one(tmp_path):
    train(tmp_path, config_of(num_steps=12))
    text = (tmp_path / "config.json").read_text()
    with pytest.raises(
        ValueError, match=r"a run of 12 iterations, and config.train.nu"
    ):
        train(tmp_path, config_of(num_steps=8))
    assert (tmp_path / "config.json").read_text() == text


def test_a_finished_run_is_extended(tmp_path):
    train(tmp_path, config_of(num_steps=12))
    state = train(tmp_path, config_of(num_steps=20))
    assert int(state["count"]) == 20


@pytest.mark.parametrize("length", [1, 4])
def test_iterations_per_call_change_no_number(tmp_path, length, uninterrupted):
    config = config_of(iterations_per_call_cpu=length)
    state = train(tmp_path / "other", config)
    expected = train(tmp_path / "two", config_of())
    np.testing.assert_allclose(state["w"], expected["w"], rtol=1e-5)
    found = logged(tmp_path / "other")
    np.testing.assert_allclose(
        list(found.values()), list(uninterrupted[1].values()), rtol=1e-4
    )


def test_one_and_eight_devices_agree(tmp_path):
    one = train(tmp_path / "1", config_of())
    eight = train(tmp_path / "8", config_of(), devices=8)
    assert len(eight["w"].sharding.device_set) == 8
    np.testing.assert_allclose(one["w"], eight["w"], rtol=1e-4)


@pytest.mark.parametrize(("num_steps", "programs"), [(20, 1), (21, 2)])
def test_every_program_is_traced_once(tmp_path, num_steps, programs):
    traces = []
    train(tmp_path, config_of(num_steps), learner(traces=traces))
    assert traces == [(2, 8, 3)] * programs
    train(tmp_path, config_of(num_steps + 20), learner(traces=traces))
    # From 20 on one program, from 21 first a call of one iteration to 22.
    assert len(traces) == programs + (1 if num_steps == 20 else 2)


def test_a_restored_state_is_laid_out_like_a_fresh_one(tmp_path):
    train(tmp_path, config_of(num_steps=4), devices=8)
    with (
        jax.set_mesh(distributed.data_mesh(jax.devices())),
        checkpoint.opened(tmp_path, keep=1, writable=False) as checkpoints,
    ):
        step, state, *_ = loop.latest(checkpoints, config_of(), learner(), (3,))
        fresh = loop.initial_state(learner(), (3,), 8, jax.random.key(0))
    assert step == 4
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, fresh)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
        assert a.sharding == b.sharding


@pytest.mark.parametrize("num_steps", [1, 3, 7, 9])
def test_any_number_of_steps(tmp_path, num_steps):
    state = train(tmp_path, config_of(num_steps))
    assert int(state["count"]) == num_steps
    assert steps_on_disk(tmp_path)[-1] == num_steps


def test_a_streamed_set_gives_the_same_numbers(tmp_path):
    pytest.importorskip("grain")
    resident = train(tmp_path / "r", config_of(iterations_per_call_cpu=1))
    streamed = train(tmp_path / "s", config_of(), data=table(streamed=True))
    np.testing.assert_allclose(resident["w"], streamed["w"], rtol=1e-6)
    with pytest.raises(loop.Stopped):
        train(
            tmp_path / "t",
            config_of(),
            data=table(streamed=True),
            evaluations=at(8, kill(signal.SIGTERM)),
        )
    resumed = train(tmp_path / "t", config_of(), data=table(streamed=True))
    assert checkpoint.state_digest(resumed) == checkpoint.state_digest(streamed)


def test_a_full_disk_ends_training_with_the_last_checkpoint_kept(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def fill():
        monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", refused)

    with pytest.raises(OSError, match="no space left"):
        train(tmp_path, config_of(), evaluations=at(8, fill))
    assert steps_on_disk(tmp_path) == [4]


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_steps", 0), ("save_every", -1), ("keep", 0), ("iterations_per_call", 0)],
)
def test_unusable_settings_are_refused(tmp_path, field, value):
    config = config_of()
    config.train[field] = value
    with pytest.raises(ValueError, match=f"config.train.{field}={value}: give at"):
        train(tmp_path / "run", config)
    config = config_of()
    config.batch_size = 0
    with pytest.raises(ValueError, match="config.batch_size=0: give at least 1"):
        train(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_another_config_does_not_touch_a_run_that_trains(tmp_path):
    """The record of a run is written under its lock only."""
    with checkpoint.opened(tmp_path, keep=1):
        first = checkpoint.Record("first", None, (3,), {})
        checkpoint.claim(tmp_path, first)
        with pytest.raises(ValueError, match="another process trains"):
            train(tmp_path, config_of())
    assert checkpoint.claimed(tmp_path) == first


def test_restore_needs_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        loop.restore(tmp_path)


def finishing(calls):
    """A learner that notes when its training ends, and leaves a mark in its state."""

    def finish(key, state, data):
        calls.append(data.name)
        return state | {"w": state["w"] + 1}, {"finish/mark": jnp.float32(1.0)}

    return learner()._replace(finish=finish)


def test_what_ends_training_is_done_once_and_kept(tmp_path):
    calls, config = [], config_of()
    expected = train(tmp_path / "plain", config)
    state = train(tmp_path / "run", config, finishing(calls))
    np.testing.assert_array_equal(state["w"], expected["w"] + 1)
    again = train(tmp_path / "run", config, finishing(calls))
    np.testing.assert_array_equal(again["w"], state["w"])
    assert calls == ["table"]
    last = metric_writer.read(tmp_path / "run")[-1]
    assert last["step"] == 20 and last["finish/mark"] == 1


def test_a_run_that_is_cut_short_ends_as_others_do(tmp_path):
    """Its last checkpoint is that of a longer run, which is not what ends training."""
    expected = train(tmp_path / "short", config_of(num_steps=12), finishing([]))
    with pytest.raises(loop.Stopped):
        train(
            *(tmp_path / "run", config_of(), finishing([])),
            evaluations=at(8, kill(signal.SIGTERM)),
        )
    calls, evaluated = [], []
    step = steps_on_disk(tmp_path / "run")[-1]
    for _ in range(2):
        state = train(
            *(tmp_path / "run", config_of(num_steps=step), finishing(calls)),
            evaluations=at(step, lambda: evaluated.append(1)),
        )
    assert calls == ["table"] and evaluated == [1]
    plain = train(tmp_path / "plain", config_of(num_steps=step))
    np.testing.assert_array_equal(state["w"], plain["w"] + 1)
    state = train(tmp_path / "run", config_of(num_steps=12), finishing(calls))
    assert int(state["count"]) == int(expected["count"])


def test_a_collapsed_generator_is_a_warning(tmp_path, caplog):
    def collapsed(share):
        def step(key, state, x):
            state, found = learner().step(key, state, x)
            return state, found | {"sample_variance": share}

        rarely = dict.fromkeys(("log_every", "save_every", "evaluate_every"), 600)
        config = config_of(600, **rarely | {"iterations_per_call_cpu": 600})
        caplog.clear()
        train(tmp_path / f"{share}", config, learner()._replace(step=step))
        return [r for r in caplog.records if "collapse" in r.getMessage()]

    assert collapsed(0.01) and not collapsed(0.9)
