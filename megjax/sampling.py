"""Samples of a trained model, refined by a Markov chain in latent or in data space.

Section 3.2 of Kumar et al. 2019 (MEG); any learner with an energy can be walked on.
"""

import functools
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import parallel, plotting
from megjax.evaluation import chains, density
from megjax.learners.learner import Learner
from megjax.samplers import adaptation, kernel, latent, mala
from megjax.types import Key, PyTree

SPACES = ("latent", "data", "none")
SHOWN_CHAINS = 64
TIMELINE_CHAINS = 12
CHAINS_PER_CALL = 1024
STEPS_PER_CALL = 500
INITIAL_STEP_SIZE = 0.1


class Landscape(NamedTuple):
    """exp(-beta E) of planar data on a square window.

    density: [size, size], the first coordinate first. extent: left, right, bottom, top.
    """

    density: np.ndarray
    extent: tuple[float, float, float, float]


class Walk(NamedTuple):
    """What chains did; T steps, arrays on the host.

    x: samples at the end [num, ...]; before: at the start.
    z: latents at the end [num, k], None outside latent space.
    snapshots: of the first chains at `times` [shown, len(times), ...].
    energy: after every step [num, T + 1], the start included.
    rms: root mean square of the position, likewise; about 1 for latents of the prior.
    acceptance_prob, accepted, finite: of every proposal [num, T].
    step_size: of the walk, NaN where there was none.
    landscape: for data in the plane.
    """

    x: np.ndarray
    before: np.ndarray
    z: np.ndarray | None
    snapshots: np.ndarray
    times: np.ndarray
    energy: np.ndarray
    rms: np.ndarray
    acceptance_prob: np.ndarray
    accepted: np.ndarray
    finite: np.ndarray
    step_size: float
    landscape: Landscape | None = None


class Target(NamedTuple):
    """What a chain samples, static under jit.

    kernel_fn: (log-density, *, step_size, has_aux) -> Kernel.
    """

    learner: Learner
    space: str
    prior: str
    kernel_fn: Callable


class Chains(NamedTuple):
    """A group of chains between compiled calls; key: of the group."""

    key: Key
    states: PyTree
    learner_state: PyTree
    inverse_temperature: float


def run(
    key: Key,
    learner: Learner,
    state: PyTree,
    *,
    space: str = "latent",
    num: int = 64,
    steps: int = 100,
    step_size: float | None = None,
    inverse_temperature: float = 1.0,
    prior: str = "gaussian",
    kernel_fn: Callable = mala.mala,
    target_acceptance: float | None = mala.TARGET_ACCEPTANCE,
    warmup: int = 60,
    num_snapshots: int = 21,
    mesh: jax.sharding.Mesh | None = None,
) -> Walk:
    """Draws `num` samples and walks each for `steps` Metropolis steps.

    space: "latent" walks on z, "data" on x itself, both from the learner's samples;
    "none" only draws them. kernel_fn: as in `Target`.
    step_size: by default tuned on `warmup` steps that are then thrown away, so that the
    walk starts at fresh samples with a fixed kernel. Latents without a prior are never
    tuned beyond 0.01, the paper's code: a bounded energy accepts any step, and the
    tuning would run away.
    target_acceptance: of the tuning; None for kernels without a step size (`trained`).
    prior, inverse_temperature: of the latent density, see `samplers.latent`. The
    default is the tilt p_G(x) exp(-E(x)), whose chains stay among the latents that the
    generator knows however long they walk; the paper's target ("none") leaves them
    after some hundred steps.
    mesh: chains are split over its devices, by default all.

    Raises ValueError at settings out of range or without a generator for
    space="latent", FloatingPointError where the energy of the starts is not finite.
    """
    _check(learner, space, num, steps, step_size, inverse_temperature)
    target = Target(learner, space, prior, kernel_fn)
    mesh = mesh or parallel.data_mesh()
    walks = []
    with jax.set_mesh(mesh):
        state = parallel.replicate(state, mesh)
        for i, first in enumerate(range(0, num, CHAINS_PER_CALL)):
            keys = jax.random.split(jax.random.fold_in(key, i))
            size = min(CHAINS_PER_CALL, num - first)
            started = _started(target, size, keys[0], state, inverse_temperature)
            group = Chains(keys[1], started, state, inverse_temperature)
            _check_start(started)
            if space == "none":
                steps, step_size = 0, math.nan
            elif target_acceptance is None:
                step_size = math.nan
            if step_size is None:
                step_size = _tuned(target, group, warmup, target_acceptance)
            times = np.unique(np.linspace(0, steps, num_snapshots).astype(int))
            walks.append(_walk(target, group, times, step_size))
        walk = _joined(walks)
        return walk._replace(
            landscape=_landscape(target, state, inverse_temperature, walk)
        )


def trained(learner: Learner, state: PyTree) -> Callable:
    """The `kernel_fn` of a proposal in the state of its training; no step size is left.

    Raises ValueError for methods that train no proposal.
    """
    if learner.kernel is None:
        raise ValueError(
            "this run has trained no proposal: name one that has with --proposal, or "
            "use --kernel=mala"
        )
    # On the host: that run may have been placed on other devices.
    state = jax.device_get(state)

    def kernel_fn(log_density_fn, *, step_size, has_aux):
        del step_size
        return learner.kernel(state, log_density_fn, has_aux=has_aux)

    return kernel_fn


def summary(walk: Walk) -> dict[str, float]:
    """Numbers of a walk: acceptance, energies, convergence, distance from the prior.

    R-hat and effective sample size are those of the energy over the last half of the
    steps. Quantities that do not apply are NaN.
    """
    late = walk.energy[:, walk.energy.shape[1] // 2 :]
    return {
        "num": len(walk.x),
        "steps": walk.energy.shape[1] - 1,
        "step_size": float(walk.step_size),
        **chains.acceptance(walk.acceptance_prob, walk.accepted, walk.finite),
        "energy_before": float(np.mean(walk.energy[:, 0])),
        "energy_after": float(np.mean(walk.energy[:, -1])),
        "energy_r_hat": chains.r_hat(late),
        "late_draws": late.size,
        "energy_effective_sample_size": chains.effective_sample_size(late),
        "rms_before": float(np.sqrt(np.mean(walk.rms[:, 0] ** 2))),
        "rms_after": float(np.sqrt(np.mean(walk.rms[:, -1] ** 2))),
    }


def warnings(walk: Walk) -> list[str]:
    """What a reader of the samples must know, one line each; empty when all is well."""
    found, lines = summary(walk), []
    if found["stuck"] > 0:
        lines.append(
            f"{found['stuck']:.0%} of the chains are stuck: no move accepted in the "
            "last half of the walk; lower --step_size or --inverse_temperature"
        )
    if found["acceptance"] < 0.1:
        lines.append(f"acceptance is only {found['acceptance']:.3f}: lower --step_size")
    if found["non_finite"] > 0:
        lines.append(
            f"{found['non_finite']:.1%} of the proposals had a NaN or infinite energy "
            "and were rejected; lower --step_size"
        )
    # Four standard errors of the root mean square of draws of the prior.
    slack = 0.1 if walk.z is None else max(0.1, 4 / math.sqrt(2 * walk.z.size))
    if walk.z is not None and abs(found["rms_after"] - 1) > slack:
        lines.append(
            f"latents have left the prior: rms(z) = {found['rms_after']:.2f} instead of "
            "1, where the generator was not trained; use --prior=gaussian, fewer "
            "--steps or a lower --inverse_temperature"
        )
    return lines


def write(walk: Walk, out: str | pathlib.Path) -> dict[str, Any]:
    """Writes arrays, pictures and report.json to a directory; returns the report.

    Images and planar data get pictures before and after, a timeline and an animation;
    every walk gets samples.npz and traces.png.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    arrays = {k: v for k, v in walk._asdict().items() if isinstance(v, np.ndarray)}
    np.savez_compressed(out / "samples.npz", **arrays)
    for name, picture in _pictures(walk).items():
        plotting.write_png(out / f"{name}.png", picture)
    frames = _frames(walk)
    if len(frames) > 1:
        plotting.write_gif(out / "walk.gif", frames)
    report = summary(walk) | {"warnings": warnings(walk)}
    report = {k: v if _is_json(v) else None for k, v in report.items()}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def lines(report: Mapping[str, Any]) -> list[str]:
    """A report as `write` returns it, in words for a terminal."""
    text = [f"energy        {report['energy_before']:.4g} at the start"]
    if report["steps"]:
        r_hat, size = report["energy_r_hat"], report["energy_effective_sample_size"]
        acceptance = f"{report['acceptance']:.3f}"
        lowest = f"{report['acceptance_lowest']:.3f}"
        change = f"{report['energy_before']:.4g} -> {report['energy_after']:.4g}"
        text = [
            f"step size     {_number(report['step_size'])}",
            f"acceptance    {acceptance}, lowest chain {lowest}",
            f"energy        {change} in {report['steps']} steps",
            f"rms           {report['rms_before']:.3f} -> {report['rms_after']:.3f}",
            f"R-hat         {_number(r_hat)} of the energy, last half of the steps",
            f"ESS           {_number(size)} of {report['late_draws']} draws, likewise",
        ]
    return text + [f"warning: {line}" for line in report["warnings"]]


def _number(value):
    return "undefined" if value is None else format(value, ".4g")


def _is_json(value):
    """JSON has neither NaN nor infinity: such quantities become null."""
    return not isinstance(value, float) or math.isfinite(value)


def _check(learner, space, num, steps, step_size, inverse_temperature):
    if space not in SPACES:
        raise ValueError(f"space={space!r}: choose one of {', '.join(SPACES)}.")
    if space == "latent" and (learner.latents is None or learner.generate is None):
        raise ValueError(
            "space='latent' needs a generator and this method has none: use "
            "space='data' or 'none'."
        )
    if num < 1 or steps < 1:
        raise ValueError(f"num={num}, steps={steps}: both must be at least 1.")
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size={step_size}: must be positive.")
    if not 0 <= inverse_temperature < math.inf:
        raise ValueError(
            f"inverse_temperature={inverse_temperature}: must be 0 or positive."
        )


def _check_start(states):
    bad = int(np.sum(~np.isfinite(np.asarray(states.aux))))
    if bad:
        raise FloatingPointError(
            f"the energy of {bad} of {len(states.aux)} starting samples is not finite: "
            "sample from an earlier checkpoint"
        )


def _log_density(target, state, inverse_temperature):
    """Position -> (log-density, energy), for one chain."""
    energy_fn = functools.partial(target.learner.energy, state)
    if target.space == "latent":
        prior = target.prior

        def position_energy_fn(z):
            return energy_fn(target.learner.generate(state, z))
    else:
        prior, position_energy_fn = "none", energy_fn
    return latent.log_density(
        position_energy_fn, inverse_temperature=inverse_temperature, prior=prior
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _started(target, num, key, state, inverse_temperature):
    """States of `num` chains at samples of the learner."""
    if target.space == "latent":
        positions = target.learner.latents(key, num)
    else:
        positions = target.learner.sample(key, state, num)
    if target.space == "none":
        return mala.State(
            positions, None, None, target.learner.energy(state, positions)
        )
    log_density = _log_density(target, state, inverse_temperature)
    fresh = target.kernel_fn(log_density, step_size=1.0, has_aux=True)
    return jax.vmap(fresh.init)(parallel.shard(positions))


def _tuned(target, group, warmup, target_acceptance) -> float:
    """The step size that reaches the target acceptance, from the group's start."""
    loose = target.space == "latent" and target.prior == "none"
    limit = 0.01 if loose else 1.0
    tuner = adaptation.tuner(min(INITIAL_STEP_SIZE, limit))
    for _, num_steps in _calls(0, warmup, _steps_per_call(target, group)):
        states, tuner = _warmed(
            target, num_steps, group, tuner, jnp.float32([limit, target_acceptance])
        )
        group = group._replace(states=states)
    return min(float(adaptation.step_size(tuner)), limit)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _warmed(target, num_steps, group, tuner, limit_and_target):
    """The states and the tuner after `num_steps` more steps of tuning."""
    limit, target_acceptance = limit_and_target
    log_density = _log_density(target, group.learner_state, group.inverse_temperature)
    return adaptation.warm_up(
        jax.random.split(jax.random.fold_in(group.key, 1), len(group.states.aux)),
        lambda a: target.kernel_fn(
            log_density, step_size=jnp.minimum(a, limit), has_aux=True
        ),
        group.states,
        tuner,
        num_steps,
        target_acceptance=target_acceptance,
        unroll=num_steps == 1,
    )


def _walk(target, group, times, step_size) -> Walk:
    """Walks a group from time 0 through all `times`."""
    start = group.states
    before = np.asarray(_data(target, group.learner_state, start.position))
    snapshots = [before[:SHOWN_CHAINS]]
    observations = [jax.tree.map(lambda v: v[:, None], jax.vmap(_observed)(start))]
    infos = []
    per_call = _steps_per_call(target, group)
    for first, last in itertools.pairwise(times):
        for begin, num_steps in _calls(first, last, per_call):
            states, record = _walked(target, num_steps, group, begin, step_size)
            group = group._replace(states=states)
            observations.append(record.observations)
            infos.append(record.infos)
        shown = group.states.position[:SHOWN_CHAINS]
        snapshots.append(np.asarray(_data(target, group.learner_state, shown)))
    position = group.states.position
    energy, rms = _concatenated(observations)
    nothing = np.zeros((len(before), 0), np.float32)
    infos = _concatenated(infos) if infos else kernel.Info(nothing, nothing, nothing)
    return Walk(
        x=np.asarray(_data(target, group.learner_state, position)),
        before=before,
        z=np.asarray(position) if target.space == "latent" else None,
        snapshots=np.stack(snapshots, axis=1),
        times=times,
        energy=energy,
        rms=rms,
        acceptance_prob=infos.acceptance_prob,
        accepted=infos.accepted,
        finite=infos.finite,
        step_size=step_size,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _walked(target, num_steps, group, begin, step_size):
    """The states after `num_steps` more steps, and the record [num, num_steps]."""
    log_density = _log_density(target, group.learner_state, group.inverse_temperature)
    fixed = target.kernel_fn(log_density, step_size=step_size, has_aux=True)
    run_one = functools.partial(
        kernel.chain,
        num_steps=num_steps,
        start=begin,
        unroll=num_steps == 1,
        observe=_observed,
    )
    keys = jax.random.split(jax.random.fold_in(group.key, 0), len(group.states.aux))
    return jax.vmap(lambda key, state: run_one(key, fixed, state))(keys, group.states)


@functools.partial(jax.jit, static_argnums=0)
def _data(target, state, positions):
    """x of positions: [N, ...] -> [N, ...]."""
    if target.space == "latent":
        return target.learner.generate(state, positions)
    return positions


def _observed(state):
    """Energy and root mean square position of one chain's state."""
    return state.aux, jnp.sqrt(jnp.mean(state.position**2))


def _steps_per_call(target, group) -> int:
    """How many steps to compile into one call.

    One for images on a CPU, whose convolutions are many times slower inside a loop.
    """
    shape = jax.eval_shape(
        functools.partial(_data, target), group.learner_state, group.states.position
    ).shape
    devices = group.states.position.sharding.device_set
    on_cpu = all(device.platform == "cpu" for device in devices)
    return 1 if on_cpu and len(shape) > 2 else STEPS_PER_CALL


def _calls(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, number of steps) of calls of at most `size` steps from first to last."""
    for begin in range(first, last, size):
        yield begin, min(size, last - begin)


def _concatenated(records):
    """Records [num, T_i] of consecutive calls as host arrays [num, T]."""
    return jax.tree.map(lambda *v: np.concatenate(v, axis=1), *jax.device_get(records))


def _joined(walks: list[Walk]) -> Walk:
    """Groups of chains as one walk; snapshots and settings are the first group's."""
    first = walks[0]
    arrays = ("x", "before", "energy", "rms", "acceptance_prob", "accepted", "finite")
    joined = {k: np.concatenate([getattr(w, k) for w in walks]) for k in arrays}
    if first.z is not None:
        joined["z"] = np.concatenate([w.z for w in walks])
    return first._replace(**joined)


def _landscape(target, state, inverse_temperature, walk) -> Landscape | None:
    """The density around planar samples."""
    if walk.x.shape[1:] != (2,):
        return None
    reach = np.quantile(np.abs(np.concatenate([walk.x, walk.before])), 0.995)
    grid = density.grid(size=200, extent=1.15 * max(float(reach), 1e-3))
    energy_fn = functools.partial(target.learner.energy, state)
    log_masses = density.cell_log_masses(
        density.grid_energies(energy_fn, grid), inverse_temperature
    )
    values = np.exp(np.asarray(log_masses) - grid.log_cell_area)
    window = (-grid.extent, grid.extent, -grid.extent, grid.extent)
    return Landscape(values.reshape(grid.size, grid.size), window)


def _pictures(walk: Walk) -> dict[str, np.ndarray]:
    """Name -> picture, as far as the data can be drawn."""
    moved = len(walk.times) > 1
    found = {}
    if moved:
        panels = {
            "energy": walk.energy,
            "acceptance": walk.acceptance_prob,
            "rms of z" if walk.z is not None else "rms of x": walk.rms,
        }
        found["traces"] = plotting.traces(panels)
    draw = _drawing(walk)
    if draw:
        found["after"] = draw(walk.x)
    if draw and moved:
        found |= {"before": draw(walk.before), "timeline": _timeline(walk)}
    return found


def _drawing(walk: Walk) -> Callable[[np.ndarray], np.ndarray] | None:
    """How to draw samples [N, ...] of this data; None for vectors of other lengths."""
    if walk.landscape:
        return functools.partial(plotting.scatter, **walk.landscape._asdict())
    if walk.x.ndim == 4:
        return lambda x: plotting.image_grid(x[:SHOWN_CHAINS])
    return None


def _timeline(walk: Walk) -> np.ndarray:
    if walk.landscape:
        paths = walk.snapshots[:TIMELINE_CHAINS]
        return plotting.scatter(walk.x, paths=paths, **walk.landscape._asdict())
    # At most 11 columns fit a page.
    every = math.ceil((len(walk.times) - 1) / 10)
    rows = walk.snapshots[:TIMELINE_CHAINS, ::every]
    return plotting.timeline(rows, walk.times[::every])


def _frames(walk: Walk) -> list[np.ndarray]:
    draw = _drawing(walk)
    if draw is None:
        return []
    return [draw(walk.snapshots[:, t]) for t in range(len(walk.times))]
