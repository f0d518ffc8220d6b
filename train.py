"""Trains a config: python train.py --config=configs/mnist.py"""

from megjax.commands import train

if __name__ == "__main__":
    train.run()
