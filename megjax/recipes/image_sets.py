"""Sets of images by name (`config.dataset`): how each is read, and what is measured."""

import functools
import hashlib
import pathlib

from megjax.data import images, stacked
from megjax.evaluation import (
    classifier,
    classifier_metrics,
    digits,
    fidelity,
    mode_count,
    pictures,
)
from megjax.recipes import base, cifar10

MNIST = ("mnist", "fashion_mnist", "kmnist")


def config(dataset):
    """The fields of an experiment on a set of images, but for those of the method.

    width: of the widest layer. remat: recompute activations instead of keeping them,
    for large images. default_init: PyTorch's default initialisation of the networks
    for 4 * 2^n pixels, as the reference has it for CelebA. norm: of the generator, batch
    (reference) or per_unit (`layers.BatchNorm`). networks: convolutional or dense.
    """
    fields = base.config()
    fields.dataset = dataset
    fields.data_dir = ""
    fields.width = 512
    fields.remat = fields.default_init = False
    fields.norm, fields.networks = "batch", "convolutional"
    if dataset in MNIST:
        fields.evaluation = evaluation(dataset)
    elif dataset == "cifar10":
        fields.evaluation = cifar10.evaluation()
    elif dataset == "celeb_a":
        fields.image_size = 64
    elif dataset == "oxford_flowers102":
        fields.image_size = 32
    return fields


def mnist_config(name):
    """The fields for MNIST or another set of its form. Raises ValueError at others."""
    if name not in MNIST:
        raise ValueError(f"data set {name!r}: choose one of {', '.join(MNIST)}")
    return config(name)


def stacked_config(num_stacked):
    """The fields for "3" or "4" digits stacked as channels: 1000 or 10,000 modes."""
    if num_stacked not in ("3", "4"):
        raise ValueError(f"{num_stacked!r} stacked digits: choose 3 or 4")
    fields = config("stacked_mnist")
    fields.num_stacked = int(num_stacked)
    fields.evaluation = evaluation("mnist") | {
        "num_samples": mode_count.SAMPLES_PER_MODE * 10**fields.num_stacked
    }
    return fields


def evaluation(name):
    """The group `evaluation` where a classifier judges the samples.

    classifier: a file of `megjax.evaluation.classifier` for the set.
    """
    return {
        "classifier": f"runs/{name}_classifier/classifier.npz",
        "num_samples": 10_000,
    }


def side(fields):
    """Pixels a side of the images that a config asks for."""
    known = {"digits": 8, "cifar10": 32, "stacked_mnist": 28}
    known |= dict.fromkeys(MNIST, 28)
    return known.get(fields.dataset) or fields.image_size


def channels(fields):
    """Channels of the images that a config asks for."""
    grey = fields.dataset == "digits" or fields.dataset in MNIST
    return fields.get("num_stacked", 1 if grey else 3)


def data(config):
    """The training images of `config.dataset`."""
    tfds = functools.partial(images.tfds_images, data_dir=config.data_dir or None)
    if config.dataset == "celeb_a":
        return tfds("celeb_a", image_size=config.image_size, crop=140)
    if config.dataset == "oxford_flowers102":
        return tfds(config.dataset, split="all", image_size=config.image_size)
    if config.dataset == "stacked_mnist":
        data_dir = config.data_dir or None
        return stacked.stacked_mnist(config.num_stacked, data_dir=data_dir)
    if config.get("dataset") == "digits":
        return images.digits()
    names = dict.fromkeys((*MNIST, "cifar10"), tfds)
    read = base.choice("dataset", config.dataset, **names)
    return read(config.dataset)


def grid(config, data, learner):
    """A grid of samples; of 8x8 digits also what names they get."""
    found = {"grid": pictures.sample_grid(learner)}
    if config.get("dataset") == "digits":
        found["digits"] = digits.digits({"": fidelity.generator(learner)})
    return found


def protocols(config, data, learner):
    """What the paper measures on the set."""
    if config.dataset == "cifar10":
        classified = functools.partial(classifier_space, name="cifar10")
        return cifar10.protocols(config.evaluation, data, learner, classified)
    if config.dataset == "stacked_mnist":
        return {"modes": modes(config, data, learner)}
    if config.dataset == "digits" and learner.log_ratio:
        return {"ratio": digits.digits(fidelity.by_ratio(learner))}
    if config.dataset in MNIST:
        return {"classes": classes(config, data, learner)}
    return {}


def classifier_space(path, name):
    """The features of a classifier of the set `name`, in a file."""
    found = classifier.load(path, data=name)
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    return fidelity.classifier_space(found, digest)


def classes(config, data, learner):
    """A classifier's opinion of samples, for MNIST and sets of its form."""
    settings, name = config.evaluation, config.dataset
    base.at_least("evaluation.num_samples", settings.num_samples, 2)

    # Nothing is read before it is needed: training does without a classifier.
    def sets():
        data_dir = config.data_dir or None
        held_out, _ = images.labelled(name, split="test", data_dir=data_dir)
        return data.store, held_out

    space = functools.partial(classifier_space, settings.classifier, name)
    num_samples = settings.num_samples
    return classifier_metrics.classes(learner, space, sets, num_samples=num_samples)


def modes(config, data, learner):
    """The protocol of table 1 of Kumar et al. 2019, whatever the learner."""
    settings = config.evaluation
    base.at_least("evaluation.num_samples", settings.num_samples, 1)

    def evaluation(key, state):
        names = classifier.load(settings.classifier, data="mnist")
        _, labels = images.labelled("mnist", data_dir=config.data_dir or None)
        evaluate = mode_count.stack_modes(
            learner, names, data, labels, num_samples=settings.num_samples
        )
        return evaluate(key, state)

    return evaluation
