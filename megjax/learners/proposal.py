"""Training of a Markov chain's proposal for speed: entropy against acceptance.

Li, Chen and Sommer 2021, "A Neural Network MCMC Sampler That Maximizes Proposal
Entropy", section 3.3; the weight of the entropy as Titsias and Dellaportas 2019.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from megjax import checks, distributed
from megjax.learners.base import Learner, Player, player, updated
from megjax.networks.proposal import Proposal
from megjax.samplers import adaptation, mala, neural, preconditioner
from megjax.samplers.kernel import Kernel, chain, metropolis
from megjax.types import Array, Key, LogDensityFn, Metrics, PyTree


class Optimizer(NamedTuple):
    """What `optimizer` makes.

    The paper's learning rate is constant and 1e-3, its beta2 .95.

    schedule: of the rate: constant, or cosine, to 0 at the last step after a linear
        rise of `schedule_warmup` steps.
    """

    learning_rate: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: str = "cosine"
    schedule_warmup: int = 100


def optimizer(settings: Optimizer, num_steps: int) -> optax.GradientTransformation:
    """AMSGrad with its rate over a number of steps.

    Raises ValueError naming a field that the settings cannot have.
    """
    for field in ("learning_rate", "schedule_warmup"):
        checks.at_least(f"proposal.{field}", getattr(settings, field), 0)
    for field in ("beta1", "beta2"):
        checks.fraction(f"proposal.{field}", getattr(settings, field))
    highest = settings.learning_rate
    warmup = min(settings.schedule_warmup, num_steps // 2)
    rate = checks.choice(
        "proposal.schedule",
        settings.schedule,
        constant=highest,
        cosine=optax.warmup_cosine_decay_schedule(
            0.0, highest, warmup, max(num_steps, warmup + 1)
        ),
    )
    return amsgrad(rate, beta1=settings.beta1, beta2=settings.beta2)


def amsgrad(
    learning_rate: float | Callable, *, beta1: float = 0.9, beta2: float = 0.999
) -> optax.GradientTransformation:
    """The paper's optimizer: global norms cut to 10, and steps without a number left out.

    A single proposal that leaves the range of floats makes a gradient of NaN. A hundred
    such in a row go through, and end the run.
    """
    steps = optax.amsgrad(learning_rate, beta1, beta2)
    return optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(10.0), steps), max_consecutive_errors=100
    )


class Spec(NamedTuple):
    """A target, the networks, and hyperparameters; those of the paper's demonstration.

    log_density_fn: of one position, twice differentiable. Gradients of the objective
        do not see the kinks of a piecewise linear one, and are biased by that.
    start_fn: (key, num) -> positions [num, ...] that chains start from.
    target_acceptance: that the weight of the entropy follows.
    entropy_weight: beta of eq. 5 at the start.
    entropy_weight_rate: beta becomes beta (1 + rate (acceptance - target)); 0 holds it.
    entropy_weight_floor, entropy_weight_ceiling: of beta. The paper's code takes the
        initial value for the floor, from which a beta that starts too large cannot
        come down.
    relative_entropy: takes the entropy relative to the target, -KL(q(x'|x) || p), which
        is not in the paper. Its entropy grows without bound with proposals that are
        rejected and, in a funnel, with every step towards the mouth; this one is
        largest where the proposal is a draw of the target, as the acceptance is.
    path_gradient: differentiates the relative entropy along the path of x' alone, with
        the parameters in log q(x'|x) held (Roeder, Wu and Duvenaud 2017; of flows,
        Vaitl et al. 2022): the same mean, and no variance where the proposal is a draw
        of the target, for one more pass back. Without `relative_entropy` it has no say.
    stop_gradient: takes dU for a constant in the gradient; the paper found it worse.
    buffer_size: number of chains to train on where the target has no exact sampler.
        Every iteration moves the chains of its batch by the proposal as it is. 0 trains
        on the data, which must then be exact draws of the target.
    burn_in: steps of MALA from the starts before training, which tune its step size;
        the proposal starts with that.
    warmup_windows: how often after that the mean and covariance of the chains become a
        preconditioner (`neural.Preconditioner`), with which MALA burns in again. The
        proposal works with the last one, for good; 0, the paper, for none.
    num_transitions: of every chain that `sample` runs.
    local_rate: of the transitions of the trained kernel that are random-walk moves, for
        chains that would get stuck where the proposal is too rare (as
        `neural.LocalMoves`); it is trained without them. 0, the paper, for none.
    local_scale_min, local_scale_max: bounds of their step size, the standard deviation of
        each coordinate; with a preconditioner L, of each coordinate of L^-1 x.
    """

    log_density_fn: LogDensityFn
    proposal: Proposal
    start_fn: Callable[[Key, int], Array]
    target_acceptance: float = 0.9
    entropy_weight: float = 0.01
    entropy_weight_rate: float = 0.1
    entropy_weight_floor: float = 1e-3
    entropy_weight_ceiling: float = 1e3
    relative_entropy: bool = False
    path_gradient: bool = True
    stop_gradient: bool = False
    buffer_size: int = 0
    burn_in: int = 500
    warmup_windows: int = 0
    num_transitions: int = 100
    local_rate: float = 0.0
    local_scale_min: float = 1e-3
    local_scale_max: float = 10.0
    optimizer: optax.GradientTransformation = amsgrad(1e-3)


@struct.dataclass
class State:
    """The proposal, the weight of its entropy [], and chains [M, ...] or None."""

    proposal: Player
    entropy_weight: Array
    positions: Array | None


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    minima = {"num_transitions": 1, "burn_in": 1, "buffer_size": 0, "warmup_windows": 0}
    for field, minimum in minima.items():
        checks.whole(f"proposal.{field}", getattr(spec, field), minimum)
    for field in WEIGHT:
        checks.at_least(f"proposal.{field}", getattr(spec, field), 0)
    check_acceptance(spec.target_acceptance)
    check_local_moves(spec.local_rate, spec.local_scale_min, spec.local_scale_max)
    weight, floor, ceiling = (getattr(spec, field) for field in WEIGHT[:3])
    if not floor <= weight <= ceiling:
        raise ValueError(
            f"proposal.entropy_weight={weight}: give one from "
            f"entropy_weight_floor={floor} to entropy_weight_ceiling={ceiling}"
        )
    if spec.warmup_windows and not (spec.buffer_size and len(spec.proposal.shape) == 1):
        raise ValueError(
            f"proposal.warmup_windows={spec.warmup_windows}: these need a buffer of "
            "chains of vectors; give a buffer_size, or 0 warmup_windows"
        )
    return spec


def check_local_moves(rate: float, scale_min: float, scale_max: float) -> None:
    """ValueError unless the rate is from 0 to 1 and the scales are an interval."""
    checks.share("proposal.local_rate", rate)
    checks.at_least("proposal.local_scale_max", scale_max, 0)
    checks.at_least("proposal.local_scale_min", scale_min, 0)
    if not 0 < scale_min <= scale_max:
        raise ValueError(
            f"proposal.local_scale_min={scale_min}: give a number above 0 and at most "
            f"local_scale_max={scale_max}"
        )


def check_acceptance(value: float) -> None:
    """ValueError unless a target of acceptance is between 0 and 1."""
    checks.number("proposal.target_acceptance", value)
    if not 0 < value < 1:
        raise ValueError(
            f"proposal.target_acceptance={value}: give a number between 0 and 1"
        )


NUM_TUNED = 16
"""Chains whose burn-in gives the step size, where the others need none."""

WEIGHT = (
    *("entropy_weight", "entropy_weight_floor", "entropy_weight_ceiling"),
    "entropy_weight_rate",
)


def proposal(spec: Spec) -> Learner:
    """A Metropolis-Hastings proposal that maximises its entropy (Li et al. 2021).

    The learner's energy is that of the target.

    Raises ValueError as `checked` does.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import proposal
    >>> from megjax.learners.proposal import Spec
    >>> from megjax.networks.proposal import Vectors
    >>> learner = proposal(
    ...     Spec(
    ...         lambda x: -jnp.sum(x**2) / 2,
    ...         Vectors((2,), width=8, num_steps=1),
    ...         lambda key, num: jax.random.normal(key, (num, 2)),
    ...     )
    ... )
    >>> x = jax.random.normal(jax.random.key(0), (1, 16, 2))
    >>> state = learner.init(jax.random.key(1), x[0])
    >>> state, metrics = learner.step(jax.random.key(2), state, x)
    >>> learner.energy(state, x[0]).shape
    (16,)
    """
    spec = checked(spec)
    return Learner(
        init=partial(init, spec),
        step=partial(step, spec),
        sample=partial(sample, spec),
        energy=partial(energy, spec),
        kernel=partial(kernel, spec),
    )


def init(spec: Spec, key: Key, x: Array) -> State:
    """A proposal that is MALA, and chains that have burnt in where there is a buffer."""
    key_params, key_buffer = jax.random.split(key)
    chains = burnt_in(spec, key_buffer) if spec.buffer_size else ()
    return fresh(spec, key_params, x.shape[1:], *chains)


def begun(spec: Spec, key: Key, positions: Array) -> State:
    """As `init`, with chains that begin at draws [M, dim] of the target.

    A few of them burn in, for the step size, and the others stay where they are: the
    burn-in of all could take longer than the training.
    """
    key_params, key_rows, key_chains = jax.random.split(key, 3)
    window = whitening(positions)
    few = jax.random.permutation(key_rows, positions)[:NUM_TUNED]
    _, step_size = langevin(spec, key_chains, few, window.factor)
    shape = positions.shape[1:]
    return fresh(spec, key_params, shape, positions, step_size, window)


def fresh(
    spec: Spec,
    key: Key,
    shape: tuple[int, ...],
    positions: Array | None = None,
    step_size: Array | None = None,
    window: neural.Preconditioner | None = None,
) -> State:
    """A proposal that is MALA of a step size, with a preconditioner where there is one."""
    variables = spec.proposal.init(key, jnp.zeros(shape))
    if step_size is not None:
        variables["params"]["log_scale"] = 0.5 * jnp.log(2 * step_size)
    if window:
        variables["preconditioner"] = window._asdict()
    return State(
        player(variables, spec.optimizer),
        jnp.float32(spec.entropy_weight),
        positions,
    )


def burnt_in(spec: Spec, key: Key) -> tuple[Array, Array, neural.Preconditioner | None]:
    """Chains [M, ...] after MALA from the starts, its step size [], and preconditioner."""
    key_start, key_chains, *keys = jax.random.split(key, 2 + spec.warmup_windows)
    starts = spec.start_fn(key_start, spec.buffer_size)
    positions, step_size = langevin(spec, key_chains, starts)
    window = None
    for key_window in keys:
        positions, step_size, window = preconditioned(spec, key_window, positions)
    return positions, step_size, window


def preconditioned(
    spec: Spec, key: Key, positions: Array
) -> tuple[Array, Array, neural.Preconditioner]:
    """As of `burnt_in`, from chains [M, dim] that have the covariance of the target."""
    window = whitening(positions)
    return *langevin(spec, key, positions, window.factor), window


def whitening(positions: Array) -> neural.Preconditioner:
    """The affine map that gives draws [M, dim] mean 0 and covariance I."""
    factor = preconditioner.covariance_factor(positions)
    return neural.Preconditioner(jnp.mean(positions, axis=0), factor)


def langevin(
    spec: Spec, key: Key, starts: Array, factor: Array | None = None
) -> tuple[Array, Array]:
    """Positions [M, ...] after a burn-in by MALA, and the step size [] it ends with.

    factor: as of `mala.mala`.
    """
    kernel_fn = partial(mala.mala, spec.log_density_fn, factor=factor)
    states, tuner = adaptation.warm_up(
        jax.random.split(key, len(starts)),
        lambda step_size: kernel_fn(step_size=step_size),
        jax.vmap(kernel_fn(step_size=1.0).init)(starts),
        adaptation.tuner(0.01),
        spec.burn_in,
        target_acceptance=mala.TARGET_ACCEPTANCE,
    )
    return states.position, adaptation.step_size(tuner)


def step(spec: Spec, key: Key, state: State, x: Array) -> tuple[State, Metrics]:
    """One ascent of eq. 5 on exact draws x [1, B, ...] or on B chains of the buffer."""
    key_rows, key_noise, key_accept = jax.random.split(key, 3)
    x, rows = x[0], None
    if spec.buffer_size:
        rows = jax.random.permutation(key_rows, spec.buffer_size)[: len(x)]
        x = distributed.shard(state.positions[rows])
    noise = distributed.shard(jax.random.normal(key_noise, x.shape, x.dtype))
    loss_fn = partial(loss, spec, state, x, noise)
    gradient, (moves, starts) = jax.grad(loss_fn, has_aux=True)(state.proposal.params)
    acceptance = jnp.exp(jnp.minimum(ratios(moves), 0.0))
    metrics = measured(
        x,
        moves.state.position,
        acceptance=acceptance,
        log_det=moves.log_det,
        finite=jnp.isfinite(moves.log_ratio),
        scale=jnp.exp(state.proposal.params["log_scale"]),
        weight=acceptance,
    )
    metrics["entropy_weight"] = state.entropy_weight
    norm = optax.tree.norm(gradient)
    metrics["gradient_norm"] = jnp.where(jnp.isfinite(norm), norm, 0.0)
    state = state.replace(
        proposal=updated(state.proposal, gradient, spec.optimizer),
        entropy_weight=next_weight(spec, state.entropy_weight, jnp.mean(acceptance)),
    )
    if spec.buffer_size:
        keys = jax.random.split(key_accept, len(x))
        moved, _ = jax.vmap(metropolis)(keys, moves.log_ratio, starts, moves.state)
        positions = state.positions.at[rows].set(moved.position)
        state = state.replace(positions=positions)
    return state, metrics


def loss(
    spec: Spec, state: State, x: Array, noise: Array, params: PyTree
) -> tuple[Array, tuple[neural.Move, neural.State]]:
    """Minus the mean of eq. 5, and the proposals made from x [B, ...].

    min(0, log a) + beta log |det dx' / dz|: the paper prints a minus before beta, with
    which the proposal would collapse. Proposals that are not finite count as 0.
    Relative to the target, log p(x') - log p(x) joins the log-determinant; along the
    path, log p(z) - log q(x'|x) takes its place, the same number with other gradients.
    """
    proposer = state.replace(proposal=state.proposal.replace(params=params))
    moves, starts = proposals(spec, proposer, x, noise)
    usable = jnp.isfinite(moves.log_ratio)
    entropy = moves.log_det
    if spec.relative_entropy:
        if spec.path_gradient:
            held = flow(spec, jax.lax.stop_gradient(proposer))
            entropy = -log_proposal(spec, held, starts, moves.state.position, noise)
        # log p(x) is for the size of the number alone.
        entropy += moves.state.log_density - starts.log_density
    speed = jnp.minimum(moves.log_ratio, 0.0) + state.entropy_weight * entropy
    return -jnp.mean(jnp.where(usable, speed, 0.0)), (moves, starts)


def proposals(
    spec: Spec, state: State, x: Array, noise: Array
) -> tuple[neural.Move, neural.State]:
    """The proposals that noise [B, ...] makes from x [B, ...], and the states there."""
    settings = {"log_density_fn": spec.log_density_fn, "flow": flow(spec, state)}
    starts = jax.vmap(neural.neural(**settings).init)(x)
    move = partial(neural.move, **settings, stop_gradient=spec.stop_gradient)
    return jax.vmap(move)(noise, starts), starts


def log_proposal(
    spec: Spec, flow: neural.Flow, starts: neural.State, position: Array, noise: Array
) -> Array:
    """log q(x'|x) - log p(z) [B] of proposals x' [B, ...] that noise z made from x."""
    log_q_fn = partial(
        neural.log_density,
        log_density_fn=spec.log_density_fn,
        flow=flow,
        stop_gradient=spec.stop_gradient,
    )
    log_p = -0.5 * jnp.sum(noise**2, axis=range(1, noise.ndim))
    return jax.vmap(log_q_fn)(position, starts) - log_p


def ratios(moves: neural.Move) -> Array:
    """Log-ratios of acceptance [B], minus infinity where they are not numbers."""
    return jnp.where(jnp.isnan(moves.log_ratio), -jnp.inf, moves.log_ratio)


def next_weight(spec: Spec, weight: Array, acceptance: Array) -> Array:
    """beta after a batch that accepted with mean probability `acceptance`: []."""
    rate = spec.entropy_weight_rate
    weight = weight * (1 + rate * (acceptance - spec.target_acceptance))
    return jnp.clip(weight, spec.entropy_weight_floor, spec.entropy_weight_ceiling)


def measured(
    x: Array,
    ends: Array,
    *,
    acceptance: Array,
    log_det: Array,
    finite: Array,
    scale: Array,
    weight: float | Array = 1.0,
) -> Metrics:
    """Numbers of a batch of moves [B], whatever the sampler.

    x, ends: positions [B, ...] before and after; of proposals where `weight` is their
    acceptance, by which squared jumps then count. log_det: log |det dx' / dz|, whose
    mean and the entropy of the noise are the entropy of the proposal, in nats. finite:
    whether the proposals are; others count as moves by nothing. scale: of the noise [].
    """
    change = (ends - x).reshape(len(x), -1)
    jump = jnp.sum(jnp.where(finite[:, None], change, 0.0) ** 2, axis=1)
    log_det = jnp.mean(jnp.where(finite, log_det, 0.0))
    return {
        "acceptance": jnp.mean(acceptance),
        "entropy": log_det + noise_entropy(change.shape[1]),
        "expected_squared_jump": jnp.mean(weight * jump),
        "scale": scale,
        "non_finite": 1 - jnp.mean(finite),
    }


def noise_entropy(dim: int) -> float:
    """Entropy of N(0, I) in nats."""
    return 0.5 * dim * (1 + math.log(2 * math.pi))


def flow(spec: Spec, state: State) -> neural.Flow:
    """The proposal as it is, for samplers."""
    variables = {"params": state.proposal.params, **state.proposal.variables}
    return neural.flow(spec.proposal, variables)


def kernel(
    spec: Spec, state: State, log_density_fn: LogDensityFn, *, has_aux: bool = False
) -> Kernel:
    """The kernel that proposes as the state does; nothing in it adapts any more.

    It is exact for any density, and fast for the one that it was trained on.
    """
    local = None
    if spec.local_rate:
        local = neural.LocalMoves(
            spec.local_rate, spec.local_scale_min, spec.local_scale_max
        )
    return neural.neural(
        log_density_fn, flow(spec, state), has_aux=has_aux, local=local
    )


def positions(spec: Spec, key: Key, state: State, num: int) -> Array:
    """Where chains start [num, ...]: at chains of the buffer, or at the starts.

    A proposal that was trained where the target has its mass can get stuck for very
    long at a start outside.
    """
    if state.positions is None:
        return spec.start_fn(key, num)
    rows = jax.random.randint(key, (num,), 0, len(state.positions))
    return state.positions[rows]


def sample(spec: Spec, key: Key, state: State, num: int) -> Array:
    """Positions [num, ...] after `num_transitions` from where chains start."""
    key_start, key_chains = jax.random.split(key)
    fixed = kernel(spec, state, spec.log_density_fn)

    def last(key, start):
        return chain(key, fixed, fixed.init(start), spec.num_transitions)[0].position

    starts = distributed.shard(positions(spec, key_start, state, num))
    return jax.vmap(last)(jax.random.split(key_chains, num), starts)


def energy(spec: Spec, state: State, x: Array) -> Array:
    """Minus the log-density of the target: [B, ...] -> [B]."""
    del state
    return -jax.vmap(spec.log_density_fn)(x)
