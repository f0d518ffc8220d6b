import numpy as np
import PIL.Image
import pytest

from megjax import plotting


def test_pixels_by_hand():
    x = np.array([-1.0, 0.0, 1.0, 3.0, -np.inf, np.nan]).reshape(1, 1, 6, 1)
    found = plotting.pixels(x)
    assert found.dtype == np.uint8 and found.shape == (1, 1, 6, 3)
    np.testing.assert_array_equal(found[0, 0, :, 0], [0, 128, 255, 255, 0, 0])
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


def test_colours_keep_their_order():
    x = np.broadcast_to(np.array([-1.0, 0.2, 1.0]), (1, 2, 2, 3))
    np.testing.assert_array_equal(plotting.pixels(x)[0, 0, 0], [0, 153, 255])


def test_four_channels_become_a_mosaic():
    x = np.full((1, 2, 2, 4), -1.0)
    x[0, 0, 1, 2] = 1.0  # third channel: bottom left
    found = plotting.pixels(x)[0, :, :, 0]
    expected = np.zeros((4, 4))
    expected[2, 1] = 255
    np.testing.assert_array_equal(found, expected)
    assert plotting.pixels(np.zeros((1, 2, 2, 2))).shape == (1, 2, 4, 3)
    assert plotting.pixels(np.zeros((1, 2, 2, 5))).shape == (1, 4, 6, 3)


def test_image_grid_places_every_image():
    x = np.linspace(-1, 1, 5).reshape(5, 1, 1, 1) * np.ones((1, 2, 2, 1))
    grid = plotting.image_grid(x, columns=3, scale=2)
    assert grid.shape == (2 * 6 + 2, 3 * 6 + 2, 3)
    tiles = [grid[r : r + 4, c : c + 4, 0] for r in (2, 8) for c in (2, 8, 14)]
    for tile, value in zip(tiles, [0, 64, 128, 191, 255, 255]):
        np.testing.assert_array_equal(tile, value)
    assert np.all(grid[:2] == 255) and np.all(grid[:, :2] == 255)


@pytest.mark.parametrize("side, shown", [(8, 48), (28, 56), (32, 64), (64, 64)])
def test_small_images_are_enlarged(side, shown):
    grid = plotting.image_grid(np.zeros((64, side, side, 1)))
    assert grid.shape == (8 * (shown + 2) + 2,) * 2 + (3,)


def test_timeline_shows_the_grid_pixel_by_pixel():
    x = np.random.default_rng(0).uniform(-1, 1, (3, 4, 8, 8, 1))
    picture = plotting.timeline(x, [0, 10, 20, 30])
    grid = plotting.image_grid(x.reshape(12, 8, 8, 1), columns=4)
    height, width = grid.shape[:2]
    np.testing.assert_array_equal(picture[8 : 8 + height, 52 : 52 + width], grid)
    below = picture[8 + height :]
    assert below.min() < 100  # labels


def is_dark(picture):
    return picture.astype(int).sum(axis=2) < 200


def test_heatmap_and_scatter_put_the_first_coordinate_to_the_right():
    density = np.zeros((20, 20))
    density[18, 1] = 1.0  # right, bottom
    for picture in (
        plotting.heatmap(density, extent=(0, 1, 0, 1)),
        plotting.heatmap(density, extent=(0, 1, 0, 1), title="a title"),
    ):
        # Squares of solid dark pixels are the cell; text and frames are thinner.
        dark = is_dark(picture)[:, : int(picture.shape[1] * 0.75)]
        solid = np.lib.stride_tricks.sliding_window_view(dark, (8, 8)).all((2, 3))
        rows, columns = np.nonzero(solid)
        assert rows.min() > 0.7 * picture.shape[0]
        assert columns.min() > 0.5 * picture.shape[1]
    point = plotting.scatter(np.array([[0.9, 0.1]]), extent=(0, 1, 0, 1))
    plain = plotting.scatter(np.zeros((0, 2)), extent=(0, 1, 0, 1))
    rows, columns = np.nonzero(np.any(point != plain, axis=2))
    assert rows.min() > 0.7 * len(point) and columns.min() > 0.7 * point.shape[1]


def test_scatter_draws_density_and_paths():
    window = {"extent": (-1, 1, -1, 1)}
    points = np.zeros((5, 2))
    plain = plotting.scatter(points, **window)
    shaded = plotting.scatter(points, density=np.eye(9), **window)
    walked = plotting.scatter(points, paths=np.eye(2)[None], **window)
    assert plain.shape == shaded.shape == walked.shape
    assert np.any(plain != shaded) and np.any(plain != walked)


def test_curves_and_traces_are_pictures():
    x = np.arange(1, 9.0)
    lines = {"a": (x, x), "b": (x, x**2)}
    picture = plotting.curves(lines, x_label="step", y_label="nats", log_y=True)
    assert picture.dtype == np.uint8 and picture.shape == (400, 640, 3)
    panels = {"energy": np.ones((3, 11)), "acceptance": np.ones((3, 10))}
    assert plotting.traces(panels).shape == (480, 700, 3)


def test_png_and_gif_come_back(tmp_path):
    picture = plotting.image_grid(np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)))
    plotting.write_png(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(PIL.Image.open(tmp_path / "a.png"), picture)
    grey = [plotting.image_grid(np.full((4, 8, 8, 1), v)) for v in (-1, 0, 1)]
    plotting.write_gif(tmp_path / "a.gif", grey, milliseconds=100, pause=900)
    found = PIL.Image.open(tmp_path / "a.gif")
    assert found.n_frames == 3 and found.info["loop"] == 0
    for i, (frame, duration) in enumerate(zip(grey, [900, 100, 900])):
        found.seek(i)
        assert found.info["duration"] == duration
        np.testing.assert_allclose(np.asarray(found.convert("RGB")), frame, atol=4)


def test_shapes_that_are_not_images_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\): want \[N, height, width"):
        plotting.image_grid(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="no images to show"):
        plotting.image_grid(np.zeros((0, 8, 8, 1)))
