"""What the checks of numbers cost: as shares of an iteration and of a sampler's step.

    python -m benchmarks.checks --config=configs/toy_8gaussians.py
    python -m benchmarks.checks --config=configs/mnist_small.py --config.data_dir=...

Training looks at the metrics of every call when it logs, and at every number of a state
that it saves. A Metropolis step rejects a proposal with a number that is not finite:
MALA on the ill-conditioned Gaussian in 50 dimensions is timed with that and without, in
turns, and so is the same step once more, for what two equal programs differ by.
"""

import functools
import time

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import measure
from megjax import app, distributed
from megjax.densities import targets
from megjax.samplers import kernel, mala
from megjax.training import checkpoint, experiment

CONFIG = experiment.define_flag()
ITERATIONS = flags.DEFINE_integer("iterations", 1000, "That are timed.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 15, "Of the sampler's runs in turns.", 1)
NUM_CHAINS, NUM_STEPS = 256, 2000


def main() -> int:
    """Prints the shares, the seconds, and all as a line of JSON."""
    with jax.set_mesh(distributed.data_mesh()):
        found = training()
    measure.report({"config": measure.config_name()} | found | sampling())
    return 0


def training() -> dict[str, float]:
    """Seconds an iteration, of the looks at metrics, and of those at what is saved."""
    config = CONFIG.value
    trained = measure.Loop(config, experiment.build(config))
    trained.run(1)
    begin = time.perf_counter()
    iteration = 1 / trained.run(ITERATIONS.value)
    iteration *= time.perf_counter() - begin
    _, num, call = next(trained.calls)
    state, metrics = jax.device_get(call(trained.state))
    window = trained.window()
    metric_checks = seconds(lambda: [window._is_bad(*one) for one in metrics.items()])
    state_checks = seconds(lambda: checkpoint._check_finite(state, 0))
    return {
        "seconds_per_iteration": iteration,
        "metrics_share": metric_checks / (num * iteration),
        "saves_share": state_checks / (config.train.save_every * iteration),
    }


def seconds(function, num: int = 20) -> float:
    """Of one call, the least of some."""
    found = []
    for _ in range(num):
        begin = time.perf_counter()
        function()
        found.append(time.perf_counter() - begin)
    return min(found)


def sampling() -> dict[str, float]:
    """Seconds a step of all chains, and what the look at its numbers adds."""
    target = targets.ill_conditioned_gaussian()
    starts = targets.starts(target, jax.random.key(0), NUM_CHAINS)
    finite = mala.finite
    runners = {}
    # Nothing else runs in this process: what is replaced need not survive an error.
    for name, function in (
        ("with", finite),
        ("again", finite),
        ("without", lambda state: jnp.bool_(True)),
    ):
        mala.finite = function
        run = jax.jit(functools.partial(last_positions, target.log_density, starts))
        compiled = run.lower(jax.random.key(0)).compile()
        runners[name] = functools.partial(timed, compiled)
    mala.finite = finite
    found = measure.in_turns(runners, ROUNDS.value)
    return {
        "seconds_per_step": found["with"] / NUM_STEPS,
        "step_share": found["with"] / found["without"] - 1,
        "equal_programs": found["with"] / found["again"] - 1,
    }


def last_positions(log_density_fn, starts, key):
    """Of all chains after the steps: [chains, dim]."""
    ours = mala.mala(log_density_fn, step_size=0.006)

    def one(key, x):
        return kernel.chain(key, ours, ours.init(x), NUM_STEPS)[0].position

    return jax.vmap(one)(jax.random.split(key, len(starts)), starts)


def timed(run) -> float:
    """Seconds of a run."""
    begin = time.perf_counter()
    jax.block_until_ready(run(jax.random.key(1)))
    return time.perf_counter() - begin


if __name__ == "__main__":
    app.run(main)
