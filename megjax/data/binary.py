"""Images of two values, split for training and validation.

The set-up of Mehta et al. 2019, figure 60: grey levels rounded, 95 % to train on.
"""

from typing import NamedTuple

import numpy as np

from megjax.data import images
from megjax.data.dataset import Dataset


class Split(NamedTuple):
    """One set in two parts.

    train: a Dataset, and the same images as `train_x` [N, H, W, 1].
    validation_x: those kept back [M, H, W, 1]. Values are -1 and 1, float32.
    train_labels, validation_labels: int32.
    """

    train: Dataset
    train_x: np.ndarray
    validation_x: np.ndarray
    train_labels: np.ndarray
    validation_labels: np.ndarray


def rounded(pixels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """uint8 pixels, each 0 or 255, whichever is nearer; takes a seed as `drawn` does."""
    del seed
    return np.where(pixels > 127, 255, 0).astype(np.uint8)


def drawn(pixels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """uint8 pixels, each 255 at the probability pixel / 255, else 0; drawn once.

    Salakhutdinov and Murray 2008. Noisier than `rounded`, so likelihoods are lower.
    """
    noise = np.random.RandomState(seed).randint(255, size=pixels.shape)
    return np.where(pixels > noise, 255, 0).astype(np.uint8)


def split(
    name: str,
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    validation_share: float = 0.05,
    seed: int = 0,
) -> Split:
    """Images of two values, a random share of them kept back.

    pixels uint8 [N, H, W, C] of 0 and 255, labels int32 [N]. Raises ValueError for a share that
    leaves one part empty.
    """
    num_kept = round(validation_share * len(pixels))
    if not 0 < num_kept < len(pixels):
        raise ValueError(
            f"validation_share={validation_share} of {len(pixels)} images of {name!r} "
            "leaves a part empty: give a share between 0 and 1"
        )
    order = np.random.RandomState(seed).permutation(len(pixels))
    kept, trained = order[:num_kept], order[num_kept:]
    return Split(
        images.resident(name, pixels[trained]),
        images.normalised(pixels[trained]),
        images.normalised(pixels[kept]),
        labels[trained],
        labels[kept],
    )
