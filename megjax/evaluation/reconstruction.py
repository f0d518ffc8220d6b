"""What a machine makes of images: reconstructions, noise taken away, holes filled.

Mehta et al. 2019, figure 60 and section 16; Larochelle and Bengio 2008 for labels.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from megjax import plotting
from megjax.energies.family import Family, Units
from megjax.evaluation.likelihood import Model, free_energy
from megjax.learners import proximal
from megjax.learners.base import Learner
from megjax.learners.contrastive import reconstruction_error, sweeps
from megjax.metrics import energy_distance
from megjax.types import Array, Evaluation, Key, PyTree, Report

SHOWN = 10


def reconstruction(family: Family, params: PyTree, v: Array) -> Array:
    """Expected v given the expected hidden units of v, [B, n]: one pass up and down."""
    return family.mean(params, family.posterior(params, v))


def flipped(key: Key, v: Array, share: float, values: tuple[float, float]) -> Array:
    """v [B, n] with each unit, at a probability of `share`, at its other value."""
    chosen = jax.random.bernoulli(key, share, v.shape)
    return jnp.where(chosen, sum(values) - v, v)


def inpainted(
    key: Key, family: Family, params: PyTree, v: Array, known: Array, *, num_sweeps: int
) -> Array:
    """Expected v [B, n] where it is unknown, by Gibbs sweeps with the rest clamped.

    known: [n], whether v is to be kept; elsewhere it is ignored. For machines with
    hidden units: what hidden units feel is always the clamped v.
    """

    def clamped(key: Key, units: Units) -> Units:
        filled = jnp.where(known, v, units[0])
        # One hidden layer was drawn for the v before clamping, so it is drawn again; a
        # deep machine's sweep begins with its odd layers.
        if family.energy:
            return family.start(key, params, filled)
        return (filled, *units[1:])

    def one(units, key):
        key_sweep, key_start = jax.random.split(key)
        return clamped(key_start, family.sweep(key_sweep, params, units, 1.0)), None

    key_noise, key_start, key_sweeps = jax.random.split(key, 3)
    noise = family.sweep(
        key_noise,
        proximal.without_weights(params),
        family.start(key_start, params, v),
        1.0,
    )
    units = family.start(key_start, params, jnp.where(known, v, noise[0]))
    units, _ = jax.lax.scan(one, units, jax.random.split(key_sweeps, num_sweeps))
    return jnp.where(known, v, family.mean(params, units))


def envelope(key: Key, family: Family, params: PyTree, v: Array, num: int) -> Units:
    """Units of `num` chains that know the biases only; v [B, n] gives the form."""
    cut = proximal.without_weights(params)
    key_start, key_sweep = jax.random.split(key)
    blank = jnp.broadcast_to(v[:1], (num, *v.shape[1:]))
    # Without weights one sweep is a draw, wherever it starts.
    return family.sweep(key_sweep, cut, family.start(key_start, cut, blank), 1.0)


def reconstructions(
    model: Model, x: np.ndarray, *, flip_share: float = 0.15, num_sweeps: int = 100
) -> Evaluation:
    """An evaluation of images x [N, H, W, C] restored by a machine.

    Metrics: reconstruction errors of the means and of the means rounded to the units'
    values; share of wrong pixels after flipping `flip_share` of them and after one pass
    up and down; share of wrong pixels in a lower half filled in by `num_sweeps` sweeps,
    and in one filled with what most images have there. Pictures: of the first images.
    """
    side = x.shape[1]
    known = np.zeros(x.shape[1:], bool)
    known[: side // 2] = True

    @jax.jit
    def restored(key, params, x):
        key_flip, key_fill = jax.random.split(key)
        v = model.coding.units(x)
        means = reconstruction(model.family, params, v)
        noisy = flipped(key_flip, v, flip_share, model.values)
        denoised = reconstruction(model.family, params, noisy)
        mask = jnp.asarray(known).ravel()
        filled = inpainted(
            key_fill, model.family, params, v, mask, num_sweeps=num_sweeps
        )
        usual = _rounded(jnp.mean(v, axis=0), model.values)
        unknown = jnp.sum(~mask)

        def wrong(guess):
            return _rounded(guess, model.values) != v

        metrics = {
            "reconstruction_error": reconstruction_error(v, means),
            "rounded_reconstruction_error": reconstruction_error(
                v, _rounded(means, model.values)
            ),
            "wrong_pixels_noisy": jnp.mean(wrong(noisy)),
            "wrong_pixels_denoised": jnp.mean(wrong(denoised)),
            "wrong_pixels_filled": jnp.mean(jnp.sum(wrong(filled), 1) / unknown),
            "wrong_pixels_filled_with_usual": jnp.mean(
                jnp.sum((usual != v) & ~mask, axis=1) / unknown
            ),
        }
        holed = jnp.where(mask, v, sum(model.values) / 2)
        images = {
            "reconstructions": (v, means),
            "denoising": (v, noisy, denoised),
            "inpainting": (v, holed, filled),
        }
        shown = jax.tree.map(lambda v: model.coding.data(v[:SHOWN]), images)
        return metrics, shown

    def evaluate(key, state):
        metrics, shown = jax.device_get(restored(key, model.params(state), x))
        return Report(
            {name: float(value) for name, value in metrics.items()},
            {name: _rows(images) for name, images in shown.items()},
        )

    return evaluate


def fantasies(
    model: Model,
    learner: Learner,
    x: np.ndarray,
    real: np.ndarray,
    *,
    num_sweeps: Sequence[int] = (10, 100, 1000),
) -> Evaluation:
    """An evaluation of chains that start knowing the biases only (`envelope`).

    x: images to compare with [N, H, W, C]. real: others, as many as there are to be
    chains. Metrics: the energy coefficient between x and the chains after each number
    of sweeps, between x and as many samples of the learner, and between x and `real`,
    the floor for samples of these sizes. Pictures: E[v | h] of the first chains.
    """
    times = sorted(num_sweeps)

    @jax.jit
    def run(key, state, x, real):
        key_start, key_samples, *keys = jax.random.split(key, 2 + len(times))
        params = model.params(state)
        v = model.coding.units(x)
        units = envelope(key_start, model.family, params, v, len(real))
        found, shown, done = {}, [], 0
        for key_sweeps, time in zip(keys, times, strict=True):
            units = sweeps(model.family, key_sweeps, params, units, 1.0, time - done)
            done = time
            name = f"energy_coefficient_{time}"
            found[name] = energy_distance.energy_coefficient(units[0], v)
            means = model.family.mean(params, units)[:SHOWN]
            shown.append(model.coding.data(means))
        samples = learner.sample(key_samples, state, len(real))
        for name, others in {"samples": samples, "data": real}.items():
            found[f"energy_coefficient_of_{name}"] = energy_distance.energy_coefficient(
                model.coding.units(others), v
            )
        return found, jnp.stack(shown, axis=1)

    def evaluate(key, state):
        metrics, shown = jax.device_get(run(key, state, x, real))
        return Report(
            {name: float(value) for name, value in metrics.items()},
            {"fantasies": plotting.timeline(shown, times)},
        )

    return evaluate


def weight_pictures(model: Model, shape: tuple[int, ...], num: int = 25) -> Evaluation:
    """An evaluation that shows the weights of the first `num` units above the images.

    shape: of an image. Each picture is scaled to its largest weight; grey is zero.
    """

    def evaluate(key, state):
        del key
        weights = np.asarray(proximal.weights(model.params(state))[0])[:, :num]
        scaled = weights / np.maximum(np.abs(weights).max(axis=0), 1e-12)
        return Report(
            {}, {"weights": plotting.image_grid(scaled.T.reshape(-1, *shape))}
        )

    return evaluate


def classification(
    model: Model, x: np.ndarray, labels: np.ndarray, num_classes: int
) -> Evaluation:
    """An evaluation of labels given to rows by free energy.

    x: [N, n + num_classes], the last units being the label, on for its class; what is
    there is replaced. The label whose units have the least free energy is given.
    """

    @partial(jax.jit, static_argnums=2)
    def energies(params, x, label):
        tail = jnp.full((len(x), num_classes), -1.0).at[:, label].set(1.0)
        x = x.at[:, -num_classes:].set(tail)
        return free_energy(model.family, params, model.coding.units(x))

    def evaluate(key, state):
        del key
        params = model.params(state)
        found = [energies(params, jnp.asarray(x), i) for i in range(num_classes)]
        given = np.argmin(np.stack(found), axis=0)
        return Report({"accuracy": float(np.mean(given == labels))})

    return evaluate


def _rounded(means: Array, values: tuple[float, float]) -> Array:
    low, high = values
    return jnp.where(means > (low + high) / 2, high, low)


def _rows(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images [SHOWN, H, W, C] of each kind as one row."""
    return plotting.image_grid(np.concatenate(images), columns=len(images[0]))
