"""Other samplers on a posterior of megjax, for `benchmarks.inference_gym`.

    PYTHON benchmarks/inference_gym_peer.py numpyro|nutpie GIVEN.npz

Needs the sampler and jax. GIVEN.npz has starts [chains, dim] and settings; draws of a
second run go to found.npz beside it, with the CPU seconds of both and the gradients of
the second. Both are NUTS with a diagonal mass matrix, as many steps of warm-up, and all
chains on one core: numpyro's side by side, nutpie's one after the other, with the
gradient called from Python.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from megjax.densities import posteriors

RUNS = []
"""What has compiled, for the second run."""


def numpyro(log_density, starts, settings, seed):
    """(draws [chains, draws, dim], gradients, share of the warm-up)."""
    from numpyro import infer

    if not RUNS:
        kernel = infer.NUTS(
            potential_fn=lambda x: -log_density(x),
            target_accept_prob=settings["target_acceptance"],
        )
        RUNS.append(
            infer.MCMC(
                kernel,
                num_warmup=settings["num_warmup"],
                num_samples=settings["num_draws"],
                num_chains=len(starts),
                chain_method="vectorized",
                progress_bar=False,
            )
        )
    run = RUNS[0]
    fields = ("num_steps", "diverging")
    run.run(jax.random.key(seed), init_params=jnp.asarray(starts), extra_fields=fields)
    x = np.asarray(run.get_samples(group_by_chain=True))
    steps = settings["num_warmup"] + settings["num_draws"]
    per_step = float(np.mean(run.get_extra_fields()["num_steps"]))
    return x, per_step * steps * len(starts), settings["num_warmup"] / steps


def nutpie(log_density, starts, settings, seed):
    """As `numpyro`."""
    import nutpie as module
    from nutpie import compiled_pyfunc

    dim = starts.shape[1]
    if not RUNS:
        RUNS.append(jax.jit(jax.value_and_grad(log_density)))
    gradient_fn = RUNS[0]

    def value(x):
        found, gradient = gradient_fn(x.astype(np.float32))
        return float(found), np.asarray(gradient, np.float64)

    model = compiled_pyfunc.from_pyfunc(
        dim,
        lambda: value,
        lambda *_: lambda x, **_: {"x": np.asarray(x, np.float64)},
        [np.dtype(np.float64)],
        [(dim,)],
        ["x"],
        make_initial_point_fn=lambda seed: np.float64(starts[seed % len(starts)]),
    )
    draws = module.sample(
        model,
        draws=settings["num_draws"],
        tune=settings["num_warmup"],
        chains=len(starts),
        cores=1,
        seed=seed,
        target_accept=settings["target_acceptance"],
        progress_bar=False,
    )
    x = draws.posterior["x"].to_numpy()
    counts = [
        int(group["n_steps"].sum())
        for group in (draws.warmup_sample_stats, draws.sample_stats)
    ]
    return x, sum(counts), counts[0] / sum(counts)


def main() -> None:
    """Writes found.npz."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sampler", choices=("numpyro", "nutpie"))
    parser.add_argument("given", type=pathlib.Path)
    given = parser.parse_args()
    with np.load(given.given) as file:
        starts, settings = file["starts"], json.loads(str(file["settings"]))
    build_fn = getattr(posteriors, settings["name"])
    is_credit = "german" in settings["name"]
    posterior = build_fn(settings["data_dir"]) if is_credit else build_fn()
    _, unravel = ravel_pytree(posterior.init)

    def log_density(x):
        return posterior.log_density(unravel(x))

    seconds = []
    for seed in (settings["seed"], settings["seed"] + 1):
        begin = time.process_time()
        sample_fn = globals()[given.sampler]
        x, gradients, share = sample_fn(log_density, starts, settings, seed)
        seconds.append(time.process_time() - begin)
    record = {
        "first_seconds": seconds[0],
        "seconds": seconds[1],
        "gradients": gradients,
        "share": share,
    }
    path = given.given.with_name("found.npz")
    np.savez(path, x=x, record=json.dumps(record))


if __name__ == "__main__":
    main()
