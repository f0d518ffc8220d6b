"""An energy of Oxford flowers by persistent contrastive divergence, sampled by its own
learned proposal: Li, Chen and Sommer 2021 (proposal entropy), section 5.2.

python train.py --config=configs/ebm_flowers.py --config.data_dir=DIR
python train.py --config=configs/ebm_flowers.py:mala --config.data_dir=DIR

The paper says 28x28 and takes its images from code that makes them 32x32. The full
length needs an accelerator (docs/gpu.md); `ebm_digits` is the size for a CPU.
"""

from megjax.recipes import image_ebm


def get_config(sampler="neural"):
    """5 bits, 10,000 chains, 40 transitions, acceptance 0.6; the rest is ours.

    All three splits, 8,189 images.
    """
    config = image_ebm.config("oxford_flowers102", sampler)
    config.batch_size, config.width = 100, 64
    config.train.update({"num_steps": 20_000, "evaluate_every": 2000})
    return config
