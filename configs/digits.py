"""scikit-learn's 1797 handwritten digits, 8x8: the demo.

python train.py --config=configs/digits.py
python sample.py --workdir=runs/digits --steps=100
python evaluate.py --workdir=runs/digits

Measured: a minute of CPU time, compilation included; a classifier of the real digits
names the samples with mean confidence .93 (real ones .97), all classes alike.
"""

from megjax.recipes import meg


def get_config():
    """Perceptrons: in 64 pixels there is little that convolutions could make use of.

    Their first gradients are no larger than later ones, so that `beta2` makes no
    difference (Frechet distance .036 with .99, .039 with .95).
    """
    config = meg.image_config("digits", width=256, networks="dense")
    config.meg.update({"latent_dim": 16, "learning_rate": 4e-3, "beta2": 0.99})
    config.train.num_steps = 5000
    config.train.evaluate_every = 1000
    config.train.iterations_per_call_cpu = 50
    return config
