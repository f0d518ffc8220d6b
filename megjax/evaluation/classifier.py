"""A small convolutional classifier of any labelled image set, and its feature space.

    python -m megjax.evaluation.classifier --data=mnist --data_dir=../shared/data/tfds

It names the modes of stacked MNIST (Kumar et al. 2019, table 1), and its last hidden
layer gives Frechet distances that are not FID.
"""

import hashlib
import json
import logging
import pathlib
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import linen, traverse_util

from megjax import app, checks
from megjax.data import images, order
from megjax.data.dataset import Labelled
from megjax.io import atomic, npz
from megjax.learners.base import Player, player, updated
from megjax.networks.layers import BatchNorm, Convolution, Linear
from megjax.types import Array, Key, PyTree

LOG = logging.getLogger("megjax.classifier")
FILE_NAME = "classifier.npz"
KIND = "megjax classifier 1"
BATCH_SIZE = 1000
"""Images of one call in inference."""


class Settings(NamedTuple):
    """How a classifier is trained.

    width: channels of the first layer. shift: pixels that an image moves at most, at
    random, in both directions. flip: whether it is mirrored at random.
    learning_rate: the highest of Adam's one cycle.
    """

    width: int = 32
    num_epochs: int = 6
    batch_size: int = 128
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    shift: int = 2
    flip: bool = False


SETTINGS = {"cifar10": Settings(width=48, num_epochs=10, shift=4, flip=True)}
"""By the name of the data; `Settings()`, which suits digits, for others."""


class Network(linen.Module):
    """Images x [B, H, W, C] -> (logits [B, num_classes], features [B, 4 width]).

    Three strided stages; the features are means over the pixels of the last one.
    """

    width: int
    num_classes: int

    @linen.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        for name, factor, *form in (
            ("stem", 1, 5, 2, 2),
            ("low", 1, 3, 1, 1),
            ("down", 2, 3, 2, 1),
            ("middle", 2, 3, 1, 1),
            ("top", 4, 3, 2, 1),
        ):
            x = Convolution(factor * self.width, *form, name=name)(x)
            x = BatchNorm(scale_std=0.0, name=f"{name}_norm")(x, train)
            x = jax.nn.relu(x)
        features = jnp.mean(x, axis=(1, 2))
        return Linear(self.num_classes, name="logits")(features), features


class Classifier(NamedTuple):
    """A trained network, always in inference mode: running statistics, no noise.

    data: name of the set it was trained on. image_shape: (H, W, C).
    test_accuracy: fraction of that set's test images it names rightly.
    """

    network: Network
    variables: PyTree
    data: str
    image_shape: tuple[int, ...]
    test_accuracy: float

    @property
    def num_classes(self) -> int:
        """Classes that it tells apart."""
        return self.network.num_classes

    def logits(self, x: Array) -> Array:
        """Of images in [-1, 1]: [B, H, W, C] -> [B, num_classes].

        Raises ValueError for images of another shape than it was trained on.
        """
        return _outputs(self, x)[0]

    def features(self, x: Array) -> Array:
        """The last hidden layer [B, 4 width]; images and errors as for `logits`."""
        return _outputs(self, x)[1]


def _outputs(classifier: Classifier, x: Array) -> tuple[Array, Array]:
    if tuple(x.shape[1:]) != classifier.image_shape:
        raise ValueError(
            f"images of shape {tuple(x.shape[1:])}: this classifier of "
            f"{classifier.data} takes {classifier.image_shape}."
        )
    return _inference(classifier.network, classifier.variables, x)


@partial(jax.jit, static_argnums=0)
def _inference(network: Network, variables: PyTree, x: Array) -> tuple[Array, Array]:
    return network.apply(variables, x, train=False)


def probabilities(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities of images uint8 [N, H, W, C]: [N, num_classes], in batches."""
    found = []
    for start in range(0, len(pixels), BATCH_SIZE):
        batch = images.normalised(pixels[start : start + BATCH_SIZE])
        found.append(np.asarray(jax.nn.softmax(classifier.logits(batch))))
    return np.concatenate(found)


def accuracy(classifier: Classifier, pixels: np.ndarray, labels: np.ndarray) -> float:
    """Share of images uint8 [N, H, W, C] whose likeliest class is their label [N]."""
    named = np.argmax(probabilities(classifier, pixels), axis=1)
    return float(np.mean(named == labels))


def trained(
    train: Labelled,
    test: Labelled,
    *,
    data: str,
    settings: Settings,
    seed: int = 0,
) -> Classifier:
    """A classifier of `train`, with its accuracy on `test`, which chooses nothing.

    Both hold pixels uint8 [N, H, W, C]. Raises ValueError where they disagree in shape
    or `settings` does not fit.
    """
    _check(train, test, settings)
    keys = jax.random.split(jax.random.key(seed), 3)
    network = Network(settings.width, int(train.labels.max()) + 1)
    epoch = len(train.x) // settings.batch_size
    num_steps = epoch * settings.num_epochs
    init = jax.jit(partial(network.init, train=False))
    variables = init(keys[0], jnp.zeros((1, *train.x.shape[1:])))
    state = player(variables, _optimizer(settings, num_steps))
    margin = [(0, 0), *[(settings.shift, settings.shift)] * 2, (0, 0)]
    store = jnp.pad(train.x, margin), jnp.asarray(train.labels)
    for i in range(settings.num_epochs):
        losses = []
        for j in range(i * epoch, (i + 1) * epoch):
            state, loss = _step(network, settings, num_steps, state, j, keys[1:], store)
            losses.append(loss)
        LOG.info("epoch %d of %d: loss %.4f", i + 1, settings.num_epochs, _mean(losses))
    variables = {"params": state.params, **state.variables}
    shape = tuple(train.x.shape[1:])
    found = Classifier(network, variables, data, shape, float("nan"))
    return found._replace(test_accuracy=accuracy(found, test.x, test.labels))


def _check(train: Labelled, test: Labelled, settings: Settings) -> None:
    if train.x.shape[1:] != test.x.shape[1:]:
        raise ValueError(
            f"test images have shape {test.x.shape[1:]}, training images "
            f"{train.x.shape[1:]}: give image_size to make them alike."
        )
    for field in ("width", "num_epochs", "batch_size"):
        if getattr(settings, field) < 1:
            raise ValueError(f"{field}={getattr(settings, field)}: give at least 1.")
    if settings.batch_size > len(train.x):
        raise ValueError(
            f"batch_size={settings.batch_size} exceeds the {len(train.x)} images."
        )


def _mean(losses: list[Array]) -> float:
    mean = float(jnp.mean(jnp.stack(losses)))
    if not np.isfinite(mean):
        raise FloatingPointError("the classifier's loss is not finite")
    return mean


def _optimizer(settings: Settings, num_steps: int) -> optax.GradientTransformation:
    rate = optax.cosine_onecycle_schedule(num_steps, settings.learning_rate)
    return optax.adamw(rate, weight_decay=settings.weight_decay)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _step(
    network: Network,
    settings: Settings,
    num_steps: int,
    state: Player,
    number,
    keys,
    store,
) -> tuple[Player, Array]:
    """The player after step `number` of `num_steps`, and the loss of its batch."""
    pixels, labels = store
    indices = order.batch_indices(
        keys[0], number, num_examples=len(pixels), shape=(settings.batch_size,)
    )
    x = _augmented(jax.random.fold_in(keys[1], number), pixels, indices, settings)

    def loss(params):
        (logits, _), moved = network.apply(
            {"params": params, **state.variables}, x, train=True, mutable="batch_stats"
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits, labels[indices]
        )
        return jnp.mean(losses), moved

    (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    state = updated(state, gradient, _optimizer(settings, num_steps))
    return state.replace(variables=moved), value


def _augmented(key: Key, padded: Array, indices: Array, settings: Settings) -> Array:
    """Images without their padding, shifted and mirrored at random: [B, H, W, C]."""
    key_row, key_column, key_flip = jax.random.split(key, 3)
    height, width = (side - 2 * settings.shift for side in padded.shape[1:3])
    places = 2 * settings.shift + 1
    rows = jax.random.randint(key_row, indices.shape, 0, places)
    columns = jax.random.randint(key_column, indices.shape, 0, places)
    rows = rows[:, None] + jnp.arange(height)
    columns = columns[:, None] + jnp.arange(width)
    if settings.flip:
        mirrored = jax.random.bernoulli(key_flip, shape=(len(indices), 1))
        columns = jnp.where(mirrored, columns[:, ::-1], columns)
    window = padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
    return images.normalised(window)


def save(path: str | pathlib.Path, classifier: Classifier) -> None:
    """Writes weights and a JSON header to an .npz file, whole or not at all."""
    arrays = _flat(classifier.variables)
    header = {
        "kind": KIND,
        "data": classifier.data,
        "image_shape": classifier.image_shape,
        "test_accuracy": classifier.test_accuracy,
        "width": classifier.network.width,
        "num_classes": classifier.num_classes,
        "sha256": _digest(arrays),
    }
    path = checks.path(path)
    atomic.folder(path.parent)
    arrays["header"] = np.array(json.dumps(header))
    atomic.replace(path, lambda file: np.savez(file, **arrays))


def load(path: str | pathlib.Path, *, data: str | None = None) -> Classifier:
    """The classifier of a file, which must be one of the set `data` where that is given.

    Raises FileNotFoundError and, for damaged and foreign files and other sets,
    ValueError; both name the command that makes the file.
    """
    path = checks.path(path)
    remedy = (
        "make it with `python -m megjax.evaluation.classifier "
        f"--data={data or 'NAME'} --data_dir=FOLDER --out={path.parent}`"
    )
    if not path.is_file():
        raise FileNotFoundError(f"no classifier at {path}: {remedy}")
    try:
        found = _read(path)
    except (ValueError, KeyError, TypeError) as error:
        cause = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} is no classifier ({cause}): {remedy}") from error
    if data not in (None, found.data):
        raise ValueError(f"{path} is a classifier of {found.data}: {remedy}")
    return found


def _read(path: pathlib.Path) -> Classifier:
    arrays = npz.read(path)
    header = json.loads(str(arrays.pop("header")))
    if header["kind"] != KIND:
        raise ValueError(f"it says {header['kind']!r}, not {KIND!r}")
    if header["sha256"] != _digest(arrays):
        raise ValueError("its weights do not have the sha256 of its header")
    return Classifier(
        Network(header["width"], header["num_classes"]),
        traverse_util.unflatten_dict(arrays, sep="/"),
        header["data"],
        tuple(header["image_shape"]),
        header["test_accuracy"],
    )


def _flat(variables: PyTree) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(value) for name, value in flat.items()}


def _digest(arrays: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def main() -> None:
    """Trains the classifier of the command line, writes it, prints its accuracy."""
    given = flags.FLAGS
    settings = SETTINGS.get(given.data, Settings())
    fields = {"width": given.width, "num_epochs": given.num_epochs}
    settings = settings._replace(**{k: v for k, v in fields.items() if v is not None})
    read = partial(
        images.labelled,
        given.data,
        data_dir=given.data_dir,
        image_size=given.image_size,
    )
    train, test = (Labelled(*read(split=name)) for name in ("train", "test"))
    path = f"runs/{given.data}_classifier" if given.out is None else given.out
    path = checks.path(path) / FILE_NAME
    # Now, since training takes minutes.
    atomic.folder(path.parent)
    start = time.monotonic()
    found = trained(train, test, data=given.data, settings=settings, seed=given.seed)
    save(path, found)
    print(
        f"{path}: {found.test_accuracy:.2%} of {len(test.x)} test images of "
        f"{given.data} right, trained in {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "TFDS set with labels: mnist, cifar10, ...")
    flags.DEFINE_string("data_dir", None, "Where the sets lie; default $TFDS_DATA_DIR.")
    flags.DEFINE_string("out", None, "Directory; default runs/DATA_classifier.")
    flags.DEFINE_integer("image_size", None, "Side to resize to; default as they are.")
    flags.DEFINE_integer("num_epochs", None, "Default: as suits the data.")
    flags.DEFINE_integer("width", None, "Channels of the first layer; likewise.")
    flags.DEFINE_integer("seed", 0, "Of everything random.")
    flags.mark_flag_as_required("data")
    app.run(main)
