"""The front door: train, load, sample and evaluate models from Python."""

import functools
import pathlib
import signal
import tempfile
import warnings
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from megjax import checks, distributed, errors, extras, random
from megjax.data import dataset, files
from megjax.learners import density_ratio
from megjax.metrics import mcmc
from megjax.recipes import arrays
from megjax.sampling import model as sampling
from megjax.training import evaluate as evaluation
from megjax.training import experiment, loop, weights
from megjax.types import Array, Key, Report

CRITERIA = ("energy", "score_norm")
TRAINED_KERNELS = ("neural", "gibbs")
DECODED = 512
"""Latents that become examples in one call."""

PRETRAINED = pathlib.Path(__file__).with_name("pretrained")


class Model:
    """A trained model: its energy, samples and scores at one state of its training.

    From `megjax.train`, `fit`, `load` or `load_weights`; nothing here trains.

    config: of the run. learner: its method's pure functions; state: what they take.
    step: iterations that it was trained for. shape: of one example, no batch axis.

    >>> import jax, megjax
    >>> x = jax.random.normal(jax.random.key(0), (256, 2))
    >>> model = megjax.fit(x, num_steps=2)
    >>> model.generate(jax.random.key(1), 5).shape
    (5, 2)
    """

    def __init__(self, run: loop.Restored):
        self.run = run
        self.config, self.learner, self.state = run.config, run.learner, run.state
        self.step, self.shape = run.step, tuple(run.shape)

    def __repr__(self) -> str:
        return f"Model({self.run.name!r}, shape={self.shape}, step={self.step})"

    def energy(self, x: Array) -> Array:
        """Energies of examples, low where likely: x [N, *shape] -> [N].

        exp(-E) is a density only up to log Z and, for methods that do not fix it, an
        inverse temperature. Raises ValueError at another shape.
        """
        return self._energy(self.state, self._examples(x))

    def log_prob(self, x: Array, *, log_z: float | None = None) -> Array:
        """Log-density, or log-probability, in nats: x [N, *shape] -> [N].

        log_z: of exp(-E) in nats, by default as the model knows it: exactly, by
        enumeration, or for densities by importance sampling when training ended, or as
        learned where that failed. `megjax.samplers.partition` estimates it for any
        energy of vectors whose exp(-E) has a finite integral;
        megjax.evaluate(model, ["likelihood"]) says between which ends it lies.

        Raises ValueError where log Z is neither known nor given.
        """
        if log_z is None:
            log_z = self.log_partition()
        else:
            checks.number("log_z", log_z)
        return -self.energy(x) - log_z

    def log_partition(self) -> Array:
        """log Z of exp(-E) in nats []. Raises ValueError where it is not known.

        A run that ends with a density (`config.finish`) has none before its end.
        """
        if self.learner.log_partition is None:
            raise ValueError(
                "log Z of this model is not known, so it has no log_prob: compare "
                "examples by model.energy(x), train a density (configs/density_*.py), "
                "or give log_z=, as megjax.samplers.partition or megjax.evaluate(model, "
                "['likelihood']) of a Boltzmann machine estimates it; exp(-E) of a "
                "leaky ReLU network need not have a finite integral"
            )
        # A number also where `log_prob` is being traced: NaN has to be seen here.
        with jax.ensure_compile_time_eval():
            log_z = jax.jit(self.learner.log_partition)(self.state)
        if np.isnan(log_z):
            raise ValueError(
                f"log Z is not known at step {self.step}, before the run has ended: "
                "train it to its end, or give log_z="
            )
        return log_z

    def log_ratio(self, x: Array) -> Array:
        """log p_data(x) - log p_G(x), as training's last part fitted it: [N].

        Raises ValueError at another shape, and where it was not fitted.
        """
        if self.learner.log_ratio is None:
            raise ValueError(
                "this model has no density ratio of data and generator: train with "
                "config.ratio.num_steps=2000"
            )
        if not density_ratio.is_fitted(self.state):
            raise ValueError(
                f"the density ratio is fitted when training ends, and step {self.step} "
                "is before that: train to the end"
            )
        return jax.jit(self.learner.log_ratio)(self.state, self._examples(x))

    def score_samples(self, x: Array, *, criterion: str = "energy") -> np.ndarray:
        """How normal examples are, high for normal ones: x [N, *shape] -> [N].

        criterion: "energy" is -E(x), "score_norm" is -|grad_x E(x)| (Kumar et al.
        2019, section 4.4). Raises ValueError at another criterion or shape.
        """
        if criterion not in CRITERIA:
            raise ValueError(
                f"criterion={criterion!r}: choose one of {', '.join(CRITERIA)}"
            )
        x = self._examples(x)
        score = self._energy if criterion == "energy" else self._score_norm
        return -np.asarray(score(self.state, x))

    def generate(self, key: Key, num: int) -> Array:
        """Samples of the generator, or of a short chain for methods without one.

        Of a density they are rows of its noise, chosen by weight; so they are of a run
        that ends with one (`config.finish`), whose chains of latents stay the
        generator's: `sample(space="data")` is of the density.

        Returns [num, *shape]; images lie in [-1, 1]. Raises ValueError at num < 1.
        """
        checks.whole("num", num, 1)
        return self._generate(random.checked(key), self.state, int(num))

    def sample(
        self,
        key: Key,
        num: int,
        *,
        space: str | None = None,
        target: str | None = None,
        steps: int = 100,
        kernel: str = "mala",
        inverse_temperature: float = 1.0,
        prior: str = "gaussian",
        **options: Any,
    ):
        """Markov chains from the model's own samples, as ArviZ InferenceData.

        num: chains, of `steps` transitions each. space: "latent" moves z under
        p(z) exp(-inverse_temperature E(G(z))) (Kumar et al. 2019, section 3.2), "data"
        moves x under exp(-inverse_temperature E(x)); by default "latent" where there is
        a generator. target: "energy", or "ratio" for minus `log_ratio` in the energy's
        place, the default in latent space where the model has one. kernel: "mala",
        "hmc", "rwm", in latent space "tempering" (eight replicas from the prior to the
        target, which reach far modes at eight times the cost of a step), or for models
        with a kernel of their own "neural" (a trained proposal) or "gibbs" (sweeps of a
        Boltzmann machine), as of `sample.py`. prior: "gaussian", or "none" as in the
        paper. options: burn_in, thin, step_size, warmup of
        `megjax.sampling.model.sample`.

        `posterior` has x [num, draws, *shape] and, in latent space, z; `sample_stats`
        has energy, acceptance_rate, diverging and step_size. Raises ValueError at
        settings that do not fit the model, ImportError without arviz.
        """
        with extras.needed("sampling"):
            import arviz  # noqa: F401  Before the chains are drawn, not after.
        if space is None:
            generates = self.learner.latents and self.learner.generate
            space = "latent" if generates else "data"
        if target is None:
            target = sampling.default_target(
                self.learner, self.state, space, prior, inverse_temperature, kernel
            )
        trace = sampling.sample(
            key,
            self.learner,
            self.state,
            num=num,
            space=space,
            target=target,
            steps=steps,
            inverse_temperature=inverse_temperature,
            prior=prior,
            keep_draws=True,
            **self._kernel(kernel),
            **options,
        )
        draws = trace.draws
        variables = {"x": draws}
        if space == "latent":
            flat = draws.reshape(-1, *draws.shape[2:])
            # In parts: the generator's activations take far more memory than images.
            parts = [flat[i : i + DECODED] for i in range(0, len(flat), DECODED)]
            x = np.concatenate([np.asarray(self._decode(self.state, z)) for z in parts])
            variables = {"z": draws, "x": x.reshape(*draws.shape[:2], *self.shape)}
        stats = {
            "energy": trace.energy[:, 1:],
            "acceptance_rate": trace.acceptance_rate,
            "diverging": trace.is_divergent > 0,
            "step_size": np.full(draws.shape[:2], trace.step_size),
        }
        return mcmc.inference_data({"posterior": variables, "sample_stats": stats})

    def _kernel(self, name: str) -> dict[str, Any]:
        known = sampling.KERNELS | dict.fromkeys(TRAINED_KERNELS)
        found = checks.choice("kernel", name, **known)
        if found is None:
            return {"kernel_fn": sampling.trained(self.learner, self.state)}
        return dict(zip(("kernel_fn", "target_acceptance"), found))

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the weights and what rebuilds their model to one .safetensors file.

        Optimizer states stay behind; `megjax.load_weights` reads it. Raises OSError
        where the disk refuses, ImportError without safetensors.
        """
        weights.save(path, self.run)

    def _examples(self, x) -> Array:
        checks.unmasked("x", x)
        if len(self.shape) == 3 and getattr(x, "dtype", None) == np.uint8:
            raise ValueError(
                "x holds pixels of uint8: give images in [-1, 1], x / 127.5 - 1"
            )
        x = _floats(x)
        if x.shape[1:] != self.shape or not len(x):
            raise ValueError(
                f"x has shape {list(x.shape)}: give [N, "
                f"{', '.join(map(str, self.shape))}], N at least 1, a batch of what the "
                "model was trained on"
            )
        if len(self.shape) == 3 and self.learner.generate and _is_from_0_to_1(x):
            warnings.warn(
                "x has no value below 0, and this model takes images in [-1, 1]: of "
                "pixels in [0, 1] give 2 * x - 1",
                stacklevel=3,
            )
        return x

    @functools.cached_property
    def _energy(self):
        return jax.jit(self.learner.energy)

    @functools.cached_property
    def _score_norm(self):
        def norms(state, x):
            gradient = jax.grad(lambda x: jnp.sum(self.learner.energy(state, x)))(x)
            return jnp.linalg.norm(gradient.reshape(len(x), -1), axis=1)

        return jax.jit(norms)

    @functools.cached_property
    def _generate(self):
        return jax.jit(self.learner.sample, static_argnums=2)

    @functools.cached_property
    def _decode(self):
        return jax.jit(self.learner.generate)


def _floats(x) -> Array:
    """x in float32; ValueError where it is no array of finite real numbers."""
    if isinstance(x, jax.core.Tracer):
        return jnp.asarray(x, jnp.float32)
    if hasattr(x, "toarray"):
        raise ValueError("x is a sparse matrix: give x.toarray()")
    try:
        x = x if isinstance(x, jax.Array) else np.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError("x is no array of numbers: give rows of one length") from error
    if x.dtype.kind not in "biuf" and x.dtype != jnp.bfloat16:
        raise ValueError(f"x holds {x.dtype} {list(x.shape)}: give real numbers")
    with np.errstate(over="ignore"):
        x = jnp.asarray(x.astype(jnp.float32))
    if not jnp.all(jnp.isfinite(x)):
        raise ValueError(
            "x holds NaN or infinite values, or such as float32 has not: remove them"
        )
    return x


def train(
    config: str | ml_collections.ConfigDict,
    *,
    workdir: str | pathlib.Path | None = None,
    overrides: Iterable[str] = (),
    devices: list[jax.Device] | None = None,
) -> Model:
    """Trains a config, or goes on where its run stopped, and returns the model.

    config: a name such as "digits" or "mnist:kmnist", a path, or a ConfigDict.
    workdir: of the run, by default runs/NAME. overrides: FIELD=VALUE, such as
    "train.num_steps=500". devices: by default all.

    Raises ValueError at a config or a field that cannot be, or where `workdir` holds
    another run; FloatingPointError where training diverges.

    >>> import megjax
    >>> model = megjax.train("rbm_digits", workdir="run", overrides=["train.num_steps=2"])
    >>> model
    Model('rbm_digits', shape=(8, 8, 1), step=2)
    """
    distributed.find_devices()
    _check_devices(devices)
    overrides = _texts("overrides", overrides, "FIELD=VALUE")
    if isinstance(config, str):
        name, directory = experiment.name(config), experiment.directory(config)
        config = experiment.load(config)
    elif not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(  # noqa: TRY004
            f"config is {errors.kind(config)}: give the name of a config, a path or a "
            "ConfigDict"
        )
    else:
        name, directory = "own", pathlib.Path("runs", "own")
        config = config.copy_and_resolve_references()
    workdir = checks.path(directory if workdir is None else workdir)
    experiment.assign(config, overrides)
    built = experiment.build(config)
    return _trained(config, built, workdir, name, devices)


def fit(
    x: Array,
    *,
    learner: str = "meg",
    seed: int = 0,
    num_steps: int | None = None,
    workdir: str | pathlib.Path | None = None,
    **spec: Any,
) -> Model:
    """Trains a model on an array, with perceptrons or convolutions by its form.

    x: vectors [N, D] of numbers, which are taken as they are (scale them first), or
    images [N, H, W] or [N, H, W, C]: uint8, or floats in [0, 1] or [-1, 1]; their side
    is 28 or 4 x 2^n pixels. learner: "meg", "wgan_gp", "deep_directed", or "density" of
    vectors, by noise-contrastive estimation, with `log_prob`. num_steps: iterations.
    workdir: keeps checkpoints and metrics there, and resumes with the same array; None
    keeps nothing on disk. spec: hyperparameters of the learner (`score_weight`,
    `learning_rate`, ...), `batch_size` and `width`; of a density also those of its
    network (`hidden`, `scale`, ...) and of its noise (`mixtures`, `widths`, ...), as of
    `recipes.density.config`.

    Models of images take and give [-1, 1], whatever the range of x. Raises ValueError
    at arrays and fields that cannot be, and for another array than a run in `workdir`
    has; FloatingPointError where training diverges; KeyboardInterrupt on SIGINT,
    SIGTERM and SIGHUP, with the state saved where there is a workdir.

    >>> import jax, megjax
    >>> x = jax.random.normal(jax.random.key(0), (256, 2))
    >>> megjax.fit(x, num_steps=2, score_weight=0.01).energy(x[:3]).shape
    (3,)
    >>> megjax.fit(x, learner="density", num_steps=2).log_prob(x[:3]).shape
    (3,)
    """
    data = files.examples(x, "x", "array")
    checks.choice("learner", learner, **arrays.RECIPES)
    config = arrays.config(learner, data.shape)
    _set(config.train, "seed", seed)
    if num_steps is not None:
        _set(config.train, "num_steps", num_steps)
    config.examples = dataset.digest(data)
    config.batch_size = min(config.batch_size, data.num_examples)
    places = {name: config for name in ("batch_size", "width", "dtype")}
    for group in (learner, "network", "noise"):
        places |= {name: config[group] for name in config.get(group, ())}
    for field, value in spec.items():
        if field not in places.get(field, ()):
            known = ", ".join(name for name in places if name in places[name])
            raise ValueError(f"{learner} has no field {field!r}: give one of {known}")
        _set(places[field], field, value)
    recipe = experiment.recipe_of(config)
    with experiment.one_line_errors():
        data = arrays.prepared(config, learner, data)
        made = recipe.learner(config, data.shape, data=data)
    built = experiment.Experiment(data, made, {})
    if workdir is not None:
        return _trained(config, built, checks.path(workdir), "custom")
    # Nothing is read back; a multiple of what else is due keeps compiled calls long.
    config.train.save_every = config.train.log_every * config.train.num_steps
    with tempfile.TemporaryDirectory() as directory:
        try:
            return _trained(config, built, pathlib.Path(directory), "custom")
        except loop.Stopped as stopped:
            name = signal.Signals(stopped.number).name
            raise KeyboardInterrupt(
                f"{name}: nothing is kept of this training: give workdir= to resume"
            ) from None


def _is_from_0_to_1(x: Array) -> bool:
    """Whether images look as if black were 0 and white 1; False while traced."""
    if isinstance(x, jax.core.Tracer):
        return False
    low, high = float(jnp.min(x)), float(jnp.max(x))
    return 0 <= low < 1 and high <= 1


def _set(place: ml_collections.ConfigDict, field: str, value: Any) -> None:
    """Sets a field; ValueError at a value of another type."""
    value = value.item() if isinstance(value, np.generic) else value
    try:
        experiment.check_type(field, value, place[field])
        place[field] = value
    except TypeError as error:
        words = " ".join(str(error).split())
        raise ValueError(f"{words}: give one of that type") from error


def _texts(name: str, values: Any, example: str) -> tuple[str, ...]:
    """Several texts as a tuple; ValueError at one text alone and at anything else."""
    found = tuple(values) if isinstance(values, Iterable) else (None,)
    if isinstance(values, str) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{name}={values!r:.60}: give a list such as [{example!r}]")
    return found


def _check_devices(devices) -> None:
    """ValueError unless None or a list of devices."""
    if devices is None:
        return
    listed = isinstance(devices, list | tuple | np.ndarray) and len(devices)
    if not listed or not all(isinstance(one, jax.Device) for one in devices):
        raise ValueError(
            f"devices={devices!r:.60}: give a list such as jax.devices()[:1]"
        )


def _trained(config, built, workdir, name, devices=None) -> Model:
    """The model that training an experiment to its end gives."""
    state = loop.train(config, built, workdir, name=name, devices=devices)
    recipe = experiment.recipe_of(config)
    run = loop.Restored(
        *(config, built.learner, state, config.train.num_steps, built.data.shape),
        *(recipe, name),
    )
    return Model(run)


def load(
    workdir: str | pathlib.Path,
    *,
    step: int | None = None,
    recipe: experiment.Recipe | None = None,
) -> Model:
    """The model of a run directory; needs neither the training set nor the checkout.

    Nothing that the directory holds is executed. step: by default the newest intact
    checkpoint. recipe: of a run that was trained with a user's own. Raises
    FileNotFoundError where there is no run, ValueError where it cannot be read.

    >>> import jax, megjax
    >>> x = jax.random.normal(jax.random.key(0), (256, 2))
    >>> _ = megjax.fit(x, num_steps=2, workdir="fitted")
    >>> megjax.load("fitted").step
    2
    """
    workdir = checks.path(workdir)
    return Model(loop.restore(workdir, step=step, recipe=recipe))


def load_weights(
    path: str | pathlib.Path, *, recipe: experiment.Recipe | None = None
) -> Model:
    """The model of a .safetensors file of `Model.save` or `megjax export`.

    Nothing that the file holds is executed. recipe: as of `load`. Raises
    FileNotFoundError, ValueError where it is damaged or no weights of megjax.

    >>> import jax, megjax
    >>> x = jax.random.normal(jax.random.key(0), (256, 2))
    >>> megjax.fit(x, num_steps=2).save("fitted.safetensors")
    >>> megjax.load_weights("fitted.safetensors").shape
    (2,)
    """
    return Model(weights.load(path, recipe=recipe))


def load_pretrained(name: str) -> Model:
    """A small model that ships with megjax, trained as its card beside it says.

    name: "digits", maximum entropy generators of scikit-learn's 8x8 digits, with the
    density ratio; "density_25gaussians", a normalised density of the plane;
    "rbm_digits", a restricted Boltzmann machine of the same digits.

    Raises ValueError at another name, ImportError without safetensors.

    >>> import jax, megjax
    >>> megjax.load_pretrained("digits").generate(jax.random.key(0), 64).shape
    (64, 8, 8, 1)
    """
    known = sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))
    if name not in known:
        raise ValueError(f"name={name!r}: choose one of {', '.join(known)}")
    return load_weights(PRETRAINED / f"{name}.safetensors")


def evaluate(
    model: Model, names: Iterable[str] = (), *, seed: int = 0
) -> dict[str, Report]:
    """What the model's recipe measures, by name; needs the training set.

    names: of evaluations, by default all. seed: of everything random. Raises
    ValueError at a name that there is not, FileNotFoundError where the data are gone.

    >>> import megjax
    >>> model = megjax.train("rbm_digits", workdir="run", overrides=["train.num_steps=2"])
    >>> sorted(megjax.evaluate(model, ["monitor"]))
    ['monitor']
    """
    if not isinstance(model, Model):
        raise ValueError(f"model is {errors.kind(model)}: give a megjax.Model")  # noqa: TRY004
    names = _texts("names", names, "monitor")
    built = model.run.experiment()
    chosen = evaluation.chosen(built, names)
    mesh = distributed.local_mesh()
    with jax.set_mesh(mesh):
        key = loop.keys(seed).evaluation
        return {name: one(key, model.state) for name, one in chosen.items()}
