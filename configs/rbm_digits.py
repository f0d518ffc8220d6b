"""RBMs on scikit-learn's 1797 digits, 8x8, with binary pixels: seconds.

python train.py --config=configs/rbm_digits.py
python evaluate.py --workdir=runs/rbm_digits
python train.py --config=configs/rbm_digits.py:labelled

`images` has so few hidden units that its likelihood is exact. `labelled` models images
and labels together, and classifies by free energy. Measured for `images`: 10 seconds on
one shared CPU core, most of it compilation; validation log-likelihood -19.4 nats.
`labelled` gives 94 % of the validation images their label.
"""

from megjax.recipes import boltzmann


def get_config(variant="images"):
    """3000 steps, with a fifth of the images held out."""
    config = boltzmann.image_config("digits", num_sample_sweeps=300)
    if variant == "images":
        config.num_hidden = 16
        config.evaluation.log_partition = "enumeration"
    elif variant == "labelled":
        config.num_hidden = 100
        config.recipe = boltzmann.labelled
    else:
        raise ValueError(f"variant {variant!r}: choose one of images, labelled")
    config.train.update({"num_steps": 3000, "log_every": 300, "evaluate_every": 1500})
    return config
