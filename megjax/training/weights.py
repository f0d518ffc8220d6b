"""Weights in one .safetensors file, with what it takes to rebuild their model.

The file holds arrays and text; reading one executes nothing that is in it.
"""

import json
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from megjax import checks, extras
from megjax.io import atomic
from megjax.training import checkpoint, experiment, loop
from megjax.types import PyTree

ENTRY = "megjax"
"""The metadata entry that holds the record of the model, as JSON."""


def save(path: str | pathlib.Path, run: loop.Restored) -> None:
    """Writes the weights of a run; states of optimizers stay behind.

    Raises OSError where the disk refuses, ImportError without safetensors.
    """
    target = checks.file(path)
    with extras.needed("weights"):
        from safetensors import numpy as safetensors
    record = checkpoint.Record(
        run.name,
        experiment.recipe_name(run.recipe),
        tuple(run.shape),
        experiment.plain_values(run.config),
    )
    text = {"version": checkpoint.VERSION, "step": run.step} | record._asdict()
    content = safetensors.save(tensors(run), {ENTRY: json.dumps(text)})
    atomic.folder(target.parent)
    atomic.replace(target, lambda file: file.write(content))


def tensors(run: loop.Restored) -> dict[str, np.ndarray]:
    """The arrays of a run's state by their place in it, but for those of optimizers."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(run.state))
    return {
        _name(place): np.array(leaf, order="C")
        for place, leaf in leaves
        if not _is_optimizer(place)
    }


def load(
    path: str | pathlib.Path, *, recipe: experiment.Recipe | None = None
) -> loop.Restored:
    """The run whose weights `save` wrote; states of optimizers are zeros.

    recipe: of a run that was trained with a user's own. Raises FileNotFoundError where
    there is no file, ValueError where it is damaged, none of `save`'s, or of another
    model, ImportError without safetensors.
    """
    with extras.needed("weights"):
        import safetensors
    path = checks.path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: name one of weights")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(ENTRY)
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no intact .safetensors file ({error}): get it again"
        ) from error
    if text is None:
        raise ValueError(
            f"{path} has no entry {ENTRY!r} in its metadata: give a file that "
            "Model.save or megjax export wrote"
        )
    saved = checkpoint.parsed(text, path)
    if type(saved.get("step")) is not int:
        raise ValueError(f"{path} is damaged (it has no step): get it again")
    record = checkpoint.Record(
        saved["config"], saved["recipe"], tuple(saved["shape"]), saved["values"]
    )
    run = loop.described(record, path, recipe=recipe)
    state = _filled(path, found, loop.form(run))
    return run._replace(state=state, step=saved["step"])


def _filled(path: pathlib.Path, found: Mapping, form: PyTree) -> PyTree:
    """A state of a form with what was found for leaves, zeros for optimizers."""
    wanted = {
        _name(place): leaf
        for place, leaf in jax.tree_util.tree_leaves_with_path(form)
        if not _is_optimizer(place)
    }
    for name in sorted(wanted.keys() | found.keys()):
        there, here = (
            f"{np.dtype(one[name].dtype).name}{list(one[name].shape)}"
            if name in one
            else "absent"
            for one in (found, wanted)
        )
        if there != here:
            raise ValueError(
                f"{path} does not fit its model: {name} is {there} there and {here} "
                "here; read it with the version of megjax that wrote it"
            )

    def leaf(place, like):
        if _is_optimizer(place):
            return np.zeros(like.shape, like.dtype)
        return found[_name(place)]

    return jax.tree_util.tree_map_with_path(leaf, form)


def _name(place) -> str:
    return jax.tree_util.keystr(place, simple=True, separator="/")


def _is_optimizer(place) -> bool:
    return any(getattr(part, "name", None) == "optimizer" for part in place)
