"""Anomaly detection with an energy, as estimators of scikit-learn and of PyOD.

`examples/kdd99_anomaly.py` is one on real data.
"""

import inspect
import math
from typing import Self

import numpy as np
from scipy import special, stats

from megjax import extras
from megjax.energies import neighbours
from megjax.estimators import base, contrast_energy, meg_energy

with extras.needed("estimators"):
    from sklearn.base import BaseEstimator, OutlierMixin, clone
    from sklearn.utils import check_random_state, metaestimators, validation

_NETWORK = ("hidden", "num_steps", "batch_size", "learning_rate")
_READS = {
    "neighbours": ("num_neighbors", "max_stored"),
    "contrast": _NETWORK,
    "meg": (
        *(*_NETWORK, "criterion", "generator_hidden", "latent_dim", "average_decay"),
        *("num_energy_updates", "score_weight", "information_weight", "scaling"),
    ),
}
"""The parameters that not all energies read."""
_FITTED = {"neighbours": "state_", "contrast": "contrast_", "meg": "params_"}


def _of_neighbours(detector: "EnergyDetector") -> bool:
    return detector.energy == "neighbours"


class EnergyDetector(OutlierMixin, base.Estimator):
    """One-class anomaly detector: an energy of rows of numbers [N, F].

    As everywhere in scikit-learn, `score_samples` is high for normal rows and `predict`
    says +1 for inliers and -1 for outliers. For a given `random_state` fitting is
    deterministic on a kind of device; it uses one.

    energy: "neighbours" has log distances to the nearest of the stored training rows,
        under three scalings of the columns; nothing is trained, and a row one range
        outside the training rows in any column scores below all of these; so it does
        under "contrast", a network that tells training rows from the same rows with
        noise (Gutmann and Hyvärinen 2012). "meg" trains a network by MEG (Kumar et al.
        2019), which may rank anomalies as normal on small tables. Networks rank worse
        on tables of some thousand rows, but score by their weights alone.
    contamination: share of the training rows to call outliers, in (0, 0.5]; or "auto",
        which calls those outliers whose energy exceeds the third quartile by more than
        1.5 interquartile ranges (Tukey 1977).
    num_neighbors: nearest rows in a mean distance, or their share of the stored rows, a
        float in (0, 0.5]. The default is for training rows that are normal as far as
        one can tell. Anomalies that come in clusters are each other's neighbours: where
        they may be among the training rows, give a share that is larger than theirs,
        such as 0.1.
    max_stored: most rows to keep; of more, a random sample.
    random_state: int, numpy RandomState, or None for another result every time.

    Of the networks, which the neighbours refuse:

    hidden: widths of the energy, and of MEG's statistics network.
    num_steps: training iterations. batch_size: rows of an update.
    learning_rate: of Adam, at the start; it decays to 0 along a cosine.

    Of "meg" alone:

    criterion: "energy" scores by -E(x), "score_norm" by -|grad_x E(x)|, the paper's
        choice. Training raises E only at rows that the generator makes. Where
        anomalies lie beyond those, as in KDD99, they may have low energy, and the norm
        ranks them; on small tables the energy ranks better.
    generator_hidden: widths of the generator. latent_dim: of its input.
    num_energy_updates: of an iteration, beside one of the generator.
    score_weight: of |grad_x E|^2 at the training rows; more is smoother.
    information_weight: of the generator's entropy; more spreads the rows at which the
        energy is raised. The paper has 1.
    average_decay: per iteration, of the averaged weights that score; in [0, 1).
    scaling: "minmax" moves and scales the columns of the training rows to [0, 1],
        "standard" to mean 0 and variance 1, None leaves them. Constant columns are
        moved only.
    verbose: whether to show a progress bar.

    Fitted: `offset_`, the score that parts inliers from outliers; `n_features_in_`;
    `feature_names_in_` where columns have names. Neighbours: `state_`, arrays of
    `megjax.energies.neighbours`; `energies_`, of the stored rows, each without itself;
    `n_samples_seen_`. MEG: `params_`, weights of the energy; `center_` and `scale_`
    [F]. Contrast: `contrast_`, weights and scales. `save` and `load` need no pickle.

    >>> from megjax import EnergyDetector
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = EnergyDetector(contamination=0.05, random_state=0).fit(x)
    >>> int((detector.predict(x) == -1).sum())
    10
    >>> new = [[0.0, 0.1], [0.0, 9.0]]
    >>> detector.predict(new).tolist()
    [1, -1]
    >>> detector.explain(new)[1].argmax(), detector.p_values(new)[1].round(3)
    (np.int64(1), np.float64(0.005))
    """

    def __init__(
        self,
        *,
        energy="neighbours",
        contamination=0.1,
        num_neighbors=5,
        max_stored=5000,
        criterion="energy",
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
        self.energy = energy
        self.contamination = contamination
        self.num_neighbors = num_neighbors
        self.max_stored = max_stored
        self.criterion = criterion
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
        """Learns the energy of X [N, F], an array, list or data frame; y is ignored.

        Raises ValueError at unusable parameters or data, FloatingPointError where
        training diverges.
        """
        _check(self)
        X = self._table(X, reset=True)
        self._forget()
        if self.energy == "neighbours":
            return self._seen(X)
        (self._fit_meg if self.energy == "meg" else self._fit_contrast)(X)
        self.offset_ = self._offset(self._scores(X))
        return self

    @metaestimators.available_if(_of_neighbours)
    def partial_fit(self, X, y=None) -> Self:
        """Adds rows X [N, F]; y is ignored. Of energy="neighbours" alone.

        The stored rows stay a uniform sample of all rows seen (Vitter 1985); batch by
        batch ends as one `fit` to all of them does.
        """
        _check(self)
        first = not hasattr(self, "state_")
        X = self._table(X, reset=first)
        if first:
            self._forget()
        return self._seen(X)

    def score_samples(self, X) -> np.ndarray:
        """How normal rows are, float64 [N]; unbounded below for anomalies.

        A row that equals a stored training row is scored by the others.
        """
        return self._scores(self._rows(X))

    def decision_function(self, X) -> np.ndarray:
        """`score_samples` less `offset_`, float64 [N]: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X) -> np.ndarray:
        """+1 for inliers, -1 for outliers: int [N]."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def explain(self, X) -> np.ndarray:
        """Each column's share in a row's energy: [N, F], at least 0, of sum 1.

        Of neighbours, its part in the distances and outside the training range; of
        networks, its part in |grad_x E|^2.
        """
        X = self._rows(X)
        if self.energy == "neighbours":
            return neighbours.shares(self.state_, X)
        if self.energy == "contrast":
            return contrast_energy.shares(self.contrast_, X)
        rows = meg_energy.scaled(X, self.center_, self.scale_)
        return meg_energy.shares(self.params_, rows)

    @metaestimators.available_if(_of_neighbours)
    def p_values(self, X) -> np.ndarray:
        """Conformal p-values of new rows X [N, F], in (0, 1]: float64 [N].

        The share of the stored rows whose energy is as high, each without itself among
        the neighbours and in the columns' ranges; uniform on rows from where the
        training rows are (Vovk et al. 2005; Barber et al. 2021 on leaving one out). Of
        energy="neighbours" alone.
        """
        X = self._rows(X)
        energies = neighbours.energy(self.state_, X, new=True)
        stored = self.energies_ + neighbours.left_out_guard(self.state_)
        below = np.searchsorted(np.sort(stored), energies)
        return (1 + len(self.energies_) - below) / (1 + len(self.energies_))

    @classmethod
    def load(cls, path) -> Self:
        """The detector that `save` wrote, also those of before `energy`, all by MEG."""
        detector = super().load(path)
        if hasattr(detector, "params_"):
            detector.energy = "meg"
        return detector

    def _fit_meg(self, X: np.ndarray) -> None:
        self.center_, self.scale_ = meg_energy.moved_and_scaled(X, self.scaling)
        self.params_ = meg_energy.trained(
            base.hyperparameters(meg_energy.Game, self),
            meg_energy.scaled(X, self.center_, self.scale_),
            seed=base.seed(check_random_state(self.random_state)),
            batch_size=self.batch_size,
            verbose=self.verbose,
        )

    def _fit_contrast(self, X: np.ndarray) -> None:
        self.contrast_ = contrast_energy.fit(
            base.hyperparameters(contrast_energy.Contrast, self),
            X,
            seed=base.seed(check_random_state(self.random_state)),
            batch_size=self.batch_size,
            verbose=self.verbose,
        )

    def _seen(self, X: np.ndarray) -> Self:
        """The detector after rows X [N, F] have joined those it has seen."""
        if hasattr(self, "state_"):
            rows, first = self.state_["rows"], self.n_samples_seen_
            low, high = (self.state_[k] * self.state_["unit"] for k in ("low", "high"))
            low, high = np.minimum(low, X.min(0)), np.maximum(high, X.max(0))
        else:
            self.random_state_ = check_random_state(self.random_state)
            rows, first, low, high = X[:0], 0, X.min(0), X.max(0)
        rows = _sampled(rows, X, first, self.max_stored, self.random_state_)
        self.state_ = neighbours.fit(rows, low, high, num_neighbors=self.num_neighbors)
        self.n_samples_seen_ = first + len(X)
        self.energies_ = neighbours.energy(self.state_, rows)
        self.offset_ = self._offset(-self.energies_)
        return self

    def _forget(self) -> None:
        """Removes what a former fit left, lest an energy score by another's."""
        names = ("energies_", "n_samples_seen_", "random_state_", "center_", "scale_")
        for name in (*_FITTED.values(), *names, "offset_"):
            vars(self).pop(name, None)

    def _offset(self, scores: np.ndarray) -> float:
        if isinstance(self.contamination, str):
            low, high = np.percentile(scores, (25, 75))
            return float(low - 1.5 * (high - low))
        return float(np.percentile(scores, 100 * self.contamination))

    def _rows(self, X) -> np.ndarray:
        """X checked, of a detector that is fitted as its parameters say."""
        validation.check_is_fitted(self)
        _check(self)
        if not hasattr(self, _FITTED[self.energy]):
            raise ValueError(f"energy={self.energy!r} was set after the fit: fit again")
        return self._table(X)

    def _scores(self, X: np.ndarray) -> np.ndarray:
        """Scores of checked rows [N, F], float64 [N]."""
        if self.energy == "neighbours":
            return -neighbours.energy(self.state_, X)
        if self.energy == "contrast":
            return -contrast_energy.energy(self.contrast_, X)
        rows = meg_energy.scaled(X, self.center_, self.scale_)
        return meg_energy.scores(self.params_, rows, self.criterion)


def _sampled(
    stored: np.ndarray, X: np.ndarray, num_seen: int, most: int, random_state
) -> np.ndarray:
    """A uniform sample [at most `most`, F] of the rows stored and seen, and of X [N, F].

    Vitter's algorithm R: row t of all takes a place below t, where there is such a one.
    """
    num_free = max(0, most - len(stored))
    rows = np.concatenate([stored, X[:num_free]])
    index = np.arange(num_free, len(X))
    places = (random_state.random_sample(len(index)) * (num_seen + index + 1)).astype(
        int
    )
    taken = places < most
    rows[places[taken]] = X[index[taken]]
    return rows


class PyODEnergyDetector(BaseEstimator):
    """A scikit-learn outlier detector with PyOD's attributes, sign and labels.

    Scores are high for anomalies, labels are 1 for anomalies and 0 for the rest, as in
    `pyod.models.base.BaseDetector` (Zhao et al. 2019), which is not needed.

    detector: with `contamination`, `score_samples` and `offset_`; an `EnergyDetector`
        where None.
    contamination: share of the training rows to call outliers, in (0, 0.5], or "auto"
        where the detector takes it; it replaces that of `detector`.

    Fitted: `decision_scores_` and `labels_` [N] of the training rows, `threshold_`,
    `n_features_in_`, `feature_names_in_` where columns have names, and the fitted
    `detector_`.

    >>> import numpy as np
    >>> from megjax import PyODEnergyDetector
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = PyODEnergyDetector(contamination=0.05).fit(x)
    >>> int(detector.labels_.sum())
    10
    >>> labels, confidence = detector.predict([[0, 0], [9, 9]], return_confidence=True)
    >>> labels.tolist(), confidence.round(2).tolist()
    ([0, 1], [1.0, 1.0])
    """

    def __init__(self, detector=None, *, contamination=0.1):
        self.detector = detector
        self.contamination = contamination

    def fit(self, X, y=None) -> Self:
        """Fits a clone of the detector to X [N, F]; y is ignored."""
        _check_adapter(self)
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
        validation.check_is_fitted(self, "detector_")
        _check_adapter(self)
        return -self.detector_.score_samples(X)

    def predict(self, X, return_confidence=False):
        """1 for anomalies, 0 for the rest: int [N]; with `predict_confidence` if asked."""
        scores = self.decision_function(X)
        labels = self._labels(scores)
        return (labels, self._confidence(scores)) if return_confidence else labels

    def predict_confidence(self, X) -> np.ndarray:
        """How sure the label of a row is if training were repeated: [N], in [0, 1].

        The probability that a fit to other rows of the same kind gives the same label
        (Perini et al. 2020).
        """
        return self._confidence(self.decision_function(X))

    def predict_proba(self, X, method="linear", return_confidence=False):
        """Probabilities of being normal and of being an anomaly: [N, 2].

        "linear" is the place of a score between the least and the largest of the
        training rows; "unify" an error function of its distance from their mean in
        standard deviations, 0 below the mean (Kriegel et al. 2011). With
        `predict_confidence` if asked.
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
        found = np.stack([1 - anomaly, anomaly], axis=1)
        return (found, self._confidence(scores)) if return_confidence else found

    def set_params(self, **params) -> Self:
        """Sets parameters, those of `detector` as detector__NAME; the adapter.

        Raises ValueError at a name that neither has.
        """
        nested = [name for name in params if name.startswith("detector__")]
        if nested and params.get("detector", self.detector) is None:
            raise ValueError(
                f"{nested[0]}: there is no detector; give detector=EnergyDetector()"
            )
        return super().set_params(**params)

    @property
    def n_features_in_(self) -> int:
        return self._of_detector("n_features_in_")

    @property
    def feature_names_in_(self) -> np.ndarray:
        return self._of_detector("feature_names_in_")

    def _of_detector(self, name: str):
        if "detector_" not in vars(self):
            raise AttributeError(f"{name} is there after fit")
        return getattr(self.detector_, name)

    def _labels(self, scores: np.ndarray) -> np.ndarray:
        return (scores > self.threshold_).astype(int)

    def _confidence(self, scores: np.ndarray) -> np.ndarray:
        """`predict_confidence` of scores [N]."""
        train = np.sort(self.decision_scores_)
        num, num_normal = len(train), len(train) - self.labels_.sum()
        # The posterior mean of P(a training score is at most this one).
        rank = (1 + np.searchsorted(train, scores, side="right")) / (2 + num)
        is_anomaly = stats.binom.sf(num_normal, num, rank)
        return np.where(self._labels(scores) == 1, is_anomaly, 1 - is_anomaly)


def _check(detector: EnergyDetector) -> None:
    """ValueError naming the first unusable parameter, its value and what it may be."""
    values = detector.get_params()
    base.check(values, energy=tuple(_READS))
    base.check_common(values)
    _check_contamination(detector)
    _check_others(values)
    is_share = isinstance(values["num_neighbors"], float | np.floating)
    rules = {
        "criterion": ("energy", "score_norm"),
        "scaling": ("minmax", "standard", None),
        "latent_dim": 1,
        "num_steps": 1,
        "num_energy_updates": 1,
        # A batch of one has no independent pairs to tell from the joint ones.
        "batch_size": 2,
        "score_weight": "[0, inf)",
        "information_weight": "[0, inf)",
        "learning_rate": "(0, inf)",
        "average_decay": "[0, 1)",
        "num_neighbors": "(0, 0.5]" if is_share else 1,
        "max_stored": 2,
    }
    for name in _READS[values["energy"]]:
        if name in rules:
            base.check(values, **{name: rules[name]})
        else:
            _check_widths(name, values[name])


def _check_widths(name: str, widths) -> None:
    if not np.iterable(widths) or not len(widths):
        raise ValueError(f"{name}={widths!r}: give widths such as (128, 128)")
    for width in widths:
        base.check({name: width}, **{name: 1})


def _check_others(values: dict) -> None:
    """ValueError where a parameter is given that the energy does not read."""
    energy = values["energy"]
    for name, parameter in inspect.signature(EnergyDetector).parameters.items():
        others = [other for other, names in _READS.items() if name in names]
        is_read = not others or energy in others
        if not is_read and not np.array_equal(values[name], parameter.default):
            others = " or ".join(f"energy={other!r}" for other in others)
            raise ValueError(
                f"{name}={values[name]!r} is of {others}, not of {energy!r}: give that "
                "energy as well, or leave it out"
            )


def _check_adapter(adapter: PyODEnergyDetector) -> None:
    """ValueError at a detector or a contamination that cannot be."""
    _check_contamination(adapter)
    detector = adapter.detector
    is_one = hasattr(detector, "score_samples") and hasattr(detector, "set_params")
    is_one = is_one and not isinstance(detector, type)
    if detector is not None and not (
        is_one and "contamination" in detector.get_params()
    ):
        name = getattr(detector, "__name__", None)
        given = f"the class {name}" if name else f"{detector!r:.60}"
        raise ValueError(
            f"detector={given}: give an outlier detector with contamination "
            "and score_samples, such as EnergyDetector(), or None"
        )


def _check_contamination(detector: BaseEstimator) -> None:
    if detector.contamination != "auto":
        base.check(vars(detector), contamination="(0, 0.5]")
