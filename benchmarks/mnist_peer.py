"""The game of configs/mnist_small.py in eager PyTorch, for `benchmarks.time_to_quality`.

    PYTHON_WITH_TORCH benchmarks/mnist_peer.py DIRECTORY [--check]

Needs torch and numpy alone. DIRECTORY has settings.json, pixels.npy (uint8 [N, 28, 28,
1]) and the initial weights.npz under the names and in the layout of megjax. For every
number in standard input it trains to that iteration, writes samples.npy and prints a
line of JSON: the seconds that training took until then. With --check it plays a few
iterations on the batches and latents of given.npz instead, and writes found.npz.
"""

import argparse
import collections
import copy
import json
import math
import pathlib
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

PER_UNIT_SIDE = 8
MIN_STD = 0.05
AVERAGED = ("energy", "generator")


def flat(x: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> [B, H W C]: channels last, so nothing is copied."""
    return x.permute(0, 2, 3, 1).flatten(1)


class Energy(nn.Module):
    """x [B, 1, 28, 28] -> energies [B], features [B, 4 width]."""

    def __init__(self, width: int):
        super().__init__()
        layers, channels = collections.OrderedDict(), 1
        for i, divisor in enumerate((8, 4, 2, 1)):
            features = width // divisor
            layers[f"convolution_{i}"] = nn.Conv2d(channels, features, 5, 2, 2)
            layers[f"activation_{i}"] = nn.LeakyReLU(0.2)
            channels = features
        self.trunk = nn.Sequential(layers)
        self.output = nn.Linear(4 * width, 1)

    def forward(self, x):
        features = flat(self.trunk(x))
        return self.output(features)[:, 0], features


class Generator(nn.Module):
    """z [B, k] -> x [B, 1, 28, 28]; the norms of small maps are per unit."""

    def __init__(self, width: int, latent_dim: int):
        super().__init__()
        self.seed = nn.Linear(latent_dim, 4 * width)
        channels = [width, width // 2, width // 4, width // 8, 1]
        self.maps = list(zip((2, 4, 7, 14), channels))
        for i, (side, features) in enumerate(self.maps):
            norm = nn.BatchNorm2d(features)
            if side <= PER_UNIT_SIDE:
                norm = nn.BatchNorm1d(side * side * features)
            setattr(self, f"norm_{i}", norm)
            grown = {"output_padding": int(side != 4)}
            layer = nn.ConvTranspose2d(features, channels[i + 1], 5, 2, 2, **grown)
            setattr(self, f"convolution_{i}", layer)

    def forward(self, z):
        x = self.seed(z)
        for i, (side, features) in enumerate(self.maps):
            if side <= PER_UNIT_SIDE:
                x = getattr(self, f"norm_{i}")(flat(x) if i else x)
                x = x.view(-1, side, side, features).permute(0, 3, 1, 2)
            else:
                x = getattr(self, f"norm_{i}")(x)
            x = getattr(self, f"convolution_{i}")(functional.relu(x))
        return torch.tanh(x)


class Posterior(nn.Module):
    """log q(z | features) - log N(z; 0, I): [B]; one Gaussian."""

    def __init__(self, width: int, latent_dim: int):
        super().__init__()
        self.output = nn.Linear(4 * width, 2 * latent_dim + 1)

    def forward(self, features, z):
        h = functional.layer_norm(features, features.shape[1:], eps=1e-6)
        dim = z.shape[1]
        mean, narrowness, _ = self.output(h).split([dim, dim, 1], dim=1)
        log_std = math.log(MIN_STD) * torch.sigmoid(narrowness - 3)
        scaled = (z - mean) * torch.exp(-log_std)
        return ((z.square() - scaled.square()) / 2 - log_std).sum(1)


class Game:
    """Three players, their optimizers, and the averages of two of them."""

    def __init__(self, settings: dict, arrays: dict[str, np.ndarray]):
        self.settings = settings
        width, dim = settings["width"], settings["latent_dim"]
        self.energy, self.generator = Energy(width), Generator(width, dim)
        self.posterior = Posterior(width, dim)
        self.players = {
            "energy": self.energy,
            "generator": self.generator,
            "statistics": self.posterior,
        }
        for player, module in self.players.items():
            load(module, player, arrays)
            module.to(memory_format=torch.channels_last)
        self.average = {k: copy.deepcopy(self.players[k]) for k in AVERAGED}
        self.count = 0
        rate = settings["learning_rate"] * settings["statistics_rate"]
        posterior = {"params": self.posterior.parameters(), "lr": rate}
        generator = {"params": self.generator.parameters()}
        self.energy_adam = self.adam([{"params": self.energy.parameters()}])
        self.generator_adam = self.adam([generator, posterior])
        adams = (self.energy_adam, self.generator_adam)
        schedule = torch.optim.lr_scheduler.LambdaLR
        self.schedules = [schedule(adam, self.share) for adam in adams]

    def adam(self, groups) -> torch.optim.Optimizer:
        """Adam with the rate and the moments of the settings."""
        betas = (self.settings["beta1"], self.settings["beta2"])
        rate = self.settings["learning_rate"]
        return torch.optim.Adam(groups, lr=rate, betas=betas, eps=1e-8, fused=True)

    def share(self, step: int) -> float:
        """Of the rate at an update: a linear rise under a cosine."""
        rise = min(1, (step + 1) / self.settings["warmup_steps"])
        fall = min(1, step / self.settings["num_steps"])
        return rise * (1 + math.cos(math.pi * fall)) / 2

    def iteration(self, x, z, z_energy) -> dict[str, torch.Tensor]:
        """An update of generator and posterior, one of the energy, the averages."""
        losses = self.generator_update(z) | self.energy_update(x, z_energy)
        for schedule in self.schedules:
            schedule.step()
        weight = max(1 - self.settings["average_decay"], 10 / (self.count + 10))
        self.count += 1
        with torch.no_grad():
            for player, average in self.average.items():
                pair = (averaged(m) for m in (average, self.players[player]))
                torch._foreach_lerp_(*pair, weight)
        return losses

    def generator_update(self, z) -> dict[str, torch.Tensor]:
        """One descent of the energy of samples minus the weighted information."""
        energies, features = self.energy(self.generator(z))
        information = self.posterior(features, z).mean()
        loss = energies.mean() - self.settings["information_weight"] * information
        descend(self.generator_adam, loss)
        return {"information": information.detach()}

    def energy_update(self, x, z) -> dict[str, torch.Tensor]:
        """One descent of the contrast and of the squared scores at data."""
        with torch.no_grad():
            samples = self.generator(z)
        x.requires_grad_(True)
        real, _ = self.energy(x)
        (score,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        squared = score.square().sum((1, 2, 3)).mean()
        fake = self.energy(samples)[0].mean()
        real = real.mean()
        loss = real - fake + self.settings["score_weight"] * squared
        descend(self.energy_adam, loss)
        losses = {"energy_real": real, "energy_fake": fake, "squared_score": squared}
        return {name: value.detach() for name, value in losses.items()}

    @torch.inference_mode()
    def samples(self, num: int, size: int = 500) -> np.ndarray:
        """Of the averaged generator: float32 [num, 28, 28, 1]."""
        average = self.average["generator"].eval()
        z = torch.randn(num, self.settings["latent_dim"])
        return nhwc(torch.cat([average(some) for some in z.split(size)]))

    def named(self):
        """(name in megjax, tensor) of all players and averages."""
        for player, module in self.players.items():
            yield from named(module, player)
        for player, module in self.average.items():
            yield from named(module, f"average/{player}")


def descend(adam: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step; no gradients but those of its own parameters are computed."""
    adam.zero_grad()
    loss.backward(inputs=[p for group in adam.param_groups for p in group["params"]])
    adam.step()


def averaged(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and running statistics."""
    return [t for _, t in named(module, "")]


def nhwc(x: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] -> [B, H, W, C]."""
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


NAMES = {"bias": "bias", "running_mean": "mean", "running_var": "var"}


def named(module: nn.Module, player: str):
    """(name in megjax, tensor) of parameters and running statistics."""
    for name, tensor in module.state_dict(keep_vars=True).items():
        *path, last = name.split(".")
        if last == "num_batches_tracked":
            continue
        kernel = "scale" if path[-1].startswith("norm") else "kernel"
        yield "/".join([player, *path, NAMES.get(last, kernel)]), tensor


def load(module: nn.Module, player: str, arrays: dict[str, np.ndarray]) -> None:
    """Copies arrays in the layout of megjax into a module."""
    for name, tensor in named(module, player):
        array = torch.from_numpy(arrays[name])
        if name.endswith("kernel"):
            array = array.T if array.ndim == 2 else array.permute(3, 2, 0, 1)
        tensor.data.copy_(array.reshape(tensor.shape))


def exported(name: str, tensor: torch.Tensor) -> np.ndarray:
    """A tensor in the layout of megjax, but for flat norms per unit."""
    if name.endswith("kernel"):
        tensor = tensor.T if tensor.ndim == 2 else tensor.permute(2, 3, 1, 0)
    return tensor.detach().contiguous().numpy()


def batches(pixels: torch.Tensor, size: int):
    """Batches in [-1, 1] without an end, every epoch in an order of its own."""
    while True:
        for rows in torch.randperm(len(pixels)).split(size):
            if len(rows) == size:
                yield pixels[rows].float().div_(127.5).sub_(1)


def train(game: Game, directory: pathlib.Path) -> None:
    """Trains to every iteration that standard input asks for."""
    pixels = torch.from_numpy(np.load(directory / "pixels.npy")).permute(0, 3, 1, 2)
    size, dim = game.settings["batch_size"], game.settings["latent_dim"]
    some, done, seconds, cpu_seconds = batches(pixels, size), 0, 0.0, 0.0
    for line in sys.stdin:
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(done, int(line)):
            z = torch.randn(2, size, dim)
            game.iteration(next(some), *z)
        seconds += time.perf_counter() - start
        cpu_seconds += time.process_time() - cpu_start
        done = int(line)
        np.save(directory / "samples.npy", game.samples(game.settings["num_samples"]))
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}), flush=True)


def check(game: Game, directory: pathlib.Path) -> None:
    """Plays the given iterations; writes how they begin, the first, and how they end."""
    given = dict(np.load(directory / "given.npz"))
    x = torch.from_numpy(given["x"]).permute(0, 1, 4, 2, 3)
    z = torch.from_numpy(given["z"])
    game.generator.eval()
    found = {"energies": game.energy(x[0])[0], "samples": nhwc(game.generator(z[0, 0]))}
    game.generator.train()
    for i in range(len(x)):
        losses = game.iteration(x[i].clone(), *z[i])
        if i == 0:
            found |= losses
            for name, tensor in game.named():
                if tensor.grad is not None:
                    found[f"gradient/{name}"] = exported(name, tensor.grad)
    found |= {f"after/{name}": exported(name, t) for name, t in game.named()}
    found |= {k: v.detach() for k, v in found.items() if isinstance(v, torch.Tensor)}
    np.savez(directory / "found.npz", **found)


def main() -> None:
    """Reads the directory and trains or checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    directory = arguments.directory
    settings = json.loads((directory / "settings.json").read_text())
    torch.manual_seed(settings["seed"])
    torch.set_num_threads(settings["threads"])
    torch.set_flush_denormal(True)
    game = Game(settings, dict(np.load(directory / "weights.npz")))
    (check if arguments.check else train)(game, directory)


if __name__ == "__main__":
    main()
