"""What a config builds, and how a config file is read back."""

import ast
import importlib.machinery
import importlib.util
import math
import pathlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_collections

from megjax import errors
from megjax.data.dataset import Dataset
from megjax.learners.base import Learner
from megjax.types import Evaluation

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Experiment(NamedTuple):
    """A training set, a method, and what to measure while and after training.

    evaluations: name -> (key, learner state) -> Report, in the training loop and after.
    protocols: likewise, too slow for the loop; `evaluate.py` runs both.
    """

    data: Dataset
    learner: Learner
    evaluations: Mapping[str, Evaluation]
    protocols: Mapping[str, Evaluation] = MappingProxyType({})


RESULTS = ("samples", "evaluation")
"""What reading a run leaves in its directory."""


def portable(config_file: str) -> str:
    """The name of a config file that a run directory stores.

    Files of this repository are named relative to it, so that a run can move with its
    checkout; others absolutely. An argument after ":" is kept.
    """
    path, colon, argument = config_file.partition(":")
    path = pathlib.Path(path).resolve()
    if path.is_relative_to(ROOT):
        path = path.relative_to(ROOT)
    return f"{path}{colon}{argument}"


def name(config_file: str) -> str:
    """Short name of an experiment: "mnist_anomaly-3" for "configs/mnist_anomaly.py:3"."""
    path, _, argument = config_file.partition(":")
    stem = pathlib.Path(path).stem
    return f"{stem}-{argument.replace('/', '_')}" if argument else stem


def newest(runs: pathlib.Path) -> pathlib.Path:
    """The run below `runs` that was last written to, whatever was read from it since.

    Raises FileNotFoundError where there is none.
    """
    written = {}
    for run in runs.glob("*/"):
        own = [path for path in run.iterdir() if path.name not in RESULTS]
        if own:
            written[run] = max(path.stat().st_mtime for path in own)
    if not written:
        raise FileNotFoundError(
            f"no run under {runs}/: name one with --workdir, or train with train.py"
        )
    return max(written, key=written.get)


def assign(config: ml_collections.ConfigDict, assignments: Iterable[str]) -> None:
    """Carries out FIELD=VALUE on a config, e.g. "evaluation.num_samples=1000".

    Values are read as the type that the field has. Raises ValueError at a field that
    is not there and at a value of another type.
    """
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        known = config.to_dict()
        for part in field.split("."):
            known = known.get(part) if isinstance(known, Mapping) else None
        if not equals or known is None or isinstance(known, Mapping):
            raise ValueError(
                f"{assignment!r}: give FIELD=VALUE of a field that the run's config has"
            )
        try:
            value = text if isinstance(known, str) else ast.literal_eval(text)
            _check_type(field, value, known)
            config.update_from_flattened_dict({field: value})
        except (ValueError, TypeError, SyntaxError) as error:
            raise ValueError(
                f"{assignment!r}: {field} is of type {type(known).__name__}"
            ) from error


def _check_type(field: str, value: Any, known: Any) -> None:
    """TypeError where a value is of another type than the one it takes the place of."""
    allowed = {float: int | float, int: int, tuple: list | tuple, list: list | tuple}
    number = isinstance(value, bool) == isinstance(known, bool)
    fits = number and isinstance(value, allowed.get(type(known), type(known)))
    if known is not None and not fits:
        raise TypeError(f"{field} is {value!r}, not of type {type(known).__name__}")


def _check_types(
    values: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> None:
    """TypeError at a value that does not fit, KeyError at one without a field."""
    for name, value in values.items():
        field = prefix + name
        if name not in known:
            raise KeyError(f"there is no field {field}")
        if isinstance(value, Mapping) and isinstance(known[name], Mapping):
            _check_types(value, known[name], f"{field}.")
        else:
            _check_type(field, value, known[name])


def load(config_file: str, values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config of a file ("path.py" or "path.py:argument") with stored values.

    Raises FileNotFoundError where the file is gone and ValueError where it no longer
    has one of the fields.
    """
    path, _, argument = config_file.partition(":")
    path = ROOT / path
    if not path.is_file():
        raise FileNotFoundError(
            f"config {path} of the run is missing: restore it, or train again"
        )
    try:
        config = _get_config(path)(*[argument] * bool(argument))
        config.lock()
        _check_types(values, plain_values(config))
        config.update(values)
    except OSError:
        raise
    except Exception as error:
        words = " ".join(map(str, error.args)) or type(error).__name__
        raise ValueError(
            f"the run's config does not fit today's {path.name} ({words}): "
            "check out the version that wrote it, or train again"
        ) from error
    return config


def _get_config(path: pathlib.Path):
    """The function get_config of a config file."""
    loader = importlib.machinery.SourceFileLoader(f"config_{path.stem}", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module.get_config


def built(config: ml_collections.ConfigDict) -> Experiment:
    """What a config builds.

    Raises ValueError where it has not the fields of every config, or where its `build`
    fails otherwise than by telling what is wrong.
    """
    for field in ("build", "batch_size", "train"):
        # A config file that could not be read raises its error here.
        if getattr(config, field, None) is None:
            raise ValueError(
                f"the config has no {field}: its get_config returns an "
                "ml_collections.ConfigDict that starts from configs/base.py"
            )
    _check_numbers(plain_values(config))
    try:
        experiment = config.build(config)
    except errors.MISTAKES:
        raise
    except Exception as error:
        if errors.is_memory(error):
            raise
        raise ValueError(
            f"the config cannot be built ({errors.failure(error)}): mend its file, "
            "or a field that does not fit"
        ) from error
    if not isinstance(experiment, Experiment):
        raise ValueError(  # noqa: TRY004
            "the config's build returns no megjax.training.experiment.Experiment: let it"
        )
    return experiment


def _check_numbers(values: Mapping[str, Any], prefix: str = "config.") -> None:
    """ValueError at a NaN, and at a whole number that no array or seed can have."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _check_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{prefix}{name}=nan: give a number")
        elif isinstance(value, int) and not -(2**32) < value < 2**32:
            raise ValueError(f"{prefix}{name}={value}: give less than 2^32")


def plain_values(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The values of a config as plain nested dicts, without its `build` function."""
    values = config.to_dict()
    values.pop("build", None)
    return values
