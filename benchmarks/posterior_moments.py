"""Reference moments of the logistic regressions, by long HMC in float64.

    python -m benchmarks.posterior_moments --data_dir=../shared/data

Prints for each set the means and standard deviations that `megjax/densities/logistic.py`
keeps, their Monte Carlo errors, R-hat, ESS and acceptance. Chains start in the Laplace
approximation and take its covariance for their inverse mass matrix; the steps are short
because the last Australian coefficient is skewed, and long ones never leave its tail.
"""

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from megjax import app
from megjax.densities import logistic
from megjax.metrics import mcmc
from megjax.samplers import hmc, kernel

DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the Statlog sets.")
NUM_CHAINS = flags.DEFINE_integer("chains", 200, "Chains.", 4)
NUM_DRAWS = flags.DEFINE_integer("draws", 2000, "Kept transitions of each.", 100)
BURN_IN = flags.DEFINE_integer("burn_in", 500, "Discarded transitions.", 0)
PRIOR_VARIANCE = flags.DEFINE_float("prior_variance", 100.0, "Of every coefficient.")
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.")


def main() -> int:
    """Prints one line of JSON per set."""
    jax.config.update("jax_enable_x64", True)
    for name in logistic.FILES:
        start = time.perf_counter()
        x, acceptance = draws(name)
        seconds = time.perf_counter() - start
        found = {
            "name": name,
            "seconds": seconds,
            "acceptance": acceptance,
            **summary(x),
        }
        print(json.dumps(found), flush=True)
    return 0


def draws(name: str) -> tuple[np.ndarray, float]:
    """Positions after burn-in [chains, draws, dim], and the lowest chain's acceptance."""
    target = logistic.regression(
        name, data_dir=DATA_DIR.value, prior_variance=PRIOR_VARIANCE.value
    )
    mode, factor = laplace(target)
    keys = jax.random.split(jax.random.key(SEED.value), 2)
    noise = jax.random.normal(keys[0], (NUM_CHAINS.value, target.dim))
    sampler = hmc.hmc(
        target.log_density, step_size=0.25, num_integration_steps=8, factor=factor
    )

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0))
    def run(key, x):
        return kernel.chain(
            key,
            sampler,
            sampler.init(x),
            BURN_IN.value + NUM_DRAWS.value,
            observe=lambda state: state.position,
        )[1]

    starts = mode + noise @ factor.T
    record = run(jax.random.split(keys[1], NUM_CHAINS.value), starts)
    lowest = np.min(np.mean(record.infos.acceptance_rate, axis=1))
    return np.asarray(record.observations)[:, BURN_IN.value :], float(lowest)


def laplace(target) -> tuple[jax.Array, jax.Array]:
    """The mode [dim], by Newton's method, and a factor of the covariance there."""
    position = jnp.zeros(target.dim)
    for _ in range(30):
        gradient = jax.grad(target.log_density)(position)
        hessian = jax.hessian(target.log_density)(position)
        position -= jnp.linalg.solve(hessian, gradient)
    return position, jnp.linalg.cholesky(jnp.linalg.inv(-hessian))


def summary(x: np.ndarray) -> dict[str, object]:
    """Moments of x [chains, draws, dim] and how far to trust them."""
    mean = x.mean(axis=(0, 1))
    deviation = x.std(axis=(0, 1))
    # Chains are independent, so their spread gives the standard errors.
    errors = [
        moment.mean(axis=1).std(axis=0, ddof=1) / np.sqrt(len(x))
        for moment in (x, (x - mean) ** 2)
    ]
    return {
        "mean": np.round(mean, 5).tolist(),
        "std": np.round(deviation, 5).tolist(),
        "largest_mean_error": float(np.max(errors[0])),
        "largest_std_error": float(np.max(errors[1] / (2 * deviation))),
        "r_hat": max(mcmc.r_hat(x[..., i]) for i in range(x.shape[2])),
        "ess_geyer": float(np.min(mcmc.efficiencies(x))),
    }


if __name__ == "__main__":
    app.run(main)
