"""Observables of the square-lattice Ising model, exact and measured with error bars.

Onsager 1944 and Kaufman 1949 (energy), Yang 1952 (magnetisation). J = k_B = 1, zero
field, periodic lattices; energies per spin.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from megjax import plotting
from megjax.learners.base import Learner
from megjax.types import Array, Evaluation, PyTree, Report

CRITICAL_INVERSE_TEMPERATURE = math.log(1 + math.sqrt(2)) / 2


class Estimate(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float


def onsager_energy(inverse_temperature: float) -> float:
    """Energy per spin of the infinite lattice."""
    tanh = math.tanh(2 * inverse_temperature)
    # The complementary modulus: near 0, at the critical point, it is the exact one.
    modulus = 2 * tanh**2 - 1
    integral = 2 / math.pi * special.ellipkm1(modulus**2) if modulus else 0.0
    return -(1 + modulus * float(integral)) / tanh


def yang_magnetisation(inverse_temperature: float) -> float:
    """Spontaneous magnetisation of the infinite lattice; 0 above the critical point."""
    if inverse_temperature <= CRITICAL_INVERSE_TEMPERATURE:
        return 0.0
    return (1 - math.sinh(2 * inverse_temperature) ** -4) ** 0.125


def kaufman_log_partition(inverse_temperature: Array, size: int) -> Array:
    """log Z of the size x size torus, as a function that JAX can differentiate.

    Take it in float64: two of its terms cancel above the critical temperature.
    """
    double = 2 * inverse_temperature
    angles = jnp.pi * jnp.arange(1, 2 * size) / size
    ratio = jnp.cosh(double) / jnp.tanh(double)
    # The first is signed: it is negative above the critical temperature.
    first = double + jnp.log(jnp.tanh(inverse_temperature))
    exponents = jnp.concatenate([first[None], jnp.arccosh(ratio - jnp.cos(angles))])
    exponents *= size / 2

    def log_cosh(x):
        return jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x)))

    def log_sinh(x):
        return jnp.abs(x) + jnp.log1p(-jnp.exp(-2 * jnp.abs(x)))

    terms = [
        jnp.sum(log_of(exponents[parity::2]))
        for parity in (1, 0)
        for log_of in (log_cosh, log_sinh)
    ]
    sign = jnp.stack([*jnp.ones(3), jnp.sign(first)])
    total = jax.nn.logsumexp(jnp.stack(terms), b=sign)
    # log_cosh and log_sinh are of 2 cosh and 2 sinh, as the formula has them.
    return size**2 / 2 * jnp.log(2 * jnp.sinh(double)) - jnp.log(2.0) + total


def kaufman(inverse_temperature: float, size: int) -> tuple[float, float]:
    """Energy per spin and specific heat of the size x size torus, exactly."""
    with jax.enable_x64(True):
        beta = jnp.float64(inverse_temperature)
        slope = jax.grad(kaufman_log_partition)
        energy = -slope(beta, size) / size**2
        curvature = jax.grad(slope)(beta, size) / size**2
        return float(energy), float(curvature * beta**2)


def energies(spins: np.ndarray) -> np.ndarray:
    """Energy per spin of lattices [..., L, L] of -1 and 1: [...]."""
    neighbours = np.roll(spins, -1, -1) + np.roll(spins, -1, -2)
    return -np.mean(spins * neighbours, axis=(-2, -1), dtype=np.float64)


def magnetisations(spins: np.ndarray) -> np.ndarray:
    """Mean spin of lattices [..., L, L]: [...]."""
    return np.mean(spins, axis=(-2, -1), dtype=np.float64)


def correlations(spins: np.ndarray) -> np.ndarray:
    """<s_0 s_r> along the axes for r = 0 .. L/2: [N, L, L] -> [L // 2 + 1]."""
    spins = np.float32(spins)
    return np.array(
        [
            np.mean([np.mean(spins * np.roll(spins, r, axis)) for axis in (1, 2)])
            for r in range(spins.shape[-1] // 2 + 1)
        ]
    )


def jackknife(statistic: Callable[..., float], *records: np.ndarray) -> Estimate:
    """A function of flat records and its error, by leaving out one chain at a time.

    records: [chains, draws] each. Chains are independent, however strongly the draws
    of one chain depend on each other.
    """
    num = len(records[0])
    rows = np.arange(num)
    left_out = [
        statistic(*(record[rows != i].ravel() for record in records)) for i in rows
    ]
    value = statistic(*(record.ravel() for record in records))
    return Estimate(float(value), float(math.sqrt(num - 1) * np.std(left_out)))


def observables(
    spins: np.ndarray, inverse_temperature: float
) -> Mapping[str, Estimate]:
    """What is measured of equilibrium lattices [chains, draws, L, L], per spin.

    energy; magnetisation: mean of |m|, and `signed_magnetisation` of m.
    susceptibility: beta N (<m^2> - <|m|>^2); specific_heat: beta^2 N var(u).
    """
    num = spins.shape[-1] ** 2
    u, m = energies(spins), magnetisations(spins)
    heat, response = inverse_temperature**2 * num, inverse_temperature * num
    return {
        "energy": jackknife(np.mean, u),
        "magnetisation": jackknife(np.mean, np.abs(m)),
        "signed_magnetisation": jackknife(np.mean, m),
        "susceptibility": jackknife(lambda m: response * np.var(np.abs(m)), m),
        "specific_heat": jackknife(lambda u: heat * np.var(u), u),
    }


def ising(
    learner: Learner,
    spins: np.ndarray,
    inverse_temperature: float,
    *,
    num_samples: int = 500,
) -> Evaluation:
    """An evaluation of fantasies against data and the exact solution.

    spins: data in equilibrium [chains, draws, L, L]. Samples of the learner are
    [num, L, L, 1] and count as independent.
    Metrics: each observable and its standard error of data and of fantasies; the exact
    energy and specific heat of this lattice, and energy and magnetisation of the
    infinite one.
    """
    size = spins.shape[-1]
    data = observables(spins, inverse_temperature)
    exact = exact_values(inverse_temperature, size)
    draw = jax.jit(lambda key, state: learner.sample(key, state, num_samples))

    def evaluate(key, state):
        fantasies = np.sign(np.asarray(draw(key, state))).reshape(-1, 1, size, size)
        found = observables(fantasies, inverse_temperature)
        metrics = _named("data", data) | _named("fantasies", found) | exact
        return Report(metrics, _pictures(spins, fantasies))

    return evaluate


def recovered(
    couplings_fn: Callable[[PyTree], Array], inverse_temperature: float
) -> Evaluation:
    """An evaluation of learned couplings, of which all are beta in truth.

    couplings_fn: learner state -> [E], equivalent bonds. Metrics: their mean with its
    standard error, their standard deviation, and the truth.
    """

    def evaluate(key, state):
        del key
        found = np.asarray(couplings_fn(state), np.float64)
        metrics = {
            "mean": found.mean(),
            "mean_error": found.std(ddof=1) / math.sqrt(len(found)),
            "std": found.std(ddof=1),
            "truth": inverse_temperature,
        }
        return Report({name: float(value) for name, value in metrics.items()})

    return evaluate


def exact_values(inverse_temperature: float, size: int) -> Mapping[str, float]:
    """Exact energies, specific heat and magnetisation, by name."""
    energy, specific_heat = kaufman(inverse_temperature, size)
    return {
        "exact_energy": energy,
        "exact_specific_heat": specific_heat,
        "infinite_energy": onsager_energy(inverse_temperature),
        "infinite_magnetisation": yang_magnetisation(inverse_temperature),
    }


def _named(source, estimates):
    return {
        f"{source}_{name}{suffix}": number
        for name, estimate in estimates.items()
        for suffix, number in zip(("", "_error"), estimate)
    }


def _pictures(spins, fantasies):
    data = spins[:, -1:].reshape(-1, *spins.shape[2:])
    fantasies = fantasies[:, 0]
    lines = {
        name: (np.arange(len(values)), values)
        for name, values in (
            ("data", correlations(data)),
            ("fantasies", correlations(fantasies)),
        )
    }
    return {
        "data": plotting.image_grid(data[:25, ..., None]),
        "fantasies": plotting.image_grid(fantasies[:25, ..., None]),
        "correlations": plotting.curves(
            lines, x_label="distance r", y_label=r"$\langle s_0 s_r \rangle$"
        ),
    }
