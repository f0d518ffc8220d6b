"""A classifier of scikit-learn's digits: what it learns, and what its file withstands."""

import pathlib
import pickle
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.data import images
from megjax.data.dataset import Labelled
from megjax.evaluation import classifier

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = classifier.Settings(width=8, num_epochs=14, batch_size=50, shift=1)


@pytest.fixture(scope="module")
def digits():
    pixels, labels = images.digits_labelled()
    train = Labelled(pixels[:1400], labels[:1400])
    return train, Labelled(pixels[1400:], labels[1400:])


@pytest.fixture(scope="module")
def made(digits):
    return classifier.trained(*digits, data="digits", settings=RECIPE)


@pytest.mark.slow
def test_it_learns_digits(made, digits):
    assert made.test_accuracy > 0.9
    assert made.image_shape == (8, 8, 1) and made.num_classes == 10
    x = images.normalised(digits[1].x)
    named = np.argmax(made.logits(x), axis=1)
    assert made.test_accuracy == np.mean(named == digits[1].labels)
    p = classifier.probabilities(made, digits[1].x)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(p.argmax(axis=1), named)


@pytest.mark.slow
def test_inference_sees_one_image_at_a_time(made, digits):
    """Neither batch statistics nor noise: an image's logits are its own."""
    x = images.normalised(digits[1].x[:40])
    whole = np.asarray(made.logits(x))
    np.testing.assert_array_equal(whole, made.logits(x))
    alone = np.concatenate([made.logits(x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(alone, whole[:3], rtol=1e-4, atol=1e-4)
    # Had it been in training mode, these would agree.
    (coupled, _), _ = made.network.apply(
        made.variables, x, train=True, mutable=["batch_stats"]
    )
    assert np.abs(coupled - whole).max() > 0.01


def test_features_are_what_the_logits_are_made_of(made, digits):
    x = images.normalised(digits[1].x[:5])
    features = made.features(x)
    assert features.shape == (5, 4 * RECIPE.width) and np.min(features) >= 0
    last = made.variables["params"]["logits"]
    expected = features @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(made.logits(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_repeats_and_follows_its_seed(digits):
    few = Labelled(*(v[:100] for v in digits[0]))
    recipe = RECIPE._replace(num_epochs=1)

    def weights(seed):
        found = classifier.trained(few, few, data="digits", settings=recipe, seed=seed)
        return np.asarray(found.variables["params"]["stem"]["kernel"])

    first = weights(0)
    np.testing.assert_array_equal(first, weights(0))
    assert not np.array_equal(first, weights(1))


def test_parameters_by_hand():
    network = classifier.Network(width=32, num_classes=10)
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False)
    )
    num = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    kernels = 25 * 32 + 9 * (32 * 32 + 32 * 64 + 64 * 64 + 64 * 128) + 128 * 10
    biases = 32 + 32 + 64 + 64 + 128
    assert num == kernels + 3 * biases + 10


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_only_moves_and_mirrors(flip):
    pixels = np.arange(1, 7, dtype=np.uint8).reshape(1, 2, 3, 1)
    padded = jnp.pad(pixels, [(0, 0), (1, 1), (1, 1), (0, 0)])
    indices = jnp.zeros(400, jnp.int32)
    recipe = RECIPE._replace(flip=flip)
    x = np.asarray(classifier._augmented(jax.random.key(0), padded, indices, recipe))
    assert x.shape == (400, 2, 3, 1)
    found = {tuple(np.round((row.ravel() + 1) * 127.5).astype(int)) for row in x}
    windows = [padded[0, i : i + 2, j : j + 3] for i in range(3) for j in range(3)]
    windows += [window[:, ::-1] for window in windows] if flip else []
    assert found == {tuple(np.ravel(window).tolist()) for window in windows}


def test_other_shapes_are_refused(made, digits):
    with pytest.raises(ValueError, match=r"\(9, 8, 1\): this classifier of digits"):
        made.logits(jnp.zeros((2, 9, 8, 1)))
    train, test = digits
    with pytest.raises(ValueError, match="give image_size"):
        classifier.trained(
            train, test._replace(x=test.x[:, 1:]), data="digits", settings=RECIPE
        )


@pytest.mark.parametrize(
    "field, value", [("width", 0), ("num_epochs", 0), ("batch_size", 1401)]
)
def test_other_recipes_are_refused(digits, field, value):
    recipe = RECIPE._replace(**{field: value})
    with pytest.raises(ValueError, match=f"{field}={value}"):
        classifier.trained(*digits, data="digits", settings=recipe)


def test_a_file_gives_the_classifier_back(made, digits, tmp_path):
    path = tmp_path / "new/classifier.npz"
    classifier.save(path, made)
    assert [file.name for file in path.parent.iterdir()] == ["classifier.npz"]
    found = classifier.load(path, data="digits")
    assert found.network == made.network
    assert found[2:] == made[2:]
    x = images.normalised(digits[1].x[:5])
    np.testing.assert_array_equal(found.logits(x), made.logits(x))


def damaged(path, kind):
    """Makes the classifier's file unfit in one way."""
    with np.load(path) as file:
        arrays = dict(file)
    if kind == "text":
        path.write_text("weights")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "foreign":
        np.savez(path, weights=np.zeros(3))
    elif kind == "weights":
        arrays["params/logits/bias"][0] += 1
        np.savez(path, **arrays)
    elif kind == "version":
        header = str(arrays.pop("header")).replace(classifier.KIND, "another")
        np.savez(path, header=header, **arrays)
    elif kind == "pickle":
        np.savez(path, header=np.array([{}], object))
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps({}))


@pytest.mark.parametrize(
    "kind", ["text", "cut", "foreign", "weights", "version", "pickle", "bare pickle"]
)
def test_damaged_and_foreign_files_are_told_with_the_remedy(made, tmp_path, kind):
    path = tmp_path / "classifier.npz"
    classifier.save(path, made)
    damaged(path, kind)
    with pytest.raises(ValueError, match="is no classifier") as caught:
        classifier.load(path, data="mnist")
    told = str(caught.value)
    assert "\n" not in told
    command = "`python -m megjax.evaluation.classifier --data=mnist --data_dir=FOLDER"
    assert f"{command} --out={tmp_path}`" in told


def test_missing_files_and_other_sets_are_told_with_the_remedy(made, tmp_path):
    path = tmp_path / "classifier.npz"
    with pytest.raises(FileNotFoundError, match="no classifier at .*--data=NAME"):
        classifier.load(path)
    classifier.save(path, made)
    with pytest.raises(ValueError, match="classifier of digits: make it .*=cifar10"):
        classifier.load(path, data="cifar10")


@pytest.mark.slow
def test_the_command_tells_mistakes_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "megjax.evaluation.classifier", "--data=mnist"]
        + [f"--data_dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: No prepared dataset 'mnist' in")
    assert done.stderr.count("\n") == 1


def test_a_place_that_cannot_be_is_told_before_training(monkeypatch, tmp_path, digits):
    (tmp_path / "file").touch()
    names = ("data_dir", "image_size", "num_epochs", "width", "seed")
    given = dict.fromkeys(names) | {"data": "digits", "out": tmp_path / "file/in"}
    flags = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**given))
    monkeypatch.setattr(classifier, "flags", flags)
    monkeypatch.setattr(images, "labelled", lambda *_, **__: digits[0])
    monkeypatch.setattr(classifier, "trained", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(NotADirectoryError):
        classifier.main()
