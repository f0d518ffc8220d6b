"""MNIST with narrow networks in few iterations: on two CPU cores.

python train.py --config=configs/mnist_small.py
python sample.py --workdir=runs/mnist_small --steps=100

Measured: 8 minutes of one CPU core (9000 iterations and the density ratio); nearly all
samples are recognisable digits. Frechet distance to the training images .3 in the
features of the MNIST classifier (test images .04).
"""

from megjax.recipes import image_sets, meg


def get_config(name="mnist"):
    """The configuration of `mnist`, made small."""
    config = meg.with_images(image_sets.mnist_config(name), width=64)
    config.train.num_steps = 9000
    config.train.evaluate_every = 1000
    return config
