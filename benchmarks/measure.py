"""What the benchmarks share: the flag of a config, peers, and runs in turns."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping

from absl import flags

from megjax.training import experiment


def config_name() -> str:
    """The name of the config that --config gives."""
    return experiment.name(flags.FLAGS["config"].config_filename)


def in_turns(
    runners: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, float]:
    """The median of what each runner returns; they run in turns, so many times."""
    found = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            found[name].append(runner())
    return {name: statistics.median(values) for name, values in found.items()}


def printed(line: Iterable[object]) -> dict:
    """The last line that a command prints, which is JSON."""
    line = [str(word) for word in line]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def module(name: str, *arguments: str) -> dict:
    """The last line of a module of Python, such as another benchmark."""
    return printed([sys.executable, "-m", name, *arguments])


def report(record: Mapping[str, object]) -> None:
    """Prints a line for each figure, and all as one line of JSON."""
    for name, value in record.items():
        print(f"{name:36} {f'{value:.5g}' if isinstance(value, float) else value}")
    print(json.dumps(record))
