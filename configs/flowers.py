"""Oxford flowers, all 8,189 images, at 32 pixels or any side of 4 * 2^n.

python train.py --config=configs/flowers.py
python train.py --config=configs/flowers.py:paper
python train.py --config=configs/flowers.py --config.image_size=64

The full length needs an accelerator; 60 iterations at width 32 were run on the real data.
"""

from megjax.recipes import meg

VARIANTS = ("ours", "paper")


def get_config(variant="ours"):
    """MEG's settings for images, or the reference's."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    return meg.image_config("oxford_flowers102", paper=variant == "paper")
