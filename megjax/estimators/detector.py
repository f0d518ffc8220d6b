"""Anomaly detection with a MEG energy, as a scikit-learn estimator.

The scores are those of Kumar et al. 2019 (MEG), table 3 and its reference code.

    from megjax import EnergyDetector

    detector = EnergyDetector(contamination=0.05, random_state=0).fit(normal_rows)
    detector.score_samples(rows)  # high is normal
    detector.predict(rows)  # +1 inlier, -1 outlier
    detector.save("detector.npz")

`examples/kdd99_anomaly.py` is one on real data.
"""

import functools
import json
import math
import numbers
import pathlib
import zipfile
import zlib
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from scipy import special
from sklearn import preprocessing
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import check_random_state, validation
from tqdm import auto as tqdm

from megjax import losses
from megjax.data.dataset import Dataset
from megjax.io import atomic
from megjax.learners import meg
from megjax.learners.base import Learner
from megjax.networks import heads, mlp
from megjax.training import checkpoint, loop
from megjax.types import Array, Metrics, PyTree

_CRITERIA = ("energy", "score_norm")
_SCALINGS = ("minmax", "standard", None)
_FORMAT = "megjax.EnergyDetector 1"
_DTYPES = (np.float64, np.float32)
_CHUNK = 1024
_LARGEST = 1e18
"""Beyond this, squares overflow in float32."""


class EnergyDetector(OutlierMixin, BaseEstimator):
    """One-class anomaly detector: an energy trained by MEG on rows of numbers [N, F].

    As everywhere in scikit-learn, `score_samples` is high for normal rows and `predict`
    says +1 for inliers and -1 for outliers. For a given `random_state` fitting is
    deterministic on a kind of device; it uses one.

    criterion: "energy" scores by -E(x), "score_norm" by -|grad_x E(x)|, the paper's
        choice. Training raises E only at rows that the generator makes. Where
        anomalies lie beyond those, as in KDD99, they may have low energy, and the norm
        ranks them; on small tables the energy ranks better.
    contamination: share of the training rows to call outliers, in (0, 0.5].
    hidden: widths of the energy and of the statistics network.
    generator_hidden: widths of the generator. latent_dim: of its input.
    num_steps: training iterations, each of one update of the generator and
        `num_energy_updates` of the energy. batch_size: rows of an update.
    score_weight: of |grad_x E|^2 at the training rows; more is smoother.
    information_weight: of the generator's entropy; more spreads the rows at which the
        energy is raised. The paper has 1.
    learning_rate: of Adam, at the start; it decays to 0 along a cosine.
    average_decay: per iteration, of the averaged weights that score; in [0, 1).
    scaling: "minmax" moves and scales the columns of the training rows to [0, 1],
        "standard" to mean 0 and variance 1, None leaves them. Constant columns are
        moved only.
    random_state: int, numpy RandomState, or None for another result every time.
    verbose: whether to show a progress bar.

    Fitted: `offset_`, the score that parts inliers from outliers; `n_features_in_`;
    `feature_names_in_` where columns have names; `params_`, weights of the energy;
    `center_` and `scale_` [F].
    """

    def __init__(
        self,
        *,
        criterion="energy",
        contamination=0.1,
        hidden=(128, 128),
        generator_hidden=(128,),
        latent_dim=16,
        num_steps=2000,
        batch_size=128,
        num_energy_updates=1,
        score_weight=0.1,
        information_weight=5.0,
        learning_rate=1e-3,
        average_decay=0.99,
        scaling="minmax",
        random_state=None,
        verbose=False,
    ):
        self.criterion = criterion
        self.contamination = contamination
        self.hidden = hidden
        self.generator_hidden = generator_hidden
        self.latent_dim = latent_dim
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.num_energy_updates = num_energy_updates
        self.score_weight = score_weight
        self.information_weight = information_weight
        self.learning_rate = learning_rate
        self.average_decay = average_decay
        self.scaling = scaling
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None) -> Self:
        """Trains on X [N, F], an array, list or data frame; y is ignored.

        Raises ValueError at unusable parameters or data, FloatingPointError where
        training diverges.
        """
        _check(self)
        X = validation.validate_data(self, X, dtype=_DTYPES)
        self.center_, self.scale_ = _moved_and_scaled(X, self.scaling)
        rows = self._scaled(X)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self.params_ = _trained(_game(self, rows), rows, seed, self.verbose)
        scores = self._scores(rows)
        self.offset_ = float(np.percentile(scores, 100 * self.contamination))
        return self

    def score_samples(self, X) -> np.ndarray:
        """How normal rows are, float64 [N]; unbounded below for anomalies."""
        validation.check_is_fitted(self)
        X = validation.validate_data(self, X, dtype=_DTYPES, reset=False)
        return self._scores(self._scaled(X))

    def decision_function(self, X) -> np.ndarray:
        """`score_samples` less `offset_`, float64 [N]: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X) -> np.ndarray:
        """+1 for inliers, -1 for outliers: int [N]."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def save(self, path) -> None:
        """Writes the fitted detector to one .npz file, without pickle.

        A `random_state` that is not an int is left out.
        """
        validation.check_is_fitted(self)
        _write(pathlib.Path(path), _header(self), _arrays(self))

    @classmethod
    def load(cls, path) -> Self:
        """The detector that `save` wrote.

        Raises FileNotFoundError where there is no file, ValueError where it is
        damaged or none of `save`'s.
        """
        header, arrays = _read(pathlib.Path(path))
        detector = cls(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in header["parameters"].items()
            }
        )
        detector.offset_ = header["offset"]
        if header["feature_names"]:
            detector.feature_names_in_ = np.array(header["feature_names"], object)
        detector.center_, detector.scale_ = arrays.pop("center"), arrays.pop("scale")
        detector.n_features_in_ = len(detector.center_)
        detector.params_ = traverse_util.unflatten_dict(arrays, sep="/")
        return detector

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """Rows as the networks see them: float32 [N, F]."""
        with np.errstate(over="ignore"):
            rows = (X - self.center_) / self.scale_
        return np.clip(rows, -_LARGEST, _LARGEST).astype(np.float32)

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """Scores of scaled rows [N, F], float64 [N].

        In chunks of one form, so that one program serves any number of rows and a
        row's score does not depend on its company, to the last bit.
        """
        network = _energy(_widths(self.hidden))
        scores = np.empty(len(rows))
        for first in range(0, len(rows), _CHUNK):
            chunk = rows[first : first + _CHUNK]
            padded = np.pad(chunk, ((0, _CHUNK - len(chunk)), (0, 0)))
            found = _normality(
                self.params_, padded, network=network, criterion=self.criterion
            )
            scores[first : first + _CHUNK] = found[: len(chunk)]
        return scores


class PyODEnergyDetector(BaseEstimator):
    """A scikit-learn outlier detector with PyOD's attributes, sign and labels.

    Scores are high for anomalies, labels are 1 for anomalies and 0 for the rest, as in
    `pyod.models.base.BaseDetector` (Zhao et al. 2019), which is not needed.

    detector: with `contamination`, `score_samples` and `offset_`; an `EnergyDetector`
        where None.
    contamination: share of the training rows to call outliers, in (0, 0.5]; it
        replaces that of `detector`.

    Fitted: `decision_scores_` and `labels_` [N] of the training rows, `threshold_`,
    and the fitted `detector_`.
    """

    def __init__(self, detector=None, *, contamination=0.1):
        self.detector = detector
        self.contamination = contamination

    def fit(self, X, y=None) -> Self:
        """Fits a clone of the detector to X [N, F]; y is ignored."""
        detector = EnergyDetector() if self.detector is None else clone(self.detector)
        detector.set_params(contamination=self.contamination)
        self.detector_ = detector.fit(X)
        self.threshold_ = -self.detector_.offset_
        self.decision_scores_ = self.decision_function(X)
        self.labels_ = self._labels(self.decision_scores_)
        return self

    def fit_predict(self, X, y=None) -> np.ndarray:
        """`labels_` after a fit to X: int [N]."""
        return self.fit(X).labels_

    def decision_function(self, X) -> np.ndarray:
        """How anomalous rows are, float64 [N]."""
        validation.check_is_fitted(self)
        return -self.detector_.score_samples(X)

    def predict(self, X) -> np.ndarray:
        """1 for anomalies, 0 for the rest: int [N]."""
        return self._labels(self.decision_function(X))

    def predict_proba(self, X, method="linear") -> np.ndarray:
        """Probabilities of being normal and of being an anomaly: [N, 2].

        "linear" is the place of a score between the least and the largest of the
        training rows; "unify" an error function of its distance from their mean in
        standard deviations, 0 below the mean (Kriegel et al. 2011).
        """
        scores, train = self.decision_function(X), self.decision_scores_
        if method == "linear":
            anomaly = (scores - train.min()) / (np.ptp(train) or 1)
        elif method == "unify":
            deviation = (scores - train.mean()) / (train.std() or 1)
            anomaly = special.erf(deviation / math.sqrt(2))
        else:
            raise ValueError(f"method={method!r}: choose 'linear' or 'unify'")
        anomaly = np.clip(anomaly, 0, 1)
        return np.stack([1 - anomaly, anomaly], axis=1)

    def _labels(self, scores: np.ndarray) -> np.ndarray:
        return (scores > self.threshold_).astype(int)


class _Game(NamedTuple):
    """All that the compiled training of a detector depends on, hence hashable."""

    num_examples: int
    num_features: int
    hidden: tuple[int, ...]
    generator_hidden: tuple[int, ...]
    latent_dim: int
    num_steps: int
    batch_size: int
    num_energy_updates: int
    score_weight: float
    information_weight: float
    learning_rate: float
    average_decay: float


def _game(detector: EnergyDetector, rows: np.ndarray) -> _Game:
    names = _Game._fields[2:]
    values = {name: getattr(detector, name) for name in names}
    for name in ("hidden", "generator_hidden"):
        values[name] = _widths(values[name])
    return _Game(*rows.shape, **values)


def _widths(hidden) -> tuple[int, ...]:
    return tuple(int(width) for width in hidden)


def _energy(hidden: tuple[int, ...]) -> heads.Energy:
    return heads.Energy(mlp.Trunk(hidden))


# Equal games share their programs: folds, seeds and repetitions compile once.
@functools.lru_cache(maxsize=32)
def _learner(game: _Game) -> Learner:
    """MEG with perceptrons in the form of the reference code's for KDD99."""
    updates = game.num_steps * game.num_energy_updates
    return meg.meg(
        meg.Spec(
            energy=_energy(game.hidden),
            generator=mlp.Generator(game.generator_hidden, game.num_features),
            statistics=mlp.Statistics(game.hidden),
            latent_dim=game.latent_dim,
            num_energy_updates=game.num_energy_updates,
            score_weight=game.score_weight,
            information_weight=game.information_weight,
            average_decay=game.average_decay,
            energy_optimizer=_adam(game.learning_rate, updates),
            generator_optimizer=_adam(game.learning_rate, game.num_steps),
            statistics_optimizer=_adam(game.learning_rate, game.num_steps),
        )
    )


def _adam(rate: float, num_updates: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, num_updates), 0.5, 0.9)


@functools.lru_cache(maxsize=32)
def _program(game: _Game, num: int):
    """(state, first step, (rows, streams)) -> (state, metrics) over `num` iterations.

    The rows and the random streams are arguments, lest each fit compiles anew.
    """
    shape = (game.num_features,)
    data = Dataset("rows", shape, game.num_examples, None, lambda rows, i: rows[i])

    def one(state, step, store):
        rows, streams = store
        iteration = loop.iteration(
            _learner(game), data, game.batch_size, streams, resident=True
        )
        return iteration(state, step, rows)

    return loop.compiled(one, num)


def _trained(game: _Game, rows: np.ndarray, seed: int, verbose: bool) -> PyTree:
    """Weights of the energy after training on rows [N, F]."""
    streams = loop.keys(seed)
    x = jnp.zeros((game.batch_size, game.num_features))
    # Averages start as the weights themselves, which must not be donated twice.
    state = jax.tree.map(jnp.copy, _learner(game).init(streams.init, x))
    store = jax.device_put(rows), streams
    num = max(n for n in range(1, 101) if game.num_steps % n == 0)
    call, previous = _program(game, num), {}
    with tqdm.tqdm(total=game.num_steps, unit="it", disable=not verbose) as bar:
        for first in range(0, game.num_steps, num):
            state, found = call(state, first, store)
            # Of the call before, so that the device need not wait for this check.
            _check_finite(previous, first)
            previous = found
            bar.update(num)
    _check_finite(previous, game.num_steps)
    if state.average is None:
        return jax.device_get(state.energy.params)
    return jax.device_get(state.average["energy"])


def _check_finite(metrics: Metrics, step: int) -> None:
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"training diverged before iteration {step} ({', '.join(sorted(bad))} not "
            "finite): lower learning_rate, raise score_weight, or scale the columns "
            "with scaling='minmax' or 'standard'"
        )


@functools.partial(jax.jit, static_argnames=("network", "criterion"))
def _normality(params: PyTree, x: Array, *, network, criterion: str) -> Array:
    """-|grad_x E| or -E of scaled rows x [B, F]: [B]."""
    energy_fn = functools.partial(network.apply, {"params": params})
    if criterion == "energy":
        return -energy_fn(x)
    return -jnp.sqrt(losses.squared_score(energy_fn, x))


def _moved_and_scaled(X: np.ndarray, scaling: str | None):
    """(center, scale), float64 [F] each: rows are seen as (X - center) / scale."""
    if scaling == "minmax":
        scaler = preprocessing.MinMaxScaler().fit(X)
        center, scale = scaler.data_min_, 1 / scaler.scale_
    elif scaling == "standard":
        scaler = preprocessing.StandardScaler().fit(X)
        center, scale = scaler.mean_, scaler.scale_
    else:
        center, scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
    return center.astype(np.float64), scale.astype(np.float64)


def _check(detector: EnergyDetector) -> None:
    """ValueError naming the first unusable parameter, its value and what it may be."""
    for name, allowed in (("criterion", _CRITERIA), ("scaling", _SCALINGS)):
        value = getattr(detector, name)
        if value not in allowed:
            choices = ", ".join(map(repr, allowed))
            raise ValueError(f"{name}={value!r}: choose one of {choices}")
    for name in ("hidden", "generator_hidden"):
        widths = getattr(detector, name)
        if not np.iterable(widths) or not all(
            _whole(w, 1) for w in [*widths, len(widths)]
        ):
            raise ValueError(f"{name}={widths!r}: give widths such as (128, 128)")
    # A batch of one has no independent pairs to tell from the joint ones.
    for name in ("latent_dim", "num_steps", "num_energy_updates", "batch_size"):
        value, minimum = getattr(detector, name), 2 if name == "batch_size" else 1
        if not _whole(value, minimum):
            raise ValueError(f"{name}={value!r}: give a whole number from {minimum} up")
    _check_real(detector)


def _check_real(detector: EnergyDetector) -> None:
    ranges = {
        "contamination": ("(0, 0.5]", lambda value: 0 < value <= 0.5),
        "score_weight": ("[0, inf)", lambda value: 0 <= value < math.inf),
        "information_weight": ("[0, inf)", lambda value: 0 <= value < math.inf),
        "learning_rate": ("(0, inf)", lambda value: 0 < value < math.inf),
        "average_decay": ("[0, 1)", lambda value: 0 <= value < 1),
    }
    for name, (allowed, is_allowed) in ranges.items():
        value = getattr(detector, name)
        if not isinstance(value, numbers.Real) or not is_allowed(value):
            raise ValueError(f"{name}={value!r}: give a number in {allowed}")


def _whole(value: Any, minimum: int) -> bool:
    return isinstance(value, numbers.Integral) and value >= minimum


def _header(detector: EnergyDetector) -> str:
    """What is no array of a fitted detector, as JSON."""
    parameters = detector.get_params()
    if not isinstance(parameters["random_state"], numbers.Integral):
        parameters["random_state"] = None
    names = getattr(detector, "feature_names_in_", None)
    header = {
        "format": _FORMAT,
        "parameters": parameters,
        "offset": detector.offset_,
        "feature_names": None if names is None else list(names),
    }
    # NumPy's numbers and arrays have their plain forms.
    return json.dumps(header, default=lambda value: value.tolist())


def _arrays(detector: EnergyDetector) -> dict[str, np.ndarray]:
    params = traverse_util.flatten_dict(detector.params_, sep="/")
    return {"center": detector.center_, "scale": detector.scale_, **params}


def _write(path: pathlib.Path, header: str, arrays: dict[str, np.ndarray]) -> None:
    """The arrays, the header and the SHA-256 of both in one file, or no file."""
    arrays = arrays | {"header": np.array(header)}
    digest = np.array(checkpoint.state_digest(arrays))
    arrays["sha256"] = digest
    atomic.replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file of `_write`."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: write one with EnergyDetector.save")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = dict(saved)
        digest, header = str(arrays.pop("sha256")), arrays["header"]
        intact = digest == checkpoint.state_digest(arrays)
        header = json.loads(str(arrays.pop("header")))
        known = header["format"] == _FORMAT
    except (*_UNREADABLE, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged, or was not written by EnergyDetector.save: {error}"
        ) from error
    if not intact:
        raise ValueError(f"{path} is damaged: its SHA-256 does not match; save it anew")
    if not known:
        raise ValueError(
            f"{path} has the format {header['format']!r}, this version reads "
            f"{_FORMAT!r}: load it with the version that wrote it"
        )
    return header, arrays


_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
