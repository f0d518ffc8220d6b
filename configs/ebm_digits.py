"""An energy of 8x8 digits by persistent contrastive divergence, sampled by its own
learned proposal: the image experiment of Li, Chen and Sommer 2021 (proposal entropy),
section 5.2, at a size for one CPU core.

python train.py --config=configs/ebm_digits.py
python train.py --config=configs/ebm_digits.py:mala
python evaluate.py --workdir=runs/ebm_digits
python sample.py --workdir=runs/ebm_digits --space=data --kernel=neural --steps=1000

Measured: 4 minutes of one shared CPU core with the learned proposal and 30 seconds with
MALA; strokes of digits. The chains are 2.5 and 2.6 from the data in squared Frechet
distance of pixels, where other digits are 0.6 and the start 39. See docs/results/proposals.md.
"""

from megjax.recipes import image_ebm


def get_config(sampler="neural"):
    """Fewer chains and transitions than the paper, and narrow networks."""
    config = image_ebm.config("digits", sampler)
    config.width = 16
    config.proposal.width, config.proposal.flow_steps = 8, 1
    config.replay.update(
        {
            "buffer_size": 512,
            "num_transitions": 10,
            "learning_rate": 1e-3,
            "schedule": "cosine",
        }
    )
    config.train.update({"num_steps": 800, "save_every": 40, "evaluate_every": 200})
    config.evaluation.update(
        {"num_chains": 128, "num_transitions": 2000, "num_temperatures": 1000}
    )
    return config
