"""Configs, which hold values, and recipes, which make experiments of them."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import importlib.machinery
import importlib.util
import math
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from megjax import checks, errors

# Nothing here may import jax, so that --help and mistakes answer at once.
if TYPE_CHECKING:
    from megjax.data.dataset import Dataset
    from megjax.learners.base import Learner
    from megjax.types import Evaluation

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
CONFIGS = next(
    path
    for path in (PACKAGE / "configs", PACKAGE.parent / "configs", PACKAGE)
    if path.is_dir()
)
"""Where the configs of megjax are: in the package where it is installed, else beside it."""

TRAIN = {
    "seed": 0,
    "num_steps": 100_000,
    "log_every": 100,
    "save_every": 1000,
    "evaluate_every": 5000,
    "iterations_per_call": 50,
    "iterations_per_call_cpu": 1,
    "compiler_options_cpu": {},
    "keep": 3,
    "max_returns": 3,
    "max_energy": 1e7,
}
"""`config.train`, what the training loop reads.

iterations_per_call: iterations in one compiled call, on accelerators and on CPU; see
    docs/architecture.md.
compiler_options_cpu: XLA's, for the iterations.
keep: the newest checkpoints.
max_returns: where training diverges it goes on from the last checkpoint, so many times.
max_energy: magnitude of energies beyond which it has diverged.
"""

RECIPE_NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*", re.ASCII)


def _nothing(config, data, learner) -> Mapping[str, Evaluation]:
    """No evaluations."""
    del config, data, learner
    return {}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the values of a config become an experiment: `config.recipe`.

    data: config -> Dataset
    learner: (config, shape, data=None) -> Learner for examples [*shape]. data: the
        training set where it is at hand, for initial values alone, so that a trained
        run can be read without it.
    evaluations: (config, data, learner) -> name -> Evaluation, in the training loop and
        after.
    protocols: likewise, too slow for the loop.

    Each raises ValueError with the value, the rule and what to give instead. One of
    megjax has a name, such as "meg.images": where it stands below `megjax.recipes`.

    >>> from megjax.training.experiment import recipe_name
    >>> from megjax import recipes
    >>> recipe_name(recipes.meg.images)
    'meg.images'
    """

    data: Callable[[ml_collections.ConfigDict], Dataset]
    learner: Callable[..., Learner]
    evaluations: Callable[..., Mapping[str, Evaluation]] = _nothing
    protocols: Callable[..., Mapping[str, Evaluation]] = _nothing


class Experiment(NamedTuple):
    """A training set, a method, and what to measure while and after training.

    evaluations: name -> (key, learner state) -> Report, in the training loop and after.
    protocols: likewise, too slow for the loop; `evaluate.py` runs both.

    >>> from megjax.training.experiment import build, load
    >>> import megjax
    >>> built = build(load("toy_8gaussians"))
    >>> built.data.shape, sorted(built.evaluations)
    ((2,), ['plane'])
    """

    data: Dataset
    learner: Learner
    evaluations: Mapping[str, Evaluation]
    protocols: Mapping[str, Evaluation] = MappingProxyType({})


RESULTS = ("samples", "evaluation", "report.html")
"""What reading a run leaves in its directory."""


def find(name: str) -> str:
    """The file of a config that a person names: "mnist", "configs/mnist.py" or a path.

    An argument after ":" is kept. Names and paths in configs/ are those of megjax
    wherever it is installed; a file that exists comes before them. Raises ValueError at
    a name that no config has.
    """
    given, colon, argument = name.partition(":")
    path = checks.path(given) if given.startswith("~") else pathlib.Path(given)
    stem = path.stem
    own = CONFIGS / f"{stem}.py"
    if given == stem and not path.is_file():
        if not own.is_file():
            known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.py")))
            raise ValueError(
                f"no config file {given!r}: give a path, or one of {known}"
            )
        path = own
    elif path.is_dir() and given.endswith((".py", "/")):
        raise ValueError(f"{given} is a folder: give the config file in it")
    elif not path.exists() and own.is_file() and given == f"configs/{own.name}":
        path = own
    return f"{path}{colon}{argument}"


def name(config_file: str) -> str:
    """The name of a config: "mnist_anomaly:3" for "configs/mnist_anomaly.py:3"."""
    path, colon, argument = config_file.partition(":")
    return f"{pathlib.Path(path).stem}{colon}{argument}"


def directory(config_file: str) -> pathlib.Path:
    """Where its run lives by default: "runs/mnist_anomaly-3"."""
    return pathlib.Path("runs", re.sub("[:/]", "-", name(config_file).rstrip(":")))


def define_flag() -> flags.FlagHolder:
    """The flag --config of a script: a name or a file, its fields as further flags."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "Config: a name such as mnist, or a file; NAME[:argument]."
    )
    parser = flags.FLAGS["config"].parser
    parse = parser.parse
    parser.parse = lambda name: parse(find(name))
    return holder


def run_directory(given: str | None) -> pathlib.Path:
    """The run that a flag names, as `checks.path`, or where it is left out the newest."""
    return newest(pathlib.Path("runs")) if given is None else checks.path(given)


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
        if known is None and part in errors.RENAMED:
            raise ValueError(f"{assignment!r}: {errors.no_field(part)}")
        if not equals or known is None or isinstance(known, Mapping):
            raise ValueError(
                f"{assignment!r}: give FIELD=VALUE of a field that the run's config has"
            )
        try:
            value = text if isinstance(known, str) else ast.literal_eval(text)
            check_type(field, value, known)
            config.update_from_flattened_dict({field: value})
        except (ValueError, TypeError, SyntaxError) as error:
            raise ValueError(
                f"{assignment!r}: {field} is of type {type(known).__name__}"
            ) from error


def check_type(field: str, value: Any, known: Any) -> None:
    """TypeError where a value is of another type than the one it takes the place of."""
    allowed = {float: int | float, int: int, tuple: list | tuple, list: list | tuple}
    number = isinstance(value, bool) == isinstance(known, bool)
    fits = number and isinstance(value, allowed.get(type(known), type(known)))
    if known is not None and not fits:
        raise TypeError(f"{field} is {value!r}, not of type {type(known).__name__}")


def load(config_file: str) -> ml_collections.ConfigDict:
    """The config that `find` finds; runs its file.

    Raises FileNotFoundError where there is none.
    """
    path, _, argument = find(config_file).partition(":")
    loader = importlib.machinery.SourceFileLoader(
        f"config_{pathlib.Path(path).stem}", path
    )
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    config = module.get_config(*[argument] * bool(argument))
    config.lock()
    return config


def from_values(values: Mapping[str, Any], recipe: Recipe) -> ml_collections.ConfigDict:
    """The config of a run from the values that it stored.

    Raises ValueError where they are none that the training loop can read.
    """
    try:
        config = ml_collections.ConfigDict(values)
        config.recipe = recipe
        check_type("batch_size", config.batch_size, 0)
        if not isinstance(values["train"], Mapping):
            raise TypeError(f"train is {values['train']!r}, no group")
        for field, known in TRAIN.items():
            value = config.train[field]
            if not isinstance(known, Mapping):
                check_type(f"train.{field}", value, known)
            elif not isinstance(value, Mapping | ml_collections.ConfigDict):
                raise TypeError(f"train.{field} is {value!r}, no group")
    except Exception as error:
        words = " ".join(map(str, error.args)) or type(error).__name__
        raise ValueError(
            f"the run's config is none of this version ({' '.join(words.split())}): "
            "check out the version that wrote it, or train again"
        ) from error
    config.lock()
    return config


def recipe_name(recipe: Recipe) -> str | None:
    """The name of a recipe among those of megjax; None for one of a user's own."""
    prefix = "megjax.recipes."
    for module, loaded in sorted(sys.modules.items()):
        if module.startswith(prefix):
            for attribute, value in vars(loaded).items():
                if isinstance(value, Recipe) and value == recipe:
                    return f"{module.removeprefix(prefix)}.{attribute}"
    return None


def recipe_named(name: str) -> Recipe:
    """The recipe of megjax with a name, such as "meg.images".

    The name may come from a stranger: it is looked up below `megjax.recipes`, nowhere
    else. Raises ValueError where nothing there is a recipe of that name.
    """
    module, _, attribute = name.partition(".")
    path = f"megjax.recipes.{module}"
    if RECIPE_NAME.fullmatch(name) and importlib.util.find_spec(path):
        found = vars(importlib.import_module(path)).get(attribute)
        if isinstance(found, Recipe):
            return found
    raise ValueError(
        f"megjax has no recipe {name!r:.100}: check out the version that trained the run"
    )


def recipe_of(config: ml_collections.ConfigDict) -> Recipe:
    """The recipe of a config. Raises ValueError where it has none."""
    for field in ("recipe", "batch_size", "train"):
        # A config file that could not be read raises its error here.
        if getattr(config, field, None) is None:
            raise ValueError(
                f"the config has no {field}: its get_config returns an "
                "ml_collections.ConfigDict that starts from megjax.recipes.base.config()"
            )
    if not isinstance(config.recipe, Recipe):
        raise ValueError(  # noqa: TRY004
            f"config.recipe={config.recipe!r}: give a megjax.training.experiment.Recipe"
        )
    return config.recipe


def own_recipe(config_file: str | None) -> Recipe | None:
    """The recipe of a config that a user names to read a run back, if any."""
    return recipe_of(load(config_file)) if config_file else None


def build(config: ml_collections.ConfigDict) -> Experiment:
    """What a config and its recipe make: data, learner, evaluations.

    Raises ValueError where the config has not the fields of every config, or where its
    recipe fails otherwise than by a ValueError that says what is wrong.
    """
    recipe = recipe_of(config)
    _check_numbers(plain_values(config))
    with one_line_errors():
        data = recipe.data(config)
        if not hasattr(data, "shape"):
            raise ValueError("the recipe's data returns no Dataset: let it return one")
        learner = recipe.learner(config, data.shape, data=data)
        return Experiment(
            data,
            learner,
            recipe.evaluations(config, data, learner),
            recipe.protocols(config, data, learner),
        )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Whatever a recipe raises as an error of one line that says where it failed."""
    try:
        yield
    except errors.MISTAKES:
        raise
    except Exception as error:
        if errors.is_memory(error):
            raise
        raise ValueError(
            f"the config cannot be built ({errors.failure(error)}): correct its file, "
            "or a field that does not fit"
        ) from error


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
    """The values of a config as plain nested dicts, without its recipe."""
    values = config.to_dict()
    values.pop("recipe", None)
    return values
