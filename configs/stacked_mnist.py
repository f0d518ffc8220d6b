"""Stacked MNIST: three (or four) digits as channels, 1000 (10,000) modes.

    python train.py --config=configs/stacked_mnist.py:3
    python train.py --config=configs/stacked_mnist.py:3:paper
    python -m megjax.evaluation.classifier --data=mnist
    python evaluate.py --workdir=runs/stacked_mnist-3

Kumar et al. 2019, table 1.

Measured: `:3:paper` makes 0.71 iterations a second at width 512 on two CPU cores, so the
full length needs an accelerator; 60 iterations at width 32 were run on the real data.
"""

from megjax.recipes import base, image_sets, meg


def get_config(variant="3"):
    """The fixed set of 128 * 10^n stacks; with :paper the reference's settings."""
    num_stacked, paper = base.paper_variant(variant, "3")
    return meg.with_images(image_sets.stacked_config(num_stacked), paper=paper)
