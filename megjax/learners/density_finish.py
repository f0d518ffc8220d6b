"""A final stage of training that makes a density of MEG's energy, by NCE.

The energy that teaches a generator orders examples; exp(-E) need not be their density at
any temperature. So when training ends, a network is added to it, which NCE
(`noise_contrastive`) teaches to make exp(-E) the density of the data, and finds log Z.
Among the noises are kernels around samples of the generator, whose own density is not
known.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from megjax import checks, distributed
from megjax.data.dataset import Dataset
from megjax.densities import reference
from megjax.densities.reference import Density
from megjax.learners import base, noise_contrastive
from megjax.learners.base import Learner
from megjax.types import Array, Key, Metrics, PyTree

CANDIDATES = 4096
"""Rows of noise, at the least, from which finished samples are chosen."""


class Spec(NamedTuple):
    """How the energy is finished.

    contrast: of the network that is added, and how it learns; without `start`, `tilt` and
        validation rows. Its noise is fitted to the data.
    generated: a density that is fitted to samples of the generator.
    share: of `generated` in the noise, in (0, 1).
    num_steps: of NCE. batch_size: of data. num_draws: samples of the
        generator that `generated` is fitted to.
    """

    contrast: noise_contrastive.Spec
    generated: Density
    share: float = 0.75
    num_steps: int = 3000
    batch_size: int = 512
    num_draws: int = 1000


@struct.dataclass
class State:
    """inner: of the learner that is trained; density: what finishes its energy."""

    inner: PyTree
    density: noise_contrastive.State


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    for field in ("num_steps", "batch_size", "num_draws"):
        checks.whole(f"finish.{field}", getattr(spec, field), 1)
    if not 0 < spec.share < 1:
        raise ValueError(f"finish.share={spec.share}: give a number between 0 and 1")
    for field in ("tilt", "num_validation"):
        if getattr(spec.contrast, field):
            raise ValueError(
                f"finish.density.{field}={getattr(spec.contrast, field)}: the energy "
                "starts from the trained one and takes its last weights; give "
                f"{spec.contrast._field_defaults[field]}"
            )
    noise_contrastive.checked(spec.contrast)
    return spec


def with_density(learner: Learner, spec: Spec) -> Learner:
    """The learner of vectors, whose training ends with `spec.num_steps` of NCE.

    From then on `energy` is that of the learner plus the network's, `log_partition` its
    log Z, and `sample` gives rows of the noise, resampled by their weights. Before, and
    where training goes on, all is as it was and log Z is NaN; `latents` and `generate`
    stay the generator's. The data are to fit in memory. Raises ValueError as `checked`
    does.
    """
    spec = checked(spec)
    init, step, energy, sample, log_partition, finish = (
        partial(function, learner, spec)
        for function in (_init, _step, _energy, _sample, _log_partition, _finish)
    )
    return base.of_inner(learner)._replace(
        init=init,
        step=step,
        energy=energy,
        sample=sample,
        log_partition=log_partition,
        finish=finish,
    )


def contrast_of(
    learner: Learner, spec: Spec, inner: PyTree, whitening: reference.Moments
) -> noise_contrastive.Spec:
    """NCE that starts from the energy of a learner's state `inner`."""

    def start(u):
        return learner.energy(inner, whitening.mean + u @ whitening.factor.T)

    return _with_noise(spec)._replace(start=start)


def _with_noise(spec) -> noise_contrastive.Spec:
    noise = reference.mixture(
        [spec.contrast.noise, spec.generated], [1 - spec.share, spec.share]
    )
    return spec.contrast._replace(noise=noise)


def _of_state(learner, spec, state) -> noise_contrastive.Spec:
    return contrast_of(learner, spec, state.inner, state.density.whitening)


def _init(learner, spec, key, x) -> State:
    density = noise_contrastive.init(_with_noise(spec), None, key, x)
    return State(learner.init(key, x), density)


def _step(learner, spec, key, state, x) -> tuple[State, Metrics]:
    inner, metrics = learner.step(key, state.inner, x)
    # What is learned further has another density.
    unfinished = jnp.zeros_like(state.density.finished)
    density = state.density.replace(finished=unfinished)
    return State(inner, density), metrics


def _energy(learner, spec, state, x) -> Array:
    """As trained, and from the finish on as finished: x [B, D] -> [B]."""
    return jax.lax.cond(
        state.density.finished,
        lambda x: noise_contrastive.energy(
            _of_state(learner, spec, state), state.density, x
        ),
        lambda x: learner.energy(state.inner, x),
        x,
    )


def _sample(learner, spec, key, state, num) -> Array:
    """Of the generator, and from the finish on of the finished energy: [num, D]."""
    least = -(-CANDIDATES // noise_contrastive.CANDIDATES)

    def finished():
        contrast = _of_state(learner, spec, state)
        chosen = max(num, least)
        return noise_contrastive.sample(contrast, key, state.density, chosen)[:num]

    return jax.lax.cond(
        state.density.finished,
        finished,
        lambda: learner.sample(key, state.inner, num),
    )


def _log_partition(learner, spec, state) -> Array:
    """log Z [], NaN before the finish."""
    del learner, spec
    return jnp.where(state.density.finished, state.density.log_z, jnp.nan)


def _finish(learner, spec, key, state, data) -> tuple[State, Metrics]:
    """Fits the noise, learns the network on it, and finds log Z; on the host."""
    keys = jax.random.split(key, 4)
    draws = _draws(learner, keys[0], state.inner, spec.num_draws)
    x = jnp.zeros((1, *data.shape))
    fresh = noise_contrastive.init(_with_noise(spec), data, keys[1], x)
    u = reference.whitened(fresh.whitening, draws)
    fresh = fresh.replace(noise=(fresh.noise[0], spec.generated.fit(u)))
    mesh = jax.sharding.get_mesh()
    store = data.store
    if not mesh.empty:
        fresh, store = (distributed.replicate(tree, mesh) for tree in (fresh, store))
    rows = _rows(keys[2], data, spec)
    density, log_weights, metrics = _learned(
        learner, spec, data.take, state.inner, fresh, store, rows, keys[3]
    )
    density, found = noise_contrastive.settled(density, log_weights)
    return state.replace(density=density), metrics | found


def _draws(learner, key, inner, num) -> np.ndarray:
    """Samples of the generator on the host: [num, D]."""
    draw = jax.jit(
        lambda key, inner: distributed.whole(learner.sample(key, inner, num))
    )
    return np.asarray(draw(key, inner))


def _rows(key: Key, data: Dataset, spec: Spec) -> np.ndarray:
    """Which data each step learns from: [steps, batch]."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    # Every index of an endless set is a draw of its own.
    num = data.num_examples or 2**31 - 1
    return np.int32(rng.integers(0, num, (spec.num_steps, spec.batch_size)))


def _learned(learner, spec, take, inner, density, store, rows, key):
    """The state after all steps, log weights of its noise, metrics of the last steps."""

    @jax.jit
    def run(density, inner, store, rows, key):
        keys = jax.random.split(key, 3)
        contrast = contrast_of(learner, spec, inner, density.whitening)
        density = _levelled(contrast, keys[0], density)

        def one(density, given):
            rows, key = given
            x = distributed.shard(take(store, rows)[None], 1)
            return noise_contrastive.step(contrast, key, density, x)

        given = rows, jax.random.split(keys[1], spec.num_steps)
        density, found = jax.lax.scan(one, density, given)
        log_weights = noise_contrastive.log_importance_weights(
            contrast, keys[2], density, spec.contrast.num_importance
        )
        loss = jnp.mean(found["loss"][-100:])
        return density, log_weights, {"finish/loss": loss}

    return run(density, inner, store, rows, key)


def _levelled(contrast, key, density):
    """With log Z as its noise has it: the energy's level is anywhere, steps are short."""
    num = contrast.num_importance
    log_weights = noise_contrastive.log_importance_weights(contrast, key, density, num)
    log_z = jax.nn.logsumexp(log_weights) - jnp.log(num)
    weights = density.energy.params.replace(log_z=log_z)
    average = density.average and weights
    return density.replace(
        energy=density.energy.replace(params=weights), average=average
    )
