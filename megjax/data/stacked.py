"""Stacked MNIST: n digits as the n channels of one image, 10^n modes.

Metz et al., Unrolled Generative Adversarial Networks (2017), section 3.3.1; a fixed
set of 128 * 10^n stacks as in the reference code of Kumar et al. (2019).
"""

import numpy as np

from megjax.data import images
from megjax.data.dataset import Dataset
from megjax.types import Array


def stacked_mnist(num_stacked: int = 3, *, data_dir: str | None = None) -> Dataset:
    """MNIST's training digits in stacks of 3 or 4, composed as a batch is taken.

    The table of indices is the reference's, but TFDS keeps MNIST in another order than
    the original files, so the stacks are another draw from the same distribution.
    Raises as `images.tfds_images`.
    """
    pixels, _ = images.labelled("mnist", split="train", data_dir=data_dir)
    return stacked(pixels, num_stacked=num_stacked)


def stacked(pixels: np.ndarray, *, num_stacked: int) -> Dataset:
    """Stacks of the images uint8 [N, H, W, 1]: examples [H, W, num_stacked].

    Raises ValueError for other pixels.
    """
    images.check_pixels(pixels)
    if pixels.shape[-1] != 1:
        raise ValueError(f"pixels of {pixels.shape[-1]} channels: give grey images, 1")
    table = index_table(len(pixels), num_stacked=num_stacked)
    shape = (*pixels.shape[1:3], num_stacked)
    store = {"pixels": pixels[..., 0], "table": table}
    return Dataset(f"stacked_mnist_{num_stacked}", shape, len(table), store, _take)


def index_table(num_images: int, *, num_stacked: int) -> np.ndarray:
    """Which image is which channel: int32 [128 * 10^num_stacked, num_stacked].

    The reference's table, drawn with its seed, when `num_images` is 60000. Labels of
    the stacks are `labels[table]`.
    """
    if num_stacked not in (3, 4):
        raise ValueError(f"Digits are stacked in 3 or 4 channels, not {num_stacked}.")
    generator = np.random.RandomState(111)
    size = (128 * 10**num_stacked, num_stacked)
    return generator.randint(0, num_images, size).astype(np.int32)


def _take(store: dict[str, Array], indices: Array) -> Array:
    channels = store["pixels"][store["table"][indices]]
    return images.normalised(channels).transpose(0, 2, 3, 1)
