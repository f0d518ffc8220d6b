"""Prepares a data set without TensorFlow: `python -m megjax.data.prepare NAME`.

Each set keeps TFDS's description, features, addresses and sha256 sums; only the reading
of the raw files, where TFDS calls TensorFlow, is replaced.
"""

import gzip
import hashlib
import io
import os
import pathlib
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.io
from absl import flags

from megjax import app, checks, extras
from megjax.data import kdd99

NAMES = (
    "mnist",
    "fashion_mnist",
    "kmnist",
    "cifar10",
    "celeb_a",
    "oxford_flowers102",
    "kdd99",
)


def prepare(name: str, *, data_dir: str, raw_dir: str | None = None) -> pathlib.Path:
    """Prepares `name` under `data_dir` and returns its folder.

    raw_dir: holds the set's original files under their original names; None downloads
        them. Either way their sha256 sums must be the published ones.

    ValueError for an unknown name or a damaged file, FileNotFoundError for missing
    ones: each is named with its checksum and address.
    """
    if name not in NAMES:
        raise ValueError(f"Unknown data set {name!r}: choose from {', '.join(NAMES)}.")
    root = checks.path(data_dir)
    raw = checks.path(raw_dir) if raw_dir else None
    if name == "kdd99":
        return _prepare_kdd99(root, raw)
    with extras.needed("data"):
        import tensorflow_datasets as tfds

    builder_class = _builder_class(name)
    if raw:
        verify(raw, _published(builder_class.url_infos))
    builder = builder_class(data_dir=root, file_format="array_record")
    config = tfds.download.DownloadConfig(
        manual_dir=raw, force_checksums_validation=True
    )
    failures = (
        tfds.download.DownloadError,
        tfds.core.download.download_manager.NonMatchingChecksumError,
    )
    try:
        builder.download_and_prepare(
            download_dir=root / "downloads", download_config=config
        )
    except failures as error:
        raise ValueError(" ".join(str(error).split())) from error
    return pathlib.Path(builder.data_path)


def verify(folder: pathlib.Path, files: Mapping[str, tuple[str, str]]) -> None:
    """Checks that `folder` holds `files`: name -> (sha256, address)."""
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        wanted = "; ".join(
            f"{name} (sha256 {files[name][0]}, from {files[name][1]})"
            for name in missing
        )
        raise FileNotFoundError(f"Missing in {folder}: {wanted}.")
    for name, (expected, address) in files.items():
        with (folder / name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected:
            raise ValueError(
                f"{folder / name} is damaged or another file: its sha256 is {found}, "
                f"not {expected}; fetch it again from {address}."
            )


def _published(url_infos: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        info.filename: (info.checksum, address) for address, info in url_infos.items()
    }


def _builder_class(name: str) -> type:
    """TFDS's builder of the set, reading its files with gzip, tarfile or zipfile."""
    with extras.needed("data"):
        import tensorflow_datasets as tfds

    base = tfds.builder_cls(name)
    readers = {"cifar10": _Cifar, "celeb_a": _CelebA, "oxford_flowers102": _Flowers}
    members = {"name": name, "url_infos": base.url_infos, "__module__": __name__}
    with tfds.core.registered.skip_registration():
        return type(base.__name__, (readers.get(name, _Idx), base), members)


class _Idx:
    """MNIST and its namesakes: gzipped IDX files."""

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        names = {"train": "train", "test": "t10k"}
        urls = {
            split: {
                "images": f"{self.URL}{stem}-images-idx3-ubyte.gz",
                "labels": f"{self.URL}{stem}-labels-idx1-ubyte.gz",
            }
            for split, stem in names.items()
        }
        paths = dl_manager.download(urls)
        return {split: self._generate_examples(**paths[split]) for split in names}

    def _generate_examples(self, images, labels) -> Iterator:
        pixels = _idx(images, header=16).reshape(-1, 28, 28)
        for index, (image, label) in enumerate(
            zip(pixels, _idx(labels, header=8), strict=True)
        ):
            yield index, {"image": _png(image), "label": int(label)}


class _Cifar:
    """CIFAR-10: one label byte and 3072 planar pixels an image, in a tar file."""

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        source = self._cifar_info
        archive = dl_manager.download(source.url)
        with tarfile.open(archive) as tar:
            labels = tar.extractfile(source.prefix + source.label_files[0]).read()
        self.info.features["label"].names = labels.decode().split()
        return {
            "train": self._generate_examples(archive, "train_", source.train_files),
            "test": self._generate_examples(archive, "test_", source.test_files),
        }

    def _generate_examples(self, archive, split_prefix, names) -> Iterator:
        index = 0
        with tarfile.open(archive) as tar:
            for name in names:
                data = tar.extractfile(self._cifar_info.prefix + name).read()
                for row in np.frombuffer(data, np.uint8).reshape(-1, 3073):
                    image = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                    yield (
                        index,
                        {
                            "id": f"{split_prefix}{index:05d}",
                            "image": _png(image),
                            "label": int(row[0]),
                        },
                    )
                    index += 1


class _CelebA:
    """CelebA: images taken from the zip file one by one, TFDS holds all in memory."""

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        by_name = {info.filename: url for url, info in self.url_infos.items()}
        paths = dl_manager.download(
            {
                "img_align_celeba": by_name["img_align_celeba.zip"],
                "list_eval_partition": by_name["list_eval_partition.txt"],
                "list_attr_celeba": by_name["list_attr_celeba.txt"],
                "landmarks_celeba": by_name["list_landmarks_align_celeba.txt"],
                "identity_celeba": by_name["identity_CelebA.txt"],
            }
        )
        images = _ZipMembers(paths["img_align_celeba"])
        splits = ("train", "validation", "test")
        return {
            split: self._generate_examples(number, paths, images)
            for number, split in enumerate(splits)
        }


class _Flowers:
    """Oxford flowers: JPEG files in a gzipped tar, labels and splits in .mat files."""

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        by_name = {info.filename: url for url, info in self.url_infos.items()}
        names = ("102flowers.tgz", "imagelabels.mat", "setid.mat")
        paths = dl_manager.download({name: by_name[name] for name in names})
        labels = scipy.io.loadmat(paths["imagelabels.mat"])["labels"][0]
        sets = scipy.io.loadmat(paths["setid.mat"])
        with tarfile.open(paths["102flowers.tgz"]) as tar:
            files = (member for member in tar if member.isfile())
            images = {
                os.path.basename(file.name): tar.extractfile(file).read()
                for file in files
            }
        keys = {"train": "trnid", "test": "tstid", "validation": "valid"}
        return {
            split: self._generate_examples(sets[key][0], labels, images)
            for split, key in keys.items()
        }

    def _generate_examples(self, image_ids, labels, images) -> Iterator:
        for image_id in image_ids:
            name = f"image_{image_id:05d}.jpg"
            label = int(labels[image_id - 1]) - 1
            example = {"image": images[name], "label": label, "file_name": name}
            yield name, example


class _ZipMembers:
    """Files of a zip archive by their bare name, read when asked for."""

    def __init__(self, path):
        self._archive = zipfile.ZipFile(path)
        self._members = {os.path.basename(n): n for n in self._archive.namelist()}

    def __getitem__(self, name: str) -> bytes:
        return self._archive.read(self._members[name])


def _idx(path, *, header: int) -> np.ndarray:
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    with extras.needed("data"):
        import PIL.Image
    PIL.Image.fromarray(pixels).save(stream, format="png")
    return stream.getvalue()


def _prepare_kdd99(root: pathlib.Path, raw: pathlib.Path | None) -> pathlib.Path:
    """The 10 % file, from `raw` as published or rebuilt from scikit-learn's arrays."""
    folder = root / "kddcup99"
    target = folder / kdd99.FILE_NAME
    partial = target.with_suffix(".partial")
    if raw:
        archive = _kdd99_archive()
        verify(raw, {kdd99.FILE_NAME: (archive.checksum, archive.url)})
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(raw / kdd99.FILE_NAME, partial)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with extras.needed("estimators"):
            from sklearn import datasets
        fetched = datasets.fetch_kddcup99(percent10=True, data_home=folder)
        with gzip.open(partial, "wt") as stream:
            for cells, label in zip(fetched.data, fetched.target, strict=True):
                stream.write(",".join(map(_text, (*cells, label))) + "\n")
    partial.replace(target)
    return folder


def _kdd99_archive():
    """scikit-learn's record of the published file; it has no public name for it."""
    with extras.needed("estimators"):
        from sklearn.datasets import _kddcup99

    return _kddcup99.ARCHIVE_10_PERCENT


def _text(cell: Any) -> str:
    return cell.decode() if isinstance(cell, bytes) else str(cell)


def main(name: str) -> None:
    """Prepares the set that the command line names."""
    data_dir = flags.FLAGS.data_dir or os.environ.get("TFDS_DATA_DIR")
    folder = prepare(
        name,
        data_dir=data_dir or "~/tensorflow_datasets",
        raw_dir=flags.FLAGS.raw_dir,
    )
    print(f"Prepared {name} in {folder}")


def run() -> None:
    """The command: megjax prepare NAME."""
    flags.DEFINE_string("raw_dir", None, "Folder of the original files; else download.")
    flags.DEFINE_string(
        "data_dir", None, "Where to prepare; else $TFDS_DATA_DIR or TFDS's default."
    )
    app.run(main, choices=NAMES)


if __name__ == "__main__":
    run()
