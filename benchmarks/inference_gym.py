r"""Posteriors of inference_gym by `megjax.sample` and others, against its moments.

    python -m benchmarks.inference_gym --data_dir=../shared/data
    python -m benchmarks.inference_gym --targets=radon --kernels=nuts,mclmc
    python -m benchmarks.inference_gym --kernels= --numpyro_python=PYTHON \
        --nutpie_python=PYTHON --nutpie_flow_python=PYTHON --flowmc_python=PYTHON

Prints a line of JSON per posterior and sampler. Errors of means and of variances about
the reference mean are in standard errors, ours (of the effective draws, for variances
those of the squares) and the reference's together; `typical_largest` is the median of
the largest of as many independent ones. The reference's error of a variance is taken to
be that of as many effective draws as its mean has, at most of all its draws. `marks`
are what the table adds to errors above `moments.FAR` and R-hats above `R_HAT`.

Seconds are of the CPU: of a call with compilation (`first_seconds`, of "learned" with
its training) and of a second one, warm-up included. Effective draws are the least of
all quantities and their squares, of the second call. `with_warm_up` is effective draws
per second at so many draws of all chains, warm-up included and compilation not, if a
step of the warm-up costs what a draw does. A second call of "learned" takes the trained
proposal from a file, but measures NUTS and it again: it has no `with_warm_up`, its
seconds are mostly of these, and its gradients are those of its draws alone.

Peers run `benchmarks/inference_gym_peer.py` with a Python that has them and jax; they
sample the same function from the same starts.
"""

import functools
import json
import pathlib
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import flags
from jax.flatten_util import ravel_pytree

import megjax
from benchmarks import moments, recording
from megjax import app
from megjax.densities import posteriors
from megjax.samplers import hmc, tempering
from megjax.sampling import learned

BUILDERS: dict[str, Callable[[], posteriors.Posterior]] = {
    "eight_schools": posteriors.eight_schools,
    "german_credit": lambda: posteriors.german_credit(DATA_DIR.value),
    "brownian_motion": posteriors.brownian_motion,
    "brownian_motion_marginalised": functools.partial(
        posteriors.brownian_motion, marginalised=True
    ),
    "stochastic_volatility": posteriors.stochastic_volatility,
    "radon": posteriors.radon,
    "item_response": posteriors.item_response,
    "sparse_german_credit": lambda: posteriors.sparse_german_credit(DATA_DIR.value),
}
KERNELS = ("nuts", "mclmc", "tempering", "learned")
TARGETS = flags.DEFINE_list("targets", list(BUILDERS), "Posteriors.")
KERNEL = flags.DEFINE_list("kernels", list(KERNELS), "Of megjax.sample.")
NUM_CHAINS = flags.DEFINE_integer("chains", 4, "Chains.", 2)
NUM_WARMUP = flags.DEFINE_integer("num_warmup", 1000, "Warm-up steps.", 100)
NUM_DRAWS = flags.DEFINE_integer("draws", 1000, "Of every chain.", 100)
THIN = flags.DEFINE_integer("thin", 5, "Steps of mclmc to a draw.", 1)
REPLICAS = flags.DEFINE_integer(
    "replicas", tempering.Spec().num_replicas, "Of tempering.", 2
)
LOWEST = flags.DEFINE_float(
    "lowest", tempering.Spec().lowest, "Inverse temperature of tempering.", 0.0, 1.0
)
INTEGRATION_STEPS = flags.DEFINE_integer(
    "integration_steps", 0, "Leapfrog steps of tempering by HMC; 0 for MALA.", 0
)
BUDGET = flags.DEFINE_float("budget", 60.0, "Seconds of training of learned.", 0.0)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Of the Statlog sets.")
TARGET_ACCEPTANCE = flags.DEFINE_float(
    "target_acceptance",
    None,
    "Of NUTS, in place of 0.99 or 0.9; of tempering by HMC, of 0.8.",
    0.0,
    1.0,
)
X64 = flags.DEFINE_bool("x64", False, "Whether to sample in float64.")
SEED = flags.DEFINE_integer("seed", 0, "Of starts and chains.")
PEERS = {
    name: flags.DEFINE_string(f"{name}_python", None, f"A Python with {name} and jax.")
    for name in ("numpyro", "nutpie", "nutpie_flow", "flowmc")
}
ACCEPTANCE = {"brownian_motion": 0.99}
"""Targets of NUTS' step size that are not `DEFAULT_ACCEPTANCE`."""

DEFAULT_ACCEPTANCE = 0.9
PATH_ACCEPTANCE = 0.8
"""Of NUTS, and of tempering by HMC."""

SIZES = (10**3, 10**4, 10**5, 10**6)
"""Draws of all chains at which warm-up and training are counted in."""

R_HAT = 1.01
"""Beyond which an R-hat is marked in the table."""

GRADIENTS = {"mclmc": 2}
"""Of a step, where `n_steps` is not recorded: of McLachlan's integrator."""


def main() -> int:
    """Prints the table."""
    jax.config.update("jax_enable_x64", X64.value)
    for found in recording.recorded(records(), [SEED.value]):
        print(json.dumps(found), flush=True)
    return 0


def records() -> Iterator[dict]:
    """One of each posterior and sampler."""
    for name in TARGETS.value:
        if name not in BUILDERS:
            known = ", ".join(BUILDERS)
            raise ValueError(f"targets={name!r}: choose from {known}.")
        posterior = BUILDERS[name]()
        for label, record in runs(posterior):
            named = {"target": name, "kernel": label, "settings": settings(label)}
            yield named | rounded(record) | {"marks": marks(record)}


def marks(record) -> dict[str, str]:
    """An asterisk for each figure of a record that is beyond its limit, else ""."""
    values = {
        "mean": (record["largest_mean_error"], moments.FAR),
        "variance": (record["largest_variance_error"], moments.FAR),
        "r_hat": (record["r_hat"], R_HAT),
    }
    return {name: "" if v <= limit else "*" for name, (v, limit) in values.items()}


def settings(label: str) -> str:
    """What flags change of a sampler's settings, as ", 5000 warm-up steps"."""
    words = [(NUM_CHAINS, "{} chains"), (NUM_WARMUP, "{} warm-up steps")]
    words += [(NUM_DRAWS, "{} draws"), (SEED, "seed {}"), (X64, "float64")]
    words += {
        "nuts": [(TARGET_ACCEPTANCE, "target acceptance {}")],
        "mclmc": [(THIN, "{} steps per draw")],
        "tempering": [
            (REPLICAS, "{} replicas"),
            (LOWEST, "lowest beta {}"),
            (INTEGRATION_STEPS, "HMC with {} leapfrog steps"),
            (TARGET_ACCEPTANCE, "target acceptance {}"),
        ],
        "learned": [(BUDGET, "{:g} s of training")],
    }.get(label, [])
    changed = ((flag, text) for flag, text in words if flag.value != flag.default)
    return "".join(f", {text.format(flag.value)}" for flag, text in changed)


def runs(posterior) -> Iterator[tuple[str, dict]]:
    """(sampler, what was measured) of all samplers."""
    for kernel in filter(None, KERNEL.value):
        yield kernel, ours(posterior, kernel)
    for name, python in PEERS.items():
        if python.value:
            yield name, peer(posterior, name, python.value)


def ours(posterior, kernel: str) -> dict:
    """Two calls of `megjax.sample`, the second of which is measured."""
    init = posteriors.starts(posterior, jax.random.key(SEED.value), NUM_CHAINS.value)
    thin = THIN.value if kernel == "mclmc" else 1
    settings = {"num_warmup": NUM_WARMUP.value, "num_samples": NUM_DRAWS.value}
    settings |= {"thin": thin, "kernel": kernel, "progress": False}
    if kernel in ("nuts", "learned"):
        settings["target_acceptance"] = acceptance(posterior)
    if kernel == "tempering":
        settings["kernel"] = tempered()
        if INTEGRATION_STEPS.value:
            settings["target_acceptance"] = TARGET_ACCEPTANCE.value or PATH_ACCEPTANCE
    calls = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kernel == "learned":
            path = str(pathlib.Path(folder, "proposal.npz"))
            settings["kernel"] = learned.Spec(budget=BUDGET.value, path=path)
        for key in jax.random.split(jax.random.key(SEED.value + 1)):
            begin = time.process_time()
            draws = megjax.sample(posterior.log_density, init, key=key, **settings)
            calls.append((draws, time.process_time() - begin))
    (before, first), (draws, second) = calls
    steps = NUM_WARMUP.value + NUM_DRAWS.value * thin
    position = {k: v.to_numpy() for k, v in draws.posterior.items()}
    per_step = GRADIENTS.get(kernel)
    sample_stats = draws.sample_stats
    if per_step is None:
        per_step = float(sample_stats["n_steps"].mean())
    if kernel == "tempering":
        per_step *= max(INTEGRATION_STEPS.value, 1)
    record = {"used": draws.attrs["kernel"]} if kernel == "learned" else {}
    if "diverging" in sample_stats:
        record["divergences"] = int(sample_stats["diverging"].sum())
    record |= {"first_seconds": first, "seconds": second}
    record["gradients"] = per_step * steps * NUM_CHAINS.value
    if kernel == "learned":
        record["training_seconds"] = float(before.attrs.get("training_seconds", 0.0))
        record["gradients"] = per_step * NUM_DRAWS.value * NUM_CHAINS.value
    share = None if kernel == "learned" else NUM_WARMUP.value / steps
    return record | measured(posterior, position, record, share)


def tempered() -> tempering.Spec:
    """Parallel tempering as the flags say."""
    spec = tempering.Spec(num_replicas=REPLICAS.value, lowest=LOWEST.value)
    if steps := INTEGRATION_STEPS.value:
        move = functools.partial(hmc.hmc, num_integration_steps=steps, jitter=1.0)
        spec = spec._replace(kernel_fn=move)
    return spec


def peer(posterior, name: str, python: str) -> dict:
    """The same by another sampler, in a process of its own."""
    init = posteriors.starts(posterior, jax.random.key(SEED.value), NUM_CHAINS.value)
    _, unravel = ravel_pytree(posterior.init)
    given = {
        "name": posterior.name,
        "data_dir": DATA_DIR.value,
        "num_warmup": NUM_WARMUP.value,
        "num_draws": NUM_DRAWS.value,
        "target_acceptance": acceptance(posterior),
        "seed": SEED.value,
    }
    script = pathlib.Path(__file__).with_name("inference_gym_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "given.npz")
        starts = jax.vmap(lambda p: ravel_pytree(p)[0])(init)
        np.savez(path, starts=np.asarray(starts), settings=json.dumps(given))
        subprocess.run([python, str(script), name, str(path)], check=True)
        with np.load(path.with_name("found.npz")) as file:
            found = dict(file)
    record = json.loads(str(found["record"]))
    position = jax.vmap(jax.vmap(unravel))(found["x"].astype(np.float32))
    return record | measured(posterior, position, record, record.pop("share"))


def acceptance(posterior) -> float:
    """That NUTS' step size is tuned for."""
    found = ACCEPTANCE.get(posterior.name, DEFAULT_ACCEPTANCE)
    return TARGET_ACCEPTANCE.value or found


def measured(posterior, position, record, share) -> dict:
    """Errors and efficiency of draws, name -> [chains, draws, ...].

    share: of the seconds that are the warm-up's, None where that is not known.
    """
    quantities = jax.jit(jax.vmap(jax.vmap(posterior.quantities)))(position)
    found = moments.compared(quantities, posterior.reference)
    ess, seconds = found["ess"], record["seconds"]
    found["ess_per_gradient"] = ess / record["gradients"]
    found["ess_per_second"] = ess / seconds
    if share is not None:
        chains, num = next(iter(quantities.values())).shape[:2]
        # Warm-up once, and draws at what they cost and are worth here.
        found["with_warm_up"] = {
            size: ess / seconds / (share * chains * num / size + 1 - share)
            for size in SIZES
        }
    return found


def rounded(value):
    """Numbers to four digits."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    app.run(main)
