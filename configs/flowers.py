"""Oxford flowers, all 8,189 images, at 32 pixels or any side of 4 * 2^n.

python train.py --config=configs/flowers.py
python train.py --config=configs/flowers.py:paper
python train.py --config=configs/flowers.py --config.image_size=64

python train.py --config=configs/flowers.py --config.width=128 --config.networks=strided \\
  --config.train.num_steps=12000

Measured: the last, 19 minutes of one CPU core; nearly all samples are recognisable as
flowers (docs/results/images.md). The full length at width 512 needs an accelerator.
"""

from megjax.recipes import meg

VARIANTS = ("ours", "paper")


def get_config(variant="ours"):
    """MEG's settings for images, or the reference's."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    return meg.image_config("oxford_flowers102", paper=variant == "paper")
