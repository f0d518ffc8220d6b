"""Draws from Markov chains: the one loop for every kernel, density and learner.

Chains are split over the devices. What a compiled call depends on (weights, step size,
mass matrix) comes in as arrays, so that a second run of the same shapes compiles
nothing, and weights are freed with whoever holds them.
"""

import contextlib
import contextvars
import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import checks, distributed
from megjax.samplers import adaptation, kernel
from megjax.sampling import plan as plans
from megjax.sampling import store as stores
from megjax.types import Array, Key, PyTree

LOG = logging.getLogger(__name__)
STEPS_PER_CALL = 500
_SHARED = contextvars.ContextVar("whether all processes share chains", default=False)


class Chain(NamedTuple):
    """One Markov chain as functions alone, static under jit.

    Equal functions are compiled once: give functions of a module, or `bound` ones.

    init: (params, position) -> state, of one chain; params is a PyTree of arrays.
    step: (params, key, state) -> (state, info); info: any NamedTuple of scalars, such
        as `kernel.Info`.
    observe: (params, state) -> name -> array, recorded once in `thin` steps.
    """

    init: Callable[[PyTree, PyTree], Any]
    step: Callable[[PyTree, Key, Any], tuple[Any, Any]]
    observe: Callable[[PyTree, Any], dict[str, Array]]


class Draws(NamedTuple):
    """What chains left; T records of `thin` steps each, and one of those left over.

    states: at the end [chains, ...]. observations: name -> [chains, T, ...] at the end
    of every window. infos: name -> means over windows, [chains, T].
    """

    states: PyTree
    observations: dict[str, np.ndarray]
    infos: dict[str, np.ndarray]


class Piece(NamedTuple):
    """Chains at step `end` after the burn-in, and the arrays of the record up to it."""

    end: int
    states: PyTree
    arrays: dict[str, np.ndarray]


class Bound(NamedTuple):
    """A function with arguments bound, equal to another of the same arguments.

    As functools.partial is not, which jit would compile again.
    """

    function: Callable
    args: tuple
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *args, **keywords):
        return self.function(*self.args, *args, **dict(self.keywords) | keywords)


def bound(function: Callable, *args, **keywords) -> Bound:
    """The function with hashable arguments bound; see `Bound`."""
    return Bound(function, args, tuple(sorted(keywords.items())))


def comparable(function: Callable) -> Callable:
    """The function, or where it is a functools.partial the `Bound` one."""
    if isinstance(function, functools.partial):
        return bound(comparable(function.func), *function.args, **function.keywords)
    return function


def accepts(function: Callable, name: str) -> bool:
    """Whether a function takes a keyword argument of this name."""
    return name in inspect.signature(function).parameters


def chains(
    key: Key,
    chain: Chain,
    params: PyTree,
    states: PyTree,
    *,
    num_steps: int,
    burn_in: int = 0,
    thin: int = 1,
    store: stores.TraceStore | None = None,
    progress: bool = False,
    steps_per_call: int = STEPS_PER_CALL,
) -> Draws:
    """Steps all chains, records them, and returns the records on the host.

    states: [chains, ...], of `start` or of former draws. burn_in: steps before, of
    which nothing is recorded. thin: steps to a record. store: where the chains are kept
    on disk while they run and resume from, bitwise identically; it has claimed its settings.
    progress: a bar on a terminal. steps_per_call: of a compiled call at most; 1 for
    convolutions on a CPU, which are many times slower inside a loop.

    Raises ValueError at numbers that cannot be.

    The key of step i of chain c is fold_in(split(key, chains)[c], i). Chains are split
    over the mesh that is set, or over all devices of this process; see `shared`.

    >>> import jax, jax.numpy as jnp
    >>> from megjax.samplers import mala
    >>> from megjax.sampling import draw
    >>> def kernel(params):
    ...     return mala.mala(lambda x: -jnp.sum(x**2) / 2, step_size=params["step_size"])
    >>> chain = draw.of_kernel(kernel, lambda params, state: {"x": state.position})
    >>> params, keys = {"step_size": 0.5}, jax.random.split(jax.random.key(0))
    >>> states = draw.start(chain, params, jax.random.normal(keys[0], (4, 2)))
    >>> draws = draw.chains(keys[1], chain, params, states, num_steps=100, thin=10)
    >>> draws.observations["x"].shape, sorted(draws.infos)
    ((4, 10, 2), ['acceptance_rate', 'is_accepted', 'is_divergent'])
    """
    for name, value, least in (
        # A burn-in may be all that is wanted.
        *(("num_steps", num_steps, 0), ("thin", thin, 1), ("burn_in", burn_in, 0)),
        ("steps_per_call", steps_per_call, 1),
    ):
        checks.whole(name, value, least)
    plan = plans.plan(num_steps, thin, burn_in=burn_in)
    total = burn_in + num_steps
    with devices(), contextlib.ExitStack() as stack:
        if store is None:
            store = stack.enter_context(stores.unkept(total, shown=progress))
        found = []
        run = RunPlan(chain, plan, store, steps_per_call)
        for piece in pieces(key, run, params, states):
            states = piece.states
            found.append(piece.arrays)
    if _SHARED.get():
        states = distributed.gathered(states)
    arrays = joined(found)
    observations = plans.columns(arrays, plans.OBSERVED)
    return Draws(states, observations, plans.columns(arrays, plans.INFO))


def of_kernel(
    kernel_fn: Callable[[PyTree], kernel.Kernel],
    observe: Callable[[PyTree, Any], dict[str, Array]],
) -> Chain:
    """The chain of a kernel. kernel_fn: params -> Kernel; see `Chain` for both."""
    return Chain(bound(_init, kernel_fn), bound(_step, kernel_fn), observe)


def _init(kernel_fn, params, position):
    return kernel_fn(params).init(position)


def _step(kernel_fn, params, key, state):
    return kernel_fn(params).step(key, state)


@functools.partial(jax.jit, static_argnums=0)
def start(chain: Chain, params: PyTree, positions: PyTree) -> PyTree:
    """States of chains at positions [chains, ...]."""
    positions = jax.tree.map(distributed.shard, positions)
    return jax.vmap(functools.partial(chain.init, params))(positions)


@functools.partial(jax.jit, static_argnums=0)
def observed(chain: Chain, params: PyTree, states: PyTree) -> dict[str, Array]:
    """What is observed of states: name -> [chains, ...]."""
    return jax.vmap(functools.partial(chain.observe, params))(states)


def tuned(
    key: Key,
    chain: Chain,
    params: dict[str, Any],
    states: PyTree,
    *,
    num_steps: int,
    target_acceptance: float,
    step_size: float = 0.1,
    limit: float = math.inf,
    steps_per_call: int = STEPS_PER_CALL,
) -> tuple[PyTree, float]:
    """States after `num_steps`, and the step size that reaches a target acceptance.

    params: with a "step_size", which does not matter here. step_size: where the search
    starts. limit: of step sizes. See `adaptation.warm_up`; the chains do not sample
    their target meanwhile. A step size that ran away is a warning in the log.
    """
    with devices() as mesh:
        tuner = adaptation.tuner(min(step_size, limit))
        bounds = jnp.float32([limit, target_acceptance])
        key, params, states = _on_mesh(mesh, key, params, states)
        for first in range(0, num_steps, steps_per_call):
            size = min(steps_per_call, num_steps - first)
            states, tuner = _tuned(chain, size, key, params, states, tuner, bounds)
        found = min(float(adaptation.step_size(tuner)), limit)
    if words := adaptation.failure(found, math.nan, target_acceptance):
        LOG.warning("%s", words)
    return distributed.gathered(states) if _SHARED.get() else states, found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tuned(chain, num_steps, key, params, states, tuner, bounds):
    """The states and the tuner after `num_steps` more steps of tuning."""
    limit, target_acceptance = bounds

    def kernel_fn(step_size):
        own = params | {"step_size": jnp.minimum(step_size, limit)}
        return kernel.Kernel(None, functools.partial(chain.step, own))

    return adaptation.warm_up(
        jax.random.split(key, _num(states)),
        kernel_fn,
        states,
        tuner,
        num_steps,
        target_acceptance=target_acceptance,
        unroll=num_steps == 1,
    )


class RunPlan(NamedTuple):
    """What is drawn, when it is recorded, and where that is kept.

    per_call: steps of a compiled call at most. group: of these chains among those of
    the store.
    """

    chain: Chain
    plan: plans.Plan
    store: stores.TraceStore
    per_call: int = STEPS_PER_CALL
    group: int = 0


def pieces(key: Key, run: RunPlan, params: PyTree, states: PyTree) -> Iterator[Piece]:
    """The chains after their burn-in, and then after every chunk; see `chains`.

    Drawn, or from disk. To be iterated under a mesh (`devices`).
    """
    mesh = jax.sharding.get_mesh()
    key, params, states = _on_mesh(mesh, key, params, states)
    form = jax.eval_shape(functools.partial(observed, run.chain), params, states)
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(form))
    piece = Piece(0, states, {})
    if run.plan.burn_in:
        place = stores.Chunk(run.group, stores.BURN_IN, 0, {})
        piece = _piece(key, run, params, states, place)
    yield piece
    while (begin := piece.end) < run.plan.steps:
        # Where a damaged one ended, those after it are still of use.
        end = run.store.end(run.group, begin)
        end = end or plans.chunk_end(run.plan, begin, num_bytes)
        place = stores.Chunk(run.group, begin, end, {})
        piece = _piece(key, run, params, piece.states, place)
        yield piece


def _piece(key, run, params, states, place) -> Piece:
    """The chains at the end of a chunk that begins with `states`."""
    begin = -run.plan.burn_in if place.begin == stores.BURN_IN else place.begin
    record = plans.Record(run.plan, begin)
    if stored := run.store.chunk(run.group, place.begin):
        run.store.progress.skip(stored.end - begin)
        return Piece(stored.end, _placed(restored(states, stored)), stored.arrays)
    if draft := run.store.draft(*place[:3]):
        run.store.progress.skip(draft.end - begin)
        states = _placed(restored(states, draft))
        record = plans.Record(run.plan, draft.end, draft.arrays)
    for begin, call in plans.calls(run.plan, record.end, place.end, run.per_call):
        index = run.plan.burn_in + begin
        states, trajectory = _advanced(run.chain, call, key, params, states, index)
        record.add(call, trajectory)
        draft = functools.partial(_chunk, place, record, states)
        run.store.advance(call.num_steps, draft)
    chunk = _chunk(place, record, states)
    run.store.add(chunk)
    return Piece(chunk.end, states, chunk.arrays)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _advanced(chain, call, key, params, states, index):
    """The states after a call, and its record [chains, windows]."""

    def step(key, state):
        state, info = chain.step(params, key, state)
        return state, info._asdict()

    run_one = functools.partial(
        kernel.chain,
        num_steps=call.num_steps,
        start=index,
        thin=call.thin,
        unroll=call.num_steps == 1,
        observe=functools.partial(chain.observe, params),
        summarize=_summary,
    )
    one = kernel.Kernel(None, step)
    keys = jax.random.split(key, _num(states))
    return jax.vmap(lambda key, state: run_one(key, one, state))(keys, states)


def _summary(values):
    """The sum of whole numbers of a window, the mean of others."""
    if values.dtype == bool or jnp.issubdtype(values.dtype, jnp.integer):
        return jnp.sum(values, axis=0, dtype=jnp.int32)
    return kernel.mean(values)


def _chunk(place, record, states) -> stores.Chunk:
    """A chunk as far as it has come: all that it takes to go on."""
    arrays = record.arrays() | stores.leaves(states)
    return place._replace(end=record.end, arrays=arrays)


def remembered(
    store: stores.TraceStore, group: int, form: PyTree, make: Callable[[], PyTree]
) -> PyTree:
    """What `make` returns before chains start, or has returned in the run on disk.

    form: a PyTree of its shapes and dtypes.
    """
    if found := store.chunk(group, stores.START):
        return restored(form, found)
    made = make()
    store.add(stores.Chunk(group, stores.START, 0, stores.leaves(made)))
    return made


def restored(form: PyTree, chunk: stores.Chunk) -> PyTree:
    """The PyTree whose leaves a chunk from disk has; form: of its dtypes."""
    leaves, treedef = jax.tree.flatten(form)
    values = [chunk.arrays[f"{stores.LEAF}{i}"] for i in range(len(leaves))]
    # Types that NumPy does not know come back as bytes.
    values = [value.view(leaf.dtype) for value, leaf in zip(values, leaves)]
    return jax.tree.unflatten(treedef, values)


def joined(arrays: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The records of pieces one after the other, without those that have none."""
    names = [
        name for name in arrays[-1] if name.startswith((plans.OBSERVED, plans.INFO))
    ]
    found = [part for part in arrays if names and names[0] in part]
    return {k: np.concatenate([part[k] for part in found], axis=1) for k in names}


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Chains are split over the devices of all processes, which all draw them.

    What they start from may lie on the devices of each process alone; what they leave
    is whole on each, on the host.
    """
    token = _SHARED.set(jax.process_count() > 1)
    try:
        yield
    finally:
        _SHARED.reset(token)


@contextlib.contextmanager
def devices(mesh: jax.sharding.Mesh | None = None) -> Iterator[jax.sharding.Mesh]:
    """Runs on a mesh: the one given, the one set, or all devices of this process.

    Of chains that are `shared` it is that of all devices, where none is given.
    """
    if mesh is None and _SHARED.get():
        mesh = distributed.data_mesh()
    if mesh is None and not jax.sharding.get_mesh().empty:
        yield jax.sharding.get_mesh()
        return
    mesh = mesh or distributed.local_mesh()
    with jax.set_mesh(mesh):
        yield mesh


def _on_mesh(mesh, key, params, states):
    """The same on all devices of the mesh, states of chains split over them."""
    key, states = distributed.portable((key, states), mesh)
    return key, distributed.replicate(params, mesh), _placed(states)


@jax.jit
def _placed(states):
    """States of chains, split over the devices."""
    return jax.tree.map(distributed.shard, states)


def _num(states) -> int:
    return len(jax.tree.leaves(states)[0])
