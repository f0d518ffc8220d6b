"""CelebA faces, cropped to 140 pixels and resized to 64: Kumar et al. 2019, figure 4.

python train.py --config=configs/celeba.py

Needs an accelerator; run on made-up images only, for want of the data.
"""

from megjax.recipes import meg


def get_config():
    """The reference's settings; it leaves PyTorch's default initialisation here."""
    config = meg.image_config("celeb_a", paper=True)
    config.default_init = True
    return config
