"""Densities of many modes by NUTS, tempering and sequential Monte Carlo.

    python -m benchmarks.modes
    python -m benchmarks.modes --target=two_modes --seed=1
    python -m benchmarks.modes --workdir=runs/demo

All chains start in one mode. Prints a line of JSON per target and sampler: gradients,
CPU seconds of warm-up and draws with the compilation ("first") and of a second call,
the largest error of a mode's share and that error in standard errors of the chains'
means (of independent lines of particles for smc), log Z where there is one, and round
trips. NUTS that stays in its mode has no standard error.

With --workdir: latents of a trained generator under p(z) exp(-E(G(z))), by MALA and by
tempering towards the prior; largest R-hat of the latents and of the energy.
"""

import functools
import json
import pathlib
import time
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import recording
from megjax import app
from megjax.data import toy
from megjax.densities import targets
from megjax.metrics import mcmc
from megjax.samplers import latent, smc, tempering
from megjax.sampling import density

TARGETS = ("grid", "two_modes")
TARGET = flags.DEFINE_multi_enum("target", list(TARGETS), list(TARGETS), "Densities.")
WORKDIR = flags.DEFINE_string("workdir", None, "A run with a generator, instead.")
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.")
NUM_CHAINS = flags.DEFINE_integer("chains", 32, "Chains of NUTS and tempering.", 2)
PARTICLES = flags.DEFINE_integer("particles", 4000, "Particles of smc.", 2)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1500, "Draws of a chain.", 4)
NUM_WARMUP = flags.DEFINE_integer("num_warmup", 600, "Warm-up steps.", 0)
SMC_DRAWS = 5


def main() -> int:
    """Prints a line of JSON per record."""
    found = latents(pathlib.Path(WORKDIR.value)) if WORKDIR.value else densities()
    for line in recording.recorded(found, [SEED.value]):
        print(json.dumps(line), flush=True)
    return 0


def densities() -> Iterator[dict]:
    """What every sampler finds of every target."""
    for name in TARGET.value:
        target, centres, weights = grid() if name == "grid" else two_modes()
        wide = tempering.normal(0.0, 5.0)
        kernels = {
            "nuts": "nuts",
            "tempering": "tempering",
            "tempering, with a reference": tempering.Spec(reference=wide),
            "smc": smc.Spec(reference=wide),
        }
        for label, kernel in kernels.items():
            found = measured(target, centres, weights, kernel)
            yield {"target": name, "kernel": label} | found


def grid():
    """(25 Gaussians of pitch 0.707 and deviation 0.0177, centres, weights)."""
    mixture = toy.grid_25()
    target = targets.mixture("grid", mixture)
    return target.log_density, mixture.centres, np.full(25, 0.04)


def two_modes():
    """(N(+-5 e_1, I) in ten dimensions with weights 0.3 and 0.7, centres, weights)."""
    centres, weights = np.outer([5.0, -5.0], np.eye(10)[0]), np.array([0.3, 0.7])
    return functools.partial(_two_modes, centres, weights), centres, weights


def _two_modes(centres, weights, x):
    squares = jnp.sum((x - jnp.asarray(centres, x.dtype)) ** 2, axis=-1)
    terms = jnp.asarray(np.log(weights), x.dtype) - 0.5 * squares
    return jax.nn.logsumexp(terms) - 5 * jnp.log(2 * jnp.pi).astype(x.dtype)


def measured(log_density_fn, centres, weights, kernel) -> dict:
    """What a sampler finds, and its cost."""
    is_smc = isinstance(kernel, smc.Spec)
    num = PARTICLES.value if is_smc else NUM_CHAINS.value
    init = jnp.tile(jnp.asarray(centres[0], jnp.float32), (num, 1))
    run = functools.partial(
        quiet,
        log_density_fn,
        init,
        kernel=kernel,
        num_warmup=NUM_WARMUP.value,
        num_samples=SMC_DRAWS if is_smc else NUM_SAMPLES.value,
    )
    draws, first = run(SEED.value)
    _, second = run(SEED.value + 1)
    x = draws.posterior["x"].to_numpy()
    squares = np.sum((x[..., None, :] - np.float32(centres)) ** 2, axis=-1)
    inside = np.argmin(squares, -1)[..., None] == np.arange(len(weights))
    shares = np.mean(inside, axis=(0, 1))
    if is_smc:
        errors = np.sqrt(weights * (1 - weights) / draws.attrs["num_lines"])
    else:
        errors = np.std(np.mean(inside, axis=1), axis=0, ddof=1) / np.sqrt(num)
    away = np.abs(shares - weights)
    stats = draws.sample_stats
    found = {
        "gradients": gradients(draws, kernel, num),
        "first_seconds": round(first, 2),
        "seconds": round(second, 2),
        "modes": int(np.sum(shares > weights / 10)),
        "largest_error": round(float(np.max(away)), 4),
    }
    if np.all(errors > 0):
        found["in_standard_errors"] = round(float(np.max(away / errors)), 2)
    for name in ("log_z", "log_z_error", "barrier", "num_temperatures"):
        if name in draws.attrs:
            found[name] = round(draws.attrs[name], 4)
    if "round_trips" in stats:
        found["round_trips"] = int(stats["round_trips"].sum())
    return found


def gradients(draws, kernel, num) -> int:
    """Of all chains, warm-up included; NUTS' is taken to cost as much as its draws."""
    if isinstance(kernel, smc.Spec):
        # One more at every temperature for the states to begin with.
        steps = draws.attrs["num_temperatures"] * (kernel.num_steps + 1)
        return num * (steps + SMC_DRAWS)
    per_step = float(draws.sample_stats["n_steps"].mean())
    return round(num * per_step * (NUM_SAMPLES.value + NUM_WARMUP.value))


def quiet(log_density_fn, init, seed, **settings):
    """(draws, CPU seconds)."""
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        key = jax.random.key(seed)
        draws = density.sample(
            log_density_fn, init, key=key, progress=False, **settings
        )
    return draws, time.process_time() - begin


def latents(workdir: pathlib.Path) -> Iterator[dict]:
    """R-hat and seconds of MALA and tempering on a generator's latents."""
    from megjax.training import loop

    restored = loop.restore(workdir)
    learner, state = restored.learner, restored.state

    def energy(z):
        return learner.energy(state, learner.generate(state, z))

    pair_fn = latent.log_density(energy)
    init = learner.latents(jax.random.key(SEED.value), NUM_CHAINS.value)
    prior = tempering.normal(0.0, 1.0)
    kernels = {
        "mala": "mala",
        "tempering": tempering.Spec(num_replicas=6, reference=prior),
    }
    for label, kernel in kernels.items():
        run = functools.partial(
            quiet,
            lambda z: pair_fn(z)[0],
            init,
            kernel=kernel,
            num_warmup=NUM_WARMUP.value,
            num_samples=NUM_SAMPLES.value,
        )
        draws, first = run(SEED.value)
        _, second = run(SEED.value + 1)
        z = draws.posterior["x"].to_numpy()
        lp = draws.sample_stats["lp"].to_numpy()
        found = {
            "kernel": label,
            "first_seconds": round(first, 2),
            "seconds": round(second, 2),
            "r_hat_of_latents": max(mcmc.r_hat(z[..., i]) for i in range(z.shape[2])),
            "r_hat_of_lp": mcmc.r_hat(lp),
            "ess_of_lp": mcmc.effective_sample_size(lp),
        }
        if "barrier" in draws.attrs:
            found["barrier"] = draws.attrs["barrier"]
        yield found


if __name__ == "__main__":
    app.run(main)
