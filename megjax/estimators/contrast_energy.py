"""The noise-contrastive energy of `EnergyDetector`: training on a table, its scores.

Gutmann and Hyvärinen 2012: a classifier tells training rows from noise, here training
rows to which Gaussian noise of many widths was added, so that the energy, minus its
logit, is -log p up to the log-density of the smoothed rows.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from megjax.energies import neighbours
from megjax.estimators import base
from megjax.learners import base as learners
from megjax.networks import heads, mlp
from megjax.training import loop
from megjax.types import Array, Key, PyTree

_WIDTHS = (0.05, 5.0)
"""Least and largest deviation of the noise, on columns of variance 1."""
_CONFINEMENT = 0.005
"""Of |x|^2 in the energy, which grows where neither rows nor noise were seen."""


class Contrast(NamedTuple):
    """All that compiled training depends on but the rows, hence hashable."""

    num_features: int
    hidden: tuple[int, ...]
    num_steps: int
    learning_rate: float


def fit(
    contrast: Contrast, X: np.ndarray, *, seed: int, batch_size: int, verbose: bool
) -> dict:
    """Weights, scales of columns and the largest energy of rows X [N, F].

    Raises FloatingPointError where training diverges.
    """
    columns = neighbours.scales(X, X.min(0), X.max(0))
    one = learner(contrast)
    state = base.trained(
        one,
        one.init(loop.keys(seed).init, jnp.zeros((batch_size, contrast.num_features))),
        _standardised(columns, X),
        range(contrast.num_steps),
        seed=seed,
        batch_size=batch_size,
        verbose=verbose,
    )
    if state is None:
        raise FloatingPointError("training diverged: lower learning_rate")
    fitted = {"columns": columns, "params": state.params}
    return fitted | {"largest": float(_energies(fitted, X).max())}


def energy(fitted: dict, X: np.ndarray) -> np.ndarray:
    """The energies of rows X [N, F], float64 [N].

    From half a range outside in any column on they rise to that of the worst training
    row: a row one range outside is worse than all of these.
    """
    energies = _energies(fitted, X)
    excess = neighbours.excess(fitted["columns"], X).max(1)
    lift = np.maximum(fitted["largest"] - energies, 0)
    return energies + np.clip(2 * excess - 1, 0, 1) * lift + np.log1p(excess)


def shares(fitted: dict, X: np.ndarray) -> np.ndarray:
    """Each column's part in |grad_x E|^2 and outside its range: [N, F], of sum 1."""
    gradient = functools.partial(
        _gradient, fitted["params"], network=_network(_widths(fitted["params"]))
    )
    rows = _standardised(fitted["columns"], X)
    parts = np.float64(base.chunked(gradient, rows)) ** 2
    parts /= np.maximum(parts.sum(1, keepdims=True), 1e-300)
    parts += np.maximum(neighbours.excess(fitted["columns"], X), 1e-12)
    return parts / parts.sum(1, keepdims=True)


# Equal ones share their programs: folds, seeds and repetitions compile once.
@functools.lru_cache(maxsize=32)
def learner(contrast: Contrast) -> learners.Learner:
    """Logistic regression of rows against noisy rows; it draws no samples."""
    network = _network(contrast.hidden)
    rate = optax.cosine_decay_schedule(contrast.learning_rate, contrast.num_steps)
    optimizer = optax.adam(rate)

    def init(key: Key, x: Array) -> learners.Player:
        return learners.player(network.init(key, x), optimizer)

    def step(key: Key, state: learners.Player, x: Array):
        noisy = _noisy(key, x[0])

        def loss(params):
            own, other = (_energy(params, v, network) for v in (x[0], noisy))
            return jnp.mean(jax.nn.softplus(own) + jax.nn.softplus(-other))

        value, gradients = jax.value_and_grad(loss)(state.params)
        return learners.updated(state, gradients, optimizer), {"loss": value}

    return learners.Learner(init, step, sample=None, energy=None)


def _noisy(key: Key, x: Array) -> Array:
    """Rows x [B, F] with noise, of a width of its own for each row."""
    key_width, key_noise = jax.random.split(key)
    low, high = map(math.log, _WIDTHS)
    widths = jnp.exp(jax.random.uniform(key_width, (len(x), 1), x.dtype, low, high))
    return x + widths * jax.random.normal(key_noise, x.shape, x.dtype)


def _standardised(columns: dict, X: np.ndarray) -> np.ndarray:
    """Rows in the first of the neighbours' maps: float32 [N, F]."""
    return neighbours.mapped(columns, X)[0]


def _energies(fitted: dict, X: np.ndarray) -> np.ndarray:
    network = _network(_widths(fitted["params"]))
    energy_fn = functools.partial(_compiled, fitted["params"], network=network)
    rows = _standardised(fitted["columns"], X)
    return base.chunked(energy_fn, rows).astype(np.float64)


def _energy(params: PyTree, x: Array, network: heads.Energy) -> Array:
    confinement = _CONFINEMENT * jnp.sum(x**2, axis=-1)
    return network.apply({"params": params}, x) + confinement


_compiled = jax.jit(_energy, static_argnames="network")


@functools.partial(jax.jit, static_argnames="network")
def _gradient(params: PyTree, x: Array, *, network: heads.Energy) -> Array:
    """grad_x E of standardised rows x [B, F]: [B, F]."""
    return jax.grad(lambda x: jnp.sum(_energy(params, x, network)))(x)


def _network(hidden: tuple[int, ...]) -> heads.Energy:
    return heads.Energy(mlp.Trunk(hidden))


def _widths(params: PyTree) -> tuple[int, ...]:
    trunk = params["trunk"]
    return tuple(len(trunk[f"linear_{i}"]["bias"]) for i in range(len(trunk)))
