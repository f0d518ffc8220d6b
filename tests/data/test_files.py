import numpy as np
import PIL.Image
import pytest

from megjax.data import files, folders


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def all_examples(data):
    return np.asarray(data.take(data.store, np.arange(data.num_examples)))


def test_folder_is_read_recursively_in_the_order_of_its_names(tmp_path):
    save(tmp_path / "b.png", np.full((6, 6, 3), 255, np.uint8))
    save(tmp_path / "a/c.PNG", np.full((6, 6, 3), 0, np.uint8))
    save(tmp_path / "a/d/e.bmp", np.full((6, 6), 51, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    data = files.custom(str(tmp_path))
    assert data.num_examples == 3 and data.shape == (6, 6, 3)
    x = all_examples(data)
    assert x[:, 2, 3, 1] == pytest.approx([-1, -0.6, 1], abs=1e-6)


def test_folder_is_cropped_resized_and_made_grey(tmp_path):
    for i, shape in enumerate([(30, 20, 3), (16, 40, 3), (8, 8, 3)]):
        save(tmp_path / f"{i}.png", np.full(shape, 10 * i, np.uint8))
    data = folders.folder(str(tmp_path), image_size=8, num_channels=1)
    assert data.shape == (8, 8, 1) and (data.store[2] == 20).all()
    with pytest.raises(ValueError, match="differ in size"):
        folders.folder(str(tmp_path))


def test_rotated_photograph_is_turned_upright(tmp_path):
    image = PIL.Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert folders.folder(str(tmp_path)).shape == (4, 2, 3)


def test_folder_over_the_budget_streams(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", np.full((2, 2, 3), 50 * i, np.uint8))
    data = files.custom(str(tmp_path), memory_budget=59)
    rows = data.stream(np.array([4, 1, 1]))
    assert data.store == () and rows[:, 0, 0, 0].tolist() == [200, 50, 50]


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No images in"):
        files.custom(str(tmp_path))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
    with pytest.raises(ValueError, match="broken.png is not a readable image"):
        files.custom(str(tmp_path))
    with pytest.raises(ValueError, match="1 or 3, not 2"):
        folders.folder(str(tmp_path), num_channels=2)
    with pytest.raises(FileNotFoundError, match="folder of images, or an .npz or .npy"):
        files.custom(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([0, 51, 255], np.uint8), [-1, -0.6, 1]),
        (np.array([0.0, 0.25, 1.0]), [-1, -0.5, 1]),
        (np.array([-0.5, 0.25, 1.0]), [-0.5, 0.25, 1]),
    ],
)
def test_image_ranges(tmp_path, pixels, expected):
    path = tmp_path / "x.npy"
    np.save(path, np.broadcast_to(pixels[:, None, None], (3, 4, 5)))
    data = files.custom(str(path))
    x = all_examples(data)
    assert data.shape == (4, 5, 1) and x.dtype == np.float32
    assert x[:, 1, 2, 0] == pytest.approx(expected, abs=1e-6)


def test_vectors_are_kept_or_standardised(tmp_path):
    path = tmp_path / "x.npz"
    vectors = np.array([[1, 7, 0], [3, 7, 4]])
    np.savez(path, anything=vectors)
    assert all_examples(files.custom(str(path))).tolist() == vectors.tolist()
    x = all_examples(files.custom(str(path), standardise=True))
    assert x.tolist() == [[-1, 0, -1], [1, 0, 1]] and x.dtype == np.float32


def test_archive_with_several_arrays_needs_one_named_x(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((3, 2)), y=np.ones(3))
    assert files.array(str(path)).shape == (2,)
    np.savez(path, a=np.zeros((3, 2)), y=np.ones(3))
    with pytest.raises(ValueError, match=r"\['a', 'y'\]: keep one, or name one x"):
        files.array(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([{}, {}]), "not a plain .npy or .npz"),
        (np.zeros(3), r"\[3\]: give numbers, \[N, D\]"),
        (np.zeros((0, 3)), r"\[0, 3\]: give numbers"),
        (np.zeros((2, 3), complex), "complex128"),
        (np.array([[1, np.nan]]), "NaN or infinite"),
        (np.zeros((2, 3, 32, 32)), "channels, at most 4, come last"),
        (np.full((2, 3, 3), 200.0), "from 200.0 to 200.0: give uint8, or floats"),
        (np.full((2, 3, 3), 200), "int64.*give uint8, or floats"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, content, message):
    path = tmp_path / "x.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        files.array(str(path))


def test_truncated_array_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((10, 10)))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="not a plain .npy or .npz"):
        files.array(str(path))
