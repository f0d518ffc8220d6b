"""Anomaly detection: scores of a trained model, and how well they rank the anomalies.

Kumar et al. 2019, tables 3 (KDD99) and 4 (MNIST). A high score is anomalous throughout.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from megjax import distributed, extras, plotting
from megjax.data.dataset import Labelled
from megjax.evaluation import baselines
from megjax.learners.base import Learner
from megjax.types import Array, Evaluation, Key, PyTree, Report

Scorer = Callable[[PyTree, Array], Mapping[str, Array]]
"""(learner state, x [B, ...]) -> name -> scores [B], high for anomalies."""


def energy_scores(learner: Learner, features: Callable | None = None) -> Scorer:
    """E(x) as "energy", and |grad_x E(x)| as "score_norm" (the paper's choice).

    Data have low energy, and the penalty makes them stationary points of it. Nothing
    keeps the energy of anomalies above that of data, only that of generated samples:
    its ranking can be inverted.
    features: (learner state, x) -> [B, F], given as "features" for `compared`.
    """

    @jax.jit
    def scores(state, x):
        x = distributed.shard(x)
        energies, vjp = jax.vjp(functools.partial(learner.energy, state), x)
        (gradient,) = vjp(jnp.ones_like(energies))
        norm = jnp.linalg.norm(gradient.reshape(len(x), -1), axis=1)
        found = {"energy": energies, "score_norm": norm}
        return found | ({"features": features(state, x)} if features else {})

    return scores


def reconstruction_scores(
    learner: Learner,
    *,
    num_steps: int = 100,
    learning_rate: float = 0.1,
    prior_weight: float = 0.0,
) -> Scorer:
    """How far x lies from what the generator can draw, by descent on its latents.

    Adam from z = 0 on |x - G(z)|^2 + prior_weight |z|^2, of which the first term is
    "reconstruction" and its ratio to |x - x_0|^2 "relative_reconstruction", with x_0
    the constant image of the smallest value, -1. A digit with little ink has a small
    error however badly it is drawn; the ratio is blind to the amount of ink.

    Raises ValueError for a method without a generator.
    """
    if learner.generate is None:
        raise ValueError("reconstruction needs a generator and this method has none")
    optimizer = optax.adam(learning_rate)

    def loss(z, state, x):
        error = _squared_norm(x - learner.generate(state, z))
        return jnp.sum(error + prior_weight * _squared_norm(z)), error

    @jax.jit
    def start(state, x):
        z = jnp.zeros_like(learner.latents(jax.random.key(0), len(x)))
        return z, optimizer.init(z)

    @jax.jit
    def step(z, moments, state, x):
        gradient, _ = jax.grad(loss, has_aux=True)(z, state, distributed.shard(x))
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(z, updates), moments

    @jax.jit
    def finish(z, state, x):
        _, error = loss(z, state, x)
        return {
            "reconstruction": error,
            "relative_reconstruction": error / (_squared_norm(x + 1) + 1e-6),
        }

    def scores(state, x):
        # One call per step: convolutions inside a compiled loop are slow on CPU.
        z, moments = start(state, x)
        for _ in range(num_steps):
            z, moments = step(z, moments, state, x)
        return finish(z, state, x)

    return scores


def detection(
    scorer: Scorer,
    test: Labelled,
    *,
    quantile: float | None = None,
    reference: np.ndarray | None = None,
    batch_size: int = 512,
) -> Evaluation:
    """An evaluation of every score of a scorer on labelled examples.

    quantile: of the test scores, at and above which an example is called anomalous
        (0.8 for KDD99); None leaves precision, recall and F1 out.
    reference: training examples [M, ...], with which features are `compared`.

    Metrics: the anomalies' fraction ("prevalence", which is also the area under the
    precision-recall curve of random scores), the smallest area that any scores have,
    and for each score what `ranking` and `thresholded` return.
    Equal examples are scored once, so that they tie exactly: in KDD99 one row makes up
    39 % of the test set.
    """
    rows = functools.cache(lambda: distinct(test.x))

    def evaluate(key: Key, state: PyTree) -> Report:
        del key
        first, inverse = rows()
        found = scored(scorer, state, test.x[first], batch_size=batch_size)
        if reference is not None:
            trained = scored(scorer, state, reference, batch_size=batch_size)
            found = compared(found, trained)
        scores = {name: values[inverse] for name, values in found.items()}
        prevalence = float(np.mean(test.labels))
        metrics = {
            "prevalence": prevalence,
            "minimum_auprc": minimum_auprc(prevalence),
        }
        for name, values in scores.items():
            one = ranking(values, test.labels)
            if quantile is not None:
                one |= thresholded(values, test.labels, quantile)
            metrics |= {f"{name}_{metric}": value for metric, value in one.items()}
        return Report(metrics, pictures(scores, test.labels))

    return evaluate


def scored(
    scorer: Scorer, state: PyTree, x: np.ndarray, *, batch_size: int = 512
) -> dict[str, np.ndarray]:
    """All scores of x [N, ...], batch by batch: name -> float32 [N].

    The last batch is filled up with copies, so that one program serves all.
    Raises FloatingPointError where a score is not finite.
    """
    parts = []
    for begin in range(0, len(x), batch_size):
        batch = x[begin : begin + batch_size]
        filler = np.repeat(batch[-1:], batch_size - len(batch), axis=0)
        parts.append(scorer(state, jnp.asarray(np.concatenate([batch, filler]))))
    parts = jax.device_get(parts)
    found = {
        name: np.concatenate([part[name] for part in parts])[: len(x)]
        for name in parts[0]
    }
    for name, values in found.items():
        if bad := int(np.sum(~np.isfinite(values))):
            raise FloatingPointError(
                f"{name} of {bad} of {len(x)} examples is not finite: lower the "
                "learning rate, or score an earlier checkpoint"
            )
    return found


def compared(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Scores [N], and in place of "features" [N, F] two of how far from `reference`.

    reference: what the scorer gives for training examples, of which only the features
    [M, F] are read. "feature_distance" is their squared Mahalanobis distance from the
    mean of those, whose covariance gets a hundredth of its mean variance on the
    diagonal; "neighbor_energy" that of `baselines.neighbors`.
    """
    found, stored = dict(found), reference["features"]
    features = found.pop("features")
    energy = baselines.neighbors(stored)(features)["neighbor energy"]
    distance = _mahalanobis(features, stored)
    return found | {"feature_distance": distance, "neighbor_energy": energy}


def distinct(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first, inverse) such that x[first] are the distinct examples, in their order,
    and x[first][inverse] is x [N, ...].
    """
    numbers = {}
    inverse = [numbers.setdefault(row.tobytes(), len(numbers)) for row in x]
    return np.unique(inverse, return_index=True)[1], np.array(inverse)


def ranking(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Figures of an order, without a threshold: scores [N], labels [N] in {0, 1}.

    auprc: area under scikit-learn's precision-recall curve by trapezoids, as the
    reference measures it; optimistic where scores tie.
    average_precision: the same by steps, sum of (R_n - R_n-1) P_n.
    auroc: the probability that an anomaly scores above a normal example.
    """
    with extras.needed("estimators"):
        from sklearn import metrics as sklearn_metrics
    precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
    return {
        "auprc": float(sklearn_metrics.auc(recall, precision)),
        "average_precision": float(
            sklearn_metrics.average_precision_score(labels, scores)
        ),
        "auroc": float(sklearn_metrics.roc_auc_score(labels, scores)),
    }


def thresholded(
    scores: np.ndarray, labels: np.ndarray, quantile: float
) -> dict[str, float]:
    """Precision, recall, F1 of calling anomalous what is at or above a quantile.

    The quantile is that of the scores themselves, interpolated as by np.percentile
    (Zenati et al. 2018). It fixes how many are flagged up to ties, and with that
    "precision_over_recall", prevalence / flagged: the three are one number.
    0 where nothing is right.
    """
    flagged = scores >= np.quantile(scores, quantile)
    right = float(np.sum(flagged & (labels == 1)))
    precision, recall = right / np.sum(flagged), right / np.sum(labels == 1)
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(2 * right / (np.sum(flagged) + np.sum(labels == 1))),
        "flagged": float(np.mean(flagged)),
        "precision_over_recall": float(np.mean(labels == 1) / np.mean(flagged)),
    }


def minimum_auprc(prevalence: float) -> float:
    """The area under the precision-recall curve that ranks every anomaly last.

    1 + (1 - p) ln(1 - p) / p for many examples (Boyd et al. 2012).
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence={prevalence}: both classes are needed.")
    return 1 + (1 - prevalence) * math.log1p(-prevalence) / prevalence


def last_evaluations(
    lines: Sequence[Mapping[str, float]],
    metric: str,
    *,
    num: int = 10,
    before: int | None = None,
) -> np.ndarray:
    """The last `num` values of a metric in the lines of metrics.jsonl.

    before: a step; evaluations after it and at it are left out. The reference evaluates
    at the start of an epoch only, so that its table leaves out the end of the last.
    Raises ValueError where the run holds fewer.
    """
    found = [
        line[metric]
        for line in lines
        if metric in line and (before is None or line["step"] < before)
    ]
    if len(found) < num:
        raise ValueError(
            f"{metric} was evaluated {len(found)} times, not {num}: train on, or lower "
            "config.train.evaluate_every"
        )
    return np.array(found[-num:], float)


def pictures(
    scores: Mapping[str, np.ndarray], labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Precision-recall curves, and the two classes' histograms of every score."""
    drawn = {
        name.replace("_", " "): _precision_recall(values, labels)
        for name, values in scores.items()
    }
    chance = np.full(2, np.mean(labels))
    drawn = {
        "precision_recall": plotting.curves(
            drawn | {"chance": (np.array([0.0, 1.0]), chance)},
            x_label="recall",
            y_label="precision",
        )
    }
    for name, values in scores.items():
        drawn[f"{name}_histogram"] = _histogram(name.replace("_", " "), values, labels)
    return drawn


def _precision_recall(scores, labels, num=500):
    """(recall, precision) at about `num` of the curve's points."""
    with extras.needed("estimators"):
        from sklearn import metrics as sklearn_metrics
    precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
    shown = np.unique(np.linspace(0, len(recall) - 1, num).astype(int))
    return recall[shown], precision[shown]


def _histogram(name, scores, labels, num=60):
    """Densities of the classes, without the outermost 1 % of the examples."""
    edges = np.linspace(*np.quantile(scores, [0.005, 0.995]), num + 1)
    if not edges[-1] > edges[0]:
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, num + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    classes = {"normal": scores[labels == 0], "anomalous": scores[labels == 1]}
    shares = {
        title: (centres, np.histogram(values, edges)[0] / max(len(values), 1))
        for title, values in classes.items()
    }
    return plotting.curves(
        shares, x_label=name, y_label="fraction of the class per bin"
    )


def _mahalanobis(x, reference):
    """Squared distances of x [N, F] from the mean of a reference [M, F]."""
    x, reference = x.astype(np.float64), reference.astype(np.float64)
    covariance = np.atleast_2d(np.cov(reference.T))
    covariance += 0.01 * np.trace(covariance) / len(covariance) * np.eye(x.shape[1])
    factor = np.linalg.cholesky(covariance)
    return np.sum(np.linalg.solve(factor, (x - reference.mean(0)).T) ** 2, axis=0)


def _squared_norm(x: Array) -> Array:
    """|x|^2 of every example: [B, ...] -> [B]."""
    return jnp.sum(jnp.square(x), axis=range(1, x.ndim))
