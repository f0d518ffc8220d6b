"""MNIST, or another set of its form, with the networks of stacked MNIST.

python train.py --config=configs/mnist.py
python train.py --config=configs/mnist.py:fashion_mnist
python train.py --config=configs/mnist.py:mnist:paper
python -m megjax.evaluation.classifier --data=mnist
python evaluate.py --workdir=runs/mnist

Speed as `stacked_mnist`; the full length needs an accelerator.
"""

from megjax.recipes import base, image_sets, meg


def get_config(variant="mnist"):
    """A set of MNIST's form; with :paper the reference's settings for stacked MNIST."""
    name, paper = base.paper_variant(variant, "mnist")
    return meg.with_images(image_sets.mnist_config(name), paper=paper)
