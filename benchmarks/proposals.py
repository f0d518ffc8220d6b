"""Samplers side by side under one definition of efficiency, for targets of table 1.

Li, Chen and Sommer, A Neural Network MCMC Sampler That Maximizes Proposal Entropy
(2021). `python -m benchmarks.reproduce proposal_table1` prints the table; the samplers
here are its baselines, and `measured` is how every row is measured, learned ones
included.
"""

import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from megjax.densities import logistic, targets
from megjax.densities.targets import Target
from megjax.metrics import mcmc
from megjax.networks import proposal as networks
from megjax.samplers import gradient_adaptive, hmc, kernel, mala
from megjax.sampling import draw
from megjax.training import loop, metric_writer
from megjax.types import Array, Key, PyTree

PATH_LENGTHS = (2, 4, 8, 16, 32, 64)
JITTER = 0.2


class Settings(NamedTuple):
    """How long to run.

    num_chains: side by side. num_draws: of each, all kept. warm_up: transitions before,
    which tune and are thrown away.
    """

    num_chains: int
    num_draws: int
    warm_up: int


class Ready(NamedTuple):
    """A sampler that is tuned and frozen, and where its chains stand.

    states: [chains, ...]. gradients_per_draw: of the target, in one transition; None
    where it varies and every state says it (`num_gradients`). warm_up_seconds: of
    tuning, compilation included, or of training without it.
    """

    kernel: kernel.Kernel
    states: PyTree
    gradients_per_draw: float | None
    warm_up_seconds: float


class Row(NamedTuple):
    """A target of table 1, and what the paper says of it.

    target_fn: data_dir -> Target. published: what is printed, with its unit. config: of
    the learned proposal. published_moments: by which its code centres and divides,
    where these are not the target's.
    """

    target_fn: Callable[[str | None], Target]
    settings: Settings
    published: str
    config: str
    published_moments: targets.Moments | None = None


EXACT = Settings(num_chains=100, num_draws=2000, warm_up=1000)
"""As L2HMC's evaluation, with half its chains: from exact draws."""

POSTERIOR = Settings(num_chains=32, num_draws=5000, warm_up=1000)
"""As A-NICE-MC's."""


def _regression(name):
    return lambda data_dir: logistic.regression(name, data_dir=data_dir)


ROWS: Mapping[str, Row] = {
    "icg": Row(
        lambda _: targets.ill_conditioned_gaussian(),
        EXACT,
        "0.86 per transition, 0.215 per gradient; L2HMC 0.783, 0.0783",
        "configs/proposal_icg.py",
    ),
    "scg": Row(
        lambda _: targets.strongly_correlated_gaussian(),
        EXACT,
        "0.89 per transition, 0.22 per gradient; L2HMC 0.497, 0.0232",
        "configs/proposal_scg.py",
    ),
    "funnel1": Row(
        lambda _: targets.funnel(dim=100, std=1.0, power=2.0),
        EXACT,
        "x0 0.037, others 0.072 per gradient; NeuTra 0.0089, 0.049",
        "configs/proposal_funnel.py:1",
    ),
    "funnel3": Row(
        lambda _: targets.funnel(dim=20, std=3.0),
        EXACT,
        "0.256 per transition; HMC 0.0079",
        "configs/proposal_funnel.py:3",
    ),
    "german": Row(
        _regression("german"),
        POSTERIOR,
        "3150 per 5k; gradMALA 702, A-NICE-MC 926, NFLMC 1177",
        "configs/proposal_logistic.py:german",
        logistic.PUBLISHED_GERMAN,
    ),
    "australian": Row(
        _regression("australian"),
        POSTERIOR,
        "2950 per 5k; gradMALA 872, A-NICE-MC 1016, NFLMC 1586",
        "configs/proposal_logistic.py:australian",
    ),
    "heart": Row(
        _regression("heart"),
        POSTERIOR,
        "3600 per 5k; gradMALA 973, A-NICE-MC 1251, NFLMC 2000",
        "configs/proposal_logistic.py:heart",
    ),
}


def langevin(key: Key, target: Target, settings: Settings) -> Ready:
    """MALA with the step size of acceptance 0.574."""
    kernel_fn = functools.partial(mala.mala, target.log_density)
    return _tuned(key, target, settings, kernel_fn, mala.TARGET_ACCEPTANCE, 1)


def hamiltonian(key: Key, target: Target, settings: Settings) -> Ready:
    """HMC of acceptance 0.8, with the path length that wins a pilot run.

    By its smallest squared jump, in units of the variance, per gradient. Step sizes
    vary by 20 % from transition to transition, without which paths of one length return
    to where they started.
    """
    start = time.perf_counter()
    keys = jax.random.split(key, 3)
    pilot = Settings(settings.num_chains, 200, settings.warm_up // 2)
    efficiency = {}
    for num_steps in PATH_LENGTHS:
        ready = _paths(keys[0], target, pilot, num_steps)
        found = measured(keys[1], ready, target, pilot)
        efficiency[num_steps] = np.nan_to_num(found["relative_jump"]) / num_steps
    best = max(efficiency, key=efficiency.get)
    ready = _paths(keys[2], target, settings, best)
    return ready._replace(warm_up_seconds=time.perf_counter() - start)


def gradient_adaptive_langevin(key: Key, target: Target, settings: Settings) -> Ready:
    """MALA with the lower-triangular preconditioner of Titsias and Dellaportas.

    Learned in five times as many transitions as the others tune.
    """
    start = time.perf_counter()
    init = mala.mala(target.log_density, step_size=1.0).init
    keys = jax.random.split(key, 3)

    @jax.jit
    def learned(keys, starts):
        return gradient_adaptive.warm_up(
            keys,
            target.log_density,
            jax.vmap(init)(starts),
            gradient_adaptive.adaptation(target.dim),
            5 * settings.warm_up,
        )

    starts = targets.starts(target, keys[0], settings.num_chains)
    states, found = learned(jax.random.split(keys[1], settings.num_chains), starts)
    fixed = gradient_adaptive.adapted(target.log_density, found)
    states = _fresh(keys[2], target, fixed, states)
    return Ready(fixed, states, 1, time.perf_counter() - start)


class NutsState(NamedTuple):
    """A position [dim], what blackjax keeps, and gradients of the last transition []."""

    position: Array
    inner: PyTree
    num_gradients: Array


def no_u_turn(key: Key, target: Target, settings: Settings) -> Ready:
    """blackjax's NUTS; step size and diagonal mass by its window adaptation, one chain."""
    # A peer, which the other tables and the samplers of the table do without.
    import blackjax

    start = time.perf_counter()
    keys = jax.random.split(key, 3)
    adapt = blackjax.window_adaptation(blackjax.nuts, target.log_density)
    starts = targets.starts(target, keys[0], settings.num_chains)
    found, _ = jax.jit(adapt.run, static_argnames="num_steps")(
        keys[1], starts[0], num_steps=settings.warm_up
    )
    sampler = blackjax.nuts(target.log_density, **found.parameters)

    def init(position):
        return NutsState(position, sampler.init(position), jnp.int32(0))

    def step(key, state):
        inner, info = sampler.step(key, state.inner)
        moved = NutsState(inner.position, inner, info.num_integration_steps)
        accepted = jnp.bool_(True)
        return moved, kernel.Info(info.acceptance_rate, accepted, info.is_divergent)

    fixed = kernel.Kernel(init, step)
    states = jax.vmap(init)(starts)
    if target.sample is None:
        states = _burnt(keys[2], fixed, states, settings.warm_up)
    return Ready(fixed, states, None, time.perf_counter() - start)


BASELINES: Mapping[str, Callable[[Key, Target, Settings], Ready]] = {
    "MALA": langevin,
    "HMC": hamiltonian,
    "gradient-adaptive MALA": gradient_adaptive_langevin,
    "NUTS": no_u_turn,
}


LEARNED = "learned proposal"


def learned(
    key: Key, workdir: str | pathlib.Path, target: Target, settings: Settings
) -> Ready:
    """The trained proposal of a run, frozen, at exact draws.

    Where there are none, `warm_up` of its own steps after chains that it was trained
    on: far outside of them it can stand still. Counts 4 N gradients for N steps of the
    flow: two halves, there and back.
    """
    restored = loop.restore(workdir)
    flow = restored.config.proposal
    num_gradients = networks.num_gradients(flow.gradient, flow.flow_steps)
    sampler = restored.learner.kernel(restored.state, target.log_density)
    keys = jax.random.split(key)
    starts = targets.starts(target, keys[0], settings.num_chains)
    if target.sample is None and restored.state.positions is not None:
        chosen = (settings.num_chains,)
        starts = jax.random.choice(keys[0], restored.state.positions, chosen)
    states = jax.vmap(sampler.init)(starts)
    if target.sample is None:
        states = _burnt(keys[1], sampler, states, settings.warm_up)
    rates = [row.get("iterations_per_second") for row in metric_writer.read(workdir)]
    # Without its compilation, the burn-in of a buffer, and what evaluations take.
    seconds = restored.step / np.median([rate for rate in rates if rate])
    return Ready(sampler, states, num_gradients or np.nan, float(seconds))


COLUMNS = {
    "acceptance": "acceptance",
    "gradients": "gradients_per_draw",
    "ESS (truncated), least": "ess_above",
    "ESS (truncated) per gradient": "ess_above_per_gradient",
    "ESS (trace-weighted)": "ess_trace",
    "ESS (Geyer), least": "ess_geyer",
    "ESS (Geyer) per gradient": "ess_per_gradient",
    "ESS (Geyer), x0": "ess_geyer_x0",
    "ESS (truncated), x0": "ess_above_x0",
    "ESS (truncated), worst other coordinate": "ess_above_others",
    "ESS (Geyer), worst other coordinate": "ess_geyer_others",
    "ESS (Geyer) per second": "ess_per_second",
    "R-hat": "r_hat",
    "mean error": "mean_error",
    "variance ratio from": "variance_ratio_lowest",
    "to": "variance_ratio_highest",
    "x0 < -2 sd": "below_2",
    "x0 > 2 sd": "above_2",
    "seconds": "seconds",
    "warm-up seconds": "warm_up_seconds",
}
"""Heading -> metric of `measured`."""


def table(
    names: Iterable[str],
    workdir_fn: Callable[[str, int], str | pathlib.Path] | None,
    *,
    runs: str | pathlib.Path,
    data_dir: str | None,
    seeds: int,
) -> Iterator[Sequence]:
    """Rows of table 1: headings, then every sampler and seed on every named target.

    Of several seeds also mean and standard deviation. workdir_fn: (config, seed) ->
    directory of the trained proposal; None for the baselines alone. runs: where
    baselines that have been measured are kept; trained proposals keep theirs in their
    directory.
    """
    per_5000 = (
        "ESS (truncated) per 5000",
        "ESS (Geyer) per 5000",
        "ESS (truncated) per 5000, by the paper's moments",
    )
    yield "target", "sampler", *COLUMNS, *per_5000, "paper"
    for name in names:
        row = ROWS[name]
        target = row.target_fn(data_dir)
        for label in [*BASELINES, *([LEARNED] if workdir_fn else [])]:
            found = []
            for seed in range(seeds):
                num_updates = 0
                if label in BASELINES:
                    ready_fn, file = BASELINES[label], f"{name}-{label}-{seed}.json"
                    path = pathlib.Path(runs, "baselines", file)
                else:
                    workdir = workdir_fn(row.config, seed)
                    ready_fn = functools.partial(learned, workdir=workdir)
                    path = pathlib.Path(workdir, "table1.json")
                    steps = (record["step"] for record in metric_writer.read(workdir))
                    num_updates = max(steps, default=0)
                found.append(_kept(path, ready_fn, target, row, seed, num_updates))
                yield _cells(row, name, f"{label}, seed {seed}", found[-1:])
            if seeds > 1:
                yield _cells(row, name, f"{label}, mean of {seeds}", found)


def _cells(row, name, label, found) -> Sequence:
    """found: what was measured, of every seed."""
    pairs = {"per_5000": "ess_above", "geyer_per_5000": "ess_geyer"}
    pairs["published_per_5000"] = "ess_above_published"
    found = [
        each | {cell: 5000 * each[of] for cell, of in pairs.items() if of in each}
        for each in found
    ]
    values = []
    for metric in [*COLUMNS.values(), *pairs]:
        known = [each[metric] for each in found if metric in each]
        one = known[0] if known else "-"
        values.append(measure.over_seeds(known) if len(known) > 1 else one)
    return name, label, *values, row.published


def _kept(path, ready_fn, target, row, seed, num_updates) -> dict[str, float]:
    """What a sampler measures, now or formerly, where settings and training are those.

    ready_fn: (key, target=, settings=) -> Ready.
    """
    made_of = {"settings": row.settings._asdict(), "num_updates": num_updates}
    if path.exists():
        kept = json.loads(path.read_text())
        if kept.get("of") == made_of:
            return kept["found"]
    keys = jax.random.split(jax.random.key(seed))
    ready = ready_fn(keys[0], target=target, settings=row.settings)
    moments = row.published_moments
    found = measured(keys[1], ready, target, row.settings, published=moments)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"of": made_of, "found": found}) + "\n")
    return found


def measured(
    key: Key,
    ready: Ready,
    target: Target,
    settings: Settings,
    *,
    published: targets.Moments | None = None,
) -> dict[str, float]:
    """Draws and what they are worth: `chains.report`, acceptance, and seconds.

    `ess_above_per_gradient` is the unit of the paper's table 1. published: moments to
    take instead of the target's for `ess_above_published`. below_2, above_2:
    shares of x0 more than two known standard deviations from its mean (0.0228 each for
    a normal), where a funnel's mouth and neck are.
    """
    found, seconds = _timed(key, ready, settings.num_draws)
    x, infos = found.observations["x"], found.infos
    gradients = found.observations.get("num_gradients")
    per_draw = ready.gradients_per_draw or float(np.mean(gradients))
    moments = target.moments._asdict() if target.moments else {}
    found = mcmc.report(x, gradients_per_draw=per_draw, seconds=seconds, **moments)
    found["ess_above_per_gradient"] = found["ess_above"] / per_draw
    found |= {
        "acceptance": float(np.mean(infos["acceptance_rate"])),
        "divergent": float(np.mean(infos["is_divergent"])),
        "gradients_per_draw": per_draw,
        "seconds": seconds,
        "warm_up_seconds": ready.warm_up_seconds,
    }
    if published:
        paper = mcmc.Estimator("above", *published)
        found["ess_above_published"] = float(np.min(mcmc.efficiencies(x, paper)))
    if target.moments:
        mean, variance = (values[0] for values in target.moments)
        away = (x[..., 0] - mean) / np.sqrt(variance)
        found["below_2"] = float(np.mean(away < -2))
        found["above_2"] = float(np.mean(away > 2))
    return found


def _tuned(key, target, settings, kernel_fn, acceptance, gradients_per_draw) -> Ready:
    """kernel_fn: step_size -> Kernel; all chains share the step size."""
    start = time.perf_counter()
    keys = jax.random.split(key, 3)
    chain = draw.of_kernel(lambda params: kernel_fn(**params), _observed)
    starts = targets.starts(target, keys[0], settings.num_chains)
    states, step_size = draw.tuned(
        *(keys[1], chain, {"step_size": 1.0}),
        draw.start(chain, {"step_size": 1.0}, starts),
        num_steps=settings.warm_up,
        target_acceptance=acceptance,
        step_size=0.01,
    )
    fixed = kernel_fn(step_size=step_size)
    states = _fresh(keys[2], target, fixed, states)
    return Ready(fixed, states, gradients_per_draw, time.perf_counter() - start)


def _paths(key, target, settings, num_steps) -> Ready:
    def kernel_fn(step_size):
        def step(key, state):
            jitter_key, step_key = jax.random.split(key)
            factor = jax.random.uniform(
                jitter_key, minval=1 - JITTER, maxval=1 + JITTER
            )
            return hmc.hmc(
                target.log_density,
                step_size=factor * step_size,
                num_integration_steps=num_steps,
            ).step(step_key, state)

        init = hmc.hmc(target.log_density, step_size=step_size).init
        return kernel.Kernel(init, step)

    return _tuned(key, target, settings, kernel_fn, 0.8, num_steps)


def _fresh(key, target, fixed, states) -> PyTree:
    """Exact draws where they are to be had, else where the warm-up ended."""
    if target.sample is None:
        return states
    return jax.vmap(fixed.init)(target.sample(key, len(states.position)))


def _timed(key, ready, num_draws) -> tuple[draw.Draws, float]:
    """The draws of all chains, and their seconds without compilation."""
    chain = _chain(ready.kernel)
    per_call = math.gcd(num_draws, draw.STEPS_PER_CALL)
    run = functools.partial(
        *(draw.chains, key, chain, None, ready.states), steps_per_call=per_call
    )
    run(num_steps=per_call)  # Compiles.
    start = time.perf_counter()
    return run(num_steps=num_draws), time.perf_counter() - start


def _burnt(key, fixed, states, num_steps) -> PyTree:
    """States after steps of which nothing is recorded."""
    chain = _chain(fixed)
    return draw.chains(key, chain, None, states, num_steps=0, burn_in=num_steps).states


def _chain(fixed) -> draw.Chain:
    return draw.of_kernel(lambda params: fixed, _observed)


def _observed(params, state) -> dict[str, Array]:
    """The position, and varying numbers of gradients."""
    del params
    found = {"x": state.position}
    if hasattr(state, "num_gradients"):
        found["num_gradients"] = state.num_gradients
    return found
