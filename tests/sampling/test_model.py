"""Walks on closed-form learners: a scaled generator and a quadratic energy."""

import functools
import itertools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from megjax import distributed
from megjax.learners import proposal
from megjax.learners.base import Learner
from megjax.metrics import mcmc
from megjax.networks import proposal as networks
from megjax.samplers import bijectors, rwm
from megjax.sampling import draw, model, store, trace

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHIFT = 0.5


def linear(shape, latent_dim=None):
    """G(z) = scale * z as images or vectors, E(x) = |x|^2 / 2."""
    dim = latent_dim or int(np.prod(shape))

    def latents(key, num):
        return distributed.shard(jax.random.normal(key, (num, dim)))

    def generate(state, z):
        return (state["scale"] * z).reshape(-1, *shape)

    def sample(key, state, num):
        return generate(state, latents(key, num))

    def energy(state, x):
        return jnp.sum(x.reshape(len(x), -1) ** 2, axis=1) / 2

    return Learner(None, None, sample, energy, 1, latents, generate)


STATE = {"scale": jnp.float32(1.0)}
PLANE = linear((2,))
run = functools.partial(model.sample, jax.random.key(0))


def test_tilted_prior_has_the_variance_of_the_closed_form():
    """N(0, I) exp(-|z|^2 / 2) = N(0, I / 2); the energy is |z|^2 / 2."""
    walk = run(PLANE, STATE, num=512)
    assert abs(np.mean(walk.z**2) - 0.5) < 4 * 0.5 * np.sqrt(2 / walk.z.size)
    np.testing.assert_allclose(
        walk.energy[:, -1], np.sum(walk.x**2, axis=1) / 2, rtol=1e-5
    )
    np.testing.assert_allclose(walk.x, walk.z)
    rms = np.sqrt(np.mean(walk.z**2, axis=1))
    np.testing.assert_allclose(walk.rms[:, -1], rms, rtol=1e-5)
    found = trace.summary(walk)
    assert abs(found["acceptance"] - 0.574) < 0.12
    assert found["energy_after"] < found["energy_before"]


def test_walks_start_at_fresh_samples_and_keep_snapshots():
    walk = run(PLANE, STATE, num=512, steps=20, num_snapshots=5)
    assert walk.energy.shape == walk.rms.shape == (512, 21)
    assert walk.acceptance_rate.shape == walk.is_divergent.shape == (512, 20)
    np.testing.assert_array_equal(walk.times, [0, 5, 10, 15, 20])
    assert walk.snapshots.shape == (trace.SHOWN_CHAINS, 5, 2)
    np.testing.assert_array_equal(walk.snapshots[:, 0], walk.before[:64])
    np.testing.assert_array_equal(walk.snapshots[:, -1], walk.x[:64])
    before = np.sum(walk.before**2, axis=1) / 2
    np.testing.assert_allclose(walk.energy[:, 0], before, rtol=1e-5)
    assert abs(np.mean(walk.before**2) - 1) < 4 * np.sqrt(2 / 1024)


def test_without_inverse_temperature_the_generator_comes_back():
    walk = run(PLANE, STATE, num=512, inverse_temperature=0.0)
    assert abs(np.mean(walk.z**2) - 1) < 4 * np.sqrt(2 / walk.z.size)
    assert not trace.warnings(walk)


@pytest.mark.slow
def test_without_prior_latents_diffuse_and_a_warning_says_so():
    flat = PLANE._replace(energy=lambda state, x: 0 * jnp.sum(x, axis=1))
    walk = run(flat, STATE, num=1000, prior="none")
    np.testing.assert_allclose(walk.step_size, 0.01, rtol=1e-5)
    np.testing.assert_allclose(np.mean(walk.z**2), 1 + 2 * 0.01 * 100, rtol=0.1)
    assert any("left the prior: rms(z) = 1.7" in w for w in trace.warnings(walk))


def test_data_space_reaches_the_model():
    """exp(-|x|^2 / 2) from samples of twice its width, by random walk."""
    state = {"scale": jnp.float32(2.0)}
    walk = run(
        PLANE, state, space="data", num=512, steps=100, step_size=1.2, kernel_fn=rwm.rwm
    )
    assert walk.z is None and walk.step_size == 1.2
    assert abs(np.mean(walk.x**2) - 1) < 4 * np.sqrt(2 / walk.x.size)


def trained_proposal(shape):
    """A learner whose kernel is MALA of step size `state`, and whose network has shape."""
    module = networks.Vectors(shape=shape, width=4, num_steps=1)
    spec = proposal.Spec(lambda z: -jnp.sum(z**2), module, None)
    learner = proposal.proposal(spec)
    return learner, learner.init(jax.random.key(0), jnp.zeros((1, *shape)))


def test_bounded_data_is_walked_on_in_coordinates():
    """Uniform up to the limit: no proposal leaves it, as they do on x itself."""
    limit = bijectors.logit().limit

    def energy(state, x):
        reach = jnp.max(jnp.abs(x), axis=1)
        return state * jnp.where(reach < limit, 0.0, jnp.inf)

    def sample(key, state, num):
        reach = state * limit
        return jax.random.uniform(key, (num, 2), minval=-reach, maxval=reach)

    learner = Learner(None, None, sample, energy, bijector=bijectors.logit())
    settings = {"space": "data", "num": 512}
    walk = run(learner, jnp.float32(1), **settings)
    assert not walk.is_divergent.any()
    # The fourth moment of a uniform one is 9/5 of the squared variance.
    error = limit**2 / 3 * np.sqrt(0.8 / walk.x.size)
    assert abs(np.mean(walk.x**2) - limit**2 / 3) < 4 * error
    plain = run(learner._replace(bijector=None), jnp.float32(1), **settings)
    assert plain.is_divergent.any()


@pytest.mark.slow
def test_a_trained_proposal_walks_without_tuning(tmp_path):
    kernel_fn = model.trained(*trained_proposal((2,)))
    walk = run(PLANE, STATE, num=512, kernel_fn=kernel_fn, target_acceptance=None)
    assert abs(np.mean(walk.z**2) - 0.5) < 4 * 0.5 * np.sqrt(2 / walk.z.size)
    assert np.isnan(walk.step_size) and 0.3 < walk.acceptance_rate.mean() < 0.95
    report = trace.write(walk, tmp_path)
    assert "step size     learned" in trace.lines(report)


def test_proposals_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="has trained no proposal: name one"):
        model.trained(PLANE, STATE)
    kernel_fn = model.trained(*trained_proposal((3,)))
    with pytest.raises(ValueError, match=r"shape \(2,\) and the proposal is one for"):
        run(PLANE, STATE, kernel_fn=kernel_fn, target_acceptance=None)


def test_plain_samples(tmp_path):
    walk = run(PLANE, STATE, space="none", num=50)
    assert walk.energy.shape == (50, 1) and np.isnan(walk.step_size)
    np.testing.assert_array_equal(walk.x, walk.before)
    report = trace.write(walk, tmp_path)
    assert report["acceptance"] is None and report["warnings"] == []
    names = {"samples.npz", "after.png", "report.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.slow
def test_chains_in_groups_and_calls_make_the_same_walk(monkeypatch):
    settings = {"num": 6, "steps": 8, "step_size": 0.3, "num_snapshots": 3}
    whole = run(PLANE, STATE, **settings)
    monkeypatch.setattr(draw, "STEPS_PER_CALL", 3)
    pieces = run(PLANE, STATE, **settings)
    np.testing.assert_allclose(pieces.energy, whole.energy, rtol=1e-5)
    monkeypatch.setattr(model, "CHAINS_PER_CALL", 4)
    groups = run(PLANE, STATE, **settings)
    assert groups.energy.shape == whole.energy.shape
    assert len(np.unique(groups.z[:, 0])) == 6


def test_stuck_chains_and_broken_energies_are_reported():
    walk = run(PLANE, STATE, num=512, steps=20, num_snapshots=5, step_size=1e6)
    found = trace.summary(walk)
    assert found["stuck"] == 1 and found["energy_r_hat"] == np.inf
    assert any("100% of the chains are stuck" in w for w in trace.warnings(walk))
    hole = PLANE._replace(
        energy=lambda state, x: jnp.where(
            jnp.any(jnp.abs(x) > 4, axis=1), jnp.nan, jnp.sum(x**2, axis=1)
        )
    )
    walk = run(hole, STATE, num=50, steps=20, step_size=2.0)
    assert any("NaN or infinite" in w for w in trace.warnings(walk))
    nowhere = PLANE._replace(energy=lambda state, x: jnp.log(-jnp.ones(len(x))))
    with pytest.raises(FloatingPointError, match="energy of 5 of 5 starting samples"):
        run(nowhere, STATE, num=5)


@pytest.mark.slow
@pytest.mark.parametrize("channels, width", [(1, 8), (3, 8), (4, 16)])
def test_pictures_of_images(tmp_path, channels, width):
    learner = linear((8, 8, channels), latent_dim=64 * channels)
    # Small steps: a frame equal to the one before would be left out.
    walk = run(learner, STATE, num=9, steps=3, step_size=0.01)
    report = trace.write(walk, tmp_path)
    side = 3 * (width * -(-48 // width) + 2) + 2
    for name in ("before.png", "after.png"):
        assert PIL.Image.open(tmp_path / name).size == (side, side)
    assert PIL.Image.open(tmp_path / "chains.gif").n_frames == 4
    assert {"timeline.png", "traces.png"} <= {path.name for path in tmp_path.iterdir()}
    stored = np.load(tmp_path / "samples.npz")
    np.testing.assert_array_equal(stored["x"], walk.x)
    np.testing.assert_array_equal(stored["z"], walk.z)
    assert stored["energy"].shape == (9, 4)
    assert json.loads((tmp_path / "report.json").read_text()) == report


@pytest.mark.slow
def test_pictures_of_the_plane_and_none_of_other_vectors(tmp_path):
    trace.write(
        run(PLANE, STATE, num=512, steps=10, num_snapshots=3), tmp_path / "plane"
    )
    assert len(list((tmp_path / "plane").iterdir())) == 7
    vectors = run(linear((5,)), STATE, num=20, steps=4, warmup=3)
    trace.write(vectors, tmp_path / "vectors")
    names = {path.name for path in (tmp_path / "vectors").iterdir()}
    assert names == {"samples.npz", "traces.png", "report.json"}


def test_landscape_is_the_normalised_density():
    density, extent = run(PLANE, STATE, num=512, space="none").landscape
    cell = (extent[1] - extent[0]) / len(density)
    np.testing.assert_allclose(density.sum() * cell**2, 1, rtol=1e-4)
    axis = extent[0] + cell * (np.arange(len(density)) + 0.5)
    ratio = density[150, 100] / density[100, 100]
    expected = np.exp(-(axis[150] ** 2 - axis[100] ** 2) / 2)
    np.testing.assert_allclose(ratio, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"space": "pixels"}, "space='pixels': choose one of latent, data, none"),
        ({"prior": "flat"}, "prior='flat': choose one of none, gaussian"),
        ({"target": "ratio"}, "target='ratio': this model has no density ratio"),
        ({"target": "density"}, "target='density': choose one of energy, ratio"),
        ({"resample": 0}, "resample=0: give at least 1"),
        ({"resample": 2, "space": "data"}, "resample=2 chooses latents"),
        ({"steps": 0, "burn_in": 1}, "burn_in=1, thin=None: 0 steps have neither"),
        ({"num": 0}, "num=0, steps=100: give at least 1 chain and 0"),
        ({"step_size": -1.0}, "step_size=-1.0: must be positive"),
        ({"inverse_temperature": -1.0}, "inverse_temperature=-1.0: must be"),
        (
            {"inverse_temperature": np.array("x")},
            "inverse_temperature=array.*: give a number",
        ),
        ({"step_size": True}, "step_size=True: give a number"),
        ({"burn_in": -1}, "burn_in=-1: must be 0 or positive"),
        ({"thin": 0}, "thin=0: must be between 1 and steps=100"),
        ({"thin": 101}, "thin=101: must be between 1 and steps=100"),
        ({"steps": 2**31}, r"steps=2147483648, burn_in=0: want fewer than 2\^31"),
        (
            {"space": "none", "store": store.TraceStore(draws=True)},
            "draws are those of chains: use space='data', or 'latent'",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        run(PLANE, STATE, **settings)


RATIO_MEAN = 0.4
RATIO = PLANE._replace(
    # Of N(m, I) to N(0, I), the generator's density.
    log_ratio=lambda state, x: jnp.sum(RATIO_MEAN * x - RATIO_MEAN**2 / 2, axis=1)
)


def test_chains_under_the_ratio_sample_the_data():
    walk = run(RATIO, STATE, num=512, steps=60, target="ratio")
    error = np.mean(walk.x, axis=0) - RATIO_MEAN
    assert np.max(np.abs(error)) < 4 / np.sqrt(512) and abs(walk.x.std() - 1) < 0.1
    np.testing.assert_allclose(
        walk.energy[:, -1], -RATIO.log_ratio(STATE, walk.x), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="is that of data and generator"):
        run(RATIO, STATE, target="ratio", space="data")


@pytest.mark.parametrize("steps", [0, 1])
def test_resampling_moves_samples_towards_the_target(steps):
    """Importance weights of N(m, I) to N(0, I): an effective share of exp(-|m|^2)."""
    walk = run(RATIO, STATE, num=1000, target="ratio", resample=16, steps=steps)
    shift = np.mean(walk.before, axis=0)
    assert np.all(np.abs(shift - RATIO_MEAN) < 0.15)
    expected = np.exp(-2 * RATIO_MEAN**2)
    np.testing.assert_allclose(walk.effective_share, expected, atol=0.05)
    assert trace.summary(walk)["effective_share"] == walk.effective_share
    again = run(RATIO, STATE, num=1000, target="ratio", resample=16, steps=steps)
    np.testing.assert_array_equal(walk.x, again.x)


def test_latent_space_needs_a_generator():
    with pytest.raises(ValueError, match="needs a generator and this method has none"):
        run(PLANE._replace(generate=None, latents=None), STATE)


EIGHT = """
import jax, numpy as np
import test_model as t
from megjax import distributed
from megjax.sampling import draw, model
settings = dict(num=16, steps=6, step_size=0.3)
many = t.run(t.PLANE, t.STATE, **settings)
one = t.run(t.PLANE, t.STATE, **settings, mesh=distributed.data_mesh(jax.devices()[:1]))
np.testing.assert_allclose(many.energy, one.energy, rtol=1e-5)
target, _ = model.targeted(t.PLANE, "latent", "gaussian", model.mala.mala, False)
params = dict(learner=t.STATE, kernel=None, inverse_temperature=1.0, step_size=0.3)
chain = model.chain(target)
with draw.devices():
    states = draw.start(chain, params, jax.random.normal(jax.random.key(0), (16, 2)))
found = draw.chains(jax.random.key(1), chain, params, states, num_steps=4)
for v in jax.tree.leaves((states, found.states)):
    assert v.sharding.shard_shape(v.shape)[0] == 2, v.sharding
print("agree on", jax.device_count())
"""


@pytest.mark.slow
def test_eight_devices_share_the_chains_and_agree_with_one():
    here = os.path.dirname(__file__)
    flags = "--xla_force_host_platform_device_count=8"
    path = os.pathsep.join([here, os.path.dirname(os.path.dirname(here))])
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", EIGHT]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "agree on 8", done.stderr


def test_lines_of_a_report(tmp_path):
    walk = run(PLANE, STATE, num=512, steps=20, num_snapshots=5, step_size=1e6)
    lines = trace.lines(trace.write(walk, tmp_path))
    text = "\n".join(lines)
    assert "acceptance    0.000, lowest chain 0.000" in text
    assert "R-hat         undefined" in text
    assert lines[-1].startswith("warning: ")
    plain = run(PLANE, STATE, num=512, space="none")
    assert len(trace.lines(trace.write(plain, tmp_path))) == 2


VECTORS = linear((3,))


def one_device():
    return distributed.data_mesh(jax.devices()[:1])


def equal(walk, other):
    for name in walk._fields:
        np.testing.assert_equal(getattr(walk, name), getattr(other, name), name)


@pytest.mark.slow
@pytest.mark.parametrize("thin, per_call", [(7, 500), (50, 40)])
def test_burn_in_and_thinning_slice_the_whole_walk(monkeypatch, thin, per_call):
    settings = {"num": 16, "step_size": 0.6, "num_snapshots": 3, "mesh": one_device()}
    whole = run(VECTORS, STATE, steps=260, **settings)
    monkeypatch.setattr(draw, "STEPS_PER_CALL", per_call)
    walk = run(VECTORS, STATE, steps=200, burn_in=60, thin=thin, **settings)
    ends = [*range(60, 260, thin), 260]
    np.testing.assert_array_equal(walk.energy, whole.energy[:, ends])
    np.testing.assert_array_equal(walk.rms[:, 1:], whole.rms[:, ends[1:]])
    np.testing.assert_array_equal(walk.x, whole.x)
    before = np.sum(walk.before**2, axis=1) / 2
    np.testing.assert_allclose(walk.energy[:, 0], before, rtol=1e-5)
    for name in ("acceptance_rate", "is_accepted", "is_divergent"):
        steps = getattr(whole, name)
        means = [np.mean(steps[:, a:b], 1) for a, b in itertools.pairwise(ends)]
        np.testing.assert_allclose(getattr(walk, name), np.transpose(means), 1e-6)
    assert 0 < np.mean(walk.is_accepted) < 1 and np.all(walk.is_divergent == 0)


def test_the_records_of_a_long_walk_are_bounded(monkeypatch):
    monkeypatch.setattr(draw.plans, "MAX_RECORDS", 100)
    settings = {"num": 2, "step_size": 0.5, "num_snapshots": 3, "mesh": one_device()}
    walk = run(VECTORS, STATE, steps=250, **settings)
    assert walk.thin == 3 and walk.energy.shape == (2, 85)
    np.testing.assert_array_equal(walk.times, [0, 123, 250])
    found = trace.summary(walk)
    assert (found["steps"], found["thin"], found["burn_in"]) == (250, 3, 0)
    assert found["divergent"] == 0 and found["stuck"] == 0


@pytest.mark.slow
def test_warnings_of_thinned_walks(tmp_path):
    """All of 49 is 1, and a rare NaN is seen."""
    settings = {"num": 16, "steps": 490, "thin": 49, "mesh": one_device()}
    walk = run(VECTORS, STATE, step_size=1e6, **settings)
    assert any("100% of the chains are stuck" in w for w in trace.warnings(walk))
    text = "\n".join(trace.lines(trace.write(walk, tmp_path)))
    assert "record        one in 49 steps, after 0 of burn-in" in text
    assert "in 490 steps" in text
    assert not trace.warnings(run(VECTORS, STATE, inverse_temperature=0.0, **settings))
    hole = VECTORS._replace(
        energy=lambda state, x: jnp.where(x[:, 0] > 2.5, jnp.nan, jnp.sum(x**2, axis=1))
    )
    walk = run(hole, STATE, step_size=0.5, **settings)
    assert any("NaN or infinite" in w for w in trace.warnings(walk))


class Killed(BaseException):
    """What a test raises where the process would be gone."""


def kept_run(directory, *, calls=None, draws=True, learner=VECTORS, **changes):
    """A walk of two groups that is kept from its first call on; killed after `calls`."""
    left = [calls]

    def interrupted():
        left[0] = left[0] and left[0] - 1
        if left[0] == 0:
            raise Killed

    options = {"num": 16, "steps": 100, "burn_in": 13, "thin": 6, "num_snapshots": 3}
    options["mesh"] = one_device()
    kept = store.TraceStore(directory, draws=draws, interrupted=interrupted)
    with kept.stack:
        walk = run(learner, STATE, store=kept, **options | changes)
        kept.finish()
    return walk, kept.progress


@pytest.fixture
def in_pieces(monkeypatch):
    """Two groups of chains, calls of 5 steps, chunks of 4 records, saves at all times."""
    monkeypatch.setattr(model, "CHAINS_PER_CALL", 8)
    monkeypatch.setattr(draw, "STEPS_PER_CALL", 5)
    monkeypatch.setattr(draw.plans, "RECORDS_PER_CHUNK", 4)
    monkeypatch.setattr(store, "SAVE_SECONDS", 0)


def files(directory):
    """The bytes of all files but the lock."""
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != "lock"}


@pytest.mark.slow
def test_a_walk_killed_again_and_again_is_the_untouched_one(tmp_path, in_pieces):
    whole, _ = kept_run(tmp_path / "whole")
    walk, kills = None, 0
    while walk is None:
        try:
            walk, _ = kept_run(tmp_path / "killed", calls=3)
        except Killed:
            kills += 1
    # Of the 38 calls of a group two at a time were saved, and the third was lost.
    assert kills == 37
    equal(walk, whole)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert len(walk.x) == 16 and walk.energy.shape == (16, 18)


@pytest.mark.slow
def test_a_damaged_chunk_is_walked_again_and_no_other(tmp_path, in_pieces):
    whole, _ = kept_run(tmp_path)
    before = files(tmp_path)
    names = sorted(name for name in before if name.endswith("npz"))
    assert len(names) == 2 * 7
    for name in names[::3]:
        data = bytearray(before[name])
        data[len(data) // 2] ^= 16
        (tmp_path / name).write_bytes(data)
        walk, progress = kept_run(tmp_path)
        equal(walk, whole)
        assert files(tmp_path) == before
        steps = progress.total - progress.skipped
        assert name.endswith("start.npz") or 0 < steps <= 24


@pytest.mark.slow
def test_more_steps_make_the_longer_walk(tmp_path, in_pieces):
    """On eight devices."""
    eight = {"mesh": distributed.data_mesh(jax.devices())}
    assert eight["mesh"].size == 8
    kept_run(tmp_path / "longer", **eight)
    walk, progress = kept_run(tmp_path / "longer", **eight, steps=180)
    assert progress.skipped == 2 * (13 + 96)
    whole, _ = kept_run(tmp_path / "whole", **eight, steps=180)
    for name in ("energy", "x", "is_accepted", "is_divergent"):
        np.testing.assert_array_equal(getattr(walk, name), getattr(whole, name), name)
    np.testing.assert_array_equal(walk.times[[0, -1]], [0, 180])
    np.testing.assert_array_equal(walk.snapshots[:, -1], walk.x[:8])
    draws = [store.draws(tmp_path / name) for name in ("longer", "whole")]
    np.testing.assert_array_equal(*draws)


def test_kept_draws_are_the_positions_of_the_records(tmp_path, in_pieces):
    walk, _ = kept_run(tmp_path)
    draws = store.draws(tmp_path)
    assert draws.shape == (16, 17, 3)
    np.testing.assert_array_equal(draws[:, -1], walk.z)
    np.testing.assert_allclose(np.sum(draws**2, -1) / 2, walk.energy[:, 1:], rtol=1e-6)
    exported = mcmc.exported(draws)
    np.testing.assert_array_equal(exported.posterior["x"], draws)


def test_images_and_other_kernels_go_on_too(tmp_path, in_pieces):
    """A call of one step on the CPU; states with types of their own."""
    images = linear((4, 4, 1), latent_dim=16)
    settings = {"num": 8, "steps": 9, "burn_in": 2, "thin": 4, "step_size": 0.1}
    settings |= {"learner": images, "draws": False, "num_snapshots": 2}
    whole, _ = kept_run(tmp_path / "whole", **settings)
    for calls in (3, 6):
        with pytest.raises(Killed):
            kept_run(tmp_path / "killed", calls=calls, **settings)
    walk, _ = kept_run(tmp_path / "killed", **settings)
    equal(walk, whole)
    # So short a walk leaves nothing.
    assert not list(tmp_path.iterdir())
