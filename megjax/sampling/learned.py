"""A proposal that is trained inside `megjax.sample` where that pays, and NUTS where not.

Li, Chen and Sommer 2021 (proposal entropy), with a preconditioner, and trained for the
entropy relative to the density (`learners.proposal`). It trains on draws of NUTS, whose
speed it is measured against on the way.
"""

import functools
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax import traverse_util

from megjax import checks, extras
from megjax.io import atomic
from megjax.learners import proposal
from megjax.metrics import mcmc
from megjax.networks import proposal as networks
from megjax.samplers import (
    from_blackjax,
    neural,
    preconditioner,
    window_adaptation,
)
from megjax.samplers.kernel import Kernel, evaluated, floats
from megjax.sampling import draw
from megjax.types import Array, Key, LogDensityFn, PyTree

LEAST_SECONDS = 30.0
"""Of training; where no more than that can pay, there is none."""

NUM_MEASURES = 8
"""Of the proposal's speed, at equal distances of training time."""

HOPE = 4.0
"""How many times faster a proposal may still become after half of its training."""

RESOLVED = 5.0
"""Effective sample size of each chain, below which a measure is too short to tell."""

LEAST_DRAWS, STEPS_PER_CALL = 100, 50
"""Of each chain, in a measure of NUTS; the proposal's, whose steps are cheap, has four
times as many."""

ITERATIONS_PER_CALL, CALLS_PER_MEASURE = 50, 4
"""The first at most; fewer where a measure would be due after less than so many calls."""

WARMUP = 100
"""Iterations in which the learning rate rises."""

LONGEST_STILL = 0.1
"""Of a measure, for which a chain may be stuck. One stuck for longer may be so for
longer than any measure, as chains in a narrow tail do, and its speed is not known."""

NOISE = 3.0
"""How far two measures of one kernel can be apart. Where NUTS and the proposal are nearer
than that, each has the median of three."""

MAX_MEASURED = 1000
"""Coordinates that effective sample sizes are taken of."""


class Spec(NamedTuple):
    """How a proposal is trained; for `megjax.sample(kernel=Spec(...))`.

    budget: seconds of training at most. None for what can pay in this call alone: half
        of the time that NUTS would take for its draws, and nothing where that is less
        than `LEAST_SECONDS`.
    path: a file that the proposal is kept in; where it exists, the proposal in it is
        used, and not trained any further. Give a budget with it: without one, training
        is weighed against the draws of this call alone.
    width, flow_steps, gradient, learned_shrinkage: of `networks.proposal.Vectors`.
        "displaced" takes four gradients of the density a step of the flow, "position"
        one in all.
    learning_rate: at its highest; it falls to 0 with the budget, as a cosine.
    batch_size, buffer_size: chains that an iteration moves, and that there are.

    >>> from megjax.sampling import learned
    >>> learned.Spec(budget=60.0).flow_steps
    1
    """

    budget: float | None = None
    path: str | os.PathLike[str] | None = None
    width: int = 64
    flow_steps: int = 1
    gradient: str = "position"
    learned_shrinkage: bool = True
    learning_rate: float = 3e-3
    batch_size: int = 256
    buffer_size: int = 2048


class State(NamedTuple):
    """position: unbounded [dim]. gradient: of the log-density; of proposals that do not
    need it, that of an earlier position."""

    position: Array
    log_density: Array
    gradient: Array


class Info(NamedTuple):
    """As of `kernel.Info`, with the gradients that a transition took."""

    acceptance_rate: Array
    is_accepted: Array
    is_divergent: Array
    num_integration_steps: Array


KINDS = (jnp.float32, bool, bool, jnp.int32)
"""Of the fields of `Info`."""


class Speeds(NamedTuple):
    """What the choice was made by: one measure, or where these are near each other, the
    median of three.

    draws_seconds: that NUTS would take for all draws of the call []. training_seconds:
    []. nuts, learned: effective sample size per second of all chains, [] and [NUM_MEASURES],
    NaN where it was not measured; the last is the proposal's that is used.
    """

    draws_seconds: Array
    training_seconds: Array
    nuts: Array
    learned: Array


class Parameters(NamedTuple):
    """use_proposal: whether chains move by it [], or by NUTS with what `window` has."""

    use_proposal: Array
    window: window_adaptation.Parameters
    variables: PyTree
    speeds: Speeds


def checked(spec: Spec) -> Spec:
    """The specification. Raises ValueError naming a field that it cannot have."""
    if spec.budget is not None:
        checks.number("budget", spec.budget)
        if not 0 < spec.budget < math.inf:
            raise ValueError(
                f"budget={spec.budget}: give seconds of training above 0, or None for "
                "as many as can pay"
            )
    for field in ("width", "flow_steps", "batch_size", "buffer_size"):
        checks.whole(field, getattr(spec, field), 1)
    if spec.batch_size > spec.buffer_size:
        raise ValueError(
            f"batch_size={spec.batch_size}: give at most buffer_size={spec.buffer_size}"
        )
    checks.at_least("learning_rate", spec.learning_rate, 0)
    checks.choice("gradient", spec.gradient, **dict.fromkeys(networks.GRADIENTS))
    return (
        spec if spec.path is None else spec._replace(path=str(checks.path(spec.path)))
    )


def kernel(spec: Spec, log_density_fn: LogDensityFn, parameters: Parameters) -> Kernel:
    """NUTS, or the proposal: as `parameters.use_proposal` says, for all chains."""
    density = functools.partial(evaluated, log_density_fn)

    def init(position):
        position = floats(position).astype(jnp.result_type(float))
        return State(position, *jax.value_and_grad(density)(position))

    def step(key, state):
        moves = (
            functools.partial(_proposed, spec, density, parameters.variables),
            functools.partial(_no_u_turn, density, parameters.window),
        )
        return jax.lax.cond(
            parameters.use_proposal, *map(_same_types, moves), key, state
        )

    return Kernel(init, step)


def _same_types(move: Callable) -> Callable:
    """The transition, its state of the types that went in: both kinds must have them."""

    def typed(key, state):
        moved, info = move(key, state)
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, state)
        return moved, Info(*(v.astype(kind) for v, kind in zip(info, KINDS)))

    return typed


def _proposed(spec, density, variables, key, state):
    """One transition of the proposal."""
    module = _module(spec, len(state.position))
    fixed = neural.neural(density, neural.flow(module, variables))
    own = spec.gradient == neural.POSITION
    before = neural.State(*state[:2], state.gradient if own else None)
    moved, info = fixed.step(key, before)
    found = Info(*info, jnp.int32(module.num_gradients))
    return State(*moved[:2], moved.gradient if own else state.gradient), found


def _no_u_turn(density, window, key, state):
    """One transition of NUTS, whose positions are v = L^-1 x."""
    with extras.needed("sampling"):
        from blackjax.mcmc import hmc
    factor = window.factor
    before = hmc.HMCState(
        preconditioner.solved(factor, state.position),
        state.log_density,
        preconditioner.transposed(factor, state.gradient),
    )
    fixed = window_adaptation.kernel(density, from_blackjax.nuts, window)
    moved, info = fixed.step(key, before)
    gradient = preconditioner.solved_transposed(factor, moved.logdensity_grad)
    position = preconditioner.scaled(factor, moved.position)
    found = (getattr(info, field) for field in Info._fields)
    return State(position, moved.logdensity, gradient), Info(*found)


def warm_up(
    spec: Spec, warm_up_fn: Callable[..., tuple[PyTree, PyTree]], task: Any
) -> tuple[Parameters, State]:
    """NUTS tuned, a proposal trained if that can pay, and the faster one of the two.

    warm_up_fn: task -> (`window_adaptation.Parameters`, NUTS's states [chains, ...]).
    task: `methods.Task`. Raises ValueError in one dimension, and as `load`; OSError where
    the proposal cannot be kept.
    """
    dim = task.positions.shape[1]
    if dim < 2:
        raise ValueError(
            "kernel='learned': a proposal needs two dimensions, and the density has "
            f"{dim}; take 'nuts'"
        )
    keys = jax.random.split(task.key, 4)
    module = _module(spec, dim)
    variables = jax.jit(functools.partial(_initial, module))(keys[0])
    if spec.path:
        if os.path.exists(spec.path):
            variables = load(spec.path, variables)
        else:
            # Before minutes of training.
            _check_writable(spec.path)
    window, states = warm_up_fn(task._replace(key=keys[1]))
    nothing = jnp.full((), jnp.nan, jnp.float32)
    speeds = Speeds(*(nothing,) * 3, jnp.full(NUM_MEASURES, jnp.nan, jnp.float32))
    parameters = Parameters(jnp.bool_(False), window, variables, speeds)
    scaled = jax.vmap(preconditioner.scaled, (None, 0))
    chain = _chain(spec, task.log_density_fn)
    states = draw.start(chain, parameters, scaled(window.factor, states.position))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(states)):
        # Only the form is asked for, and nothing can be timed.
        return parameters, states
    return _Trial(spec, task, chain, keys[2], keys[3]).run(parameters, states)


class _Trial(NamedTuple):
    """NUTS against a proposal in training, on the host."""

    spec: Spec
    task: Any
    chain: draw.Chain
    key_draw: Key
    key_train: Key

    def run(self, parameters: Parameters, states: State) -> tuple[Parameters, State]:
        """The faster of the two, and states from which it can go on."""
        # The first draws are in the time that compiling takes.
        _, first = self.drawn(0, parameters, states, self.num_steps)
        seconds, second = self.drawn(1, parameters, first.states, self.num_steps)
        both = [each.observations["position"] for each in (first, second)]
        positions, states = np.concatenate(both, axis=1), second.states
        draws_seconds = seconds / self.num_steps * self.task.num_draws
        speeds = parameters.speeds._replace(
            draws_seconds=jnp.float32(draws_seconds),
            nuts=jnp.float32(effective(positions) / (2 * seconds)),
        )
        parameters = parameters._replace(speeds=speeds)
        # Of NUTS with too few effective draws to tell: as fast as it may be all the same.
        unknown = NOISE * RESOLVED * len(positions) / (2 * seconds)
        if self.spec.path and os.path.exists(self.spec.path):
            found = [self.speed(2, parameters, states)]
            parameters, found = self.settled(parameters, states, found)
            return self.chosen(parameters, found, 0.0, unknown), states
        budget = self.spec.budget or draws_seconds / 2
        if self.spec.budget is None and budget < LEAST_SECONDS:
            return parameters, states
        begin = time.monotonic()
        positions = positions.reshape(-1, positions.shape[2])
        variables, found = self.trained(parameters, states, positions, budget)
        parameters = parameters._replace(variables=variables)
        if self.spec.path:
            save(self.spec.path, variables)
        seconds = time.monotonic() - begin
        parameters, found = self.settled(parameters, states, found)
        return self.chosen(parameters, found, seconds, unknown), states

    @property
    def num_steps(self) -> int:
        """Of every chain, in a measure of NUTS: two of them fill the buffer."""
        num_chains = len(self.task.positions)
        least = max(LEAST_DRAWS, self.spec.buffer_size / (2 * num_chains))
        return STEPS_PER_CALL * math.ceil(least / STEPS_PER_CALL)

    def drawn(self, index, parameters, states, num_steps):
        """(seconds, `draw.Draws`) of more steps of all chains."""
        begin = time.perf_counter()
        draws = draw.chains(
            jax.random.fold_in(self.key_draw, index),
            *(self.chain, parameters, states),
            num_steps=num_steps,
            steps_per_call=STEPS_PER_CALL,
        )
        return time.perf_counter() - begin, draws

    def speed(self, index, parameters, states, use_proposal=True) -> float:
        """ESS per second of the proposal, or of NUTS; 0 where there is none."""
        parameters = parameters._replace(use_proposal=jnp.bool_(use_proposal))
        seconds, draws = self.drawn(index, parameters, states, 4 * self.num_steps)
        # Its steps are cheap: a call of as many draws is not to have fewer effective
        # ones than NUTS could just be told to have.
        least = 4 * RESOLVED if use_proposal else RESOLVED
        return effective(draws.observations["position"], least) / seconds

    def trained(self, parameters, states, positions, seconds):
        """(variables, speeds on the way) of a proposal after seconds of training.

        positions: draws of the density [N, dim].
        """
        begin = time.monotonic()
        module = _module(self.spec, positions.shape[1])
        learner = _learner(self.spec, module, self.task.log_density_fn)
        rows = np.linspace(0, len(positions) - 1, self.spec.buffer_size).astype(int)
        key_begin, key_train = jax.random.split(self.key_train)
        state = _begun(learner.spec, key_begin, jnp.asarray(positions[rows]))
        speeds, iteration, num, due = [], 0, 1, 1 / NUM_MEASURES
        with self.bar(seconds) as bar:
            while True:
                start = time.monotonic()
                share = (start - begin) / seconds
                bar.update(min(share, 1.0) * seconds - bar.n)
                if share >= due:
                    now = parameters._replace(variables=_variables(state))
                    index = 2 + len(speeds)
                    speeds.append(self.speed(index, now, states))
                    # Where measures take long, there is one more, at the end.
                    slow = time.monotonic() - start > seconds / NUM_MEASURES
                    due = 1.0 if slow else (len(speeds) + 1) / NUM_MEASURES
                    bar.set_postfix_str(f"{speeds[-1]:.3g} ESS per second")
                    # Compiling may have taken all of the time.
                    if share >= 1 or self.is_enough(parameters.speeds, speeds, seconds):
                        break
                    continue
                rate = self.spec.learning_rate * _rate(share, iteration)
                state = _advanced(
                    *(learner.step, key_train, _with_rate(state, rate)),
                    *(iteration, num, self.spec.batch_size),
                )
                jax.block_until_ready(state)
                iteration += num
                num = _next_length(num, (time.monotonic() - start) / seconds)
        return _variables(state), speeds

    def settled(self, parameters, states, found):
        """(parameters, speeds) with medians where single measures may mislead.

        found: speeds of the proposal, the last of which is replaced. Not in calls of so
        few draws that measures would take longer than these.
        """
        nuts = float(parameters.speeds.nuts)
        is_near = nuts / NOISE < found[-1] < nuts * NOISE
        if not is_near or self.task.num_draws < 8 * self.num_steps:
            return parameters, found
        more = [
            [
                self.speed(
                    2 + NUM_MEASURES + 2 * i + is_learned,
                    parameters,
                    states,
                    is_learned,
                )
                for i in range(2)
            ]
            for is_learned in (False, True)
        ]
        nuts, learned = (
            float(np.median([one, *two])) for one, two in zip((nuts, found[-1]), more)
        )
        speeds = parameters.speeds._replace(nuts=jnp.float32(nuts))
        return parameters._replace(speeds=speeds), [*found[:-1], learned]

    def is_enough(self, speeds, found, seconds) -> bool:
        """Whether more training saves less time than it takes, as far as can be told.

        speeds: with those of NUTS. found: the proposal's until now. A budget, and what
        NUTS that has not mixed leaves, are used up but where there is no hope.
        """
        nuts = float(speeds.nuts)
        if len(found) * 2 >= NUM_MEASURES and HOPE * found[-1] < nuts:
            return True
        if self.spec.budget is not None or not nuts:
            return False
        if len(found) < 2 or min(found[-2:]) <= nuts:
            return False
        saved = float(speeds.draws_seconds) * (nuts / found[-2] - nuts / found[-1])
        return saved < seconds / NUM_MEASURES

    def chosen(self, parameters, found, training_seconds, unknown) -> Parameters:
        """The parameters with the faster kernel, and what was measured.

        unknown: speed of NUTS where the measure was too short to tell it.
        """
        padded = np.full(NUM_MEASURES, np.nan, np.float32)
        padded[-len(found) :] = found
        speeds = parameters.speeds._replace(
            training_seconds=jnp.float32(training_seconds), learned=jnp.asarray(padded)
        )
        faster = bool(found[-1] > (float(speeds.nuts) or unknown))
        return parameters._replace(use_proposal=jnp.bool_(faster), speeds=speeds)

    def bar(self, seconds):
        shown = self.task.progress and sys.stderr.isatty()
        return tqdm.tqdm(
            total=seconds,
            desc="training",
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s {postfix}",
            disable=not shown,
            dynamic_ncols=True,
        )


def effective(x: np.ndarray, least: float = RESOLVED) -> float:
    """Effective sample size of [chains, draws, dim]: the least of all means and variances.

    0 where there are fewer than `least` a chain, so few that chains may not have mixed:
    then one a chain is found, however slow they are; and where a chain was stuck.
    """
    if mcmc.longest_rejection_run(x) > LONGEST_STILL * x.shape[1]:
        return 0.0
    x = np.asarray(x, np.float64)[..., :MAX_MEASURED]
    both = np.concatenate([x, (x - x.mean((0, 1))) ** 2], axis=2)
    found = np.min(mcmc.efficiencies(both)) * x.shape[0] * x.shape[1]
    return float(found) if found > least * len(x) else 0.0


def report(parameters: Parameters, found: Any) -> tuple[dict[str, Any], list[str]]:
    """Attributes of the draws, and why NUTS was used if it was."""
    del found
    speeds = jax.tree.map(np.asarray, parameters.speeds)
    used = bool(parameters.use_proposal)
    attributes = {
        "kernel": "learned" if used else "nuts",
        "nuts_seconds": float(speeds.draws_seconds),
        "training_seconds": float(np.nan_to_num(speeds.training_seconds)),
        "nuts_ess_per_second": float(speeds.nuts),
        "learned_ess_per_second": speeds.learned[np.isfinite(speeds.learned)].tolist(),
    }
    if used:
        return attributes, []
    if np.isnan(speeds.learned[-1]):
        cause = (
            f"it takes about {speeds.draws_seconds:.1f} s for all draws, too few to "
            "train for; give a budget to train all the same"
        )
    else:
        nuts = "has not mixed in the time of a measure"
        if speeds.nuts:
            nuts = f"makes {speeds.nuts:.3g} ESS per second"
        cause = (
            f"it {nuts}, the proposal "
            f"{speeds.learned[-1]:.3g} after {attributes['training_seconds']:.0f} s of "
            "training"
        )
    return attributes, [f"NUTS drew, and no learned proposal: {cause}"]


def save(path: str | os.PathLike[str], variables: PyTree) -> None:
    """Writes the variables of a proposal to an .npz file."""
    flat = traverse_util.flatten_dict(jax.device_get(variables), sep="/")
    atomic.write(checks.path(path), flat)


def _check_writable(path) -> None:
    """Makes the folder of a file. Raises OSError where nothing can be written there."""
    folder = atomic.folder(checks.path(path).absolute().parent)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is not writable: give another path")


def load(path: str | os.PathLike[str], form: PyTree) -> PyTree:
    """The variables that `save` wrote, of the form of others.

    Raises ValueError where the file is damaged or of a proposal of another form.
    """
    path = checks.path(path)
    try:
        found = atomic.checked(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged, or no proposal ({error}): move it away to train anew"
        ) from error
    flat = traverse_util.flatten_dict(form, sep="/")
    shapes = {name: np.shape(value) for name, value in found.items()}
    if shapes != {name: np.shape(value) for name, value in flat.items()}:
        raise ValueError(
            f"{path} holds a proposal of other dimensions or networks: give the Spec "
            "and the density that it was trained with, or another path"
        )
    found = {name: jnp.asarray(found[name], leaf.dtype) for name, leaf in flat.items()}
    return traverse_util.unflatten_dict(found, sep="/")


class _Learner(NamedTuple):
    """spec: of `learners.proposal`. step: that of its learner."""

    spec: proposal.Spec
    step: Callable


def _module(spec, dim) -> networks.Vectors:
    return networks.Vectors(
        (dim,),
        width=spec.width,
        num_steps=spec.flow_steps,
        gradient=spec.gradient,
        learned_shrinkage=spec.learned_shrinkage,
        coupling_masks="bisecting",
    )


# Compiled programs are found by these functions: equal arguments give the same ones.
@functools.lru_cache(maxsize=32)
def _chain(spec, log_density_fn) -> draw.Chain:
    kernel_fn = functools.partial(kernel, spec, log_density_fn)
    return draw.of_kernel(kernel_fn, lambda _, state: {"position": state.position})


@functools.lru_cache(maxsize=32)
def _learner(spec, module, log_density_fn) -> _Learner:
    # The rate is a number of the state, which the host sets by the time that is left.
    adjustable = optax.inject_hyperparams(
        proposal.amsgrad, hyperparam_dtype=jnp.float32
    )
    own = proposal.Spec(
        log_density_fn,
        module,
        # Chains begin at the draws of NUTS.
        start_fn=None,
        relative_entropy=True,
        entropy_weight=3.0,
        entropy_weight_rate=0.0,
        buffer_size=spec.buffer_size,
        optimizer=adjustable(learning_rate=spec.learning_rate),
    )
    return _Learner(own, proposal.proposal(own).step)


def _initial(module, key) -> PyTree:
    """Variables of a proposal without any training."""
    (dim,) = module.shape
    variables = module.init(key, jnp.zeros(dim))
    identity = neural.Preconditioner(jnp.zeros(dim), jnp.eye(dim))
    return _typed(variables | {"preconditioner": identity._asdict()})


@functools.partial(jax.jit, static_argnums=0)
def _begun(spec, key, positions) -> proposal.State:
    return proposal.begun(spec, key, positions)


def _variables(state: proposal.State) -> PyTree:
    return _typed({"params": state.proposal.params, **state.proposal.variables})


def _typed(tree):
    """Arrays without JAX's weak types, for which programs would be compiled again."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), tree)


def _next_length(num: int, share: float) -> int:
    """Iterations of the next call, after one of `num` that took a share of the time."""
    if share < 1 / (2 * CALLS_PER_MEASURE * NUM_MEASURES):
        return min(2 * num, ITERATIONS_PER_CALL)
    return num if share < 1 / (CALLS_PER_MEASURE * NUM_MEASURES) else max(num // 2, 1)


def _rate(share: float, iteration: int) -> float:
    """The learning rate after a share of the time, by its highest."""
    rise = min(1.0, (iteration + ITERATIONS_PER_CALL) / WARMUP)
    return rise * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def _with_rate(state, rate):
    optimizer = state.proposal.optimizer
    changed = {**optimizer.hyperparams, "learning_rate": jnp.float32(rate)}
    optimizer = optimizer._replace(hyperparams=changed)
    return state.replace(proposal=state.proposal.replace(optimizer=optimizer))


@functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=2)
def _advanced(step, key, state, first, num, batch_size):
    """The state after `num` more iterations."""
    x = jnp.zeros((1, batch_size, *state.positions.shape[1:]), state.positions.dtype)

    def one(i, state):
        moved = step(jax.random.fold_in(key, first + i), state, x)[0]
        # Under JAX_ENABLE_X64 some would be of 64 bits.
        return jax.tree.map(lambda new, old: new.astype(old.dtype), moved, state)

    return jax.lax.fori_loop(0, num, one, state)
