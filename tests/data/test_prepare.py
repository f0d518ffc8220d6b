import functools
import gzip
import http.server
import io
import pathlib
import struct
import subprocess
import sys
import tarfile
import threading
import types
import zipfile

import numpy as np
import PIL.Image
import pytest
import scipy.io
import tensorflow_datasets as tfds
from sklearn import datasets

from megjax.data import images, kdd99, prepare

RANDOM = np.random.RandomState(0)


def write_mnist(raw):
    """Raw files of 7 + 4 random digits; returns the pixels of both splits."""
    splits = {}
    for stem, num in (("train", 7), ("t10k", 4)):
        pixels = RANDOM.randint(0, 256, (num, 28, 28), np.uint8)
        header = struct.pack(">4i", 2051, num, 28, 28)
        images_file = raw / f"{stem}-images-idx3-ubyte.gz"
        images_file.write_bytes(gzip.compress(header + pixels.tobytes()))
        labels = struct.pack(">2i", 2049, num) + bytes(range(num))
        (raw / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
        splits[stem] = pixels[..., None]
    return splits


def jpeg(shade):
    stream = io.BytesIO()
    image = np.full((218, 178, 3), shade, np.uint8)
    PIL.Image.fromarray(image).save(stream, format="jpeg")
    return stream.getvalue()


def register(monkeypatch, name, raw):
    """Puts the checksums of the made files in place of the published ones."""
    builder = tfds.builder_cls(name)
    infos = {
        url: tfds.core.download.checksums.compute_url_info(raw / info.filename)
        for url, info in builder.url_infos.items()
    }
    monkeypatch.setattr(builder, "url_infos", infos)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def prepared(name, tmp_path, raw, split="train"):
    prepare.prepare(name, data_dir=str(tmp_path / "tfds"), raw_dir=str(raw))
    return images.labelled(name, split=split, data_dir=str(tmp_path / "tfds"))


def in_label_order(pixels, labels):
    """TFDS shuffles when it writes."""
    return pixels[np.argsort(labels)]


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_idx_sets_come_back_as_written(name, tmp_path, raw, monkeypatch):
    splits = write_mnist(raw)
    register(monkeypatch, name, raw)
    train = prepared(name, tmp_path, raw)
    assert sorted(train[1]) == list(range(7))
    np.testing.assert_array_equal(in_label_order(*train), splits["train"])
    test = images.labelled(name, split="test", data_dir=str(tmp_path / "tfds"))
    np.testing.assert_array_equal(in_label_order(*test), splits["t10k"])
    assert "tensorflow" not in sys.modules


def test_files_are_downloaded_and_checked(tmp_path, raw, monkeypatch):
    splits = write_mnist(raw)
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(raw)
    )
    monkeypatch.setattr(
        http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    builder = tfds.builder_cls("mnist")
    compute = tfds.core.download.checksums.compute_url_info
    infos = {address + path.name: compute(path) for path in raw.iterdir()}
    monkeypatch.setattr(builder, "URL", address)
    monkeypatch.setattr(builder, "url_infos", infos)
    try:
        prepare.prepare("mnist", data_dir=str(tmp_path / "a"))
        train = images.labelled("mnist", data_dir=str(tmp_path / "a"))
        np.testing.assert_array_equal(in_label_order(*train), splits["train"])
        (raw / "train-labels-idx1-ubyte.gz").write_bytes(b"changed")
        with pytest.raises(ValueError, match="wrong checksum"):
            prepare.prepare("mnist", data_dir=str(tmp_path / "b"))
        (raw / "train-labels-idx1-ubyte.gz").unlink()
        with pytest.raises(ValueError, match="404"):
            prepare.prepare("mnist", data_dir=str(tmp_path / "c"))
    finally:
        server.shutdown()
        server.server_close()


def test_cifar10_comes_back_as_written(tmp_path, raw, monkeypatch):
    pixels = RANDOM.randint(0, 256, (6, 32, 32, 3), np.uint8)
    with tarfile.open(raw / "cifar-10-binary.tar.gz", "w:gz") as tar:

        def add(name, content):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        add("batches.meta.txt", b"\n".join(b"class%d" % i for i in range(10)) + b"\n\n")
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
        for label, (name, image) in enumerate(zip(names, pixels, strict=True)):
            add(name, bytes([label]) + image.transpose(2, 0, 1).tobytes())
    register(monkeypatch, "cifar10", raw)
    train = prepared("cifar10", tmp_path, raw)
    assert sorted(train[1]) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(in_label_order(*train), pixels[:5])
    test, labels = images.labelled(
        "cifar10", split="test", data_dir=str(tmp_path / "tfds")
    )
    np.testing.assert_array_equal(test, pixels[5:])
    assert labels.tolist() == [5]


def test_celeb_a_comes_back_cropped_and_resized(tmp_path, raw, monkeypatch):
    names = [f"{i:06d}.jpg" for i in range(1, 6)]
    with zipfile.ZipFile(raw / "img_align_celeba.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(f"img_align_celeba/{name}", jpeg(40 * i))
    partition = [0, 0, 0, 1, 2]
    (raw / "list_eval_partition.txt").write_text(
        "".join(f"{n} {p}\n" for n, p in zip(names, partition, strict=True))
    )
    (raw / "identity_CelebA.txt").write_text("".join(f"{n} 7\n" for n in names))
    features = tfds.builder_cls("celeb_a")(data_dir=tmp_path).info.features
    for file, key in (
        ("list_attr_celeba.txt", "attributes"),
        ("list_landmarks_align_celeba.txt", "landmarks"),
    ):
        columns = list(features[key])
        rows = [f"{name} {' 1' * len(columns)}" for name in names]
        text = "\n".join([str(len(names)), " ".join(columns), *rows]) + "\n"
        (raw / file).write_text(text)
    register(monkeypatch, "celeb_a", raw)
    prepare.prepare("celeb_a", data_dir=str(tmp_path / "tfds"), raw_dir=str(raw))
    data = images.tfds_images(
        "celeb_a", data_dir=str(tmp_path / "tfds"), image_size=64, crop=140
    )
    assert data.shape == (64, 64, 3) and data.num_examples == 3
    assert sorted(data.store[:, 30, 30, 0].tolist()) == [0, 40, 80]


def test_oxford_flowers_come_back_from_all_splits(tmp_path, raw, monkeypatch):
    with tarfile.open(raw / "102flowers.tgz", "w:gz") as tar:
        for i in range(1, 5):
            content = jpeg(50 * i)
            info = tarfile.TarInfo(f"jpg/image_{i:05d}.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    scipy.io.savemat(raw / "imagelabels.mat", {"labels": [[3, 1, 102, 2]]})
    scipy.io.savemat(
        raw / "setid.mat", {"trnid": [[2]], "valid": [[4]], "tstid": [[1, 3]]}
    )
    register(monkeypatch, "oxford_flowers102", raw)
    pixels, labels = prepared("oxford_flowers102", tmp_path, raw, split="test")
    shade = dict(zip(labels.tolist(), pixels[:, 0, 0, 0].tolist(), strict=True))
    assert shade == {2: 50, 101: 150}
    data = images.tfds_images(
        "oxford_flowers102",
        split="all",
        data_dir=str(tmp_path / "tfds"),
        image_size=32,
    )
    assert data.num_examples == 4 and data.shape == (32, 32, 3)


def test_kdd99_is_rebuilt_from_scikit_learns_arrays(tmp_path, monkeypatch):
    cells = np.arange(41).astype(object)
    cells[[1, 2, 3]] = b"tcp", b"http", b"SF"
    fetched = types.SimpleNamespace(
        data=np.stack([cells, cells]), target=[b"smurf.", b"normal."]
    )
    monkeypatch.setattr(datasets, "fetch_kddcup99", lambda **kwargs: fetched)
    prepare.prepare("kdd99", data_dir=str(tmp_path))
    rows = kdd99.table(kdd99._found(None, str(tmp_path)))
    assert rows.labels.tolist() == [0, 1]
    assert rows.x[0, :4].tolist() == [0, 4, 5, 7] and rows.x.shape == (2, 34 + 7)


def test_kdd99_is_copied_from_a_checked_file(tmp_path, raw, monkeypatch):
    content = gzip.compress(b"anything")
    (raw / kdd99.FILE_NAME).write_bytes(content)
    with pytest.raises(ValueError, match="not 8045aca0d84e70e622d1148d7df782496f"):
        prepare.prepare("kdd99", data_dir=str(tmp_path), raw_dir=str(raw))
    info = tfds.core.download.checksums.compute_url_info(raw / kdd99.FILE_NAME)
    archive = prepare._kdd99_archive()._replace(checksum=info.checksum)
    monkeypatch.setattr(prepare, "_kdd99_archive", lambda: archive)
    folder = prepare.prepare("kdd99", data_dir=str(tmp_path), raw_dir=str(raw))
    assert (folder / kdd99.FILE_NAME).read_bytes() == content
    assert [path.name for path in folder.iterdir()] == [kdd99.FILE_NAME]


def test_missing_and_damaged_files_are_named(tmp_path, raw, monkeypatch):
    options = {"data_dir": str(tmp_path), "raw_dir": str(raw)}
    with pytest.raises(FileNotFoundError) as missing:
        prepare.prepare("mnist", **options)
    # The published sum of the training images.
    assert "train-images-idx3-ubyte.gz (sha256 440fcabf73cc546f" in str(missing.value)
    assert str(missing.value).count("sha256") == 4
    write_mnist(raw)
    with pytest.raises(ValueError, match="damaged or another file.*fetch it again"):
        prepare.prepare("mnist", **options)
    with pytest.raises(ValueError, match="Unknown data set 'svhn': choose from mnist"):
        prepare.prepare("svhn", **options)


def test_command_prints_one_line_for_a_mistake(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-m", "megjax.data.prepare", "mnist"]
    ran = subprocess.run(
        [*command, f"--raw_dir={tmp_path}", f"--data_dir={tmp_path}"],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: Missing in") and ran.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
