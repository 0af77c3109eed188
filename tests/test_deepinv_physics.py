"""deepinv's physics as degradations, and degradations as deepinv's physics."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import spectralpost as sp
from spectralpost.errors import InputError

torch = pytest.importorskip("torch")

from test_oracles import declared_operators  # noqa: E402, it needs torch

pytestmark = pytest.mark.oracle

RNG = np.random.default_rng(0)
MASK = (RNG.random((12, 16)) < 0.4).astype(float)
GREY = [[[0.299, 0.587, 0.114]]]
RGGB = [[[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]]]
SINGLE = 1e-5  # deepinv computes in single precision, sums of up to 150 numbers


@pytest.fixture(scope="module")
def physics():
    operators = declared_operators()
    yield pytest.importorskip("deepinv").physics
    del operators


def kernel(*shape):
    return torch.as_tensor(np.random.default_rng(1).normal(size=(1, 1, *shape)).astype(np.float32))


PHYSICS = {
    "blur, odd": lambda p: p.Blur(filter=kernel(3, 5), padding="circular"),
    "blur, even": lambda p: p.Blur(filter=kernel(4, 6), padding="circular"),
    "blur, FFT": lambda p: p.BlurFFT(img_size=(3, 12, 16), filter=kernel(3, 4)),
    "bicubic": lambda p: p.Downsampling(
        img_size=(3, 12, 16), filter="bicubic", factor=2, padding="circular"
    ),
    "gaussian": lambda p: p.Downsampling(
        img_size=(3, 12, 16), filter="gaussian", factor=2, padding="circular"
    ),
    "decimation": lambda p: p.Downsampling(img_size=(3, 12, 16), filter=None, factor=4),
    "mask": lambda p: p.Inpainting(
        img_size=(3, 12, 16), mask=torch.as_tensor(MASK).float().expand(3, 12, 16)
    ),
    "denoising": lambda p: p.Denoising(),
    "valid": lambda p: p.Blur(filter=kernel(3, 3), padding="valid"),
}


@pytest.mark.parametrize("name", PHYSICS)
def test_deepinv_is_understood(name, physics):
    """Whatever its conventions of centre, flip and phase are: its measurements, its adjoint."""
    theirs = PHYSICS[name](physics)
    ours = sp.from_deepinv(theirs, (3, 12, 16))
    x = torch.as_tensor(RNG.normal(size=(2, 3, 12, 16)).astype(np.float32))
    y = theirs.A(x)
    assert tuple(y.shape[-2:]) == ours.measured
    assert (ours.name == "from_matrix") == (name == "valid")
    largest = float(y.abs().max())
    np.testing.assert_allclose(np.asarray(ours.apply(x.numpy())), y, atol=SINGLE * largest)
    back = theirs.A_adjoint(y)
    largest = float(back.abs().max())
    np.testing.assert_allclose(np.asarray(ours.adjoint(y.numpy())), back, atol=SINGLE * largest)


def test_deepinv_gets_ours(physics):
    for ours in (
        sp.downsample((8, 12), 2),
        sp.inpaint((8, 12)),
        sp.motion_blur((16, 16), 5.0),
        sp.mri((8, 12), 2.0),
        sp.inpaint((8, 12), planes=3),
        sp.from_matrix((3, 4), RNG.normal(size=(5, 12))),
    ):
        theirs = sp.to_deepinv(ours)
        x = torch.as_tensor(RNG.normal(size=(2, 3, *ours.shape)).astype(np.float32))
        y = theirs.A(x)
        np.testing.assert_allclose(y, np.asarray(ours.apply(x.numpy())), rtol=1e-6)
        assert abs(float(theirs.adjointness_test(x))) < 1e-3
    again = sp.from_deepinv(sp.to_deepinv(sp.downsample((8, 12), 2)), (8, 12))
    assert again.name == "downsample"


def test_example_of_the_documentation(physics, capsys):
    page = (Path(__file__).parent.parent / "docs" / "exports.md").read_text("utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(program, {})
    assert capsys.readouterr().out == "downsample True\n"


@pytest.mark.parametrize("pattern", ["RGGB", "grey"])
def test_deepinv_gets_a_mosaic_of_one_plane(pattern, physics):
    """And gives it back."""
    ours = sp.mosaic((8, 12), pattern)
    theirs = sp.to_deepinv(ours)
    x = torch.as_tensor(RNG.normal(size=(2, 3, 8, 12)).astype(np.float32))
    y = theirs.A(x)
    assert tuple(y.shape) == (2, 1, 8, 12)
    np.testing.assert_allclose(y[:, 0], np.asarray(ours.apply(x.numpy())), rtol=1e-6)
    assert abs(float(theirs.adjointness_test(x))) < 1e-3
    again = sp.from_deepinv(theirs, (3, 8, 12))
    assert again.name == "mosaic"
    shares = RGGB if pattern == "RGGB" else GREY
    np.testing.assert_allclose(again.options["pattern"], shares, atol=SINGLE)


@pytest.mark.parametrize("srf", ["rec601", "flat"])
def test_a_sum_of_planes_is_a_mosaic(srf, physics):
    """deepinv's rec601 is that of `mosaic("grey")` to 1e-4; its own numbers are taken."""
    theirs = physics.Decolorize(channels=3, srf=srf)
    ours = sp.from_deepinv(theirs, (3, 12, 16))
    assert ours.name == "mosaic"
    shares = np.ravel(ours.options["pattern"])
    np.testing.assert_allclose(shares, [1 / 3] * 3 if srf == "flat" else np.ravel(GREY), atol=1e-4)
    x = torch.as_tensor(RNG.normal(size=(2, 3, 12, 16)).astype(np.float32))
    y = theirs.A(x)
    np.testing.assert_allclose(ours.apply(x.numpy()), y[:, 0], atol=1e-5)
    np.testing.assert_allclose(ours.adjoint(y[:, 0].numpy()), theirs.A_adjoint(y), atol=1e-5)


def test_masks_of_planes_are_inpainting(physics):
    masks = (RNG.random((3, 12, 16)) < 0.4).astype(np.float32)
    for theirs in (
        physics.Inpainting(img_size=(3, 12, 16), mask=torch.as_tensor(masks)),
        physics.Demosaicing(img_size=(3, 12, 16)),
    ):
        ours = sp.from_deepinv(theirs, (3, 12, 16))
        assert (ours.name, ours.planes) == ("inpaint", 3)
        x = torch.as_tensor(RNG.normal(size=(2, 3, 12, 16)).astype(np.float32))
        np.testing.assert_array_equal(ours.apply(x.numpy()), theirs.A(x))
    single = physics.Inpainting(img_size=(1, 12, 16), mask=torch.as_tensor(masks[:1]))
    for shape in ((12, 16), (1, 12, 16)):
        assert sp.from_deepinv(single, shape) == sp.inpaint((12, 16), masks[0])


def test_measurements_that_are_no_images_are_a_matrix(physics):
    theirs = physics.CompressedSensing(m=7, img_size=(1, 4, 5))
    ours = sp.from_deepinv(theirs, (4, 5))
    assert (ours.name, ours.measured) == ("from_matrix", (7,))
    x = torch.as_tensor(RNG.normal(size=(2, 1, 4, 5)).astype(np.float32))
    np.testing.assert_allclose(ours.apply(x.numpy())[:, 0], theirs.A(x), atol=1e-5)


def test_physics_that_mix_planes_are_refused(physics):
    """In one line that says what is allowed."""

    class Mixed:
        def A(self, x):
            return x + x.flip(1)

    for theirs, shape, says in (
        (Mixed(), (3, 12, 16), "Mixed does not treat all planes alike; allowed then are masks"),
        (physics.MRI(img_size=(12, 16)), (2, 12, 16), "MRI does not .* real images: mri"),
        (physics.MRI(img_size=(12, 16)), (12, 16), "MRI takes no real images of shape"),
    ):
        with pytest.raises(InputError, match=says) as error:
            sp.from_deepinv(theirs, shape)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_is_that_of_torch_with_antialias_away_from_the_border(factor):
    x = RNG.normal(size=(32, 48)).astype(np.float32)
    scaled = partial(
        torch.nn.functional.interpolate,
        torch.as_tensor(x)[None, None],
        size=(32 // factor, 48 // factor),
        mode="bicubic",
    )
    ours = np.asarray(sp.downsample(x.shape, factor).apply(x.astype(float)))[2:-2, 2:-2]
    theirs, plain = (
        scaled(antialias=antialias)[0, 0].numpy()[2:-2, 2:-2] for antialias in (True, False)
    )
    np.testing.assert_allclose(ours, theirs, atol=SINGLE)
    assert np.abs(ours - plain).max() > 0.1  # another kernel, of a quarter of the pixels
