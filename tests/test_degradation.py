"""Degradations by their singular value decomposition, against direct convolution."""

import copy
import dataclasses
import json
import pickle
from functools import partial

import chex
import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from cases import EPS

from spectralpost.degradations import (
    DEGRADATIONS,
    downsample,
    from_kernel,
    gaussian_blur,
    identity,
    inpaint,
    make_degradation,
    mosaic,
    motion_blur,
    mri,
    uniform_blur,
)
from spectralpost.errors import InputError

pytestmark = pytest.mark.usefixtures("quick")

SHAPES = [(8,), (9,), (5, 6)]


def random_kernel(shape, seed=0):
    """Neither symmetric nor positive, of even and odd sizes."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 3)[: len(shape)])


def zoo(shape):
    """Every kind of degradation that exists for a shape."""
    made = [
        identity(shape),
        gaussian_blur(shape, 1.1),
        uniform_blur(shape, 3),
        from_kernel(random_kernel(shape), shape),
    ]
    return [*made, motion_blur(shape, 3.0, 30.0)] if len(shape) == 2 else made


def as_matrix(function, n, shape):
    """Columns: the function at unit vectors of length n, given in `shape`."""
    return np.asarray(function(jnp.eye(n).reshape(n, *shape))).reshape(n, n).T


@pytest.mark.parametrize("shape", SHAPES)
def test_is_a_singular_value_decomposition(shape):
    """V and U orthogonal, response >= 0, H = U diag(response) V^T, for odd and even sizes."""
    n = int(np.prod(shape))
    for degradation in zoo(shape):
        response = np.asarray(degradation.response)
        assert response.shape == (n,)
        assert response.min() >= 0
        Vt = as_matrix(degradation.to_modes, n, shape)
        Ut = as_matrix(degradation.to_measurement_modes, n, shape)
        V = as_matrix(degradation.from_modes, n, (n,))
        U = as_matrix(degradation.from_measurement_modes, n, (n,))
        H = as_matrix(degradation.apply, n, shape)
        for matrix, transpose in ((V, Vt), (U, Ut)):
            np.testing.assert_allclose(matrix, transpose.T, atol=10 * EPS)
            np.testing.assert_allclose(transpose @ matrix, np.eye(n), atol=20 * EPS)
        np.testing.assert_allclose(H, U @ np.diag(response) @ V.T, atol=20 * EPS * response.max())
        np.testing.assert_allclose(
            np.sort(response), np.linalg.svd(H)[1][::-1], atol=20 * EPS * response.max()
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_from_kernel_is_circular_convolution(shape):
    """scipy.ndimage.convolve(mode="wrap"), whose centre is size // 2 too."""
    x = np.random.default_rng(1).normal(size=shape)
    kernel = random_kernel(shape)
    wanted = scipy.ndimage.convolve(x, kernel, mode="wrap")
    got = from_kernel(kernel, shape).apply(jnp.asarray(x))
    np.testing.assert_allclose(got, wanted, atol=50 * EPS * np.abs(kernel).sum())
    full = np.random.default_rng(2).normal(size=shape)  # as large as the image
    wanted = scipy.ndimage.convolve(x, full, mode="wrap")
    got = from_kernel(full, shape).apply(jnp.asarray(x))
    np.testing.assert_allclose(got, wanted, atol=50 * EPS * np.abs(full).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint(shape):
    """<H x, y> = <x, H^T y>, with leading axes left alone."""
    rng = np.random.default_rng(3)
    x, y = (jnp.asarray(rng.normal(size=(2, 3, *shape))) for _ in range(2))
    for degradation in zoo(shape):
        axes = tuple(range(2, 2 + len(shape)))
        left = np.sum(degradation.apply(x) * y, axis=axes)
        right = np.sum(x * degradation.adjoint(y), axis=axes)
        scale = np.linalg.norm(x) * np.linalg.norm(y) * float(degradation.response.max())
        np.testing.assert_allclose(left, right, rtol=0, atol=20 * EPS * scale)
        alone = degradation.apply(x[1, 2])
        np.testing.assert_allclose(degradation.apply(x)[1, 2], alone, atol=20 * EPS * scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stationary_prior_stays_diagonal(shape):
    """Why modes are independent: V^T C V is diag(spectrum), in the order of the FFT."""
    rng = np.random.default_rng(4)
    n = int(np.prod(shape))
    spectrum = rng.uniform(0.5, 2, shape)
    spectrum = spectrum + np.roll(np.flip(spectrum), 1, axis=range(len(shape)))
    for degradation in zoo(shape):
        V = as_matrix(degradation.from_modes, n, (n,))
        wanted = np.diag(spectrum.ravel())
        np.testing.assert_allclose(V.T @ dense.stationary(spectrum) @ V, wanted, atol=100 * EPS)


def test_gaussian_blur_kernel():
    """exp(-d^2 / 2 std^2) in the wrapped distance, of sum 1."""
    delta = jnp.zeros((8, 9)).at[2, 3].set(1.0)
    kernel = np.asarray(gaussian_blur((8, 9), 1.3).apply(delta))
    rows = np.minimum(np.abs(np.arange(8) - 2), 8 - np.abs(np.arange(8) - 2))
    columns = np.minimum(np.abs(np.arange(9) - 3), 9 - np.abs(np.arange(9) - 3))
    wanted = np.exp(-(rows[:, None] ** 2 + columns**2) / (2 * 1.3**2))
    np.testing.assert_allclose(kernel, wanted / wanted.sum(), atol=20 * EPS)


def test_blur_far_narrower_than_a_pixel_is_the_identity():
    """Without a warning: the tests turn these into errors."""
    np.testing.assert_array_equal(gaussian_blur((6, 5), 1e-200).response, 1)


def test_identity_is_identity():
    degradation = identity((5, 6))
    x = jnp.asarray(np.random.default_rng(5).normal(size=(5, 6)))
    np.testing.assert_array_equal(degradation.response, 1)
    np.testing.assert_allclose(degradation.apply(x), x, atol=20 * EPS)


def test_zero_responses_are_exact_zeros():
    """A box of 3 on 15 samples kills every 5th frequency, where rounding leaves 5e-17."""
    degradation = uniform_blur((15,), 3)
    frequency = np.arange(15) / 15
    wanted = np.abs(1 + 2 * np.cos(2 * np.pi * frequency)) / 3
    np.testing.assert_allclose(degradation.response, wanted, atol=10 * EPS)
    np.testing.assert_array_equal(np.flatnonzero(degradation.response == 0), [5, 10])
    # two axes, each with its own dead lines
    dead = np.asarray(uniform_blur((15, 9), 3).response).reshape(15, 9) == 0
    wanted = np.zeros((15, 9), bool)
    wanted[[5, 10], :] = True
    wanted[:, [3, 6]] = True
    np.testing.assert_array_equal(dead, wanted)


@pytest.mark.parametrize("angle", [0.0, 30.0, 45.0, 90.0, 120.0, 180.0])
def test_motion_blur_has_the_moments_of_a_line(angle):
    """Centre 0, length^2 / 12 of variance along the line, 90 degrees pointing up (to row 0).

    The spread over the nearest pixels adds at most 1/4 pixel^2 of variance along each axis.
    """
    length, n = 11.0, 31
    delta = jnp.zeros((n, n)).at[n // 2, n // 2].set(1.0)
    kernel = np.asarray(motion_blur((n, n), length, angle).apply(delta))
    assert kernel.min() > -10 * EPS
    np.testing.assert_allclose(kernel.sum(), 1, rtol=100 * EPS)
    up, right = np.meshgrid(n // 2 - np.arange(n), np.arange(n) - n // 2, indexing="ij")
    np.testing.assert_allclose([(kernel * up).sum(), (kernel * right).sum()], 0, atol=1e-12)
    direction = np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
    covariance = np.array(
        [
            [(kernel * right * right).sum(), (kernel * right * up).sum()],
            [(kernel * right * up).sum(), (kernel * up * up).sum()],
        ]
    )
    line = length**2 / 12 * np.outer(direction, direction)
    excess = covariance - line
    assert np.all(np.diag(excess) >= -0.02) and np.all(np.diag(excess) <= 0.25)
    # Spreads along rows and columns are independent, but for how the line meets the pixel grid.
    assert abs(excess[0, 1]) < 0.1


def test_motion_blur_symmetries():
    """Back and forth is the same motion; a quarter turn is a transpose; no length, no blur."""
    delta = jnp.zeros((15, 15)).at[7, 7].set(1.0)

    def kernel(length, angle):
        return np.asarray(motion_blur((15, 15), length, angle).apply(delta))

    np.testing.assert_allclose(kernel(7, 25), kernel(7, 205), atol=1e-13)
    np.testing.assert_allclose(kernel(7, 115), np.rot90(kernel(7, 25)), atol=1e-13)
    np.testing.assert_allclose(kernel(1e-9, 70), delta, atol=1e-8)


def test_options_make_the_same_degradation_again():
    """What a schedule file stores of a degradation is enough to rebuild it."""
    shape = (9, 8)
    for degradation in zoo(shape):
        again = make_degradation(degradation.name, shape, **degradation.options)
        np.testing.assert_array_equal(again.response, degradation.response)
        assert again.options == degradation.options
        assert degradation.name in DEGRADATIONS


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_by_name_options_and_shape(shape):
    """Made anew, copied or pickled: equal, of one hash, and the same numbers; else not."""
    first, second = zoo(shape), zoo(shape)
    x = np.random.default_rng(0).normal(size=shape)
    for i, one in enumerate(first):
        for other in (second[i], copy.copy(one), copy.deepcopy(one), pickled(one)):
            assert other == one and hash(other) == hash(one)
            np.testing.assert_array_equal(other.apply(x), one.apply(x))
        assert [one == other for other in second] == [i == j for j in range(len(second))]
        assert one != one.name
    assert len({*first, *second}) == len(first)


def test_what_is_changed_by_hand_equals_nothing_else():
    """Its functions cannot be compared; copies keep the change."""
    blur = gaussian_blur((8, 6), 1.0)
    half = dataclasses.replace(blur, response=blur.response / 2)
    assert half == half and half != blur and blur != half and len({half, blur, half}) == 2
    assert half != dataclasses.replace(blur, response=blur.response / 2)
    copied = copy.copy(half)
    np.testing.assert_array_equal(copied.response, half.response)
    assert copied != half and copied != blur
    x = np.random.default_rng(0).normal(size=(8, 6))
    np.testing.assert_allclose(copied.apply(x), blur.apply(x) / 2, atol=10 * EPS)


def test_what_is_made_cannot_be_changed_in_place():
    """By the degradation, or by the arrays that it was made from: it stays what its options say."""
    kernel = random_kernel((3, 3))
    blur, mask = from_kernel(kernel, (8, 6)), np.ones((8, 6))
    known = inpaint((8, 6), mask=mask)
    for one in (blur, known):
        with pytest.raises(ValueError, match="read-only"):
            one.response[...] = 0
    kernel[:], mask[:] = 1, 0
    for one in (blur, known):
        np.testing.assert_array_equal(copy.deepcopy(one).response, one.response)
        assert copy.deepcopy(one) == one


def pickled(degradation):
    return pickle.loads(pickle.dumps(degradation))


def test_options_of_another_type_are_the_same_options():
    """2 and 2.0, a list and an array, and sizes of any type of whole number."""
    kernel = random_kernel((9, 8))
    for one, other in (
        (gaussian_blur((9, 8), 2), gaussian_blur([9, 8], np.float32(2))),
        (uniform_blur((9, 8), 3), uniform_blur(np.array([9, 8]), 3.0)),
        (motion_blur((9, 8), 3, 45), motion_blur((9.0, 8), 3.0, np.int64(45))),
        (from_kernel(kernel, (9, 8)), from_kernel(kernel.tolist(), (9, 8))),
        (from_kernel(np.ones((2, 2), int), (9, 8)), from_kernel([[1, 1], [1, 1]], (9, 8))),
        (downsample((9, 8), 1, "gaussian", std=2), downsample([9, 8], 1, "gaussian", std=2.0)),
        (downsample((9, 8), 1, [[1, 2]]), downsample((9, 8), 1.0, np.array([[1.0, 2.0]]))),
    ):
        assert one == other and hash(one) == hash(other)
        assert one.shape == (9, 8)
        json.dumps(other.options)
    different = [
        gaussian_blur((9, 8), 2.0),
        gaussian_blur((8, 9), 2.0),
        gaussian_blur((9, 8), np.nextafter(2, 3)),
        from_kernel(kernel, (9, 8)),
        from_kernel(kernel + np.eye(4, 3) * EPS, (9, 8)),
    ]
    assert len(set(different)) == 5


def test_is_a_static_argument():
    """Not compiled again for its like: 6.6 s against 2 ms for a sampler."""

    @partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def blurred(degradation, x):
        return degradation.apply(x)

    chex.clear_trace_counter()
    x = jnp.ones((9, 8))
    for std in (1.3, 1.3, np.float64(1.3)):
        np.testing.assert_allclose(blurred(gaussian_blur((9, 8), std), x), 1, rtol=10 * EPS)


def test_float32_images_stay_float32():
    """The library follows its input: a float32 image must not meet a float64 response."""
    x = jnp.ones((8, 9), jnp.float32)
    for degradation in zoo((8, 9)):
        for function in (degradation.apply, degradation.adjoint):
            assert jax.eval_shape(function, x).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_blur((8, 8), 0.0), "finite number > 0"),
        (lambda: gaussian_blur((8, 8), np.nan), "finite number > 0"),
        (lambda: gaussian_blur((8, 8), np.inf), "finite number > 0"),
        (lambda: uniform_blur((8, 8), 4), "odd whole number"),
        (lambda: uniform_blur((8, 8), 2.5), "odd whole number"),
        (lambda: uniform_blur((8, 8), -3), "odd whole number"),
        (lambda: uniform_blur((8, 8), 9), "larger than 8x8 image"),
        (lambda: motion_blur((8, 8), -1.0), "finite number > 0"),
        (lambda: motion_blur((8, 8), 15.0, 0.0), "larger than 8x8 image"),
        (lambda: motion_blur((8,), 3.0), "two dimensions"),
        (lambda: from_kernel(np.ones(3), (8, 8)), "2 dimensions are needed"),
        (lambda: from_kernel(np.ones((3, 9)), (8, 8)), "larger than 8x8 image"),
        (lambda: from_kernel(np.array([1.0, np.nan]), (8,)), "finite"),
        (lambda: from_kernel(np.zeros(3), (8,)), "one at least not 0"),
        (lambda: gaussian_blur((8, 8), "2"), "finite number > 0"),
        (lambda: gaussian_blur((8, 8), True), "finite number > 0"),
        (lambda: gaussian_blur((8, 8), None), "finite number > 0"),
        (lambda: uniform_blur((8, 8), 10**9 + 1), "larger than 8x8 image"),
        (lambda: motion_blur((8, 8), 3.0, np.inf), "angle = inf: must be a finite number"),
        (lambda: gaussian_blur((8, 0)), "whole number >= 1"),
        (lambda: gaussian_blur((8, 2.5)), "whole number >= 1"),
        (lambda: gaussian_blur(()), "at least one axis"),
        (lambda: gaussian_blur(8), "sizes of all axes"),
        (lambda: from_kernel(np.ones((3, 3)) * 1j, (8, 8)), "array of numbers"),
        (lambda: from_kernel([["a"]], (8, 8)), "array of numbers"),
        (lambda: from_kernel([[1, 2], [1]], (8, 8)), "array of numbers"),
        (lambda: identity((8, 8)).apply(np.ones((8, 9))), "last axes have to be"),
        (lambda: identity((8, 8)).from_modes(np.ones(63)), "last axes have to be"),
        (lambda: identity((8, 8)).to_modes(np.ones(8)), "last axes have to be"),
        (lambda: downsample((8, 8), 2, [[1, 2], [3]]), "kernel: must be an array of numbers"),
        (lambda: downsample((8, 8), 2, "none", offset=2), "offset = 2: allowed are 0 to 1"),
        (lambda: downsample((8, 8), 2, "none", offset=0.5), "offset = 0.5: must be a whole number"),
        (lambda: mosaic((8, 8), 3.0), r"pattern of shape \(\)"),
        (lambda: inpaint((8, 8), keep="a"), "keep = a"),
        (lambda: inpaint((8, 8), np.ones((8, 8)), keep=0.2), "keep = 0.2: is of mask = 'random'"),
        (lambda: inpaint((8, 8), np.ones((8, 8)), planes=3), "planes = 3: is of mask = 'random'"),
        (lambda: inpaint((8, 8), "box", seed=1), "seed = 1: is of mask = 'random'"),
        (lambda: inpaint((8, 8), size=3), "size = 3: is of mask = 'box'"),
        (lambda: mri((8, 8), mask=np.ones((8, 8)), centre=0.1), "centre = 0.1: has no effect"),
        (lambda: make_degradation("blur", (8, 8)), "allowed are identity"),
        (lambda: make_degradation("gaussian_blur", (8, 8), sigma=1.0), "options"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
