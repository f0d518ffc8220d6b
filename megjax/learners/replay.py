"""Persistent contrastive divergence from a replay buffer, its sampler trained on the way.

Li, Chen and Sommer 2021, "A Neural Network MCMC Sampler That Maximizes Proposal
Entropy", section 5.2; the buffer as Du and Mordatch 2019, without fresh starts. Every
iteration a batch of chains of the buffer moves on the present energy by a sampler that
adapts to it; then the energy follows the gradient of the likelihood (Tieleman 2008).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen, struct

from megjax import checks, distributed, losses
from megjax.learners.adaptive_samplers import AdaptiveSampler
from megjax.learners.base import Learner, Player, norm, player, updated
from megjax.samplers import bijectors
from megjax.samplers.bijectors import Bijector
from megjax.samplers.kernel import Kernel
from megjax.types import Array, Key, LogDensityFn, Metrics, PyTree


class Spec(NamedTuple):
    """An energy, what moves its chains, and hyperparameters.

    energy: module x [B, ...] -> [B] of data, not of coordinates: the density of x is
        exp(-E(x)), and that of u exp(-E(x(u))) |det dx / du|, which has a finite
        integral for any continuous E where x is bounded. Twice differentiable for a
        learned proposal.
    bijector: of data; chains live in its unbounded values.
    noise_fn: (key, x [B, ...]) -> x, put on every batch of data, or None.
    buffer_size: number of chains; a batch of them moves in an iteration.
    num_transitions: of each of those.
    start_fn: (key, shape) -> u, where chains begin.
    magnitude_weight: of mean E(data)^2 + mean E(chains)^2 in the loss, which bounds the
        energies (Du and Mordatch 2019 give it 1) and biases the likelihood; by default
        none.
    """

    energy: linen.Module
    sampler: AdaptiveSampler
    bijector: Bijector = bijectors.IDENTITY
    noise_fn: Callable[[Key, Array], Array] | None = None
    buffer_size: int = 10_000
    num_transitions: int = 40
    start_fn: Callable[[Key, tuple[int, ...]], Array] = jax.random.normal
    magnitude_weight: float = 0.0
    optimizer: optax.GradientTransformation = optax.adam(1e-4)


@struct.dataclass
class State:
    """The energy, the sampler's state, and chains u [M, ...]."""

    energy: Player
    sampler: PyTree
    positions: Array


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    for field in ("buffer_size", "num_transitions"):
        checks.whole(f"replay.{field}", getattr(spec, field), 1)
    checks.at_least("replay.magnitude_weight", spec.magnitude_weight, 0)
    return spec


def replay(spec: Spec) -> Learner:
    """Persistent contrastive divergence with a replay buffer, for energies of images.

    Raises ValueError as `checked` does.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import replay
    >>> from megjax.learners.replay import Spec
    >>> from megjax.learners import adaptive_samplers
    >>> from megjax.networks import smooth
    >>> sampler = adaptive_samplers.langevin(adaptive_samplers.StepSize())
    >>> learner = replay(Spec(smooth.Energy(4), sampler, buffer_size=8, num_transitions=1))
    >>> state = learner.init(jax.random.key(0), jnp.zeros((4, 8, 8, 1)))
    >>> learner.sample(jax.random.key(1), state, 2).shape
    (2, 8, 8, 1)
    """
    spec = checked(spec)
    return Learner(
        init=partial(init, spec),
        step=partial(step, spec),
        sample=partial(sample, spec),
        energy=partial(energy, spec),
        kernel=partial(kernel, spec),
        bijector=spec.bijector,
    )


def init(spec: Spec, key: Key, x: Array) -> State:
    """A fresh energy, a fresh sampler and chains at their starts."""
    key_energy, key_sampler, key_start = jax.random.split(key, 3)
    shape = x.shape[1:]
    return State(
        energy=player(spec.energy.init(key_energy, x), spec.optimizer),
        sampler=spec.sampler.init(key_sampler, shape),
        positions=spec.start_fn(key_start, (spec.buffer_size, *shape)),
    )


def step(spec: Spec, key: Key, state: State, x: Array) -> tuple[State, Metrics]:
    """As many chains move as x [1, B, ...] has examples; then one update of the energy."""
    key_rows, key_chains, key_noise = jax.random.split(key, 3)
    rows = jax.random.permutation(key_rows, spec.buffer_size)[: x.shape[1]]
    sampler, chains, found = spec.sampler.advance(
        key_chains,
        state.sampler,
        distributed.shard(state.positions[rows]),
        log_density(spec, state.energy.params),
        spec.num_transitions,
    )
    x = spec.noise_fn(key_noise, x[0]) if spec.noise_fn else x[0]
    negatives = jax.lax.stop_gradient(spec.bijector.forward(chains))
    gradient, energies = jax.grad(partial(loss, spec), has_aux=True)(
        state.energy.params, x, negatives
    )
    found |= energies | {
        "gradient_norm": norm(gradient),
        "entropy_per_dim": found["entropy"] / chains[0].size,
        "chain_rms": jnp.sqrt(jnp.mean(jnp.square(negatives))),
    }
    state = State(
        energy=updated(state.energy, gradient, spec.optimizer),
        sampler=sampler,
        # Whole again on every device, so that all steps have one program.
        positions=distributed.whole(state.positions.at[rows].set(chains)),
    )
    return state, found


def log_density(spec: Spec, params: PyTree) -> LogDensityFn:
    """That of coordinates u [...] under an energy of data."""
    return bijectors.density(
        lambda x: -spec.energy.apply({"params": params}, x[None])[0], spec.bijector
    )


def loss(
    spec: Spec, params: PyTree, x: Array, negatives: Array
) -> tuple[Array, Metrics]:
    """Energy of data [B, ...] minus that of chains [B, ...], and metrics."""
    energies = spec.energy.apply({"params": params}, jnp.concatenate([x, negatives]))
    real, fake = energies[: len(x)], energies[len(x) :]
    gap = losses.energy_contrast(real, fake)
    magnitude = jnp.mean(jnp.square(real)) + jnp.mean(jnp.square(fake))
    return gap + spec.magnitude_weight * magnitude, {
        "energy_data": jnp.mean(real),
        "energy_model": jnp.mean(fake),
        "energy_gap": gap,
    }


def positions(spec: Spec, state: State) -> Array:
    """All chains of the buffer as data [M, ...]."""
    return spec.bijector.forward(state.positions)


def starts(spec: Spec, key: Key, shape: tuple[int, ...]) -> Array:
    """What chains begin at, as data of a shape [N, ...]."""
    return spec.bijector.forward(spec.start_fn(key, shape))


def sample(spec: Spec, key: Key, state: State, num: int) -> Array:
    """Positions of chains of the buffer as data [num, ...], each once where it can."""
    replace = num > spec.buffer_size
    rows = jax.random.choice(key, spec.buffer_size, (num,), replace=replace)
    return spec.bijector.forward(distributed.shard(state.positions[rows]))


def energy(spec: Spec, state: State, x: Array) -> Array:
    """E(x) of every example [B, ...] -> [B]; infinite beyond the coordinates' limit."""
    found = spec.energy.apply({"params": state.energy.params}, x)
    reach = jnp.max(jnp.abs(x).reshape(len(x), -1), axis=1)
    return jnp.where(reach < spec.bijector.limit, found, jnp.inf)


def kernel(
    spec: Spec, state: State, log_density_fn: LogDensityFn, *, has_aux: bool = False
) -> Kernel:
    """The sampler as it is, on any density of data; it moves in coordinates."""
    return bijectors.transformed(
        partial(spec.sampler.kernel, state.sampler),
        log_density_fn,
        spec.bijector,
        has_aux=has_aux,
    )
