"""A neural energy by persistent contrastive divergence, its chains moved by MALA.

python train.py --config=configs/neural_energy.py
python train.py --config=configs/neural_energy.py:four_spin

Maximum likelihood without a generator (Tieleman 2008; Mehta et al. 2019, eq. 195), of
the energy of deep directed models, on the sets that they and MEG are measured on.

Measured: 2 minutes of one CPU core. At its best inverse temperature KL on the plotted
window is 0.34 nats on the spirals (deep directed model 0.41, MEG 0.27) and 0.22 on the
pinwheel, `four_spin` (1.52 and 1.65); 98 % and 96 % of the data within 0.1 of a sample.
"""

from megjax.recipes import boltzmann


def get_config(name="two_spirals"):
    """Chains whose temperatures fluctuate, so that they cross from mode to mode."""
    config = boltzmann.neural_config(
        name,
        num_chains=200,
        fluctuating_temperature=True,
        learning_rate=0.001,
        num_sample_sweeps=50,
    )
    config.train.update({"num_steps": 10_000, "evaluate_every": 5000})
    return config
