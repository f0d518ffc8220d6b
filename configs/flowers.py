"""Oxford flowers, all 8,189 images, at 32 pixels or any side of 4 * 2^n.

python train.py --config=configs/flowers.py
python train.py --config=configs/flowers.py --config.image_size=64

The full length needs an accelerator; 60 iterations at width 32 were run on the real data.
"""

from megjax.recipes import meg


def get_config():
    """The reference's settings for CIFAR-10, on all three splits."""
    return meg.image_config("oxford_flowers102")
