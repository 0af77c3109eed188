"""deepinv's physics as degradations, and degradations as deepinv's physics."""

import re
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
    for ours in (sp.downsample((8, 12), 2), sp.inpaint((8, 12)), sp.motion_blur((16, 16), 5.0)):
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


def test_planes_that_are_not_alike_are_refused(physics):
    with pytest.raises(InputError, match="does not treat all planes alike"):
        sp.from_deepinv(physics.Decolorize(channels=3), (3, 12, 16))
