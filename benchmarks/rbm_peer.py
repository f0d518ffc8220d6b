"""A plain PyTorch loop for `benchmarks.energies`: a binary RBM by PCD-1.

    python benchmarks/rbm_peer.py --rows=rows.npy

Prints one line of JSON: seconds of a pass over the rows, Gibbs sweeps per second.
"""

import argparse
import json
import time

import numpy as np
import torch


def main() -> None:
    """Trains one pass to warm up and one with the clock on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", required=True, help=".npy of numbers in [0, 1]")
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--sweeps", type=int, default=300)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = torch.from_numpy(np.load(arguments.rows)).float()
    machine = Machine(rows.shape[1], arguments.hidden, arguments.batch_size)
    with torch.inference_mode():
        machine.epoch(rows, arguments.learning_rate)
        start = time.perf_counter()
        machine.epoch(rows, arguments.learning_rate)
        epoch_seconds = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(arguments.sweeps):
            machine.sweep()
        sweep_seconds = (time.perf_counter() - start) / arguments.sweeps
    record = {"epoch_s": epoch_seconds, "sweeps_per_s": 1 / sweep_seconds}
    print(json.dumps(record | {"torch": torch.__version__}))


class Machine:
    """Weights [n, m], biases [n] and [m], hidden chains [B, m]."""

    def __init__(self, num_visible: int, num_hidden: int, num_chains: int):
        self.weights = 0.01 * torch.randn(num_visible, num_hidden)
        self.visible_bias = torch.zeros(num_visible)
        self.hidden_bias = torch.zeros(num_hidden)
        self.h = torch.zeros(num_chains, num_hidden)

    def sweep(self) -> tuple[torch.Tensor, torch.Tensor]:
        """v given h, h given v; returns v and the probabilities of h."""
        mean = torch.sigmoid(torch.addmm(self.visible_bias, self.h, self.weights.T))
        v = torch.bernoulli(mean)
        mean = torch.sigmoid(torch.addmm(self.hidden_bias, v, self.weights))
        self.h = torch.bernoulli(mean)
        return v, mean

    def epoch(self, rows: torch.Tensor, learning_rate: float) -> None:
        """One pass over shuffled rows, one sweep and one update per batch."""
        num = len(self.h)
        for batch in torch.randperm(len(rows)).split(num):
            v = rows[batch]
            h = torch.sigmoid(torch.addmm(self.hidden_bias, v, self.weights))
            v_model, h_model = self.sweep()
            rate = learning_rate / num
            self.weights += rate * (v.T @ h - v_model.T @ h_model)
            self.visible_bias += rate * (v.sum(0) - v_model.sum(0))
            self.hidden_bias += rate * (h.sum(0) - h_model.sum(0))


if __name__ == "__main__":
    main()
