"""The FID's preprocessing, and weights from files, right and wrong."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.evaluation import inception


@pytest.fixture(scope="module")
def arrays():
    """Random weights with the names and layouts of the public file."""
    rng = np.random.default_rng(0)
    made = {}
    for path, shape in inception._shapes().items():
        name = ".".join(path[1:-1])
        if path[-1] == "kernel":
            shape = (shape[-1], shape[-2], *shape[:-2])
            kernel = rng.standard_normal(shape, np.float32)
            made[f"{name}.weight"] = kernel / np.float32(np.sqrt(np.prod(shape[1:])))
        else:
            own = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
            own = own.get(path[-1], path[-1])
            value = rng.uniform(0.5, 1.5, shape) if own != "running_mean" else 0.1
            made[f"{name}.{own}"] = np.full(shape, value, np.float32)
    made["fc.bias"] = np.ones(1008, np.float32)
    made["Mixed_5b.branch1x1.bn.num_batches_tracked"] = np.int64(0)
    return made


def resized_by_loops(x, side):
    """One pixel at a time, every operation rounded to float32."""
    height, width = x.shape[:2]
    out = np.empty((side, side, x.shape[2]), np.float32)
    for i in range(side):
        for j in range(side):
            row = np.float32(i) * np.float32(height / side)
            column = np.float32(j) * np.float32(width / side)
            top, left = int(row), int(column)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, across = row - np.float32(top), column - np.float32(left)
            above = x[top, left] + (x[top, right] - x[top, left]) * across
            below = x[bottom, left] + (x[bottom, right] - x[bottom, left]) * across
            out[i, j] = above + (below - above) * down
    return out


def test_resize_by_hand():
    x = jnp.float32([[0, 8], [4, 12]])[None, :, :, None]
    # The corner of the source is the corner of the result, and the far edge repeats.
    expected = [[0, 4, 8, 8], [2, 6, 10, 10], [4, 8, 12, 12], [4, 8, 12, 12]]
    np.testing.assert_array_equal(inception.resized(x, 4)[0, :, :, 0], expected)


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 20, 1), (61, 77, 3)])
def test_resize_rounds_every_operation(shape):
    x = np.float32(np.random.RandomState(0).randint(0, 256, shape))
    found = inception.resized(jnp.asarray(x)[None], 47)
    np.testing.assert_array_equal(found[0], resized_by_loops(x, 47))


def test_resize_to_the_same_size_is_the_identity():
    x = np.float32(np.random.RandomState(0).randint(0, 256, (2, 299, 299, 3)))
    np.testing.assert_array_equal(inception.resized(jnp.asarray(x)), x)


def test_variables_are_the_arrays_in_other_layouts(arrays):
    found = inception.variables(arrays, "here")
    kernel = found["params"]["Mixed_6b"]["branch7x7_2"]["conv"]["kernel"]
    assert kernel.shape == (1, 7, 128, 128)
    weight = arrays["Mixed_6b.branch7x7_2.conv.weight"]
    assert kernel[0, 5, 3, 2] == weight[2, 3, 0, 5]
    fc = found["params"]["fc"]["kernel"]
    np.testing.assert_array_equal(fc, arrays["fc.weight"].T)
    norm = found["params"]["Conv2d_1a_3x3"]["bn"]
    np.testing.assert_array_equal(norm["scale"], arrays["Conv2d_1a_3x3.bn.weight"])
    np.testing.assert_array_equal(norm["bias"], arrays["Conv2d_1a_3x3.bn.bias"])
    stored = found["batch_stats"]["Conv2d_1a_3x3"]["bn"]
    for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
        expected = arrays[f"Conv2d_1a_3x3.bn.{theirs}"]
        np.testing.assert_array_equal(stored[ours], expected)


@pytest.mark.slow
def test_outputs(arrays, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays)
    network = inception.load(str(path))
    pixels = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 1), np.uint8)
    features, logits = network.outputs(pixels)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    assert np.std(features, axis=0).max() > 1e-3
    # Grey images are colour images of equal channels.
    colour = network.outputs(pixels.repeat(3, axis=-1))
    np.testing.assert_array_equal(features, colour[0])
    # No bias: the file has one of ones.
    product = np.float64(features) @ np.float64(arrays["fc.weight"]).T
    np.testing.assert_allclose(logits, product, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="2 channels: Inception takes 1 or 3"):
        network.outputs(np.zeros((1, 8, 8, 2), np.uint8))


def test_the_network_sees_values_around_zero(arrays, monkeypatch):
    seen = []
    net = inception.inception.Inception
    monkeypatch.setattr(net, "apply", lambda self, v, x: seen.append(x) or (x, x))
    x = jnp.float32([0, 64, 128, 255]).reshape(4, 1, 1, 1)
    with jax.disable_jit():
        inception.forward({}, x)
    np.testing.assert_array_equal(seen[0].ravel(), [-1, -0.5, 0, 127 / 128])


def test_fingerprints_are_those_of_the_weights_in_use(arrays):
    mark = inception._fingerprint(arrays)
    assert mark == inception._fingerprint(arrays | {"fc.bias": np.zeros(1008)})
    changed = arrays["Mixed_7c.branch_pool.bn.bias"].copy()
    changed[-1] += 1e-3
    changed = arrays | {"Mixed_7c.branch_pool.bn.bias": changed}
    assert mark != inception._fingerprint(changed)


@pytest.mark.parametrize("path", ["", "/nowhere/weights.pth"])
def test_missing_weights_are_told_with_their_source(path):
    with pytest.raises(FileNotFoundError) as error:
        inception.load(path)
    words = str(error.value)
    assert path in words and "\n" not in words
    for part in (
        "pt_inception-2015-12-05-6726825d.pth",
        "91 MB",
        "Apache-2.0",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_",
        "torch-fidelity",
        "evaluation.inception_weights",
    ):
        assert part in words


def test_weights_of_other_networks_are_refused(arrays):
    fewer = {k: v for k, v in arrays.items() if k != "fc.weight"}
    other = arrays | {"AuxLogits.fc.weight": np.zeros(3)}
    shorter = arrays | {"fc.weight": np.zeros((1000, 2048))}
    for wrong, words in (
        (fewer, "1 names differ, first fc.weight"),
        (other, "1 names differ, first AuxLogits.fc.weight"),
        (shorter, r"fc.weight has shape \(1000, 2048\)"),
    ):
        with pytest.raises(ValueError, match=f"here does not hold .*{words}"):
            inception.variables(wrong, "here")


def test_a_name_that_holds_a_digest_is_held_to_it(tmp_path):
    content = b"not the whole file"
    path = tmp_path / "weights-12345678.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"12345678.pth is damaged, its SHA-256"):
        inception.load(str(path))
    digest = hashlib.sha256(content).hexdigest()[:8]
    path.rename(path.with_name(f"weights-{digest}.pth"))
    with pytest.raises(ValueError, match="is damaged, or no .pth file"):
        inception.load(str(path.with_name(f"weights-{digest}.pth")))
