"""How each kind of kernel is made and warmed up for a density of one's own.

Adding a kernel that has a step size is one line in `METHODS`.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from megjax import distributed, errors
from megjax.learners.base import Learner
from megjax.metrics import mcmc
from megjax.samplers import (
    from_blackjax,
    gradient_adaptive,
    hmc,
    mala,
    preconditioner,
    rwm,
    smc,
    tempering,
    window_adaptation,
)
from megjax.samplers.kernel import Kernel
from megjax.sampling import learned
from megjax.types import Array, Key, LogDensityFn, PyTree

STEPS_PER_CALL = 100
"""Of the warm-up, in one compiled call."""

JITTER = 0.7
"""Of HMC's step sizes, in units of the one that is tuned."""

FEW_MOVES = 0.1
"""Steps in which particles moved, by all steps, below which they are warned of."""


class Method(NamedTuple):
    """How one kind of kernel is made, static under jit.

    kernel: (log-density, parameters) -> Kernel of flat positions [dim].
    warm_up: Task -> (parameters, states [chains, ...]); None where there is nothing to
        learn, and its steps are a burn-in.
    takes_target: whether its warm-up heeds target_acceptance and mass_matrix.
    position: (parameters, state) -> [dim], unbounded.
    step_size: parameters -> [], or None.
    target_acceptance: that its step size is tuned for by default; None without tuning.
    form: "flat" where positions become vectors, "array" where they stay the array that
        is their only leaf, "tree" where they stay as they are given.
    mixes: whether every chain has to explore all of the density.
    observe: state -> name -> array, recorded besides the position.
    report: (parameters, what was recorded and infos, name -> [chains, draws, ...]) ->
        (attributes of the draws, warnings).
    """

    kernel: Callable
    warm_up: Callable | None = None
    takes_target: bool = True
    position: Callable = lambda parameters, state: state.position
    step_size: Callable = lambda parameters: None
    target_acceptance: float | None = None
    form: str = "flat"
    mixes: bool = True
    observe: Callable = lambda state: {}
    report: Callable = lambda parameters, found: ({}, [])


class Task(NamedTuple):
    """A warm-up: key, log-density of flat positions, positions [chains, dim], ...

    num_draws: steps of every chain that come after it.
    """

    key: Key
    log_density_fn: LogDensityFn
    positions: Array
    num_steps: int
    target_acceptance: float | None
    dense: bool
    progress: bool
    num_draws: int = 0


def warmed(method: Method, task: Task, parameters: PyTree) -> tuple[PyTree, PyTree]:
    """(parameters, states [chains, ...]) after what there is to learn.

    Raises ValueError where the gradient of the density is not finite at a start.
    """
    if method.warm_up:
        return method.warm_up(task)
    states = _states(
        *(method.kernel, task.log_density_fn, task.key, parameters, task.positions)
    )
    _check_gradients(states)
    if method.form == "tree":
        _check_density(method, task, parameters, states)
    return parameters, states


def _check_density(method, task, parameters, states):
    """ValueError where a kernel that is ready has states of another density.

    Both are compared at the starts and beside them, up to a constant.
    """
    names = ("log_density", "logdensity")
    name = next((name for name in names if hasattr(states, name)), None)
    if name is None or isinstance(getattr(states, name), jax.core.Tracer):
        return
    beside = jax.tree.map(lambda x: x + 0.5, task.positions)
    others = _states(method.kernel, task.log_density_fn, task.key, parameters, beside)
    own = [getattr(states, name), getattr(others, name)]
    given = [_log_densities(task.log_density_fn, x) for x in (task.positions, beside)]
    differences = np.float64(own) - np.float64(given)
    finite = differences[np.isfinite(differences)]
    scale = 1 + np.max(np.abs(np.float64(given)), where=np.isfinite(given), initial=0)
    if finite.size and np.ptp(finite) > 1e-3 * scale:
        raise ValueError(
            "kernel is ready for another density than log_density_fn (their difference "
            f"varies by {np.ptp(finite):.3g} around init): give that density, or a "
            "kernel builder."
        )


@functools.partial(jax.jit, static_argnums=0)
def _log_densities(log_density_fn, positions):
    return jax.vmap(log_density_fn)(positions)


def _check_gradients(states) -> None:
    """ValueError where the gradients that states have are not finite."""
    for name in ("gradient", "logdensity_grad"):
        gradients = jax.tree.leaves(getattr(states, name, None))
        # Under jax.eval_shape there are no numbers yet.
        if any(isinstance(leaf, jax.core.Tracer) for leaf in gradients):
            return
        finite = [
            np.isfinite(np.asarray(leaf, np.float64).reshape(len(leaf), -1)).all(1)
            for leaf in gradients
        ]
        if finite and (bad := int(np.sum(~np.all(finite, axis=0)))):
            raise ValueError(
                f"the gradient of log_density_fn is not finite at the start of {bad} of "
                f"{len(finite[0])} chains: start elsewhere, and keep sqrt, log and "
                "division at 0 out of both branches of jnp.where"
            )


def find(kernel: Any) -> tuple[Method, PyTree]:
    """(how a kernel is made, parameters that it brings along)."""
    if isinstance(kernel, str):
        if kernel not in METHODS:
            raise ValueError(
                f"kernel={kernel!r}: choose one of {', '.join(METHODS)}, or give a "
                "kernel builder, a Kernel, a blackjax algorithm or a Model."
            )
        return METHODS[kernel], ()
    if isinstance(kernel, tempering.Spec):
        return _tempered(tempering.checked(kernel)), ()
    if isinstance(kernel, smc.Spec):
        return _particles(smc.checked(kernel)), ()
    if isinstance(kernel, learned.Spec):
        return _in_training(learned.checked(kernel)), ()
    learner, state = _trained(kernel)
    if learner is not None:
        return _learned(learner), state
    if callable(getattr(kernel, "init", None)) and callable(
        getattr(kernel, "step", None)
    ):
        return _ready(kernel), ()
    if callable(kernel):
        _check_builder(kernel)
        return _built(kernel), ()
    raise ValueError(
        f"kernel is {errors.kind(kernel)}: give a name, a kernel builder, a Kernel, "
        "a blackjax algorithm or a Model."
    )


def _trained(kernel):
    """(learner, state) of a trained proposal, or (None, None)."""
    if type(kernel) is tuple and len(kernel) == 2 and isinstance(kernel[0], Learner):
        learner, state = kernel
    else:
        learner, state = (getattr(kernel, name, None) for name in ("learner", "state"))
    if learner is None:
        return None, None
    if learner.kernel is None:
        raise ValueError(
            "kernel is a trained model without a proposal: give one that has, or a name."
        )
    # On the host: it may have been placed on other devices.
    return learner, jax.device_get(state)


@functools.lru_cache(maxsize=32)
def _learned(learner) -> Method:
    """A trained proposal; its weights are parameters, not constants of the program."""

    def kernel(log_density_fn, state):
        return from_blackjax.from_algorithm(learner.kernel(state, log_density_fn))

    return Method(kernel, takes_target=False, form="array")


@functools.lru_cache(maxsize=32)
def _ready(algorithm) -> Method:
    """A Kernel or a blackjax algorithm that brings its density along."""
    fixed = from_blackjax.from_algorithm(algorithm)

    def kernel(log_density_fn, parameters):
        del log_density_fn, parameters
        return fixed

    return Method(kernel, takes_target=False, form="tree")


def _unwrapped(kernel_fn):
    """(the function of a partial, the keywords that it is given)."""
    plain, given = kernel_fn, {}
    while isinstance(plain, functools.partial):
        given = plain.keywords | given
        plain = plain.func
    return plain, given


def _is_tuned(kernel_fn) -> bool:
    plain, given = _unwrapped(kernel_fn)
    return "step_size" in inspect.signature(plain).parameters and (
        "step_size" not in given
    )


def _check_builder(kernel_fn):
    """ValueError where a kernel builder cannot be called as one."""
    plain, _ = _unwrapped(kernel_fn)
    name = getattr(plain, "__name__", type(plain).__name__)
    if hasattr(plain, "build_kernel"):
        module = plain.build_kernel.__module__.rpartition(".")[2]
        raise ValueError(
            f"kernel is blackjax's {module} without its density: give "
            f"blackjax.{module}(log_density_fn, ...), or lambda log_density_fn, *, "
            f"step_size: blackjax.{module}(log_density_fn, step_size, ...)."
        )
    try:
        given = {"step_size": 1.0} if _is_tuned(kernel_fn) else {}
        inspect.signature(kernel_fn).bind(None, **given)
        hash(kernel_fn)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"kernel {name} is no kernel builder ({error}): give (log_density_fn) -> "
            "Kernel, with `*, step_size` where that is to be tuned; functools.partial "
            "fills in other arguments."
        ) from error


@functools.lru_cache(maxsize=32)
def _built(kernel_fn) -> Method:
    """A builder: tuned where it takes a step size that is not given yet."""
    if _is_tuned(kernel_fn):
        plain, _ = _unwrapped(kernel_fn)
        target_acceptance = TARGETS.get(plain, from_blackjax.TARGET_ACCEPTANCE)

        def tuned(log_density_fn, *, step_size):
            found = kernel_fn(log_density_fn, step_size=step_size)
            # An algorithm of blackjax has infos that cannot be averaged.
            step = from_blackjax.from_algorithm(found).step
            return Kernel(found.init, step)

        return _windowed(kernel_fn if plain in TARGETS else tuned, target_acceptance)

    def kernel(log_density_fn, parameters):
        del parameters
        return from_blackjax.from_algorithm(kernel_fn(log_density_fn))

    return Method(kernel, takes_target=False)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _states(kernel_fn, log_density_fn, key, parameters, positions):
    init = kernel_fn(log_density_fn, parameters).init
    num_chains = len(jax.tree.leaves(positions)[0])
    positions = jax.tree.map(distributed.shard, positions)
    return jax.vmap(init)(positions, jax.random.split(key, num_chains))


def _windowed(kernel_fn, target_acceptance) -> Method:
    """A kernel with a step size, and windows of warm-up."""

    def kernel(log_density_fn, parameters):
        return window_adaptation.kernel(log_density_fn, kernel_fn, parameters)

    def position(parameters, state):
        return preconditioner.scaled(parameters.factor, state.position)

    return Method(
        kernel,
        functools.partial(_windows, kernel_fn, target_acceptance),
        position=position,
        step_size=lambda parameters: parameters.step_size,
        target_acceptance=target_acceptance,
    )


def _windows(kernel_fn, target_acceptance, task):
    """The warm-up of `_windowed`."""
    states, adapted = _adapted(window_adaptation, kernel_fn, target_acceptance, task)
    return window_adaptation.parameters(adapted), states


def _adapted(adaptation, settings, target_acceptance, task):
    """(states, what was learned) of a module's `begin` and `advance` in windows.

    settings: a kernel builder or a Spec, hashable, that both take.
    """
    fixed = (adaptation, task.log_density_fn, settings)
    states, adapted = _windows_begun(*fixed, task.dense, task.positions)
    _check_gradients(getattr(states, "replicas", states))
    windows = window_adaptation.schedule(task.num_steps)
    target = np.float32(task.target_acceptance or target_acceptance)
    for steps in _pieces(task):
        states, adapted = _windows_advanced(
            *fixed, task.key, states, adapted, steps, windows, target
        )
    return states, adapted


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _windows_begun(adaptation, log_density_fn, settings, dense, positions):
    positions = distributed.shard(positions)
    return adaptation.begin(log_density_fn, settings, positions, dense=dense)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def _windows_advanced(
    adaptation, log_density_fn, settings, key, states, adapted, *rest
):
    return adaptation.advance(key, log_density_fn, settings, states, adapted, *rest)


def _pieces(task):
    """(first step, last step + 1) of every compiled call, with a bar."""
    bar = tqdm.tqdm(
        total=task.num_steps,
        desc="warm-up",
        disable=not (task.progress and sys.stderr.isatty()),
        dynamic_ncols=True,
        delay=5,
    )
    with bar:
        for first in range(0, task.num_steps, STEPS_PER_CALL):
            last = min(first + STEPS_PER_CALL, task.num_steps)
            yield np.int32(first), np.int32(last)
            bar.update(last - first)


def _gradient_adaptive(task):
    """The warm-up of "gradient_adaptive": its preconditioner is all it learns."""
    _check_gradients(_begun(task.log_density_fn, task.positions))
    settings = (task.dense, task.num_steps)
    target = float(task.target_acceptance or gradient_adaptive.TARGET_ACCEPTANCE)
    return _gradient_adapted(*task[:2], *settings, task.positions, target)


@functools.partial(jax.jit, static_argnums=0)
def _begun(log_density_fn, positions):
    """States of MALA at positions [chains, dim]."""
    return jax.vmap(mala.mala(log_density_fn, step_size=1.0).init)(positions)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _gradient_adapted(key, log_density_fn, dense, num_steps, positions, target):
    init = mala.mala(log_density_fn, step_size=1.0).init
    num_chains, dim = positions.shape
    states, adapted = gradient_adaptive.warm_up(
        jax.random.split(key, num_chains),
        log_density_fn,
        jax.vmap(init)(distributed.shard(positions)),
        gradient_adaptive.adaptation(dim, dense=dense),
        num_steps,
        target_acceptance=target,
    )
    return gradient_adaptive.factor(adapted.shape), states


def _gradient_adaptive_kernel(log_density_fn, factor):
    size = gradient_adaptive.STEP_SIZE
    return mala.mala(log_density_fn, step_size=size, factor=factor)


def _mclmc(task):
    """blackjax's warm-up of "mclmc"."""
    if task.num_steps < 100 or task.positions.shape[1] < 2:
        raise ValueError(
            f"num_warmup={task.num_steps}, {task.positions.shape[1]} dimensions: mclmc "
            "is tuned in 100 steps or more, and has 2 dimensions or more."
        )
    _check_gradients(_begun(task.log_density_fn, task.positions))
    states, found = _mclmc_tuned(*task[:2], task.num_steps, task.positions)
    return found, states


@functools.partial(jax.jit, static_argnums=(1, 2))
def _mclmc_tuned(key, log_density_fn, num_steps, positions):
    return from_blackjax.mclmc_warm_up(
        key, log_density_fn, distributed.shard(positions), num_steps
    )


@functools.lru_cache(maxsize=32)
def _tempered(spec: tempering.Spec) -> Method:
    """Parallel tempering, with windows of warm-up."""

    def kernel(log_density_fn, parameters):
        return tempering.tempering(
            log_density_fn,
            **parameters._asdict(),
            reference=spec.reference,
            kernel_fn=spec.kernel_fn,
            num_steps=spec.num_steps,
        )

    def observe(state):
        return {"log_weights": tempering.log_weights(state.replicas.aux)}

    return Method(
        kernel,
        functools.partial(_replicas, spec),
        step_size=lambda parameters: parameters.step_sizes[0],
        observe=observe,
        report=functools.partial(_tempering_report, spec),
    )


def _replicas(spec, task):
    """The warm-up of `_tempered`."""
    target_acceptance = _target(spec.kernel_fn)
    states, adapted = _adapted(tempering, spec, target_acceptance, task)
    return tempering.parameters(adapted), states


def _tempering_report(spec, parameters, found):
    """The ladder, what its pairs accept, round trips and, with a reference, log Z."""
    betas = np.float64(parameters.inverse_temperatures)
    weights = np.float64(found["log_weights"])
    with np.errstate(invalid="ignore", over="ignore"):
        ratios = np.exp(np.minimum(tempering.swap_log_ratios(betas, weights), 0))
    rates = np.mean(ratios, axis=(0, 1))
    barrier = float(np.sum(1 - rates))
    attributes = {
        "inverse_temperatures": betas.tolist(),
        "swap_rates": rates.tolist(),
        "barrier": barrier,
    }
    if spec.reference:
        log_z, added = tempering.log_normaliser(betas, weights)
        size = mcmc.effective_sample_size(added)
        attributes["log_z"] = log_z
        attributes["log_z_error"] = float(np.std(added) / np.sqrt(size))
    words = []
    if not np.any(found["round_trips"]):
        words.append(
            f"no replica came back from the hot end (barrier {barrier:.1f} with "
            f"{len(betas)} replicas): modes may be missing; raise num_warmup and "
            f"num_samples, or num_replicas of tempering.Spec to {2 * barrier + 2:.0f}"
        )
    return attributes, words


@functools.lru_cache(maxsize=32)
def _particles(spec: smc.Spec) -> Method:
    """Sequential Monte Carlo for a warm-up, whose particles are the chains."""

    def kernel(log_density_fn, parameters):
        return spec.kernel_fn(
            log_density_fn, step_size=parameters.step_size, factor=parameters.factor
        )

    return Method(
        kernel,
        functools.partial(_particles_warmed, spec),
        step_size=lambda parameters: parameters.step_size,
        mixes=False,
        report=_smc_report,
    )


def _particles_warmed(spec, task):
    """The warm-up of `_particles`."""
    settings = (spec, task.dense, task.num_steps)
    target = np.float32(task.target_acceptance or _target(spec.kernel_fn))
    return _particles_moved(*task[:2], settings, task.positions, target)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _particles_moved(key, log_density_fn, settings, positions, target):
    spec, dense, num_steps = settings
    positions = distributed.shard(positions)
    return smc.warm_up(
        key,
        log_density_fn,
        spec,
        positions,
        num_steps=num_steps,
        target_acceptance=target,
        dense=dense,
    )


def _smc_report(parameters, found):
    """log Z, its error where that is known, and the numbers of temperatures and lines."""
    log_z, reached, error, lines = (
        float(getattr(parameters, name))
        for name in ("log_z", "inverse_temperature", "log_z_error", "num_lines")
    )
    words = _smc_warnings(log_z, reached, lines, found)
    log_z = log_z if reached >= 1 else float("nan")
    is_known = np.isfinite(log_z) and lines >= smc.FEW_LINES
    attributes = {
        "log_z": log_z,
        "log_z_error": error if is_known else float("nan"),
        "num_temperatures": int(parameters.num_temperatures),
        "num_lines": lines,
    }
    return attributes, words


def _smc_warnings(log_z, reached, lines, found) -> list[str]:
    """A line each for particles that stopped, no log Z, few lines, few moves."""
    words, moves = [], _moves(found)
    if not reached >= 1:
        words.append(
            f"the particles came to inverse temperature {reached:.2g} of 1 only: the "
            "draws before their burn-in are not of the density; raise num_warmup"
        )
    elif not np.isfinite(log_z):
        words.append(
            f"log Z of smc is {log_z}: look for NaN and infinite values of the density, "
            "or give smc.Spec(reference=...) with draws in its support"
        )
    if lines < smc.FEW_LINES:
        words.append(
            f"all {len(found['lp'])} particles descend from {lines:.1f} of the first, as "
            "an effective number: modes may be missing, and the error of log Z is not "
            "known; give more chains"
        )
    if moves < FEW_MOVES:
        words.append(
            f"the particles moved in {moves:.0%} of the steps between draws: these are "
            "copies of few; give more chains, raise num_warmup, or reparameterise"
        )
    return words


def _moves(found) -> float:
    """Share of the pairs of successive draws that differ; NaN of one draw each."""
    variables = [v for k, v in found.items() if k.startswith("posterior.")]
    changed = [np.diff(v, axis=1) != 0 for v in map(np.asarray, variables)]
    changed = [c.reshape(*c.shape[:2], -1).any(axis=2) for c in changed]
    moved = np.any(changed, axis=0)
    return float(np.mean(moved)) if moved.size else float("nan")


@functools.lru_cache(maxsize=32)
def _in_training(spec: learned.Spec) -> Method:
    """A proposal that is trained before the draws, or NUTS."""
    no_u_turn = (from_blackjax.nuts, from_blackjax.TARGET_ACCEPTANCE)
    return Method(
        functools.partial(learned.kernel, spec),
        functools.partial(
            learned.warm_up, spec, functools.partial(_windows, *no_u_turn)
        ),
        report=learned.report,
    )


def _target(kernel_fn):
    """The acceptance to tune a builder for."""
    while isinstance(kernel_fn, functools.partial):
        kernel_fn = kernel_fn.func
    return TARGETS.get(kernel_fn, from_blackjax.TARGET_ACCEPTANCE)


TARGETS = {
    from_blackjax.nuts: from_blackjax.TARGET_ACCEPTANCE,
    hmc.hmc: from_blackjax.TARGET_ACCEPTANCE,
    mala.mala: mala.TARGET_ACCEPTANCE,
    rwm.rwm: rwm.TARGET_ACCEPTANCE,
}
"""Kernel builder -> acceptance to tune for."""

METHODS = {
    "nuts": _windowed(from_blackjax.nuts, from_blackjax.TARGET_ACCEPTANCE),
    "mclmc": Method(
        from_blackjax.mclmc,
        _mclmc,
        takes_target=False,
        step_size=lambda found: found.step_size,
    ),
    "hmc": _windowed(
        functools.partial(hmc.hmc, jitter=JITTER), from_blackjax.TARGET_ACCEPTANCE
    ),
    "mala": _windowed(mala.mala, mala.TARGET_ACCEPTANCE),
    "rwm": _windowed(rwm.rwm, rwm.TARGET_ACCEPTANCE),
    "gradient_adaptive": Method(
        _gradient_adaptive_kernel,
        _gradient_adaptive,
        step_size=lambda _: gradient_adaptive.STEP_SIZE,
    ),
    "tempering": _tempered(tempering.Spec()),
    "smc": _particles(smc.Spec()),
    "learned": _in_training(learned.Spec()),
}
