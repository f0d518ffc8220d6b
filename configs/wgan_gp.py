"""WGAN-GP with MEG's networks, the baseline of Kumar et al. 2019, tables 1 and 2.

python train.py --config=configs/wgan_gp.py:digits
python train.py --config=configs/wgan_gp.py:stacked_mnist_3
python train.py --config=configs/wgan_gp.py:stacked_mnist_3 \
    --config.wgan_gp.penalty_form=per_pixel

The paper's rows were measured with `per_pixel`, a departure from the published method;
see `wgan_gp.PER_PIXEL`. With MEG's networks and settings at equal seconds:
python -m benchmarks.reproduce images
"""

from megjax.recipes import image_sets, wgan_gp

DATA = (
    *("digits", "mnist", "stacked_mnist_3", "stacked_mnist_4"),
    *("cifar10", "toy_25gaussians"),
)


def get_config(data="digits"):
    """The reference's baseline; what is no part of the method is as MEG has it."""
    if data not in DATA:
        raise ValueError(f"data set {data!r}: choose one of {', '.join(DATA)}")
    if data == "toy_25gaussians":
        return wgan_gp.plane_config("gaussians_25")
    if data.startswith("stacked_mnist"):
        return wgan_gp.with_images(image_sets.stacked_config(data[-1]))
    config = wgan_gp.image_config(data)
    if data == "digits":
        config.width, config.networks = 256, "dense"
        config.wgan_gp.update(wgan_gp.as_meg(config.width))
        config.wgan_gp.update({"latent_dim": 16, "learning_rate": 2e-3})
        config.train.num_steps = 5000
        config.train.evaluate_every = 1000
        config.train.iterations_per_call_cpu = 50
    return config
