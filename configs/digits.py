"""scikit-learn's 1797 handwritten digits, 8x8: the demo.

python train.py --config=configs/digits.py
python sample.py --workdir=runs/digits --steps=100 --inverse_temperature=5

Measured: 2 minutes on two CPU cores (6000 iterations); rough digits, many of which
can be named, and latent MALA sharpens them. See RESULTS.md.
"""

from megjax.recipes import meg


def get_config():
    """Narrow networks that train on two CPU cores in minutes."""
    config = meg.image_config("digits")
    config.width = 32
    config.meg.update(meg.in_nats() | {"latent_dim": 16, "score_weight": 0.1})
    config.train.num_steps = 6000
    config.train.evaluate_every = 1000
    return config
