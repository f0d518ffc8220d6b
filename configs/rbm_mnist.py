"""A restricted Boltzmann machine with 200 hidden units on binary MNIST.

python train.py --config=configs/rbm_mnist.py --config.data_dir=DIR
python evaluate.py --workdir=runs/rbm_mnist
python sample.py --workdir=runs/rbm_mnist --space=data --kernel=gibbs --steps=1000

The RBM of Mehta et al. 2019, figure 60. Measured: 1 minute on one shared CPU core and
another to evaluate; test log-likelihood by annealed importance sampling between -81 and
-85 nats from run to run, and -94.5 with `--config.pixels=drawn`. `rbm_mnist.py:notebook` has
the chains of fluctuating temperature and the nearly constant rate of the authors' notebook,
and is far worse: -251 nats.
"""

from megjax.recipes import boltzmann


def get_config(variant="decaying"):
    """20 epochs of persistent contrastive divergence with one sweep a step."""
    config = boltzmann.image_config("mnist")
    if variant == "notebook":
        config.contrast.fluctuating_temperature = True
        config.contrast.update({"learning_rate": 0.01, "schedule": "power"})
    elif variant != "decaying":
        raise ValueError(f"variant {variant!r}: choose one of decaying, notebook")
    return config
