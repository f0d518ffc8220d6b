"""Samples of a trained model, refined by a Markov chain in latent or in data space.

Section 3.2 of Kumar et al. 2019 (MEG); chains run on any learner with an energy.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import checks, distributed, random
from megjax.learners import density_ratio
from megjax.learners.base import Learner
from megjax.metrics import grid_density
from megjax.samplers import bijectors, hmc, kernel, latent, mala, rwm
from megjax.sampling import draw, trace
from megjax.sampling import plan as plans
from megjax.sampling import store as stores
from megjax.types import Array, Key, PyTree

SPACES = ("latent", "data", "none")
KERNELS = {
    "mala": (mala.mala, mala.TARGET_ACCEPTANCE),
    "rwm": (rwm.rwm, rwm.TARGET_ACCEPTANCE),
    "hmc": (hmc.hmc, hmc.TARGET_ACCEPTANCE),
    "tempering": (latent.tempered, mala.TARGET_ACCEPTANCE),
}
"""Name -> (kernel_fn, target acceptance) of `sample`. Tempering is of latents."""
TARGETS = ("energy", "ratio")
CHAINS_PER_CALL = 1024
INITIAL_STEP_SIZE = 0.1


class Trained(NamedTuple):
    """A proposal in the state of its training, which has no step size to tune.

    kernel_fn: (params, log-density, *, has_aux) -> Kernel.
    """

    kernel_fn: Callable[..., kernel.Kernel]
    params: PyTree


class Target(NamedTuple):
    """What a chain samples and how, static under jit.

    kernel_fn: (log-density, *, step_size) -> Kernel, or where `trained`
    (params, log-density) -> Kernel. has_aux: whether it takes a density that returns
    (value, energy), and its states have an `aux`. draws: whether positions are
    recorded. ratio: whether minus the log density ratio takes the energy's place.
    """

    learner: Learner
    space: str
    prior: str
    kernel_fn: Callable[..., kernel.Kernel]
    trained: bool
    has_aux: bool
    draws: bool
    ratio: bool


def sample(
    key: Key,
    learner: Learner,
    state: PyTree,
    *,
    space: str = "latent",
    target: str = "energy",
    num: int = 64,
    resample: int = 1,
    steps: int = 100,
    burn_in: int = 0,
    thin: int | None = None,
    step_size: float | None = None,
    inverse_temperature: float = 1.0,
    prior: str = "gaussian",
    kernel_fn: Callable[..., kernel.Kernel] | Trained = mala.mala,
    target_acceptance: float | None = mala.TARGET_ACCEPTANCE,
    warmup: int = 60,
    num_snapshots: int = 21,
    mesh: jax.sharding.Mesh | None = None,
    store: stores.TraceStore | None = None,
    keep_draws: bool = False,
) -> trace.Trace:
    """Draws `num` samples and moves each by `steps` Metropolis steps.

    space: "latent" moves z, "data" x itself, both from the learner's samples; "none"
    only draws them, as 0 `steps` do. kernel_fn: (log-density, *, step_size) -> Kernel, or a `trained`
    proposal; chains on x move in the unbounded values of the learner's bijector, where
    it has one.
    target: what has the energy's place in the density, and in the trace: "energy" the
    learner's, "ratio" minus its log density ratio of data and generator, under which
    p(z) exp(-energy) at inverse temperature 1 is the data's density as far as the
    generator can draw it (Che et al. 2020).
    resample: chains start at `num` of so many times as many latents, drawn without
    replacement with probabilities proportional to exp(-inverse_temperature energy).
    burn_in: steps before that, thrown away. thin: steps to a record, by default the
    fewest that make at most 10,000 of them.
    step_size: by default tuned on `warmup` steps that are then thrown away, so that the
    chains start at fresh samples with a fixed kernel. Latents without a prior are never
    tuned beyond 0.01, the paper's code: a bounded energy accepts any step, and the
    tuning would run away.
    target_acceptance: of the tuning; None for kernels that have no step size.
    prior, inverse_temperature: of the latent density, see `samplers.latent`. The
    default is the tilt p_G(x) exp(-E(x)), whose chains stay among the latents that the
    generator knows however long they run; the paper's target ("none") leaves them
    after some hundred steps.
    mesh: chains are split over its devices, by default all of this process; of a mesh
        over several processes all call it, and get the same.
    store: where the chains are kept on disk while they run, and go on from.
    keep_draws: whether the trace has the position at every record.

    Raises ValueError at settings out of range or without a generator for
    space="latent", FloatingPointError where the energy of the starts is not finite;
    store.Stopped, and ValueError and OSError of `store`, where it is given.
    """
    key, store = random.checked(key), store or stores.TraceStore()
    keep_draws = keep_draws or store.draws
    settings = {
        "seed": _integer(key),
        "space": space,
        "target": target,
        "num": num,
        "resample": resample,
        "steps": steps,
        "burn_in": burn_in,
        "thin": thin,
        "step_size": step_size,
        "inverse_temperature": inverse_temperature,
        "prior": prior,
        "warmup": warmup,
        "keep_draws": keep_draws,
        "chains_per_call": CHAINS_PER_CALL,
    }
    _check(learner, kernel_fn, settings)
    if target == "ratio" and not density_ratio.is_fitted(state):
        raise ValueError(
            "target='ratio': the density ratio is fitted when training ends: train to "
            "the end, or use target='energy'."
        )
    space = space if steps else "none"
    target, kernel_params = targeted(
        learner, space, prior, kernel_fn, keep_draws, ratio=target == "ratio"
    )
    params = {
        "learner": state,
        "kernel": kernel_params,
        "inverse_temperature": inverse_temperature,
        "step_size": 1.0,
    }
    tuning = _tuning(target, step_size, target_acceptance)
    settings |= {"space": space, **tuning}
    plan = None if space == "none" else _claimed(store, settings, num_snapshots)
    with draw.devices(mesh):
        mesh = jax.sharding.get_mesh()
        key = distributed.portable(key, mesh)
        params = distributed.replicate(params, mesh)
        found = _groups(key, target, params, plan, store, settings)
        return found._replace(landscape=_landscape(learner, params, found))


def default_target(
    learner: Learner,
    state: PyTree,
    space: str,
    prior: str,
    inverse_temperature: float,
    kernel: str,
) -> str:
    """The target where none is named: the density ratio, where it was fitted.

    A proposal ("neural") was trained for the energy, as are temperatures other than 1.
    """
    latent = space != "data" and prior == "gaussian"
    plain = inverse_temperature == 1 and kernel not in ("neural", "gibbs")
    fitted = learner.log_ratio and density_ratio.is_fitted(state)
    return "ratio" if fitted and latent and plain else "energy"


def trained(learner: Learner, state: PyTree) -> Trained:
    """The proposal that a learner has trained, in a state of its training.

    Raises ValueError for methods that train no proposal.
    """
    if learner.kernel is None:
        raise ValueError(
            "this run has trained no proposal: name one that has with --proposal, or "
            "use --kernel=mala"
        )
    # On the host: that run may have been placed on other devices.
    return Trained(learner.kernel, jax.device_get(state))


def chain(target: Target) -> draw.Chain:
    """The chain on a target.

    Its params are a dict, all of it traced: "learner", the state; "kernel", the state
    of a trained proposal; "inverse_temperature" and "step_size".
    """
    kernel_fn = draw.bound(_kernel, target)
    return draw.of_kernel(kernel_fn, draw.bound(_observed, target))


def targeted(
    learner, space, prior, kernel_fn, draws, *, ratio=False
) -> tuple[Target, PyTree]:
    """The target, and the parameters of a trained proposal."""
    params, is_trained = None, isinstance(kernel_fn, Trained)
    if is_trained:
        kernel_fn, params = kernel_fn
    has_aux = draw.accepts(kernel_fn, "has_aux")
    kernel_fn = draw.comparable(kernel_fn)
    own = (kernel_fn, is_trained, has_aux, draws, ratio)
    return Target(learner, space, prior, *own), params


def _tuning(target, step_size, target_acceptance):
    """The two settings of the tuning, for kernels that have no step size as well."""
    if target.trained:
        step_size = target_acceptance = None
    if step_size is None and target_acceptance is None:
        step_size = math.nan
    return {"step_size": step_size, "target_acceptance": target_acceptance}


def _check(learner, kernel_fn, settings):
    """ValueError at settings that a learner or a kernel cannot have."""
    _check_numbers(settings)
    space, prior = settings["space"], settings["prior"]
    if space not in SPACES:
        raise ValueError(f"space={space!r}: choose one of {', '.join(SPACES)}.")
    if space == "latent" and (learner.latents is None or learner.generate is None):
        raise ValueError(
            "space='latent' needs a generator and this method has none: use "
            "space='data' or 'none'."
        )
    if prior not in latent.PRIORS:
        raise ValueError(f"prior={prior!r}: choose one of {', '.join(latent.PRIORS)}.")
    _check_target(learner, space, settings["target"], prior, settings["resample"])
    _check_tempering(kernel_fn, space, prior)
    _check_steps(
        settings["num"], settings["steps"], settings["burn_in"], settings["thin"]
    )
    if settings["keep_draws"] and (space == "none" or not settings["steps"]):
        raise ValueError(
            f"space={space!r}, steps={settings['steps']}: draws are those of chains: use "
            "space='data', or 'latent' with a generator, and at least 1 step."
        )


def _check_target(learner, space, target, prior, resample):
    if target not in TARGETS:
        raise ValueError(f"target={target!r}: choose one of {', '.join(TARGETS)}.")
    if target == "ratio" and learner.log_ratio is None:
        raise ValueError(
            "target='ratio': this model has no density ratio: use target='energy', or "
            "train with config.ratio.num_steps=2000."
        )
    if target == "ratio" and (space == "data" or prior == "none"):
        raise ValueError(
            f"target='ratio', space={space!r}, prior={prior!r}: the ratio is that of "
            "data and generator: use space='latent' and prior='gaussian'."
        )
    if resample < 1:
        raise ValueError(f"resample={resample}: give at least 1.")
    if resample > 1 and (space == "data" or prior == "none" or learner.latents is None):
        raise ValueError(
            f"resample={resample} chooses latents that a generator's prior draws: use "
            "space='latent' and prior='gaussian' on a method with a generator."
        )


def _check_tempering(kernel_fn, space, prior):
    tempered = getattr(kernel_fn, "func", kernel_fn) is latent.tempered
    if tempered and (space == "data" or prior != "gaussian"):
        raise ValueError(
            f"kernel='tempering', space={space!r}, prior={prior!r}: replicas go from the "
            "prior of the latents to the target: use space='latent' and prior='gaussian'."
        )


def _check_numbers(settings):
    """ValueError at numbers out of range, or fractions where there can be none."""
    for name in ("num", "resample", "steps", "burn_in", "thin", "warmup"):
        value = settings[name]
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (whole or (value is None and name == "thin")):
            raise ValueError(f"{name}={value!r}: give a whole number.")
    step_size, beta = settings["step_size"], settings["inverse_temperature"]
    checks.number("inverse_temperature", beta)
    if step_size is not None:
        checks.number("step_size", step_size)
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size={step_size}: must be positive.")
    if not 0 <= beta < math.inf:
        raise ValueError(f"inverse_temperature={beta}: must be 0 or positive.")
    if settings["warmup"] < 0:
        raise ValueError(f"warmup={settings['warmup']}: must be 0 or positive.")


def _check_steps(num, steps, burn_in, thin):
    if num < 1 or steps < 0:
        raise ValueError(
            f"num={num}, steps={steps}: give at least 1 chain and 0 steps."
        )
    if steps == 0 and (burn_in or thin):
        raise ValueError(f"burn_in={burn_in}, thin={thin}: 0 steps have neither.")
    if burn_in < 0:
        raise ValueError(f"burn_in={burn_in}: must be 0 or positive.")
    if steps and thin is not None and not 1 <= thin <= steps:
        raise ValueError(f"thin={thin}: must be between 1 and steps={steps}.")
    # Steps are counted in 32 bits on devices.
    if max(burn_in + steps, num) >= 2**31:
        raise ValueError(
            f"num={num}, steps={steps}, burn_in={burn_in}: want fewer than 2^31."
        )


def _claimed(store, settings, num_snapshots) -> plans.Plan:
    """The plan of chains whose settings the store takes."""
    steps, burn_in = settings["steps"], settings["burn_in"]
    total = -(-settings["num"] // CHAINS_PER_CALL) * (burn_in + steps)
    thin = store.claim(settings, total, plans.default_thin(steps))
    return plans.plan(steps, thin, burn_in=burn_in, num_snapshots=num_snapshots)


def _energies(target, params, positions) -> Array:
    """E, or minus the log density ratio, of positions [N, ...]: [N]."""
    return _energies_of(target, params, _data(target, params["learner"], positions))


def _energies_of(target, params, x) -> Array:
    """The same of x [N, ...]."""
    if target.ratio:
        return -target.learner.log_ratio(params["learner"], x)
    return target.learner.energy(params["learner"], x)


def _kernel(target, params) -> kernel.Kernel:
    """The kernel of one chain."""
    log_density = latent.log_density(
        functools.partial(_energies, target, params),
        inverse_temperature=params["inverse_temperature"],
        prior=target.prior if target.space == "latent" else "none",
    )
    own = {"has_aux": True}
    if not target.has_aux:
        own, pair_fn = {}, log_density

        def log_density(position):
            return pair_fn(position)[0]

    if target.trained:
        return target.kernel_fn(params["kernel"], log_density, **own)
    kernel_fn = functools.partial(target.kernel_fn, step_size=params["step_size"])
    if target.space == "data" and target.learner.bijector:
        bijector = target.learner.bijector
        return bijectors.transformed(kernel_fn, log_density, bijector, **own)
    return kernel_fn(log_density, **own)


def _observed(target, params, state) -> dict[str, Array]:
    """Energy, root mean square position and, where they are kept, the draw itself."""
    if target.has_aux:
        energy = state.aux
    else:
        energy = _energies(target, params, state.position[None])[0]
    found = {"energy": energy, "rms": jnp.sqrt(jnp.mean(state.position**2))}
    return found | ({"draws": state.position} if target.draws else {})


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _positions(target, num, resample, key, params):
    """Where `num` chains start: samples of the learner, or their latents."""
    learner, state = target.learner, params["learner"]
    if resample > 1:
        key_latents, key_choice = jax.random.split(key)
        z, log_weights = _candidates(target, num * resample, key_latents, params)
        # The largest of weights and Gumbel noise: draws without replacement.
        noise = jax.random.gumbel(key_choice, log_weights.shape)
        z = z[jax.lax.top_k(log_weights + noise, num)[1]]
        return z if target.space == "latent" else learner.generate(state, z)
    if target.space == "latent":
        return learner.latents(key, num)
    return learner.sample(key, state, num)


def _candidates(target, num, key, params) -> tuple[Array, Array]:
    """Latents [num, k] of the prior, and log weights [num] under the target."""
    z = target.learner.latents(key, num)
    x = target.learner.generate(params["learner"], z)
    return z, -params["inverse_temperature"] * _energies_of(target, params, x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _effective_share(target, num, key, params):
    """Effective sample size of candidates, as a share of their number."""
    _, log_weights = _candidates(target, num, jax.random.split(key)[0], params)
    weights = jax.nn.softmax(log_weights)
    return 1 / (num * jnp.sum(weights**2))


def _groups(key, target, params, plan, store, settings) -> trace.Trace:
    """The traces of all groups of chains; the first one's step size is everyone's."""
    found, step_size, share = [], settings["step_size"], math.nan
    tuned_for = settings["target_acceptance"] if step_size is None else math.nan
    resample = settings["resample"]
    for i, first in enumerate(range(0, settings["num"], CHAINS_PER_CALL)):
        keys = jax.random.split(jax.random.fold_in(key, i))
        num = min(CHAINS_PER_CALL, settings["num"] - first)
        start_fn = functools.partial(
            *(_positions, target, num, resample, keys[0], params)
        )
        if i == 0 and resample > 1:
            share = float(_effective_share(target, num * resample, keys[0], params))
        if target.space == "none":
            found.append(_plain(target, params, start_fn()))
            continue
        per_call = _steps_per_call(target, params, jax.eval_shape(start_fn))
        run = draw.RunPlan(chain(target), plan, store, per_call, i)
        settings = settings | {"step_size": step_size}
        states, step_size = _started(keys[1], run, params, start_fn, settings)
        own = params | {"step_size": step_size}
        found.append(_trace(keys[1], run, target, own, states))
    return _joined(found)._replace(
        target=settings["target"],
        resample=resample,
        effective_share=share,
        target_acceptance=tuned_for,
    )


def _plain(target, params, x) -> trace.Trace:
    """Samples of the learner without any step."""
    energy = jax.jit(_energies, static_argnums=0)(target, params, x)
    nothing = np.zeros((len(x), 0), np.float32)
    x, energy = map(np.asarray, distributed.gathered((x, energy)))
    rms = np.sqrt(np.mean(np.square(x).reshape(len(x), -1), axis=1))
    return trace.Trace(
        x=x,
        before=x,
        z=None,
        snapshots=x[: trace.SHOWN_CHAINS, None],
        times=np.array([0]),
        energy=energy[:, None],
        rms=rms[:, None],
        step_size=math.nan,
        inverse_temperature=float(params["inverse_temperature"]),
        **dict.fromkeys(kernel.Info._fields, nothing),
    )


def _started(key, run, params, start_fn, settings) -> tuple[PyTree, float]:
    """States at the start, and the step size, tuned where there is none; or from disk.

    start_fn: () -> positions [chains, ...].
    """
    init_fn = functools.partial(draw.start, run.chain, params)

    def make():
        states, step_size = init_fn(start_fn()), settings["step_size"]
        energy = draw.observed(run.chain, params, states)["energy"]
        _check_start(distributed.gathered(energy))
        if step_size is None:
            loose = settings["space"] == "latent" and settings["prior"] == "none"
            _, step_size = draw.tuned(
                jax.random.fold_in(key, 1),
                run.chain,
                params,
                states,
                num_steps=settings["warmup"],
                target_acceptance=settings["target_acceptance"],
                step_size=INITIAL_STEP_SIZE,
                limit=0.01 if loose else 1.0,
                steps_per_call=run.per_call,
            )
        return states, np.float64(step_size)

    form = jax.eval_shape(lambda: init_fn(start_fn())), np.float64(0)
    states, step_size = draw.remembered(run.store, run.group, form, make)
    return states, float(step_size)


def _check_start(energy):
    if bad := int(np.sum(~np.isfinite(np.asarray(energy)))):
        raise FloatingPointError(
            f"the energy of {bad} of {len(energy)} starting samples is not finite: "
            "sample from an earlier checkpoint"
        )


def _trace(key, run, target, params, states) -> trace.Trace:
    """Draws one group of chains from their start to the end."""

    def data_fn(position):
        x = _data_jit(target, params["learner"], position)
        return np.asarray(distributed.gathered(x))

    key, snapshots, arrays = jax.random.fold_in(key, 0), [], []
    for piece in draw.pieces(key, run, params, states):
        position = piece.states.position
        if piece.end == 0:
            before = data_fn(position)
            start = draw.observed(run.chain, params, piece.states)
            start = jax.device_get(distributed.gathered(start))
            snapshots.append(before[: trace.SHOWN_CHAINS])
        elif piece.end in run.plan.times and run.group == 0:
            snapshots.append(data_fn(position[: trace.SHOWN_CHAINS]))
        arrays.append(piece.arrays)
    arrays = draw.joined(arrays)
    observed, is_latent = (
        plans.columns(arrays, plans.OBSERVED),
        target.space == "latent",
    )
    record = {
        name: np.concatenate([start[name][:, None], observed[name]], axis=1)
        for name in ("energy", "rms")
    }
    return trace.Trace(
        x=data_fn(position),
        before=before,
        z=np.asarray(distributed.gathered(position)) if is_latent else None,
        snapshots=np.stack(snapshots, axis=1),
        times=np.array(run.plan.times),
        step_size=params["step_size"],
        burn_in=run.plan.burn_in,
        thin=run.plan.thin,
        inverse_temperature=float(params["inverse_temperature"]),
        draws=observed.get("draws"),
        **record,
        **_infos(plans.columns(arrays, plans.INFO)),
    )


def _infos(found) -> dict[str, np.ndarray]:
    """The fields of `kernel.Info`; a kernel of other infos has NaN where one lacks."""
    like = np.full_like(next(iter(found.values())), np.nan)
    return {name: found.get(name, like) for name in kernel.Info._fields}


def _data(target, state, positions):
    """x of positions: [N, ...] -> [N, ...]."""
    if target.space == "latent":
        return target.learner.generate(state, positions)
    return positions


_data_jit = functools.partial(jax.jit, static_argnums=0)(_data)


def _integer(key) -> int:
    """The words of a key as one number; of `jax.random.key(seed)` the seed."""
    words = np.asarray(jax.random.key_data(key)).tolist()
    return functools.reduce(lambda high, low: high << 32 | low, words)


def _steps_per_call(target, params, positions) -> int:
    """How many steps to compile into one call.

    One for images on a CPU, whose convolutions are many times slower inside a loop.
    """
    data_fn = functools.partial(_data, target, params["learner"])
    shape = jax.eval_shape(data_fn, positions).shape
    devices = jax.sharding.get_mesh().devices.flat
    on_cpu = all(device.platform == "cpu" for device in devices)
    return 1 if on_cpu and len(shape) > 2 else draw.STEPS_PER_CALL


def _joined(found: list[trace.Trace]) -> trace.Trace:
    """Groups of chains as one; snapshots and settings are the first group's."""
    first = found[0]
    if len(found) == 1:
        return first
    arrays = ("x", "before", "energy", "rms", *kernel.Info._fields)
    joined = {k: np.concatenate([getattr(w, k) for w in found]) for k in arrays}
    for name in ("z", "draws"):
        if getattr(first, name) is not None:
            joined[name] = np.concatenate([getattr(w, name) for w in found])
    return first._replace(**joined)


def _landscape(learner, params, found) -> trace.Landscape | None:
    """The density around planar samples."""
    if found.x.shape[1:] != (2,):
        return None
    reach = np.quantile(np.abs(np.concatenate([found.x, found.before])), 0.995)
    grid = grid_density.grid(size=200, extent=1.15 * max(float(reach), 1e-3))
    energies = _grid_energies(learner, params["learner"], grid)
    log_masses = grid_density.cell_log_masses(energies, params["inverse_temperature"])
    log_masses = np.asarray(distributed.gathered(log_masses))
    values = np.exp(log_masses - grid.log_cell_area)
    window = (-grid.extent, grid.extent, -grid.extent, grid.extent)
    return trace.Landscape(values.reshape(grid.size, grid.size), window)


@functools.partial(jax.jit, static_argnums=0)
def _grid_energies(learner, state, grid):
    return grid_density.grid_energies(functools.partial(learner.energy, state), grid)
