"""The race with another implementation: turns, times, weights handed over, arithmetic."""

import sys

import jax
import numpy as np
import pytest
from absl import flags

from benchmarks import time_to_quality
from benchmarks.time_to_quality import Point
from megjax import distributed
from megjax.data import images
from megjax.learners import adversarial, meg
from megjax.networks import heads, mlp
from megjax.training import experiment, loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

PEER = """
import json, pathlib, sys
import numpy as np
path = pathlib.Path(sys.argv[1])
settings = json.loads((path / "settings.json").read_text())
assert settings["learning_rate"] == 0.032 and settings["num_steps"] == 3
assert np.load(path / "pixels.npy").dtype == np.uint8
assert "generator/norm_0/var" in np.load(path / "weights.npz")
for line in sys.stdin:
    if int(line) > 3:
        break
    np.save(path / "samples.npy", np.full((2, 28, 28, 1), float(line)))
    print(json.dumps({"seconds": 10 * int(line), "cpu_seconds": int(line)}), flush=True)
"""


@pytest.fixture
def peer(monkeypatch, tmp_path):
    """A script in place of the peer's, and no more than 2 iterations between turns."""
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["test", f"--peer_python={sys.executable}", "--every=2"])
    path = tmp_path / "peer.py"
    path.write_text(PEER)
    monkeypatch.setattr(time_to_quality, "PEER", path)
    yield path
    flags.FLAGS.unparse_flags()


@pytest.fixture(scope="module")
def small():
    """(config, experiment): narrow networks on noise."""
    config = experiment.load("mnist_small")
    config.ratio.num_steps = 0
    config.train.num_steps = 3
    config.width = config.batch_size = 8
    config.evaluation.num_samples = 2
    pixels = np.random.RandomState(0).randint(0, 256, (40, 28, 28, 1), np.uint8)
    data = images.resident("noise", pixels)
    learner = config.recipe.learner(config, data.shape)
    return config, experiment.Experiment(data, learner, {})


def test_both_take_turns(peer, small):
    def distance(x):
        assert x.shape == (2, 28, 28, 1)
        return float(np.max(x))

    with jax.set_mesh(distributed.data_mesh(jax.devices()[:1])):
        found = list(time_to_quality.played(*small, distance))
    assert [(name, point.iterations) for name, point in found] == [
        *(("peer", 2), ("ours", 2)),
        *(("peer", 3), ("ours", 3)),
    ]
    assert [point for name, point in found if name == "peer"] == [
        Point(2, 20, 2, 2.0),
        Point(3, 30, 3, 3.0),
    ]
    _, (_, first), _, (_, second) = found
    assert 0 < first.seconds < second.seconds < 600
    assert 0 < first.cpu_seconds < second.cpu_seconds
    assert -1 <= first.distance <= 1


def test_a_peer_that_ends_is_told(peer, tmp_path):
    peer.write_text("")
    words = "give --peer_python that has torch"
    with (
        time_to_quality.Peer(str(tmp_path)) as run,
        pytest.raises(ValueError, match=words),
    ):
        run.train(2)


def test_the_distance_is_reached_between_two_evaluations():
    curve = [Point(10, 4.0, 1.0, 20.0), Point(20, 8.0, 3.0, 1.25), Point(30, 9, 4, 1)]
    assert time_to_quality.reached(curve, 5.0) == pytest.approx(
        (15, 6.0, 2.0, 5 * 2.125)
    )
    assert time_to_quality.reached(curve, 25.0) == curve[0]
    assert time_to_quality.reached(curve, 0.5) is None


def test_ratios_are_theirs_over_ours():
    ours = [[Point(10, 4.0, 1.0, 5.0)], [Point(20, 6.0, 3.0, 4.0)]]
    theirs = [[Point(30, 20.0, 4.0, 5.0)], [Point(30, 20.0, 8.0, 5.0)]]
    found = time_to_quality.summary({"ours": ours, "peer": theirs}, 5.0)
    assert (found["ours_iterations"], found["ours_seconds"]) == (15, 5)
    ratios = [found[f"{k}_ratio"] for k in ("iterations", "seconds", "cpu_seconds")]
    assert ratios == [2, 4, 3]
    found = time_to_quality.summary({"ours": ours, "peer": theirs}, 4.5)
    assert found["peer_seconds"] is None and found["seconds_ratio"] is None


def test_the_latents_are_those_of_an_iteration(monkeypatch):
    networks = heads.Energy(mlp.Trunk((2,))), mlp.Generator((2,), 2), None
    learner = meg.meg(meg.Spec(*networks, latent_dim=3, num_energy_updates=1))
    drawn = []

    def recorded(spec, key, num, original=adversarial.latents):
        drawn.append(original(spec, key, num))
        return drawn[-1]

    monkeypatch.setattr(adversarial, "latents", recorded)
    x, key = np.ones((1, 4, 2), np.float32), jax.random.key(3)
    state = learner.init(key, x[0])
    with jax.disable_jit():
        learner.step(key, state, x)
    expected = time_to_quality.latents(learner, key, 4)
    np.testing.assert_array_equal(expected, drawn)


def test_differences_by_hand(small):
    _, built = small
    state = loop.initial_state(built.learner, (28, 28, 1), 8, jax.random.key(0))
    before = time_to_quality.weights(state)
    name, still = "generator/norm_0/scale", "generator/seed/bias"
    ours = {"energies": np.array([3.0, 4.0])}
    ours |= {f"after/{k}": v + 1 for k, v in before.items()}
    ours[f"gradient/{name}"] = np.ones((2, 2, 8))
    theirs = {k: v.copy() for k, v in ours.items()}
    found = time_to_quality.differences(ours, theirs, before)
    assert set(found) == {
        *("energies", "gradient_generator", "step_average"),
        *("step_energy", "step_generator", "step_statistics"),
    }
    assert max(found.values()) < 1e-6
    theirs["energies"][0] += 1
    theirs[f"after/{still}"] += 1
    theirs[f"gradient/{name}"] = -ours[f"gradient/{name}"].ravel()
    found = time_to_quality.differences(ours, theirs, before)
    assert found["energies"] == pytest.approx(0.2)
    assert found["gradient_generator"] == pytest.approx(2)
    assert found["step_generator"] < 1e-6
    theirs["after/energy/output/bias"] += 1
    found = time_to_quality.differences(ours, theirs, before)
    num = sum(v.size for k, v in before.items() if k.startswith("energy/"))
    assert found["step_energy"] == pytest.approx(num**-0.5, rel=1e-3)
