"""Images in and out: every kind of file that people have, and a clear message for the rest."""

from pathlib import Path

import numpy as np
import pytest
from pictures import IGNORE_UNCLOSED, pixels, unreadable_image, write  # noqa: F401

from spectralpost.errors import InputError
from spectralpost.images import (
    BUILT_IN,
    all_planes,
    built_in_photographs,
    check_pixel_range,
    load_folder,
    load_image,
    save_image,
    tiles,
    to_uint8,
)

# Rounding of x / peak and of low + (high - low) x.
ROUNDING = 4 * np.finfo(float).eps


# ----------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("name", "image", "planes"),
    [
        ("rgb.png", pixels(5, 4, 3), 3),
        ("rgba.png", pixels(5, 4, 4), 3),
        ("grey.png", pixels(5, 4), 1),
        ("grey-alpha.png", pixels(5, 4, 2), 1),
        ("rgb.tif", pixels(5, 4, 3), 3),
        ("sixteen-bit.png", pixels(5, 4, high=65535, dtype=np.uint16), 1),
        ("sixteen-bit.tif", pixels(5, 4, 3, high=65535, dtype=np.uint16), 3),
    ],
)
def test_integer_pixels_are_scaled_by_their_type(name, image, planes, tmp_path):
    """Not by their maximum: a dark photograph stays dark. Alpha is dropped, not blended."""
    loaded = load_image(write(tmp_path / name, image))
    cube = image.reshape(5, 4, -1)[..., :planes]
    expected = 2 * np.moveaxis(cube / np.iinfo(image.dtype).max, -1, 0) - 1
    assert loaded.shape == (planes, 5, 4) and loaded.dtype == np.float64
    np.testing.assert_allclose(loaded, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_pixels_are_taken_as_they_are(dtype, tmp_path):
    image = np.linspace(0, 1, 20, dtype=dtype).reshape(5, 4)
    loaded = load_image(write(tmp_path / "a.tif", image), pixel_range=(0, 1))
    np.testing.assert_array_equal(loaded[0], image)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or infinite"),
        (1.5, r"0 to 1\.5.*\[0, 1\]"),
        (-0.25, r"-0\.25 to 0.*\[0, 1\]"),
    ],
)
def test_bad_float_pixels_are_refused(value, message, tmp_path):
    image = np.zeros((5, 4), np.float32)
    image[2, 2] = value
    path = write(tmp_path / "bad.tif", image)
    with pytest.raises(InputError, match=f"bad.tif.*{message}"):
        load_image(path)


def test_negative_integers_are_refused(tmp_path):
    """Signed 16 bit is common for scientific TIFFs; half its range is below black."""
    path = write(tmp_path / "signed.tif", np.array([[-30000, 0], [0, 30000]], np.int16))
    with pytest.raises(InputError, match=r"signed\.tif"):
        load_image(path)


def test_pixel_range_maps_black_and_white(tmp_path):
    path = write(tmp_path / "a.png", np.array([[0, 255]], np.uint8))
    np.testing.assert_array_equal(load_image(path, pixel_range=(-3, 5)), [[[-3, 5]]])


@pytest.mark.parametrize("pixel_range", [(1, 1), (1, -1), (0, np.nan), (-np.inf, 1)])
def test_bad_pixel_ranges(pixel_range, tmp_path):
    path = write(tmp_path / "a.png", pixels(2, 2))
    with pytest.raises(InputError, match="pixel range"):
        load_image(path, pixel_range=pixel_range)
    with pytest.raises(InputError, match="pixel range"):
        check_pixel_range(pixel_range)


def test_luminance_is_that_of_rec_709(tmp_path):
    """0.2125 R + 0.7154 G + 0.0721 B; a grey image keeps its only plane."""
    image = pixels(5, 4, 3)
    loaded = load_image(write(tmp_path / "a.png", image), "luminance", (0, 1))
    expected = image @ np.array([0.2125, 0.7154, 0.0721]) / 255
    assert loaded.shape == (1, 5, 4)
    np.testing.assert_allclose(loaded[0], expected, rtol=0, atol=ROUNDING)
    grey = load_image(write(tmp_path / "b.png", image[..., 0]), "luminance", (0, 1))
    np.testing.assert_allclose(grey[0], image[..., 0] / 255, rtol=0, atol=ROUNDING)


@IGNORE_UNCLOSED
@pytest.mark.usefixtures("unreadable_image")
@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
def test_corrupt_files(content, tmp_path):
    path = tmp_path / "broken.png"
    if content is None:
        content = write(path, pixels(64, 64)).read_bytes()[:200]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png.*cannot be read as an image"):
        load_image(path)


def test_missing_file_and_folder_in_its_place(tmp_path):
    with pytest.raises(InputError, match=r"missing\.png.*no such file"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(InputError, match="no such file"):
        load_image(tmp_path)


def test_a_stack_of_pages_is_refused(tmp_path):
    path = write(tmp_path / "stack.tif", pixels(6, 5, 7))
    with pytest.raises(InputError, match=r"stack\.tif.*\(6, 5, 7\)"):
        load_image(path)


# ----------------------------------------------------------------------------------------- folders


def test_folder_in_the_order_of_names_and_without_other_files(tmp_path):
    for i, name in enumerate(("b.png", "a.PNG", "c.tif")):
        write(tmp_path / name, pixels(4, 4, seed=i))
    (tmp_path / "notes.txt").write_text("not an image")
    folder = load_folder(tmp_path)
    assert list(folder) == ["a.PNG", "b.png", "c.tif"]
    np.testing.assert_array_equal(folder["b.png"], load_image(tmp_path / "b.png"))


def test_folders_without_images(tmp_path):
    with pytest.raises(InputError, match=r"holds no image.*\.png"):
        load_folder(tmp_path)
    with pytest.raises(InputError, match=r"elsewhere.*no such folder"):
        load_folder(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="no such folder"):
        load_folder(write(tmp_path / "a.png", pixels(2, 2)))


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """Patched, as permissions do not bind every user that runs tests."""

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        load_folder(tmp_path)


@IGNORE_UNCLOSED
@pytest.mark.usefixtures("unreadable_image")
def test_one_corrupt_file_is_named(tmp_path):
    write(tmp_path / "a.png", pixels(4, 4))
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"b\.png"):
        load_folder(tmp_path)


def test_all_planes():
    images = [pixels(3, 4, 5), pixels(1, 4, 5, seed=1)]
    planes = all_planes(iter(images))
    np.testing.assert_array_equal(planes, np.concatenate(images))


def test_mixed_sizes_are_refused():
    """Three sizes are listed, the rest hinted at: the message stays one line."""
    with pytest.raises(InputError, match=r"mixed sizes: 4x5, 5x4$"):
        all_planes([np.zeros((3, 5, 4)), np.zeros((3, 4, 5))])
    with pytest.raises(InputError, match=r"mixed sizes: 1x1, 2x2, 3x3, \.\.\.$"):
        all_planes([np.zeros((1, n, n)) for n in (4, 3, 2, 1)])


def test_built_in_photographs():
    photographs = built_in_photographs("luminance", (0, 1))
    assert tuple(photographs) == BUILT_IN
    for name, photograph in photographs.items():
        assert photograph.shape[0] == 1 and min(photograph.shape[1:]) >= 128, name
        assert photograph.min() >= 0 and photograph.max() <= 1 + ROUNDING, name
        assert photograph.std() > 0.05, name


# ------------------------------------------------------------------------------------------- tiles


def test_tiles_are_centred_pieces():
    """7 x 9 into tiles of 3: 2 x 3 of them, half a pixel of margin above, none at the sides."""
    image = pixels(2, 7, 9)
    cut = tiles(image, 3)
    assert cut.shape == (6, 2, 3, 3)
    for i, tile in enumerate(cut):
        top, left = 3 * (i // 3), 3 * (i % 3)
        np.testing.assert_array_equal(tile, image[:, top : top + 3, left : left + 3])
    np.testing.assert_array_equal(tiles(image, 5)[0], image[:, 1:6, 2:7])


def test_tiles_of_an_image_that_is_too_small():
    assert tiles(np.zeros((3, 7, 9)), 8).shape == (0, 3, 8, 8)


# --------------------------------------------------------------------------------------------- out


@pytest.mark.parametrize("pixel_range", [(-1, 1), (0, 1), (-0.7, 2.9)])
@pytest.mark.parametrize("shape", [(16, 16), (8, 32, 3)])
def test_every_level_survives_the_round_trip(pixel_range, shape, tmp_path):
    """Load, write, load: the same bytes, in any pixel range, grey and colour."""
    levels = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    loaded = load_image(write(tmp_path / "a.png", levels), pixel_range=pixel_range)
    np.testing.assert_array_equal(to_uint8(loaded, pixel_range), levels)
    save_image(tmp_path / "b.png", loaded, pixel_range)
    again = load_image(tmp_path / "b.png", pixel_range=pixel_range)
    np.testing.assert_array_equal(again, loaded)


def test_to_uint8_clips_and_rounds():
    image = np.array([[[-7.0, -1.0, 1.0, 7.0, 0.0, -1 + 0.9 / 255, -1 + 1.1 / 255]]])
    np.testing.assert_array_equal(to_uint8(image), [[0, 0, 255, 255, 128, 0, 1]])
