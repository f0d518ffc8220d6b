import io
import pathlib
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from megjax.data import images

REAL = pathlib.Path(__file__).parents[3] / "shared/data/tfds"
real_data = pytest.mark.skipif(not REAL.exists(), reason=f"needs {REAL}")


def encoded(pixels, kind="png"):
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


def gradient(height, width):
    """RGB pixels that tell their row (red) and column (green)."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(height)[:, None]
    pixels[..., 1] = np.arange(width)
    return pixels


class Records(list):
    """What TFDS's data source offers: random access to serialised examples."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def records(pixels, labels):
    made = Records()
    for image, label in zip(pixels, labels, strict=True):
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(encoded(image))
        feature["label"].int64_list.value.append(int(label))
        made.append(example.SerializeToString())
    return made


@pytest.fixture
def source(monkeypatch):
    """Ten random 6x5 colour images in place of any TFDS set."""
    pixels = np.random.RandomState(0).randint(0, 256, (10, 6, 5, 3), np.uint8)
    made = images._Source(records(pixels, np.arange(10)), ["image", "label"], "RGB")
    monkeypatch.setattr(images, "_source", lambda name, **kwargs: made)
    return pixels


def test_normalised_by_hand():
    x = images.normalised(np.array([0, 51, 255], np.uint8))
    assert x.dtype == np.float32
    assert x == pytest.approx([-1, -0.6, 1], abs=1e-6)


def test_decoded_crops_the_centre_of_a_celeba_sized_image():
    pixels = images.decoded(encoded(gradient(218, 178)), mode="RGB", crop=140)
    assert pixels.shape == (140, 140, 3)
    assert pixels[0, 0].tolist() == [39, 19, 0]
    assert pixels[-1, -1].tolist() == [178, 158, 0]


def test_decoded_resizes_the_centred_crop():
    encoding = encoded(gradient(218, 178))
    pixels = images.decoded(encoding, mode="RGB", crop=140, image_size=64)
    assert pixels.shape == (64, 64, 3)
    # Pixel centres of a 140 -> 64 resize, shifted by the crop's corner.
    centres = (np.arange(64) + 0.5) * 140 / 64 - 0.5
    inner = slice(2, -2)
    rows, columns = pixels[inner, 0, 0].astype(float), pixels[0, inner, 1].astype(float)
    assert rows == pytest.approx(39 + centres[inner], abs=0.6)
    assert columns == pytest.approx(19 + centres[inner], abs=0.6)
    largest = images.decoded(encoding, mode="RGB", image_size=178)
    assert largest[0, 0].tolist() == [20, 0, 0]


def test_decoded_converts_and_keeps_a_channel_axis():
    grey = images.decoded(encoded(np.full((4, 4, 3), 77, np.uint8)), mode="L")
    assert grey.shape == (4, 4, 1) and (grey == 77).all()
    colour = images.decoded(encoded(np.full((4, 4), 77, np.uint8)), mode="RGB")
    assert colour.shape == (4, 4, 3) and (colour == 77).all()


def test_resident_set_takes_inside_jit(source):
    data = images.tfds_images("any")
    assert data.shape == (6, 5, 3) and data.num_examples == 10 and data.stream is None
    x = jax.jit(data.take)(data.store, np.array([3, 3, 9]))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, source[[3, 3, 9]] / 127.5 - 1, atol=1e-6)


def test_set_over_the_budget_streams_the_same_batches(source):
    limit = source.size
    resident = images.tfds_images("any", memory_budget=limit)
    streamed = images.tfds_images("any", memory_budget=limit - 1)
    assert resident.stream is None and streamed.store == ()
    indices = np.array([9, 0, 4, 4], np.int32)
    x = streamed.take(streamed.stream(indices), np.arange(4))
    np.testing.assert_array_equal(x, resident.take(resident.store, indices))
    assert streamed[:3] == resident[:3]


def test_labelled_pairs_images_and_labels(source):
    pixels, labels = images.labelled("any")
    np.testing.assert_array_equal(pixels, source)
    assert labels.dtype == np.int32 and labels.tolist() == list(range(10))


def test_set_without_labels_is_refused(monkeypatch):
    unlabelled = images._Source(Records(), ["image", "landmarks"], "RGB")
    monkeypatch.setattr(images, "_source", lambda name, **kwargs: unlabelled)
    with pytest.raises(ValueError, match="no labels: it has image, landmarks"):
        images.labelled("celeb_a")


def test_rows_keep_their_order_over_chunks_and_threads(monkeypatch):
    monkeypatch.setattr(images, "_CHUNK", 3)
    pixels = np.random.RandomState(1).randint(0, 256, (11, 64, 64, 3), np.uint8)
    indices = np.random.RandomState(2).permutation(11)
    rows = images.stacked_rows(lambda some: (pixels[i] for i in some), indices)
    np.testing.assert_array_equal(rows, pixels[indices])


def test_rows_of_different_sizes_are_refused():
    pixels = [np.zeros((4, 4, 1), np.uint8), np.zeros((4, 5, 1), np.uint8)]
    with pytest.raises(ValueError, match="differ in size.*give image_size"):
        images.stacked_rows(lambda some: (pixels[i] for i in some), np.arange(2))


def test_missing_set_names_the_directory_and_the_command(tmp_path, monkeypatch):
    message = rf"'mnist' in {tmp_path}.*megjax.data.prepare mnist"
    with pytest.raises(FileNotFoundError, match=message):
        images.tfds_images("mnist", data_dir=str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=message):
        images.labelled("mnist")


def test_newest_version_is_read(tmp_path):
    for version in ("3.0.1", "3.0.10", "3.0.9", "incomplete.X_3.0.11"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").touch()
    assert images._version_dir("mnist", str(tmp_path)).name == "3.0.10"


def test_digits_by_hand():
    pixels, labels = images.digits_labelled()
    assert pixels.shape == (1797, 8, 8, 1) and pixels.dtype == np.uint8
    assert labels[:5].tolist() == [0, 1, 2, 3, 4]
    # The first row of the first digit is 0 0 5 13 9 1 0 0 in sixteenths.
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    data = images.digits()
    x = data.take(data.store, np.arange(1797))
    assert x.min() == -1 and x.max() == 1 and data.shape == (8, 8, 1)


@real_data
def test_cifar10_has_its_published_mean_and_deviation():
    # Of the test images; decoding the training images takes five times as long.
    data = images.tfds_images("cifar10", split="test", data_dir=str(REAL))
    assert data.num_examples == 10_000 and data.shape == (32, 32, 3)
    x = np.asarray(data.take(data.store, np.arange(10_000))).reshape(-1, 3)
    mean, std = x.mean(0, dtype=float) / 2 + 0.5, x.std(0, dtype=float) / 2
    assert mean == pytest.approx([0.494214, 0.485131, 0.450409], abs=5e-6)
    assert std == pytest.approx([0.246653, 0.242892, 0.261592], abs=1e-5)


@real_data
def test_flowers_come_from_all_splits_at_any_side():
    data = images.tfds_images(
        "oxford_flowers102", split="all", data_dir=str(REAL), image_size=32
    )
    assert data.num_examples == 8189 and data.shape == (32, 32, 3)


@real_data
def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'valid' of 'mnist': it has train, test"):
        images.tfds_images("mnist", split="valid", data_dir=str(REAL))


@pytest.mark.slow
@real_data
def test_reading_never_imports_tensorflow():
    program = (
        "import sys; from megjax.data import images;"
        f"images.labelled('mnist', split='test[:20]', data_dir={str(REAL)!r});"
        "print('tensorflow' in sys.modules)"
    )
    root = pathlib.Path(__file__).parents[2]
    printed = subprocess.check_output([sys.executable, "-c", program], cwd=root)
    assert printed == b"False\n"
