"""MNIST, or another set of its form, with the networks of stacked MNIST.

python train.py --config=configs/mnist.py
python train.py --config=configs/mnist.py:fashion_mnist
python -m megjax.evaluation.classifier --data=mnist
python evaluate.py --workdir=runs/mnist

Speed as `stacked_mnist`; the full length needs an accelerator.
"""

import functools

from configs import base
from megjax.data import images
from megjax.evaluation import classifier_metrics

NAMES = ("mnist", "fashion_mnist", "kmnist")


def get_config(name="mnist"):
    """The reference's settings for stacked MNIST."""
    if name not in NAMES:
        raise ValueError(f"data set {name!r}: choose one of {', '.join(NAMES)}")
    config = base.image_config(28)
    config.name = name
    config.evaluation = evaluation(name)
    config.build = build
    return config


def build(config):
    """MEG on the training split."""
    data = images.tfds_images(config.name, data_dir=config.data_dir or None)
    return measured(config, base.image_meg(config, data))


def evaluation(name):
    """Fields of `measured`: a file of `megjax.evaluation.classifier` for the set."""
    return {
        "classifier": f"runs/{name}_classifier/classifier.npz",
        "num_samples": 10_000,
    }


def measured(config, built):
    """An experiment on one of these sets with a classifier's opinion of its samples."""
    settings, name = config.evaluation, built.data.name
    base.at_least("evaluation.num_samples", settings.num_samples, 2)

    # Nothing is read before it is needed: training does without a classifier.
    def sets():
        data_dir = config.data_dir or None
        held_out, _ = images.labelled(name, split="test", data_dir=data_dir)
        return built.data.store, held_out

    opinion = classifier_metrics.classes(
        built.learner,
        functools.partial(base.classifier_space, settings.classifier, name),
        sets,
        num_samples=settings.num_samples,
    )
    return built._replace(protocols={"classes": opinion})
