"""Every kind of image and of file that a folder may hold."""

import io
import logging
import os
import zlib

import numpy as np
import PIL.Image
import pytest

from megjax.data import files, folders, images

GREY16 = np.array([[0, 257, 300], [32896, 65278, 65535]], np.uint16)
"""Of 16 bits, and what they are in 8: each level / 257."""
GREY8 = [[0, 1, 1], [128, 254, 255]]
NOISE = np.random.RandomState(0).randint(0, 256, (6, 6, 3), np.uint8)
CLEAR = (255, 0, 0, 0)
HALF = (255, 0, 0, 128)


def picture(mode="RGB", colour=(10, 20, 30), size=(6, 6)):
    return PIL.Image.new(mode, size, colour)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def read(path, num_channels=3, **options):
    """The pixels of the one image of a folder."""
    data = folders.folder(str(path.parent), num_channels=num_channels, **options)
    assert data.num_examples == 1
    return data.store[0]


def said(caplog):
    return " | ".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_grey_levels_of_16_bits_keep_their_range(tmp_path, suffix):
    image = PIL.Image.fromarray(GREY16)
    options = {"quality_layers": [0]} if suffix == "jp2" else {}
    path = save(tmp_path / f"x.{suffix}", image, **options)
    assert read(path, 1)[..., 0].tolist() == GREY8
    assert read(path, 3)[..., 2].tolist() == GREY8


def test_grey_levels_of_12_bits_are_scaled_from_12_bits(tmp_path):
    """TIFF can say so: two levels in three bytes."""
    path = tmp_path / "x.tif"
    entries = [
        *((256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1)),
        *((273, 4, 122), (277, 3, 1), (278, 3, 1), (279, 4, 3)),
    ]
    content = b"II*\0" + (8).to_bytes(4, "little")
    content += len(entries).to_bytes(2, "little")
    for tag, kind, value in entries:
        for number, size in ((tag, 2), (kind, 2), (1, 4), (value, 4)):
            content += number.to_bytes(size, "little")
    content += bytes(4)
    assert len(content) == 122
    path.write_bytes(content + bytes([0xFF, 0xF8, 0x00]))
    assert read(path, 1)[..., 0].tolist() == [[255, 128]]


@pytest.mark.parametrize("top", [1023, 4095, 65535])
def test_a_pgm_says_what_is_white(tmp_path, top):
    path = tmp_path / "x.pgm"
    levels = np.array([0, top // 5, top], ">u2")
    path.write_bytes(f"P5 3 1 {top}\n".encode() + levels.tobytes())
    assert read(path, 1).ravel().tolist() == [0, 51, 255]


@pytest.mark.parametrize("suffix", ["tif", "pfm"])
def test_floats_in_the_unit_interval_are_grey_levels(tmp_path, suffix):
    levels = np.array([[0, 0.25, 1]], np.float32)
    path = save(tmp_path / f"x.{suffix}", PIL.Image.fromarray(levels))
    assert read(path, 1).ravel().tolist() == [0, 64, 255]


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (np.array([[0, 255.0]], np.float32), r"x.tif: levels from 0 to 255: scale"),
        (np.array([[-1, 1.0]], np.float32), r"levels from -1 to 1: scale floats"),
        (np.array([[0, np.nan]], np.float32), r"levels from nan to nan: scale"),
        (np.array([[0, np.inf]], np.float32), r"levels from 0 to inf: scale"),
        (np.array([[0, 70000]], np.int32), r"x.tif: grey levels of 32 bits.*save it"),
        (np.array([[-5, 5]], np.int32), r"grey levels of 32 bits, or signed ones"),
    ],
    ids=["0..255", "-1..1", "nan", "inf", "int32", "signed"],
)
def test_levels_without_a_range_are_refused_with_a_way_out(tmp_path, levels, words):
    path = save(tmp_path / "x.tif", PIL.Image.fromarray(levels))
    for num_channels in (1, 3):
        with pytest.raises(ValueError, match=words):
            read(path, num_channels)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_converted(tmp_path, suffix):
    path = save(tmp_path / f"x.{suffix}", picture("CMYK", (255, 0, 0, 0)))
    assert np.abs(np.int32(read(path)[0, 0]) - (0, 255, 255)).max() <= 2


@pytest.mark.parametrize(
    ("lab", "rgb"),
    [
        ((255, 128, 128), (255, 255, 255)),
        ((0, 128, 128), (0, 0, 0)),
        # sRGB red at the white point of D50: L 54.29, a 80.81, b 69.89.
        ((138, 209, 198), (255, 0, 0)),
    ],
)
def test_cielab_is_converted(tmp_path, lab, rgb):
    path = save(tmp_path / "x.tif", picture("LAB", lab))
    assert np.abs(np.int32(read(path)[0, 0]) - rgb).max() <= 8
    grey = np.int32(picture("RGB", rgb).convert("L").getpixel((0, 0)))
    assert abs(int(read(path, 1)[0, 0, 0]) - grey) <= 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "YCbCr"])
def test_images_of_8_bits_are_what_pillow_makes_of_them(tmp_path, mode):
    image = PIL.Image.fromarray(NOISE).convert(mode)
    suffix = "jpg" if mode == "YCbCr" else "png"
    path = save(tmp_path / f"x.{suffix}", image)
    for num_channels, target in ((1, "L"), (3, "RGB")):
        expected = np.asarray(PIL.Image.open(path).convert(target))
        found = read(path, num_channels)
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_of_several_frames_the_first_is_used_and_it_is_said(tmp_path, suffix, caplog):
    frames = [picture(colour=(80 * i, 0, 0)) for i in range(3)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"x.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert not read(path).any()
    assert (
        f"1 images have several frames, of which the first is used ('x.{suffix}')"
        in (said(caplog))
    )


def test_one_frame_needs_no_word(tmp_path, caplog):
    for suffix in ("gif", "tif", "png", "webp", "jpg", "bmp"):
        save(tmp_path / f"x.{suffix}", picture())
    assert folders.folder(str(tmp_path)).num_examples == 6 and not said(caplog)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_every_exif_orientation_comes_out_upright(tmp_path, suffix, orientation):
    """Red on top, blue at the bottom left, whichever way the camera was held."""
    upright = np.full((16, 32, 3), (200, 30, 30), np.uint8)
    upright[8:, :16] = (30, 30, 200)
    turns = {
        1: (),
        2: ("FLIP_LEFT_RIGHT",),
        3: ("ROTATE_180",),
        4: ("FLIP_TOP_BOTTOM",),
        5: ("TRANSPOSE",),
        6: ("ROTATE_90",),
        7: ("TRANSVERSE",),
        8: ("ROTATE_270",),
    }
    image = PIL.Image.fromarray(upright)
    for turn in turns[orientation]:
        image = image.transpose(PIL.Image.Transpose[turn])
    exif = image.getexif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"x.{suffix}", image, exif=exif)
    found = read(path)
    assert found.shape == (16, 32, 3)
    assert np.abs(np.int32(found[4, 4]) - (200, 30, 30)).max() < 12
    assert np.abs(np.int32(found[12, 4]) - (30, 30, 200)).max() < 12


def transparent(name):
    """An image in which transparent pixels hide red, by kind."""
    if name == "palette":
        image = picture("RGB", (255, 0, 0)).convert("P")
        return image, {"transparency": image.getpixel((0, 0))}
    if name == "grey":
        return picture("LA", (10, 0)), {}
    if name == "a level":
        return picture("L", 10), {"transparency": 10}
    if name == "a colour":
        return picture("RGB", (255, 0, 0)), {"transparency": (255, 0, 0)}
    if name == "16 bits":
        return PIL.Image.fromarray(np.full((6, 6), 999, np.uint16)), {
            "transparency": 999
        }
    return picture("RGBA", CLEAR), {}


@pytest.mark.parametrize(
    "name", ["palette", "grey", "a level", "a colour", "16 bits", "colours"]
)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_what_lies_behind_transparent_pixels_is_the_background(
    tmp_path, name, num_channels, caplog
):
    image, options = transparent(name)
    path = save(tmp_path / "x.png", image, **options)
    assert (read(path, num_channels) == 255).all()
    assert "1 images have transparent pixels, which show the background" in said(caplog)
    blue = read(path, num_channels, background=(0, 0, 255))
    expected = (0, 0, 255) if num_channels == 3 else (29,)
    assert (blue == expected).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "tga", "png"])
def test_transparency_in_other_formats(tmp_path, suffix):
    path = save(tmp_path / f"x.{suffix}", picture("RGBA", CLEAR))
    assert (read(path) == 255).all()


def test_half_transparent_pixels_are_mixed(tmp_path):
    path = save(tmp_path / "x.png", picture("RGBA", HALF))
    assert np.abs(np.int32(read(path)[0, 0]) - (255, 127, 127)).max() <= 1


@pytest.mark.parametrize("background", [5, "white", (0, 0), (0, 0, 256), (0.5,) * 3])
def test_backgrounds_that_are_none(tmp_path, background):
    save(tmp_path / "x.png", picture())
    with pytest.raises(
        ValueError, match="background=.*give three levels from 0 to 255"
    ):
        folders.folder(str(tmp_path), background=background)


def truncated(suffix, **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(np.tile(NOISE, (12, 12, 1))).save(stream, suffix, **options)
    return stream.getvalue()[: len(stream.getvalue()) // 2]


FOREIGN = {
    "._x.png": (b"\0\5\x16\7Mac OS X", "1 hidden ('._x.png')"),
    ".DS_Store": (b"\0\0\0\1Bud1", "1 hidden ('.DS_Store')"),
    ".cache/a.png": (b"anything", "1 hidden ('.cache')"),
    "__MACOSX/._a.png": (b"\0\5\x16\7", "1 hidden ('._a.png')"),
    "Thumbs.db": (b"\xd0\xcf\x11\xe0", "1 of other types ('Thumbs.db')"),
    "notes.txt": (b"text", "1 of other types ('notes.txt')"),
    "labels.csv": (b"a,b", "1 of other types ('labels.csv')"),
    "no_suffix": (b"x", "1 of other types ('no_suffix')"),
    "a.pdf": (b"%PDF-1.4", "1 of other types ('a.pdf')"),
    "a.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "1 of other types ('a.eps')"),
    "empty.png": (b"", "1 empty ('empty.png')"),
    "text.png": (b"not an image", "('text.png': no format that Pillow decodes)"),
    "html.jpg": (b"<html>404</html>", "('html.jpg': no format that Pillow decodes)"),
    "program.png": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "('program.png': no format that Pillow decodes)",
    ),
    "half.jpg": (truncated("jpeg"), "('half.jpg': image file is truncated"),
    "half.png": (truncated("png"), "('half.png': image file is truncated"),
    "half.webp": (truncated("webp"), "'half.webp': "),
    "half.gif": (truncated("gif"), "('half.gif': image file is truncated"),
    "half.tif": (truncated("tiff"), "('half.tif': "),
    "half.bmp": (truncated("bmp"), "('half.bmp': image file is truncated"),
    "a line\nbreak.txt": (b"x", r"1 of other types ('a line\nbreak.txt')"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_image_is_left_out_and_counted(tmp_path, name, caplog):
    content, words = FOREIGN[name]
    for i in range(2):
        save(tmp_path / f"good/{i}.png", picture(colour=(i, i, i), size=(72, 72)))
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    data = folders.folder(str(tmp_path))
    assert data.store[:, 0, 0, 0].tolist() == [0, 1]
    assert words in said(caplog) and "2 images; left out: 1 " in said(caplog)
    assert "\n" not in said(caplog)
    # As well where the set is streamed.
    streamed = folders.folder(str(tmp_path), memory_budget=1)
    assert streamed.num_examples == 2
    assert streamed.stream(np.array([1, 0]))[:, 0, 0, 0].tolist() == [1, 0]


def test_links_are_followed_to_files_and_never_in_circles(tmp_path, caplog):
    root = tmp_path / "x"
    save(root / "a.png", picture())
    save(tmp_path / "elsewhere/b.png", picture())
    (root / "to_a_file.png").symlink_to(tmp_path / "elsewhere/b.png")
    (root / "circle").symlink_to(root, target_is_directory=True)
    (root / "folder").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "itself.png").symlink_to(root / "itself.png")
    (root / "nowhere.png").symlink_to(root / "missing")
    os.mkfifo(root / "pipe.png")
    (root / "folder.png").mkdir()
    assert folders.folder(str(root)).num_examples == 2
    for words in (
        "2 links to folders ('circle', 'folder')",
        "2 links that lead nowhere ('itself.png', 'nowhere.png')",
        "1 no regular files ('pipe.png')",
    ):
        assert words in said(caplog)


def test_a_clean_folder_needs_no_word(tmp_path, caplog):
    save(tmp_path / "a/b.png", picture())
    with caplog.at_level(logging.INFO):
        folders.folder(str(tmp_path))
    assert not said(caplog)


def test_many_files_are_counted_and_a_few_named(tmp_path, caplog):
    save(tmp_path / "a.png", picture())
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    assert folders.folder(str(tmp_path)).num_examples == 1
    assert "9 that cannot be read ('0.png': no format" in said(caplog)
    assert "'4.png'" in said(caplog) and "'5.png'" not in said(caplog)


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(
        FileNotFoundError, match=r"1 of other types \('table.csv'\): put"
    ):
        folders.folder(str(tmp_path))
    (tmp_path / "half.jpg").write_bytes(truncated("jpeg"))
    with pytest.raises(
        ValueError, match="half.jpg is not a readable image: image file"
    ):
        folders.folder(str(tmp_path))


def test_a_file_that_breaks_later_is_named(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", picture())
    data = folders.folder(str(tmp_path), memory_budget=1)
    (tmp_path / "1.png").write_bytes(b"gone")
    with pytest.raises(
        ValueError, match="1.png is not a readable image any more.*restore"
    ):
        data.stream(np.array([1]))


def test_images_of_different_sizes_are_named(tmp_path):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "b.png", picture(size=(7, 6)))
    with pytest.raises(ValueError, match=r"\(6, 7, 3\) of .*b.png: give image_size"):
        folders.folder(str(tmp_path))


@pytest.mark.parametrize("name", ["image_size", "crop"])
@pytest.mark.parametrize("value", [0, -1, 8.5, "8", True, 10**6])
def test_sizes_that_are_none(tmp_path, name, value):
    save(tmp_path / "a.png", picture())
    with pytest.raises(ValueError, match=f"{name}=.*give a side in pixels"):
        folders.folder(str(tmp_path), **{name: value})


def test_a_crop_beyond_the_image_is_refused(tmp_path):
    """Pillow would fill it up with black."""
    save(tmp_path / "a.png", picture(size=(6, 9)))
    with pytest.raises(ValueError, match="a.png: crop=7 of an image of 6 x 9 pixels"):
        folders.folder(str(tmp_path), crop=7)
    assert folders.folder(str(tmp_path), crop=6).shape == (6, 6, 3)


@pytest.fixture(scope="module")
def bomb():
    """A small PNG of 31,624 x 31,624 white pixels of one bit."""

    def chunk(kind, content):
        size, checksum = len(content), zlib.crc32(kind + content)
        return size.to_bytes(4, "big") + kind + content + checksum.to_bytes(4, "big")

    side = 31_624
    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress((b"\0" + b"\xff" * (side // 8)) * side, 1)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.parametrize("lifted", [False, True])
def test_an_image_bomb_is_refused_by_name(tmp_path, monkeypatch, lifted, bomb):
    """Of 10^9 pixels in a small file, also where a program has lifted Pillow's limit."""
    if lifted:
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert (tmp_path / "bomb.png").stat().st_size < 1_000_000
    save(tmp_path / "good.png", picture())
    for budget in (1, images.MEMORY_BUDGET):
        with pytest.raises(ValueError, match="bomb.png: more than 178,956,970 pixels"):
            files.custom(str(tmp_path), image_size=8, memory_budget=budget)
