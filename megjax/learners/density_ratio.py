"""The log density ratio of data and generator, fitted when training ends.

Logistic regression of data against the generator's own samples (Sugiyama, Suzuki and
Kanamori 2012); chains and resampling under p(z) exp(ratio) then improve the samples
(Che et al. 2020, "Your GAN is secretly an energy-based model").
"""

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, struct

from megjax import checks, distributed, losses
from megjax.data.dataset import Dataset
from megjax.learners import base
from megjax.learners.base import Learner
from megjax.types import Array, Key, Metrics, PyTree

LOG = logging.getLogger(__name__)
HELD_OUT_SHARE = 0.1
NEWTON_STEPS = 20


class Spec(NamedTuple):
    """The network and how it is fitted.

    network: x [B, ...] -> [B]; of the form of the learner's energy, from whose weights
        it starts.
    num_steps: at most. batch_size: of data, and as many samples.
    check_every: steps between evaluations of the loss on held-out data and samples; the
        weights of the lowest one are kept. patience: evaluations without a lower one
        that end the fit. num_held_out: data and samples, at most a tenth of the set.
    score_weight: of |grad_x log ratio|^2 at data.
    average_decay: per step, of the running averages that are evaluated and kept.
    """

    network: linen.Module
    num_steps: int = 2000
    batch_size: int = 64
    check_every: int = 100
    patience: int = 4
    num_held_out: int = 2000
    score_weight: float = 0.05
    average_decay: float = 0.99
    optimizer: optax.GradientTransformation = optax.adam(2e-4, 0.5, 0.9)


@struct.dataclass
class Ratio:
    """log ratio = -(scale * network(x) + offset); all zero before it is fitted."""

    params: PyTree
    scale: Array
    offset: Array


@struct.dataclass
class State:
    """inner: of the learner that was trained; ratio: against its samples."""

    inner: PyTree
    ratio: Ratio


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    for field in ("num_steps", "batch_size", "check_every", "patience", "num_held_out"):
        checks.whole(f"ratio.{field}", getattr(spec, field), 1)
    checks.at_least("ratio.score_weight", spec.score_weight, 0)
    checks.fraction("ratio.average_decay", spec.average_decay)
    return spec


def with_ratio(
    learner: Learner, spec: Spec, energy_params: Callable[[PyTree], PyTree]
) -> Learner:
    """The learner, whose training ends with a fit of the log density ratio.

    energy_params: state of the learner -> parameters that the ratio starts from. The
    new learner has `log_ratio` and `finish`; all else is as it was. Raises ValueError
    as `checked` does.
    """
    checked(spec)

    def init(key, x):
        params = jax.eval_shape(spec.network.init, key, x)["params"]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
        nothing = Ratio(zeros, jnp.zeros([]), jnp.zeros([]))
        return State(learner.init(key, x), nothing)

    def step(key, state, x):
        inner, metrics = learner.step(key, state.inner, x)
        # What is learned further has another ratio.
        return State(inner, jax.tree.map(jnp.zeros_like, state.ratio)), metrics

    def finish(key, state, data):
        draw = jax.jit(learner.sample, static_argnums=2)
        ratio, metrics = fitted(
            spec,
            key,
            data,
            lambda key, num: draw(key, state.inner, num),
            energy_params(state.inner),
        )
        return state.replace(ratio=ratio), metrics

    return base.of_inner(learner)._replace(
        init=init,
        step=step,
        log_ratio=lambda state, x: log_ratio(spec, state.ratio, x),
        finish=finish,
    )


def is_fitted(state: PyTree) -> bool:
    """Whether the ratio in a learner's state, if there is one, was fitted."""

    def is_ratio(node):
        return isinstance(node, Ratio)

    found = filter(is_ratio, jax.tree.leaves(state, is_leaf=is_ratio))
    return all(np.any(np.asarray(ratio.scale)) for ratio in found)


def log_ratio(spec: Spec, ratio: Ratio, x: Array) -> Array:
    """log p_data(x) - log p_G(x), as far as it is known: [B, ...] -> [B]."""
    energies = spec.network.apply({"params": ratio.params}, x)
    return -(ratio.scale * energies + ratio.offset)


def logistic_loss(real: Array, fake: Array) -> Array:
    """Cross-entropy of log ratios at data [N] and at samples [M]; chance is 2 log 2."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def fitted(
    spec: Spec, key: Key, data: Dataset, sample_fn: Callable, params: PyTree
) -> tuple[Ratio, Metrics]:
    """The ratio against samples, from an energy's parameters, stopped on held-out data.

    sample_fn: (key, num) -> x [num, ...]. First the best straight line in the energy,
    which is the ratio already where the energy is calibrated; then the whole network.
    What the compiled functions read is passed to them: processes of a run may not
    close over arrays that they share.
    """
    key_split, key_held_out, key_steps = jax.random.split(key, 3)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key_split)))
    held_out, batches = _split(spec, data, rng)
    pair = held_out, sample_fn(key_held_out, len(held_out))
    energies_fn = jax.jit(lambda params, x: spec.network.apply({"params": params}, x))
    line = jax.jit(calibrated)(*(energies_fn(params, x) for x in pair))
    ratio = average = Ratio(params, *line)
    optimizer = jax.jit(spec.optimizer.init)(params)
    update, loss_fn = (
        jax.jit(partial(f, spec)) for f in (update_ratio, _held_out_loss)
    )
    held_out_losses, best = [], ratio
    for step in range(spec.num_steps + 1):
        if step % spec.check_every == 0:
            loss = float(loss_fn(average, *pair))
            held_out_losses.append(loss if math.isfinite(loss) else math.inf)
            LOG.info(
                "density ratio: step %d, held-out loss %.4f", step, held_out_losses[-1]
            )
            first_best = int(np.argmin(held_out_losses))
            best = average if first_best == len(held_out_losses) - 1 else best
            if len(held_out_losses) - 1 - first_best == spec.patience:
                break
        if step < spec.num_steps:
            fake = sample_fn(jax.random.fold_in(key_steps, step), spec.batch_size)
            ratio, average, optimizer = update(
                ratio, average, optimizer, next(batches), fake
            )
    return best, {
        "ratio/held_out_loss_of_energy": held_out_losses[0],
        "ratio/held_out_loss": min(held_out_losses),
        "ratio/num_steps": step,
    }


def _held_out_loss(spec, ratio, real, fake):
    return logistic_loss(*(log_ratio(spec, ratio, x) for x in (real, fake)))


def calibrated(real: Array, fake: Array) -> tuple[Array, Array]:
    """(scale, offset) of the line in energies at data [N] and samples [M] that is the
    best log ratio, -(scale E + offset), by Newton's method."""
    energies = jnp.concatenate([real, fake])
    mean, std = jnp.mean(energies), jnp.std(energies) + 1e-6
    design = jnp.stack([(energies - mean) / std, jnp.ones_like(energies)], axis=1)
    labels = jnp.concatenate([jnp.zeros_like(real), jnp.ones_like(fake)])
    weights = jnp.where(labels > 0, 1 / len(fake), 1 / len(real))

    def newton(w, _):
        p = jax.nn.sigmoid(design @ w)
        gradient = design.T @ (weights * (p - labels)) + 1e-4 * w
        hessian = (design.T * (weights * p * (1 - p))) @ design + 1e-4 * jnp.eye(2)
        return w - jnp.linalg.solve(hessian, gradient), None

    w, _ = jax.lax.scan(newton, jnp.zeros(2), length=NEWTON_STEPS)
    return w[0] / std, w[1] - w[0] * mean / std


def update_ratio(spec, ratio, average, optimizer, real, fake):
    """One descent of the logistic loss, and the averages moved on."""

    def loss(params):
        weight = spec.score_weight * ratio.scale**2
        # The first of the three has no gradient.
        *_, penalised = losses.penalised_energy(spec.network, params, real, weight)
        energies = spec.network.apply({"params": params}, real)
        there = -(ratio.scale * energies + ratio.offset)
        here = log_ratio(spec, ratio.replace(params=params), fake)
        return logistic_loss(there, here) + jnp.mean(penalised - energies)

    gradient = jax.grad(loss)(ratio.params)
    updates, optimizer = spec.optimizer.update(gradient, optimizer, ratio.params)
    params = optax.apply_updates(ratio.params, updates)
    averaged = optax.incremental_update(params, average.params, 1 - spec.average_decay)
    return ratio.replace(params=params), average.replace(params=averaged), optimizer


def _split(spec, data, rng) -> tuple[Array, Iterator[Array]]:
    """Held-out examples, and batches of the others without an end."""
    take = jax.jit(data.take)
    mesh = jax.sharding.get_mesh()
    store = data.store
    if data.stream is None and not mesh.empty:
        store = distributed.replicate(store, mesh)

    def read(indices):
        indices = np.int32(indices)
        if data.stream:
            return take(data.stream(indices), np.arange(len(indices), dtype=np.int32))
        return take(store, indices)

    num = data.num_examples or 2**31 - 1
    num_held_out = max(1, min(spec.num_held_out, int(HELD_OUT_SHARE * num)))
    if data.num_examples is None:
        # Every index is a draw of its own.
        first = iter(lambda: rng.integers(0, num, spec.batch_size), None)
        return read(rng.integers(0, num, num_held_out)), map(read, first)
    order = rng.permutation(num)
    held_out, rest = order[:num_held_out], order[num_held_out:]

    def batches():
        while True:
            yield read(rng.choice(rest, spec.batch_size))

    return read(held_out), batches()
