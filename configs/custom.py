"""Your own data: a folder of images, or a .npy or .npz of images or vectors.

python train.py --config=configs/custom.py --config.path=~/pictures
python train.py --config=configs/custom.py --config.path=table.npy

Time and result depend on the data.
"""

from configs import base, kdd99
from megjax.data import files


def get_config():
    """Settings of the image experiments; `path` must be given."""
    config = base.image_config(32)
    config.path = ""
    # Of folders: side in pixels, and 1 channel for grey or 3 for colour.
    config.image_size, config.num_channels = 32, 3
    # Of vectors: to mean 0 and variance 1 per column.
    config.standardise = True
    config.build = build
    return config


def build(config):
    """MEG with convolutions on images, with perceptrons on vectors."""
    if not config.path:
        raise ValueError(
            "config.path is empty: give --config.path=FOLDER, .npy or .npz of your data"
        )
    data = files.custom(
        config.path,
        image_size=config.image_size,
        num_channels=config.num_channels,
        standardise=config.standardise,
    )
    if len(data.shape) == 1:
        return kdd99.vector_meg(config, data)
    return base.image_meg(config, data)
