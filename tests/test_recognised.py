"""Degradations given as functions are found out by asking; deepinv's: test_deepinv_physics."""

import numpy as np
import pytest
import scipy.ndimage

import spectralpost as sp
from spectralpost.errors import InputError

RNG = np.random.default_rng(0)


def blurred(x):
    return scipy.ndimage.convolve(x, KERNEL, mode="wrap", origin=(0, 0))


KERNEL = RNG.normal(size=(3, 5))
MASK = (RNG.random((12, 18)) < 0.4).astype(float)
FUNCTIONS = {
    "identity": (lambda x: x, "identity"),
    "mask": (lambda x: MASK * x, "inpaint"),
    "blur": (blurred, "from_kernel"),
    "blur, decimated": (lambda x: blurred(x)[1::3, 1::3], "downsample"),
    "every third": (lambda x: x[2::3, 2::3], "downsample"),
    "crop": (lambda x: x[4:10, 6:15], "from_matrix"),  # half of each axis, and not the first pixel
    "share": (lambda x: np.linspace(0, 1, x.size).reshape(x.shape) * x, "from_matrix"),
    "any": (lambda x: np.cumsum(x, axis=0)[:, ::2], "from_matrix"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_found_out(name):
    function, kind = FUNCTIONS[name]
    found = sp.from_function(function, (12, 18))
    assert found.name == kind
    x = RNG.normal(size=(12, 18))
    expected = function(x)
    assert found.measured == expected.shape
    # Double precision; a kernel's numbers below 1e-7 of the largest are none.
    np.testing.assert_allclose(found.apply(x), expected, atol=1e-12, rtol=1e-10)
    r = RNG.normal(size=expected.shape)
    assert np.sum(np.asarray(found.adjoint(r)) * x) == pytest.approx(np.sum(r * expected))


def test_a_kernel_is_as_small_as_it_can_be():
    assert np.shape(sp.from_function(blurred, (12, 18)).options["kernel"]) == (3, 5)
    assert np.shape(sp.from_function(lambda x: np.roll(x, 6, 0), (12,)).options["kernel"]) == (12,)


@pytest.mark.parametrize(
    ("function", "shape", "says"),
    [
        (lambda x: x**2, (4, 4), "is not linear"),
        (lambda x: x + 1, (4, 4), "is not linear"),
        (lambda x: x[x > 0], (4, 4), "gives .* for one image and .* for another"),
        (lambda x: x * np.nan, (4, 4), "has NaN"),
        (lambda x: x[:0], (4, 4), "none at all"),
        (
            lambda x: np.cumsum(x, axis=0),
            (64, 64),
            "64x64 pixels: neither a mask nor a circular convolution.*mosaic and mri.*restore_crop",
        ),
    ],
)
def test_wrong_input_is_one_line(function, shape, says):
    with pytest.raises(InputError, match=says) as error:
        sp.from_function(function, shape)
    assert "\n" not in str(error.value)
