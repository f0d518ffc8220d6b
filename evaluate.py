"""Measures a trained run: python evaluate.py --workdir=runs/digits"""

from megjax.commands import evaluate

if __name__ == "__main__":
    evaluate.run()
