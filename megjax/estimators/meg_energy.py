"""The MEG energy of `EnergyDetector`: training on a table, scores of its rows."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from megjax import extras, losses
from megjax.estimators import base
from megjax.learners import meg
from megjax.learners.base import Learner
from megjax.networks import heads, mlp
from megjax.training import loop
from megjax.types import Array, PyTree

with extras.needed("estimators"):
    from sklearn import preprocessing

_LARGEST = 1e18
"""Beyond this, squares overflow in float32."""


class Game(NamedTuple):
    """All that compiled training depends on but the rows, hence hashable."""

    num_features: int
    hidden: tuple[int, ...]
    generator_hidden: tuple[int, ...]
    latent_dim: int
    num_steps: int
    num_energy_updates: int
    score_weight: float
    information_weight: float
    learning_rate: float
    average_decay: float


def trained(
    game: Game, rows: np.ndarray, *, seed: int, batch_size: int, verbose: bool
) -> PyTree:
    """Weights of the energy after training on scaled rows [N, F].

    Raises FloatingPointError where training diverges.
    """
    one = learner(game)
    state = base.trained(
        one,
        one.init(loop.keys(seed).init, jnp.zeros((batch_size, game.num_features))),
        rows,
        range(game.num_steps),
        seed=seed,
        batch_size=batch_size,
        verbose=verbose,
    )
    if state is None:
        raise FloatingPointError(
            "training diverged: lower learning_rate, raise score_weight, or scale "
            "the columns with scaling='minmax' or 'standard'"
        )
    return state.energy.params if state.average is None else state.average["energy"]


def scores(params: PyTree, rows: np.ndarray, criterion: str) -> np.ndarray:
    """-E or -|grad_x E| of scaled rows [N, F], float64 [N]."""
    network = _energy(_widths(params))
    score = functools.partial(
        _normality, params, network=network, is_norm=criterion == "score_norm"
    )
    return base.chunked(score, rows).astype(np.float64)


def shares(params: PyTree, rows: np.ndarray) -> np.ndarray:
    """Each column's part in |grad_x E|^2 of scaled rows: [N, F], of sum 1."""
    gradient = functools.partial(_gradient, params, network=_energy(_widths(params)))
    squares = np.float64(base.chunked(gradient, rows)) ** 2
    total = squares.sum(1, keepdims=True)
    equal = np.full_like(squares, 1 / squares.shape[1])
    return np.divide(squares, total, out=equal, where=total > 0)


def moved_and_scaled(X: np.ndarray, scaling: str | None):
    """(center, scale), float64 [F] each: rows are seen as (X - center) / scale."""
    if scaling == "minmax":
        scaler = preprocessing.MinMaxScaler().fit(X)
        center, scale = scaler.data_min_, 1 / scaler.scale_
    elif scaling == "standard":
        scaler = preprocessing.StandardScaler().fit(X)
        center, scale = scaler.mean_, scaler.scale_
    else:
        center, scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
    return center.astype(np.float64), scale.astype(np.float64)


def scaled(X: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Rows as the networks see them: float32 [N, F]."""
    with np.errstate(over="ignore"):
        rows = (X - center) / scale
    return np.clip(rows, -_LARGEST, _LARGEST).astype(np.float32)


# Equal games share their programs: folds, seeds and repetitions compile once.
@functools.lru_cache(maxsize=32)
def learner(game: Game) -> Learner:
    """MEG with perceptrons in the form of the reference code's for KDD99."""
    updates = game.num_steps * game.num_energy_updates
    return meg.meg(
        meg.Spec(
            energy=_energy(game.hidden),
            generator=mlp.Generator(game.generator_hidden, game.num_features),
            statistics=mlp.Statistics(game.hidden),
            latent_dim=game.latent_dim,
            num_energy_updates=game.num_energy_updates,
            score_weight=game.score_weight,
            information_weight=game.information_weight,
            average_decay=game.average_decay,
            energy_optimizer=_adam(game.learning_rate, updates),
            generator_optimizer=_adam(game.learning_rate, game.num_steps),
            statistics_optimizer=_adam(game.learning_rate, game.num_steps),
        )
    )


def _energy(hidden: tuple[int, ...]) -> heads.Energy:
    return heads.Energy(mlp.Trunk(hidden))


def _widths(params: PyTree) -> tuple[int, ...]:
    """Of the trained network, whatever the estimator's `hidden` has become since."""
    trunk = params["trunk"]
    return tuple(len(trunk[f"linear_{i}"]["bias"]) for i in range(len(trunk)))


def _adam(rate: float, num_updates: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, num_updates), 0.5, 0.9)


@functools.partial(jax.jit, static_argnames=("network", "is_norm"))
def _normality(params: PyTree, x: Array, *, network, is_norm: bool) -> Array:
    """-|grad_x E| or -E of scaled rows x [B, F]: [B]."""
    energy_fn = functools.partial(network.apply, {"params": params})
    if is_norm:
        return -jnp.sqrt(losses.squared_score(energy_fn, x))
    return -energy_fn(x)


@functools.partial(jax.jit, static_argnames="network")
def _gradient(params: PyTree, x: Array, *, network) -> Array:
    """grad_x E of scaled rows x [B, F]: [B, F]."""
    return jax.grad(lambda x: jnp.sum(network.apply({"params": params}, x)))(x)
