"""Stacked MNIST: three (or four) digits as channels, 1000 (10,000) modes.

    python train.py --config=configs/stacked_mnist.py:3
    python -m megjax.evaluation.classifier --data=mnist
    python evaluate.py --workdir=runs/stacked_mnist-3

Kumar et al. 2019, table 1.

Measured: 0.68 iterations a second at width 512 on two CPU cores, so the full length needs
an accelerator; 60 iterations at width 32 were run on the real data.
"""

from configs import base
from megjax.data import images, stacked
from megjax.evaluation import classifier, mode_count


def get_config(num_stacked="3"):
    """The reference's settings."""
    if num_stacked not in ("3", "4"):
        raise ValueError(f"{num_stacked!r} stacked digits: choose 3 or 4")
    config = base.image_config(28)
    config.num_stacked = int(num_stacked)
    config.evaluation = {
        "classifier": "runs/mnist_classifier/classifier.npz",
        "num_samples": mode_count.SAMPLES_PER_MODE * 10**config.num_stacked,
    }
    config.build = build
    return config


def build(config):
    """MEG on the fixed set of 128 * 10^n stacks, composed on the device."""
    data = stacked.stacked_mnist(config.num_stacked, data_dir=config.data_dir or None)
    return measured(config, base.image_meg(config, data))


def measured(config, built):
    """The experiment with the protocol of table 1, whatever its learner."""
    settings = config.evaluation
    base.at_least("evaluation.num_samples", settings.num_samples, 1)

    # Nothing is read before it is needed: training does without a classifier.
    def modes(key, state):
        names = classifier.load(settings.classifier, data="mnist")
        _, labels = images.labelled("mnist", data_dir=config.data_dir or None)
        evaluate = mode_count.stack_modes(
            built.learner,
            names,
            built.data,
            labels,
            num_samples=settings.num_samples,
        )
        return evaluate(key, state)

    return built._replace(protocols={"modes": modes})
