"""The front door: what trained, loaded and exported models do, and what is refused."""

import inspect
import json
import pathlib
import runpy
import signal
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import safetensors.numpy

import megjax
from megjax import api
from megjax.sampling import model as sampling
from megjax.training import card, checkpoint, experiment, loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = pathlib.Path(__file__).parent.parent
QUICK = ("train.num_steps=2", "train.evaluate_every=2", "width=8", "batch_size=16")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("digits")
    return workdir, megjax.train("digits", workdir=workdir, overrides=QUICK)


@pytest.fixture(scope="module")
def plane():
    x = np.random.default_rng(0).normal(size=(64, 2))
    return x, megjax.fit(x, num_steps=2, batch_size=16, seed=3)


def digest(model):
    return checkpoint.state_digest(model.state)


def test_a_run_is_loaded_without_anything_but_its_directory(digits):
    workdir, model = digits
    loaded = megjax.load(workdir)
    assert digest(loaded) == digest(model)
    assert (loaded.step, loaded.shape) == (2, (8, 8, 1))
    x = loaded.generate(jax.random.key(0), 3)
    assert x.shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(loaded.energy(x), model.energy(x))


def test_weights_come_back_and_rebuild_their_model(digits, tmp_path):
    _, model = digits
    path = tmp_path / "new folder" / "digits.safetensors"
    model.save(path)
    loaded = megjax.load_weights(path)
    x = model.generate(jax.random.key(0), 3)
    np.testing.assert_array_equal(loaded.generate(jax.random.key(0), 3), x)
    np.testing.assert_array_equal(loaded.energy(x), model.energy(x))
    assert (loaded.step, loaded.shape) == (2, (8, 8, 1))
    tensors = safetensors.numpy.load_file(path)
    assert not [name for name in tensors if "optimizer" in name]


@pytest.mark.parametrize("name", ["digits", "density_25gaussians", "rbm_digits"])
def test_models_that_ship_are_small_and_what_their_cards_say(name):
    path = api.PRETRAINED / f"{name}.safetensors"
    assert path.stat().st_size < 2**20
    model = megjax.load_pretrained(name)
    text = card.markdown(model.run, path.name, {})
    shipped = path.with_suffix(".card.md").read_text()
    for part in text.split("\n\n"):
        assert part in shipped or part.startswith("Exported with"), part
    assert np.isfinite(model.generate(jax.random.key(0), 8)).all()


def test_a_pretrained_name_that_is_none():
    with pytest.raises(ValueError, match="choose one of density_25gaussians, digits"):
        megjax.load_pretrained("cifar10")


def test_the_pretrained_density_is_normalised():
    """Its exp(-E) integrates to one on the plane, within its stated error."""
    axis = np.linspace(-4, 4, 401)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    log_prob = megjax.load_pretrained("density_25gaussians").log_prob(grid)
    assert np.exp(log_prob).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(
        1, abs=0.02
    )


def test_a_card_has_what_trains_the_run_again(digits):
    workdir, model = digits
    metrics = card.last_metrics(workdir, 2)
    text = card.markdown(model.run, "digits.safetensors", metrics)
    assert (
        "megjax train --config=digits" in text and "--config.train.num_steps=2" in text
    )
    assert f"| grid/energy_mean | {metrics['grid/energy_mean']:.4g} |" in text


def test_pixels_from_0_to_1_are_warned_of(digits):
    _, model = digits
    x = np.random.default_rng(0).uniform(size=(3, *model.shape))
    with pytest.warns(UserWarning, match="takes images in .-1, 1.: .* give 2 . x - 1"):
        model.energy(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.energy(2 * x - 1)


def test_a_metric_that_is_not_defined_is_not_on_the_card(tmp_path):
    lines = [{"step": 2, "plane/kl": None, "plane/modes": 3}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert card.last_metrics(tmp_path, 2) == {"plane/modes": 3}


def test_a_card_quotes_lists_and_has_no_command_for_arrays(digits, plane):
    _, model = digits
    config = ml_collections.ConfigDict(model.run.config)
    config.unlock()
    config.scales = (1, 2)
    text = card.markdown(model.run._replace(config=config), "x", {})
    assert "--config.scales=1,2" in text
    config.other = "a b"
    text = card.markdown(model.run._replace(config=config), "x", {})
    assert "'--config.other=a b'" in text
    text = card.markdown(plane[1].run, "x", {})
    assert "megjax train" not in text and "Trained by `megjax.fit`" in text


def test_a_ratio_that_was_not_fitted_is_not_used(digits):
    # An iteration forgets the ratio of the generator before it.
    _, model = digits
    x = jnp.zeros((1, 16, *model.shape))
    state, _ = model.learner.step(jax.random.key(0), model.state, x)
    early = api.Model(model.run._replace(state=state))
    with pytest.raises(ValueError, match="is fitted when training ends, and step 2"):
        early.log_ratio(x[0])
    with pytest.raises(ValueError, match="target='ratio': "):
        early.sample(jax.random.key(0), 2, target="ratio", steps=2)
    chains = early.sample(jax.random.key(0), 2, steps=2, step_size=0.1)
    assert np.ptp(chains.sample_stats.energy.values) > 0


def test_evaluations_run_on_a_loaded_model(digits):
    workdir, _ = digits
    reports = megjax.evaluate(megjax.load(workdir), ["grid"])
    assert np.isfinite(reports["grid"].metrics["energy_mean"])
    with pytest.raises(ValueError, match="grid"):
        megjax.evaluate(megjax.load(workdir), ["nothing"])


def test_an_array_that_is_gone_leaves_a_model(tmp_path):
    path, workdir = tmp_path / "x.npy", tmp_path / "run"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)))
    overrides = [*QUICK, f"path={path}", "meg.latent_dim=2"]
    trained = megjax.train("custom", workdir=workdir, overrides=overrides)
    path.unlink()
    loaded = megjax.load(workdir)
    assert digest(loaded) == digest(trained)
    assert loaded.sample(jax.random.key(0), 2, steps=3).posterior.x.shape == (2, 3, 3)
    loaded.save(tmp_path / "w.safetensors")
    again = megjax.load_weights(tmp_path / "w.safetensors")
    x = np.ones((2, 3))
    np.testing.assert_array_equal(again.energy(x), trained.energy(x))
    with pytest.raises(FileNotFoundError, match="x.npy"):
        megjax.evaluate(loaded)


def test_a_model_takes_a_table_as_it_is(tmp_path):
    """Though it was trained on standardised columns; after saving, too."""
    path, workdir = tmp_path / "x.npy", tmp_path / "run"
    x = np.random.default_rng(0).normal(size=(40, 3)) * [1, 10, 0.1] + [0, 1000, 5]
    np.save(path, x)
    settings = [*QUICK, f"path={path}", "meg.latent_dim=2"]
    model = megjax.train("custom", workdir=workdir, overrides=settings)
    plain = [*settings, f"path={tmp_path / 'u.npy'}"]
    np.save(tmp_path / "u.npy", (x - x.mean(0)) / x.std(0))
    plain.append("standardise=False")
    expected = megjax.train("custom", workdir=tmp_path / "plain", overrides=plain)
    u = np.load(tmp_path / "u.npy")
    key = jax.random.key(0)
    model.save(tmp_path / "w.safetensors")
    for one in (
        model,
        megjax.load(workdir),
        megjax.load_weights(tmp_path / "w.safetensors"),
    ):
        np.testing.assert_allclose(one.energy(x), expected.energy(u), rtol=1e-3)
        generated = expected.generate(key, 5) * x.std(0) + x.mean(0)
        np.testing.assert_allclose(one.generate(key, 5), generated, rtol=1e-4)
        chains = one.sample(key, 4, steps=5, space="data").posterior.x
        assert np.all(np.abs(chains - x.mean(0)) < 50 * x.std(0))
    np.save(path, 2 * x)
    with pytest.raises(ValueError, match="another config .mean: the run has"):
        megjax.train("custom", workdir=workdir, overrides=settings)


def test_a_fit_goes_on_with_its_own_array_only(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 2))
    first = megjax.fit(x, num_steps=2, workdir=tmp_path)
    assert digest(megjax.fit(x, num_steps=2, workdir=tmp_path)) == digest(first)
    with pytest.raises(ValueError, match="holds a run with another config .examples"):
        megjax.fit(x + 50, num_steps=2, workdir=tmp_path)


def test_scores_are_energies_and_their_gradients_by_finite_differences(plane):
    x, model = plane
    x = np.float32(x[:20])
    np.testing.assert_allclose(model.score_samples(x), -model.energy(x))
    step = 3e-3
    gradient = [
        (model.energy(x + step * e) - model.energy(x - step * e)) / (2 * step)
        for e in np.eye(2, dtype=np.float32)
    ]
    found = model.score_samples(x, criterion="score_norm")
    # The energy is piecewise linear: a difference across a kink is none of a gradient.
    close = np.isclose(found, -np.linalg.norm(gradient, axis=0), rtol=2e-2)
    assert np.sum(close) >= 15


def test_chains_come_as_arviz_data(plane):
    _, model = plane
    data = model.sample(jax.random.key(0), 3, steps=4)
    assert data.posterior.z.shape[:2] == data.posterior.x.shape[:2] == (3, 4)
    np.testing.assert_allclose(
        data.posterior.x.values[:, -1],
        model.learner.generate(model.state, data.posterior.z.values[:, -1]),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        data.sample_stats.energy.values[:, -1],
        model.energy(data.posterior.x.values[:, -1]),
        rtol=1e-4,
        atol=1e-5,
    )
    rates = data.sample_stats.acceptance_rate.values
    assert np.all((rates >= 0) & (rates <= 1))
    visible = model.sample(jax.random.key(0), 3, steps=4, space="data", kernel="rwm")
    assert visible.posterior.x.shape == (3, 4, 2) and "z" not in visible.posterior


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("machine")
    overrides = ["train.num_steps=2", "num_hidden=3", "contrast.num_sample_sweeps=2"]
    return megjax.train("rbm_digits", workdir=workdir, overrides=overrides)


def test_log_probabilities_of_an_enumerable_machine_sum_to_one(machine):
    config, shape = machine.config, (2, 3, 1)
    learner = machine.run.recipe.learner(config, shape)
    state = learner.init(jax.random.key(0), np.zeros((4, *shape), np.float32))
    small = megjax.Model(
        machine.run._replace(learner=learner, state=state, shape=shape)
    )
    x = 2.0 * np.indices((2,) * 6).reshape(6, -1).T.reshape(-1, *shape) - 1
    assert np.sum(np.exp(small.log_prob(x))) == pytest.approx(1, abs=1e-5)


def test_a_density_of_an_array_has_log_probabilities_in_its_own_units():
    """Of an untrained one, whose log Z is exact: those of the rows' Gaussian."""
    x = np.random.RandomState(0).normal(size=(200, 2)) * [1.0, 30.0]
    model = megjax.fit(x, learner="density", num_steps=1, learning_rate=0.0)
    grid = np.stack(np.meshgrid(np.linspace(-8, 8, 101), np.linspace(-240, 240, 101)))
    points = grid.reshape(2, -1).T
    total = np.sum(np.exp(model.log_prob(points))) * (16 / 100) * (480 / 100)
    assert total == pytest.approx(1, abs=0.02)
    shifted = model.log_prob(points[:3], log_z=model.log_partition() + 1)
    np.testing.assert_allclose(shifted, model.log_prob(points[:3]) - 1, rtol=1e-5)


def test_a_density_takes_fields_of_its_network_and_noise():
    x = np.random.RandomState(0).normal(size=(200, 2))
    fields = {"hidden": (8,), "num_components": (2,), "learning_rate": 1e-3}
    model = megjax.fit(x, learner="density", num_steps=1, **fields)
    config = model.config
    assert (config.network.hidden, config.noise.num_components) == ((8,), (2,))
    assert config.density.learning_rate == 1e-3
    kernels = {
        leaf.shape
        for leaf in jax.tree.leaves(model.state.energy.params)
        if leaf.ndim == 2
    }
    assert (8, 1) in kernels


FINISH = (
    *("train.num_steps=2", "train.save_every=1", "width=8", "batch_size=16"),
    *("finish.num_steps=2", "finish.batch_size=16", "finish.num_draws=50"),
    *("finish.network.hidden=(8,)", "finish.network.num_features=8"),
    *("finish.density.num_importance=5000", "evaluation.num_points=500"),
)


def test_a_finished_model_is_one_density_wherever_it_is_read(tmp_path):
    config = experiment.load("toy_25gaussians:calibrated")
    experiment.assign(config, FINISH)
    config.unlock()
    config.evaluation.num_cells = 100
    built = experiment.build(config)._replace(evaluations={})
    loop.train(config, built, tmp_path / "run", name="toy_25gaussians:calibrated")
    model = megjax.load(tmp_path / "run")
    x = np.random.RandomState(0).normal(size=(50, 2))
    log_p = model.log_prob(x)
    np.testing.assert_allclose(log_p, -model.energy(x) - model.log_partition())
    model.save(tmp_path / "model.safetensors")
    again = megjax.load_weights(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.log_prob(x), log_p)
    assert sorted(built.protocols) == ["before_finish", "likelihood"]
    found = built.protocols["likelihood"](jax.random.key(0), model.state).metrics
    assert found["log_z"] == pytest.approx(float(model.log_partition()))
    assert abs(found["log_z_error"]) < 0.1
    chains = sampling.sample(
        *(jax.random.key(0), model.learner, model.state),
        num=4,
        space="data",
        steps=2,
        step_size=0.1,
    )
    np.testing.assert_allclose(
        chains.energy[:, -1], model.energy(chains.x), rtol=1e-5, atol=1e-5
    )
    assert "a normalised log-density" in card.markdown(model.run, "x", {})
    # Before its end a run has no density.
    early = megjax.load(tmp_path / "run", step=1)
    with pytest.raises(ValueError, match="log Z is not known at step 1, before the ru"):
        early.log_prob(x)
    np.testing.assert_array_equal(early.log_prob(x, log_z=1.0), -early.energy(x) - 1)
    assert "exp(-E) is no normalised density" in card.markdown(early.run, "x", {})


def test_sweeps_of_a_machine_are_its_chains(machine):
    data = machine.sample(jax.random.key(0), 2, steps=3, kernel="gibbs")
    assert data.posterior.x.shape == (2, 3, 8, 8, 1)
    assert set(np.unique(data.posterior.x)) <= {-1.0, 1.0}


def test_fits_are_of_their_seed(plane):
    x, model = plane
    options = {"num_steps": 2, "batch_size": 16}
    assert digest(megjax.fit(x, seed=3, **options)) == digest(model)
    assert digest(megjax.fit(x, seed=4, **options)) != digest(model)


@pytest.mark.parametrize("learner", ["wgan_gp", "deep_directed"])
def test_other_learners_fit_vectors(plane, learner):
    x, _ = plane
    model = megjax.fit(x, learner=learner, num_steps=1, batch_size=8)
    assert np.isfinite(model.energy(x)).all()


def test_a_fit_that_was_stopped_says_that_nothing_is_kept(monkeypatch):
    def stopped(*args, **options):
        raise loop.Stopped(signal.SIGINT, 400)

    monkeypatch.setattr(loop, "train", stopped)
    words = "SIGINT: nothing is kept of this training: give workdir="
    with pytest.raises(KeyboardInterrupt, match=words):
        megjax.fit(np.zeros((64, 2)))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, m: megjax.fit(x, learner="gan"), "learner='gan': choose one of meg"),
        (
            lambda x, m: megjax.fit(x, score_wait=1),
            "no field 'score_wait': give one of",
        ),
        (
            lambda x, m: megjax.fit(x, learner="density", width=8),
            "density has no field 'width': give one of batch_size, dtype, average_decay",
        ),
        (lambda x, m: megjax.fit(x[:, 0]), r"x holds float64 \[64\]: give numbers"),
        (lambda x, m: megjax.fit(np.full((4, 2), np.nan)), "x holds NaN"),
        (lambda x, m: m.energy(x[0]), r"x has shape \[2\]: give \[N, 2\]"),
        (
            lambda x, m: m.energy(x[:0]),
            r"x has shape \[0, 2\]: give \[N, 2\], N at least 1",
        ),
        (
            lambda x, m: m.generate(jax.random.key(0), 0),
            "num=0: give a whole number from 1",
        ),
        (lambda x, m: m.log_prob(x), "log Z of this model is not known"),
        (lambda x, m: m.score_samples(x, criterion="e"), "choose one of energy, score"),
        (
            lambda x, m: m.sample(jax.random.key(0), 2, kernel="nuts"),
            "choose one of mala",
        ),
        (lambda x, m: m.sample(jax.random.key(0), 2, kernel="neural"), "no proposal"),
        (
            lambda x, m: megjax.train("digit"),
            "no config file .digit.: give a path, or one of",
        ),
        (lambda x, m: megjax.train("digits", overrides=["wdth=1"]), "FIELD=VALUE"),
    ],
)
def test_mistakes_are_named(plane, call, message):
    with pytest.raises(ValueError, match=message):
        call(*plane)


def test_places_without_a_run_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        megjax.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        megjax.load_weights(tmp_path / "none.safetensors")


def changed(record, **fields):
    return {"megjax": json.dumps(record | fields)}


def test_weights_of_strangers_execute_nothing(digits, tmp_path):
    _, model = digits
    path = tmp_path / "w.safetensors"
    model.save(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        record = json.loads(file.metadata()["megjax"])
    tensors = safetensors.numpy.load_file(path)
    first = min(tensors)
    cases = {
        "no recipe": (tensors, changed(record, recipe="os.system")),
        "has no recipe '__init__": (tensors, changed(record, recipe="__init__.x")),
        "user's own": (tensors, changed(record, recipe=None)),
        "it has no step": (tensors, changed(record, step="2")),
        "it holds no config": (tensors, changed(record, shape=["x"])),
        "another version": (tensors, changed(record, version=99)),
        "no entry 'megjax'": (tensors, {"other": ""}),
        "absent there": ({k: v for k, v in tensors.items() if k != first}, None),
        "float32": (tensors | {first: np.zeros(7, np.float32)}, None),
    }
    for message, (arrays, metadata) in cases.items():
        metadata = metadata or {"megjax": json.dumps(record)}
        safetensors.numpy.save_file(arrays, path, metadata)
        with pytest.raises(ValueError, match=message):
            megjax.load_weights(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no intact .safetensors file"):
        megjax.load_weights(path)


def test_every_public_name_is_there_and_in_the_reference():
    page = runpy.run_path(str(ROOT / "docs/reference.py"))["page"]()
    assert (ROOT / "docs/api.md").read_text() == page, "run python docs/reference.py"
    for name in megjax.__all__:
        value = getattr(megjax, name)
        if not inspect.ismodule(value):
            assert ">>>" in inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="no attribute 'Detector'"):
        _ = megjax.Detector


def test_the_console_script_names_its_commands():
    def run(*arguments):
        command = [sys.executable, "-m", "megjax.cli", *arguments]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )

    wrong = run("walk")
    assert wrong.returncode == 2
    assert wrong.stderr == (
        "error: megjax has no command 'walk': give one of train, sample, evaluate, "
        "report, prepare, export\n"
    )
    assert "train|sample|evaluate|report|prepare|export" in run("--help").stdout
