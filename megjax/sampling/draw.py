"""Samples of a trained model, refined by a Markov chain in latent or in data space.

Section 3.2 of Kumar et al. 2019 (MEG); any learner with an energy can be walked on.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import distributed
from megjax.learners.base import Learner
from megjax.metrics import grid_density
from megjax.samplers import adaptation, bijectors, kernel, latent, mala
from megjax.sampling import plan as plans
from megjax.sampling import store, trace
from megjax.types import Key, PyTree

SPACES = ("latent", "data", "none")
CHAINS_PER_CALL = 1024
STEPS_PER_CALL = 500
INITIAL_STEP_SIZE = 0.1


class Target(NamedTuple):
    """What a chain samples, static under jit.

    kernel_fn: (log-density, *, step_size, has_aux) -> Kernel.
    """

    learner: Learner
    space: str
    prior: str
    kernel_fn: Callable


class RunPlan(NamedTuple):
    """What is walked on, when it is recorded, and where that is kept.

    per_call: steps to compile into one call.
    """

    target: Target
    plan: plans.Plan
    kept: store.TraceStore
    per_call: int = 1


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
    burn_in: int = 0,
    thin: int | None = None,
    step_size: float | None = None,
    inverse_temperature: float = 1.0,
    prior: str = "gaussian",
    kernel_fn: Callable = mala.mala,
    target_acceptance: float | None = mala.TARGET_ACCEPTANCE,
    warmup: int = 60,
    num_snapshots: int = 21,
    mesh: jax.sharding.Mesh | None = None,
    kept: store.TraceStore | None = None,
) -> trace.Trace:
    """Draws `num` samples and walks each for `steps` Metropolis steps.

    space: "latent" walks on z, "data" on x itself, both from the learner's samples;
    "none" only draws them. kernel_fn: as in `Target`; chains on x move in the learner's
    coordinates, where it has any.
    burn_in: steps walked before that and thrown away. thin: of how many steps a record
    is made, by default the smallest that makes at most 10,000 of them.
    step_size: by default tuned on `warmup` steps that are then thrown away, so that the
    walk starts at fresh samples with a fixed kernel. Latents without a prior are never
    tuned beyond 0.01, the paper's code: a bounded energy accepts any step, and the
    tuning would run away.
    target_acceptance: of the tuning; None for kernels without a step size (`trained`).
    prior, inverse_temperature: of the latent density, see `samplers.latent`. The
    default is the tilt p_G(x) exp(-E(x)), whose chains stay among the latents that the
    generator knows however long they walk; the paper's target ("none") leaves them
    after some hundred steps.
    mesh: chains are split over its devices, by default all of this process.
    kept: where the walk is kept on disk while it lasts, and goes on from.

    Raises ValueError at settings out of range or without a generator for
    space="latent", FloatingPointError where the energy of the starts is not finite;
    journal.Stopped, and ValueError and OSError of `journal`, where it is kept.
    """
    _check(learner, space, num, step_size, inverse_temperature)
    _check_steps(num, steps, burn_in, thin)
    kept = kept or store.TraceStore()
    if space == "none":
        if kept.draws:
            raise ValueError("draws are those of a walk: use space='latent' or 'data'.")
        steps, burn_in, thin, step_size, kept = 0, 0, 1, math.nan, store.TraceStore()
    settings = {
        "seed": _integer(key),
        "space": space,
        "num": num,
        "steps": steps,
        "burn_in": burn_in,
        "thin": thin,
        "step_size": step_size,
        "inverse_temperature": inverse_temperature,
        "prior": prior,
        "target_acceptance": target_acceptance,
        "warmup": warmup,
        "keep_draws": kept.draws,
        "chains_per_call": CHAINS_PER_CALL,
    }
    total = -(-num // CHAINS_PER_CALL) * (burn_in + steps)
    plan = plans.plan(
        steps,
        kept.claim(settings, total, plans.default_thin(steps)),
        burn_in=burn_in,
        num_snapshots=num_snapshots,
        draws=kept.draws,
    )
    if target_acceptance is None:
        step_size = math.nan
    elif space == "data" and learner.bijector:
        kernel_fn = _within(learner.bijector, kernel_fn)
    run_plan = RunPlan(Target(learner, space, prior, kernel_fn), plan, kept)
    mesh = mesh or distributed.data_mesh(jax.local_devices())
    with jax.set_mesh(mesh):
        whole = Chains(
            key, None, distributed.replicate(state, mesh), inverse_temperature
        )
        walk = _joined(
            list(_walks(run_plan, whole, num, step_size, (warmup, target_acceptance)))
        )
        return walk._replace(landscape=_landscape(run_plan.target, whole, walk))


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


def _within(bounds, kernel_fn):
    """The `kernel_fn` whose chains move in coordinates; `trained` ones do by themselves."""

    def walked(log_density_fn, *, step_size, has_aux):
        inner = functools.partial(kernel_fn, step_size=step_size)
        return bijectors.walked(inner, log_density_fn, bounds, has_aux=has_aux)

    return walked


def _check(learner, space, num, step_size, inverse_temperature):
    if space not in SPACES:
        raise ValueError(f"space={space!r}: choose one of {', '.join(SPACES)}.")
    if space == "latent" and (learner.latents is None or learner.generate is None):
        raise ValueError(
            "space='latent' needs a generator and this method has none: use "
            "space='data' or 'none'."
        )
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size={step_size}: must be positive.")
    if not 0 <= inverse_temperature < math.inf:
        raise ValueError(
            f"inverse_temperature={inverse_temperature}: must be 0 or positive."
        )


def _check_steps(num, steps, burn_in, thin):
    if num < 1 or steps < 1:
        raise ValueError(f"num={num}, steps={steps}: both must be at least 1.")
    if burn_in < 0:
        raise ValueError(f"burn_in={burn_in}: must be 0 or positive.")
    if thin is not None and not 1 <= thin <= steps:
        raise ValueError(f"thin={thin}: must be between 1 and steps={steps}.")
    # Steps are counted in 32 bits on devices.
    if max(burn_in + steps, num) >= 2**31:
        raise ValueError(
            f"num={num}, steps={steps}, burn_in={burn_in}: want fewer than 2^31."
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
    return jax.vmap(fresh.init)(distributed.shard(positions))


def _tuned(run_plan, group, warmup, target_acceptance) -> float:
    """The step size that reaches the target acceptance, from the group's start."""
    target, per_call = run_plan.target, run_plan.per_call
    loose = target.space == "latent" and target.prior == "none"
    limit = 0.01 if loose else 1.0
    tuner = adaptation.tuner(min(INITIAL_STEP_SIZE, limit))
    for first in range(0, warmup, per_call):
        num_steps = min(per_call, warmup - first)
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


def _walks(run_plan, whole, num, step_size, tuning) -> Iterator[trace.Trace]:
    """The walks of all groups; the first one's step size is everyone's.

    whole: the chains of all groups, without states.
    """
    for i, first in enumerate(range(0, num, CHAINS_PER_CALL)):
        keys = jax.random.split(jax.random.fold_in(whole.key, i))
        start_fn = functools.partial(
            *(_started, run_plan.target, min(CHAINS_PER_CALL, num - first), keys[0]),
            *(whole.learner_state, whole.inverse_temperature),
        )
        like = jax.eval_shape(start_fn)
        per_call = _steps_per_call(run_plan.target, whole.learner_state, like.position)
        run_plan = run_plan._replace(per_call=per_call)
        group = whole._replace(key=keys[1], states=like)
        group, step_size = _begun(run_plan, i, group, start_fn, step_size, tuning)
        yield _walk(run_plan, i, group, step_size)


def _begun(run_plan, index, group, start_fn, step_size, tuning):
    """(a group at the end of its burn-in, the step size): walked, or from disk.

    group: with the form of its states in place of them.
    """
    plan, kept = run_plan.plan, run_plan.kept
    found = kept.chunk(index, store.START)
    draft = found or kept.draft(index, store.START, 0)
    if draft:
        group = _restored(group, draft)
        step_size, begin = float(draft.arrays["step_size"]), draft.end
        kept.progress.skip(plan.burn_in + begin)
    else:
        group = group._replace(states=start_fn())
        _check_start(group.states)
        step_size = _tuned(run_plan, group, *tuning) if step_size is None else step_size
        begin = -plan.burn_in
    if not found:
        place = store.Chunk(index, store.START, 0, {})
        record = plans.Record(plan, begin)
        group = _advanced(run_plan, place, record, group, step_size)
        kept.add(place._replace(arrays=_arrays(record, group, step_size)))
    return group, step_size


def _walk(run_plan, index, group, step_size) -> trace.Trace:
    """Walks a group from the end of its burn-in through all steps."""
    target, plan = run_plan.target, run_plan.plan
    before = np.asarray(_data(target, group.learner_state, group.states.position))
    energy, rms = jax.device_get(jax.vmap(_observed)(group.states))
    records = {k: [np.zeros((len(before), 0), np.float32)] for k in plans.RECORDED}
    records |= {"energy": [energy[:, None]], "rms": [rms[:, None]]}
    times, snapshots, begin = [0], [before[: trace.SHOWN_CHAINS]], 0
    while begin < plan.steps:
        group, chunk = _chunk(run_plan, index, group, step_size, begin)
        begin = chunk.end
        for name, values in records.items():
            values.append(chunk.arrays[name])
        if "snapshot" in chunk.arrays:
            times.append(begin)
            snapshots.append(chunk.arrays["snapshot"])
    position = group.states.position
    return trace.Trace(
        x=np.asarray(_data(target, group.learner_state, position)),
        before=before,
        z=np.asarray(position) if target.space == "latent" else None,
        snapshots=np.stack(snapshots, axis=1),
        times=np.array(times),
        step_size=step_size,
        burn_in=plan.burn_in,
        thin=plan.thin,
        inverse_temperature=group.inverse_temperature,
        **{name: np.concatenate(v, axis=1) for name, v in records.items()},
    )


def _chunk(run_plan, index, group, step_size, begin) -> tuple[Chains, store.Chunk]:
    """(the group at its end, the chunk that begins there): from disk, or walked."""
    target, plan, kept, _ = run_plan
    if stored := kept.chunk(index, begin):
        kept.progress.skip(stored.end - begin)
        return _restored(group, stored), stored
    # Where a damaged one ended, those after it are still of use.
    end = kept.end(index, begin) or plans.chunk_end(plan, begin, group.states.position)
    place, record = store.Chunk(index, begin, end, {}), plans.Record(plan, begin)
    if draft := kept.draft(index, begin, end):
        kept.progress.skip(draft.end - begin)
        group = _restored(group, draft)
        record = plans.Record(plan, draft.end, draft.arrays)
    group = _advanced(run_plan, place, record, group, step_size)
    arrays = _arrays(record, group, step_size)
    if index == 0 and end in plan.times:
        shown = group.states.position[: trace.SHOWN_CHAINS]
        arrays["snapshot"] = np.asarray(_data(target, group.learner_state, shown))
    chunk = place._replace(arrays=arrays)
    kept.add(chunk)
    return group, chunk


def _advanced(run_plan, place, record, group, step_size) -> Chains:
    """The group at the end of a chunk, recorded, and told to the journal as it goes."""
    target, plan, kept, per_call = run_plan
    for begin, call in plans.calls(plan, record.end, place.end, per_call):
        states, trajectory = _walked(
            target, call, group, plan.burn_in + begin, step_size
        )
        group = group._replace(states=states)
        record.add(call, trajectory)
        draft = functools.partial(_draft, place, record, group, step_size)
        kept.advance(call.num_steps, draft)
    return group


def _draft(place, record, group, step_size) -> store.Chunk:
    """A chunk as far as it has come."""
    arrays = _arrays(record, group, step_size)
    return place._replace(end=record.end, arrays=arrays)


def _arrays(record, group, step_size) -> dict:
    """All that it takes to go on: the record, the states and the step size."""
    leaves = enumerate(jax.tree.leaves(group.states))
    states = {f"state_{i}": leaf for i, leaf in leaves}
    return record.arrays() | states | {"step_size": np.float64(step_size)}


def _restored(group, chunk) -> Chains:
    """The group at the end of a chunk from disk; it has states of the same form."""
    leaves, treedef = jax.tree.flatten(group.states)
    # Types that NumPy does not know come back as bytes.
    states = [
        chunk.arrays[f"state_{i}"].view(leaf.dtype) for i, leaf in enumerate(leaves)
    ]
    return group._replace(states=_placed(jax.tree.unflatten(treedef, states)))


@jax.jit
def _placed(states):
    """States of chains, split over the devices as `_started` does."""
    return jax.tree.map(distributed.shard, states)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _walked(target, call, group, begin, step_size):
    """The states after a call, and the record [num, windows]."""
    log_density = _log_density(target, group.learner_state, group.inverse_temperature)
    fixed = target.kernel_fn(log_density, step_size=step_size, has_aux=True)
    run_one = functools.partial(
        kernel.chain,
        num_steps=call.num_steps,
        start=begin,
        thin=call.thin,
        unroll=call.num_steps == 1,
        observe=_drawn if call.draws else _observed,
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


def _drawn(state):
    """What is observed where draws are kept."""
    return (*_observed(state), state.position)


def _integer(key) -> int:
    """The words of a key as one number; of `jax.random.key(seed)` the seed."""
    words = np.asarray(jax.random.key_data(key)).tolist()
    return functools.reduce(lambda high, low: high << 32 | low, words)


def _steps_per_call(target, state, positions) -> int:
    """How many steps to compile into one call.

    One for images on a CPU, whose convolutions are many times slower inside a loop.
    """
    data_fn = functools.partial(_data, target)
    shape = jax.eval_shape(data_fn, state, positions).shape
    devices = jax.sharding.get_mesh().devices.flat
    on_cpu = all(device.platform == "cpu" for device in devices)
    return 1 if on_cpu and len(shape) > 2 else STEPS_PER_CALL


def _joined(found: list[trace.Trace]) -> trace.Trace:
    """Groups of chains as one walk; snapshots and settings are the first group's."""
    first = found[0]
    if len(found) == 1:
        return first
    arrays = (
        "x",
        "before",
        "energy",
        "rms",
        "acceptance_rate",
        "is_accepted",
        "is_divergent",
    )
    joined = {k: np.concatenate([getattr(w, k) for w in found]) for k in arrays}
    if first.z is not None:
        joined["z"] = np.concatenate([w.z for w in found])
    return first._replace(**joined)


def _landscape(target, whole, walk) -> trace.Landscape | None:
    """The density around planar samples."""
    if walk.x.shape[1:] != (2,):
        return None
    reach = np.quantile(np.abs(np.concatenate([walk.x, walk.before])), 0.995)
    grid = grid_density.grid(size=200, extent=1.15 * max(float(reach), 1e-3))
    energy_fn = functools.partial(target.learner.energy, whole.learner_state)
    log_masses = grid_density.cell_log_masses(
        grid_density.grid_energies(energy_fn, grid), whole.inverse_temperature
    )
    values = np.exp(np.asarray(log_masses) - grid.log_cell_area)
    window = (-grid.extent, grid.extent, -grid.extent, grid.extent)
    return trace.Landscape(values.reshape(grid.size, grid.size), window)
