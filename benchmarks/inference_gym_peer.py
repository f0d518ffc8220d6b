"""Other samplers on a posterior of megjax, for `benchmarks.inference_gym`.

    PYTHON benchmarks/inference_gym_peer.py SAMPLER GIVEN.npz

Needs the sampler and jax. GIVEN.npz has starts [chains, dim] and settings; draws of a
second run go to found.npz beside it, with the CPU seconds of both and the gradients of
the second.

numpyro, nutpie: NUTS with a diagonal mass matrix, as many steps of warm-up, and all
chains on one core: numpyro's side by side, nutpie's one after the other, with the
gradient called from Python. nutpie_flow: nutpie's NUTS on a normalising flow that its
warm-up trains, with its default network. flowmc: loops of 50 steps of MALA and 50 by a
spline flow, which is trained in the loops of the warm-up: 10 passes over 5000 positions,
its default network. One gradient of it is counted for a step of MALA.
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
    """(draws [chains, draws, dim], gradients, share of the warm-up, divergences)."""
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
    found = run.get_extra_fields()
    gradients = float(np.mean(found["num_steps"])) * steps * len(starts)
    return x, gradients, settings["num_warmup"] / steps, int(sum(found["diverging"]))


def nutpie(log_density, starts, settings, seed, *, has_flow=False):
    """As `numpyro`; with a flow, the share of its training is not known."""
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
        raw_logp_fn=(lambda x: (log_density(x),)) if has_flow else None,
    )
    draws = module.sample(
        model,
        draws=settings["num_draws"],
        tune=settings["num_warmup"],
        chains=len(starts),
        cores=1,
        seed=seed,
        target_accept=settings["target_acceptance"],
        transform_adapt=has_flow,
        progress_bar=False,
    )
    x = draws.posterior["x"].to_numpy()
    counts = [
        int(group["n_steps"].sum())
        for group in (draws.warmup_sample_stats, draws.sample_stats)
    ]
    diverging = int(draws.sample_stats["diverging"].sum())
    share = None if has_flow else counts[0] / sum(counts)
    return x, sum(counts), share, diverging


def nutpie_flow(log_density, starts, settings, seed):
    """As `nutpie`."""
    return nutpie(log_density, starts, settings, seed, has_flow=True)


def flowmc(log_density, starts, settings, seed):
    """As `numpyro`; it counts no divergences."""
    from flowMC.resource_strategy_bundle.RQSpline_MALA import RQSpline_MALA_Bundle
    from flowMC.Sampler import Sampler

    if not RUNS:
        RUNS.append(lambda x, data: log_density(x))
    num, dim = starts.shape
    loops = [settings[name] // 100 for name in ("num_warmup", "num_draws")]
    keys = jax.random.split(jax.random.key(seed))
    bundle = RQSpline_MALA_Bundle(
        keys[0],
        num,
        dim,
        RUNS[0],
        50,
        50,
        *loops,
        10,
        batch_size=1000,
        n_max_examples=5000,
        history_window=1000,
    )
    sampler = Sampler(
        n_dim=dim,
        n_chains=num,
        rng_key=keys[1],
        resource_strategy_bundles=bundle,
        checkpoint_interval=0,
    )
    sampler.sample(jnp.asarray(starts), {})
    x = np.asarray(sampler.resources["positions_production"].data)
    return x, 50 * sum(loops) * num, None, None


SAMPLERS = {f.__name__: f for f in (numpyro, nutpie, nutpie_flow, flowmc)}


def main() -> None:
    """Writes found.npz."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sampler", choices=SAMPLERS)
    parser.add_argument("given", type=pathlib.Path)
    given = parser.parse_args()
    with np.load(given.given) as file:
        starts, settings = file["starts"], json.loads(str(file["settings"]))
    name = settings["name"]
    build_fn = getattr(posteriors, name.removesuffix("_marginalised"))
    options = {"data_dir": settings["data_dir"]} if "german" in name else {}
    options |= {"marginalised": True} if name.endswith("_marginalised") else {}
    posterior = build_fn(**options)
    _, unravel = ravel_pytree(posterior.init)

    def log_density(x):
        return posterior.log_density(unravel(x))

    seconds = []
    for seed in (settings["seed"], settings["seed"] + 1):
        begin = time.process_time()
        sample_fn = SAMPLERS[given.sampler]
        x, gradients, share, diverging = sample_fn(log_density, starts, settings, seed)
        seconds.append(time.process_time() - begin)
    record = {
        "first_seconds": seconds[0],
        "seconds": seconds[1],
        "gradients": gradients,
        "share": share,
    }
    if diverging is not None:
        record["divergences"] = diverging
    path = given.given.with_name("found.npz")
    np.savez(path, x=x, record=json.dumps(record))


if __name__ == "__main__":
    main()
