r"""Writes `megjax/densities/posteriors.npz`: data and reference moments of posteriors.

    pip download --no-deps inference_gym==0.0.5 && unzip -d GYM inference_gym-*.whl
    pip download --no-deps --no-binary=:all: pymc3==3.6 && tar -xf pymc3-3.6.tar.gz
    python -m benchmarks.inference_gym_data --gym=GYM \
        --radon=pymc3-3.6/pymc3/examples/data

Data and moments are those of inference_gym 0.0.5 (The TensorFlow Probability Authors,
Apache License 2.0), cut to the posteriors that `megjax.densities.posteriors` has and
joined in one file. Radon it would fetch from the net; PyMC3 (Apache License 2.0) packs
copies of the same two tables of Gelman and Hill 2007. The German credit data are not in
it. The moments of the Brownian motion with unknown scales are not inference_gym's but a
quadrature's, from which those are up to 18 of their standard errors away.
"""

import csv
import importlib.util
import pathlib
import re

import numpy as np
from absl import flags

from megjax import app
from megjax.densities import posteriors

GYM = flags.DEFINE_string("gym", None, "The unpacked wheel.", required=True)
RADON = flags.DEFINE_string("radon", None, "Of srrs2.dat and cty.dat.", required=True)
MODULES = {
    "eight_schools": "eight_schools",
    "german_credit": "german_credit_numeric_logistic_regression",
    "sparse_german_credit": "german_credit_numeric_sparse_logistic_regression",
    "item_response": "synthetic_item_response_theory",
    "brownian_motion": "brownian_motion_unknown_scales_missing_middle_observations",
    "brownian_motion_known_scales": "brownian_motion_missing_middle_observations",
    "stochastic_volatility": "stochastic_volatility_sp500_small",
    "radon": "radon_contextual_effects_minnesota",
}
MOMENTS = {
    "MEAN": "mean",
    "MEAN_STANDARD_ERROR": "error",
    "STANDARD_DEVIATION": "std",
}
DEFAULT_SAMPLES, NUM_CHAINS = 150_000, 10
"""Of inference_gym's `tools/get_ground_truth.py`: draws of a chain, and chains."""


def main() -> int:
    """Writes the file."""
    arrays = data()
    for name, module in MODULES.items():
        arrays |= {f"{name}/{k}": v for k, v in reference(module).items()}
    observed = arrays["data/brownian_motion/observed"]
    exact = {f"brownian_motion/{k}": v for k, v in quadrature(observed).items()}
    for path, values in exact.items():
        published = arrays[path]
        print(path, np.max(np.abs(published - values)), "from the published")
    arrays |= exact
    np.savez_compressed(posteriors.FILE, **arrays)
    return 0


def module(path: str):
    """A file of the wheel, executed alone: its packages need TensorFlow Probability."""
    file = pathlib.Path(GYM.value, "inference_gym", path)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def reference(name: str) -> dict[str, np.ndarray]:
    """QUANTITY/mean, /error and /std of a posterior, and num_draws of them."""
    found = module(f"targets/ground_truth/{name}.py")
    pattern = re.compile(r"IDENTITY_(?:(\w+?)_)??(" + "|".join(MOMENTS) + ")")
    arrays = {}
    for constant, value in vars(found).items():
        if match := pattern.fullmatch(constant):
            quantity = (match[1] or "values").lower()
            arrays[f"{quantity}/{MOMENTS[match[2]]}"] = np.float64(value)
    samples = re.search(r"stan_samples\D+(\d+)", found.__doc__)
    per_chain = int(samples[1]) if samples else DEFAULT_SAMPLES
    return arrays | {"num_draws": np.int64(NUM_CHAINS * per_chain)}


def quadrature(observed: np.ndarray, num: int = 400) -> dict[str, np.ndarray]:
    """QUANTITY/MOMENT of the Brownian motion [T] with unknown scales, errors 0.

    Given the scales s and n the walk is Gaussian, of covariance s^2 K, and so is what
    is observed, of s^2 (K + (n / s)^2 I). num: points of either scale's logarithm.
    """
    times = np.arange(1.0, len(observed) + 1)
    walk, seen = np.minimum.outer(times, times), np.isfinite(observed)
    values, vectors = np.linalg.eigh(walk[seen][:, seen])
    across, y = walk[:, seen] @ vectors, vectors.T @ observed[seen]
    logs = np.linspace(-12, 3, num)
    s, n = np.meshgrid(np.exp(logs), np.exp(logs), indexing="ij")
    spectrum = values + (n / s)[..., None] ** 2
    log_p = -0.5 * np.sum(y**2 / (s[..., None] ** 2 * spectrum), axis=-1)
    log_p -= 0.5 * np.sum(np.log(spectrum), axis=-1) + np.sum(seen) * np.log(s)
    log_p -= (np.log(s) ** 2 + np.log(n) ** 2) / 8
    weights = np.exp(log_p - np.max(log_p))
    weights /= np.sum(weights)
    means = (y / spectrum) @ across.T
    squares = s[..., None] ** 2 * (np.diag(walk) - (1 / spectrum) @ across.T**2)
    arrays = {"num_draws": np.int64(0)}
    for name, first, second in (
        ("innovation_noise_scale", s, s**2),
        ("observation_noise_scale", n, n**2),
        ("locs", means, squares + means**2),
    ):
        mean = np.tensordot(weights, first, 2)
        std = np.sqrt(np.tensordot(weights, second, 2) - mean**2)
        arrays |= {f"{name}/mean": mean, f"{name}/std": std}
        arrays[f"{name}/error"] = np.zeros_like(mean)
    return arrays


def data() -> dict[str, np.ndarray]:
    """data/NAME/COLUMN of the posteriors that bring their data along."""
    brownian = module(
        "internal/datasets/brownian_motion_missing_middle_observations.py"
    )
    prices = module("internal/datasets/sp500_closing_prices.py").CLOSING_PRICES
    answers = module("internal/datasets/synthetic_item_response_theory.py")
    table = np.full((400, 100), -1, np.int8)
    rows = answers.STUDENT_IDS, answers.QUESTION_IDS
    table[rows] = answers.CORRECT
    returns = np.diff(prices)[-100:]
    return {
        "data/brownian_motion/observed": np.float64(brownian.OBSERVED_LOC),
        "data/stochastic_volatility/returns": returns - np.mean(returns),
        "data/item_response/answers": table,
    } | {f"data/radon/{k}": v for k, v in radon().items()}


def radon() -> dict[str, np.ndarray]:
    """Houses of Minnesota, and the uranium of their counties, in order of the names."""
    houses = [row for row in rows("srrs2.dat") if row["state"].strip() == "MN"]
    uranium = {
        int(row["ctfips"]): float(row["Uppm"])
        for row in rows("cty.dat")
        if row["st"].strip() == "MN"
    }
    names = [row["county"].strip() for row in houses]
    counties, county = np.unique(names, return_inverse=True)
    codes = {name: int(row["cntyfips"]) for name, row in zip(names, houses)}
    activity = np.float64([row["activity"] for row in houses])
    return {
        "floor": np.int8([row["floor"] for row in houses]),
        "county": np.int8(county),
        "log_radon": np.log(np.where(activity > 0, activity, 0.1)),
        "log_uranium": np.log([uranium[codes[name]] for name in counties]),
    }


def rows(name: str) -> list[dict[str, str]]:
    """Of a table with a header."""
    with open(pathlib.Path(RADON.value, name)) as file:
        return list(csv.DictReader(file, skipinitialspace=True))


if __name__ == "__main__":
    app.run(main)
