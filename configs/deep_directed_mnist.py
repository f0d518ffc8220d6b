"""Digits by a deep directed model: Kim and Bengio, arXiv:1606.03439.

python train.py --config=configs/deep_directed_mnist.py
python train.py --config=configs/deep_directed_mnist.py:digits

Measured: 7 minutes on one CPU core (12 iterations of 4.6 GFLOP a second); most samples
are digits, of all ten classes. Frechet distance 4.7 in the features of the MNIST
classifier (test images 0.04), which evaluate.py needs:

python -m megjax.evaluation.classifier --data=mnist
python evaluate.py --workdir=runs/deep_directed_mnist
"""

from configs import base, deep_directed_two_spirals, mnist
from megjax.data import images
from megjax.evaluation import pictures
from megjax.learners import deep_directed
from megjax.networks import experts
from megjax.training.experiment import Experiment

VARIANTS = ("mnist", "digits")


def get_config(variant="mnist"):
    """Layers of a public implementation; scikit-learn's digits with narrow ones."""
    if variant not in VARIANTS:
        raise ValueError(f"data set {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = base.get_config()
    config.variant, config.data_dir = variant, ""
    config.batch_size = 128
    config.energy_hidden, config.generator_hidden = (1000, 500, 250, 128), (500, 500)
    config.deep_directed = deep_directed_two_spirals.steady() | {
        "latent_dim": 10,
        "num_experts": 128,
        "num_energy_updates": 1,
        "score_weight": 0.1,
        # Shorter than on the plane, as the run is: 0.9995 would still hold an eighth
        # of the weights of its start.
        "average_decay": 0.998,
    }
    config.evaluation = mnist.evaluation("mnist")
    config.train.num_steps = 4000
    config.train.iterations_per_call_cpu = 50
    config.train.evaluate_every = 1000
    if variant == "digits":
        config.energy_hidden, config.generator_hidden = (256, 128, 128), (128, 128)
    config.build = build
    return config


def build(config):
    """On MNIST's training split, or all that ships with scikit-learn."""
    data = images.digits()
    if config.variant == "mnist":
        data = images.tfds_images("mnist", data_dir=config.data_dir or None)
    dtype = base.compute_dtype(config.dtype)
    for field in ("energy_hidden", "generator_hidden"):
        for width in config[field]:
            base.at_least(field, width, 1)
    learner = deep_directed.deep_directed(
        deep_directed_two_spirals.spec(
            config,
            features=experts.Features(tuple(config.energy_hidden), dtype=dtype),
            generator=experts.Generator(
                tuple(config.generator_hidden), data.shape, bounded=True, dtype=dtype
            ),
        )
    )
    built = Experiment(data, learner, {"grid": pictures.sample_grid(learner)})
    return mnist.measured(config, built) if config.variant == "mnist" else built
