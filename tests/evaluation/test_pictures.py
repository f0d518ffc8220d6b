"""Pictures of chains."""

import numpy as np

from megjax.evaluation import pictures


def test_pictures_of_chains():
    x = np.random.default_rng(0).normal(size=(3, 200, 6))
    found = pictures.chains(x, num_lags=20)
    assert set(found) == {"traces", "ranks", "autocorrelations"}
    for picture in found.values():
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        assert picture.std() > 5
