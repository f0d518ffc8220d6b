"""scikit-learn's 1797 handwritten digits, 8x8: the demo.

python train.py --config=configs/digits.py
python sample.py --workdir=runs/digits --steps=100 --inverse_temperature=5

Measured: 2 minutes on two CPU cores (6000 iterations); recognisable digits, which
the walk sharpens. See RESULTS.md.
"""

from configs import base
from megjax.data import images


def get_config():
    """Narrow networks that train on two CPU cores in minutes."""
    config = base.image_config(8)
    config.width = 32
    config.meg.update(base.in_nats() | {"latent_dim": 16, "score_weight": 0.1})
    config.train.num_steps = 6000
    config.train.evaluate_every = 1000
    config.build = build
    return config


def build(config):
    """MEG on the images that ship with scikit-learn."""
    return base.image_meg(config, images.digits())
