"""What the CIFAR-10 config measures: its spaces, its samplers, its lazy files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.data import images
from megjax.evaluation import classifier
from megjax.learners.base import Learner
from megjax.recipes import cifar10, image_sets
from megjax.training import experiment

NAMES = (
    "generator",
    "latent_mala",
    "latent_mala_prior",
    "data_mala",
    "data_random_walk",
)
SHAPE = (4, 4, 3)
DATA = images.resident(
    "cifar10", np.random.RandomState(0).randint(0, 256, (30, *SHAPE), np.uint8)
)


def latents(key, num):
    return jax.random.normal(key, (num, 48))


def generate(state, z):
    return jnp.tanh(z).reshape(-1, *SHAPE)


LEARNER = Learner(
    init=None,
    step=None,
    sample=lambda key, state, num: generate(state, latents(key, num)),
    energy=lambda state, x: state * jnp.sum(x**2, axis=(1, 2, 3)),
    latents=latents,
    generate=generate,
)


class Brightness:
    """A classifier of mean colours."""

    def features(self, x):
        return jnp.mean(x, axis=(1, 2))

    logits = features


def protocols(**changes):
    config = experiment.load("cifar10")
    config.evaluation.update(changes)
    return image_sets.protocols(config, DATA, LEARNER)


def test_defaults_are_the_papers_and_its_codes():
    settings = experiment.load("cifar10").evaluation
    assert settings.num_samples == 50_000
    chain = settings.mala_steps, settings.mala_step_size, settings.inverse_temperature
    assert chain == (5, 0.01, 0.2)


def test_protocols_of_each_file():
    of_inception = {f"inception_{name}" for name in NAMES}
    of_classifier = {f"classifier_{name}" for name in NAMES}
    assert set(protocols()) == of_inception
    assert set(protocols(classifier="a.npz")) == of_classifier
    both = protocols(classifier="a.npz", inception_weights="b.pth")
    assert set(both) == of_inception | of_classifier


def test_missing_files_are_told_when_they_are_needed():
    with pytest.raises(FileNotFoundError, match=r"91 MB, Apache-2.0.* https://github"):
        protocols()["inception_generator"](jax.random.key(0), 1.0)
    with pytest.raises(FileNotFoundError, match="megjax.evaluation.classifier"):
        protocols(classifier="no.npz")["classifier_generator"](jax.random.key(0), 1.0)


def test_wrong_settings_are_told_at_once():
    for changes in ({"num_samples": 5}, {"batch_size": 0}, {"rounding": "floor"}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            protocols(**changes)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Runs protocols by name, in the space of mean colours."""
    (tmp_path / "a.npz").write_bytes(b"weights")
    loaded = []

    def load(path, data):
        loaded.append((path, data))
        return Brightness()

    monkeypatch.setattr(classifier, "load", load)
    made = protocols(
        classifier=str(tmp_path / "a.npz"),
        cache_dir=str(tmp_path / "cache"),
        num_samples=200,
        mala_steps=60,
        mala_step_size=0.05,
        inverse_temperature=1.0,
        data_steps=20,
        data_step_size=0.01,
    )
    run = {
        name: made[f"classifier_{name}"](jax.random.key(0), 1.0)
        for name in ("generator", "latent_mala_prior", "data_mala")
    }
    assert loaded == [(str(tmp_path / "a.npz"), "cifar10")]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    return run


@pytest.mark.slow
def test_samplers_report(measured):
    for name, report in measured.items():
        found = report.metrics
        assert found["num_samples"] == 200 and found["num_data"] == 30
        assert np.isfinite(list(found.values())).all()
        assert not any("fid" in metric or "kid" in metric for metric in found)
        assert report.pictures["samples"].shape[-1] == 3
        assert ("acceptance" in found) == (name != "generator")
    tilted = measured["latent_mala_prior"].metrics
    assert tilted["energy_after"] < tilted["energy_before"] - 3
    # Chains in data space approach exp(-|x|^2), whose mean energy is 48 / 2.
    visible = measured["data_mala"].metrics
    assert visible["energy_before"] + 1 < visible["energy_after"] < 24


def test_settings_of_the_chains():
    made = cifar10.samplers(experiment.load("cifar10").evaluation, LEARNER)
    chains = {name: made[name].keywords for name in NAMES[1:]}
    assert {chain["inverse_temperature"] for chain in chains.values()} == {0.2}
    priors = [chains[name]["prior"] for name in ("latent_mala", "latent_mala_prior")]
    assert priors == ["none", "gaussian"]
    for name in ("data_mala", "data_random_walk"):
        assert chains[name]["space"] == "data" and chains[name]["steps"] == 100
