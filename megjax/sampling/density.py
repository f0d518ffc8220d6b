"""Draws from a density of one's own: warm-up, chains, and what ArviZ wants to know.

Nothing is trained and no config is needed. NUTS: Hoffman and Gelman 2014, with Stan's
windows of warm-up; warnings as Vehtari et al. 2021 advise.
"""

import collections
import contextlib
import functools
import hashlib
import math
import numbers
import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from megjax import checks, distributed, errors, extras, random
from megjax.metrics import mcmc
from megjax.samplers import adaptation, bijectors, tempering
from megjax.samplers import kernel as kernels
from megjax.sampling import draw, learned, methods
from megjax.sampling import store as stores
from megjax.types import Array, Key, LogDensityFn, PyTree

R_HAT, DRAWS_PER_CHAIN, ENOUGH_DRAWS = 1.01, 100, 400
"""Beyond which R-hat, and below which effective sample sizes are warned of."""

NUM_PROBES, MAX_PROBED = 64, 20
"""Draws and variables around which the cause of divergences is looked for."""

MAX_CHECKED = 1000
"""Numbers of one variable that R-hat is taken of."""

NUM_COMPARED = 4
"""Chains, and coordinates of the first, by which a stored run knows its density again."""

ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)
"""What differs between the names of a function in two processes."""

STATS = {
    "acceptance_rate": "acceptance_rate",
    "is_divergent": "diverging",
    "energy": "energy",
    "energy_change": "energy_error",
    "num_integration_steps": "n_steps",
    "num_trajectory_expansions": "tree_depth",
    "swap_rate": "swap_rate",
    "round_trips": "round_trips",
}
"""Field of an info -> ArviZ's name; others of its fields are left out."""


class Problem(NamedTuple):
    """A density, its variables and a kernel, made for one form of positions.

    given_fn: the log-density as it is given. log_density_fn: of unbounded positions
    [dim]. inward: a position as it is given -> unbounded; outward: back. chain: for
    `draw.chains`.
    """

    given_fn: LogDensityFn
    log_density_fn: LogDensityFn
    inward: Callable
    outward: Callable
    chain: Any


def sample(
    log_density_fn: LogDensityFn,
    init: PyTree,
    *,
    key: Key,
    kernel: Any = "nuts",
    num_warmup: int = 1000,
    num_samples: int = 1000,
    thin: int = 1,
    bijector: PyTree = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
    mass_matrix: str = "diagonal",
    target_acceptance: float | None = None,
    budget: float | None = None,
):
    """Draws from a density: ArviZ InferenceData, variables named as in `init`.

    log_density_fn: a position, `init` without the chain axis -> log-density [], up to a
    constant. init: any PyTree of floats [chains, ...], where the chains start.
    kernel: "nuts", "mclmc" (both of blackjax), "hmc", "mala", "rwm" or
    "gradient_adaptive"; for many modes "tempering" or "smc"; "learned", a proposal that
    is trained for this density; or `samplers.tempering.Spec`, `samplers.smc.Spec` or
    `sampling.learned.Spec` with settings of one's own; a kernel builder (log_density_fn, *, step_size) -> Kernel of vectors [dim]; a Kernel
    or a blackjax algorithm of such positions, ready to run; a trained proposal: a
    Model, or (learner, state).
    num_warmup: steps that learn step size and mass matrix, and are thrown away; all
    chains share what is learned. num_samples: draws of each chain, every `thin` steps.
    bijector: for variables with bounds, `samplers.bijectors` in the place of each, as
    {"scale": positive()}; draws have their bounds.
    store: a directory that keeps long chains while they run. The same call goes on
    from there, to the same bits; one of another density, kernel or `init` is refused.
    Densities are told by values at the start of a few chains and around, in five
    digits, kernels of one's own by their names.
    mass_matrix: "diagonal" or "dense". target_acceptance: of the step size; by default
    the kernel's own, 0.8 for NUTS. More of it helps against divergences. Both are of
    kernels that are tuned here, not of "mclmc", a Kernel that is ready or a Model.
    budget: seconds of training at most, of "learned".

    "tempering" moves replicas of every chain at several temperatures. It adds the stats
    `swap_rate` and `round_trips`, and the attributes (`draws.attrs`)
    `inverse_temperatures`, `swap_rates`, `barrier` and, with a reference, the evidence
    `log_z` and `log_z_error`. "smc" takes the chains for particles, 10 or more and
    better 1000, which it draws from a normal around `init` and leads to the density in
    at most num_warmup steps; then each is a chain, but only all together have the
    modes' weights. It adds `log_z`, `log_z_error` (NaN where `num_lines` is below 5),
    `num_temperatures` and `num_lines`, the effective number of first particles from
    which all descend. "learned" warms NUTS up, trains a proposal on its draws for as
    long as that can pay, or for `budget` seconds, and then takes the one with the
    larger effective sample size per second; a warning says why, where that is NUTS. It
    adds `kernel`, `nuts_seconds` (for all draws, if NUTS made them),
    `training_seconds`, `nuts_ess_per_second` and `learned_ess_per_second` (from the
    first measure to the last). Seconds differ from run to run, and so do its draws.

    The sample_stats are `lp`, and of `diverging`, `acceptance_rate`, `energy`,
    `n_steps`, `tree_depth` and `step_size` what the kernel has. Warns of divergences,
    R-hat above 1.01 and small effective samples. A second call with the same function
    (not one of the same text) and shapes compiles nothing, unless data that the
    function reads has changed: every call traces it once to see that; a kernel builder
    is not asked again, so give what it depends on as arguments of a new one. Raises
    ValueError at arguments out of range, and where the density is not finite at the
    start.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from megjax import sample
    >>> data = np.random.default_rng(0).normal(3.0, 2.0, size=100)
    >>> def log_density(position):
    ...     scale = jnp.exp(position["log_scale"])
    ...     return jnp.sum(jax.scipy.stats.norm.logpdf(data, position["loc"], scale))
    >>> init = {"loc": jnp.zeros(4), "log_scale": jnp.zeros(4)}
    >>> draws = sample(log_density, init, key=jax.random.key(0), progress=False)
    >>> draws.posterior["loc"].shape
    (4, 1000)
    """
    arviz = _arviz()
    key = random.checked(key)
    init, num_chains = _checked(init, num_warmup, num_samples, thin, mass_matrix)
    _check_target(target_acceptance)
    method, parameters = methods.find(_with_budget(kernel, budget))
    _check_tuned(method, mass_matrix, target_acceptance)
    variables = _variables(method, bijector, init)
    traced = _traced(log_density_fn, _one(init))
    problem = _problem(
        _hashable(log_density_fn), traced, method, variables, *_form(init)
    )
    burn_in, num_steps = 0 if method.warm_up else num_warmup, num_samples * thin
    settings = {
        "warmup": num_warmup,
        "steps": num_steps,
        "thin": thin,
        "mass_matrix": mass_matrix,
        "target_acceptance": target_acceptance,
        "budget": None if budget is None else float(budget),
    }
    labels = functools.partial(
        _identity, *(key, kernel, method, parameters, problem, init)
    )
    opened = _opened(store, labels, settings, burn_in + num_steps, progress)
    with draw.devices() as mesh, opened as kept:
        keys = jax.random.split(key)
        task = methods.Task(
            *(keys[0], problem.log_density_fn, _started(problem, init, num_chains)),
            *(num_warmup, target_acceptance, mass_matrix == "dense", progress),
            num_draws=num_steps,
        )
        parameters = distributed.replicate(parameters, mesh)
        parameters, states = _remembered(kept, method, task, parameters)
        draws = draw.chains(
            *(keys[1], problem.chain, parameters, states),
            num_steps=num_steps,
            burn_in=burn_in,
            thin=thin,
            store=kept,
            progress=progress,
        )
        if kept:
            kept.finish()
    groups = _groups(draws, thin, method.step_size(parameters))
    attributes, words = method.report(parameters, draws.observations | draws.infos)
    cause_fn = functools.partial(
        *(_cause, problem.given_fn, variables, init, groups["posterior"]),
        takes_target=method.takes_target,
    )
    found = _warnings(arviz, groups, thin, cause_fn, method, target_acceptance)
    for line in [*words, *found]:
        warnings.warn(line, stacklevel=2)
    found = mcmc.inference_data(groups)
    found.attrs.update(attributes)
    return found


def _with_budget(kernel, budget):
    """The kernel as it is given, or a proposal that is trained for so many seconds."""
    if budget is None:
        return kernel
    if not (isinstance(kernel, str) and kernel == "learned"):
        raise ValueError(
            f"budget={budget!r}: only kernel='learned' is trained; leave it out, or give "
            "sampling.learned.Spec(budget=...)"
        )
    return learned.Spec(budget=budget)


def _variables(method, bijector, init):
    """The bijector of a whole position."""
    if bijector is not None and method.form == "tree":
        raise ValueError("a kernel that is ready to run brings its own bijector along.")
    return bijectors.tree(bijector, _one(init))


def _identity(key, kernel, method, parameters, problem, init) -> dict[str, Any]:
    """What a stored run records of the arguments that are no numbers.

    In five digits, in which machines agree.
    """
    densities = [problem.log_density_fn]
    if method.form == "tree":
        densities.append(draw.bound(_own_density, method, problem.log_density_fn))
    if isinstance(reference := getattr(kernel, "reference", None), tempering.Reference):
        densities.append(reference.log_density)
    few = jax.tree.map(lambda leaf: leaf[:NUM_COMPARED], init)
    found = _compared(problem, tuple(densities), few)
    return {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "kernel": _described(kernel, parameters),
        "variables": {k: f"{v.dtype}{list(v.shape)}" for k, v in _named(init).items()},
        "init": hashlib.sha256(_bytes(init)).hexdigest(),
    } | {k: [f"{x:.5g}" for x in np.asarray(v)] for k, v in found.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compared(problem, densities, init):
    """Unbounded coordinates of the first chain, and the densities at and near `init`.

    A start may be where densities are equal that differ elsewhere.
    """
    u, rng = jax.vmap(problem.inward)(init), np.random.default_rng(0)
    near = jax.tree.map(
        lambda leaf: leaf + rng.normal(size=leaf.shape).astype(leaf.dtype), u
    )
    first = jnp.concatenate([leaf[0].ravel() for leaf in jax.tree.leaves(u)])
    values = [jax.vmap(density)(x) for density in densities for x in (u, near)]
    return {"unbounded": first[:NUM_COMPARED], "log_density": jnp.concatenate(values)}


def _own_density(method, log_density_fn, position):
    """The log-density of a kernel that is ready to run."""
    fixed = method.kernel(log_density_fn, ())
    state = fixed.init(position, jax.random.key(0))
    return _log_density(state, log_density_fn, position)


def _described(kernel, parameters) -> str:
    """A kernel in words, the same in another process; weights as a digest."""
    if isinstance(kernel, str):
        return kernel
    if jax.tree.leaves(parameters):
        return f"trained, {hashlib.sha256(_bytes(parameters)).hexdigest()}"
    return " ".join(ADDRESS.sub("", repr(kernel)).split())


def _remembered(kept, method, task, parameters):
    """The warm-up, or what it has returned in the run on disk."""
    warmed = functools.partial(methods.warmed, method, task, parameters)
    return (
        draw.remembered(kept, 0, jax.eval_shape(warmed), warmed) if kept else warmed()
    )


@contextlib.contextmanager
def _opened(directory, labels, settings, total, progress):
    """The store of the chains in a directory, or None without one."""
    if directory is None:
        yield None
        return
    with stores.opened(checks.path(directory), labels, draws=True) as kept:
        kept.claim(settings, total, settings["thin"])
        kept.show(total, shown=progress)
        yield kept


def _arviz():
    with extras.needed("sampling"):
        import arviz
    return arviz


def _bytes(tree) -> bytes:
    def plain(leaf):
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return b"".join(plain(leaf).tobytes() for leaf in jax.tree.leaves(tree))


def _checked(init, num_warmup, num_samples, thin, mass_matrix):
    """(`init` as arrays, the number of chains)."""
    checks.whole("num_warmup", num_warmup, 0)
    checks.whole("num_samples", num_samples, 1)
    checks.whole("thin", thin, 1)
    # Steps are counted in 32 bits on devices.
    if num_warmup + num_samples * thin >= 2**31:
        raise ValueError(f"num_samples={num_samples} x thin={thin}: want below 2^31.")
    if mass_matrix not in ("diagonal", "dense"):
        raise ValueError(f"mass_matrix={mass_matrix!r}: choose 'diagonal' or 'dense'.")
    for leaf in jax.tree.leaves(init):
        checks.unmasked("init", leaf)
    try:
        init = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), init)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "init holds what is no array of numbers: give arrays of floats [chains, ...]."
        ) from error
    named = _named(init)
    if not named:
        raise ValueError("init has no arrays: give one with an axis of chains.")
    for name, leaf in named.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"init {name} has type {leaf.dtype}: give floats.")
        if leaf.ndim == 0 or len(leaf) == 0:
            raise ValueError(
                f"init {name} has shape {leaf.shape}: its first axis must be of chains."
            )
    lengths = {name: len(leaf) for name, leaf in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"init has no common first axis of chains: its lengths are {lengths}."
        )
    # In JAX's own floats at least: kernels add up in them.
    wide = jnp.result_type(float)
    return jax.tree.map(lambda leaf: leaf.astype(wide), init), len(leaf)


def _check_target(acceptance) -> None:
    number = isinstance(acceptance, numbers.Real) and not isinstance(acceptance, bool)
    if acceptance is not None and not (number and 0 < acceptance < 1):
        raise ValueError(
            f"target_acceptance={acceptance!r}: give a number between 0 and 1, as 0.8."
        )


def _check_tuned(method, mass_matrix, target_acceptance) -> None:
    """ValueError where the kernel would not heed what is given."""
    if method.takes_target or (mass_matrix, target_acceptance) == ("diagonal", None):
        return
    given = (
        f"mass_matrix={mass_matrix!r}"
        if target_acceptance is None
        else f"target_acceptance={target_acceptance!r}"
    )
    raise ValueError(
        f"{given}: this kernel is not tuned for it, as nuts, hmc and mala are; leave it "
        "out, or choose one of these"
    )


def _named(tree: PyTree) -> dict[str, Array]:
    """The leaves by their place, "a.b" for nested ones; "x" for a tree of one leaf."""
    pairs, _ = jax.tree.flatten_with_path(tree)
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in pairs
    ]
    names = [name or "x" for name in names]
    if repeated := [k for k, num in collections.Counter(names).items() if num > 1]:
        raise ValueError(
            f"init has more than one variable named {repeated[0]!r}: rename one; names "
            "of nested ones are joined by dots, and an empty one is 'x'."
        )
    return {name: leaf for name, (_, leaf) in zip(names, pairs, strict=True)}


def _one(init):
    """Zeros in the form of one position."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), init)


def _form(init):
    """What tells the form of one position, hashable."""
    leaves, treedef = jax.tree.flatten(_one(init))
    return treedef, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


def _hashable(log_density_fn):
    """The density, or one around it that compiled programs are not found by again."""
    try:
        hash(log_density_fn)
    except TypeError:
        return functools.partial(log_density_fn)
    return log_density_fn


# Compiled programs are found by these functions: equal arguments give the same ones.
@functools.lru_cache(maxsize=32)
def _problem(log_density_fn, traced, method, variables, treedef, shapes) -> Problem:
    """Everything about a density that is static under jit.

    traced: of `_traced`; another one gives other functions.
    """
    del traced
    # Equal to none: programs of the same function with other data are not found by it.
    log_density_fn = functools.partial(log_density_fn)
    leaves = [np.zeros(shape, dtype) for shape, dtype in shapes]
    one = treedef.unflatten(leaves)
    to_flat, to_tree = _conversions(one, method.form)
    if method.form == "tree":
        unbounded = log_density_fn
    else:

        def unbounded(u):
            u = to_tree(u)
            value = log_density_fn(variables.forward(u))
            return value + variables.forward_log_det(u)

    def inward(position):
        return to_flat(variables.inverse(position))

    def outward(u):
        return variables.forward(to_tree(u))

    def init(parameters, position):
        return method.kernel(unbounded, parameters).init(position)

    def step(parameters, key, state):
        return method.kernel(unbounded, parameters).step(key, state)

    def observe(parameters, state):
        u = method.position(parameters, state)
        found = {f"posterior.{k}": v for k, v in _named(outward(u)).items()}
        found |= {"lp": _log_density(state, unbounded, u)}
        return found | method.observe(state)

    chain = draw.Chain(init, step, observe)
    return Problem(log_density_fn, unbounded, inward, outward, chain)


def _traced(log_density_fn, one) -> str:
    """A digest of what a density computes, with the data that it reads.

    Raises ValueError where it cannot be traced, or gives no float [].
    """
    if not callable(log_density_fn):
        raise ValueError(  # noqa: TRY004
            f"log_density_fn is {errors.kind(log_density_fn)}: give a function of a "
            "position."
        )
    found = jax.make_jaxpr(functools.partial(kernels.evaluated, log_density_fn))(one)
    digest = hashlib.sha256(ADDRESS.sub("", str(found)).encode())
    for value in _constants(found):
        digest.update(_bytes(value))
    return digest.hexdigest()


def _constants(jaxpr) -> list[Any]:
    """Arrays and numbers in a traced function, and in those that it calls."""
    found = list(getattr(jaxpr, "consts", ()))
    for equation in jaxpr.eqns:
        found += [each.val for each in equation.invars if hasattr(each, "val")]
        for part in jax.tree.leaves(equation.params):
            found += _constants(part) if hasattr(part, "eqns") else []
    return found


def _conversions(one, form):
    """(position -> what kernels take, back), without bijectors."""
    leaves, treedef = jax.tree.flatten(one)
    if form == "array" and len(leaves) == 1:
        return lambda tree: jax.tree.leaves(tree)[0], lambda u: treedef.unflatten([u])
    if form == "tree":
        return lambda tree: tree, lambda tree: tree
    return lambda tree: ravel_pytree(tree)[0], ravel_pytree(one)[1]


@functools.partial(jax.jit, static_argnums=0)
def _inward(problem, init):
    """(unbounded positions [chains, ...], whether each is in bounds, its density)."""
    u = jax.vmap(problem.inward)(jax.tree.map(distributed.shard, init))
    finite = [
        jnp.all(jnp.isfinite(leaf.reshape(len(leaf), -1)), axis=1)
        for leaf in jax.tree.leaves(u)
    ]
    return u, jnp.all(jnp.stack(finite), 0), jax.vmap(problem.log_density_fn)(u)


def _started(problem, init, num_chains) -> PyTree:
    """Unbounded positions [chains, ...] where the density can be evaluated."""
    u, inside, log_density = jax.device_get(_inward(problem, init))
    if outside := int(np.sum(~inside)):
        raise ValueError(
            f"init is out of bounds, or not finite, in {outside} of {num_chains} chains."
        )
    if bad := int(np.sum(~np.isfinite(log_density))):
        what, remedy = _not_finite(log_density[~np.isfinite(log_density)][0])
        raise ValueError(
            f"log_density_fn is not finite at the start of {bad} of {num_chains} "
            f"chains, but {what}: {remedy}."
        )
    return jax.tree.map(jnp.asarray, u)


def _not_finite(value) -> tuple[str, str]:
    """(what a log-density is that is not finite, what to do)."""
    if np.isnan(value):
        return (
            "NaN",
            "look for log and sqrt of negative numbers, 0 / 0, and NaN in data",
        )
    if value > 0:
        return "infinite", "it must be finite wherever chains can go"
    return (
        "-inf, where the density is 0",
        "start where the density is positive; of bounded variables give a bijector, too",
    )


def _log_density(state, log_density_fn, u) -> Array:
    """That of a state, which blackjax and we call differently; found if it has none."""
    for name in ("log_density", "logdensity"):
        if hasattr(state, name):
            return getattr(state, name)
    return log_density_fn(u)


def _groups(draws, thin, step_size) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Groups of ArviZ: arrays [chains, draws, ...]."""
    prefix = "posterior."
    posterior = {
        name.removeprefix(prefix): np.asarray(values)
        for name, values in draws.observations.items()
        if name.startswith(prefix)
    }
    lp = np.asarray(draws.observations["lp"])
    stats = {"lp": lp}
    for field, name in STATS.items():
        if field in draws.infos:
            stats[name] = np.asarray(draws.infos[field])
    if thin > 1:
        # A mean over several transitions is no energy.
        stats.pop("energy", None)
    for name in ("n_steps", "round_trips"):
        if name in stats:
            stats[name] = np.rint(stats[name] * thin).astype(np.int64)
    if step_size is not None:
        stats["step_size"] = np.full(lp.shape, float(step_size), np.float32)
    return {"posterior": posterior, "sample_stats": stats}


def _tuning(stats, target) -> list[str]:
    """A line where the step size was not tuned to what it should be."""
    acceptance = float(np.mean(stats.get("acceptance_rate", np.nan)))
    words = adaptation.failure(float(stats["step_size"].flat[0]), acceptance, target)
    return [words] if words else []


def _cause(log_density_fn, variables, init, posterior, *, takes_target) -> str:
    """Why transitions diverged, as far as the density around the draws tells."""
    names, treedef = list(_named(init)), jax.tree.structure(init)
    flat = [posterior[name].reshape(-1, *posterior[name].shape[2:]) for name in names]
    places = np.linspace(0, len(flat[0]) - 1, NUM_PROBES).astype(int)
    x = treedef.unflatten([values[places] for values in flat])
    found = zip(names, np.asarray(_probed(log_density_fn, variables, x)))
    found = {name: values for name, values in found if not np.all(np.isfinite(values))}
    nan = ", ".join(name for name in found if np.isnan(found[name]).any())
    if nan:
        what, remedy = _not_finite(np.nan)
        return f"log_density_fn is {what} at some values of {nan}: {remedy}"
    if found:
        bounded = ", ".join(found)
        return (
            f"the density is 0 or infinite at some values of {bounded}: give a bijector "
            "for their bounds, megjax.positive() or interval(low, high)"
        )
    shorter = (
        "raise target_acceptance towards 0.99" if takes_target else "shorten its steps"
    )
    return f"{shorter}, give a bijector, or reparameterise"


@functools.partial(jax.jit, static_argnums=(0, 1))
def _probed(log_density_fn, variables, x):
    """Log-densities [variables, N] at x [N, ...] with one variable moved at a time."""
    leaves, treedef = jax.tree.flatten(jax.vmap(variables.inverse)(x))
    normal = np.random.default_rng(0).normal(size=len(leaves[0]))

    def density(u):
        return log_density_fn(variables.forward(u))

    found = []
    for i, leaf in enumerate(leaves[:MAX_PROBED]):
        steps = normal.reshape(-1, *(1,) * (leaf.ndim - 1)).astype(leaf.dtype)
        moved = leaf + 3 * jnp.std(leaf, axis=0) * steps
        u = treedef.unflatten([*leaves[:i], moved, *leaves[i + 1 :]])
        found.append(jax.vmap(density)(u))
    return jnp.stack(found)


def _warnings(arviz, groups, thin, cause_fn, method, target_acceptance) -> list[str]:
    """A line each for divergences, chains that differ, too few draws, a bad step size.

    cause_fn: () -> the cause of divergences.
    """
    found = _divergences(groups["sample_stats"], thin, cause_fn)
    if method.mixes and groups["sample_stats"]["lp"].shape[1] >= 4:
        found += _mixing(arviz, groups["posterior"])
    if method.target_acceptance:
        target = target_acceptance or method.target_acceptance
        found += _tuning(groups["sample_stats"], target)
    return found


def _divergences(stats, thin, cause_fn) -> list[str]:
    """Makes `diverging` of the stats boolean, and says how many did."""
    if "diverging" not in stats:
        return []
    num = round(float(np.sum(stats["diverging"], dtype=np.float64)) * thin)
    stats["diverging"] = stats["diverging"] > 0
    if not num:
        return []
    words = (
        f"{num} of {stats['lp'].size * thin} transitions diverged, or left the support: "
        f"parts of the density may be missing; {cause_fn()}"
    )
    return [words]


def _mixing(arviz, posterior) -> list[str]:
    """Lines on the largest R-hat and the smallest bulk effective sample size."""
    r_hats, sizes = [(0.0, "")], []
    for name, values in posterior.items():
        num_chains = len(values)
        columns = values.reshape(*values.shape[:2], -1)[..., :MAX_CHECKED]
        for column in np.moveaxis(columns, 2, 0).astype(np.float64):
            sizes.append((np.nan_to_num(float(arviz.ess(column, method="bulk"))), name))
            if num_chains > 1:
                r_hat = float(arviz.rhat(column))
                r_hats.append((math.inf if math.isnan(r_hat) else r_hat, name))
    found, (r_hat, name), (ess, least) = [], max(r_hats), min(sizes)
    if r_hat > R_HAT:
        found.append(
            f"R-hat of {name} is {r_hat:.5g}, above {R_HAT}: the chains have not mixed; "
            "raise num_warmup and num_samples, or use another kernel"
        )
    if ess < min(ENOUGH_DRAWS, DRAWS_PER_CHAIN * num_chains):
        found.append(
            f"the bulk effective sample size of {least} is {ess:.0f}: raise num_samples "
            "or thin"
        )
    return found
