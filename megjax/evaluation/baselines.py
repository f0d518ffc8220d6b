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
