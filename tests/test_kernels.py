"""Blur kernels, masks and matrices from files."""

import numpy as np
import pytest
import tifffile
from pictures import pixels, write

from spectralpost.degradations.kernels import kernel_note, load_kernel, load_mask, load_matrix
from spectralpost.errors import InputError

KERNEL = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]])


@pytest.mark.parametrize("dtype", [float, np.float32, ">f8", int, np.uint8])
def test_npy_is_used_as_it_is(dtype, tmp_path):
    np.save(tmp_path / "a.npy", KERNEL.astype(dtype))
    loaded = load_kernel(tmp_path / "a.npy")
    assert loaded.dtype == np.float64
    np.testing.assert_array_equal(loaded, KERNEL)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "1 2 3\n4 5 7\n"),
        ("a.txt", "# by hand\n\n1\t2  3\r\n4 5 7"),
        ("a.csv", "1,2,3\n4,5,7\n"),
        ("a.csv", "\ufeff1, 2, 3\r\n4, 5, 7\r\n"),
        ("a.csv", "1 2 3\n4 5 7\n"),
        ("kernel", "1 2 3\n4 5 7\n"),
    ],
)
def test_rows_of_numbers(name, text, tmp_path):
    (tmp_path / name).write_bytes(text.encode())
    np.testing.assert_array_equal(load_kernel(tmp_path / name), KERNEL)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.PNG"])
def test_grey_values_are_divided_by_their_sum(name, dtype, tmp_path):
    """Bright or dark, 8 or 16 bits: the scale of an image means nothing."""
    write(tmp_path / name, (3 * KERNEL).astype(dtype))
    np.testing.assert_allclose(load_kernel(tmp_path / name), KERNEL / 22, rtol=1e-15)


def test_a_picture_of_three_equal_channels_is_grey(tmp_path):
    write(tmp_path / "a.png", np.repeat(KERNEL.astype(np.uint8)[..., None], 3, axis=2))
    np.testing.assert_allclose(load_kernel(tmp_path / "a.png"), KERNEL / 22, rtol=1e-15)


def test_floating_point_tiff_is_used_as_it_is(tmp_path):
    """It can hold what no picture does: negative numbers, and any sum."""
    tifffile.imwrite(tmp_path / "a.tif", -KERNEL, photometric="minisblack")
    np.testing.assert_array_equal(load_kernel(tmp_path / "a.tif"), -KERNEL)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("complex.npy", (1 + 1j) * KERNEL, "complex128"),
        ("words.npy", np.array([["a", "b"]]), "real numbers"),
        ("objects.npy", np.array([[{}]], object), "not rows of numbers"),
        ("nan.npy", np.array([[1.0, np.nan]]), "finite"),
        ("zeros.npy", np.zeros((3, 3)), "not 0"),
        ("line.npy", np.ones(3), r"shape \(3,\)"),
        ("cube.npy", np.ones((3, 3, 3)), r"shape \(3, 3, 3\)"),
        ("none.npy", np.ones((0, 3)), r"shape \(0, 3\)"),
        ("nothing.npy", "", "not rows of numbers"),
        ("text.npy", "1 2\n3 4", "not rows of numbers"),
        ("nothing.txt", "", r"shape \(0, 1\)|shape \(1, 0\)"),
        ("words.txt", "one two", "not rows of numbers"),
        ("ragged.txt", "1 2\n3", "not rows of numbers"),
        ("gap.csv", "1,,2\n3,4,5", "not rows of numbers"),
        ("commas.csv", "0,5;0,5", "not rows of numbers"),
        ("complex.csv", "1+1j,2", "not rows of numbers"),
        ("nan.csv", "1,nan", "finite"),
        ("archive.npz", b"PK\3\4\xff\xfe", "not rows of numbers"),
        ("nothing.png", "", "cannot be read"),
        ("black.png", np.zeros((3, 3), np.uint8), "not 0"),
        ("colour.png", pixels(3, 3, 3), "has colours"),
        ("stack.tif", pixels(4, 5, 5), "4 pages"),
    ],
)
def test_anything_else_is_one_line(name, value, message, tmp_path):
    path = tmp_path / name
    if isinstance(value, str | bytes):
        path.write_bytes(value if isinstance(value, bytes) else value.encode())
    elif path.suffix == ".npy":
        np.save(path, value, allow_pickle=True)
    else:
        write(path, value)
    with pytest.raises(InputError, match=message) as caught:
        load_kernel(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_opened(tmp_path):
    for name in ("no.npy", "no.csv"):
        with pytest.raises(InputError, match=rf"{name}.*cannot be read \(No such file"):
            load_kernel(tmp_path / name)
    with pytest.raises(InputError, match=r"no\.png.*no such file"):
        load_kernel(tmp_path / "no.png")
    with pytest.raises(InputError, match="cannot be read"):
        load_kernel(tmp_path)


def test_note_of_a_sum_other_than_one():
    """Six digits a value, as people write them, are no reason for one."""
    assert kernel_note(KERNEL / KERNEL.sum()) is None
    assert kernel_note(np.array([[0.333333, 0.333334, 0.333333]])) is None
    assert "add up to 22;" in kernel_note(KERNEL)
    assert "add up to 0.9;" in kernel_note(np.array([[0.4, 0.5]]))
    assert "add up to 0;" in kernel_note(np.array([[-1.0, 1.0]]))


def test_masks_are_numbers_or_pictures(tmp_path):
    """What is brighter than half of white is known, in a picture of any kind."""
    known = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    np.save(tmp_path / "a.npy", known.astype(bool))
    np.savetxt(tmp_path / "a.csv", known, delimiter=",")
    write(tmp_path / "a.png", np.where(known, 200, 100).astype(np.uint8))
    write(tmp_path / "a.bmp", np.where(known, 200, 100).astype(np.uint8))
    for name in ("a.npy", "a.csv", "a.png", "a.bmp"):
        np.testing.assert_array_equal(load_mask(tmp_path / name), known)
    np.save(tmp_path / "planes.npy", np.ones((3, 2, 3)))
    assert load_mask(tmp_path / "planes.npy").shape == (3, 2, 3)
    with pytest.raises(InputError, match=r"mask 'no\.npy': cannot be read"):
        load_mask("no.npy")


def test_matrices_are_numbers_alone(tmp_path):
    np.save(tmp_path / "a.npy", KERNEL)
    np.savetxt(tmp_path / "a.txt", KERNEL)
    for name in ("a.npy", "a.txt"):
        np.testing.assert_array_equal(load_matrix(tmp_path / name), KERNEL)
    write(tmp_path / "a.png", KERNEL.astype(np.uint8))
    with pytest.raises(InputError, match=r"matrix .*a\.png': not rows of numbers"):
        load_matrix(tmp_path / "a.png")
