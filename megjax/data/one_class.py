"""One-class anomaly detection: one digit held out of training, Kumar et al. (2019),
table 4.
"""

import numpy as np

from megjax.data import images
from megjax.data.dataset import Dataset, Labelled


def mnist_without(
    digit: int, *, data_dir: str | None = None, seed: int = 42
) -> tuple[Dataset, Labelled]:
    """All 70,000 MNIST digits split as by `one_class`.

    Raises ValueError for a digit outside 0..9, and as `images.labelled`.
    """
    if digit not in range(10):
        raise ValueError(f"The held-out digit is one of 0 to 9, not {digit!r}.")
    pixels, labels = images.labelled("mnist", split="train+test", data_dir=data_dir)
    return one_class(pixels, labels, held_out=digit, name="mnist", seed=seed)


def one_class(
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    held_out: int,
    name: str,
    seed: int,
    train_fraction: float = 0.8,
) -> tuple[Dataset, Labelled]:
    """(train, test): normals are all classes but `held_out`, which is label 1 in test.

    pixels uint8 [N, H, W, C], labels int32 [N]. A random `train_fraction` of the
    normals trains, the rest and every held-out example test. The reference code
    permutes again for the test set, so that most of its test normals were trained on;
    here one permutation makes both. Raises ValueError where there is no such split.
    """
    images.check_pixels(pixels, f"the pixels of {name!r}")
    if len(labels) != len(pixels):
        raise ValueError(f"{len(pixels)} images and {len(labels)} labels: give as many")
    if not 0 < train_fraction <= 1:
        raise ValueError(f"train_fraction={train_fraction}: give a number in (0, 1]")
    anomalous = np.flatnonzero(labels == held_out)
    normal = np.flatnonzero(labels != held_out)
    if not len(anomalous) or not len(normal):
        raise ValueError(
            f"Holding {held_out!r} out of {name!r} leaves no split: its labels are "
            f"{np.unique(labels).tolist()}."
        )
    normal = np.random.RandomState(seed).permutation(normal)
    num_train = int(train_fraction * len(normal))
    train = images.resident(
        f"{name}_without_{held_out}", pixels[np.sort(normal[:num_train])]
    )
    tested = np.concatenate([normal[num_train:], anomalous])
    is_anomaly = (labels[tested] == held_out).astype(np.int32)
    return train, Labelled(images.normalised(pixels[tested]), is_anomaly)
