"""Speed of the samplers against blackjax's on the same targets, alternating in one run.

    python -m benchmarks.samplers
    python -m benchmarks.samplers --workdir=runs/proposal_icg --target=icg

Prints one line of JSON per target and kernel: chains x steps per second, ours, theirs
and the ratio; and the effective sample size per second that each makes of it, least
coordinate, Geyer, which --steps bounds below by 1 / steps. Kernels, step sizes and
starts are the same on both sides; theirs is the faster of its two idioms, a scan of
vmapped steps and vmapped scans. With --nuts, or a --workdir that holds a trained
proposal, also blackjax's NUTS, and the proposal with its training time apart.
"""

import functools
import json
import statistics
import time
from collections.abc import Iterator

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import proposals, recording
from megjax import app
from megjax.densities import targets
from megjax.metrics import mcmc
from megjax.samplers import hmc, kernel, mala

TARGETS = flags.DEFINE_multi_enum(
    "target", ["scg", "icg", "funnel3"], list(proposals.ROWS), "Rows of table 1."
)
NUM_CHAINS = flags.DEFINE_integer("chains", 1024, "Chains.", 1)
NUM_STEPS = flags.DEFINE_integer("steps", 200, "Steps of a timed run.", 4)
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each.", 1)
NUTS = flags.DEFINE_bool("nuts", False, "Time blackjax's NUTS too.")
WORKDIR = flags.DEFINE_string("workdir", None, "Run of a trained proposal.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Of the Statlog sets.")

STEP_SIZES = {
    "scg": (0.05, 0.4),
    "icg": (0.006, 0.11),
    "funnel1": (0.003, 0.05),
    "funnel3": (0.01, 0.1),
    "german": (0.002, 0.06),
    "australian": (0.004, 0.08),
    "heart": (0.01, 0.12),
}
"""Of MALA (a) and of HMC's leapfrog; near the usual acceptances."""

PATH_LENGTH = 8


def main() -> int:
    """Prints a line of JSON per comparison."""
    for line in recording.recorded(comparisons(), [0]):
        print(json.dumps(line), flush=True)
    return 0


def comparisons() -> Iterator[dict]:
    """Records of all targets and kernels."""
    for name in TARGETS.value:
        target = proposals.ROWS[name].target_fn(DATA_DIR.value)
        step_size, leapfrog = STEP_SIZES[name]
        log_density = target.log_density
        mass = jnp.ones(target.dim)
        yield compared(
            name,
            "MALA",
            target,
            mala.mala(log_density, step_size=step_size),
            blackjax.mala(log_density, step_size),
        )
        yield compared(
            name,
            f"HMC with {PATH_LENGTH} steps",
            target,
            hmc.hmc(log_density, step_size=leapfrog, num_integration_steps=PATH_LENGTH),
            blackjax.hmc(log_density, leapfrog, mass, PATH_LENGTH),
        )
        if NUTS.value or WORKDIR.value:
            yield from learned_and_nuts(name, target)


def compared(
    density: str, label: str, target: targets.Target, ours: kernel.Kernel, theirs
) -> dict:
    """The speeds of two implementations of one kernel, timed alternately."""
    starts = targets.starts(target, jax.random.key(0), NUM_CHAINS.value)
    runs = {
        "ours": functools.partial(vmapped_chains, ours),
        "vmapped scans": functools.partial(vmapped_scans, theirs),
        "scan of vmapped": functools.partial(scan_of_vmapped, theirs),
    }
    seconds = {name: [] for name in runs}
    efficiency = {}
    for repeat in range(-1, REPEATS.value):
        for name, run in runs.items():
            begin = time.perf_counter()
            x = jax.block_until_ready(run(jax.random.key(repeat + 1), starts))
            # The first round compiles.
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - begin)
            if repeat == 0:
                efficiency[name] = float(np.min(mcmc.efficiencies(np.asarray(x))))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = min(medians, key=lambda name: (name == "ours", medians[name]))
    steps = NUM_CHAINS.value * NUM_STEPS.value
    return {
        "target": density,
        "kernel": label,
        "chains": NUM_CHAINS.value,
        "steps": NUM_STEPS.value,
        "million_steps_per_second": 1e-6 * steps / medians["ours"],
        "blackjax_million_steps_per_second": 1e-6 * steps / medians[fastest],
        "blackjax_idiom": fastest,
        "speed_over_blackjax": medians[fastest] / medians["ours"],
        "ess_per_second": efficiency["ours"] * steps / medians["ours"],
        "blackjax_ess_per_second": efficiency[fastest] * steps / medians[fastest],
    }


@functools.partial(jax.jit, static_argnums=0)
def vmapped_chains(ours, key, starts):
    """Positions of our chains [chains, steps, dim]."""

    def one(key, x):
        return kernel.chain(
            key,
            ours,
            ours.init(x),
            NUM_STEPS.value,
            observe=lambda state: state.position,
        )[1].observations

    return jax.vmap(one)(jax.random.split(key, len(starts)), starts)


@functools.partial(jax.jit, static_argnums=0)
def vmapped_scans(theirs, key, starts):
    """Positions of blackjax's chains, each a scan of its own [chains, steps, dim]."""

    def one(key, x):
        def step(state, key):
            state, info = theirs.step(key, state)
            return state, (state.position, info.acceptance_rate)

        keys = jax.random.split(key, NUM_STEPS.value)
        return jax.lax.scan(step, theirs.init(x), keys)[1][0]

    return jax.vmap(one)(jax.random.split(key, len(starts)), starts)


@functools.partial(jax.jit, static_argnums=0)
def scan_of_vmapped(theirs, key, starts):
    """Positions of blackjax's chains, stepped together [chains, steps, dim]."""

    def step(states, key):
        keys = jax.random.split(key, len(starts))
        states, infos = jax.vmap(theirs.step)(keys, states)
        return states, (states.position, infos.acceptance_rate)

    keys = jax.random.split(key, NUM_STEPS.value)
    x = jax.lax.scan(step, jax.vmap(theirs.init)(starts), keys)[1][0]
    return jnp.swapaxes(x, 0, 1)


def learned_and_nuts(name: str, target: targets.Target) -> Iterator[dict]:
    """What NUTS, and a trained proposal where given, make per second."""
    settings = proposals.ROWS[name].settings
    keys = jax.random.split(jax.random.key(0))
    for label, num_chains in (("NUTS", settings.num_chains), ("NUTS, one chain", 1)):
        own = settings._replace(num_chains=num_chains)
        ready = proposals.no_u_turn(keys[0], target, own)
        found = proposals.measured(keys[1], ready, target, own)
        yield {"target": name, "kernel": label} | worth(found)
    if WORKDIR.value:
        ready = proposals.learned(keys[0], WORKDIR.value, target, settings)
        found = proposals.measured(keys[1], ready, target, settings)
        yield {"target": name, "kernel": WORKDIR.value} | worth(found)


def worth(found: dict[str, float]) -> dict[str, float]:
    """What a sampler is worth; warm_up_seconds are its tuning or training."""
    names = ("acceptance", "gradients_per_draw", "ess_geyer", "ess_above", "r_hat")
    names += ("ess_per_second", "seconds", "warm_up_seconds")
    return {name: found[name] for name in names}


if __name__ == "__main__":
    app.run(main)
