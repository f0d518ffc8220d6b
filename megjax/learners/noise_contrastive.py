"""Energies that are densities, by noise-contrastive estimation (NCE).

Gutmann and Hyvarinen 2012, "Noise-Contrastive Estimation of Unnormalized Statistical
Models": logistic regression of data against noise whose density is known makes exp(-E)
the density of the data at inverse temperature 1, and learns log Z on the way.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, struct

from megjax import checks, distributed
from megjax.data.dataset import Dataset
from megjax.densities import reference
from megjax.densities.reference import Density
from megjax.learners.base import Learner, Player, norm, updated
from megjax.samplers import partition
from megjax.types import Array, Key, Metrics, PyTree

OBJECTIVES = ("noise_contrast", "maximum_likelihood")
MAX_FIT = 20_000
"""Rows of data that the noise and the whitening are fitted to, at most."""

CANDIDATES = 16
"""Rows of noise for each sample that importance resampling gives."""


class Spec(NamedTuple):
    """An energy, its noise, and hyperparameters.

    energy: module u [B, D] -> [B] of whitened data u = L^-1 (x - mean); exp(-E) must have a
        finite integral, as that of `networks.fourier.Energy` has.
    noise: a density of u, fitted to the whitened data.
    objective: "noise_contrast", or "maximum_likelihood" with the noise as the proposal
        of self-normalised importance weights.
    whiten: by mean and covariance of the data; otherwise u = x.
    tilt: whether the energy is that of the noise plus the module's, which then is minus
        the log density ratio of data and noise. So small tables start from what is
        known of them; exp(-E) has a finite integral where the module grows slower than
        -log noise does.
    start: None, or whitened u [B, D] -> [B], an energy that is known and to which the
        module's is added; then exp(-E) has a finite integral where both together give
        it one. Not beside `tilt`.
    num_noise: rows of noise for each datum of a batch, nu of the paper.
    average_decay: per step, of running averages that replace the weights after
        training; 0 keeps none.
    num_validation: as many rows of the data's reference "validation", repeated where
        there are fewer, choose among the weights: the loss on them and always the same
        noise is found at first and every `check_every` steps, the lowest one counts. 0
        takes the last weights. Small tables need it; a tilted energy that learns nothing
        of use stays that of the noise.
    num_importance: rows of noise that log Z is estimated from when training ends.
    """

    energy: linen.Module
    noise: Density
    objective: str = "noise_contrast"
    whiten: bool = True
    tilt: bool = False
    start: Callable[[Array], Array] | None = None
    num_noise: int = 1
    average_decay: float = 0.99
    num_validation: int = 0
    check_every: int = 50
    num_importance: int = 100_000
    optimizer: optax.GradientTransformation = optax.adam(2e-3)


@struct.dataclass
class Weights:
    """Of the network, and log Z as it is learned []."""

    network: PyTree
    log_z: Array


@struct.dataclass
class Best:
    """The weights with the lowest loss [] on validation rows so far."""

    weights: Weights
    loss: Array


@struct.dataclass
class State:
    """The energy in training, and what was fitted to data before.

    energy: its params are `Weights`. average: None, or averaged weights. whitening:
    mean and factor. noise: parameters of the noise. validation: None, or u [V, D].
    best: None, or what it chose. log_z: as it was found when training ended [], and
    `finished`, whether it did. count: steps so far [].
    """

    energy: Player
    average: Any
    whitening: reference.Moments
    noise: PyTree
    validation: Any
    best: Any
    log_z: Array
    finished: Array
    count: Array


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    checks.choice("objective", spec.objective, **dict.fromkeys(OBJECTIVES))
    minima = {"num_noise": 1, "num_validation": 0, "check_every": 1}
    for field, minimum in (minima | {"num_importance": 100}).items():
        checks.whole(f"density.{field}", getattr(spec, field), minimum)
    checks.fraction("density.average_decay", spec.average_decay)
    return spec


def noise_contrastive(spec: Spec, data: Dataset | None = None) -> Learner:
    """Noise-contrastive estimation (NCE): an energy whose exp(-E) is a density.

    Gutmann and Hyvarinen 2012. Raises ValueError as `checked` does.

    data: what noise and whitening are fitted to when a state is made; without it a
    state can be read back, but is no start. A kernel density's state has rows of the
    data in it, and so have checkpoints and exported weights.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import noise_contrastive
    >>> from megjax.data import toy
    >>> from megjax.densities import reference
    >>> from megjax.learners.noise_contrastive import Spec
    >>> from megjax.networks import fourier
    >>> spec = Spec(fourier.Energy((8,), num_features=4), reference.gaussian(1.5))
    >>> learner = noise_contrastive(spec, toy.gaussians_25(num_examples=100))
    >>> state = learner.init(jax.random.key(0), jnp.zeros((4, 2)))
    >>> learner.energy(state, jnp.zeros((3, 2))).shape
    (3,)
    """
    spec = checked(spec)
    return Learner(
        init=partial(init, spec, data),
        step=partial(step, spec),
        sample=partial(sample, spec),
        energy=partial(energy, spec),
        log_partition=partial(log_partition, spec),
        finish=partial(finish, spec),
    )


def init(spec: Spec, data: Dataset | None, key: Key, x: Array) -> State:
    """A fresh energy; whitening and noise fitted to the data, or of their form alone."""
    if x.ndim != 2:
        raise ValueError(
            f"examples of shape {list(x.shape[1:])}: NCE takes vectors [D], "
            "flatten them"
        )
    dim = x.shape[1]
    if data is None:
        found = _fitted(spec, jnp.zeros((2, dim)), jnp.zeros((1, dim)))
    else:
        # Not in the compiled program, which would take the rows for constants to fold.
        with jax.ensure_compile_time_eval():
            held_out = _validation_rows(data) if spec.num_validation else None
            found = _fitted(spec, _rows(data), held_out)
    whitening, noise, validation = found
    network = spec.energy.init(key, jnp.zeros((1, dim)))["params"]
    # An untrained energy is that of the noise, or confined: the standard normal.
    log_z = 0.0 if spec.tilt else dim / 2 * math.log(2 * math.pi)
    weights = Weights(network, jnp.asarray(log_z, whitening.mean.dtype))
    best = None
    if spec.num_validation:
        best = Best(weights, _validation_loss(spec, noise, validation, weights))
    return State(
        energy=Player(weights, {}, spec.optimizer.init(weights)),
        average=weights if spec.average_decay else None,
        whitening=whitening,
        noise=noise,
        validation=validation,
        best=best,
        log_z=jnp.zeros_like(weights.log_z),
        finished=jnp.zeros([], bool),
        count=jnp.zeros([], jnp.int32),
    )


def _fitted(spec, rows, held_out) -> tuple[reference.Moments, PyTree, Array | None]:
    """Whitening, parameters of the noise, and whitened validation rows."""
    dim = rows.shape[1]
    whitening = reference.moments(rows)
    if not spec.whiten:
        whitening = reference.Moments(jnp.zeros(dim), jnp.eye(dim))
    noise = spec.noise.fit(reference.whitened(whitening, rows))
    if not spec.num_validation:
        return whitening, noise, None
    held_out = jnp.resize(held_out, (spec.num_validation, dim))
    return whitening, noise, reference.whitened(whitening, held_out)


def _rows(data: Dataset) -> np.ndarray:
    """Rows of the data, all or MAX_FIT of them, in an order of no meaning."""
    if data.stream is not None:
        raise ValueError(
            f"{data.name} streams from disk: NCE needs a set that fits in memory"
        )
    num = data.num_examples or MAX_FIT
    order = np.random.RandomState(0).permutation(num)[:MAX_FIT]
    return data.take(data.store, np.int32(order))


def _validation_rows(data: Dataset) -> Array:
    if "validation" not in data.reference:
        raise ValueError(
            f"{data.name} has no validation rows: give density.num_validation=0"
        )
    return jnp.asarray(data.reference["validation"])


def step(spec: Spec, key: Key, state: State, x: Array) -> tuple[State, Metrics]:
    """One update of energy and log Z on x [1, B, D] and fresh noise."""
    key_noise, _ = jax.random.split(key)
    u = reference.whitened(state.whitening, x[0])
    rows = _contrast(spec, state.noise, key_noise, u)
    gradient, found = jax.grad(partial(loss, spec), has_aux=True)(
        state.energy.params, *rows
    )
    count = state.count + 1
    state = state.replace(
        energy=updated(state.energy, gradient, spec.optimizer),
        count=count,
        finished=jnp.zeros_like(state.finished),
    )
    if spec.average_decay:
        # As short as the run is, so that first weights are soon forgotten.
        decay = jnp.minimum(spec.average_decay, count / (count + 10))
        average = optax.incremental_update(
            state.energy.params, state.average, 1 - decay
        )
        state = state.replace(average=average)
    if spec.num_validation:
        due = count % spec.check_every == 0
        best = jax.lax.cond(due, lambda: _better(spec, state), lambda: state.best)
        state = state.replace(best=best)
        found |= {"validation_loss": best.loss}
    return state, found | {"gradient_norm": norm(gradient)}


def _contrast(spec, params, key, u) -> tuple[Array, Array, Array, Array]:
    """Data u [B, D], noise [nu B, D], and the noise's log-density at both.

    params: of the noise. Zeros for a tilted energy, in whose log ratio it cancels; a
    known start of the energy counts as if the noise had so much more of log-density.
    """
    num = spec.num_noise * len(u)
    noise = distributed.shard(spec.noise.sample(params, key, num))
    if spec.tilt:
        return u, noise, jnp.zeros(len(u)), jnp.zeros(num)
    found = [spec.noise.log_prob(params, v) for v in (u, noise)]
    if spec.start:
        found = [log_q + spec.start(v) for log_q, v in zip(found, (u, noise))]
    return u, noise, *found


def _validation_loss(spec, params, u, weights) -> Array:
    """Against the same noise every time, so that only the weights make a difference."""
    return loss(spec, weights, *_contrast(spec, params, jax.random.key(0), u))[0]


def _better(spec, state) -> Best:
    """The present weights where their loss on validation rows is the lowest so far."""
    now, old = _present(state), state.best
    found = _validation_loss(spec, state.noise, state.validation, now)
    lower = found < old.loss
    weights = jax.tree.map(lambda a, b: jnp.where(lower, a, b), now, old.weights)
    return Best(weights, jnp.minimum(found, old.loss))


def loss(
    spec: Spec,
    weights: Weights,
    u: Array,
    noise: Array,
    log_noise_at_data: Array,
    log_noise_at_noise: Array,
) -> tuple[Array, Metrics]:
    """The objective, and metrics: data u [B, D], noise [nu B, D] -> ([], dict).

    log_noise_at_...: the noise's log-density there; 0 for a tilted energy.
    """
    energies = spec.energy.apply(
        {"params": weights.network}, jnp.concatenate([u, noise])
    )
    real, fake = energies[: len(u)], energies[len(u) :]
    objective = {
        "noise_contrast": noise_contrast,
        "maximum_likelihood": negative_log_likelihood,
    }[spec.objective]
    value = objective(
        -real - log_noise_at_data, -fake - log_noise_at_noise, weights.log_z
    )
    return value, {
        "loss": value,
        "energy_data": jnp.mean(real),
        "energy_noise": jnp.mean(fake),
        "log_z": weights.log_z,
    }


def noise_contrast(real: Array, fake: Array, log_z: Array) -> Array:
    """Logistic loss of data against noise (Gutmann and Hyvarinen 2012, eq. 8): [].

    real: -E - log p_noise at data [B]; fake: the same at noise [nu B]. At its minimum
    exp(-E) / Z is the density of the data. Without a model that tells them apart,
    log 2 for nu = 1 comes twice.

    >>> import jax.numpy as jnp
    >>> from megjax.learners.noise_contrastive import noise_contrast
    >>> print(f"{noise_contrast(jnp.zeros(4), jnp.zeros(4), jnp.zeros([])):.4f}")
    1.3863
    """
    ratio = len(fake) / len(real)
    shift = log_z + math.log(ratio)
    at_data = jnp.mean(jax.nn.softplus(shift - real))
    return at_data + ratio * jnp.mean(jax.nn.softplus(fake - shift))


def negative_log_likelihood(real: Array, fake: Array, log_z: Array) -> Array:
    """Mean of -log p at data, but for that of the noise, Z by importance sampling: [].

    real, fake: as of `noise_contrast`. The energy's gradient has weights that sum to 1;
    log_z is led to the logarithm of their mean by log Z = min_c c + Z exp(-c) - 1,
    which adds nothing to the value or to that gradient.
    """
    log_mean = jax.nn.logsumexp(fake) - math.log(len(fake))
    # Bounded, since the distance is large at first.
    excess = jnp.minimum(jax.lax.stop_gradient(log_mean) - log_z, 3.0)
    led = log_z + jnp.exp(excess)
    return log_mean - jnp.mean(real) + led - jax.lax.stop_gradient(led)


def _present(state: State) -> Weights:
    return state.energy.params if state.average is None else state.average


def weights(state: State) -> Weights:
    """What a trained model has: chosen by validation, averaged, or the last ones."""
    return _present(state) if state.best is None else state.best.weights


def whitened_energy(spec: Spec, state: State, u: Array) -> Array:
    """Energy of whitened rows [B, D] -> [B]."""
    energies = spec.energy.apply({"params": weights(state).network}, u)
    if spec.start:
        energies += spec.start(u)
    return energies - spec.noise.log_prob(state.noise, u) if spec.tilt else energies


def energy(spec: Spec, state: State, x: Array) -> Array:
    """E(x) of rows [B, D] -> [B]; -log p(x) up to `log_partition`."""
    u = reference.whitened(state.whitening, x)
    shift = reference.log_determinant(state.whitening.factor)
    return whitened_energy(spec, state, u) + shift


def log_partition(spec: Spec, state: State) -> Array:
    """log Z [], as estimated when training ended, or as learned where it was not."""
    del spec
    learned = weights(state).log_z
    return jnp.where(state.finished, state.log_z, learned)


def noise_of(spec: Spec, state: State) -> partition.Base:
    """The noise as a density of x, to sample and to anneal from."""
    factor = state.whitening.factor

    def sample(key, num):
        u = spec.noise.sample(state.noise, key, num)
        return state.whitening.mean + u @ factor.T

    def log_prob(x):
        u = reference.whitened(state.whitening, x)
        return spec.noise.log_prob(state.noise, u) - reference.log_determinant(factor)

    return partition.Base(sample, log_prob)


def window(state: State, *, size: float) -> tuple[Array, Array]:
    """Corners of a window of x around the data's mean, with `size` deviations a side."""
    mean, factor = state.whitening
    reach = size * jnp.sqrt(jnp.sum(factor**2, axis=1))
    return mean - reach, mean + reach


def sample(spec: Spec, key: Key, state: State, num: int) -> Array:
    """Samples [num, D]: rows of noise, resampled by their importance weights."""
    key_noise, key_choice = jax.random.split(key)
    base = noise_of(spec, state)
    x = distributed.shard(base.sample(key_noise, CANDIDATES * num))
    log_weights = -energy(spec, state, x) - base.log_prob(x)
    # `jax.random.categorical` would draw as many numbers for every sample as there are
    # candidates: 100 GB for 20,000 of them.
    return jax.random.choice(key_choice, x, (num,), p=jax.nn.softmax(log_weights))


def finish(spec: Spec, key: Key, state: State, data: Dataset) -> tuple[State, Metrics]:
    """The learned log Z, checked by importance sampling from the noise.

    Where it is not within the 95 % interval of that estimate, the estimate replaces it,
    unless its own effective sample size is under 1 %.
    """
    del data
    draw = jax.jit(partial(log_importance_weights, spec), static_argnums=2)
    return settled(state, draw(key, state, spec.num_importance))


def settled(state: State, log_weights: Array) -> tuple[State, Metrics]:
    """The finished state, from `log_importance_weights` [N], and metrics; on the host."""
    found = partition.estimate(0.0, np.asarray(log_weights))
    log_z = learned = float(jax.jit(weights)(state).log_z)
    share = found.effective_sample_size / len(log_weights)
    if share >= partition.MIN_SHARE and not found.low <= learned <= found.high:
        log_z = found.log_z
    metrics = {
        "partition/log_z": log_z,
        "partition/learned_log_z": learned,
        "partition/log_z_by_importance": float(found.log_z),
        "partition/effective_share": share,
    }
    found = jnp.full_like(state.log_z, log_z), jnp.ones_like(state.finished)
    return state.replace(log_z=found[0], finished=found[1]), metrics


def log_importance_weights(spec: Spec, key: Key, state: State, num: int) -> Array:
    """Log importance weights of rows of noise [num]; exp of them has mean Z."""
    u = distributed.shard(spec.noise.sample(state.noise, key, num))
    log_ratio = -spec.energy.apply({"params": weights(state).network}, u)
    if spec.start:
        log_ratio -= spec.start(u)
    if not spec.tilt:
        log_ratio -= spec.noise.log_prob(state.noise, u)
    return distributed.whole(log_ratio)
