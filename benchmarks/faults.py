"""Kills training at random moments, flips bits on disk, compares with an untouched run.

python -m benchmarks.faults --kills=5 --flips=60
"""

import logging
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
from absl import flags

from megjax import checkpoint, command, experiment, parallel, training

CONFIG = flags.DEFINE_string("config", "configs/digits.py", "Experiment to train.")
OVERRIDES = flags.DEFINE_list(
    "overrides",
    "width=16,batch_size=32,train.num_steps=600,train.save_every=20,train.log_every=10",
    "Config fields, name=value.",
)
KILLS = flags.DEFINE_integer("kills", 5, "Times that training is killed.")
FLIPS = flags.DEFINE_integer("flips", 60, "Bits to flip, one after the other.")
SEED = flags.DEFINE_integer("seed", 0, "Of moments and bits.")


class Life(NamedTuple):
    """One process that trained: from its first step until it ended or was killed.

    last: the last step it logged. seconds: since its first log line. digest: of the
    final state, None where it was killed.
    """

    first: int
    last: int
    seconds: float
    digest: str | None


def life(arguments: list[str], kill_after: float | None = None) -> Life:
    """Runs train.py; kills it some seconds after its first log line about a step.

    Raises RuntimeError with what it printed where it fails by itself.
    """
    with subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=experiment.ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = [process.stderr.readline()]
        while lines[-1] and not re.search(r" step \d+/", lines[-1]):
            lines.append(process.stderr.readline())
        start = time.perf_counter()
        if kill_after is not None:
            time.sleep(kill_after)
            process.kill()
        text = "".join(lines) + process.stderr.read()
    seconds = time.perf_counter() - start
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"train.py ended with {process.returncode}: {text}")
    first = re.search(r"resuming at step (\d+)", text)
    last = re.findall(r" step (\d+)/", text)
    digest = re.search(r"state sha256 (\w+)", text)
    return Life(
        int(first[1]) if first else 0,
        int(last[-1]) if last else 0,
        seconds,
        digest[1] if digest else None,
    )


def killed(arguments: list[str], kills: int, seconds: float, rng) -> list[Life]:
    """Lives of one run that is killed `kills` times, and one more that finishes it.

    seconds: what an untouched run takes. A life gets less than its share of them, so
    that none finishes before its time.
    """
    share = seconds / (kills + 1)
    lives = [life(arguments, rng.uniform(0, share)) for _ in range(kills)]
    return [*lives, life(arguments)]


def flips(workdir: pathlib.Path, num: int, rng) -> dict[str, int]:
    """How often a bit flipped in the newest checkpoint was seen, harmless or missed.

    First one in each of its files, then at random bytes. Seen: restored an earlier
    step instead. Harmless: restored the same bits. Missed: restored other bits.
    """
    config = experiment.load(*checkpoint.claimed(workdir))
    built = config.build(config)
    state, newest = _restored(workdir, config, built)
    digest = checkpoint.state_digest(state)
    files = [
        path
        for path in sorted((workdir / f"checkpoints/{newest}").rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    sizes = [path.stat().st_size for path in files]
    counts = {"seen": 0, "harmless": 0, "missed": 0}
    for path in (files + rng.choices(files, sizes, k=num))[:num]:
        intact = path.read_bytes()
        _flip(path, rng.randrange(8 * len(intact)))
        state, step = _restored(workdir, config, built)
        path.write_bytes(intact)
        same = checkpoint.state_digest(state) == digest
        kind = "seen" if step != newest else "harmless" if same else "missed"
        counts[kind] += 1
    return counts


def _flip(path: pathlib.Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _restored(workdir, config, built):
    with (
        jax.set_mesh(parallel.data_mesh()),
        checkpoint.opened(workdir, keep=9, writable=False) as checkpoints,
    ):
        return training.latest(checkpoints, config, built)


def main() -> int:
    """Prints a line per life and the counts; 1 where anything differs."""
    rng = random.Random(SEED.value)
    root = pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
    arguments = [f"--config={CONFIG.value}"]
    arguments += [f"--config.{override}" for override in OVERRIDES.value]
    whole = life([*arguments, f"--workdir={root / 'whole'}"])
    lives = killed(
        [*arguments, f"--workdir={root / 'killed'}"], KILLS.value, whole.seconds, rng
    )
    print("run      from    last   seconds  sha256 of the final state")
    for name, one in [("whole", whole), *(("killed", one) for one in lives)]:
        digest = one.digest or "killed"
        print(f"{name:7}{one.first:6}{one.last:8}{one.seconds:10.2f}  {digest}")
    # Else a warning for every bit that is seen.
    logging.getLogger("megjax.checkpoint").setLevel(logging.ERROR)
    counts = flips(root / "killed", FLIPS.value, rng)
    print(
        f"{FLIPS.value} flipped bits:", ", ".join(f"{n} {k}" for k, n in counts.items())
    )
    same = lives[-1].digest == whole.digest
    print("identical" if same else "DIFFERENT")
    shutil.rmtree(root)
    return 0 if same and not counts["missed"] else 1


if __name__ == "__main__":
    command.run(main)
