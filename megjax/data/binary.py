"""Images of two values, split for training and validation.

The set-up of Mehta et al. 2019, figure 60: grey levels rounded, 95 % to train on.
"""

import numpy as np

from megjax.data import images
from megjax.data.dataset import Dataset, Labelled


def rounded(pixels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """uint8 pixels, each 0 or 255, whichever is nearer; takes a seed as `drawn` does."""
    del seed
    images.check_levels(pixels)
    return np.where(pixels > 127, 255, 0).astype(np.uint8)


def drawn(pixels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """uint8 pixels, each 255 at the probability pixel / 255, else 0; drawn once.

    Salakhutdinov and Murray 2008. Noisier than `rounded`, so likelihoods are lower.
    """
    images.check_levels(pixels)
    noise = np.random.RandomState(seed).randint(255, size=pixels.shape)
    return np.where(pixels > noise, 255, 0).astype(np.uint8)


def split(
    name: str,
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    held_out_fraction: float = 0.05,
    seed: int = 0,
) -> Dataset:
    """Images of two values, a random part of them held out.

    pixels uint8 [N, H, W, C] of 0 and 255, labels int32 [N]. Its `reference` has
    "validation", those held out, and "train", the others, as `Labelled` of
    -1 and 1. Raises ValueError for a fraction that leaves one part empty, and for pixels
    of other values.
    """
    num_kept = round(held_out_fraction * len(pixels))
    if not 0 < num_kept < len(pixels):
        raise ValueError(
            f"held_out_fraction={held_out_fraction} of {len(pixels)} images of "
            f"{name!r} leaves a part empty: give a fraction between 0 and 1"
        )
    images.check_pixels(pixels, f"the pixels of {name!r}")
    if len(labels) != len(pixels):
        raise ValueError(f"{len(pixels)} images and {len(labels)} labels: give as many")
    if np.any((pixels != 0) & (pixels != 255)):
        raise ValueError(
            f"the pixels of {name!r} have other values than 0 and 255: give "
            "binary.rounded(pixels) or binary.drawn(pixels)"
        )
    order = np.random.RandomState(seed).permutation(len(pixels))
    parts = {"validation": order[:num_kept], "train": order[num_kept:]}
    reference = {
        part: Labelled(images.normalised(pixels[rows]), labels[rows])
        for part, rows in parts.items()
    }
    data = images.resident(name, pixels[parts["train"]])
    return data._replace(reference=reference)
