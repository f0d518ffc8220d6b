"""Classical one-class detectors on flat rows, to be read beside an energy's scores.

Settings are scikit-learn's defaults, but for the one-class SVM's fraction of outliers (0.1
for 0.5), and not tuned.
"""

from collections.abc import Callable

import numpy as np

from megjax import extras

Detector = Callable[[np.ndarray], dict[str, np.ndarray]]
"""x [N, F] -> name -> scores [N], high for anomalies."""


def principal_components(train: np.ndarray, num: int) -> Detector:
    """Squared distance to the plane of the first components, and its fraction of |x|^2.

    |x| is measured from the columns' smallest training values: for images, from black.
    """
    with extras.needed("estimators"):
        from sklearn import decomposition
    pca = decomposition.PCA(num, svd_solver="covariance_eigh").fit(
        train.astype(np.float64)
    )
    low = train.min(0)

    def scores(x):
        x = x.astype(np.float64)
        error = np.sum((x - pca.inverse_transform(pca.transform(x))) ** 2, axis=1)
        return {
            "reconstruction": error,
            "relative reconstruction": error / (np.sum((x - low) ** 2, axis=1) + 1e-6),
        }

    return scores


def neighbors(train: np.ndarray, num: int = 5) -> Detector:
    """Mean distance to the nearest `num` training rows, and the energy in it.

    "distance" ranks anomalies (Angiulli and Pizzuti 2002), but where data are spread
    out they are far from each other, too. "neighbor energy", log d - log(r) / 2 with r
    the mean of the same distance over those rows themselves, takes half of that scale
    out, as the widths of an adaptive kernel estimate do (Abramson 1982). A hundredth of
    the median of all r is added to d, and r kept within a factor 10 of that median: rows
    may be equal.
    """
    with extras.needed("estimators"):
        from sklearn import neighbors as sklearn_neighbors
    index = sklearn_neighbors.NearestNeighbors(n_neighbors=num, algorithm="brute")
    # Without argument, a row is no neighbour of its own.
    radii = index.fit(train).kneighbors()[0].mean(axis=1)
    usual = np.median(radii[radii > 0]) if radii.any() else 1.0
    radii = np.clip(radii, usual / 10, usual * 10)

    def scores(x):
        distances, nearest = index.kneighbors(x)
        distance = distances.mean(axis=1)
        scale = np.log(radii[nearest].mean(axis=1)) / 2
        energy = np.log(distance + 0.01 * usual) - scale
        return {"distance": distance, "neighbor energy": energy}

    return scores


def isolation_forest(train: np.ndarray, seed: int) -> Detector:
    """Liu et al. 2008: 100 trees on 256 examples each."""
    with extras.needed("estimators"):
        from sklearn import ensemble
    forest = ensemble.IsolationForest(random_state=seed).fit(train)
    return lambda x: {"path length": -forest.score_samples(x)}


def one_class_svm(train: np.ndarray, num: int, seed: int) -> Detector:
    """Schölkopf et al. 2001, Gaussian kernel, one training example in ten left outside.

    On a sample of the rows: its training time grows with the square of their number.
    """
    with extras.needed("estimators"):
        from sklearn import svm
    rows = np.random.RandomState(seed).permutation(len(train))[:num]
    machine = svm.OneClassSVM(nu=0.1).fit(train[rows])
    return lambda x: {"decision function": -machine.score_samples(x)}
