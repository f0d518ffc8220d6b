"""Speed of one training iteration: counted work, wall time, share of the matmul peak.

    python -m benchmarks.step --config=configs/cifar10.py

With --peer=../shared/peers/torch_meg.py --peer_python=PATH_TO_PYTHON_WITH_TORCH the
PyTorch baseline runs in turns with ours, and the ratio of medians is printed.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import measure, recording
from megjax import app, distributed
from megjax.training import experiment, loop

CONFIG = experiment.define_flag()
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed rounds; the median counts.", 1)
SECONDS = flags.DEFINE_float("seconds", 2.0, "Least wall time of a round.", 0.01)
PEER = flags.DEFINE_string("peer", None, "Script of the PyTorch baseline.")
PEER_PYTHON = flags.DEFINE_string("peer_python", "python3", "Python that has torch.")
PEER_ARGUMENTS = flags.DEFINE_list("peer_arguments", [], "Its task and options.")


def main() -> int:
    """Measures the config's step and prints a table and one line of JSON."""
    config = CONFIG.value
    built = experiment.build(config)
    with jax.set_mesh(distributed.data_mesh()):
        record = measured(config, built)
    found = {"config": measure.config_name()} | record
    measure.report(*recording.recorded([found], [config.train.seed]))
    return 0


def measured(config, built) -> dict[str, float | str | int]:
    """The figures of one config, in seconds, FLOP, bytes and ratios."""
    streams = loop.keys(config.train.seed)
    state = loop.initial_state(
        built.learner, built.data.shape, config.batch_size, streams.init
    )
    shape = (built.learner.num_batches, config.batch_size, *built.data.shape)
    x = jnp.zeros(shape)
    options = loop.compiler_options(config.train)
    step = jax.jit(built.learner.step, donate_argnums=1, compiler_options=options)
    start = time.perf_counter()
    compiled = step.lower(streams.step, state, x).compile()
    compile_seconds = time.perf_counter() - start
    flops = compiled.cost_analysis()["flops"]
    bare, whole = Bare(compiled, streams.step, state, x), measure.Loop(config, built)
    for runner in (bare, whole):
        runner.run(1)
        runner.run(1)
    runners = {
        "bare": partial(seconds_per_iteration, bare.run),
        "loop": partial(seconds_per_iteration, whole.run),
    } | ({"peer": peer_seconds} if PEER.value else {})
    seconds = measure.in_turns(runners, REPEATS.value)
    peak = matmul_flops(config.dtype)
    record = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "dtype": config.dtype,
        "width": int(config.get("width", 0)),
        "batch_size": config.batch_size,
        "state_mib": sum(leaf.nbytes for leaf in jax.tree.leaves(bare.state)) / 2**20,
        "gflop_per_iteration": flops / 1e9,
        "compile_seconds": compile_seconds,
        "iterations_per_second": 1 / seconds["bare"],
        "loop_iterations_per_second": 1 / seconds["loop"],
        "loop_over_bare_speed": seconds["bare"] / seconds["loop"],
        "achieved_gflop_per_second": flops / seconds["bare"] / 1e9,
        "matmul_peak_gflop_per_second": peak / 1e9,
        "fraction_of_matmul_peak": flops / seconds["bare"] / peak,
        "peak_memory_gib": loop.peak_memory() / 2**30,
    }
    if PEER.value:
        record["peer_seconds_per_iteration"] = seconds["peer"]
        record["speed_over_peer"] = seconds["peer"] / seconds["loop"]
        record["bare_speed_over_peer"] = seconds["peer"] / seconds["bare"]
    return record


class Bare:
    """The learner's step alone, on one batch."""

    def __init__(self, compiled, key, state, x):
        self.compiled, self.key, self.state, self.x = compiled, key, state, x

    def run(self, num: int) -> None:
        """Runs `num` iterations and waits for them."""
        for _ in range(num):
            self.state, metrics = self.compiled(self.key, self.state, self.x)
        jax.block_until_ready(metrics)


def seconds_per_iteration(run) -> float:
    """Wall time per iteration over a round of at least --seconds."""
    num, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS.value:
        num += run(max(1, num)) or max(1, num)
    return elapsed / num


def matmul_flops(dtype: str, size: int = 4096) -> float:
    """FLOP/s of the best of five large matrix products in `dtype`."""
    size = size if jax.default_backend() != "cpu" else 2048
    a = jnp.ones((size, size), dtype)
    product = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
    jax.block_until_ready(product(a, a))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready([product(a, a) for _ in range(4)])
        times.append((time.perf_counter() - start) / 4)
    return 2 * size**3 / min(times)


def peer_seconds() -> float:
    """Median seconds per iteration that the baseline prints."""
    line = [PEER_PYTHON.value, PEER.value, *PEER_ARGUMENTS.value]
    return measure.printed(line)["median_s"]


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
