"""Samples a trained run: python sample.py --workdir=runs/digits --steps=100"""

from megjax.commands import sample

if __name__ == "__main__":
    sample.run()
