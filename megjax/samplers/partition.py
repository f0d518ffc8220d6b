"""log Z of an energy: by quadrature, importance sampling, and annealing.

Neal 2001, "Annealed Importance Sampling"; forwards and backwards as Grosse, Ghahramani
and Adams 2015 (bidirectional Monte Carlo).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from megjax import checks
from megjax.samplers import hmc, mala
from megjax.types import Array, EnergyFn, Key, PyTree

MIN_SHARE = 0.01
"""Of the draws, as effective ones: below that an importance estimate is no figure."""

KERNELS = {"hmc": hmc, "mala": mala}
HMC = {"num_integration_steps": 3}
"""By default; the moves know the covariance, so that paths need not be long."""


class LogPartition(NamedTuple):
    """log Z in nats: the estimate and the ends of its 95 % interval.

    effective_sample_size: (sum w)^2 / sum w^2 of the weights w; near 1 nothing of
    this can be trusted. Infinite where nothing was drawn.
    """

    log_z: float
    low: float
    high: float
    effective_sample_size: float


class Base(NamedTuple):
    """A normalised density: what draws from it, and its logarithm.

    sample: (key, num) -> x [num, ...]. log_prob: x [B, ...] -> [B], in nats.
    """

    sample: Callable[[Key, int], Array]
    log_prob: Callable[[Array], Array]


class Bracket(NamedTuple):
    """log Z from both ends; `forward` tends to be too small, `backward` too large."""

    forward: LogPartition
    backward: LogPartition

    @property
    def gap(self) -> float:
        """How far the estimates are apart, in nats."""
        return self.backward.log_z - self.forward.log_z


def estimate(log_z_base: float, log_weights: np.ndarray, seed: int = 0) -> LogPartition:
    """log Z from log-weights [N], with a bootstrap interval over the chains.

    A logarithm of an unbiased mean: too small rather than too large, so likelihoods
    come out too high where the interval is wide. Of one weight it is infinite.
    """
    log_weights = np.asarray(log_weights, np.float64)
    num = len(log_weights)
    total = special.logsumexp(log_weights)
    size = np.exp(2 * total - special.logsumexp(2 * log_weights))
    if num < 2:
        low, high = -math.inf, math.inf
    elif num > MAX_BOOTSTRAP:
        # The delta method: so many weights have a Gaussian mean where it can be trusted.
        spread = 1.96 * math.sqrt(max(1 / size - 1 / num, 0.0))
        low, high = (total - math.log(num) + sign * spread for sign in (-1, 1))
    else:
        rows = np.random.RandomState(seed).randint(num, size=(2000, num))
        spread = special.logsumexp(log_weights[rows], axis=1) - np.log(num)
        low, high = np.quantile(spread, [0.025, 0.975])
    log_z = log_z_base + total - np.log(num)
    return LogPartition(log_z, log_z_base + low, log_z_base + high, float(size))


MAX_BOOTSTRAP = 2000
"""Weights that are drawn anew for an interval."""


def quadrature(
    energy_fn: EnergyFn,
    low: Array,
    high: Array,
    *,
    num_cells: int = 1000,
    tolerance: float = 0.005,
) -> LogPartition:
    """log Z of an energy of the plane, by the midpoint rule on num_cells^2 cells.

    low, high: corners [2] of a window; what lies outside is not seen. The interval is
    as wide as the difference from a quarter of the cells. Raises ValueError where that
    exceeds the tolerance, in nats: the cells are larger than what the energy has.

    >>> import jax.numpy as jnp
    >>> from megjax.samplers import partition
    >>> found = partition.quadrature(
    ...     lambda x: jnp.sum(x**2, -1) / 2, [-9, -9], [9, 9], num_cells=100
    ... )
    >>> print(f"{found.log_z:.4f}")  # log 2 pi
    1.8379
    """
    checks.at_least("num_cells", num_cells, 4)
    fine, coarse = (
        _midpoint(energy_fn, low, high, num) for num in (num_cells, num_cells // 2)
    )
    error = abs(fine - coarse)
    if not error <= tolerance:
        raise ValueError(
            f"num_cells={num_cells}: log Z differs by {error:.3g} nats from that on half "
            "as many cells a side: give more cells or a smaller window"
        )
    return LogPartition(fine, fine - error, fine + error, math.inf)


def _midpoint(energy_fn, low, high, num) -> float:
    """Row by row, in float64 over the rows."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    sizes = (high - low) / num
    axes = [low[i] + sizes[i] * (np.arange(num) + 0.5) for i in range(2)]

    @jax.jit
    def rows(first, second):
        def one(value):
            points = jnp.stack([jnp.full_like(second, value), second], axis=1)
            return jax.nn.logsumexp(-energy_fn(points))

        return jax.lax.map(one, first)

    sums = rows(jnp.asarray(axes[0], jnp.float32), jnp.asarray(axes[1], jnp.float32))
    return float(special.logsumexp(np.asarray(sums, np.float64)) + np.log(sizes).sum())


def importance(
    key: Key, energy_fn: EnergyFn, base: Base, *, num: int = 100_000
) -> LogPartition:
    """log Z by importance sampling from a normalised density with `num` draws.

    Raises ValueError where under 1 % of them would do as well: weights that differ so
    much have no mean that can be trusted.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.densities import reference
    >>> from megjax.samplers import partition
    >>> base = partition.Base(
    ...     lambda key, num: jax.random.normal(key, (num, 2)), reference.standard_log_prob
    ... )
    >>> found = partition.importance(
    ...     jax.random.key(0), lambda x: jnp.sum(x**2, -1), base, num=10_000
    ... )
    >>> print(f"{found.log_z:.1f}")  # log pi
    1.1
    """
    checks.at_least("num", num, 2)

    @partial(jax.jit, static_argnums=1)
    def weighed(key, num):
        x = base.sample(key, num)
        return -energy_fn(x) - base.log_prob(x)

    found = estimate(0.0, np.asarray(weighed(key, num)))
    share = found.effective_sample_size / num
    if not share >= MIN_SHARE:
        raise ValueError(
            f"importance sampling has an effective sample size of {share:.2%} of its "
            f"{num} draws: anneal (partition.annealed), or give a base nearer the model"
        )
    return found


def annealed_weights(
    log_density_fn: Callable[[Array, PyTree], Array],
    move_fn: Callable[[PyTree, PyTree, Array], PyTree],
    states: PyTree,
    inputs: PyTree,
    betas: Array,
) -> Array:
    """Log-weights of AIS along a path: [N], one chain each.

    log_density_fn: (beta, states [N, ...]) -> [N], from the start of the path (betas[0])
        to its end (betas[-1]). states: in equilibrium at the start.
    move_fn: (input of the step, states, beta) -> states, which leaves the density at
        that beta as it is. inputs: for each of the T steps, [T, ...].
    betas: [T + 1]. The mean of exp(log-weight) is Z(end) / Z(start) for every path.
    """

    def one(carry, step):
        states, log_weights = carry
        given, before, after = step
        ratio = log_density_fn(after, states) - log_density_fn(before, states)
        return (move_fn(given, states, after), log_weights + ratio), None

    zeros = jnp.zeros(len(jax.tree.leaves(states)[0]), betas.dtype)
    steps = inputs, betas[:-1], betas[1:]
    return jax.lax.scan(one, (states, zeros), steps)[0][1]


class Tuning(NamedTuple):
    """Of a move: step_size [], and factor L of `preconditioner`, [D, D] or [...]."""

    step_size: Array
    factor: Array


def annealed(
    key: Key,
    energy_fn: EnergyFn,
    base: Base,
    *,
    draws: Array | None = None,
    num_chains: int = 128,
    num_steps: int = 1000,
    num_moves: int = 1,
    kernel: str = "hmc",
    **options: Any,
) -> LogPartition:
    """log Z of an energy by annealed importance sampling from a normalised density.

    Along base^(1 - beta) exp(-beta E), with `num_moves` steps of HMC or MALA at each of
    `num_steps` temperatures. Where these lie (so that all steps add as much to the
    variance of the weights: Gelman and Meng 1998), step sizes and the covariance of the
    moves follow from as many chains before, which are thrown away. So the weights are
    those of fixed kernels, and their mean is Z.

    draws: None, or draws of the model x [N, ...], one chain each, that go the way
        back, from the model to the base. The estimate is then too large rather than
        too small, if the draws are exact; it is as good as they are.
    kernel: "hmc" or "mala". options: of the kernel, such as num_integration_steps (3).

    Raises ValueError at other kernels, fewer than two chains, and other numbers below 1.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.densities import reference
    >>> from megjax.samplers import partition
    >>> base = partition.Base(
    ...     lambda key, num: jax.random.normal(key, (num, 2)), reference.standard_log_prob
    ... )
    >>> found = partition.annealed(
    ...     jax.random.key(0), lambda x: jnp.sum(x**2, -1), base, num_steps=50
    ... )
    >>> bool(abs(found.log_z - jnp.log(jnp.pi)) < 0.1)
    True
    """
    module = checks.choice("kernel", kernel, **KERNELS)
    checks.whole("num_chains", num_chains, 2)
    checks.whole("num_steps", num_steps, 1)
    checks.whole("num_moves", num_moves, 1)
    options = (HMC if kernel == "hmc" else {}) | options
    own = partial(getattr(module, kernel), **options)
    path = Path(energy_fn, base, own, module.TARGET_ACCEPTANCE, num_moves)
    log_weights = _annealed(path, num_chains, num_steps, key, draws)
    if draws is None:
        return estimate(0.0, np.asarray(log_weights))
    log_z, low, high, size = estimate(0.0, np.asarray(log_weights))
    return LogPartition(-log_z, -high, -low, size)


class Path(NamedTuple):
    """What is annealed from where, and the kernel: (log-density, step_size, factor)."""

    energy_fn: EnergyFn
    base: Base
    kernel_fn: Callable
    target_acceptance: float
    num_moves: int

    def log_density(self, beta: Array, x: Array) -> Array:
        """On the way, up to a constant: [N, ...] -> [N]."""
        # A box has no density outside, of which nothing is left at the end.
        log_base = jnp.where(beta < 1, (1 - beta) * self.base.log_prob(x), 0)
        return log_base - beta * self.energy_fn(x)

    def move(self, key: Key, x: Array, beta: Array, tuning: Tuning):
        """Positions after the moves at one beta, and the mean acceptance rate.

        Step sizes vary, since paths of one length can be periodic (Neal 2011).
        """
        key, key_length = jax.random.split(key)
        length = jax.random.uniform(key_length, minval=0.5)
        kernel = self.kernel_fn(
            lambda x: self.log_density(beta, x[None])[0],
            step_size=length * tuning.step_size,
            factor=tuning.factor,
        )

        def one(states, key):
            states, infos = jax.vmap(kernel.step)(jax.random.split(key, len(x)), states)
            return states, jnp.mean(infos.acceptance_rate)

        keys = jax.random.split(key, self.num_moves)
        states, rates = jax.lax.scan(one, jax.vmap(kernel.init)(x), keys)
        return states.position, jnp.mean(rates)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _annealed(path, num_chains, num_steps, key, draws) -> Array:
    key_tune, key_start, key_path = jax.random.split(key, 3)
    betas, tuning = _tuned(path, num_chains, num_steps, key_tune)
    x = path.base.sample(key_start, num_chains) if draws is None else draws
    if draws is not None:
        betas, tuning = jax.tree.map(lambda leaf: leaf[::-1], (betas, tuning))
    # Each move is at the beta that its step leads to.
    tuning = jax.tree.map(lambda leaf: leaf[1:], tuning)

    def move(inputs, x, beta):
        key, tuning = inputs
        return path.move(key, x, beta, tuning)[0]

    inputs = jax.random.split(key_path, num_steps), tuning
    return annealed_weights(path.log_density, move, x, inputs, betas)


WARMUP, GAIN = 50, 0.5
"""Moves at the base before its step size counts; steps of the search, in logarithms."""

MEMORY = 0.9
"""Of a running covariance, per temperature: few chains tell little at once."""

MAX_DENSE = 100
"""Dimensions up to which moves have the chains' correlations, not only their scales."""


def _tuned(path, num_chains, num_steps, key) -> tuple[Array, Tuning]:
    """betas [T + 1] and the tuning at each, by chains that go the way (Robbins, Monro)."""
    keys = jax.random.split(key, WARMUP + num_steps + 2)
    curve = special.expit(np.linspace(-5, 5, num_steps + 1))
    betas = jnp.asarray((curve - curve[0]) / (curve[-1] - curve[0]), jnp.float32)

    def one(carry, inputs):
        x, step_size, covariance = carry
        key, beta = inputs
        tuning = Tuning(step_size, _factor(x, covariance))
        x, rate = path.move(key, x, beta, tuning)
        step_size *= jnp.exp(GAIN * (jnp.nan_to_num(rate) - path.target_acceptance))
        covariance = MEMORY * covariance + (1 - MEMORY) * _covariance(x)
        speed = jnp.std(path.log_density(1.0, x) - path.log_density(0.0, x))
        speed = jnp.clip(jnp.nan_to_num(speed), 1e-6, 1e6)
        return (x, step_size, covariance), (Tuning(step_size, tuning.factor), speed)

    x = path.base.sample(keys[0], num_chains)
    carry = x, jnp.asarray(0.5, x.dtype), _covariance(x)
    inputs = keys[1:], jnp.concatenate([jnp.zeros(WARMUP), betas])
    tuning, speed = jax.tree.map(
        lambda leaf: leaf[WARMUP:], jax.lax.scan(one, carry, inputs)[1]
    )
    # A tenth of the way is shared out evenly, in case the chains have missed something.
    length = jnp.cumsum(0.5 * (speed[1:] + speed[:-1]) * jnp.diff(betas))
    share = jnp.concatenate([jnp.zeros(1), length / length[-1]])
    share = 0.9 * share + 0.1 * jnp.linspace(0, 1, num_steps + 1)
    chosen = jnp.interp(jnp.linspace(0, 1, num_steps + 1), share, betas)
    chosen = chosen.at[0].set(0.0).at[-1].set(1.0)
    rows = jnp.clip(jnp.searchsorted(betas, chosen), 0, num_steps)
    return chosen, jax.tree.map(lambda leaf: leaf[rows], tuning)


def _covariance(x) -> Array:
    """Of positions [N, D] -> [D, D]; variances [...] of many or other coordinates."""
    if _is_dense(x):
        return jnp.cov(x, rowvar=False, bias=True).reshape(2 * x.shape[1:])
    return jnp.var(x, axis=0)


def _factor(x, covariance) -> Array:
    """L of the covariance of positions of the form of x, its correlations shrunk."""
    if _is_dense(x):
        diagonal = jnp.diag(jnp.diag(covariance))
        return jnp.linalg.cholesky(0.98 * covariance + 0.02 * diagonal)
    return jnp.sqrt(jnp.maximum(covariance, 1e-12))


def _is_dense(x) -> bool:
    return x.ndim == 2 and x.shape[1] <= MAX_DENSE


def bracket(
    key: Key, energy_fn: EnergyFn, base: Base, draws: Array, **options: Any
) -> Bracket:
    """`annealed` from the base, and from draws of the model back to it."""
    key_forward, key_backward = jax.random.split(key)
    return Bracket(
        annealed(key_forward, energy_fn, base, **options),
        annealed(key_backward, energy_fn, base, draws=draws, **options),
    )
