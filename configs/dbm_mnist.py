"""A deep Boltzmann machine, 784-200-200, on binary MNIST.

python train.py --config=configs/dbm_mnist.py --config.data_dir=DIR
python evaluate.py --workdir=runs/dbm_mnist

Mehta et al. 2019, figure 60: 20 epochs for each layer by itself, with the doublings of
Salakhutdinov and Hinton 2009 on both sides, then 20 epochs together, L1 throughout.
Measured: 3 minutes on one shared CPU core; bound on the test log-likelihood -79.1 nats.
"""

import jax

from configs import base, rbm_mnist
from megjax.energies import dbm, units
from megjax.evaluation import likelihood
from megjax.learners import base as learners_base
from megjax.learners import contrastive, stages
from megjax.training.experiment import Experiment


def get_config():
    """The settings of `rbm_l1_mnist`, three times, the last at a tenth of the rate."""
    config = rbm_mnist.mnist_config()
    del config.num_hidden, config.early_stopping
    config.num_hidden_1 = config.num_hidden_2 = 200
    config.num_mean_field_updates = 10
    config.num_pretraining_steps = 20 * 570
    config.joint_learning_rate = 0.0005
    config.contrast.l1 = 1e-3
    config.train.num_steps = 3 * 20 * 570
    config.train.evaluate_every = 20 * 570
    config.build = build
    return config


def build(config):
    """The deep machine on the rounded training images."""
    check(config)
    split, test = rbm_mnist.mnist(config)
    coding = contrastive.bits(split.train.shape)
    bias = rbm_mnist.base_rates(split)
    family, trained = pretrained(config, coding, visible_bias=bias)
    model = likelihood.Model(
        family,
        coding,
        params=lambda state: state.states[-1].model.params,
    )
    return Experiment(
        split.train,
        trained,
        rbm_mnist.evaluations(config, model, trained, split),
        rbm_mnist.protocols(config, model, trained, split, {"test": test}),
    )


def check(config):
    """Raises ValueError where the fields of a deep machine do not fit."""
    for field in ("num_hidden_1", "num_hidden_2", "num_pretraining_steps"):
        base.at_least(field, config[field], 1)
    base.at_least("num_mean_field_updates", config.num_mean_field_updates, 2)
    if config.contrast.centred:
        raise ValueError(
            "config.contrast.centred=True: only machines with one hidden layer can be "
            "centred; give False"
        )


def pretrained(config, coding, *, visible_bias, kind=units.BERNOULLI):
    """(the deep family, the learner that trains its layers and then all of it).

    kind: of all units. visible_bias [n]: the first ones.
    """
    sizes = (len(visible_bias), config.num_hidden_1, config.num_hidden_2)
    options = {"visible_bias": visible_bias, "visible": kind, "hidden": kind}
    lower, upper = dbm.stack(sizes, **options)
    family = dbm.family(sizes, num_updates=config.num_mean_field_updates, **options)
    num = config.num_pretraining_steps
    first = rbm_mnist.specification(config, lower, coding, num_steps=num)
    second = rbm_mnist.specification(config, upper, contrastive.IDENTITY, num_steps=num)
    together = rbm_mnist.specification(
        config,
        family,
        coding,
        num_steps=max(config.train.num_steps - 2 * num, 1),
        learning_rate=config.joint_learning_rate,
    )

    def hidden_draws(key, states, x):
        """What the second machine models: hidden units of the first, drawn at data."""
        v = coding.units(x[0])
        return lower.start(key, states[0].model.params, v)[1][None]

    def composed(key, states, own):
        """Both machines as one, its chains at images of the first machine's."""
        params = dbm.compose([states[0].model.params, states[1].model.params])
        key_image, key_units = jax.random.split(key)
        means = lower.mean(states[0].model.params, states[0].particles)
        v = kind.sample(key_image, kind.field(means), 1.0)
        optimizer = together.optimizer.init(params)
        return own.replace(
            model=learners_base.Player(params, {}, optimizer),
            particles=family.start(key_units, params, v),
        )

    return family, stages.stages(
        [
            stages.Stage(contrastive.contrastive(first), num),
            stages.Stage(contrastive.contrastive(second), num, data=hidden_draws),
            stages.Stage(contrastive.contrastive(together), num, enter=composed),
        ]
    )
