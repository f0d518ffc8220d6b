"""Posteriors of common models, with reference moments.

Models, data and moments of inference_gym 0.0.5 (Sountsov, Radul et al. 2020, Apache
License 2.0), in unbounded coordinates and with the log-determinants that these need.
Hierarchies are non-centred. The file beside this one is written by
`benchmarks/inference_gym_data.py`.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax.densities import logistic
from megjax.types import Array, Key, LogDensityFn, PyTree

FILE = pathlib.Path(__file__).with_suffix(".npz")


class Reference(NamedTuple):
    """Moments of the quantities, name -> float64: of long runs of Stan, or exact.

    error: the standard error of `mean`; of `std` it is not known. num_draws: of all
    chains together; 0 where the moments are exact.
    """

    mean: Mapping[str, np.ndarray]
    error: Mapping[str, np.ndarray]
    std: Mapping[str, np.ndarray]
    num_draws: int


class Posterior(NamedTuple):
    """A posterior in unbounded coordinates.

    name: for messages and tables.
    log_density: one position -> log p in nats, up to a constant.
    init: a position, zeros in the form of all of them: a dictionary of arrays.
    quantities: a position -> name -> array, what the reference is of.

    >>> import jax
    >>> import megjax
    >>> from megjax.densities import posteriors
    >>> schools = posteriors.eight_schools()
    >>> init = posteriors.starts(schools, jax.random.key(0), 4)
    >>> draws = megjax.sample(
    ...     schools.log_density, init, key=jax.random.key(1), num_samples=500,
    ...     target_acceptance=0.95, progress=False,
    ... )
    >>> effect = float(draws.posterior["avg_effect"].mean())
    >>> abs(effect - float(schools.reference.mean["avg_effect"])) < 2
    True
    """

    name: str
    log_density: LogDensityFn
    init: PyTree
    quantities: Callable[[PyTree], dict[str, Array]]
    reference: Reference


def starts(posterior: Posterior, key: Key, num: int) -> PyTree:
    """Positions for chains to start at, of N(0, I): [num, ...]."""
    leaves, form = jax.tree.flatten(posterior.init)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, (num, *x.shape)) for k, x in zip(keys, leaves)]
    return jax.tree.unflatten(form, drawn)


def eight_schools() -> Posterior:
    """Effects of coaching in eight schools (Rubin 1981): 10 coordinates.

    >>> from megjax.densities import posteriors
    >>> sorted(posteriors.eight_schools().init)
    ['avg_effect', 'log_stddev', 'standardised_effects']
    """
    effects = np.float64([28, 8, -3, 7, -1, 1, 18, 12])
    stddevs = np.float64([15, 10, 16, 11, 9, 11, 10, 18])

    def quantities(position):
        mean, log_stddev = position["avg_effect"], position["log_stddev"]
        schools = mean + jnp.exp(log_stddev) * position["standardised_effects"]
        return {
            "avg_effect": mean,
            "log_stddev": log_stddev,
            "school_effects": schools,
        }

    def log_density(position):
        found = quantities(position)
        prior = _normal(found["avg_effect"], 0, 10) + _normal(found["log_stddev"], 5, 1)
        prior += jnp.sum(_normal(position["standardised_effects"]))
        residuals = _normal(found["school_effects"] - _like(effects, prior), 0, stddevs)
        return prior + jnp.sum(residuals)

    init = _zeros(avg_effect=(), log_stddev=(), standardised_effects=8)
    return _posterior("eight_schools", log_density, init, quantities)


def german_credit(data_dir: str | None = None) -> Posterior:
    """Logistic regression of bad credits on 24 columns, priors N(0, 1): 25 weights.

    Of 1000 credits; the intercept is the last weight. The data are UCI's, which do not
    come with the package. Raises FileNotFoundError and ValueError as
    `logistic.regression`.
    """
    log_likelihood = _credits(data_dir)

    def log_density(position):
        weights = position["weights"]
        return log_likelihood(weights) + jnp.sum(_normal(weights))

    def quantities(position):
        return {"values": position["weights"]}

    init = _zeros(weights=25)
    return _posterior("german_credit", log_density, init, quantities)


def sparse_german_credit(data_dir: str | None = None) -> Posterior:
    """The same regression, whose weights have Gamma(1/2, 1/2) scales: 51 coordinates.

    A weight is the product of an N(0, 1), its own scale and one that all share.
    Coordinates are the logarithms of the scales.
    """
    log_likelihood = _credits(data_dir)

    def quantities(position):
        return {
            "unscaled_weights": position["unscaled_weights"],
            "local_scales": jnp.exp(position["log_local_scales"]),
            "global_scale": jnp.exp(position["log_global_scale"]),
        }

    def log_density(position):
        found = quantities(position)
        weights = found["unscaled_weights"] * found["local_scales"]
        prior = jnp.sum(_normal(found["unscaled_weights"]))
        for name in ("log_local_scales", "log_global_scale"):
            # Gamma(1/2, 1/2) of exp(v), times exp(v).
            log_scale = position[name]
            prior += jnp.sum(0.5 * log_scale - 0.5 * jnp.exp(log_scale))
        return log_likelihood(weights * found["global_scale"]) + prior

    init = _zeros(unscaled_weights=25, log_local_scales=25, log_global_scale=())
    return _posterior("sparse_german_credit", log_density, init, quantities)


def item_response() -> Posterior:
    """Item response theory with one parameter an item: 501 coordinates.

    30,012 answers, drawn from the model, of 400 students to some of 100 questions.
    """
    answers = _arrays()["data/item_response/answers"]
    signs = np.where(answers < 0, 0, 2 * answers - 1).astype(np.float64)
    unanswered = np.sum(answers < 0)

    def quantities(position):
        return dict(position)

    def log_density(position):
        mean = position["mean_student_ability"]
        ability = position["centered_student_ability"]
        difficulty = position["question_difficulty"]
        prior = _normal(mean, 0.75, 1)
        prior += jnp.sum(_normal(ability)) + jnp.sum(_normal(difficulty))
        logits = mean + ability[:, None] - difficulty
        # Missing answers have margins of 0, and a constant each.
        margins = _like(signs, logits) * logits
        log_likelihood = -jnp.sum(jax.nn.softplus(-margins))
        return prior + log_likelihood + unanswered * np.log(2)

    init = _zeros(
        mean_student_ability=(),
        centered_student_ability=400,
        question_difficulty=100,
    )
    return _posterior("item_response", log_density, init, quantities)


def brownian_motion(
    *, known_scales: bool = False, marginalised: bool = False
) -> Posterior:
    """A random walk of 30 steps with noise, of which 10 are not observed.

    32 coordinates: the steps in units of their scale, and both scales' logarithms,
    under N(0, 2^2). It narrows where the noise is small, so that NUTS diverges there
    unless its steps are short (`target_acceptance=0.99`). With known scales, 0.1 of the
    steps and 0.15 of the noise, it has 30 coordinates and is Gaussian.

    marginalised: other coordinates of the same posterior, which do not narrow. The walk
    is drawn backwards from standard normals, given the scales and the observations
    (forward filtering, backward sampling: Carter and Kohn 1994), so that the density is
    that of the scales with the walk integrated out, times N(0, I). Scales are unknown.

    With unknown scales the reference is a quadrature's: inference_gym's means are up to
    18 of their standard errors away from it. Raises ValueError where both are given.
    """
    if marginalised:
        if known_scales:
            raise ValueError(
                "known_scales=True, marginalised=True: give one of them; there is no "
                "scale to narrow where both are known"
            )
        return _marginalised_walk()
    is_observed, values = _observed_walk()

    def scales(position):
        if known_scales:
            return 0.1, 0.15
        names = ("log_innovation_noise_scale", "log_observation_noise_scale")
        return [jnp.exp(position[name]) for name in names]

    def quantities(position):
        innovation, noise = scales(position)
        locs = jnp.cumsum(innovation * position["standardised_steps"])
        if known_scales:
            return {"values": locs}
        return {
            "innovation_noise_scale": innovation,
            "observation_noise_scale": noise,
            "locs": locs,
        }

    def log_density(position):
        noise = scales(position)[1]
        locs = quantities(position)["values" if known_scales else "locs"]
        prior = jnp.sum(_normal(position["standardised_steps"]))
        if not known_scales:
            prior += _normal(position["log_innovation_noise_scale"], 0, 2)
            prior += _normal(position["log_observation_noise_scale"], 0, 2)
        residuals = _normal(locs - _like(values, locs), 0, noise)
        return prior + jnp.sum(jnp.where(is_observed, residuals, 0))

    if known_scales:
        name, init = "brownian_motion_known_scales", _zeros(standardised_steps=30)
    else:
        name, init = "brownian_motion", _zeros(**WALK_SCALES, standardised_steps=30)
    return _posterior(name, log_density, init, quantities)


def stochastic_volatility() -> Posterior:
    """Volatility of 100 days of the S&P 500, AR(1) in its log: 103 coordinates.

    (persistence + 1) / 2 ~ Beta(20, 1.5), the mean of the log-volatility ~
    Cauchy(0, 5), the scale of its shocks ~ half-Cauchy(2); returns ~
    N(0, exp(log-volatility)).
    """
    returns = _arrays()["data/stochastic_volatility/returns"]

    def quantities(position):
        logit, shock_scale = position["logit_persistence"], position["log_shock_scale"]
        persistence = jnp.tanh(logit / 2)
        # sqrt(1 - persistence^2), with all its digits near 1.
        stationary = 1 / jnp.cosh(logit / 2)
        shocks = position["standardised_shocks"]
        first = jnp.arange(len(returns)) == 0
        shocks = jnp.exp(shock_scale) * jnp.where(first, shocks / stationary, shocks)
        mean = position["mean_log_volatility"]
        return {
            "persistence_of_volatility": persistence,
            "mean_log_volatility": mean,
            "white_noise_shock_scale": jnp.exp(shock_scale),
            "log_volatility": mean + _autoregression(persistence, shocks),
        }

    def log_density(position):
        found = quantities(position)
        logit, log_scale = position["logit_persistence"], position["log_shock_scale"]
        # Beta(20, 1.5) of sigmoid(v), times its derivative.
        prior = -20 * jax.nn.softplus(-logit) - 1.5 * jax.nn.softplus(logit)
        prior -= jnp.log1p((found["mean_log_volatility"] / 5) ** 2)
        prior += log_scale - jnp.log1p((found["white_noise_shock_scale"] / 2) ** 2)
        prior += jnp.sum(_normal(position["standardised_shocks"]))
        log_variance = found["log_volatility"]
        squares = _like(returns, log_variance) ** 2 * jnp.exp(-log_variance)
        return prior - 0.5 * jnp.sum(squares + log_variance)

    init = _zeros(
        logit_persistence=(),
        mean_log_volatility=(),
        log_shock_scale=(),
        standardised_shocks=100,
    )
    return _posterior("stochastic_volatility", log_density, init, quantities)


def radon() -> Posterior:
    """Radon in 919 houses of 85 counties of Minnesota: 91 coordinates.

    Gelman and Hill 2007. Log-radon on the county's log-uranium, the floor, the county's
    mean floor and the county; uniform priors of both scales on (0, 100).
    """
    arrays = {k: _arrays()[f"data/radon/{k}"] for k in RADON}
    county, floor = arrays["county"].astype(np.int32), np.float64(arrays["floor"])
    log_uranium = arrays["log_uranium"]
    num_counties = len(log_uranium)
    mean_floor = np.bincount(county, floor) / np.bincount(county)

    def quantities(position):
        scale = 100 * jax.nn.sigmoid(position["logit_county_effect_scale"])
        mean = position["county_effect_mean"]
        return {
            "county_effect": mean + scale * position["standardised_county_effects"],
            "county_effect_mean": mean,
            "county_effect_scale": scale,
            "log_radon_scale": 100 * jax.nn.sigmoid(position["logit_log_radon_scale"]),
            "weight": position["weight"],
        }

    def log_density(position):
        found = quantities(position)
        weight, scale = found["weight"], found["log_radon_scale"]
        prior = _normal(found["county_effect_mean"]) + jnp.sum(_normal(weight))
        prior += jnp.sum(_normal(position["standardised_county_effects"]))
        for name in ("logit_county_effect_scale", "logit_log_radon_scale"):
            # The derivative of the sigmoid.
            v = position[name]
            prior -= jax.nn.softplus(v) + jax.nn.softplus(-v)
        of_county = found["county_effect"] + weight[0] * _like(log_uranium, weight)
        of_county += weight[2] * _like(mean_floor, weight)
        fitted = of_county[county] + weight[1] * _like(floor, weight)
        residuals = _like(arrays["log_radon"], fitted) - fitted
        return prior + jnp.sum(_normal(residuals, 0, scale))

    init = _zeros(
        county_effect_mean=(),
        logit_county_effect_scale=(),
        standardised_county_effects=num_counties,
        weight=3,
        logit_log_radon_scale=(),
    )
    return _posterior("radon", log_density, init, quantities)


RADON = ("county", "floor", "log_radon", "log_uranium")


WALK_SCALES = {"log_innovation_noise_scale": (), "log_observation_noise_scale": ()}
"""Shapes of the coordinates that say how far the random walk goes."""


def _observed_walk() -> tuple[np.ndarray, np.ndarray]:
    """Whether each step of the random walk was observed, and as what; 0 where not."""
    observed = _arrays()["data/brownian_motion/observed"]
    is_observed = np.isfinite(observed)
    return is_observed, np.where(is_observed, observed, 0)


def _marginalised_walk() -> Posterior:
    """`brownian_motion` in the coordinates of a backward simulation."""
    is_observed, values = _observed_walk()

    def filtered(position):
        """Scales, and of the filter the means, variances and log-likelihoods [30]."""
        innovation, noise = (jnp.exp(position[name]) for name in WALK_SCALES)

        def one(carry, step):
            mean, variance = carry
            seen, value = step
            variance = variance + innovation**2
            total = variance + noise**2
            gain = jnp.where(seen, variance / total, 0)
            log_p = jnp.where(seen, _normal(value, mean, jnp.sqrt(total)), 0)
            mean = mean + gain * (value - mean)
            # variance - gain variance, without a difference of like numbers.
            variance = jnp.where(seen, gain * noise**2, variance)
            return (mean, variance), (mean, variance, log_p)

        zero = jnp.zeros_like(innovation)
        steps = is_observed, _like(values, innovation)
        _, found = jax.lax.scan(one, (zero, zero), steps)
        return innovation, noise, *found

    def quantities(position):
        innovation, noise, means, variances, _ = filtered(position)

        def one(later, step):
            # The walk at the last step has no later one: precision 0.
            later, precision = later
            mean, variance, normal = step
            share = variance * precision / (1 + variance * precision)
            std = jnp.sqrt(variance / (1 + variance * precision))
            loc = mean + share * (later - mean) + std * normal
            return (loc, innovation**-2), loc

        zero = jnp.zeros_like(innovation)
        steps = means, variances, position["standardised_walk"]
        _, locs = jax.lax.scan(one, (zero, zero), steps, reverse=True)
        return {
            "innovation_noise_scale": innovation,
            "observation_noise_scale": noise,
            "locs": locs,
        }

    def log_density(position):
        prior = jnp.sum(_normal(position["standardised_walk"]))
        for name in WALK_SCALES:
            prior += _normal(position[name], 0, 2)
        return prior + jnp.sum(filtered(position)[-1])

    init = _zeros(**WALK_SCALES, standardised_walk=30)
    plain = _posterior("brownian_motion", log_density, init, quantities)
    return plain._replace(name="brownian_motion_marginalised")


def _credits(data_dir) -> Callable[[Array], Array]:
    """Weights [25], the intercept last -> log-likelihood."""
    data = logistic.table("german", data_dir)
    columns = np.roll(data.x, -1, axis=1)
    signed = columns * data.labels[:, None]

    def log_likelihood(weights):
        return -jnp.sum(jax.nn.softplus(-_like(signed, weights) @ weights))

    return log_likelihood


def _autoregression(coefficient: Array, shocks: Array) -> Array:
    """h_t = coefficient h_(t-1) + shock_t, in log2(T) steps: [T] -> [T]."""
    power, lag = coefficient, 1
    while lag < len(shocks):
        shocks = shocks + power * jnp.pad(shocks, (lag, 0))[: len(shocks)]
        power, lag = power**2, 2 * lag
    return shocks


def _normal(x, loc=0, scale=1) -> Array:
    """log N(x; loc, scale^2), without the constant of pi."""
    scale = _like(scale, x)
    return -0.5 * ((x - loc) / scale) ** 2 - jnp.log(scale)


def _like(values, x) -> Array:
    """Values in the floats of x."""
    return jnp.asarray(values, jnp.result_type(x))


def _zeros(**shapes) -> dict[str, Array]:
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


def _posterior(name, log_density, init, quantities) -> Posterior:
    """With the reference of this name."""
    arrays, moments = _arrays(), {"mean": {}, "error": {}, "std": {}}
    for path, values in arrays.items():
        owner, *rest = path.split("/")
        if owner == name and len(rest) == 2:
            moments[rest[1]][rest[0]] = values
    reference = Reference(**moments, num_draws=int(arrays[f"{name}/num_draws"]))
    return Posterior(name, log_density, init, quantities, reference)


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    """The file: data/NAME/COLUMN, NAME/QUANTITY/MOMENT and NAME/num_draws."""
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)
