"""What training survives: kills, signals, flipped bits, other devices, bad numbers.

    python -m tests.robustness.faults                      # everything; about 15 minutes
    python -m tests.robustness.faults --only=pairs
    python -m tests.robustness.faults --only=kills --kills=20

kills: one run killed by SIGKILL at random moments ends in the bits of an untouched one,
and every life resumes at the newest step that was on disk. signals: seconds from SIGTERM
to an exit with everything saved. flips: one bit of a checkpoint at a time. topologies:
the run goes on with other numbers of devices and processes. pairs: two processes of a
run, one of which is told to end, then one is killed; then both draw samples. numbers:
NaN in the weights of one player; all come back as they were.
"""

import logging
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from megjax import app, distributed
from megjax.commands import train
from megjax.learners.base import Learner
from megjax.training import checkpoint, experiment, loop, metric_writer

KINDS = ("kills", "signals", "flips", "topologies", "pairs", "numbers")
ONLY = flags.DEFINE_list("only", list(KINDS), "Of " + ", ".join(KINDS))
KILLS = flags.DEFINE_integer("kills", 200, "Times that training is killed.", 1)
STEPS = flags.DEFINE_integer("steps", 4000, "Iterations of the run that is killed.", 1)
FLIPS = flags.DEFINE_integer("flips", 100, "Bits to flip, one after the other.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of moments and bits.")

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
PROCESSES, DEVICES_EACH = 2, 4


class Life(NamedTuple):
    """One process that trained: from its first step until it ended or was killed.

    first: the step it resumed at. seconds: since its first log line, None where it was
    killed before. digest: of the final state, None where it did not get there.
    """

    first: int | None
    status: int
    seconds: float | None
    digest: str | None
    text: str


def life(arguments: list[str], stop: Callable[[Iterator[str]], int] | None = None):
    """Runs train.py in a fork of this process, which has its imports done.

    stop: waits, given the lines that training prints, and returns the signal to send.
    Raises RuntimeError with what was printed where training fails by itself.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        _train(arguments, write)
    os.close(write)
    start, lines = None, []
    with os.fdopen(read, errors="replace") as pipe:

        def printed() -> Iterator[str]:
            nonlocal start
            for line in pipe:
                lines.append(line)
                if start is None and " step " in line:
                    start = time.perf_counter()
                yield line

        if stop:
            os.kill(child, stop(printed()))
        for _ in printed():
            pass
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = "".join(lines)
    if status not in (0, -signal.SIGKILL, 128 + signal.SIGTERM):
        raise RuntimeError(f"train.py ended with {status}: {text}")
    first = re.search(r"resuming at step (\d+)", text)
    digest = re.search(r"state sha256 (\w+)", text)
    return Life(
        int(first[1]) if first else None,
        status,
        time.perf_counter() - start if start else None,
        digest[1] if digest else None,
        text,
    )


def _train(arguments: list[str], output: int) -> None:
    """train.py with its output to a pipe; does not return."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["train.py", *arguments]
    flags.FLAGS.unparse_flags()
    status = 99
    try:
        app.run(train.main)
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def arguments(workdir: pathlib.Path, **more) -> list[str]:
    """The command line of the run that is mistreated here."""
    fields = SETTINGS | more
    line = [f"--config={CONFIG_FILE}", f"--workdir={workdir}"]
    return line + [f"--config.{name}={value}" for name, value in fields.items()]


def killed_after(seconds: float, starting: bool) -> Callable[[Iterator[str]], int]:
    """SIGKILL some time after the start of the process, or of its iterations."""

    def stop(lines: Iterator[str]) -> int:
        for line in () if starting else lines:
            if " step " in line:
                break
        time.sleep(seconds)
        return signal.SIGKILL

    return stop


def kills(root: pathlib.Path, num: int, rng: random.Random) -> tuple[dict, bool]:
    """Kills one run `num` times, one in four before its first step of that life.

    Lives get shares of the time of an untouched run, so that none finishes early.
    """
    length = {"train.num_steps": STEPS.value}
    whole = life(arguments(root / "whole", **length))
    share, newest = whole.seconds / (num + 1), 0
    counts = {"kills": num, "unreadable": 0, "lost steps": 0, "lives that resumed": 0}
    for _ in range(num):
        starting = rng.random() < 0.25
        seconds = rng.uniform(0, 3 if starting else share)
        line = arguments(root / "killed", **length)
        one = life(line, killed_after(seconds, starting))
        if one.first is not None:
            counts["lost steps"] += one.first < newest
            counts["lives that resumed"] += 1
        counts["unreadable"] += "is damaged" in one.text
        newest = max(steps(root / "killed"), default=0)
    last = life(arguments(root / "killed", **length))
    same = last.digest == whole.digest
    counts["final sha256"] = "identical" if same else "DIFFERENT"
    return counts, same and not counts["unreadable"] and not counts["lost steps"]


def steps(workdir: pathlib.Path) -> list[int]:
    """The steps that are on disk, whole."""
    names = (path.name for path in (workdir / checkpoint.DIRECTORY).glob("*"))
    return [int(name) for name in names if name.isdigit()]


def signals(root: pathlib.Path, num: int = 5) -> tuple[dict, bool]:
    """Sends SIGTERM some time into as many lives of one run."""
    spent, saved = [], 0

    def stop(lines: Iterator[str]) -> int:
        for line in lines:
            if " step " in line:
                break
        time.sleep(0.3)
        stop.sent = time.perf_counter()
        return signal.SIGTERM

    for _ in range(num):
        one = life(arguments(root / "signalled", **{"train.num_steps": 10**6}), stop)
        spent.append(time.perf_counter() - stop.sent)
        step = re.search(r"SIGTERM: saved at step (\d+)", one.text)
        saved += bool(step) and int(step[1]) in steps(root / "signalled")
    counts = {"signals": num, "saved": saved, "seconds, longest": max(spent)}
    return counts, saved == num and max(spent) < 5


def flips(workdir: pathlib.Path, num: int, rng: random.Random) -> dict[str, int]:
    """How often a bit flipped in the newest checkpoint was seen, harmless or missed.

    First one in each of its files, then at random bytes. Seen: restored an earlier
    step instead. Harmless: restored the same bits. Missed: restored other bits.
    """
    built = loop.restore(workdir)
    state, newest = _restored(workdir, built)
    digest = checkpoint.state_digest(state)
    files = [
        path
        for path in sorted((workdir / f"checkpoints/{newest}").rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    sizes = [path.stat().st_size for path in files]
    counts = {"seen": 0, "harmless": 0, "missed": 0}
    # Else a warning for every bit that is seen.
    log = logging.getLogger("megjax.training.checkpoint")
    level = log.level
    log.setLevel(logging.ERROR)
    for path in (files + rng.choices(files, sizes, k=num))[:num]:
        intact = path.read_bytes()
        _flip(path, rng.randrange(8 * len(intact)))
        state, step = _restored(workdir, built)
        path.write_bytes(intact)
        same = checkpoint.state_digest(state) == digest
        kind = "seen" if step != newest else "harmless" if same else "missed"
        counts[kind] += 1
    log.setLevel(level)
    return counts


def _flip(path: pathlib.Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _restored(workdir, run):
    """(state, step) of the newest intact checkpoint."""
    with (
        jax.set_mesh(distributed.data_mesh()),
        checkpoint.opened(workdir, keep=9, writable=False) as checkpoints,
    ):
        saved = loop.latest(checkpoints, run.config, run.learner, run.shape)
        return saved.state, saved.step


def topologies(root: pathlib.Path) -> tuple[dict, bool]:
    """Relative difference of the first loss after a run has moved to other devices.

    The run is of eight devices; restores are bit-equal or refused, by digests.
    """
    short = {"train.num_steps": 100, "batch_size": 32}
    on = {f"{n} devices": (1, n) for n in (1, 2, 4, 8)}
    on[f"{PROCESSES} processes x {DEVICES_EACH}"] = (PROCESSES, DEVICES_EACH)
    _launched(arguments(root / "eight", **short), 1, 8)
    counts, reference = {}, None
    for name, (num_processes, num_devices) in on.items():
        workdir = root / name.replace(" ", "")
        shutil.copytree(root / "eight", workdir)
        more = short | {"train.num_steps": 101, "train.log_every": 1}
        _launched(arguments(workdir, **more), num_processes, num_devices)
        lines = metric_writer.read(workdir)
        gap = [line["energy_gap"] for line in lines if "energy_gap" in line][-1]
        reference = gap if reference is None else reference
        counts[name] = abs(gap - reference) / abs(reference)
    return counts, max(counts.values()) < 1e-5


def pairs(root: pathlib.Path) -> tuple[dict, bool]:
    """What two processes make of a signal to one, and of the death of one."""
    line = ["train.py", *arguments(root, **{"train.num_steps": 10**6})]
    line += ["--heartbeat_timeout=10"]

    def struck(number: int) -> tuple[list[int], set[str], int]:
        """Statuses, steps that were told to be saved, and the first step logged."""
        running = _started(line, 2, 1)
        first = next(
            int(found[1])
            for text in running[0].stderr
            if (found := re.search(r" step (\d+)/", text))
        )
        running[1].send_signal(number)
        texts = [process.communicate()[1] for process in running]
        saved = set(re.findall(r"saved at step (\d+)", "".join(texts)))
        return [process.returncode for process in running], saved, first

    told, saved, _ = struck(signal.SIGTERM)
    killed, _, resumed = struck(signal.SIGKILL)
    drawn = _started(["sample.py", f"--workdir={root}", "--steps=2"], 2, 1)
    for process in drawn:
        process.communicate()
    counts = {
        "statuses after SIGTERM": str(told),
        "steps saved": " and ".join(saved),
        "resumed before step": resumed,
        "statuses after SIGKILL": str(killed),
        "statuses of sample.py": str([process.returncode for process in drawn]),
    }
    good = told == [143, 143] and len(saved) == 1 and resumed > int(min(saved))
    good &= killed[1] == -signal.SIGKILL and killed[0] not in (0, 143)
    return counts, good and not any(process.returncode for process in drawn)


def _launched(line: list[str], num_processes: int, num_devices: int) -> None:
    """Runs train.py in so many processes with so many virtual devices each."""
    for process in _started(["train.py", *line], num_processes, num_devices):
        _, text = process.communicate()
        if process.returncode:
            raise RuntimeError(f"train.py ended with {process.returncode}: {text}")


def _started(
    line: list[str], num_processes: int, num_devices: int
) -> list[subprocess.Popen]:
    """A script in so many processes with so many virtual devices each."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(num_devices)}
    together = [f"--coordinator={address}", f"--num_processes={num_processes}"]
    together = together if num_processes > 1 else []
    return [
        subprocess.Popen(
            [sys.executable, *line, *together]
            + ([f"--process_id={i}"] if together else []),
            cwd=experiment.ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(num_processes)
    ]


def numbers(root: pathlib.Path) -> tuple[dict, bool]:
    """Whether a run whose player was struck by NaN goes on as if nothing had been.

    The reference takes the same batches and noise from the last checkpoint on.
    """
    config = experiment.load(CONFIG_FILE)
    short = {"train.num_steps": 200, "train.iterations_per_call_cpu": 10}
    config.update_from_flattened_dict(SETTINGS | short)
    built = experiment.build(config)._replace(evaluations={})
    found = {}
    for name in ("energy", "generator", "statistics"):
        struck = built._replace(learner=poisoned(built.learner, name, iteration=120))
        state = loop.train(config, struck, root / name, name="toy_8gaussians")
        found[name] = checkpoint.state_digest(state)
    with config.unlocked():
        config.train.num_steps = 100
    workdir = root / "reference"
    state = loop.train(config, built, workdir, name="toy_8gaussians")
    config.train.num_steps = 200
    with jax.set_mesh(distributed.data_mesh()):
        for _, _, call in loop.calls(config, built, 100, returns=1):
            state, _ = call(state)
    digest = checkpoint.state_digest(state)
    counts = {
        f"NaN in the {name}": "unchanged" if found[name] == digest else "CHANGED"
        for name in found
    }
    return counts, set(found.values()) == {digest}


def poisoned(learner: Learner, player: str, *, iteration: int) -> Learner:
    """The learner, one of whose players has NaN for weights after an iteration.

    Only under the keys of a run that has not returned to a checkpoint before.
    """
    step_key = loop.keys(SETTINGS.get("train.seed", 0)).step
    bad = jax.random.key_data(jax.random.fold_in(step_key, iteration - 1))

    def step(key, state, x):
        state, found = learner.step(key, state, x)
        factor = jnp.where(jnp.all(jax.random.key_data(key) == bad), jnp.nan, 1)
        one = getattr(state, player)
        params = jax.tree.map(lambda w: w * factor, one.params)
        return state.replace(**{player: one.replace(params=params)}), found

    return learner._replace(step=step)


def main() -> int:
    """Prints what each kind of fault came to; 1 where anything went wrong."""
    if unknown := set(ONLY.value) - set(KINDS):
        raise ValueError(f"--only={unknown.pop()}: choose of {', '.join(KINDS)}")
    rng = random.Random(SEED.value)
    root = pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
    # So that the lives of a run compile once.
    jax.config.update("jax_compilation_cache_dir", str(root / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def flipped():
        life(arguments(root / "flipped", **{"train.num_steps": 150}))
        counts = flips(root / "flipped", FLIPS.value, rng)
        return counts, not counts["missed"]

    # Those that fork come first: a process with a device cannot.
    steps_of = {
        "kills": lambda: kills(root, KILLS.value, rng),
        "signals": lambda: signals(root),
        "topologies": lambda: topologies(root / "topologies"),
        "pairs": lambda: pairs(root / "pairs"),
        "flips": flipped,
        "numbers": lambda: numbers(root / "numbers"),
    }
    all_good = True
    for name in (name for name in steps_of if name in ONLY.value):
        start = time.perf_counter()
        counts, good = steps_of[name]()
        all_good &= good
        print(f"{name} ({time.perf_counter() - start:.0f} s)", flush=True)
        for key, value in counts.items():
            value = f"{value:.3g}" if isinstance(value, float) else value
            print(f"  {key:24}{value}", flush=True)
    shutil.rmtree(root)
    print("all as it should be" if all_good else "FAILED")
    return 0 if all_good else 1


if __name__ == "__main__":
    app.run(main)
