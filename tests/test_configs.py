"""Every config, made small, on made-up data: it builds, steps, saves and resumes."""

import importlib
import io
import itertools
import json
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tensorflow_datasets.proto import tf_example_pb2

from megjax.data import images, kdd99
from megjax.data.dataset import Dataset, Labelled
from megjax.densities import logistic
from megjax.training import checkpoint, experiment, loop

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDES = {
    "cifar10": (32, 32, 3),
    "celeb_a": (218, 178, 3),
    "oxford_flowers102": (50, 40, 3),
}

SHORT_CHAINS = {"evaluation.num_chains": 3, "evaluation.num_steps": 8}
MACHINE = {
    "num_hidden": 3,
    "contrast.num_chains": 4,
    "contrast.num_sample_sweeps": 2,
    "evaluation.num_examples": 2,
    "train.evaluate_every": 2,
}
DEEP_MACHINE = {k: v for k, v in MACHINE.items() if k != "num_hidden"} | {
    "num_hidden_1": 3,
    "num_hidden_2": 2,
    "num_pretraining_steps": 1,
}
PLANE = {"num_layers": 1}
LATTICE = {
    "size": 4,
    "num_examples": 100,
    "contrast.num_chains": 4,
    "contrast.num_sample_sweeps": 2,
}
DEEP_LATTICE = {"num_hidden_1": 3, "num_hidden_2": 2, "num_pretraining_steps": 1}
BUFFER = {"proposal.buffer_size": 8, "proposal.burn_in": 2}
CHAINS = {
    "proposal.width": 2,
    "replay.buffer_size": 8,
    "replay.num_transitions": 1,
}

DENSITY = {
    "network.hidden": (4,),
    "network.num_features": 4,
    "noise.num_points": 8,
    "density.num_importance": 100,
    "density.check_every": 1,
}

# Every config and variant. The first train; the others have the networks of one of
# them, on other data or of another depth, and their step is only traced.
TRAINED = {
    "digits": {},
    "kdd99:raw": {},
    "deep_directed_two_spirals": {"num_layers": 1},
    "rbm_digits": MACHINE
    | {
        "contrast.fluctuating_temperature": True,
        "contrast.l1": 0.1,
        "early_stopping.gap": 1e-9,
    },
    "dbm_mnist": DEEP_MACHINE,
    "ebm_digits": CHAINS,
    "density_table": {"path": "{root}/table.npy"} | DENSITY,
    "proposal_logistic:heart": SHORT_CHAINS | BUFFER | {"proposal.warmup_windows": 1},
}
TRACED = {
    "wgan_gp:digits": {},
    "cifar10": {},
    "toy_25gaussians": {},
    "stacked_mnist:4": {},
    "proposal_moon": {},
    "cifar10:paper": {},
    "flowers:paper": {"image_size": 8},
    "mnist": {},
    "mnist:paper": {},
    "mnist_small ": {"meg.num_components": 2, "meg.shared_features": False},
    "stacked_mnist:3:paper": {},
    "mnist:fashion_mnist": {},
    "mnist:kmnist": {},
    "mnist_small": {},
    "mnist_anomaly:3": {},
    "mnist_anomaly_small:3": {},
    "stacked_mnist": {},
    "stacked_mnist_small": {},
    "cifar10_small": {},
    "celeba": {},
    "flowers": {},
    "flowers ": {"image_size": 64, "dtype": "bfloat16", "remat": True},
    "kdd99": {},
    "toy_25gaussians:calibrated": {},
    "toy_8gaussians": {},
    "toy_8gaussians:calibrated": {},
    "toy_swissroll": {},
    "toy_swissroll:calibrated": {},
    "custom": {"path": "{root}/table.npy"},
    "custom ": {"path": "{root}/images.npy"},
    "custom  ": {"path": "{root}/folder", "image_size": 16, "num_channels": 1},
    "digits ": {"dtype": "bfloat16"},
    "digits  ": {"meg.refinement_steps": 1, "meg.average_decay": 0.9},
    "digits   ": {"meg.num_microbatches": 2},
    "wgan_gp ": {"wgan_gp.num_microbatches": 2},
    "rbm_digits:labelled": MACHINE,
    "rbm_mnist": MACHINE | {"contrast.persistent": False, "pixels": "drawn"},
    "rbm_mnist:notebook": MACHINE,
    "rbm_l1_mnist": MACHINE | {"contrast.centred": True, "contrast.method": "sgd"},
    "hopfield_mnist": MACHINE,
    "deep_directed_two_spirals:workshop": PLANE,
    "deep_directed_two_spirals:no_entropy": PLANE,
    "deep_directed_four_spin": PLANE,
    "deep_directed_mnist": {},
    "deep_directed_mnist:convolutional": {},
    "deep_directed_mnist:stacked": {},
    "deep_directed_mnist:digits": {"deep_directed.optimizer": "adam"},
    "toy_two_spirals": {},
    "toy_four_spin": {},
    "neural_energy": {"contrast.num_chains": 4, "mala.num_steps": 2},
    "neural_energy:four_spin": {"contrast.persistent": False},
    "ebm_digits:mala": {"replay.magnitude_weight": 0.1},
    "ebm_flowers": CHAINS | {"proposal.flow_steps": 1, "image_size": 8},
    "ebm_flowers:mala": {"evaluation.inception_weights": "nowhere"},
    "maxent_ising": LATTICE,
    "maxent_ising:1.75": LATTICE,
    "dbm_ising": LATTICE | DEEP_LATTICE,
    "proposal_icg": {},
    "proposal_scg": {"proposal.gradient": "position"},
    "proposal_funnel": {"proposal.gradient": "none"},
    "proposal_funnel:1": {},
    "proposal_logistic": {},
    "proposal_logistic:australian": {},
    "proposal_latent": BUFFER,
    "density_25gaussians": DENSITY,
    "density_8gaussians": DENSITY | {"density.objective": "maximum_likelihood"},
    "density_swissroll": DENSITY | {"density.tilt": True, "noise.mixtures": 1.0},
    "density_two_spirals": DENSITY | {"dtype": "bfloat16"},
    "density_pinwheel": DENSITY | {"noise.box": 0.0, "density.whiten": False},
    "wgan_gp": {"wgan_gp.penalty_form": "per_pixel"},
    "wgan_gp:mnist": {},
    "wgan_gp:stacked_mnist_3": {},
    "wgan_gp:stacked_mnist_4": {},
    "wgan_gp:cifar10": {},
    "wgan_gp:toy_25gaussians": {},
}
# The others are slow: as these, on other data or with another depth.
QUICK = (
    *("digits", "wgan_gp:digits", "cifar10", "toy_25gaussians"),
    *("stacked_mnist:4", "proposal_moon", "mnist_small", "flowers ", "kdd99"),
    *("custom", "custom ", "custom  ", "digits   ", "rbm_l1_mnist"),
    *("deep_directed_mnist", "neural_energy", "ebm_digits:mala", "proposal_icg"),
    *("density_25gaussians", "density_table"),
)
# Of these the step is traced with more than one half of a proposal's flow.
DEEP_FLOWS = ("proposal_moon", "proposal_logistic")


def slow(names):
    """Parameters of a test, the slow ones marked."""
    return [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in names
    ]


class Records(list):
    """Serialised examples with random access."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def png(pixels):
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, format="png")
    return stream.getvalue()


def source(name, **_):
    """Forty random images with labels, in the form of a TFDS set."""
    shape = SIDES.get(name, (28, 28))
    rng, made = np.random.RandomState(0), Records()
    for i in range(40):
        feature = (example := tf_example_pb2.Example()).features.feature
        pixels = rng.randint(0, 256, shape, dtype=np.uint8)
        feature["image"].bytes_list.value.append(png(pixels))
        feature["label"].int64_list.value.append(i % 10)
        made.append(example.SerializeToString())
    mode = "RGB" if len(shape) == 3 else "L"
    return images._Source(made, ["image", "label"], mode)


def table(path):
    rng = np.random.RandomState(0)
    return Labelled(
        rng.uniform(size=(90, 121)).astype(np.float32),
        (np.arange(90) % 5 == 0).astype(np.int32),
    )


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """A program that was compiled once comes from a cache when a run resumes."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def regression_table(name, data_dir):
    features = np.random.RandomState(2).normal(size=(12, logistic.FILES[name][1][1]))
    return logistic.Labelled(features, np.where(features[:, 0] > 0, 1.0, -1.0))


def trained_meg(target):
    """The digits demo before its first step."""
    config = small_config("digits", target, {})
    built = experiment.build(config)
    state = built.learner.init(jax.random.key(0), jnp.zeros((4, 8, 8, 1)))
    return loop.Restored(config, built.learner, state, 1, (8, 8, 1), config.recipe)


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """Data in place of what is downloaded; the directory of the user's own."""
    monkeypatch.setattr(logistic, "table", regression_table)
    restore = loop.restore
    monkeypatch.setattr(
        loop,
        "restore",
        lambda run, *given, **named: (
            trained_meg(run)
            if run == pathlib.Path("runs/digits")
            else restore(run, *given, **named)
        ),
    )
    monkeypatch.setattr(images, "_source", source)
    monkeypatch.setattr(kdd99, "table", table)
    monkeypatch.setattr(kdd99, "_found", lambda *_: None)
    rng = np.random.RandomState(1)
    np.save(tmp_path / "table.npy", rng.normal(size=(50, 7)).astype(np.float32))
    np.save(tmp_path / "images.npy", rng.randint(0, 256, (20, 16, 16, 3), np.uint8))
    (tmp_path / "folder").mkdir()
    for i in range(5):
        picture = rng.randint(0, 256, (20, 30, 3), np.uint8)
        (tmp_path / f"folder/{i}.png").write_bytes(png(picture))
    return tmp_path


def full_config(name):
    """The config as it is, by the way that train.py and sample.py take."""
    config = experiment.load(name.strip())
    config.unlock()
    return config


def method_of(config):
    methods = ("meg", "wgan_gp", "deep_directed", "proposal", "contrast", "density")
    return next(name for name in methods if name in config)


def small_config(name, root, fields):
    config = full_config(name)
    method = method_of(config)
    settings = {
        "batch_size": 4,
        "train.num_steps": 2,
        "train.log_every": 1,
        "train.save_every": 1,
        "train.evaluate_every": 100,
    }
    settings |= {"width": 8} if "width" in config else {}
    if "num_points" in config.get("evaluation", {}):
        settings["evaluation.num_points"] = 500
    if "latent_dim" in config[method]:
        settings |= {f"{method}.num_energy_updates": 1, f"{method}.latent_dim": 3}
    if "proposal" in config and name not in DEEP_FLOWS:
        settings["proposal.flow_steps"] = 1
    for field, value in (settings | fields).items():
        value = value.format(root=root) if isinstance(value, str) else value
        config.update_from_flattened_dict({field: value})
    return config


class Interruption:
    """In place of signals: stops after the first call."""

    def __enter__(self):
        return lambda: signal.SIGTERM

    def __exit__(self, *error):
        return None


def test_every_config_is_here():
    stems = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert stems == {name.strip().partition(":")[0] for name in TRAINED | TRACED}


@pytest.mark.parametrize("name", slow(TRAINED))
def test_two_steps_saved_and_resumed_bit_for_bit(made_up, monkeypatch, name):
    config = small_config(name, made_up, TRAINED[name])
    built = experiment.build(config)
    one = jax.devices()[:1]

    def train(workdir, built):
        options = {"name": name, "devices": one}
        return loop.train(config, built, made_up / workdir, **options)

    whole = train("whole", built)
    with monkeypatch.context() as patch, pytest.raises(loop.Stopped, match="p 1$"):
        patch.setattr(loop, "interruption", Interruption)
        train("parts", built)
    resumed = train("parts", built._replace(evaluations={}))
    assert checkpoint.state_digest(resumed) == checkpoint.state_digest(whole)
    changed = [a is not b for a, b in zip(*map(jax.tree.leaves, (whole, resumed)))]
    assert all(changed)
    restored = loop.restore(made_up / "parts")
    assert restored.step == 2
    assert checkpoint.state_digest(restored.state) == checkpoint.state_digest(whole)
    values = json.loads(json.dumps(experiment.plain_values(config)))
    assert experiment.plain_values(restored.config) == values
    assert restored.recipe == config.recipe and restored.shape == built.data.shape


@pytest.mark.parametrize("name", slow(TRACED))
def test_the_others_trace(made_up, name):
    config = small_config(name, made_up, TRACED[name])
    built = experiment.build(config)
    batch = built.data.take(built.data.store, jnp.arange(config.batch_size))
    assert batch.shape == (4, *built.data.shape) and batch.dtype == jnp.float32
    assert np.isfinite(batch).all()
    streams = loop.keys(0)
    one = loop.iteration(built.learner, built.data, 4, streams, resident=True)
    x = jnp.zeros((4, *built.data.shape))
    state = jax.eval_shape(lambda key: built.learner.init(key, x), streams.init)
    after, found = jax.eval_shape(one, state, 0, built.data.store)
    assert jax.tree.map(shaped, after) == jax.tree.map(shaped, state)
    assert all(metric.shape == () for metric in found.values())
    sample = jax.eval_shape(lambda s: built.learner.sample(streams.init, s, 5), state)
    assert sample.shape == (5, *built.data.shape)


def test_the_example_of_an_own_density_builds():
    config = experiment.load("examples/own_density.py")
    built = experiment.build(config)
    x = jnp.zeros((config.batch_size, *built.data.shape))
    state = jax.eval_shape(built.learner.init, jax.random.key(0), x)
    assert state.positions.shape == (config.proposal.buffer_size, 3)


def shaped(leaf):
    return leaf.shape, leaf.dtype


def test_every_config_holds_plain_values_and_a_recipe_with_a_name():
    for name in TRAINED | TRACED:
        config = full_config(name)
        values = json.loads(json.dumps(experiment.plain_values(config)))
        assert set(values["train"]) == set(experiment.TRAIN), name
        recipe = experiment.recipe_named(experiment.recipe_name(config.recipe))
        assert recipe == config.recipe, name
        read = experiment.from_values(values, recipe)
        assert experiment.plain_values(read) == values, name


def test_no_config_imports_another():
    for path in (ROOT / "configs").glob("*.py"):
        assert "configs import" not in path.read_text(), path


def dense(*sizes):
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def convolutions(*layers):
    """Parameters of (kernel side, channels in, channels out) layers."""
    return sum((k * k * a + 1) * b for k, a, b in layers)


def networks(trunk, features, k, hidden):
    """Parameters of E and T, which share the form of their trunk."""
    return trunk + dense(features, 1), trunk + dense(features, k) + dense(
        2 * k, hidden, 1
    )


FULL = {
    "cifar10:paper": (
        (32, 32, 3),
        *networks(
            convolutions((3, 3, 64), (4, 64, 64), (3, 64, 128), (4, 128, 128))
            + convolutions((3, 128, 256), (4, 256, 256), (3, 256, 512)),
            4 * 4 * 512,
            128,
            512,
        ),
        dense(128, 8192)
        + convolutions((4, 512, 256), (4, 256, 128), (4, 128, 64), (3, 64, 3))
        + 2 * (256 + 128 + 64),
    ),
    "celeba": (
        (64, 64, 3),
        *networks(
            convolutions((3, 3, 64), (4, 64, 64), (3, 64, 128), (4, 128, 128))
            + convolutions((3, 128, 256), (4, 256, 256), (3, 256, 512))
            + convolutions((4, 512, 512), (3, 512, 512)),
            4 * 4 * 512,
            128,
            512,
        ),
        dense(128, 8192)
        + convolutions((4, 512, 512), (4, 512, 256), (4, 256, 128), (4, 128, 64))
        + convolutions((3, 64, 3))
        + 2 * (512 + 256 + 128 + 64),
    ),
    "stacked_mnist:3:paper": (
        (28, 28, 3),
        *networks(
            convolutions((5, 3, 64), (5, 64, 128), (5, 128, 256), (5, 256, 512)),
            2 * 2 * 512,
            128,
            512,
        ),
        dense(128, 2048)
        + convolutions((5, 512, 256), (5, 256, 128), (5, 128, 64), (5, 64, 3))
        + 2 * (512 + 256 + 128 + 64),
    ),
    "kdd99": (
        (121,),
        dense(121, 256, 128, 128, 1),
        dense(153, 256, 128, 128, 1),
        dense(32, 64, 128, 121),
    ),
    "toy_25gaussians": (
        (2,),
        dense(2, 512, 512, 512, 1),
        dense(4, 512, 512, 512, 1),
        dense(2, 512, 512, 512, 2),
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_parameters_at_full_width(name, monkeypatch):
    """The layers of the reference, counted by hand."""
    shape, num_energy, num_statistics, num_generator = FULL[name]
    data = Dataset(
        name, shape, 50, np.zeros((50, *shape), np.float32), lambda s, i: s[i]
    )
    for module, loader in (
        (images, "tfds_images"),
        (importlib.import_module("megjax.data.stacked"), "stacked_mnist"),
    ):
        monkeypatch.setattr(module, loader, lambda *_, **__: data)
    monkeypatch.setattr(kdd99, "kdd99", lambda **_: (data, None))
    config = full_config(name)
    built = experiment.build(config)
    x = jnp.zeros((2, *shape))
    state = jax.eval_shape(lambda key: built.learner.init(key, x), jax.random.key(0))
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(player.params))
        for player in (state.energy, state.statistics, state.generator)
    ]
    assert counts == [num_energy, num_statistics, num_generator]


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("digits", {"meg.num_microbatches": 3}, "meg.num_microbatches=3 does not div"),
        ("digits", {"meg.num_microbatches": 0}, "meg.num_microbatches=0: give at"),
        ("wgan_gp", {"wgan_gp.num_microbatches": 3}, "wgan_gp.num_microbatches=3 does"),
        ("mnist", {"remat": True}, "config.remat=True: the networks for 28x28"),
        ("digits", {"networks": "strided"}, "image_size=8: networks of strided"),
        (
            "proposal_scg",
            {"proposal.coupling_masks": "x"},
            "coupling_masks='x': choose one of random",
        ),
        (
            "proposal_scg",
            {"proposal.warmup_windows": 1},
            "warmup_windows=1: these need a bu",
        ),
        ("proposal_scg", {"proposal.bound": 0.0}, "bound=0.0: give a finite number ab"),
        ("proposal_scg", {"proposal.entropy_weight": 2e3}, "weight=2000.0: give one"),
        ("proposal_latent", {"evaluation.num_records": 2}, "num_records=2: give at le"),
        ("ebm_digits", {"alpha": 0.5}, "config.alpha=0.5: give a number between"),
        ("ebm_digits", {"num_levels": 1}, "config.num_levels=1: give at least 2"),
        ("ebm_digits", {"sampler": "hmc"}, "config.sampler='hmc': choose one of neu"),
        ("ebm_digits", {"replay.buffer_size": 3}, "buffer_size=3: give at least 4"),
        ("ebm_digits:mala", {"proposal.target_acceptance": 1.0}, "acceptance=1.0: giv"),
        (
            "density_pinwheel",
            {"density.objective": "x"},
            "objective='x': choose one of",
        ),
        (
            "density_pinwheel",
            {"density.num_noise": 0},
            "density.num_noise=0: give a whole number from 1 up",
        ),
        ("density_pinwheel", {"network.num_features": 3}, "num_features=3: give an ev"),
        ("density_pinwheel", {"noise.mixtures": -1.0}, "noise.mixtures=-1.0: give a"),
        ("density_pinwheel", {"noise.box": -1.0}, "config.noise.box=-1.0: give at lea"),
        (
            "density_pinwheel",
            {"network.confinement": 0.0},
            "confinement=0 leaves exp",
        ),
        (
            "toy_25gaussians:calibrated",
            {"finish.num_steps": -1},
            "config.finish.num_steps=-1: give at least 0",
        ),
        (
            "toy_25gaussians:calibrated",
            {"finish.network.num_features": 3},
            "config.finish.network.num_features=3: give an even",
        ),
        (
            "toy_25gaussians:calibrated",
            {"finish.widths": ()},
            "config.finish: widths is empty",
        ),
        (
            "toy_25gaussians:calibrated",
            {"finish.share": 0.0},
            "finish.share=0.0: give a number between 0 and 1",
        ),
        ("density_table", {}, "config.path is empty: give --config.path=FILE.npy"),
    ],
)
def test_large_batches_and_models_that_cannot_be(made_up, name, fields, words):
    with pytest.raises(ValueError, match=words):
        config = small_config(name, made_up, fields)
        experiment.build(config)


def test_samplers_of_image_energies_are_two():
    with pytest.raises(ValueError, match="sampler 'hmc': choose one of neural, mala"):
        full_config("ebm_flowers:hmc")


def test_the_learning_rate_of_images_follows_the_width():
    config = experiment.load("mnist_small")
    assert config.meg.learning_rate == pytest.approx(0.256 / 64)
    experiment.assign(config, ["width=128"])
    assert config.meg.learning_rate == pytest.approx(0.256 / 128)
    experiment.assign(config, ["meg.learning_rate=0.001", "width=32"])
    assert config.meg.learning_rate == 0.001
