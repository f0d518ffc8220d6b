"""Our Inception against torch-fidelity's, on random weights: differences and speed.

    python -m benchmarks.inception_parity --python=PATH_TO_PYTHON_WITH_TORCH

That Python needs torch and torch-fidelity (`pip install --no-deps torch-fidelity`). The
weights pass through both formats of .pth, so the readers are compared too; the resized
images must be equal bit for bit. Fails where features or logits differ by more than
1e-3 of their largest value.
"""

import json
import pathlib
import subprocess
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from megjax import app
from megjax.evaluation import inception
from megjax.io import tensors

PYTHON = flags.DEFINE_string("python", None, "Python with torch and torch-fidelity.")
NUM_IMAGES = flags.DEFINE_integer("num_images", 32, "How many images.", 2)
SIDE = flags.DEFINE_integer("side", 32, "Their side in pixels.", 1)
PEER = pathlib.Path(__file__).with_name("inception_peer.py")
TOLERANCE = 1e-3


def main() -> int:
    """Prints a line of JSON; the status is 1 where something differs."""
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        shape = (NUM_IMAGES.value, SIDE.value, SIDE.value, 3)
        pixels = np.random.RandomState(0).randint(0, 256, shape, np.uint8)
        np.save(directory / "images.npy", pixels)
        subprocess.run([PYTHON.value, PEER, directory], check=True)
        record = compared(directory, pixels)
    print(json.dumps(record))
    close = max(record["features_difference"], record["logits_difference"])
    return int(
        close > TOLERANCE
        or not record["resize_is_equal"]
        or not record["formats_are_equal"]
    )


def compared(directory: pathlib.Path, pixels: np.ndarray) -> dict[str, float | bool]:
    """Differences relative to the largest value, and seconds per 1000 images."""
    peer = np.load(directory / "peer.npz")
    zipped = tensors.load(directory / "zipped.pth")
    sequence = tensors.load(directory / "sequence.pth")
    network = inception.load(directory / "zipped.pth")
    resized = inception.resized(jnp.asarray(pixels, jnp.float32))
    jax.block_until_ready(network.outputs(pixels))
    start = time.perf_counter()
    features, logits = jax.block_until_ready(network.outputs(pixels))
    seconds = time.perf_counter() - start
    return {
        "features_difference": difference(features, peer["features"]),
        "logits_difference": difference(logits, peer["logits"]),
        "resize_is_equal": bool(np.array_equal(resized, peer["resized"])),
        "formats_are_equal": zipped.keys() == sequence.keys()
        and all(np.array_equal(zipped[k], sequence[k]) for k in zipped),
        "seconds_per_1000": seconds / len(pixels) * 1000,
        "peer_seconds_per_1000": float(peer["seconds"]) / len(pixels) * 1000,
    }


def difference(ours, theirs: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value."""
    return float(np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs)))


if __name__ == "__main__":
    flags.mark_flag_as_required("python")
    app.run(main)
