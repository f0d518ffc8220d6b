"""MNIST, or another set of its form, with the networks of stacked MNIST.

python train.py --config=configs/mnist.py
python train.py --config=configs/mnist.py:fashion_mnist
python -m megjax.evaluation.classifier --data=mnist
python evaluate.py --workdir=runs/mnist

Speed as `stacked_mnist`; the full length needs an accelerator.
"""

from megjax.recipes import image_sets, meg


def get_config(name="mnist"):
    """The reference's settings for stacked MNIST."""
    return meg.with_images(image_sets.mnist_config(name))
