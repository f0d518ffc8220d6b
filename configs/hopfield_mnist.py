"""A Hopfield model on binary MNIST, as an RBM with 200 Gaussian hidden units.

python train.py --config=configs/hopfield_mnist.py --config.data_dir=DIR
python evaluate.py --workdir=runs/hopfield_mnist

Mehta et al. 2019, eq. 200 and figure 60. Summing out hidden units of mean 0 and
variance 1 leaves pair couplings J = W W^T between pixels. Measured: 1 minute on one
shared CPU core; test log-likelihood -92.9 to -93.1 nats in three runs, by annealed
importance sampling.
"""

from megjax.recipes import boltzmann


def get_config():
    """The settings of `rbm_mnist`, at a lower rate: couplings go with the square.

    Pixels at the border are never on, so that no gradient reaches their weights, and
    the initial ones attract each other: without a penalty the state with the whole
    border on is the deepest of all, and chains of a few thousand sweeps find it.
    """
    config = boltzmann.image_config("mnist", learning_rate=0.001, l2=1e-4)
    config.hidden = "gaussian"
    return config
