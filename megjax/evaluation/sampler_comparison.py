"""Markov chain kernels against each other on one density, at equal cost in gradients.

The density is one of latents under exp(-beta E(G(z))), Kumar et al. 2019 (MEG) section
3.2; a proposal trained on it (Li, Chen and Sommer 2021) is drawn from beside MALA and HMC.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from megjax import plotting
from megjax.metrics import frechet, mcmc
from megjax.sampling import draw
from megjax.types import Evaluation, Report, SharedEvaluation

SHOWN = 64


class Entry(NamedTuple):
    """A kernel and its price.

    kernel_fn: (learner state, density, step size) -> Kernel with `has_aux`.
    num_gradients: of a transition. target_acceptance: of the tuning of the step size;
    None where the kernel has none to tune.
    """

    kernel_fn: Callable
    num_gradients: int
    target_acceptance: float | None


class Setup(NamedTuple):
    """What all sample, and for how long.

    log_density_fn: z [k] -> (log-density, energy). start_fn: (key, num) -> z [num, k].
    generate_fn: z [num, k] -> x [num, ...]. x: examples that samples are compared to.
    num_records: of every chain, one after every `gradients_per_record` gradients.
    warm_up: transitions that tune the step size and are thrown away.
    """

    log_density_fn: Callable
    start_fn: Callable
    generate_fn: Callable
    x: np.ndarray
    num_chains: int = 256
    num_records: int = 400
    gradients_per_record: int = 8
    warm_up: int = 100


class Track(NamedTuple):
    """One entry's draws: z [chains, records, k] and energy [chains, records].

    acceptance: mean of all transitions. step_size: NaN where there was none.
    seconds: of the draws without compilation.
    """

    z: np.ndarray
    energy: np.ndarray
    acceptance: float
    step_size: float
    seconds: float


def equal_gradients(setup: Setup, entries: Mapping[str, Entry]) -> Evaluation:
    """An evaluation that lets all entries spend the same number of gradients.

    Per entry: effective sample size of the energy and the least of the latents'
    per 1000 gradients, R-hat of the energy, mean squared jump per record of latents and
    of data (per coordinate), mean energy, rms of the latents, and the squared Frechet
    distance of pixels to the examples at the end, all on the last half of the records;
    acceptance, step size, and energy's effective sample size per second. For scale the same
    distance of the generator's own samples. Raises ValueError where the price of a
    transition does not divide `gradients_per_record`.
    """
    for name, entry in entries.items():
        if setup.gradients_per_record % entry.num_gradients:
            raise ValueError(
                f"gradients_per_record={setup.gradients_per_record}: {name} needs a "
                f"multiple of {entry.num_gradients}."
            )

    @SharedEvaluation
    def evaluate(key, state):
        start_key, draw_key = jax.random.split(key)
        starts = setup.start_fn(start_key, setup.num_chains)
        generated = np.asarray(jax.jit(setup.generate_fn)(starts))
        metrics = {"generator_frechet": pixel_distance(generated, setup.x)}
        shown, energies = {"generator": generated}, {}
        for name, entry in entries.items():
            track = _track(setup, entry, draw_key, state, starts)
            ends = np.asarray(jax.jit(setup.generate_fn)(track.z[:, -1]))
            found = _measured(setup, track, ends)
            metrics |= {f"{name}_{k}": v for k, v in found.items()}
            shown[name], energies[name] = ends, track.energy
        return Report(metrics, _pictures(setup, shown, energies))

    return evaluate


def _track(setup, entry, key, state, starts) -> Track:
    """Tunes where there is something to tune, then draws."""
    kernel_fn = draw.bound(_kernel, entry.kernel_fn, setup.log_density_fn)
    chain = draw.of_kernel(kernel_fn, _observed)
    params = {"state": state, "step_size": np.nan}
    steps = setup.gradients_per_record // entry.num_gradients
    # On a CPU no step is in a loop, where convolutions are slow.
    per_call = 1 if jax.default_backend() == "cpu" else steps
    tune_key, compile_key, draw_key = jax.random.split(key, 3)
    states = draw.start(chain, params, starts)
    if entry.target_acceptance is not None:
        states, params["step_size"] = draw.tuned(
            *(tune_key, chain, params, states),
            num_steps=setup.warm_up,
            target_acceptance=entry.target_acceptance,
            steps_per_call=1,
        )
    settings = {"thin": steps, "steps_per_call": per_call}
    args = chain, params, states
    draw.chains(compile_key, *args, num_steps=steps, **settings)
    begin = time.perf_counter()
    num_steps = steps * setup.num_records
    found = draw.chains(draw_key, *args, num_steps=num_steps, **settings)
    return Track(
        **found.observations,
        acceptance=float(np.mean(found.infos["acceptance_rate"])),
        step_size=params["step_size"],
        seconds=time.perf_counter() - begin,
    )


def _kernel(kernel_fn, log_density_fn, params):
    return kernel_fn(params["state"], log_density_fn, params["step_size"])


def _observed(params, state):
    del params
    return {"z": state.position, "energy": state.aux}


def _measured(setup, track, ends) -> dict[str, float]:
    half = track.z.shape[1] // 2
    z, energy = track.z[:, half:], track.energy[:, half:]
    gradients = energy.size * setup.gradients_per_record
    draws = mcmc.effective_sample_size(energy)
    slowest = np.min(mcmc.efficiencies(z)) * energy.size
    before = np.asarray(jax.jit(setup.generate_fn)(track.z[:, -2]))
    return {
        "acceptance": track.acceptance,
        "step_size": track.step_size,
        "energy_ess_per_1000_gradients": 1000 * draws / gradients,
        "latent_ess_per_1000_gradients": 1000 * slowest / gradients,
        "energy_ess_per_second": draws / (track.seconds / 2),
        "energy_r_hat": mcmc.r_hat(energy),
        "squared_jump_latent": float(np.mean(np.diff(z, axis=1) ** 2)),
        "squared_jump_data": float(np.mean((ends - before) ** 2)),
        "energy": float(np.mean(energy)),
        "rms": float(np.sqrt(np.mean(z**2))),
        "frechet": pixel_distance(ends, setup.x),
    }


def pixel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance between two sets of flattened examples."""
    x, y = (np.float64(v).reshape(len(v), -1) for v in (x, y))
    return frechet.frechet_distance(
        x.mean(axis=0), np.cov(x.T), y.mean(axis=0), np.cov(y.T)
    )


def _pictures(setup, shown, energies) -> dict[str, np.ndarray]:
    lags = np.arange(60) * setup.gradients_per_record
    correlations = {
        name: (
            lags,
            mcmc.autocorrelations(energy[:, energy.shape[1] // 2 :, None], mcmc.GEYER)[
                : len(lags), 0
            ],
        )
        for name, energy in energies.items()
    }
    correlations = {k: (x[: len(y)], y) for k, (x, y) in correlations.items()}
    curves = plotting.curves(
        correlations, x_label="gradients", y_label="autocorrelation of the energy"
    )
    images = {
        f"samples_{name}": plotting.image_grid(x[:SHOWN])
        for name, x in shown.items()
        if x.ndim == 4
    }
    return {"autocorrelation": curves, "energy": plotting.traces(energies)} | images
