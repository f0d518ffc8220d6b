"""What training survives: kills, signals, flipped bits, other devices, bad numbers.

KILLS=200 STEPS=4000 FLIPS=100 SIGNALS=20 in the environment ask for more than the
defaults; with pytest -s the figures are printed.
"""

import logging
import os
import random
import re
import shutil
import signal
import socket
import time

import jax
import jax.numpy as jnp
import pytest

from megjax import distributed
from megjax.training import checkpoint, experiment, loop, metric_writer

KILLS, STEPS, FLIPS, SIGNALS = (
    int(os.environ.get(name, default))
    for name, default in (
        *(("KILLS", 5), ("STEPS", 1500)),
        *(("FLIPS", 30), ("SIGNALS", 5)),
    )
)
PATIENCE = 3600
"""Seconds for a run on a machine that others use."""
CONFIG_FILE = "configs/toy_8gaussians.py"
SETTINGS = {
    "width": 16,
    "batch_size": 16,
    "meg.num_energy_updates": 1,
    "train.num_steps": 200,
    "train.log_every": 50,
    "train.save_every": 50,
    "train.evaluate_every": 10**6,
}
FOREVER = {"train.num_steps": 10**6}


def line(workdir, **more):
    """The command line of the run that is mistreated here."""
    flags = [f"--config={CONFIG_FILE}", f"--workdir={workdir}"]
    fields = SETTINGS | more
    return ["train.py", *flags, *(f"--config.{k}={v}" for k, v in fields.items())]


def strike(process, number):
    """Sends a signal to a script; what it says, status included."""
    process.kill(number)
    return process.answer()


def steps(workdir):
    """The steps that are on disk, whole."""
    names = (path.name for path in (workdir / checkpoint.DIRECTORY).glob("*"))
    return [int(name) for name in names if name.isdigit()]


def digest(found):
    return re.search(r"state sha256 (\w+)", found.stderr)[1]


@pytest.mark.slow
def test_kills_leave_the_run_as_it_was(scripts, tmp_path):
    """Killed at random moments, one in four before its first step of that life.

    Lives get parts of the time of an untouched run, so that none finishes early.
    """
    seed, length = time.time_ns() % 10**6, {"train.num_steps": STEPS}
    rng, newest = random.Random(seed), 0
    process = scripts.start(*line(tmp_path / "whole", **length)).stepping(PATIENCE)
    start = time.perf_counter()
    whole = process.answer(PATIENCE)
    seconds = (time.perf_counter() - start) / (KILLS + 1)
    for _ in range(KILLS):
        process = scripts.start(*line(tmp_path / "killed", **length))
        if not (starting := rng.random() < 0.25):
            process.stepping(PATIENCE)
        time.sleep(rng.uniform(0, 3 if starting else seconds))
        text = strike(process, signal.SIGKILL).stderr
        first = re.search(r"resuming at step (\d+)", text)
        assert "is damaged" not in text, (seed, text)
        assert first is None or int(first[1]) >= newest, (seed, text)
        newest = max(steps(tmp_path / "killed"), default=0)
    last = scripts.succeed(*line(tmp_path / "killed", **length), seconds=PATIENCE)
    assert digest(last) == digest(whole), seed
    print(f"{KILLS} SIGKILLs (seed {seed}): nothing lost, the same final bits")


@pytest.mark.parametrize(
    ("name", "times"),
    [("SIGTERM", 1)]
    + [
        pytest.param(name, SIGNALS, marks=pytest.mark.slow)
        for name in ("SIGTERM", "SIGINT", "SIGHUP")
    ],
)
def test_signals_save_and_exit(name, times, scripts, tmp_path):
    number = signal.Signals[name]
    for _ in range(times):
        process = scripts.start(*line(tmp_path, **FOREVER)).stepping()
        time.sleep(0.3 * (times > 1))
        found = strike(process, number)
        assert found.status == 128 + number and "Traceback" not in found.stderr
        last = rf"^{name}: saved at step (\d+); the same .*\n\Z"
        step = re.search(last, found.stderr, re.MULTILINE)
        assert int(step[1]) in steps(tmp_path)
    print(f"{times} {name}: all saved the iteration that they came in")


@pytest.mark.slow
def test_no_flipped_bit_is_missed(scripts, tmp_path):
    """First one in each file of the newest checkpoint, then at random bytes.

    Either an earlier step is restored, or the same bits are.
    """
    rng = random.Random(0)
    scripts.succeed(*line(tmp_path, **{"train.num_steps": 150}))
    intact = loop.restore(tmp_path)
    expected = checkpoint.state_digest(intact.state)
    folder = tmp_path / checkpoint.DIRECTORY / str(intact.step)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]
    sizes = [path.stat().st_size for path in files]
    # Else a warning for every bit that is seen.
    logging.getLogger("megjax.training.checkpoint").setLevel(logging.ERROR)
    seen = 0
    for path in (files + rng.choices(files, sizes, k=FLIPS))[:FLIPS]:
        before = path.read_bytes()
        content, bit = bytearray(before), rng.randrange(8 * len(before))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        found = loop.restore(tmp_path)
        path.write_bytes(before)
        seen += found.step != intact.step
        if found.step == intact.step:
            assert checkpoint.state_digest(found.state) == expected, (path, bit)
    assert seen
    print(f"{FLIPS} flipped bits: {seen} seen, {FLIPS - seen} harmless, 0 missed")


def pair(scripts, *arguments, devices=1):
    """Two processes of a script that make one run."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    together = [f"--coordinator={address}", "--num_processes=2"]
    together += ["--heartbeat_timeout=10"]
    return [
        scripts.start(
            *arguments, *together, f"--process_id={i}", devices=devices, fresh=True
        )
        for i in range(2)
    ]


@pytest.mark.slow
def test_a_run_moves_to_other_devices(scripts, tmp_path):
    """The first loss after the move agrees; the run is of eight devices."""
    short = {"train.num_steps": 100, "batch_size": 32}
    scripts.succeed(*line(tmp_path / "eight", **short), devices=8)
    losses = []
    for name in ("1", "2", "4", "8", "pair"):
        shutil.copytree(tmp_path / "eight", tmp_path / name)
        more = short | {"train.num_steps": 101, "train.log_every": 1}
        arguments = line(tmp_path / name, **more)
        if name == "pair":
            for one in pair(scripts, *arguments, devices=4):
                assert one.answer().status == 0
        else:
            scripts.succeed(*arguments, devices=int(name))
        records = metric_writer.read(tmp_path / name)
        losses += [one["energy_gap"] for one in records if "energy_gap" in one][-1:]
    assert losses == pytest.approx([losses[0]] * 5, rel=1e-5)


@pytest.mark.slow
def test_a_pair_of_processes_survives_a_signal_and_a_death(scripts, tmp_path):
    def struck(number):
        """Exit statuses, the steps that were saved, and the first step logged."""
        running = pair(scripts, *line(tmp_path, **FOREVER))
        first = re.search(r" step (\d+)/", running[0].stepping().text())
        found = [strike(running[1], number), running[0].answer()]
        texts = "".join(one.stderr for one in found)
        saved = set(re.findall(r"saved at step (\d+)", texts))
        return [one.status for one in found], saved, int(first[1])

    statuses, saved, _ = struck(signal.SIGTERM)
    assert statuses == [143, 143] and len(saved) == 1
    statuses, _, resumed = struck(signal.SIGKILL)
    assert statuses[0] == -signal.SIGKILL and statuses[1] not in (0, 143)
    assert resumed > int(saved.pop())
    for one in pair(scripts, "sample.py", f"--workdir={tmp_path}", "--steps=2"):
        assert one.answer().status == 0


def poisoned(learner, player, *, iteration):
    """The learner, one of whose players has NaN for weights after an iteration.

    Only under the keys of a run that has not returned to a checkpoint before.
    """
    bad = jax.random.key_data(jax.random.fold_in(loop.keys(0).step, iteration - 1))

    def step(key, state, x):
        state, found = learner.step(key, state, x)
        factor = jnp.where(jnp.all(jax.random.key_data(key) == bad), jnp.nan, 1)
        one = getattr(state, player)
        params = jax.tree.map(lambda w: w * factor, one.params)
        return state.replace(**{player: one.replace(params=params)}), found

    return learner._replace(step=step)


@pytest.mark.slow
def test_a_run_whose_player_was_struck_by_nan_goes_on_as_if_it_had_not(tmp_path):
    """The reference takes the same batches and noise from the last checkpoint on."""
    config = experiment.load(CONFIG_FILE)
    config.update_from_flattened_dict(SETTINGS | {"train.iterations_per_call_cpu": 10})
    built = experiment.build(config)._replace(evaluations={})
    found = set()
    for name in ("energy", "generator", "statistics"):
        struck = built._replace(learner=poisoned(built.learner, name, iteration=120))
        state = loop.train(config, struck, tmp_path / name, name="toy_8gaussians")
        found.add(checkpoint.state_digest(state))
    with config.unlocked():
        config.train.num_steps = 100
    state = loop.train(config, built, tmp_path / "whole", name="toy_8gaussians")
    config.train.num_steps = 200
    with jax.set_mesh(distributed.data_mesh()):
        for _, _, call in loop.calls(config, built, 100, returns=1):
            state, _ = call(state)
    assert found == {checkpoint.state_digest(state)}
