"""Evaluations of samples in feature spaces that can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.data import images
from megjax.data.dataset import Dataset
from megjax.evaluation import fidelity
from megjax.learners.base import Learner
from megjax.metrics import frechet

KEY = jax.random.key(0)
PIXELS = np.random.RandomState(0).randint(0, 256, (230, 2, 2, 1), np.uint8)


def space(calls=None, names=("distance", "kernel", "score")):
    """Features are the pixels in [-1, 1], logits three of them."""

    def outputs(pixels):
        if calls is not None:
            calls.append(len(pixels))
        x = images.normalised(pixels).reshape(len(pixels), -1)
        return x, 3 * x[:, :3]

    return fidelity.Space("pixels", "mark", outputs, *names)


def fixed(x, **metrics):
    """A sampler that hands out x from its start."""
    return lambda key, state, num: fidelity.Draws(x[:num], metrics)


def summary(pixels):
    return frechet.summary([space().outputs(pixels)])


def evaluate(sampler, **options):
    made = fidelity.fidelity(sampler, space, lambda: summary(PIXELS), **options)
    return made(KEY, None)


def test_samples_that_are_the_data_have_distance_zero():
    report = evaluate(fixed(images.normalised(PIXELS)), num_samples=230)
    assert report.metrics["distance"] == pytest.approx(0, abs=1e-12)
    assert report.metrics["num_samples"] == report.metrics["num_data"] == 230
    assert report.metrics["score"] == report.metrics["score_of_data"]
    # Unbiased, so of the order of its deviation; with all in a subset it is exact.
    assert report.metrics["kernel"] < 0
    assert report.pictures["samples"].dtype == np.uint8


def test_metrics_are_those_of_the_parts():
    x = np.float32(np.random.RandomState(1).uniform(-1, 1, (90, 2, 2, 1)))
    found = evaluate(fixed(x), num_samples=90).metrics
    flat = (np.round((np.float64(x) + 1) * 127.5) / 127.5 - 1).reshape(90, 4)
    data = images.normalised(PIXELS).reshape(230, 4)
    moments = [(v.mean(axis=0), np.cov(v, rowvar=False)) for v in (flat, data)]
    distance = frechet.frechet_distance(*moments[0], *moments[1])
    assert found["distance"] == pytest.approx(distance, rel=1e-5)
    kernel = frechet.kernel_distance(flat, data)
    assert found["kernel"] == pytest.approx(kernel[0], rel=1e-4)
    assert found["kernel_std"] == pytest.approx(kernel[1], rel=1e-4)
    score = frechet.inception_score(3 * flat[:, :3])
    assert found["score"] == pytest.approx(score[0], rel=1e-5)
    assert found["score_std"] == pytest.approx(score[1], rel=1e-4)
    truncated = evaluate(fixed(x), num_samples=90, rounding="truncate").metrics
    assert truncated["distance"] != found["distance"]


def test_groups_have_keys_of_their_own_and_average_by_size(monkeypatch):
    monkeypatch.setattr(fidelity, "GROUP", 40)
    seen, calls = [], []

    def sampler(key, state, num):
        seen.append((tuple(jax.random.key_data(key).tolist()), num))
        x = jax.random.uniform(key, (num, 2, 2, 1), minval=-1)
        return fidelity.Draws(np.asarray(x) * state, {"size": num})

    made = fidelity.fidelity(
        sampler,
        lambda: space(calls),
        lambda: summary(PIXELS),
        num_samples=100,
        batch_size=16,
    )
    report = made(KEY, 1.0)
    assert [num for _, num in seen] == [40, 40, 20] and len(set(seen)) == 3
    assert report.metrics["size"] == (40 * 40 + 40 * 40 + 20 * 20) / 100
    # All calls of the network have one size: one compilation.
    assert calls == [16] * (3 + 3 + 2)
    monkeypatch.setattr(fidelity, "GROUP", 1000)
    whole = fidelity._drawn(sampler, KEY, 1.0, 100, "round")[0]
    groups = [np.asarray(v) for v, _ in fidelity._outputs(space(), [whole], 7)]
    np.testing.assert_array_equal(groups[0], space().outputs(whole)[0])


def test_nothing_is_loaded_before_the_evaluation_runs():
    def missing():
        raise FileNotFoundError("no weights")

    drawn = []
    made = fidelity.fidelity(lambda *args: drawn.append(args), missing, missing)
    with pytest.raises(FileNotFoundError, match="no weights"):
        made(KEY, None)
    assert not drawn


def test_quantisation_by_hand():
    x = np.float32([-1, -0.5, 0, 0.999, 1, 2, -3])
    rounded = [0, 64, 128, 255, 255, 255, 0]
    np.testing.assert_array_equal(fidelity.quantised(x), rounded)
    truncated = [0, 63, 127, 254, 255, 255, 0]
    np.testing.assert_array_equal(fidelity.quantised(x, "truncate"), truncated)
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(fidelity.quantised(images.normalised(every)), every)
    with pytest.raises(ValueError, match="'floor': choose round or truncate"):
        fidelity.quantised(x, "floor")
    with pytest.raises(FloatingPointError, match="not finite"):
        fidelity.quantised(np.float32([np.nan]))


@pytest.mark.parametrize(
    "options", [{"num_samples": 9}, {"batch_size": 0}, {"rounding": "up"}]
)
def test_settings_out_of_range_are_refused_at_once(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        fidelity.fidelity(fixed(PIXELS), space, space, **options)


def test_reference_statistics_of_resident_and_streamed_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity, "GROUP", 100)
    resident = images.resident("made_up", PIXELS)
    found = fidelity.reference(resident, space(), str(tmp_path), batch_size=32)
    expected = summary(PIXELS)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-10)
    # A random order, the same every time: sorted sets would spoil splits and pool.
    flat = images.normalised(PIXELS).reshape(230, 4)
    assert not np.array_equal(found.features, flat)
    assert sorted(map(tuple, found.features)) == sorted(map(tuple, flat))
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("made_up_pixels_")
    streamed = Dataset(
        "made_up", (2, 2, 1), 230, (), resident.take, stream=lambda i: PIXELS[i]
    )
    calls = []
    again = fidelity.reference(streamed, space(calls), str(tmp_path), batch_size=16)
    assert not calls and list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(again.features, found.features)


def test_reference_statistics_belong_to_pixels_and_network(tmp_path):
    changed = PIXELS.copy()
    changed[-1, 0, 0, 0] ^= 1
    for data, mark in ((PIXELS, "mark"), (changed, "mark"), (PIXELS, "other")):
        made = space()._replace(fingerprint=mark)
        fidelity.reference(images.resident("a", data), made, str(tmp_path))
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 3
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, [*contents[1:], contents[0]]):
        path.write_bytes(content)
    with pytest.raises(ValueError, match="made from other data or with another"):
        fidelity.reference(images.resident("a", PIXELS), space(), str(tmp_path))
    endless = Dataset("endless", (2,), None, (), lambda s, i: i)
    with pytest.raises(ValueError, match="endless has no fixed set"):
        fidelity.reference(endless, space(), str(tmp_path))


class Stub:
    """A classifier of mean brightness."""

    def features(self, x):
        return jnp.mean(x, axis=(1, 2))

    def logits(self, x):
        return jnp.stack([self.features(x)[:, 0], 0 * x[:, 0, 0, 0]], axis=1)


def test_a_classifiers_space_is_not_taken_for_fid():
    made = fidelity.classifier_space(Stub(), "mark")
    features, logits = made.outputs(PIXELS[:5])
    expected = images.normalised(PIXELS[:5]).mean(axis=(1, 2))
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert logits.shape == (5, 2)
    found = fidelity.compared(summary(PIXELS), summary(PIXELS), made)
    assert all(
        name.startswith(("classifier_", "num_")) and "fid" not in name.split("_")
        for name in found
    )


def test_names_of_inceptions_metrics(monkeypatch):
    network = fidelity.inception.Inception({}, "mark")
    monkeypatch.setattr(fidelity.inception, "load", lambda path: network)
    made = fidelity.inception_space("weights.pth")
    assert (made.name, made.fingerprint) == ("inception", "mark")
    found = fidelity.compared(summary(PIXELS), summary(PIXELS), made)
    assert {"fid", "kid", "inception_score"} < set(found)


def test_the_generators_samples():
    learner = Learner(
        init=None,
        step=None,
        sample=lambda key, state, num: state * jnp.ones((num, 2, 2, 1)),
        energy=None,
    )
    draws = fidelity.generator(learner)(KEY, 0.5, 7)
    np.testing.assert_array_equal(draws.x, np.full((7, 2, 2, 1), 0.5))
    assert draws.metrics == {}


def test_samples_by_the_density_ratio():
    """Data are N(m, I) and the generator N(0, I): both samplers move towards m."""
    mean = 0.5

    def latents(key, num):
        return jax.random.normal(key, (num, 4))

    def generate(state, z):
        return z.reshape(-1, 2, 2, 1)

    learner = Learner(
        init=None,
        step=None,
        sample=lambda key, state, num: generate(state, latents(key, num)),
        energy=lambda state, x: jnp.zeros(len(x)),
        latents=latents,
        generate=generate,
        log_ratio=lambda state, x: jnp.sum(mean * x - mean**2 / 2, axis=(1, 2, 3)),
    )
    assert fidelity.by_ratio(learner._replace(log_ratio=None)) == {}
    samplers = fidelity.by_ratio(learner)
    resampled = samplers["resampled"](KEY, {}, 1000)
    assert abs(resampled.x.mean() - mean) < 0.15 and not resampled.metrics
    moved = samplers["latent"](KEY, {}, 1000)
    assert abs(moved.x.mean() - mean) < 0.1 and 0.3 < moved.metrics["acceptance"] < 0.9
