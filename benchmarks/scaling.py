"""What a training step costs each device as devices are added: FLOPs, bytes, memory.

    python -m benchmarks.scaling --config=configs/cifar10.py --devices=1,2,4,8

Read from the compiled step, which is not run: on a CPU for as many virtual devices. With
--topology=v5e:2x4 the compiler of that TPU is asked instead, which needs libtpu but no
TPU. --seconds=2 also runs the step. --tflops and --gbytes turn the figures into an
estimate of time: arithmetic, no measurement.
"""

import itertools
import re
import time
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from absl import flags
from jax.experimental import topologies

from megjax import app, distributed
from megjax.training import experiment, loop

CONFIG = experiment.define_flag()
DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices.")
SCALING = flags.DEFINE_multi_enum(
    "scaling",
    ["strong", "weak"],
    ["strong", "weak"],
    "strong: config.batch_size is divided; weak: every device has as many examples.",
)
TOPOLOGY = flags.DEFINE_string("topology", None, "TPU to compile for, e.g. v5e:2x4.")
SECONDS = flags.DEFINE_float("seconds", 0.0, "Least time to run; 0: do not run.", 0)
TFLOPS = flags.DEFINE_float("tflops", None, "Rate of a device, in TFLOP/s.", 0)
GBYTES = flags.DEFINE_float("gbytes", None, "Its ring bandwidth, in GB/s.", 0)

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
KINDS += ("collective-permute",)
BITS = {"pred": 8, "bf16": 16}
"""Of types whose name does not end with its number of bits."""


class Collective(NamedTuple):
    """One collective operation: its result's bytes on a device, and how often it runs."""

    kind: str
    num_bytes: int
    times: int

    def sent(self, num_devices: int) -> float:
        """Bytes that a device sends for it around a ring of `num_devices`."""
        share = (num_devices - 1) / num_devices
        factor = {"all-reduce": 2 * share, "reduce-scatter": num_devices - 1}
        if self.kind == "collective-permute":
            share = 1
        return factor.get(self.kind, share) * self.num_bytes * self.times


class Cost(NamedTuple):
    """What one device does and holds in one iteration; sent: bytes around a ring.

    flops: None where micro-batches loop, since the compiler counts a loop's body once.
    """

    flops: float | None
    collectives: list[Collective]
    sent: float
    temporary_bytes: int
    argument_bytes: int


def collectives(text: str) -> list[Collective]:
    """The collectives of an optimised HLO text; loops by their known trip counts."""
    bodies, name = {}, None
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = "ENTRY" if header[1] else header[2]
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return list(_found(bodies, "ENTRY", 1))


def _found(bodies, name, times):
    pattern = rf"= (.+?) ({'|'.join(KINDS)})(-start)?\("
    for line in bodies.get(name, ()):
        if one := re.search(pattern, line):
            sizes = [_num_bytes(*array) for array in _arrays(one[1])]
            # A started gather or permutation names its operands beside its results.
            paired = one[3] and one[2] != "all-reduce"
            yield Collective(one[2], max(sizes) if paired else sum(sizes), times)
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        inner = times * int(trips[1]) if trips else times
        for called in re.findall(r"(?:body|calls|to_apply)=%?([\w.\-]+)", line):
            yield from _found(bodies, called, inner)


def _arrays(shape: str) -> list[tuple[str, str]]:
    return re.findall(r"(\w+)\[([\d,]*)\]", shape)


def _num_bytes(dtype: str, sides: str) -> int:
    bits = BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])
    num = 1
    for side in filter(None, sides.split(",")):
        num *= int(side)
    return num * bits // 8


def compiled(built, mesh, batch_size: int, options):
    """The learner's step for a batch over the mesh, from forms alone."""
    learner = built.learner
    everywhere = distributed.replicated(mesh)
    split = jax.NamedSharding(mesh, jax.P(None, distributed.AXIS))
    shape = (learner.num_batches, batch_size, *built.data.shape)
    key = jax.eval_shape(jax.random.key, 0)
    with jax.set_mesh(mesh), _convolutions(mesh):
        example = jax.ShapeDtypeStruct(shape[1:], jnp.float32)
        state = jax.eval_shape(learner.init, key, example)
        key, state = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=everywhere
            ),
            (key, state),
        )
        x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split)
        step = jax.jit(learner.step, donate_argnums=1, compiler_options=options)
        return step.lower(key, state, x).compile()


def _convolutions(mesh):
    """Networks choose the form of a convolution by the platform, here the mesh's."""
    platform = mesh.devices.flat[0].platform
    return mock.patch.object(jax, "default_backend", lambda: platform)


def cost(config, program, num_devices: int) -> Cost:
    """The figures of a compiled step."""
    found = collectives(program.as_text())
    memory = program.memory_analysis()
    return Cost(
        None if num_microbatches(config) > 1 else program.cost_analysis()["flops"],
        found,
        sum(one.sent(num_devices) for one in found),
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
    )


def num_microbatches(config) -> int:
    """Of the method of a config; 1 where it has no such field."""
    methods = (config.get(name) for name in ("meg", "wgan_gp"))
    return max(m.get("num_microbatches", 1) for m in methods if m is not None)


def estimate(found: Cost, tflops: float, gbytes: float) -> tuple[float, float]:
    """Seconds of an iteration that computes, then sends; and how many times as many
    examples a device needs for the two to take equally long."""
    computing, sending = found.flops / (tflops * 1e12), found.sent / (gbytes * 1e9)
    return computing + sending, sending / computing


def measured(config, built, program, mesh, batch_size: int) -> float:
    """Wall seconds of an iteration."""
    with jax.set_mesh(mesh):
        key = jax.device_put(jax.random.key(0), distributed.replicated(mesh))
        state = loop.initial_state(built.learner, built.data.shape, batch_size, key)
        shape = (built.learner.num_batches, batch_size, *built.data.shape)
        split = jax.NamedSharding(mesh, jax.P(None, distributed.AXIS))
        x = jax.device_put(jnp.zeros(shape), split)
        state, _ = jax.block_until_ready(program(key, state, x))
        num, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS.value:
            state, _ = jax.block_until_ready(program(key, state, x))
            num += 1
    return (time.perf_counter() - start) / num


def numbers() -> list[int]:
    """The numbers of devices that --devices asks for; ValueError where one is none."""
    try:
        found = [int(text) for text in DEVICES.value]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"--devices={','.join(DEVICES.value)}: give numbers, 1,2,4,8")
    return found


def devices(num: int) -> list[jax.Device]:
    """All devices to compile for; ValueError where there are fewer than `num`."""
    if TOPOLOGY.value:
        described = topologies.get_topology_desc(TOPOLOGY.value, platform="tpu")
        found = list(described.devices)
    else:
        found = jax.devices()
    if len(found) < num:
        raise ValueError(f"--devices={num}: there are {len(found)}; ask for fewer")
    return found


def row(config, built, scaling: str, mesh) -> list[str]:
    """One line of the table."""
    num = mesh.size
    batch_size = config.batch_size * (num if scaling == "weak" else 1)
    if batch_size % num:
        raise ValueError(f"config.batch_size={batch_size} is no multiple of {num}")
    cpu = mesh.devices.flat[0].platform == "cpu"
    options = loop.compiler_options(config.train) if cpu else None
    if cpu and not SECONDS.value:
        # What is not run need not be fast; memory as if it had to be saved.
        options |= {
            "xla_backend_optimization_level": 0,
            "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        }
    program = compiled(built, mesh, batch_size, options)
    found = cost(config, program, num)
    reduced = [one for one in found.collectives if one.kind == "all-reduce"]
    others = [one for one in found.collectives if one.kind != "all-reduce"]
    cells = [scaling, str(num), str(batch_size)]
    cells.append("-" if found.flops is None else f"{found.flops / 1e9:.1f}")
    for kind in (reduced, others):
        cells.append(str(sum(one.times for one in kind)))
        cells.append(f"{sum(one.times * one.num_bytes for one in kind) / 1e6:.2f}")
    cells.append(f"{found.sent / 1e6:.2f}")
    cells += [f"{n / 2**20:.0f}" for n in (found.temporary_bytes, found.argument_bytes)]
    if TFLOPS.value and GBYTES.value and found.flops:
        seconds, times = estimate(found, TFLOPS.value, GBYTES.value)
        cells += [f"{1e3 * seconds:.2f}", f"{times * batch_size / num:.1f}"]
    if SECONDS.value:
        cells.append(f"{1e3 * measured(config, built, program, mesh, batch_size):.2f}")
    return cells


def main() -> int:
    """Prints a line for each form of scaling and number of devices."""
    asked = numbers()
    jax.config.update("jax_num_cpu_devices", max(asked))
    config, everything = CONFIG.value, devices(max(asked))
    built = experiment.build(config)
    heads = ["scaling", "devices", "batch", "GFLOP", "reduces", "MB", "others", "MB"]
    heads += ["sent MB", "temp MiB", "args MiB"]
    if TFLOPS.value and GBYTES.value:
        heads += ["estimate ms", "equal at"]
    heads += ["ms"] if SECONDS.value else []
    print("per device and iteration;", everything[0].device_kind, flush=True)
    print("  ".join(f"{head:>8}" for head in heads), flush=True)
    for scaling, num in itertools.product(SCALING.value, asked):
        # On one device the two are the same.
        if num > 1 or scaling == SCALING.value[0]:
            mesh = distributed.data_mesh(everything[:num])
            cells = zip(row(config, built, scaling, mesh), heads)
            widths = (f"{cell:>{max(8, len(head))}}" for cell, head in cells)
            print("  ".join(widths), flush=True)
    return 0


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
