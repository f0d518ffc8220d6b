"""What the benchmarks share: the flag of a config, training, peers, runs in turns."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import jax
from absl import flags

from megjax.training import experiment, loop


def config_name() -> str:
    """The name of the config that --config gives."""
    return experiment.name(flags.FLAGS["config"].config_filename)


class Loop:
    """The compiled calls that training makes: gathering, normalising, many per call."""

    def __init__(self, config, built):
        config = config.copy_and_resolve_references()
        config.train.num_steps = 2**31 - 2
        key = loop.keys(config.train.seed).init
        self.state = loop.initial_state(
            built.learner, built.data.shape, config.batch_size, key
        )
        self.calls = loop.calls(config, built, 0)
        samples = config.batch_size * built.learner.num_batches
        self.window = partial(loop.Window, samples, config.train.max_energy)
        self.log_every = config.train.log_every

    def run(self, num: int) -> int:
        """Runs at least `num` iterations with their metrics; how many it ran."""
        done, window = 0, self.window()
        while done < num:
            step, length, call = next(self.calls)
            self.state, found = call(self.state)
            window.add(length, found)
            done += length
            if (step + length) % self.log_every == 0:
                window.scalars(step + length)
                window = self.window()
        jax.block_until_ready(found)
        return done


def in_turns(
    runners: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, float]:
    """The median of what each runner returns; they run in turns, so many times."""
    found = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            found[name].append(runner())
    return {name: statistics.median(values) for name, values in found.items()}


def over_seeds(values: Sequence[float], mean: str = ".4g", spread: str = ".2g") -> str:
    """Mean over seeds +- their sample standard deviation, as of more seeds to come.

    mean, spread: formats. Of one seed the mean alone.
    """
    text = format(statistics.mean(map(float, values)), mean)
    if len(values) < 2:
        return text
    deviation = format(statistics.stdev(map(float, values)), spread)
    # Without the exponent that two digits of a thousand have.
    return f"{text} +- {f'{float(deviation):g}' if 'e+' in deviation else deviation}"


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
