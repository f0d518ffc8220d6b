"""Maximum likelihood by contrast: energies of data against energies of Markov chains.

Hinton 2002 (contrastive divergence, CD); Tieleman 2008 (persistent chains, PCD); Mehta
et al. 2019, eqs. 189-197. The gradient of mean E(data) - mean E(chains), chains held
fixed, is eq. 195 for any energy.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from megjax import checks, distributed, losses
from megjax.energies.family import Family, Units
from megjax.learners import base, proximal
from megjax.learners.base import Learner, Player
from megjax.samplers import kernel
from megjax.types import Array, Key, LogDensityFn, Metrics, PyTree


class Coding(NamedTuple):
    """What data mean to the visible units.

    units: x [B, ...] -> v [B, ...]. data: v -> x, its inverse.
    """

    units: Callable[[Array], Array]
    data: Callable[[Array], Array]


IDENTITY = Coding(lambda x: x, lambda v: v)


def spins(shape: tuple[int, ...]) -> Coding:
    """Data of a shape in {-1, 1} as rows of spins."""
    return Coding(lambda x: x.reshape(len(x), -1), lambda v: v.reshape(len(v), *shape))


def bits(shape: tuple[int, ...]) -> Coding:
    """Data of a shape in {-1, 1} as rows of units in {0, 1}; greys lie between."""
    return Coding(
        lambda x: (x.reshape(len(x), -1) + 1) / 2,
        lambda v: 2 * v.reshape(len(v), *shape) - 1,
    )


class Spec(NamedTuple):
    """An energy and how it is trained.

    family: the energy and its chains; `moved_by` makes one of any energy.
    coding: of data as visible units.
    num_chains: of the negative phase; CD has one per example of the batch instead.
    num_sweeps: k of CD-k and PCD-k, sweeps between two updates.
    persistent: chains go on where they stopped (PCD), else restart at the data (CD).
    fluctuating_temperature: inverse temperatures fluctuate, each around 1, so that the
        chains mix (Paysage, the package of Mehta et al. 2019).
    temperature_std, temperature_momentum: of the stationary Gamma distribution of these,
        and the correlation of successive ones; Paysage's values.
    centred: takes the gradient of centred units (`centred`); one hidden layer only.
    start: (key, num) -> v [num, ...], where persistent chains begin; by default at
        zero, one sweep ago.
    num_sample_sweeps: from the chains of training to a sample.
    """

    family: Family
    coding: Coding = IDENTITY
    num_chains: int = 100
    num_sweeps: int = 1
    persistent: bool = True
    fluctuating_temperature: bool = False
    temperature_std: float = 0.6
    temperature_momentum: float = 0.9
    centred: bool = False
    start: Callable[[Key, int], Array] | None = None
    num_sample_sweeps: int = 1000
    optimizer: optax.GradientTransformation = proximal.sgd(0.01)


@struct.dataclass
class State:
    """The model and its chains.

    particles: units of every chain. inverse_temperatures: [num_chains].
    """

    model: Player
    particles: Units
    inverse_temperatures: Array


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    for field in ("num_chains", "num_sweeps", "num_sample_sweeps"):
        checks.whole(f"contrast.{field}", getattr(spec, field), 1)
    checks.positive("contrast.temperature_std", spec.temperature_std)
    checks.fraction("contrast.temperature_momentum", spec.temperature_momentum)
    return spec


def contrastive(spec: Spec) -> Learner:
    """Contrastive divergence, CD-k or persistent, for Boltzmann machines and energies.

    Raises ValueError as `checked` does.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax import contrastive
    >>> from megjax.learners.contrastive import Spec
    >>> from megjax.energies import rbm
    >>> learner = contrastive(Spec(rbm.family(4, 3), num_sample_sweeps=10))
    >>> x = jnp.zeros((1, 8, 4))
    >>> state = learner.init(jax.random.key(0), x[0])
    >>> state, metrics = learner.step(jax.random.key(1), state, x)
    >>> learner.sample(jax.random.key(2), state, 5).shape
    (5, 4)
    """
    spec = checked(spec)
    return Learner(
        init=partial(init, spec),
        step=partial(step, spec),
        sample=partial(sample, spec),
        energy=partial(energy, spec),
        kernel=partial(swept, spec),
    )


def init(spec: Spec, key: Key, x: Array) -> State:
    """Fresh parameters and chains for data of the form of x [B, ...]."""
    key_params, key_start, key_units, key_sweep = jax.random.split(key, 4)
    params = spec.family.init(key_params)
    v = spec.coding.units(x[:1])
    num = spec.num_chains if spec.persistent else len(x)
    v = spec.start(key_start, num) if spec.start else jnp.repeat(v, num, axis=0)
    units = spec.family.start(key_units, params, v)
    ones = jnp.ones(num, v.dtype)
    if not spec.start:
        units = spec.family.sweep(key_sweep, params, units, ones)
    model = Player(params, {}, spec.optimizer.init(params))
    return State(model, units, ones)


def step(spec: Spec, key: Key, state: State, x: Array) -> tuple[State, Metrics]:
    """One update of the chains, then one of the parameters: x [1, B, ...]."""
    key_temperature, key_start, key_sweeps = jax.random.split(key, 3)
    params, v = state.model.params, spec.coding.units(x[0])
    betas, units = state.inverse_temperatures, state.particles
    if not spec.persistent:
        units = spec.family.start(key_start, params, v)
    if spec.fluctuating_temperature:
        betas = fluctuating_temperature(
            key_temperature, betas, spec.temperature_std, spec.temperature_momentum
        )
    units = jax.tree.map(distributed.shard, units)
    beta = betas if spec.fluctuating_temperature else 1.0
    units = sweeps(spec.family, key_sweeps, params, units, beta, spec.num_sweeps)
    gradient, found = contrast(spec, params, v, units)
    model = base.updated(state.model, gradient, spec.optimizer)
    found |= {"gradient_norm": optax.tree.norm(gradient)} | weight_metrics(model.params)
    # Whole again on every device, so that all steps have one program.
    units, betas = jax.tree.map(distributed.whole, (units, betas))
    return State(model, units, betas), found


def sweeps(
    family: Family,
    key: Key,
    params: PyTree,
    units: Units,
    inverse_temperature: float | Array,
    num: int,
) -> Units:
    """Units after `num` sweeps."""

    def one(units, key):
        return family.sweep(key, params, units, inverse_temperature), None

    return jax.lax.scan(one, units, jax.random.split(key, num))[0]


def fluctuating_temperature(
    key: Key, betas: Array, std: float, momentum: float
) -> Array:
    """The next inverse temperatures [N]: an autoregressive Gamma process of mean 1.

    Gourieroux and Jasiak 2006: a Poisson number of quanta stays, the rest is new.
    """
    key_kept, key_all = jax.random.split(key)
    scale = (1 - momentum) * std**2
    kept = jax.random.poisson(key_kept, momentum / scale * betas)
    shape = 1 / std**2 + kept.astype(betas.dtype)
    return scale * jax.random.gamma(key_all, shape)


def contrast(
    spec: Spec, params: PyTree, v: Array, negative: Units
) -> tuple[PyTree, Metrics]:
    """The descent direction of minus the log-likelihood (eq. 195), and metrics.

    v: data [B, ...]; negative: units of the chains.
    """
    family = spec.family
    positive = jax.lax.stop_gradient(family.posterior(params, v))

    def loss(params):
        energy_data, energy_model = phases(family, params, positive, negative)
        gap = losses.energy_contrast(energy_data, energy_model)
        return gap, {
            "energy_data": jnp.mean(energy_data),
            "energy_model": jnp.mean(energy_model),
            "energy_gap": gap,
        }

    gradient, found = jax.grad(loss, has_aux=True)(params)
    if spec.centred:
        gradient = centred(gradient, positive, negative)
    if family.mean:
        reconstruction = family.mean(params, positive)
        found["reconstruction_error"] = reconstruction_error(v, reconstruction)
    return gradient, found


def centred(gradient: PyTree, positive: Units, negative: Units) -> PyTree:
    """The gradient of a machine of one hidden layer whose units are centred.

    Cho, Raiko and Ilin 2011 (enhanced gradient); Melchior, Fischer and Wiskott 2016.
    The offsets are the means over both phases; the parameters stay those of the machine
    without offsets. It is a positive definite transform of the gradient, so descent
    stays descent, and it no longer depends on whether a unit is coded 0 or 1.
    """
    mean = [(jnp.mean(p, 0) + jnp.mean(n, 0)) / 2 for p, n in zip(positive, negative)]
    a, b = gradient["visible_bias"], gradient["hidden_bias"]
    weights = gradient["weights"] - jnp.outer(a, mean[1]) - jnp.outer(mean[0], b)
    return gradient | {
        "weights": weights,
        "visible_bias": a - weights @ mean[1],
        "hidden_bias": b - mean[0] @ weights,
    }


def phases(
    family: Family, params: PyTree, positive: Units, negative: Units
) -> tuple[Array, Array]:
    """Energies of data and of chains, [B] and [N], whose contrast is descended.

    Hidden units are summed out where that has a closed form. Elsewhere the data have
    their expected hidden units and the chains their present ones.
    """
    if family.energy:
        return family.energy(params, positive[0]), family.energy(params, negative[0])
    return family.joint(params, positive), family.joint(params, negative)


def reconstruction_error(v: Array, reconstruction: Array) -> Array:
    """Root of the squared error over the variance of the batch, both [B, n] -> [].

    Paysage's definition: 1 for the mean of the data, 1.41 for an independent example.
    It is no likelihood: it also falls where a model overfits.
    """
    error = jnp.mean(jnp.square(v - reconstruction))
    return jnp.sqrt(error / jnp.mean(jnp.var(v, axis=0)))


def weight_metrics(params: PyTree) -> Metrics:
    """Norm of all weights, fraction of exact zeros, and `participation`."""
    weights = proximal.weights(params)
    if not weights:
        return {}
    zeros = sum(jnp.sum(w == 0) for w in weights)
    return {
        "weight_norm": optax.tree.norm(weights),
        "weight_zeros": zeros / sum(w.size for w in weights),
        "weight_participation": jnp.mean(jnp.stack([*map(participation, weights)])),
    }


def participation(w: Array) -> Array:
    """Fraction of its inputs that a hidden unit depends on: [n, m] -> [], in [1 / n, 1].

    Mean over columns of (sum w^2)^2 / (n sum w^4); called weight sparsity in Paysage.
    Columns of zeros count 0.
    """
    squares = jnp.square(w.reshape(-1, w.shape[-1]))
    fourth = len(squares) * jnp.sum(jnp.square(squares), axis=0)
    fractions = jnp.square(jnp.sum(squares, axis=0)) / jnp.where(fourth == 0, 1, fourth)
    return jnp.mean(fractions)


def sample(spec: Spec, key: Key, state: State, num: int) -> Array:
    """Samples [num, ...]: the chains of training, run on at inverse temperature 1."""
    rows = jnp.arange(num) % len(state.particles[0])
    units = jax.tree.map(lambda layer: distributed.shard(layer[rows]), state.particles)
    params = state.model.params
    units = sweeps(spec.family, key, params, units, 1.0, spec.num_sample_sweeps)
    return spec.coding.data(units[0])


def energy(spec: Spec, state: State, x: Array) -> Array:
    """E(x) of every example, [B, ...] -> [B], hidden units summed out.

    With several hidden layers the joint energy at their expected values.
    """
    v = spec.coding.units(x)
    params = state.model.params
    if spec.family.energy:
        return spec.family.energy(params, v)
    return spec.family.joint(params, spec.family.posterior(params, v))


class Swept(NamedTuple):
    """One chain of sweeps: a position [...] in data, its units, what is observed."""

    position: Array
    units: Units
    aux: Array | None


def swept(
    spec: Spec, state: State, log_density_fn: LogDensityFn, *, has_aux: bool = False
) -> kernel.Kernel:
    """The kernel of the family's sweeps on data x [...], at inverse temperature 1.

    log_density_fn: observed only; its aux, with `has_aux`, goes into the states.
    """
    params = state.model.params

    def at(units):
        x = spec.coding.data(units[0])[0]
        return Swept(x, units, log_density_fn(x)[1] if has_aux else None)

    def start(x):
        return at(spec.family.posterior(params, spec.coding.units(x[None])))

    def move(key, chain):
        chain = at(spec.family.sweep(key, params, chain.units, 1.0))
        return chain, kernel.Info(
            jnp.ones(()), jnp.array(True), ~kernel.finite(chain.position)
        )

    return kernel.Kernel(start, move)


def moved_by(
    init_fn: Callable[[Key], PyTree],
    energy_fn: Callable[[PyTree, Array], Array],
    kernel_fn: Callable[[LogDensityFn], kernel.Kernel],
    *,
    num_steps: int = 1,
) -> Family:
    """The family of any energy, without hidden units; chains move by a kernel.

    init_fn: key -> params. energy_fn: (params, x [B, ...]) -> [B], of a network for
        example.
    kernel_fn: log-density -> Kernel, such as `partial(mala.mala, step_size=0.01)`.
    num_steps: of the kernel in one sweep.
    """

    def joint(params, units):
        return energy_fn(params, units[0])

    def sweep(key, params, units, inverse_temperature):
        betas = jnp.broadcast_to(inverse_temperature, len(units[0]))

        def one(key, x, beta):
            moves = kernel_fn(lambda x: -beta * energy_fn(params, x[None])[0])
            state, _ = kernel.chain(
                key,
                moves,
                moves.init(x),
                num_steps,
                thin=num_steps,
                observe=lambda state: None,
            )
            return state.position

        return (jax.vmap(one)(jax.random.split(key, len(betas)), units[0], betas),)

    return Family(
        init=init_fn,
        energy=energy_fn,
        joint=joint,
        posterior=lambda params, v: (v,),
        start=lambda key, params, v: (v,),
        sweep=sweep,
        mean=None,
    )
