"""Configs by name, recipes by name, and runs that a stranger wrote."""

import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import pytest

from megjax.data.dataset import Dataset
from megjax.learners.base import Learner
from megjax.recipes import base
from megjax.training import checkpoint, experiment, loop

OWN = """
from megjax import recipes
from megjax.training import experiment
from tests.training import test_experiment

def get_config(rate="0"):
    config = recipes.base.config()
    config.batch_size = 4
    config.train.num_steps = 2
    config.recipe = experiment.Recipe(test_experiment.data, test_experiment.learner)
    return config
"""


def data(config):
    return Dataset("zeros", (3,), 10, jnp.zeros((10, 3)), lambda store, i: store[i])


def learner(config, shape, data=None):
    def step(key, state, x):
        return state + jnp.mean(x), {"loss": jnp.sum(state)}

    return Learner(lambda key, x: jnp.ones(shape), step, sample=None, energy=None)


@pytest.fixture
def own(tmp_path):
    """A config with a recipe of its own, and a run that it trained."""
    path = tmp_path / "own.py"
    path.write_text(OWN)
    config = experiment.load(str(path))
    loop.train(config, experiment.build(config), tmp_path / "run", name="own")
    return path


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("digits", experiment.CONFIGS / "digits.py"),
        ("kdd99:raw", f"{experiment.CONFIGS / 'kdd99.py'}:raw"),
        ("configs/digits.py", experiment.CONFIGS / "digits.py"),
        ("configs/nope.py", "configs/nope.py"),
        ("elsewhere/digits.py:a:b", "elsewhere/digits.py:a:b"),
    ],
)
def test_configs_are_found_from_any_directory(tmp_path, monkeypatch, given, path):
    monkeypatch.chdir(tmp_path)
    assert experiment.find(given) == str(path)


def test_a_name_that_no_config_has_is_told():
    with pytest.raises(ValueError, match="no config file 'nope': .* celeba, cifar10"):
        experiment.find("nope")


def test_names_of_configs_and_their_runs():
    assert experiment.name("configs/mnist_anomaly.py:3") == "mnist_anomaly:3"
    assert str(experiment.directory("mnist_anomaly:3")) == "runs/mnist_anomaly-3"
    assert str(experiment.directory("a/b.py:c/d")) == "runs/b-c-d"


def test_recipes_have_the_name_under_which_they_are_found():
    recipe = experiment.recipe_named("meg.images")
    assert experiment.recipe_name(recipe) == "meg.images"
    assert experiment.load("digits").recipe == recipe
    assert experiment.recipe_name(experiment.Recipe(data, learner)) is None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "os.system",
            "meg",
            "meg.",
            ".images",
            "meg.images.data",
            "meg.image_learner",
        ),
        *("..os.system", "meg/../x.y", "base.config", "meg.__class__", "meg.Recipe"),
        *(
            "evil.images",
            "meg.images\n",
            "MEG.images",
            "meg.\u0131mages",
            "",
            "a" * 9999,
        ),
    ],
)
def test_only_recipes_of_megjax_have_names(name):
    with pytest.raises(ValueError, match="megjax has no recipe"):
        experiment.recipe_named(name)


def test_an_own_recipe_is_given_again(own, tmp_path):
    with pytest.raises(ValueError, match="recipe of its user's own: give that config"):
        loop.restore(tmp_path / "run")
    recipe = experiment.own_recipe(str(own))
    restored = loop.restore(tmp_path / "run", recipe=recipe)
    assert restored.step == 2 and restored.shape == (3,)
    assert restored.experiment().data.name == "zeros"


def test_a_step_that_is_not_there_is_told(own, tmp_path):
    recipe = experiment.own_recipe(str(own))
    assert loop.restore(tmp_path / "run", step=2, recipe=recipe).step == 2
    with pytest.raises(ValueError, match="no checkpoint of step 1: give one of 2"):
        loop.restore(tmp_path / "run", step=1, recipe=recipe)


def record(**changes):
    values = json.loads(json.dumps(experiment.plain_values(base.config())))
    known = {"version": 1, "config": "digits", "recipe": "meg.images"}
    return known | {"shape": [8, 8, 1], "values": values} | changes


def hostile(folder):
    """Records of a stranger, who has put a program beside the run."""
    evil = str(folder / "evil.py")
    values = record()["values"]
    yield record(config=evil)
    yield record(config=f"{evil}:x", recipe=None)
    for recipe in (evil, "evil.recipe", "os.system", "meg.__builtins__", ["meg", 1]):
        yield record(recipe=recipe)
    yield record(values=values | {"recipe": "evil.recipe"})
    yield record(values=values | {"build": evil, "__class__": evil})
    yield record(values=values | {"train": evil})
    yield record(values=values | {"to_dict": 1, "batch_size": {"__reduce__": evil}})
    yield record(shape=["__import__", 1])
    yield record(shape=[2**40])
    yield {"config_file": evil, "values": {}}


def test_a_strangers_run_executes_nothing(tmp_path, monkeypatch):
    sign = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(
        f"open({str(sign)!r}, 'w')\ndef get_config(*_):\n    raise SystemExit\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for content in hostile(tmp_path):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            loop.restore(tmp_path)
        assert "\n" not in str(error.value)
        assert not sign.exists(), content
    assert "evil" not in sys.modules


def test_runs_of_other_versions_say_what_reads_them(tmp_path):
    old = {"config_file": "configs/digits.py", "values": {}}
    for content, words in (
        (old, "train again, or read it with .* checkout 742d0bf"),
        (record(version=2), "train again, or read it with .* newer one"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=words):
            checkpoint.claimed(tmp_path)


def test_renamed_fields_name_the_new_one():
    config = experiment.load("digits")
    with pytest.raises(ValueError, match="no field far_moves: it is called learned_sh"):
        experiment.assign(config, ["proposal.far_moves=True"])


@pytest.mark.slow
def test_a_renamed_flag_names_the_new_one():
    root = pathlib.Path(__file__).resolve().parents[2]
    line = ["train.py", "--config=wgan_gp", "--config.variant=mnist"]
    done = subprocess.run(
        [sys.executable, *line],
        cwd=root,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    words = "error: the config has no field variant: it is called dataset now\n"
    assert done.returncode == 1 and done.stderr == words
