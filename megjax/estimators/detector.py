"""Anomaly detection with a MEG energy, as a scikit-learn estimator.

The scores are those of Kumar et al. 2019 (MEG), table 3 and its reference code.
`examples/kdd99_anomaly.py` is one on real data.
"""

import functools
import math
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from megjax import extras, losses
from megjax.estimators import base
from megjax.learners import meg
from megjax.learners.base import Learner
from megjax.networks import heads, mlp
from megjax.training import loop
from megjax.types import Array, PyTree

with extras.needed("estimators"):
    from sklearn import preprocessing
    from sklearn.base import BaseEstimator, OutlierMixin, clone
    from sklearn.utils import check_random_state, validation

_LARGEST = 1e18
"""Beyond this, squares overflow in float32."""


class EnergyDetector(OutlierMixin, base.Estimator):
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
    `center_` and `scale_` [F]. `save` and `load` need no pickle.

    >>> from megjax import EnergyDetector
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = EnergyDetector(num_steps=20, random_state=0).fit(x)
    >>> detector.score_samples(x).shape, int((detector.predict(x) == -1).sum())
    ((200,), 20)
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
        X = self._table(X, reset=True)
        self.center_, self.scale_ = _moved_and_scaled(X, self.scaling)
        rows = self._scaled(X)
        self.params_ = self._trained(
            rows, base.seed(check_random_state(self.random_state))
        )
        scores = self._scores(rows)
        self.offset_ = float(np.percentile(scores, 100 * self.contamination))
        return self

    def score_samples(self, X) -> np.ndarray:
        """How normal rows are, float64 [N]; unbounded below for anomalies."""
        return self._scores(self._scaled(self._table(X)))

    def decision_function(self, X) -> np.ndarray:
        """`score_samples` less `offset_`, float64 [N]: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X) -> np.ndarray:
        """+1 for inliers, -1 for outliers: int [N]."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def _trained(self, rows: np.ndarray, seed: int) -> PyTree:
        """Weights of the energy after training on rows [N, F]."""
        learner = _learner(base.hyperparameters(_Game, self))
        x = jnp.zeros((self.batch_size, rows.shape[1]))
        state = base.trained(
            learner,
            learner.init(loop.keys(seed).init, x),
            rows,
            range(self.num_steps),
            seed=seed,
            batch_size=self.batch_size,
            verbose=self.verbose,
        )
        if state is None:
            raise FloatingPointError(
                "training diverged: lower learning_rate, raise score_weight, or scale "
                "the columns with scaling='minmax' or 'standard'"
            )
        return state.energy.params if state.average is None else state.average["energy"]

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """Rows as the networks see them: float32 [N, F]."""
        with np.errstate(over="ignore"):
            rows = (X - self.center_) / self.scale_
        return np.clip(rows, -_LARGEST, _LARGEST).astype(np.float32)

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """Scores of scaled rows [N, F], float64 [N]."""
        score = functools.partial(
            _normality,
            self.params_,
            network=_energy(base.hyperparameters(_Game, self).hidden),
            criterion=self.criterion,
        )
        return base.chunked(score, rows).astype(np.float64)


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

    >>> import numpy as np
    >>> from megjax import EnergyDetector, PyODEnergyDetector
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = PyODEnergyDetector(EnergyDetector(num_steps=20, random_state=0))
    >>> int(detector.fit(x).labels_.sum())
    20
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
    """All that compiled training depends on but the rows, hence hashable."""

    num_features: int
    hidden: tuple[int, ...]
    generator_hidden: tuple[int, ...]
    latent_dim: int
    num_steps: int
    num_energy_updates: int
    score_weight: float
    information_weight: float
    learning_rate: float
    average_decay: float


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
    values = detector.get_params()
    for name in ("hidden", "generator_hidden"):
        widths = values[name]
        if not np.iterable(widths) or not len(widths):
            raise ValueError(f"{name}={widths!r}: give widths such as (128, 128)")
        for width in widths:
            base.check({name: width}, **{name: 1})
    base.check(
        values,
        criterion=("energy", "score_norm"),
        scaling=("minmax", "standard", None),
        latent_dim=1,
        num_steps=1,
        num_energy_updates=1,
        # A batch of one has no independent pairs to tell from the joint ones.
        batch_size=2,
        contamination="(0, 0.5]",
        score_weight="[0, inf)",
        information_weight="[0, inf)",
        learning_rate="(0, inf)",
        average_decay="[0, 1)",
    )
