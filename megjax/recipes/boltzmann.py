"""Experiments with Boltzmann machines and other energies trained by contrast.

Mehta et al. 2019, sections 15 to 17.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from megjax.data import binary, images
from megjax.data import ising as lattices
from megjax.data.dataset import Dataset, Labelled
from megjax.energies import dbm, ising, rbm, units
from megjax.evaluation import ising as observables
from megjax.evaluation import likelihood, pictures, reconstruction
from megjax.learners import base as learners_base
from megjax.learners import contrastive, proximal, stages, stopping
from megjax.networks import experts
from megjax.recipes import base, deep_directed, planar_sets
from megjax.samplers import mala
from megjax.training.experiment import Recipe

EPOCH = 570
"""Batches of 100 in MNIST's 57,000 training images."""
TEMPERATURES = ("1.75", "2.25", "2.75")
NUM_CLASSES = 10


def settings(**changes):
    """`config.contrast`: hyperparameters of `contrastive.Spec` and `proximal.Spec`."""
    return base.defaults(contrastive.Spec) | base.defaults(proximal.Spec) | changes


def config(**changes):
    """Fields of any energy trained by contrast; changes: of the group `contrast`."""
    fields = base.config()
    fields.batch_size = 100
    fields.contrast = settings(**changes)
    fields.train.iterations_per_call = fields.train.iterations_per_call_cpu = 30
    return fields


def image_config(dataset, **changes):
    """Fields of a machine with one hidden layer on images of two values.

    dataset: mnist, or scikit-learn's digits. pixels: rounded, or drawn once with the
    grey levels as probabilities. hidden: bernoulli, or gaussian of mean 0, whose biases
    stay. early_stopping: training rests once held-out images have `gap` nats more free
    energy than trained ones, measured every so many steps; 0 is never.
    evaluation.log_partition: by annealing, or by enumeration where hidden units are
    few. evaluation.num_reverse_sweeps: from the data to the start of the reverse
    annealing.
    """
    fields = config(**changes)
    fields.dataset = dataset
    fields.data_dir = ""
    fields.pixels, fields.hidden, fields.num_hidden = "rounded", "bernoulli", 200
    fields.early_stopping = {"gap": 0.0, "every": EPOCH}
    fields.evaluation = {
        "log_partition": "annealing",
        "num_examples": 1000,
        "num_chains": 100,
        "num_steps": 10_000,
        "num_reverse_sweeps": 1000,
        "num_fantasies": 1000,
    }
    if dataset == "mnist":
        fields.train.num_steps = 20 * EPOCH
        fields.train.log_every = EPOCH
        fields.train.save_every = fields.train.evaluate_every = 5 * EPOCH
    fields.recipe = binary_images
    return fields


def spec(
    config, family, coding, *, num_steps=None, learning_rate=None, frozen=(), start=None
):
    """The specification of `config.contrast` and a family.

    num_steps, learning_rate: of this machine, where several train in one run. frozen:
    names of parameters that stay.
    """
    group = config.contrast
    optimizer = proximal.Spec(**{name: group[name] for name in proximal.Spec._fields})
    if learning_rate is not None:
        optimizer = optimizer._replace(learning_rate=learning_rate)
    return contrastive.Spec(
        family,
        coding,
        **base.plain_fields(contrastive.Spec, group),
        start=start,
        optimizer=proximal.optimizer(
            optimizer, num_steps or config.train.num_steps, frozen=frozen
        ),
    )


def image_data(config):
    """Images of two values, some held out: 5 % of MNIST, a fifth of the digits."""
    draw = base.choice(
        "pixels", config.pixels, rounded=binary.rounded, drawn=binary.drawn
    )
    name, data_dir = config.dataset, config.data_dir or None
    if base.choice("dataset", name, mnist=False, digits=True):
        pixels, labels = images.digits_labelled()
        return binary.split(name, draw(pixels, seed=0), labels, held_out_fraction=0.2)
    pixels, labels = images.labelled(name, data_dir=data_dir)
    test, test_labels = images.labelled(name, split="test", data_dir=data_dir)
    data = binary.split(name, draw(pixels, seed=0), labels)
    test = Labelled(images.normalised(draw(test, seed=1)), test_labels)
    return data._replace(reference={**data.reference, "test": test})


def base_rates(data):
    """Visible biases that give every pixel its mean in the training set, [n]."""
    x = data.reference["train"].x
    if not (np.min(x) >= -1 and np.max(x) <= 1):
        raise ValueError(
            f"{data.name} has values from {np.min(x):.6g} to {np.max(x):.6g}: give images "
            "in [-1, 1], which the units take as probabilities (x + 1) / 2"
        )
    means = (np.mean(x, axis=0).ravel() + 1) / 2
    return rbm.visible_bias(jnp.asarray(means), visible=units.BERNOULLI)


def image_spec(config, shape, data=None):
    """The specification of a machine whose visible biases start at the base rates."""
    # Sums over many units: no arithmetic of half precision.
    base.choice("dtype", config.dtype, float32=None)
    base.at_least("num_hidden", config.num_hidden, 1)
    kinds = {"bernoulli": units.BERNOULLI, "gaussian": units.GAUSSIAN}
    family = rbm.family(
        int(np.prod(shape)),
        config.num_hidden,
        hidden=base.choice("hidden", config.hidden, **kinds),
        visible_bias=None if data is None else base_rates(data),
    )
    frozen = ("hidden_bias",) if config.hidden == "gaussian" else ()
    return spec(config, family, contrastive.bits(shape), frozen=frozen)


def image_learner(config, shape, data=None):
    """A machine that may stop early."""
    base.at_least("early_stopping.gap", config.early_stopping.gap, 0)
    base.at_least("early_stopping.every", config.early_stopping.every, 1)
    own = image_spec(config, shape, data)
    learner = contrastive.contrastive(own)
    if config.early_stopping.gap:
        learner = stopping.stopped_early(
            learner,
            functools.partial(validation_gap, own, data),
            limit=config.early_stopping.gap,
            every=config.early_stopping.every,
        )
    if config.evaluation.log_partition != "enumeration":
        return learner
    params = image_model(config, shape).params
    return learner._replace(log_partition=lambda s: rbm.log_partition(params(s)))


def validation_gap(spec, data, state):
    """Mean free energy of images held out over that of images trained on: []."""
    if data is None:
        raise ValueError("early stopping needs the training set")
    parts = [data.reference[name].x for name in ("train", "validation")]
    num = min(1000, *map(len, parts))
    seen = [jnp.asarray(x[:num]) for x in parts]
    model = likelihood.Model(spec.family, spec.coding)
    return likelihood.free_energy_gap(model, state.model.params, *seen)


def image_model(config, shape):
    """The machine for evaluations."""
    own = image_spec(config, shape)
    stopped = config.early_stopping.gap > 0

    def params(state):
        return (state.inner if stopped else state).model.params

    return likelihood.Model(own.family, own.coding, params)


def deep_model(config, shape):
    """The deep machine for evaluations, of the last stage."""
    return likelihood.Model(
        deep_family(config, shape),
        contrastive.bits(shape),
        lambda state: state.states[-1].model.params,
    )


def evaluations_of(model_fn, config, data, learner):
    """What is quick enough for the training loop; model_fn: of a config and a shape."""
    model, num = model_fn(config, data.shape), config.evaluation.num_examples
    base.at_least("evaluation.num_examples", num, 2)
    train_x, validation_x = (
        data.reference[name].x[:num] for name in ("train", "validation")
    )
    return {
        "monitor": likelihood.monitor(model, train_x, validation_x),
        "reconstruction": reconstruction.reconstructions(model, validation_x),
        "weights": reconstruction.weight_pictures(model, data.shape),
        "grid": pictures.sample_grid(learner),
    }


def protocols_of(model_fn, config, data, learner):
    """What takes minutes: likelihoods and long chains."""
    group, model = config.evaluation, model_fn(config, data.shape)
    for field in ("num_chains", "num_steps", "num_reverse_sweeps", "num_fantasies"):
        base.at_least(f"evaluation.{field}", group[field], 1)
    parts = {name: examples.x for name, examples in data.reference.items()}
    fantasies = reconstruction.fantasies(
        model,
        learner,
        parts["validation"][: group.num_fantasies],
        parts["train"][: group.num_fantasies],
        num_sweeps=(10, 100, 300, 1000),
    )
    name = "test" if "test" in parts else "validation"
    sets = {name: parts[name], "train": parts["train"][: 10 * group.num_examples]}
    log_likelihood = functools.partial(
        likelihood.log_likelihood, model, sets, num_chains=group.num_chains
    )
    found = {"fantasies": fantasies}
    by = group.log_partition
    if base.choice("evaluation.log_partition", by, annealing=False, enumeration=True):
        log_z_fn = likelihood.by_enumeration(rbm.log_partition)
        return found | {"likelihood": log_likelihood(log_z_fn=log_z_fn)}
    biases = {"visible_bias": base_rates(data)}
    annealing = functools.partial(
        likelihood.by_annealing, model, biases, num_steps=group.num_steps
    )
    reverse = annealing(num_sweeps=group.num_reverse_sweeps)
    return found | {
        "likelihood": log_likelihood(log_z_fn=annealing()),
        "likelihood_reverse": log_likelihood(log_z_fn=reverse),
    }


def labelled_data(config):
    """Rows of 64 pixels, then a unit for each of the ten labels."""
    data = image_data(config)
    known = data.reference["train"], data.reference["validation"]
    train, validation = (rows(*examples) for examples in known)
    reference = {"validation": Labelled(validation, known[1].labels)}
    take = lambda store, i: store[i]
    shape = train.shape[1:]
    return Dataset("labelled_digits", shape, len(train), train, take, None, reference)


def rows(x, labels):
    """Images [N, H, W, 1] and labels [N] as rows [N, H W + 10] of -1 and 1."""
    one_hot = 2 * np.eye(NUM_CLASSES, dtype=np.float32)[labels] - 1
    return np.concatenate([x.reshape(len(x), -1), one_hot], axis=1)


def labelled_spec(config, shape):
    """The specification of a machine of rows."""
    base.at_least("num_hidden", config.num_hidden, 1)
    return spec(config, rbm.family(*shape, config.num_hidden), contrastive.bits(shape))


def labelled_learner(config, shape, data=None):
    """A machine of images and labels together."""
    del data
    return contrastive.contrastive(labelled_spec(config, shape))


def labelled_evaluations(config, data, learner):
    """Free energies, and how often they give images their label."""
    del learner
    own = labelled_spec(config, data.shape)
    model = likelihood.Model(own.family, own.coding)
    classified = functools.partial(
        reconstruction.classification, model, num_classes=NUM_CLASSES
    )
    train, held_out = data.store, data.reference["validation"]
    train_labels = np.argmax(train[:, -NUM_CLASSES:], axis=1)
    return {
        "monitor": likelihood.monitor(model, train[: len(held_out.x)], held_out.x),
        "classification_train": classified(train, train_labels),
        "classification": classified(*held_out),
    }


def deep_config(dataset, **changes):
    """Fields of a deep machine with two hidden layers, of `image_config` otherwise.

    num_pretraining_steps: of each layer by itself. joint_learning_rate: of all of it.
    """
    fields = image_config(dataset, **changes)
    del fields.num_hidden, fields.early_stopping, fields.hidden
    fields.num_hidden_1 = fields.num_hidden_2 = 200
    fields.num_mean_field_updates = 10
    fields.num_pretraining_steps = 20 * EPOCH
    fields.joint_learning_rate = 0.0005
    fields.train.num_steps = 3 * 20 * EPOCH
    fields.train.evaluate_every = 20 * EPOCH
    fields.recipe = deep_images
    return fields


def deep_options(config, shape, kind=units.BERNOULLI, data=None):
    """(sizes, options) of `dbm.family` and `dbm.stack`; kind: of all units."""
    for field in ("num_hidden_1", "num_hidden_2", "num_pretraining_steps"):
        base.at_least(field, config[field], 1)
    base.at_least("num_mean_field_updates", config.num_mean_field_updates, 2)
    if config.contrast.centred:
        raise ValueError(
            "config.contrast.centred=True: only machines with one hidden layer can be "
            "centred; give False"
        )
    num_visible = int(np.prod(shape))
    bias = jnp.zeros(num_visible) if data is None else base_rates(data)
    sizes = (num_visible, config.num_hidden_1, config.num_hidden_2)
    return sizes, {"visible_bias": bias, "visible": kind, "hidden": kind}


def deep_family(config, shape, kind=units.BERNOULLI):
    """The deep machine itself."""
    sizes, options = deep_options(config, shape, kind)
    return dbm.family(sizes, num_updates=config.num_mean_field_updates, **options)


def deep_learner(config, shape, data=None):
    """The deep machine of images."""
    return pretrained(config, shape, contrastive.bits(shape), data=data)


def pretrained(config, shape, coding, *, kind=units.BERNOULLI, data=None):
    """The learner that trains the layers of a deep machine, and then all of it."""
    sizes, options = deep_options(config, shape, kind, data)
    lower, upper = dbm.stack(sizes, **options)
    family = dbm.family(sizes, num_updates=config.num_mean_field_updates, **options)
    num = config.num_pretraining_steps
    first = spec(config, lower, coding, num_steps=num)
    second = spec(config, upper, contrastive.IDENTITY, num_steps=num)
    together = spec(
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

    return stages.stages(
        [
            stages.Stage(contrastive.contrastive(first), num),
            stages.Stage(contrastive.contrastive(second), num, data=hidden_draws),
            stages.Stage(contrastive.contrastive(together), num, enter=composed),
        ]
    )


def lattice_fields(fields, temperature):
    """The fields of Ising configurations at a temperature of notebook 18."""
    if temperature not in TEMPERATURES:
        raise ValueError(
            f"temperature {temperature!r}: choose one of {', '.join(TEMPERATURES)}"
        )
    fields.inverse_temperature = 1 / float(temperature)
    fields.size, fields.num_examples = 40, 10_000
    fields.evaluation = {"num_fantasies": 500}
    return fields


def deep_lattice_config(temperature, **changes):
    """Fields of a deep machine of Ising configurations."""
    fields = deep_config("mnist", **changes)
    del fields.dataset, fields.data_dir, fields.pixels
    fields.recipe = deep_lattice
    return lattice_fields(fields, temperature)


def lattice_config(temperature, **changes):
    """Fields of a machine that learns the couplings of Ising configurations."""
    fields = lattice_fields(config(**changes), temperature)
    fields.recipe = maxent_lattice
    return fields


def lattice_data(config):
    """Configurations of the square lattice."""
    return lattices.ising(
        config.inverse_temperature,
        size=config.size,
        num_examples=config.num_examples,
        seed=config.train.seed,
    )


def lattice_evaluations(config, data, learner):
    """Fantasies against the data, and learned couplings against 1 / T."""
    beta = config.inverse_temperature

    def couplings(state):
        return jnp.ravel(state.model.params["couplings"])

    return {
        "ising": fantasies(config, lattices.chains(data), learner),
        "couplings": observables.recovered(couplings, beta),
    }


def fantasies(config, chains, learner):
    """Energies and magnetisations of samples against those of the data."""
    num = config.evaluation.num_fantasies
    base.at_least("evaluation.num_fantasies", num, 2)
    beta = config.inverse_temperature
    return observables.ising(learner, chains, beta, num_samples=num)


def lattice_learner(config, shape, data=None):
    """One coupling for each edge of the lattice."""
    del data
    side = shape[0]
    family = ising.family(side**2, edges=ising.square_lattice(side))
    return contrastive.contrastive(spec(config, family, contrastive.spins(shape)))


def split_lattice_data(config):
    """Configurations, 5 % of them held out, and by chain what they were drawn from."""
    data = lattice_data(config)
    labels = np.zeros(data.num_examples, np.int32)
    split = binary.split("ising", data.store, labels)
    return split._replace(reference={"chains": lattices.chains(data)})


def deep_lattice_learner(config, shape, data=None):
    """A deep machine all of whose units are spins, without biases at the start."""
    del data
    return pretrained(config, shape, contrastive.spins(shape), kind=units.SPIN)


def deep_lattice_evaluations(config, data, learner):
    """Fantasies against the data."""
    return {"ising": fantasies(config, data.reference["chains"], learner)}


def neural_config(dataset, **changes):
    """Fields of a neural energy in the plane, of experts in features.

    dataset: two_spirals or four_spin. visible_std: of the Gaussian that the energy
    starts as, and at which chains start. mala: of the chains.
    """
    if dataset not in planar_sets.SAMPLED:
        known = ", ".join(planar_sets.SAMPLED)
        raise ValueError(f"data set {dataset!r}: choose one of {known}")
    fields = config(**changes)
    fields.dataset = dataset
    fields.evaluation = planar_sets.config(dataset).evaluation
    fields.batch_size, fields.width, fields.num_layers = 200, 128, 2
    fields.activation = "elu"
    fields.num_experts, fields.visible_std = 128, 4.0
    fields.mala = {"step_size": 0.005, "num_steps": 10}
    fields.recipe = neural
    return fields


def neural_learner(config, shape, data=None):
    """Products of experts, their chains moved by MALA."""
    del data
    for field in ("width", "num_layers", "num_experts"):
        base.at_least(field, config[field], 1)
    base.at_least("mala.num_steps", config.mala.num_steps, 1)
    base.positive("visible_std", config.visible_std)
    base.positive("mala.step_size", config.mala.step_size)
    network = experts.Experts(
        experts.Features(
            (config.width,) * config.num_layers,
            base.choice("activation", config.activation, **deep_directed.ACTIVATIONS),
            dtype=base.compute_dtype(config.dtype),
        ),
        config.num_experts,
        visible_std=config.visible_std,
    )
    family = contrastive.moved_by(
        lambda key: network.init(key, jnp.zeros((1, *shape)))["params"],
        lambda params, x: network.apply({"params": params}, x),
        functools.partial(mala.mala, step_size=config.mala.step_size),
        num_steps=config.mala.num_steps,
    )
    # |x|^2 / std^2 has no 1/2.
    std = config.visible_std / 2**0.5

    def start(key, num):
        return std * jax.random.normal(key, (num, *shape))

    return contrastive.contrastive(
        spec(config, family, contrastive.IDENTITY, start=start)
    )


binary_images = Recipe(
    image_data,
    image_learner,
    functools.partial(evaluations_of, image_model),
    functools.partial(protocols_of, image_model),
)
"""A machine with one hidden layer of images of two values."""
labelled = Recipe(labelled_data, labelled_learner, labelled_evaluations)
"""A machine of the digits and their labels."""
deep_images = Recipe(
    image_data,
    deep_learner,
    functools.partial(evaluations_of, deep_model),
    functools.partial(protocols_of, deep_model),
)
"""A machine with two hidden layers of images of two values."""
maxent_lattice = Recipe(lattice_data, lattice_learner, lattice_evaluations)
"""Pair couplings of the edges of a lattice, from Ising configurations."""
deep_lattice = Recipe(
    split_lattice_data, deep_lattice_learner, deep_lattice_evaluations
)
"""A machine with two hidden layers of Ising configurations."""
neural = Recipe(planar_sets.data, neural_learner, planar_sets.evaluations)
"""A neural energy in the plane."""
