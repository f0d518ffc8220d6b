"""SGD and Adam without momentum, with L1 and L2 penalties; L1 gives exact zeros.

Mehta et al. 2019, eqs. 191-192; Yun, Lozano and Yang 2021, "Adaptive proximal gradient
methods for structured neural networks" (ProxGen), for the step under Adam.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from megjax import checks
from megjax.types import Array, PyTree


class Spec(NamedTuple):
    """What `optimizer` makes.

    method: sgd, or adam without momentum.
    learning_rate: the first one.
    schedule: of the rate: constant; linear, to 0 at the last step; or power, r falling
        as 1 / (1 / r + epoch) with epochs of 570 steps: what PowerLawDecay does in
        the notebook of Mehta et al. 2019, whatever its text says.
    l1, l2: factors of sum |w| and sum w^2 over the weights, added to the loss.
    """

    method: str = "adam"
    learning_rate: float = 0.005
    schedule: str = "linear"
    l1: float = 0.0
    l2: float = 0.0


class State(NamedTuple):
    """count: steps so far []; squares: running means of g^2, None for SGD."""

    count: Array
    squares: PyTree


def optimizer(
    spec: Spec, num_steps: int, *, frozen: Collection[str] = ()
) -> optax.GradientTransformation:
    """The optimizer of a specification over a number of steps.

    frozen: names of parameters that stay. Raises ValueError naming a field that the
    specification cannot have.
    """
    checks.whole("train.num_steps", num_steps, 1)
    for field in ("learning_rate", "l1", "l2"):
        checks.at_least(f"contrast.{field}", getattr(spec, field), 0)
    rate = spec.learning_rate
    rate_fn = checks.choice(
        "contrast.schedule",
        spec.schedule,
        constant=rate,
        linear=optax.linear_schedule(rate, 0.0, num_steps),
        power=lambda count: rate / (1 + rate * (count // 570)),
    )
    method = checks.choice("contrast.method", spec.method, sgd=sgd, adam=adam)
    trained = method(rate_fn, l1=spec.l1, l2=spec.l2)
    if not frozen:
        return trained
    held = optax.masked(
        optax.set_to_zero(), lambda params: {name: name in frozen for name in params}
    )
    return optax.chain(trained, held)


def is_weight(path: tuple, leaf: Array) -> bool:
    """Whether a parameter connects units: matrices that no one named a bias.

    path: as of `jax.tree_util`. Penalties spare all other parameters.
    """
    name = jax.tree_util.keystr(path)
    return leaf.ndim > 1 and "bias" not in name


def weights(params: PyTree) -> list[Array]:
    """The parameters that penalties act on."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for path, leaf in leaves if is_weight(path, leaf)]


def without_weights(params: PyTree) -> PyTree:
    """The parameters of the same units left unconnected."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: jnp.zeros_like(p) if is_weight(path, p) else p, params
    )


def soft_threshold(w: Array, threshold: float | Array) -> Array:
    """Minimiser over u of (u - w)^2 / 2 + threshold |u|: zero within the threshold."""
    return jnp.sign(w) * jnp.maximum(jnp.abs(w) - threshold, 0)


def sgd(
    learning_rate: float | optax.Schedule, *, l1: float = 0.0, l2: float = 0.0
) -> optax.GradientTransformation:
    """Plain gradient descent on loss + l1 sum |w| + l2 sum w^2 over all weights w."""
    return _proximal(learning_rate, l1, l2, None, lambda squares, count: 1.0)


def adam(
    learning_rate: float | optax.Schedule,
    *,
    decay: float = 0.999,
    epsilon: float = 1e-8,
    l1: float = 0.0,
    l2: float = 0.0,
) -> optax.GradientTransformation:
    """Adam without momentum on loss + l1 sum |w| + l2 sum w^2 over all weights w.

    decay: beta_2 of the paper. The threshold of each weight carries the same factor as
    its gradient, without which the iteration stops at minima of another penalty.
    """

    def scale(squares, count):
        return 1 / (jnp.sqrt(squares / (1 - decay**count)) + epsilon)

    return _proximal(learning_rate, l1, l2, decay, scale)


def _proximal(
    learning_rate: float | optax.Schedule,
    l1: float,
    l2: float,
    decay: float | None,
    scale: Callable[[Array, Array], Any],
) -> optax.GradientTransformation:
    """Scaled gradient step, then soft threshold; `scale` of running squares, count."""

    def init(params):
        zero = jnp.zeros([], jnp.int32)
        return State(
            zero, None if decay is None else jax.tree.map(jnp.zeros_like, params)
        )

    def update(gradients, state, params):
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        count = state.count + 1
        gradients = jax.tree_util.tree_map_with_path(
            partial(_with_l2, l2=l2), gradients, params
        )
        squares = _running(state.squares, gradients, decay)

        def change(path, p, gradient, square):
            factor = rate * scale(square, count)
            moved = p - factor * gradient
            if l1 and is_weight(path, p):
                moved = soft_threshold(moved, factor * l1)
            # Exactly -p where the threshold made a zero, so that the sum is one too.
            return moved - p

        known = params if squares is None else squares
        updates = jax.tree_util.tree_map_with_path(change, params, gradients, known)
        return updates, State(count, squares)

    return optax.GradientTransformation(init, update)


def _with_l2(path, gradient, p, *, l2):
    return gradient + 2 * l2 * p if l2 and is_weight(path, p) else gradient


def _running(squares, gradients, decay):
    if decay is None:
        return None
    return jax.tree.map(
        lambda old, g: decay * old + (1 - decay) * g**2, squares, gradients
    )
