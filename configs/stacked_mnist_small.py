"""Stacked MNIST with narrow networks in few iterations: table 1 on two CPU cores.

python train.py --config=configs/stacked_mnist_small.py
python -m megjax.evaluation.classifier --data=mnist
python evaluate.py --workdir=runs/stacked_mnist_small

Measured with 24,112 iterations, as many as fit into 20 minutes of an idle core, where this
config makes 24,000 (`benchmarks.reproduce table1 --training_seconds=1200`, three seeds):
all 1000 modes among 26,000 samples, 997 to 999 with at least a quarter of the fair share;
KL to equal shares 0.07 nats.
"""

from megjax.recipes import image_sets, meg


def get_config(num_stacked="3"):
    """The configuration of `stacked_mnist`, made small as `mnist_small` is."""
    config = meg.with_images(image_sets.stacked_config(num_stacked), width=64)
    config.train.num_steps = 24_000
    config.train.evaluate_every = 5000
    return config
