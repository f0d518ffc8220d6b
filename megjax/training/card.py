"""The card of a trained model: what it is, how it is used, what was measured."""

import importlib
import json
import pathlib
import shlex
from collections.abc import Iterator

import jax
import numpy as np
from flax import traverse_util

from megjax.learners import density_ratio
from megjax.training import experiment, loop, metric_writer, weights


def markdown(run: loop.Restored, file: str, metrics: dict[str, float]) -> str:
    """The card, in Markdown that model hubs read.

    file: of the weights. metrics: name -> value, as `last_metrics` reads them.
    """
    learner, values = run.learner, experiment.plain_values(run.config)
    has_ratio = learner.log_ratio and density_ratio.is_fitted(run.state)
    lines = [
        "---\nlibrary_name: megjax\ntags: [energy-based-model, jax]\n---",
        f"# {run.name}",
        _summary(run, values["train"]["seed"]),
        *_commands(run, values),
        f'```python\nimport megjax\n\nmodel = megjax.load_weights("{file}")\n```',
        "## Uses and limits",
        "\n".join(f"- {line}" for line in _uses(learner, _is_density(run), has_ratio)),
    ]
    if metrics:
        rows = [f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items())]
        lines += [
            "## Measured when the training ended",
            "\n".join(["| metric | value |", "|---|---|", *rows]),
        ]
    settings = json.dumps(values, indent=2, sort_keys=True)
    own = importlib.import_module("megjax").__version__
    versions = f"megjax {own}, jax {jax.__version__}"
    lines += ["## Settings", f"```json\n{settings}\n```", f"Exported with {versions}."]
    return "\n\n".join(lines) + "\n"


def num_values(run: loop.Restored) -> int:
    """Numbers in the weights that are saved."""
    return sum(int(np.size(leaf)) for leaf in weights.tensors(run).values())


def last_metrics(workdir: str | pathlib.Path, step: int) -> dict[str, float]:
    """What the evaluations of a run measured at a step, by EVALUATION/NAME."""
    found = {}
    for line in metric_writer.read(workdir):
        if line.get("step") == step:
            found |= {name: value for name, value in line.items() if "/" in name}
    # A metric that is not defined is null there.
    return {name: value for name, value in found.items() if value is not None}


def _summary(run: loop.Restored, seed: int) -> str:
    return (
        f"Recipe `{experiment.recipe_name(run.recipe)}`, examples of shape "
        f"{list(run.shape)}, {num_values(run):,} numbers in the file (averages of "
        f"weights included). {run.step} iterations from seed {seed}:"
    )


def _commands(run: loop.Restored, values: dict) -> Iterator[str]:
    """What trains the run again; of `megjax.fit`, which has no config, no command."""
    if (experiment.recipe_name(run.recipe) or "").startswith("arrays."):
        yield "Trained by `megjax.fit` on an array, with the settings below."
    else:
        yield f"```bash\n{_command(run.name, values)}\n```"


def _command(name: str, values: dict) -> str:
    """The command of a config; one of the user's own is named, not compared."""
    try:
        usual = experiment.plain_values(experiment.load(name))
    except ValueError:
        usual = values
    # As JSON has them: a tuple is a list there.
    usual, own = (
        traverse_util.flatten_dict(json.loads(json.dumps(one)), sep=".")
        for one in (usual, values)
    )
    changes = [
        " " + shlex.quote(f"--config.{field}={_text(value)}")
        for field, value in own.items()
        if usual.get(field) != value and field != "data_dir"
    ]
    return f"megjax train --config={name}{''.join(changes)}"


def _text(value) -> str:
    """A value as flags take it: of a list its items, with commas between."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_density(run: loop.Restored) -> bool:
    """Whether log Z is known; of a run that ends with a density, at its end alone."""
    if not run.learner.log_partition:
        return False
    return not np.isnan(jax.jit(run.learner.log_partition)(run.state))


def _uses(learner, is_density, has_ratio) -> Iterator[str]:
    """What a model can do, and what it must not be taken for."""
    yield "`model.energy(x)` is low where examples are likely."
    if is_density:
        yield "`model.log_prob(x)` is a normalised log-density in nats."
    else:
        yield "exp(-E) is no normalised density: it orders examples, and no more."
    if learner.latents:
        yield "`model.generate(key, num)` draws from the generator."
        yield "`model.sample(key, num)` runs Markov chains in its latent space."
    else:
        yield "`model.generate(key, num)` and `model.sample` run Markov chains."
    if has_ratio:
        yield (
            "`model.log_ratio(x)` is log p_data - log p_G as fitted on the training "
            "set, which the chains correct the generator by."
        )
