"""What options stand for: the prior and the photograph of a folder, a kernel's file."""

import os

import numpy as np
import pytest
import tifffile
from pictures import pixels, write

import spectralpost as sp
from spectralpost.commands import inputs
from spectralpost.commands.console import measurement_panel
from spectralpost.commands.inputs import degradation_choice
from spectralpost.degradations import make_degradation
from spectralpost.errors import InputError
from spectralpost.images import load_folder
from spectralpost.options import Design
from spectralpost.prior import excess_kurtosis, from_images


def prior_and_photo(options, given=None, notes=None):
    return inputs.prior_and_photo(options, given, set() if notes is None else notes)


def folder_of(path, num=4, **options):
    for i in range(num):
        write(path / f"{i}.png", pixels(8, 8, 3, seed=i, **options))
    return path


@pytest.mark.parametrize("size", [None, 3])
def test_prior_and_photo_of_a_folder(size, tmp_path):
    """The first image is kept out; tiles if asked for; the kurtosis is of the same images."""
    folder = load_folder(folder_of(tmp_path))
    prior, photo, name, kurtosis, _ = prior_and_photo(Design(images=tmp_path, size=size))
    first, *others = folder.values()
    inside = slice(None) if size is None else slice(2, 5)
    np.testing.assert_array_equal(photo, first[:, inside, inside])
    assert name == "0.png"
    images = np.stack(others)
    if size == 3:  # 2 x 2 tiles, one pixel of margin
        corners = [(i, j) for i in (1, 4) for j in (1, 4)]
        images = np.concatenate([images[..., i : i + 3, j : j + 3] for i, j in corners])
    expected = from_images(images, colour=True)
    np.testing.assert_allclose(prior.spectrum, expected.spectrum, rtol=1e-10)
    np.testing.assert_allclose(kurtosis, excess_kurtosis(expected, images), rtol=1e-10)


@pytest.mark.parametrize("grey", ["0.png", "3.png"])
def test_a_grey_image_does_not_make_the_photograph_grey(grey, tmp_path):
    write(folder_of(tmp_path) / grey, pixels(8, 8, seed=9))
    prior, photo, *_ = prior_and_photo(Design(images=tmp_path))
    assert photo.shape == prior.spectrum.shape == (3, 8, 8)


def test_twelve_bits_are_said_in_one_line(tmp_path):
    """Though the images are read more than once; not when the white level is given."""
    for i in range(3):
        image = pixels(8, 8, high=4095, dtype=np.uint16, seed=i)
        tifffile.imwrite(tmp_path / f"{i}.tif", image, photometric="minisblack")
    notes = set()
    dark = prior_and_photo(Design(images=tmp_path), notes=notes)[0]
    (said,) = notes
    assert "\n" not in said and "uses 6.2% of the range" in said
    notes = set()
    prior = prior_and_photo(Design(images=tmp_path, white_level=4095), notes=notes)[0]
    assert not notes
    np.testing.assert_allclose(prior.spectrum, dark.spectrum * (65535 / 4095) ** 2, rtol=1e-10)
    with pytest.raises(InputError, match="white level = 4095: needs --images"):
        prior_and_photo(Design(white_level=4095))


def test_names_can_be_printed(tmp_path):
    folder = tmp_path / os.fsdecode(b"photos \xfe")
    try:
        folder.mkdir()
        folder_of(folder)
        (folder / "0.png").rename(folder / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system refuses such names")
    given = folder / os.fsdecode(b"\xff.png")
    prior, _, name, *_ = prior_and_photo(Design(images=folder), given)
    assert f"{prior.source} {name}".isprintable() and name == "\\udcff.png"


def test_no_image_is_that_large(tmp_path):
    with pytest.raises(InputError, match="size = 9: no image is that large; the largest has 8"):
        prior_and_photo(Design(images=folder_of(tmp_path), size=9))


def test_the_sum_of_a_kernel_is_said(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    options = Design(degradation="kernel", kernel=tmp_path / "a.csv")
    notes = set()
    name, given = degradation_choice(options, notes)
    response = np.asarray(make_degradation(name, (8, 8), **given).response)
    np.testing.assert_allclose(response[0], 10)
    (said,) = notes
    assert said.count("add up to 10;") == 1
    (tmp_path / "a.csv").write_text("0.1,0.2\n0.3,0.4\n")
    notes = set()
    degradation_choice(options, notes)
    assert not notes


MASK = np.array([[1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0]])
KERNEL = np.array([[0.25, 0.5, 0.25]])
MATRIX = np.random.default_rng(0).normal(size=(5, 12))
FILES = {
    "inpaint": ("mask", MASK, {}),
    "mri": ("mask", MASK, {}),
    "downsample": ("kernel", KERNEL, {"factor": 1}),
    "from_kernel": ("kernel", KERNEL, {}),
    "from_matrix": ("matrix", MATRIX, {}),
}


@pytest.mark.parametrize("name", FILES)
def test_options_from_files_are_kept_in_schedules(name, tmp_path):
    """What a schedule's degradation is does not need the file any more."""
    option, array, others = FILES[name]
    np.save(tmp_path / "a.npy", array)
    words = [f"{key}={value}" for key, value in others.items()]
    options = Design(
        degradation=name, degradation_options=(*words, f"{option}={tmp_path / 'a.npy'}")
    )
    notes = set()
    found, given = degradation_choice(options, notes)
    (tmp_path / "a.npy").unlink()
    assert found == name and not notes
    degradation = make_degradation(name, (3, 4), **given)
    assert degradation == make_degradation(name, (3, 4), **others, **{option: array})
    sampler, levels = sp.SAMPLERS["ddrm"](), sp.vp_linear(2)
    problem = sp.image_problem(sp.power_law((3, 4)), degradation, 0.1)
    schedule = sp.Schedule(
        sampler_name="ddrm",
        levels=levels,
        guidance=sp.heuristic(sampler, problem, levels),
        degradation_name=name,
        degradation_options=given,
        shape=(3, 4),
        sigma_y=0.1,
    )
    sp.save_schedule(tmp_path / "schedule.json", schedule)
    loaded = sp.load_schedule(tmp_path / "schedule.json")
    assert loaded.degradation() == degradation
    y, x_0 = degradation.apply(np.ones((1, 3, 4))), np.ones((1, 3, 4))
    panel = measurement_panel(degradation, y, x_0, sp.power_law((3, 4)))
    assert panel.image.shape == (1, 3, 4)
    if name == "from_matrix":  # whose y is no image
        np.testing.assert_allclose(panel.image, degradation.adjoint(y), rtol=1e-12)
        with pytest.raises(InputError, match=r"from_matrix gives \(5,\), which is no image"):
            loaded.degradation_of((3, 4))
    else:
        assert loaded.degradation_of((3, 4)) == degradation


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("from_matrix", "matrix=no.npy", r"matrix 'no\.npy': cannot be read \(No such file"),
        ("from_matrix", "", "'from_matrix': needs the option 'matrix'"),
        ("downsample", "kernel=lanczos", "'lanczos': allowed are bicubic, .*none, or a file"),
        ("mri", "mask=no.png", r"no\.png': no such file"),
        ("mri", "mask=large.npy", "1500x1500 numbers, of which a schedule file would be more than"),
    ],
)
def test_wrong_files_are_one_line(name, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("large.npy", np.ones((1500, 1500)))
    options = Design(degradation=name, degradation_options=(words,) if words else ())
    with pytest.raises(InputError, match=message) as error:
        degradation_choice(options, set())
    assert "\n" not in str(error.value)


def test_a_mask_of_frequencies_in_another_order_is_said(tmp_path):
    """A mask with frequency 0 in the middle, as MRI's are often stored."""
    np.save(tmp_path / "a.npy", np.fft.fftshift(np.outer(np.eye(8)[0], np.ones(8))))
    notes = set()
    options = (f"mask={tmp_path / 'a.npy'}",)
    degradation_choice(Design(degradation="mri", degradation_options=options), notes)
    (said,) = notes
    assert "frequency 0 is not known" in said
