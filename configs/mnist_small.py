"""MNIST with narrow networks in few iterations: on two CPU cores.

python train.py --config=configs/mnist_small.py
python sample.py --workdir=runs/mnist_small --steps=100 --inverse_temperature=10

Measured: 8 minutes on two shared CPU cores (3000 iterations); about half of the digits
can be named (Frechet distance 12 in a classifier's features).
"""

from megjax.recipes import image_sets, meg


def get_config(name="mnist"):
    """The configuration of `mnist`, made small.

    With the reference's penalty the energies of the first thousands of iterations lie
    in the thousands and the entropy plays no part; a hundred times the penalty keeps
    them of the size of the entropy.
    """
    config = meg.with_images(image_sets.mnist_config(name))
    config.width = 64
    config.meg.update(meg.in_nats() | {"score_weight": 1.0})
    config.train.num_steps = 3000
    config.train.evaluate_every = 500
    return config
