"""How likely a machine finds data: partition functions by annealing, and what needs none.

Neal 2001 (annealed importance sampling, AIS); Salakhutdinov and Murray 2008 (AIS of
restricted Boltzmann machines); Besag 1975 (pseudo-likelihood).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax.energies.family import Family, Units
from megjax.learners import proximal
from megjax.learners.contrastive import (
    Coding,
    reconstruction_error,
    sweeps,
    weight_metrics,
)
from megjax.samplers import partition
from megjax.types import Array, EnergyFn, Evaluation, Key, PyTree, Report

BITS = (0.0, 1.0)
SPINS = (-1.0, 1.0)


class Model(NamedTuple):
    """What evaluations of a closed-form energy need to know.

    params: learner state -> parameters of the family. values: of a visible unit.
    """

    family: Family
    coding: Coding
    params: Callable[[PyTree], PyTree] = lambda state: state.model.params
    values: tuple[float, float] = BITS


def annealed(
    key: Key,
    family: Family,
    path: tuple[PyTree, PyTree],
    units: Units,
    *,
    betas: np.ndarray,
) -> Array:
    """Log-weights of AIS along a path: [N], one chain each.

    path: parameters where the chains start and end; units: chains in equilibrium at
    its start. betas [T + 1]: how far along the path, from 0 to 1, parameters are
    interpolated. The mean of exp(log-weight) is Z(end) / Z(start) for every path.
    """
    betas = jnp.asarray(betas, units[0].dtype)

    def between(beta):
        return jax.tree.map(lambda a, b: (1 - beta) * a + beta * b, *path)

    return partition.annealed_weights(
        lambda beta, units: -_energy(family, between(beta), units),
        lambda key, units, beta: family.sweep(key, between(beta), units, 1.0),
        units,
        jax.random.split(key, len(betas) - 1),
        betas,
    )


def schedule(num_steps: int) -> np.ndarray:
    """Salakhutdinov and Murray's inverse temperatures [num_steps + 1].

    Of 14,500 steps 500 lead to 0.5, the next 4,000 to 0.9, the last 10,000 to 1.
    """
    spent = np.array([0, 500, 4500, 14500]) / 14500
    return np.interp(np.linspace(0, 1, num_steps + 1), spent, [0, 0.5, 0.9, 1])


def independent_log_z(
    family: Family, base: PyTree, units: Units, values: tuple[float, float] = BITS
) -> Array:
    """log Z of independent units, all with two values: [].

    units: of any chains, for their form. The energy is then a sum over units, known
    from the state of low values and those with one unit raised.
    """
    low, high = values
    layers = units[:1] if family.energy else units
    sizes = np.array([layer.shape[1] for layer in layers])
    states = jnp.concatenate([jnp.zeros((1, sizes.sum())), jnp.eye(sizes.sum())])
    states = tuple(jnp.split(low + (high - low) * states, np.cumsum(sizes)[:-1], 1))
    energies = _energy(family, base, states)
    return jnp.sum(jax.nn.softplus(energies[0] - energies[1:])) - energies[0]


def log_partition(
    key: Key,
    family: Family,
    params: PyTree,
    v: Array,
    *,
    base: PyTree | None = None,
    num_steps: int = 10_000,
    num_sweeps: int = 0,
    values: tuple[float, float] = BITS,
) -> partition.LogPartition:
    """log Z of a family of two-valued units by AIS with one chain per row of v [N, n].

    base: parameters of independent units, by default those of the model without
    weights; the base rates of data as biases make the way shorter. Hidden units without
    a closed sum must have the values of the visible ones.
    num_sweeps: 0 starts the chains at the base. Otherwise they start at v, make so many
    sweeps of the model and go from there to the base (Burda, Grosse and Salakhutdinov
    2015): if that brought them to equilibrium, the estimate tends to be too large where
    the usual one is too small, and the two enclose log Z.
    Raises ValueError where units take other values, as Gaussian ones do.
    """
    base = proximal.without_weights(params) if base is None else base

    @jax.jit
    def weighed(key, base, params, v):
        key_start, key_sweeps, key_path = jax.random.split(key, 3)
        run = partial(annealed, key_path, family)
        if num_sweeps:
            units = family.start(key_start, params, v)
            units = sweeps(family, key_sweeps, params, units, 1.0, num_sweeps)
            betas = 1 - schedule(num_steps)[::-1]
            log_weights = run((params, base), units, betas=betas)
        else:
            # Without weights one sweep is a draw, wherever it starts.
            units = family.start(key_start, base, v)
            units = family.sweep(key_sweeps, base, units, 1.0)
            log_weights = run((base, params), units, betas=schedule(num_steps))
        return independent_log_z(family, base, units, values), log_weights, units

    log_z, log_weights, units = jax.device_get(weighed(key, base, params, v))
    for layer in units[:1] if family.energy else units:
        if not np.isin(layer, values).all():
            raise ValueError(
                f"units beside {values[0]:g} and {values[1]:g}: annealing knows units of "
                "two values; give a family that sums the others out"
            )
    if num_sweeps:
        found = partition.estimate(0.0, log_weights)
        return partition.LogPartition(
            log_z - found.log_z,
            log_z - found.high,
            log_z - found.low,
            found.effective_sample_size,
        )
    return partition.estimate(log_z, log_weights)


def free_energy(family: Family, params: PyTree, v: Array) -> Array:
    """F(v) = -log sum exp(-joint), [B, n] -> [B], or its bound from above.

    Where the sum has no closed form: the variational free energy at the mean-field
    posterior, for hidden units in {0, 1}.
    """
    if family.energy:
        return family.energy(params, v)
    units = family.posterior(params, v)
    entropy = sum(
        jnp.sum(jax.scipy.special.entr(p) + jax.scipy.special.entr(1 - p), axis=1)
        for p in units[1:]
    )
    return family.joint(params, units) - entropy


def pseudo_log_likelihood(
    energy_fn: EnergyFn,
    v: Array,
    sites: Array,
    values: tuple[float, float] = BITS,
) -> Array:
    """Mean of log p(v_i | all others) over `sites` times the number of units: [B].

    v: [B, n]; sites: indices [S]. With all sites it is Besag's pseudo-log-likelihood,
    with random ones an unbiased estimate.
    """
    energies = energy_fn(v)

    def one(site):
        flipped = v.at[:, site].set(sum(values) - v[:, site])
        return jax.nn.log_sigmoid(energy_fn(flipped) - energies)

    return v.shape[1] * jnp.mean(jax.lax.map(one, sites), axis=0)


def free_energy_gap(
    model: Model, params: PyTree, train: Array, validation: Array
) -> Array:
    """Mean F(validation) - mean F(train) of x [N, ...] each: []; Z falls out of it."""

    def mean(x):
        return jnp.mean(free_energy(model.family, params, model.coding.units(x)))

    return mean(validation) - mean(train)


def monitor(
    model: Model, train: np.ndarray, validation: np.ndarray, *, num_sites: int = 50
) -> Evaluation:
    """An evaluation that is quick enough for the training loop.

    train, validation: x [N, ...]. Metrics: the mean free energy and its gap, which
    grows where the model overfits; pseudo-log-likelihood (of `num_sites` random
    units); reconstruction error; weights. F is a bound for deep machines.
    """

    @jax.jit
    def measured(key, params, train, validation):
        energy_fn = partial(free_energy, model.family, params)
        new = model.coding.units(validation)
        sites = jax.random.choice(key, new.shape[1], (min(num_sites, new.shape[1]),))
        found = {
            "free_energy_validation": jnp.mean(energy_fn(new)),
            "free_energy_gap": free_energy_gap(model, params, train, validation),
            "pseudo_log_likelihood": jnp.mean(
                pseudo_log_likelihood(energy_fn, new, sites, model.values)
            ),
        }
        if model.family.mean:
            means = model.family.mean(params, model.family.posterior(params, new))
            found["reconstruction_error"] = reconstruction_error(new, means)
        return found | weight_metrics(params)

    def evaluate(key, state):
        found = measured(key, model.params(state), train, validation)
        return Report({name: float(value) for name, value in found.items()})

    return evaluate


def log_likelihood(
    model: Model,
    sets: Mapping[str, np.ndarray],
    *,
    log_z_fn: Callable[[Key, PyTree, Array], partition.LogPartition],
    num_chains: int = 100,
) -> Evaluation:
    """An evaluation of log-likelihoods in nats per example, with their intervals.

    sets: name -> x [N, ...]; the first `num_chains` examples of the first one are handed
    to log_z_fn, (key, params, v) -> partition.LogPartition, such as `by_annealing`. For deep machines
    the variational lower bound.
    """

    @jax.jit
    def mean_energy(params, x):
        v = model.coding.units(x)
        return jnp.mean(free_energy(model.family, params, v))

    def evaluate(key, state):
        params = model.params(state)
        v = model.coding.units(jnp.asarray(next(iter(sets.values()))[:num_chains]))
        found = log_z_fn(key, params, v)
        metrics = {
            "log_z": found.log_z,
            "log_z_low": found.low,
            "log_z_high": found.high,
            "effective_sample_size": found.effective_sample_size,
        }
        for name, x in sets.items():
            mean = float(mean_energy(params, x))
            metrics[f"{name}_log_likelihood"] = -mean - found.log_z
            metrics[f"{name}_log_likelihood_low"] = -mean - found.high
            metrics[f"{name}_log_likelihood_high"] = -mean - found.low
        return Report(metrics)

    return evaluate


def by_annealing(
    model: Model, biases: Mapping[str, Array], **options: int
) -> Callable[[Key, PyTree, Array], partition.LogPartition]:
    """For `log_likelihood`: AIS from units with these biases, other parameters zero.

    biases: name -> array, such as the visible ones of the data's base rates. options:
    of `log_partition`.
    """

    def log_z_fn(key, params, v):
        base = jax.tree.map(jnp.zeros_like, params) | dict(biases)
        return log_partition(
            key, model.family, params, v, base=base, values=model.values, **options
        )

    return log_z_fn


def by_enumeration(
    log_partition_fn: Callable[[PyTree], Array],
) -> Callable[[Key, PyTree, Array], partition.LogPartition]:
    """For `log_likelihood`: log Z exactly, such as by `rbm.log_partition`."""

    def log_z_fn(key, params, v):
        del key, v
        log_z = float(jax.jit(log_partition_fn)(params))
        return partition.LogPartition(log_z, log_z, log_z, float("inf"))

    return log_z_fn


def _energy(family: Family, params: PyTree, units: Units) -> Array:
    """Free where that has a closed form: hidden units then add no noise."""
    if family.energy:
        return family.energy(params, units[0])
    return family.joint(params, units)
