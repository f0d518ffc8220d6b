"""What a trained run is worth: the evaluations its config names, in one file."""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from megjax import checks, distributed, plotting
from megjax.io import atomic
from megjax.sampling import draw
from megjax.training import loop
from megjax.training.experiment import Experiment
from megjax.types import Evaluation, Report, SharedEvaluation

FILE_NAME = "evaluation.json"


def chosen(experiment: Experiment, names: Iterable[str]) -> dict[str, Evaluation]:
    """The experiment's evaluations and protocols, or those of the given names.

    Raises ValueError at a name it does not have, and where it has none at all.
    """
    known = {**experiment.evaluations, **experiment.protocols}
    if not known:
        raise ValueError("the run's config names no evaluation: add one to its recipe")
    for name in names:
        if name not in known:
            raise ValueError(
                f"no evaluation {name!r} (--only): the run's config has "
                f"{', '.join(sorted(known))}"
            )
    return {name: known[name] for name in (names or known)}


def evaluate(
    restored: loop.Restored,
    names: Iterable[str],
    out: pathlib.Path,
    *,
    seed: int,
    changed: Iterable[str] = (),
) -> Iterable[tuple[str, Report]]:
    """Runs evaluations one after the other; gives each once it is on disk.

    `out` gets evaluation.json, where an entry replaces the former one of its name, and
    NAME_PICTURE.png. seed: of everything random; the same for every evaluation. changed:
    "FIELD=VALUE" of the config, by which `restored` differs from the run; for the file.
    Raises at once what `chosen` and `read` do, and OSError where `out` cannot be.

    Of several processes all call it, and the main one alone gets reports and writes.
    Evaluations that share their chains come first, and are run by all of them; the main
    one then runs the others.
    """
    evaluations = chosen(restored.experiment(), names)
    out = checks.path(out)
    if jax.process_count() > 1:
        evaluations = _in_turn(evaluations)
    if distributed.is_main():
        read(out)
        atomic.folder(out)
    return _reports(restored, evaluations, out, seed, list(changed))


def _in_turn(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """First those that all processes run, then in the main process the others.

    So that nobody waits in a collective for what the main one does by itself.
    """
    shared, own = {}, {}
    for name, evaluation in evaluations.items():
        (shared if isinstance(evaluation, SharedEvaluation) else own)[name] = evaluation
    return shared | (own if distributed.is_main() else {})


def _reports(restored, evaluations, out, seed, changed) -> Iterator[tuple[str, Report]]:
    for name, evaluation in evaluations.items():
        start = time.perf_counter()
        is_shared = isinstance(evaluation, SharedEvaluation)
        together = draw.shared() if is_shared else contextlib.nullcontext()
        with jax.set_mesh(distributed.local_mesh()), together:
            report = evaluation(loop.keys(seed).evaluation, restored.state)
        if not distributed.is_main():
            continue
        seconds = time.perf_counter() - start
        num_devices = jax.device_count() if is_shared else jax.local_device_count()
        for picture, pixels in report.pictures.items():
            plotting.write_png(out / f"{name}_{picture}.png", pixels)
        entry = {
            "step": restored.step,
            "seed": seed,
            "seconds": round(seconds, 3),
            "device": f"{num_devices} x {jax.devices()[0].device_kind}",
            "jax": jax.__version__,
            **({"changed": changed} if changed else {}),
            "metrics": {k: _number(v) for k, v in report.metrics.items()},
        }
        _write(out / FILE_NAME, read(out) | {name: entry})
        yield name, report


def read(out: pathlib.Path) -> dict[str, Any]:
    """What evaluation.json of a directory holds; empty where there is none.

    Raises ValueError where the file is damaged.
    """
    try:
        found = json.loads((out / FILE_NAME).read_text())
        if not isinstance(found, dict):
            raise ValueError("it holds no results")  # noqa: TRY004
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{out / FILE_NAME} is damaged ({error}): remove it and evaluate again"
        ) from error
    return found


def _write(path: pathlib.Path, entries: Mapping[str, Any]) -> None:
    """Replaces the file at once, so that a kill leaves the old or the new one."""
    text = json.dumps(entries, indent=1) + "\n"
    atomic.replace(path, lambda file: file.write(text.encode()))


def _number(value) -> float | int | None:
    """A number for JSON, which has no NaN and no infinity: those become null."""
    value = np.asarray(value).item()
    return value if np.isfinite(value) else None
