"""The density of your own table, a .npy or .npz of rows, by noise-contrastive estimation.

python train.py --config=configs/density_table.py --config.path=table.npy
python evaluate.py --workdir=runs/density_table

Columns with few different values have no density: add noise as wide as their steps
first. Time and result depend on the data.
"""

from megjax.recipes import density


def get_config():
    """Whitened rows, a tenth held out and a tenth that chooses the weights."""
    return density.table_config()
