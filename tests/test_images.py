"""Images in and out: every kind of file that people have, and a clear message for the rest."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pictures import pixels, write, write_deep_png
from PIL import Image

from spectralpost.errors import InputError
from spectralpost.images import (
    BUILT_IN,
    all_planes,
    built_in_photographs,
    check_pixel_range,
    load_folder,
    load_image,
    printable,
    save_image,
    stream_folder,
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


@pytest.mark.parametrize(
    "pixel_range",
    [(1, 1), (1, -1), (0, np.nan), (-np.inf, 1), (0, 1e308), (-1e308, 1e308), (0, 1e-200)],
)
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


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
def test_corrupt_files(content, tmp_path):
    path = tmp_path / "broken.png"
    if content is None:
        content = write(path, pixels(64, 64)).read_bytes()[:200]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png.*cannot be read as an image"):
        load_image(path)


def test_missing_file_and_folder_in_its_place(tmp_path):
    with pytest.raises(InputError, match="a folder; one image is needed"):
        load_image(tmp_path)
    with pytest.raises(InputError, match=r"missing\.png.*no such file"):
        load_image(tmp_path / "missing.png")


# ------------------------------------------------------------------ modes, orientations, pages


def test_cmyk_is_converted(tmp_path):
    """Inks in the Adobe way (inverted) and their alpha-less array of four channels.

    The reference is the definition, (1 - ink)(1 - black), of what the JPEG decoder gives; 1/255 is
    the rounding to 8 bits, twice.
    """
    colours = np.array([[255, 40, 40], [30, 200, 90], [20, 60, 220], [128, 128, 128]], np.uint8)
    picture = np.repeat(colours, 16, axis=0)[None].repeat(16, axis=0)
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).convert("CMYK").save(path, quality=95)
    with Image.open(path) as image:
        inks = np.asarray(image).astype(float) / 255
    expected = (1 - inks[..., :3]) * (1 - inks[..., 3:])
    loaded = load_image(path, pixel_range=(0, 1))
    assert loaded.shape == (3, 16, 64)
    np.testing.assert_allclose(np.moveaxis(loaded, 0, -1), expected, atol=2 / 255)
    # and it is the picture, not its negative: JPEG at this quality is within 10 levels inside
    inside = np.s_[4:12, 4:12]
    np.testing.assert_allclose(
        np.moveaxis(loaded, 0, -1)[inside], picture[inside] / 255, atol=10 / 255
    )


@pytest.mark.parametrize("transparency", [None, 1, b"\xff\x80\x00"])
def test_palettes_are_looked_up(transparency, tmp_path):
    """Transparent entries keep their colour, in either form that a PNG has for them."""
    palette = np.array([[250, 10, 20], [30, 240, 50], [60, 70, 230]], np.uint8)
    index = pixels(5, 4, high=2)
    image = Image.fromarray(index, "P")
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    loaded = load_image(tmp_path / "a.png", pixel_range=(0, 255))
    np.testing.assert_allclose(np.moveaxis(loaded, 0, -1), palette[index], rtol=ROUNDING)


def test_one_bit(tmp_path):
    bits = pixels(5, 9, high=1)
    Image.fromarray(bits.astype(bool)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", bits.astype(bool), photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", bits.astype(bool), photometric="miniswhite")
    for name, expected in (("a.png", bits), ("a.tif", bits), ("b.tif", 1 - bits)):
        loaded = load_image(tmp_path / name, pixel_range=(0, 1))
        np.testing.assert_array_equal(loaded[0], expected, err_msg=name)


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_png_keeps_its_lower_bytes(channels, tmp_path):
    """Pillow keeps the upper ones alone, which leaves four bits of a 12-bit camera."""
    image = pixels(5, 4, channels, high=65535, dtype=np.uint16)
    loaded = load_image(write_deep_png(tmp_path / "a.png", image), pixel_range=(0, 65535))
    np.testing.assert_allclose(np.moveaxis(loaded, 0, -1), image[..., :3], rtol=ROUNDING)


def test_sixteen_bit_grey_png_with_alpha_is_refused(tmp_path):
    path = write_deep_png(tmp_path / "a.png", pixels(5, 4, 2, high=65535, dtype=np.uint16))
    with pytest.raises(InputError, match="16-bit grey with alpha"):
        load_image(path)


# The upright picture, as a viewer shows it, from the stored one: tag 274 of EXIF and TIFF 6.0.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["png", "tif", "lzw.tif"])
def test_orientation(orientation, ending, tmp_path):
    """By each reader: Pillow, tifffile, and Pillow on a TIFF that tifffile cannot decompress."""
    stored = pixels(6, 4, 3)
    path = tmp_path / f"a.{ending}"
    if ending == "tif":
        tag = (274, 3, 1, orientation, False)
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[tag])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        options = {"compression": "tiff_lzw"} if ending == "lzw.tif" else {}
        Image.fromarray(stored).save(path, exif=exif, **options)
    loaded = np.moveaxis(load_image(path, pixel_range=(0, 255)), 0, -1)
    np.testing.assert_allclose(loaded, UPRIGHT[orientation](stored), rtol=ROUNDING)


@pytest.mark.parametrize("num", [3, 4, 6])
def test_a_stack_of_pages_is_refused(num, tmp_path):
    """Three or four slices are no colours."""
    path = write(tmp_path / "stack.tif", pixels(num, 5, 7))
    with pytest.raises(InputError, match=rf"stack\.tif.*{num} pages"):
        load_image(path)
    tifffile.imwrite(tmp_path / "imagej.tif", pixels(num, 5, 7), imagej=True)
    with pytest.raises(InputError, match=rf"imagej\.tif.*{num} pages"):
        load_image(tmp_path / "imagej.tif")
    options = {"volumetric": True, "tile": (16, 16), "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "volume.tif", pixels(num, 16, 16), **options)
    with pytest.raises(InputError, match=rf"volume\.tif.*{num} pages"):
        load_image(tmp_path / "volume.tif")


@pytest.mark.parametrize("num", [2, 3, 4])
def test_channels_that_are_not_colours_are_refused(num, tmp_path):
    image = pixels(5, 4, num)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match=f"{num} channels that are not colours"):
        load_image(tmp_path / "a.tif")


def test_planes_of_colour_are_colour(tmp_path):
    image = pixels(3, 5, 7)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", planarconfig="separate")
    loaded = load_image(tmp_path / "a.tif", pixel_range=(0, 255))
    np.testing.assert_allclose(loaded, image, rtol=ROUNDING)


def test_a_thumbnail_is_no_page(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels(8, 8, 3), photometric="rgb")
        file.write(pixels(4, 4, 3), photometric="rgb", subfiletype=1)
    assert load_image(tmp_path / "a.tif").shape == (3, 8, 8)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_animations_are_refused(ending, tmp_path):
    frames = [Image.fromarray(pixels(8, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="3 frames"):
        load_image(tmp_path / f"a.{ending}")


def test_the_second_picture_behind_a_jpeg_is_passed_over(tmp_path):
    """Phones put a preview or a gain map there, under the ending .jpg."""
    frames = [Image.fromarray(np.full((8, 8, 3), grey, np.uint8)) for grey in (200, 20)]
    frames[0].save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=frames[1:])
    path = (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    np.testing.assert_allclose(load_image(path, pixel_range=(0, 255)), 200, atol=1)


def test_deep_colour_that_would_be_cut_is_refused(tmp_path):
    """LZW is known to Pillow alone here, which reads colours in 8 bits. Grey keeps its 16."""
    grey = pixels(5, 4, high=65535, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.tif", compression="tiff_lzw")
    loaded = load_image(tmp_path / "grey.tif", pixel_range=(0, 65535))
    np.testing.assert_allclose(loaded[0], grey, rtol=ROUNDING)
    path = write(tmp_path / "a.tif", pixels(5, 4, 3, high=65535, dtype=np.uint16))
    content = path.read_bytes()
    entry = (259).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    assert content.count(entry + b"\x01\0") == 1  # compression: none
    path.write_bytes(content.replace(entry + b"\x01\0", entry + b"\x05\0"))
    with pytest.raises(InputError, match="16-bit RGB with compression LZW"):
        load_image(path)


# ------------------------------------------------------------------------------------ white level


@pytest.mark.parametrize("colour", [False, True])
def test_white_level(colour, tmp_path):
    """12 bits in files of 16."""
    shape = (5, 4, 3) if colour else (5, 4)
    image = pixels(*shape, high=4095, dtype=np.uint16)
    path = write(tmp_path / "a.tif", image)
    loaded = load_image(path, pixel_range=(0, 1), white_level=4095)
    np.testing.assert_array_equal(loaded, np.moveaxis(np.atleast_3d(image), -1, 0) / 4095)
    with pytest.raises(InputError, match=r"a\.tif.*up to 4095, above the white level 4000"):
        load_image(path, white_level=4000)
    for level in (0, -1, np.nan, 65536):
        with pytest.raises(InputError, match=rf"white level = {level}.*65535"):
            load_image(path, white_level=level)
    path = write(tmp_path / "float.tif", (image / 4095).astype(np.float32))
    with pytest.raises(InputError, match=r"white level = 4095.*float\.tif.*floating-point"):
        load_image(path, white_level=4095)


def test_little_use_of_the_range_is_said_once(tmp_path):
    """From a quarter on nothing is said; of a folder, the brightest image counts."""
    said = []
    dim = write(tmp_path / "dim.tif", np.array([[0, 16383]], np.uint16))
    load_image(dim, notice=said.append)
    assert len(said) == 1 and "dim.tif" in said[0] and "25.0% of the range" in said[0]
    with pytest.warns(UserWarning, match="white level"):
        load_image(dim)
    load_image(dim, white_level=16383, notice=said.append)
    write(tmp_path / "dark.tif", np.array([[0, 300]], np.uint16))
    load_folder(tmp_path, notice=said.append)
    assert len(said) == 2 and str(tmp_path) in said[1]
    bright = write(tmp_path / "bright.tif", np.array([[0, 16384]], np.uint16))
    load_image(bright, notice=said.append)
    load_folder(tmp_path, notice=said.append)
    write(tmp_path / "float.tif", np.full((1, 2), 0.1, np.float32))
    load_image(tmp_path / "float.tif", notice=said.append)
    assert len(said) == 2


# ----------------------------------------------------------------------------------------- folders


def test_folder_in_the_order_of_names_and_without_other_files(tmp_path):
    for i, name in enumerate(("b.png", "a.PNG", "c.tif")):
        write(tmp_path / name, pixels(4, 4, seed=i))
    (tmp_path / "notes.txt").write_text("not an image")
    folder = load_folder(tmp_path)
    assert list(folder) == ["a.PNG", "b.png", "c.tif"]
    np.testing.assert_array_equal(folder["b.png"], load_image(tmp_path / "b.png"))


def test_hidden_companion_and_misnamed_files_are_passed_over(tmp_path):
    write(tmp_path / "a.png", pixels(4, 4))
    for name in ("._a.png", ".DS_Store", ".hidden.jpg", ".png"):  # AppleDouble and the like
        (tmp_path / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (tmp_path / "folder.png").mkdir()
    assert list(load_folder(tmp_path)) == ["a.png"]


@pytest.mark.parametrize("grey_name", ["a.png", "z.png"])
def test_one_grey_image_does_not_make_a_folder_grey(grey_name, tmp_path):
    """Nor does it end up with a plane less than the others: it becomes three equal ones."""
    grey, colour = pixels(4, 5), pixels(4, 5, 3)
    write(tmp_path / grey_name, grey)
    write(tmp_path / "m.png", colour)
    folder = load_folder(tmp_path, pixel_range=(0, 255))
    for plane in folder[grey_name]:
        np.testing.assert_allclose(plane, grey, rtol=ROUNDING)
    assert {planes.shape for planes in folder.values()} == {(3, 4, 5)}
    assert all(len(planes) == 1 for planes in load_folder(tmp_path, "luminance").values())


@pytest.mark.parametrize("mode", ["LA", "I;16", "1"])
def test_a_grey_folder_stays_grey(mode, tmp_path):
    for name in "ab":
        image = Image.new(mode, (4, 4))
        image.putpixel((1, 1), (255, 255) if mode == "LA" else 65535 if mode == "I;16" else 1)
        image.save(tmp_path / f"{name}.png")
    write(tmp_path / "c.tif", np.eye(4, dtype=np.float32))
    assert all(len(planes) == 1 for planes in load_folder(tmp_path).values())


def test_a_stream_can_be_read_twice(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", pixels(4, 4, 3, seed=i))
    stream = stream_folder(tmp_path)
    assert len(stream) == 3
    folder = load_folder(tmp_path)
    for _ in range(2):
        read = dict(stream)
        assert list(read) == list(folder)
        for name, planes in read.items():
            assert planes.dtype == np.float32
            np.testing.assert_array_equal(planes, folder[name].astype(np.float32))


def test_names_can_be_printed(tmp_path):
    """Bytes that are not UTF-8, a line break: escaped, each in its own way."""
    names = [b"\xfe.png", b"\xff.png", b"a\nb.png", "é.png".encode()]
    image = write(tmp_path / "image.png", pixels(4, 4)).read_bytes()
    (tmp_path / "image.png").unlink()
    for name in names:
        try:
            with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
                file.write(image)
        except OSError:
            pytest.skip("this file system refuses such names")
    found = list(load_folder(tmp_path))
    assert found == ["a\\nb.png", "é.png", "\\udcfe.png", "\\udcff.png"]
    "".join(found).encode("utf-8")
    assert printable("ordinary name é 日本.png") == "ordinary name é 日本.png"
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.png"), "wb") as file:
        file.write(b"no image")
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_folder(tmp_path)
    str(caught.value).encode("ascii")


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
