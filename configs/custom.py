"""Your own data: a folder of images, an .npy or .npz of images or vectors, or a table.

python train.py --config=configs/custom.py --config.path=~/pictures
python train.py --config=configs/custom.py --config.path=table.csv

Tables are .csv (read by pandas) or .parquet (by pyarrow). Transparent pixels show white.
Time and result depend on the data.
"""

from megjax.recipes import base, meg


def get_config():
    """Settings of the image experiments; `path` must be given."""
    config = base.config()
    config.path = ""
    # Of folders: side in pixels, and 1 channel for grey or 3 for colour.
    config.image_size, config.num_channels = 32, 3
    # Of vectors: trained on with mean 0 and variance 1 per column. The model still takes
    # and gives them as they are, by `mean` and `scale`, which are filled in from the
    # file, as is the digest of its examples.
    config.standardise = True
    config.mean = config.scale = ()
    config.examples = ""
    config.width = 512
    config.remat = config.default_init = False
    config.meg = meg.settings(score_weight=10 / 32**2)
    config.recipe = meg.custom
    return config
