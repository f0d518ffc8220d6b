"""What the estimators share: training on a table, scores in chunks, files, checks."""

import functools
import json
import numbers
import operator
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from tqdm import auto as tqdm

from megjax import checks, extras
from megjax.data import order
from megjax.io import atomic
from megjax.learners.base import Learner
from megjax.training import loop
from megjax.types import Array, Key, PyTree

with extras.needed("estimators"):
    from sklearn.base import BaseEstimator
    from sklearn.utils import check_random_state, validation

_VERSION = "2"
_DTYPES = (np.float64, np.float32)
_CHUNK = 1024
_CALL = 500
"""Iterations of one compiled call, at most."""


class Estimator(BaseEstimator):
    """A scikit-learn estimator of rows of numbers [N, F] that lies in one file.

    Fitted attributes are arrays, dicts of arrays, plain numbers and a RandomState.
    """

    def save(self, path) -> None:
        """Writes the fitted estimator to one .npz file, without pickle.

        A `random_state` that is not an int is left out. Raises OSError where the disk
        refuses.
        """
        validation.check_is_fitted(self)
        parameters = self.get_params()
        fitted = {k: v for k, v in vars(self).items() if k not in parameters}
        fitted = traverse_util.flatten_dict(fitted, sep="/")
        if not isinstance(parameters["random_state"], numbers.Integral):
            parameters["random_state"] = None
        if "random_state_" in fitted:
            fitted["random_state_"] = self.random_state_.get_state(legacy=False)
        arrays = {
            name: value
            for name, value in fitted.items()
            if isinstance(value, np.ndarray) and value.dtype != object
        }
        header = {
            "written_by": f"{type(self).__name__}.save {_VERSION}",
            "parameters": parameters,
            "fitted": {k: v for k, v in fitted.items() if k not in arrays},
        }
        # NumPy's numbers and arrays have their plain forms.
        text = json.dumps(header, default=lambda value: value.tolist())
        atomic.write(checks.file(path), arrays | {"header": np.array(text)})

    @classmethod
    def load(cls, path) -> Self:
        """The estimator that `save` wrote; it executes nothing of the file.

        Raises FileNotFoundError where there is no file, ValueError where it is damaged
        or another class or version wrote it.
        """
        path, writer = checks.path(path), f"{cls.__name__}.save {_VERSION}"
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}: write one with {cls.__name__}.save"
            )
        try:
            arrays = atomic.checked(path)
            header = json.loads(str(arrays.pop("header")))
            found, parameters = header["written_by"], header["parameters"]
            fitted = traverse_util.unflatten_dict(arrays | header["fitted"], sep="/")
            if found == writer:
                lists = {k: v for k, v in parameters.items() if isinstance(v, list)}
                estimator = cls(**parameters | {k: tuple(v) for k, v in lists.items()})
                _check_names(cls, fitted)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged, or was not written by {writer}: {error}"
            ) from error
        if found != writer:
            raise ValueError(
                f"{path} was written by {found}, this is {writer}: load it with the "
                "class and the megjax that wrote it"
            )
        if "feature_names_in_" in fitted:
            names = fitted["feature_names_in_"]
            fitted["feature_names_in_"] = np.array(names, object)
        if "random_state_" in fitted:
            random_state = np.random.RandomState()
            try:
                random_state.set_state(fitted["random_state_"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}: random_state_ is damaged ({error})"
                ) from error
            fitted["random_state_"] = random_state
        vars(estimator).update(fitted)
        return estimator

    def _table(self, X, *, reset: bool = False) -> np.ndarray:
        """X checked as scikit-learn does, float64 or float32 [N, F].

        reset: for training; else the estimator must be fitted, to such columns. Raises
        ValueError at masked values and dates, which scikit-learn would take for numbers.
        """
        checks.unmasked("X", X)
        if not reset:
            validation.check_is_fitted(self)
        dtypes = [X.dtype] if hasattr(X, "dtype") else getattr(X, "dtypes", ())
        for dtype in dtypes:
            if getattr(dtype, "kind", "") in ("M", "m"):
                raise ValueError(
                    f"{type(self).__name__} was given dates ({dtype}): make numbers of "
                    "them, such as days since the first"
                )
        try:
            return validation.validate_data(self, X, dtype=_DTYPES, reset=reset)
        except ValueError as error:
            raise ValueError(_words(error)) from error


def _words(error: ValueError) -> str:
    """scikit-learn's words on a table in one line, with what to do."""
    words = " ".join(str(error).split())
    for start in ("Input X contains NaN.", "Input X contains infinity"):
        if words.startswith(start):
            told = words.partition(".")[0]
            return f"{told}: leave those rows out, or fill them as sklearn.impute does"
    if words.startswith("could not convert string"):
        return f"{words}: give numbers; encode text, as by sklearn's OneHotEncoder"
    # Of these two it prints the table, too.
    if words.startswith("Complex data not supported"):
        return "Complex data not supported: give real numbers, X.real or abs(X)"
    return re.sub("array=.*(?=Reshape your data)", "", words)


def _check_names(cls: type, fitted: Mapping[str, Any]) -> None:
    """ValueError where an attribute of a file would take the place of a method."""
    taken = [name for name in fitted if hasattr(cls, str(name))]
    if taken:
        raise ValueError(f"{taken[0]} is no fitted attribute of {cls.__name__}")


def seed(random_state: np.random.RandomState) -> int:
    """A seed drawn from a random state."""
    return random_state.randint(np.iinfo(np.int32).max)


def chunked(function: Callable[[np.ndarray], Array], rows: np.ndarray) -> np.ndarray:
    """function(rows [N, F]) -> [N, ...], in chunks of one form.

    One program serves any number of rows, and what a row gets does not depend on its
    company, to the last bit.
    """
    found = []
    for first in range(0, len(rows), _CHUNK):
        chunk = rows[first : first + _CHUNK]
        padded = np.pad(chunk, ((0, _CHUNK - len(chunk)), (0, 0)))
        found.append(np.asarray(function(padded))[: len(chunk)])
    return np.concatenate(found)


def trained(
    learner: Learner,
    state: PyTree,
    rows: np.ndarray,
    steps: range,
    *,
    seed: int,
    batch_size: int,
    verbose: bool,
) -> PyTree | None:
    """The state [on the host] after iterations `steps` on rows [N, F].

    Tables of up to 256, 512, ... rows share a program: rows and noise are arguments,
    lest each fit compiles again. None where training diverged.
    """
    streams, shape = loop.keys(seed), (learner.num_batches, batch_size)
    room = max(256, 1 << (len(rows) - 1).bit_length())
    padded = np.pad(rows.astype(np.float32), ((0, room - len(rows)), (0, 0)))
    # A copy, since the program takes the memory of what it is given.
    store, state = jax.device_put(padded), jax.tree.map(jnp.array, state)
    finite = True
    with tqdm.tqdm(total=len(steps), unit="it", disable=not verbose) as bar:
        for first in steps[::_CALL]:
            num = min(_CALL, steps.stop - first)
            # Of the call before, so that the device need not wait for this check.
            if not finite:
                return None
            indices = _indices(streams.order, first, len(rows), shape)
            state, finite = _advanced(
                learner, state, streams.step, first, num, store, indices
            )
            bar.update(num)
    return jax.device_get(state) if finite else None


@functools.partial(jax.jit, static_argnums=(2, 3))
def _indices(key: Key, first: int, num_examples: int, shape: tuple[int, int]) -> Array:
    """The rows of the iterations from `first` on: [_CALL, K, B]."""
    found = functools.partial(
        order.batch_indices, key, num_examples=num_examples, shape=shape
    )
    return jax.vmap(found)(first + jnp.arange(_CALL, dtype=jnp.int32))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _advanced(learner, state, key, first, num, rows, indices):
    """(state, whether it is finite) after `num` iterations."""

    def one(i, state):
        # Metrics that no one reads are not computed either.
        return learner.step(
            jax.random.fold_in(key, first + i), state, rows[indices[i]]
        )[0]

    state = jax.lax.fori_loop(0, num, one, state)
    return state, jnp.all(
        jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in _floats(state)])
    )


def _floats(state: PyTree) -> list[Array]:
    leaves = jax.tree.leaves(state)
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]


def check(values: Mapping[str, Any], **rules: tuple | int | str) -> None:
    """ValueError naming the first unusable value, and what it may be.

    rules: a tuple of choices, the least whole number, or an interval of real numbers
    such as "[0, 1)" or "(0, inf)", by name.
    """
    for name, rule in rules.items():
        value = values[name]
        if isinstance(rule, tuple):
            is_usable = isinstance(value, Hashable) and value in rule
            words = f"choose one of {', '.join(map(repr, rule))}"
        elif isinstance(rule, int):
            is_whole = isinstance(value, numbers.Integral)
            is_usable = is_whole and not isinstance(value, bool) and value >= rule
            words = f"give a whole number from {rule} up"
        else:
            is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
            is_usable = is_real and _is_in(value, rule)
            words = f"give a number in {rule}"
        if not is_usable:
            raise ValueError(f"{name}={value!r:.200}: {words}")


def check_common(values: Mapping[str, Any]) -> None:
    """ValueError at a `verbose` or a `random_state` that cannot be."""
    if not isinstance(values["verbose"], bool | np.bool_):
        check(values, verbose=0)
    if values["random_state"] is not None:
        check_random_state(values["random_state"])


def _is_in(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    above = operator.ge if interval[0] == "[" else operator.gt
    below = operator.le if interval[-1] == "]" else operator.lt
    return above(value, low) and below(value, high)


def hyperparameters(kind: type, estimator: Estimator) -> tuple:
    """The NamedTuple `kind`: num_features, then parameters of a fitted estimator.

    Hashable, so that equal ones share their programs.
    """
    values = {name: getattr(estimator, name) for name in kind._fields[1:]}
    for name, value in values.items():
        if np.iterable(value) and not isinstance(value, str):
            values[name] = tuple(map(int, value))
    return kind(estimator.n_features_in_, **values)
