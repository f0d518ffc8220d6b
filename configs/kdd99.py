"""KDD Cup 99, 10 % file, for anomaly detection: Kumar et al. 2019, table 3.

python train.py --config=configs/kdd99.py
python train.py --config=configs/kdd99.py:raw

Measured: 5 minutes on two CPU cores (142 iterations a second). The scores are not
evaluated yet.
"""

from configs import base
from megjax.data import kdd99
from megjax.experiment import Experiment
from megjax.learners import meg
from megjax.networks import heads, mlp

VARIANTS = ("minmax", "raw")


def get_config(variant="minmax"):
    """Scaled inputs with their own penalty, or the reference's unscaled ones.

    The reference fits a scaler and discards what it returns; its weight of 100 belongs
    to the unscaled inputs.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = base.get_config()
    config.data_dir = ""
    config.batch_size = 256
    config.scale = "none" if variant == "raw" else "minmax"
    config.meg = base.meg_defaults() | {
        "latent_dim": 32,
        "num_energy_updates": 1,
        "score_weight": 100.0 if variant == "raw" else 1.0,
    }
    config.train.num_steps = 55 * 774
    config.train.evaluate_every = 7740
    config.train.iterations_per_call_cpu = 20
    config.train.compiler_options_cpu = base.compiler_options()
    config.build = build
    return config


def build(config):
    """MEG with perceptrons on 121 features of attacks, which are the normal class."""
    data, _ = kdd99.kdd99(data_dir=config.data_dir or None, scale=config.scale)
    return vector_meg(config, data)


def vector_meg(config, data):
    """MEG with the reference's perceptrons on vectors."""
    dtype = base.compute_dtype(config.dtype)
    hidden = (256, 128, 128)
    learner = meg.meg(
        base.meg_spec(
            config,
            energy=heads.Energy(mlp.Trunk(hidden, dtype=dtype)),
            generator=mlp.Generator((64, 128), data.shape[0], dtype=dtype),
            statistics=mlp.Statistics(hidden, dtype=dtype),
        )
    )
    return Experiment(data, learner, {})
