"""Stacked MNIST: three (or four) digits as channels, 1000 (10,000) modes.

    python train.py --config=configs/stacked_mnist.py:3
    python -m megjax.evaluation.classifier --data=mnist
    python evaluate.py --workdir=runs/stacked_mnist-3

Kumar et al. 2019, table 1.

Measured: 0.68 iterations a second at width 512 on two CPU cores, so the full length needs
an accelerator; 60 iterations at width 32 were run on the real data.
"""

from megjax.recipes import image_sets, meg


def get_config(num_stacked="3"):
    """The reference's settings, on the fixed set of 128 * 10^n stacks."""
    return meg.with_images(image_sets.stacked_config(num_stacked))
