"""KDD Cup 99, 10 % file, for anomaly detection: Kumar et al. 2019, table 3.

python train.py --config=configs/kdd99.py
python train.py --config=configs/kdd99.py:raw

Measured: 15 minutes for 30 epochs on two cores shared with much else; 142 iterations a
second on idle ones. `anomaly/score_norm_f1` over the last ten evaluations: 0.942 to 0.950, see
RESULTS.md. The energy itself ranks the anomalies below the data.
"""

from configs import base
from megjax.data import kdd99
from megjax.evaluation import anomaly
from megjax.learners import meg
from megjax.networks import heads, mlp
from megjax.training.experiment import Experiment

VARIANTS = ("minmax", "raw")
EPOCH = 774
"""Iterations."""


def get_config(variant="minmax"):
    """Scaled inputs with their own penalty, or the reference's unscaled ones.

    The reference fits a scaler and discards what it returns; its weight of 100 belongs
    to the unscaled inputs. The average over some ten epochs, whose decay was chosen on
    a part of the training half and not on the test half, ranks more steadily than the
    weights of any moment: `anomaly_unaveraged` reports those.
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
        "average_decay": 0.0 if variant == "raw" else 0.9999,
    }
    config.train.num_steps = (55 if variant == "raw" else 30) * EPOCH
    config.train.log_every = config.train.evaluate_every = EPOCH
    config.train.save_every = 5 * EPOCH
    config.train.iterations_per_call = EPOCH
    config.train.iterations_per_call_cpu = EPOCH // 18
    config.train.compiler_options_cpu = base.compiler_options()
    config.build = build
    return config


def build(config):
    """MEG with perceptrons on 121 features of attacks, which are the normal class."""
    data, test = kdd99.kdd99(data_dir=config.data_dir or None, scale=config.scale)
    built = vector_meg(config, data)
    learner = built.learner
    learners = {"anomaly": learner}
    if config.meg.average_decay:
        learners["anomaly_unaveraged"] = learner._replace(
            energy=lambda state, x: learner.energy(state.replace(average=None), x)
        )
    evaluations = {
        name: anomaly.detection(anomaly.energy_scores(one), test, quantile=0.8)
        for name, one in learners.items()
    }
    return built._replace(evaluations=evaluations)


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
