"""What torch-fidelity makes of images with random weights, for `inception_parity`.

    PYTHON_WITH_TORCH benchmarks/inception_peer.py DIRECTORY

Needs torch and torch-fidelity, which nothing else here does. torchvision may be
missing: only other parts of torch-fidelity use it.
"""

import pathlib
import sys
import time
import unittest.mock

import numpy as np
import torch


def network(directory: pathlib.Path, images: torch.Tensor):
    """torch-fidelity's extractor with random weights, saved in both formats of .pth.

    Its statistics are those of `images`, so that no layer's outputs vanish.
    """
    for name in ("", ".datasets", ".transforms", ".transforms.functional"):
        sys.modules.setdefault(f"torchvision{name}", unittest.mock.MagicMock())
    from torch_fidelity import feature_extractor_inceptionv3 as extractor

    make = extractor.FeatureExtractorInceptionV3
    names = ["2048", "logits_unbiased"]
    mocked = unittest.mock.patch.object
    with mocked(make, "load_state_dict"), mocked(torch, "load"):
        net = make("random", names, feature_extractor_weights_path="none")
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    net.train()
    net(images)
    net.eval()
    torch.save(net.state_dict(), directory / "zipped.pth")
    torch.save(
        net.state_dict(),
        directory / "sequence.pth",
        _use_new_zipfile_serialization=False,
    )
    return net, extractor.interpolate_bilinear_2d_like_tensorflow1x


def main(directory: pathlib.Path) -> None:
    """Writes weights, and features, logits, resized images and seconds of images."""
    torch.manual_seed(0)
    pixels = np.load(directory / "images.npy")
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    net, resize = network(directory, images)
    with torch.no_grad():
        resized = resize(images.float(), size=(299, 299), align_corners=False)
        net(images)
        start = time.perf_counter()
        features, logits = net(images)
        seconds = time.perf_counter() - start
    np.savez(
        directory / "peer.npz",
        resized=resized.permute(0, 2, 3, 1).numpy(),
        features=features.numpy(),
        logits=logits.numpy(),
        seconds=seconds,
    )
    print("done")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
