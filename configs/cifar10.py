"""CIFAR-10: Kumar et al. 2019, table 2 and figure 1.

python train.py --config=configs/cifar10.py
python train.py --config=configs/cifar10.py:paper
python evaluate.py --workdir=runs/cifar10 --set=evaluation.inception_weights=PATH

The full length needs an accelerator (docs/gpu.md); 60 iterations at width 32 were run on
the real data. Without Inception weights a classifier's feature space gives distances
under other names: python -m megjax.evaluation.classifier --data=cifar10, then
--set=evaluation.classifier=runs/cifar10_classifier/classifier.npz.
"""

from megjax.recipes import meg

VARIANTS = ("ours", "paper")


def get_config(variant="ours"):
    """MEG's settings for images, or the reference's; `evaluation`: `recipes.cifar10`."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    return meg.image_config("cifar10", paper=variant == "paper")
