"""Machines on scikit-learn's 1797 digits, 8x8, of two values: seconds.

python train.py --config=configs/rbm_digits.py
python evaluate.py --workdir=runs/rbm_digits
python train.py --config=configs/rbm_digits.py:labelled

`images` has so few hidden units that its likelihood is exact. `labelled` models images
and labels together, and classifies by free energy. Measured for `images`: 10 seconds on
one shared CPU core, most of it compilation; validation log-likelihood -19.4 nats.
`labelled` gives 94 % of the validation images their label.
"""

import functools

import numpy as np

from configs import base, rbm_mnist
from megjax.data import binary, images
from megjax.data.dataset import Dataset
from megjax.energies import rbm
from megjax.evaluation import likelihood, reconstruction
from megjax.learners import contrastive
from megjax.training.experiment import Experiment

VARIANTS = ("images", "labelled")
NUM_CLASSES = 10


def get_config(variant="images"):
    """2000 steps, with a fifth of the images kept back."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = rbm_mnist.machine_config()
    config.variant = variant
    config.num_hidden = {"images": 16, "labelled": 100}[variant]
    config.train.update({"num_steps": 3000, "log_every": 300, "evaluate_every": 1500})
    config.contrast.num_sample_sweeps = 300
    config.build = build
    return config


def build(config):
    """The machine of the variant."""
    built = base.choice(
        "variant", config.variant, images=build_images, labelled=build_labelled
    )
    return built(config)


def digits(config):
    """The digits in two values, 80 % to train on."""
    pixels, labels = images.digits_labelled()
    pixels = rbm_mnist.pixel_fn(config)(pixels, seed=0)
    return binary.split("digits", pixels, labels, validation_share=0.2)


def build_images(config):
    """A machine of the images alone, its log Z by enumeration."""
    base.at_least("num_hidden", config.num_hidden, 1)
    split = digits(config)
    family = rbm.family(64, config.num_hidden, visible_bias=rbm_mnist.base_rates(split))
    return rbm_mnist.measured(
        config,
        family,
        split,
        {"validation": split.validation_x},
        log_partition_fn=rbm.log_partition,
    )


def build_labelled(config):
    """A machine of rows: 64 pixels, then a unit for each of the ten labels."""
    base.at_least("num_hidden", config.num_hidden, 1)
    split = digits(config)
    train = rows(split.train_x, split.train_labels)
    validation = rows(split.validation_x, split.validation_labels)
    data = Dataset(
        "labelled_digits", train.shape[1:], len(train), train, lambda s, i: s[i]
    )
    coding = contrastive.bits(data.shape)
    family = rbm.family(train.shape[1], config.num_hidden)
    spec = rbm_mnist.specification(config, family, coding)
    model = likelihood.Model(family, coding)
    classified = functools.partial(
        reconstruction.classification, model, num_classes=NUM_CLASSES
    )
    return Experiment(
        data,
        contrastive.contrastive(spec),
        {
            "monitor": likelihood.monitor(model, train[: len(validation)], validation),
            "classification_train": classified(train, split.train_labels),
            "classification": classified(validation, split.validation_labels),
        },
    )


def rows(x, labels):
    """Images [N, H, W, 1] and labels [N] as rows [N, H W + 10] of -1 and 1."""
    one_hot = 2 * np.eye(NUM_CLASSES, dtype=np.float32)[labels] - 1
    return np.concatenate([x.reshape(len(x), -1), one_hot], axis=1)
