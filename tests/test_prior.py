"""Priors: their normalisation, what images teach, and files."""

import io
import weakref
import zipfile
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS, even_spectrum
from pictures import pixels, write

from spectralpost.degradations import gaussian_blur
from spectralpost.errors import InputError
from spectralpost.images import built_in_photographs, load_folder, stream_folder, tiles
from spectralpost.prior import (
    Prior,
    draw,
    excess_kurtosis,
    from_images,
    matern,
    power_law,
    resized,
)
from spectralpost.prior_file import load_prior, save_prior
from spectralpost.problem import ideal_posterior, image_problem

WIDE = (-100.0, 100.0)
# Of a sum of some dozens of positive numbers.
ROUNDING = 64 * EPS


def fields(spectrum, num, seed=0):
    """Stationary Gaussian fields of a given spectrum, [num, H, W]."""
    white = np.random.default_rng(seed).normal(size=(num, *spectrum.shape))
    return np.fft.ifft2(np.sqrt(spectrum) * np.fft.fft2(white)).real


def self_mirrored(shape):
    """1 where f = -f (a real mode), 0 elsewhere."""
    axes = [(2 * np.arange(n)) % n == 0 for n in shape]
    return np.outer(*axes).astype(float)


@pytest.mark.parametrize("mean", ["constant", "pixelwise"])
@pytest.mark.parametrize("shape", [(8, 8), (7, 10)])
def test_from_images_recovers_a_known_spectrum(shape, mean):
    """Periodogram values have relative variance 1 (2 where f = -f): z-scores of their average."""
    spectrum = even_spectrum(shape, np.random.default_rng(1))
    centre = np.full(shape, 0.7)
    if mean == "pixelwise":
        centre = np.random.default_rng(2).normal(size=shape)
    num = 4000
    prior = from_images(centre + fields(spectrum, num), mean=mean, pixel_range=WIDE)
    error = spectrum * np.sqrt((1 + self_mirrored(shape)) / num)
    z = (prior.spectrum - spectrum) / error
    assert np.abs(z).max() < 5
    assert abs(np.mean(z**2) - 1) < 5 * np.sqrt(4 / z.size)  # f and -f are one number
    if mean == "pixelwise":
        z = (prior.mean - centre) / np.sqrt(spectrum.mean() / num)
    else:
        assert np.ptp(prior.mean) == 0
        z = (prior.mean.flat[0] - 0.7) / np.sqrt(spectrum[0, 0] / (spectrum.size * num))
    assert np.abs(z).max() < 5


def test_mean_of_spectrum_is_the_variance_of_a_pixel():
    """Parseval, which fixes the normalisation of the whole package."""
    planes = np.random.default_rng(3).uniform(-1, 1, (5, 6, 9))
    prior = from_images(planes)
    np.testing.assert_allclose(prior.spectrum.mean(), planes.var(), rtol=1e-12)
    np.testing.assert_allclose(prior.mean, planes.mean(), rtol=1e-12)
    pixelwise = from_images(planes, mean="pixelwise")
    np.testing.assert_allclose(pixelwise.mean, planes.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(pixelwise.spectrum.mean(), planes.var(axis=0).mean(), rtol=1e-12)
    one = from_images(planes[:1])
    np.testing.assert_allclose(
        one.spectrum, np.abs(np.fft.fft2(planes[0] - planes[0].mean())) ** 2 / 54, atol=1e-12
    )


def test_hann_window_keeps_white_noise():
    """Tapering spreads a spectrum but not that of white noise: flat, of the same height."""
    shape, num = (8, 10), 4000
    prior = from_images(fields(np.full(shape, 0.5), num), window="hann", pixel_range=WIDE)
    # relative variance of |sum_x w x e^{-ifx}|^2 is 1 + |W2(2f)|^2, W2 the transform of w^2
    taper = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)) ** 2
    taper /= taper.mean()
    doubled = np.abs(np.fft.fft2(taper) / taper.size) ** 2
    rows, columns = ((2 * np.arange(n)) % n for n in shape)
    relative = 1 + doubled[np.ix_(rows, columns)]
    z = (prior.spectrum / 0.5 - 1) / np.sqrt(relative / num)
    assert np.abs(z).max() < 5


def test_hann_window_removes_the_cross():
    """A ramp jumps at the wrapped border: power along the axis that no scene has."""
    ramp = np.linspace(-1, 1, 32)[:, None] * np.ones((32, 32))
    none, hann = (from_images(ramp[None], window=window).spectrum for window in ("none", "hann"))
    np.testing.assert_array_less(hann[6:27, 0], 1e-2 * none[6:27, 0])


@pytest.mark.parametrize("mean", ["constant", "pixelwise"])
@pytest.mark.parametrize("window", ["none", "hann"])
def test_from_images_reads_a_stream(mean, window):
    """Planes one at a time, in sets, in float32, many small ones or few large ones: the same, and
    the definition of mean and averaged periodogram. In a far corner of the range, where the squares
    of a sum would leave no digit of so small a variance."""
    planes = (99 + 1e-6 * np.random.default_rng(8).normal(size=(4, 600, 500))).astype(np.float32)
    planes += np.linspace(0, 0.5, 500, dtype=np.float32)
    options = {"mean": mean, "window": window, "pixel_range": WIDE}
    prior = from_images(planes, **options)
    exact = planes.astype(float)
    centre = exact.mean(axis=0) if mean == "pixelwise" else np.full((600, 500), exact.mean())
    taper = np.ones((600, 500))
    if window == "hann":
        taper = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (600, 500)))
        taper /= np.sqrt(np.mean(taper**2))
    power = np.mean(np.abs(np.fft.fft2(taper * (exact - centre), norm="ortho")) ** 2, axis=0)
    np.testing.assert_allclose(prior.mean, centre, rtol=8 * EPS)
    # Rounding of the mean, 99 eps a pixel, is noise of that size in every mode.
    noise = 20 * 99 * EPS * np.sqrt(power.max())
    np.testing.assert_allclose(prior.spectrum, power, rtol=1e-9, atol=noise)
    for stream in (iter(planes), (set_ for set_ in (planes[:2], planes[2], planes[3:].tolist()))):
        again = from_images(stream, **options)
        np.testing.assert_allclose(again.mean, prior.mean, rtol=8 * EPS)
        np.testing.assert_allclose(again.spectrum, prior.spectrum, rtol=1e-9, atol=noise)
    whole = excess_kurtosis(prior, planes)
    np.testing.assert_allclose(excess_kurtosis(prior, iter(planes)), whole, rtol=1e-9)


def test_a_folder_is_read_one_image_at_a_time(tmp_path):
    """Not more than two are alive at once, however many there are."""
    for i in range(6):
        write(tmp_path / f"{i}.png", pixels(8, 8, 3, seed=i))
    given, most = [], 0

    class Plane(np.ndarray):
        pass

    def watched():
        nonlocal most
        for _, planes in stream_folder(tmp_path):
            one = planes.view(Plane)
            given.append(weakref.ref(one))
            most = max(most, sum(image() is not None for image in given))
            yield one

    streamed = from_images(watched())
    assert most <= 2
    whole = from_images(np.concatenate(list(load_folder(tmp_path).values())))
    # float32 keeps 24 bits of a pixel
    np.testing.assert_allclose(streamed.spectrum, whole.spectrum, rtol=1e-5, atol=1e-6)


def test_images_that_look_like_those_of_another_range_or_order():
    images = np.random.default_rng(0).uniform(0, 1, (5, 6, 8))
    with pytest.warns(UserWarning, match=r"no pixel is below 0: are these images in \[0, 1\]"):
        from_images(images)
    from_images(images, pixel_range=(0.0, 1.0))  # as they are
    with pytest.raises(InputError, match=r"planes of 6x8x3: colour comes first, \[N, C, H, W\]"):
        from_images(np.stack([images] * 3, axis=-1), colour=True, pixel_range=(0.0, 1.0))


def test_from_images_errors():
    good = np.zeros((2, 4, 4))
    for planes, options, message in (
        (np.zeros((4, 4)), {}, "N, H, W"),
        (np.zeros((0, 4, 4)), {}, "N >= 1"),
        (np.full((1, 4, 4), np.nan), {}, "NaN or infinite"),
        (np.eye(4)[None] * 1j, {}, "real numbers are needed"),
        (jnp.zeros((2, 3, 4, 4)), {}, "N, H, W"),
        (np.full((1, 4, 4), 1.5), {}, "outside of the pixel range"),
        (np.full((1, 4, 4), -0.5), {"pixel_range": (0.0, 1.0)}, "outside of the pixel range"),
        (good, {}, "no variance"),
        (good, {"mean": "median"}, "allowed are constant, pixelwise"),
        (good, {"window": "hamming"}, "allowed are none, hann"),
        (good, {"pixel_range": (1.0, 1.0)}, "low < high"),
        (good, {"pixel_range": (0.0, np.inf)}, "low < high"),
    ):
        with pytest.raises(InputError, match=message):
            from_images(planes, **options)
    for planes, message in (
        (iter([]), "N >= 1"),
        (iter([np.zeros(4)]), r"plane of shape \(4,\)"),
        (iter([np.eye(4), np.eye(5)]), "mixed sizes: 4x4, 5x5"),
        (iter([np.eye(4), np.full((4, 4), np.inf)]), "NaN or infinite"),
    ):
        with pytest.raises(InputError, match=message):
            from_images(planes)
    with pytest.raises(InputError, match="real numbers"):
        from_images(iter([np.eye(4) * 1j]))
    eye = np.eye(4)[None] - 0.5
    half = from_images(jnp.asarray(eye, jnp.bfloat16))
    np.testing.assert_array_equal(half.spectrum, from_images(eye).spectrum)
    # float32 images carried through a change of range may be a rounding outside
    from_images(np.where(np.eye(4) > 0, 1 + 1e-7, -1)[None])


def test_a_prior_is_of_real_fields():
    """The variance at f is that at -f; all that numbers can be wrong in is said."""
    good = power_law((4, 6))
    uneven = good.spectrum.copy()
    uneven[1, 2] *= 2
    for spectrum, mean, message in (
        (uneven, good.mean, "differs by .* at f and -f"),
        (-good.spectrum, good.mean, "must be >= 0"),
        (good.spectrum * np.nan, good.mean, "spectrum must be finite"),
        (good.spectrum, good.mean + np.inf, "mean must be finite"),
        ([[1.0, 2.0], [3.0]], good.mean, "spectrum: must be an array of numbers"),
        (1.0, 0.0, r"spectrum of shape \(\)"),
        (np.ones((3, 4, 6)), np.zeros((3, 4, 6)), "of several planes with axes"),
        (good.spectrum, np.zeros((6, 4)), r"mean of shape \(6, 4\)"),
        ("a spectrum", good.mean, "must be finite numbers"),
    ):
        with pytest.raises(InputError, match=message):
            Prior(spectrum, mean, good.pixel_range, "")
    listed = Prior(good.spectrum.tolist(), good.mean.tolist(), good.pixel_range, "")
    assert listed.hash == good.hash
    colour = power_law((4, 6), colour=True)
    with pytest.raises(InputError, match="at f and -f"):
        replace(colour, spectrum=np.stack([good.spectrum, good.spectrum, uneven]))
    assert isinstance(colour.axes, np.ndarray)
    assert replace(colour, axes=colour.axes.tolist()).hash == colour.hash
    for axes in (2 * colour.axes, np.eye(2), np.eye(3)[None]):
        with pytest.raises(InputError, match="an orthonormal"):
            replace(colour, axes=axes)
    with pytest.raises(InputError, match="low < high"):
        replace(good, pixel_range=(1.0, -1.0))


def test_a_spectrum_of_single_precision_is_even_enough():
    """A transform of prime size is the least exact; an impulse's is 1 everywhere."""
    n = 2039
    impulse = jnp.zeros(n, jnp.float32).at[5].set(1)
    spectrum = jnp.abs(jnp.fft.fft(impulse)) ** 2
    assert jnp.abs(spectrum - jnp.roll(spectrum[::-1], 1)).max() > 1e-6
    assert Prior(spectrum, np.zeros(n), (-1.0, 1.0), "").spectrum.dtype == np.float32


def test_priors_are_differentiated_and_compiled():
    """By their numbers: the posterior's variance of a pixel by the scale of the spectrum."""
    prior, blur = power_law((4, 6)), gaussian_blur((4, 6), 1.0)

    def variance(scale):
        scaled = replace(prior, spectrum=scale * jnp.asarray(prior.spectrum))
        problem = image_problem(scaled, blur, 0.1)
        return jnp.mean(ideal_posterior(problem).var)

    slope, step = jax.grad(variance)(1.0), 1e-5
    wanted = (variance(1 + step) - variance(1 - step)) / (2 * step)
    np.testing.assert_allclose(slope, wanted, rtol=1e-8)  # errors of step^2, and EPS / step
    np.testing.assert_allclose(jax.jit(variance)(2.0), variance(2.0), rtol=1e-12)
    moved = lambda mean: image_problem(replace(prior, mean=mean), blur, 0.1).mean  # noqa: E731
    mean = jnp.ones((4, 6))
    np.testing.assert_allclose(jax.jit(moved)(mean), moved(mean), atol=1e-14)


def test_draw_errors():
    for num, seed in ((0, 0), (1.5, 0), ("2", 0), (1, -1), (1, 0.5)):
        with pytest.raises(InputError, match="whole number"):
            draw(power_law((4, 4)), num, seed)
    assert draw(power_law((4, 4)), 2.0).shape == (2, 4, 4)


def test_draw_has_the_law_of_the_prior():
    """Mean and spectrum of many samples, in standard errors; reproducible."""
    prior = power_law((8, 6), 1.5, std=0.4, mean=-0.2)
    num = 4000
    samples = draw(prior, num, seed=3)
    assert samples.shape == (num, 8, 6)
    np.testing.assert_array_equal(samples, draw(prior, num, seed=3))
    assert np.abs(samples - draw(prior, num, seed=4)).max() > 0.1
    modes = np.fft.fft2(samples - prior.mean, norm="ortho")
    z = np.abs(modes.mean(axis=0)) / np.sqrt(prior.spectrum / num)
    assert z.max() < 5
    # |mode|^2 has at most the relative variance 2, that of a real mode
    ratio = np.mean(np.abs(modes) ** 2, axis=0) / prior.spectrum
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / num)


# ---------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("shape", [(16, 16), (9, 12), (11,)])
def test_power_law(shape):
    """|f|^-exponent but for the constant component, and the pixel variance asked for."""
    prior = power_law(shape, 1.5, std=0.4, mean=-0.2)
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    f = np.sqrt(sum(axis**2 for axis in axes)).ravel()
    spectrum = prior.spectrum.ravel()
    scaled = spectrum[1:] * f[1:] ** 1.5
    np.testing.assert_allclose(scaled, scaled[0], rtol=1e-13)
    np.testing.assert_allclose(spectrum[0], spectrum.max(), rtol=1e-13)
    np.testing.assert_allclose(spectrum.mean(), 0.16, rtol=1e-13)
    np.testing.assert_array_equal(prior.mean, -0.2)
    assert prior.shape == shape


@pytest.mark.parametrize(
    "make", [partial(power_law, exponent=1.7), partial(matern, length=3.0)], ids=["power", "matern"]
)
def test_formulas_of_colour(make):
    """The grey formula, its variance shared out among grey, yellow-blue and green-magenta."""
    numbers = {"std": 0.3, "mean": 0.2, "pixel_range": (0.0, 1.0)}
    grey, colour = make((8, 6), **numbers), make((8, 6), **numbers, colour=True)
    assert colour.shape == grey.shape and colour.pixel_range == (0.0, 1.0)
    cov = np.einsum("ca,da,a->cd", colour.axes, colour.axes, colour.spectrum.mean(axis=(1, 2)))
    np.testing.assert_allclose(np.trace(cov) / 3, 0.3**2, rtol=1e-12)
    np.testing.assert_allclose(
        colour.along_planes(colour.mean), np.full((3, 8, 6), 0.2), rtol=1e-14
    )
    # Each axis has the formula's shape and its share of the variance, in the planes as given.
    for axis, share in (((1, -2, 1), 0.01), ((1, 0, -1), 0.16), ((1, 1, 1), 0.83)):
        v = np.asarray(axis) / np.linalg.norm(axis)
        np.testing.assert_allclose(cov @ v, 3 * share * 0.3**2 * v, rtol=0, atol=1e-15)
        (i,) = np.flatnonzero(np.abs(colour.axes.T @ v) > 1 - 1e-12)
        np.testing.assert_allclose(colour.spectrum[i], 3 * share * grey.spectrum, rtol=1e-14)
    assert draw(colour, 2).shape == (2, 3, 8, 6)
    with pytest.raises(InputError, match=r"colour: is of images, not of signals of shape \(9,\)"):
        make((9,), colour=True)


def test_equal_frequencies_are_equal_numbers():
    """(7, 1) and (5, 5) have the same |f|: exactly, so that modes merge."""
    spectrum = power_law((16, 16)).spectrum
    assert spectrum[7, 1] == spectrum[5, 5] == spectrum[-1, 7]


def test_matern_is_a_matern_covariance():
    """nu = 3/2 in 1-D: (1 + r sqrt(3)/l) exp(-r sqrt(3)/l), by the inverse transform.

    The grid cuts the spectrum at 1/2 cycle per pixel: beyond lie 2 / (3 pi^4) l^3 / (3 sqrt(3))^-1
    of the variance, 2e-5 for l = 16.
    """
    prior = matern((512,), 16.0, 1.5, std=0.7)
    covariance = np.fft.ifft(prior.spectrum).real
    r = np.sqrt(3) * np.arange(100) / 16
    np.testing.assert_allclose(covariance[:100], 0.49 * (1 + r) * np.exp(-r), atol=1e-4 * 0.49)


def test_matern_2d_decay():
    """nu + d/2 with d = 2, and the requested variance."""
    prior = matern((32, 32), 5.0, 0.5, std=0.3)
    np.testing.assert_allclose(prior.spectrum.mean(), 0.09, rtol=1e-13)
    f2 = np.add.outer(np.fft.fftfreq(32) ** 2, np.fft.fftfreq(32) ** 2)
    scaled = prior.spectrum * (1 / 25 + 4 * np.pi**2 * f2) ** 1.5
    np.testing.assert_allclose(scaled, scaled[0, 0], rtol=1e-12)


@pytest.mark.parametrize("make", [power_law, matern])
def test_formula_errors(make):
    for shape, message in (
        ((), "at least one axis"),
        ((4, 4, 4), "one or two axes"),
        ((1, 4), "whole number >= 2"),
        ((4.5, 4), "whole number >= 2"),
        ((0,), "whole number >= 2"),
        (8, "sizes of all axes"),
    ):
        with pytest.raises(InputError, match=message):
            make(shape)
    assert make((8.0, 4)).shape == (8, 4)
    with pytest.raises(InputError, match="at most 33554432 pixels"):
        make((10**6, 10**6))
    for std in (0.0, -1.0, np.nan, np.inf, 1e200):
        with pytest.raises(InputError, match="must be > 0"):
            make((4, 4), std=std)
    for mean in (np.nan, -np.inf, 1e300):
        with pytest.raises(InputError, match="mean = "):
            make((4, 4), mean=mean)
    with pytest.raises(InputError, match="low < high"):
        make((4, 4), pixel_range=(1.0, -1.0))


def test_matern_errors():
    for options in ({"length": 0.0}, {"smoothness": -1.0}, {"length": np.nan}):
        with pytest.raises(InputError, match="both must be > 0"):
            matern((4, 4), **options)


@pytest.mark.parametrize("bad", ["2", None, True, [1.0]])
def test_formulas_take_numbers(bad):
    for make, names in (
        (power_law, ("exponent", "std", "mean")),
        (matern, ("length", "smoothness", "std", "mean")),
    ):
        for name in names:
            with pytest.raises(InputError, match=f"{name} = .*: must be a number"):
                make((4, 4), **{name: bad})
        one, other = (make((4, 4), std=std).spectrum for std in (np.float32(0.5), 0.5))
        np.testing.assert_allclose(one, other, rtol=EPS)


@pytest.mark.parametrize("exponent", [1e4, -1e300, np.nan])
def test_power_law_beyond_floating_point(exponent):
    with pytest.raises(InputError, match="beyond the range"):
        power_law((8, 8), exponent)


@pytest.mark.parametrize("options", [(1e200, 1.0), (1e-200, 1.0), (8.0, 1e300), (np.inf, 1.0)])
def test_matern_beyond_floating_point(options):
    with pytest.raises(InputError, match="beyond the range"):
        matern((8, 8), *options)


# --------------------------------------------------------------------------------- resized, files


SIZES = [
    ((32, 24), (16, 12)),
    ((32, 24), (20, 36)),
    ((9, 12), (24, 25)),
    ((21,), (8,)),
    ((5,), (9,)),
]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resized_keeps_the_variance_of_a_pixel(old, new):
    """And symmetry, mean, range, and a spectrum that is flat; on the same grid, the prior."""
    spectrum = np.random.default_rng(5).exponential(size=old)
    spectrum += np.roll(np.flip(spectrum), 1, axis=tuple(range(len(old))))
    spectrum.flat[0] = 40.0  # the grey values of photographs differ much
    prior = Prior(spectrum, np.full(old, 0.4), WIDE, "test")
    other = resized(prior, new)
    assert other.shape == new and other.spectrum.min() > 0
    np.testing.assert_allclose(other.spectrum.mean(), spectrum.mean(), rtol=ROUNDING)
    mirrored = np.roll(np.flip(other.spectrum), 1, axis=tuple(range(len(new))))
    np.testing.assert_allclose(other.spectrum, mirrored, rtol=ROUNDING)
    np.testing.assert_array_equal(other.mean, 0.4)
    assert other.pixel_range == prior.pixel_range
    assert "resized from " + "x".join(map(str, old)) in other.source
    assert resized(prior, old) is prior
    flat = resized(prior_of(np.full(old, 0.3)), new)
    np.testing.assert_allclose(flat.spectrum, 0.3, rtol=ROUNDING)


@pytest.mark.parametrize("new", [(16, 16), (20, 10), (64, 64), (50, 33), (8, 64)])
def test_resized_keeps_a_grey_value_that_all_pixels_share(new):
    """Images of white noise and a constant, which differs from image to image: the same at any
    size. At frequency 0, N_pixels times the constant's variance; nothing of it beside.

    Read off and interpolated, as it once was, 0.09 became 0.36 at half the size.
    """
    spectrum = np.full((32, 32), 0.2)
    spectrum[0, 0] += 0.09 * spectrum.size
    expected = np.full(new, 0.2)
    expected[0, 0] += 0.09 * expected.size
    np.testing.assert_allclose(resized(prior_of(spectrum), new).spectrum, expected, rtol=ROUNDING)


@pytest.mark.parametrize(("old", "new"), [(128, 64), (128, 48), (64, 32)])
def test_resized_agrees_with_photographs_cut_smaller(old, new):
    """A prior of tiles, made smaller, against the prior of these tiles cut into smaller ones.

    The same pixels, so the variance of a pixel agrees to rounding where the cut leaves no rest. In
    octaves, the difference is held to what six photographs know of the spectrum: the standard error
    of the measured value, from its scatter between photographs. Measured: up to 1.7 of them. The
    constant component is within 9 %, where it once was 3 to 11 times too large.
    """
    photographs = built_in_photographs("luminance")
    pieces = [tiles(image, old)[:, 0] for image in photographs.values()]
    average = np.mean(np.concatenate(pieces))
    index = np.rint(np.fft.fftfreq(new) * new)
    octave = np.ceil(np.log2(np.maximum(np.hypot(*np.meshgrid(index, index)), 0.5)))
    measured, predicted = [], []
    for piece in pieces:
        cut = np.concatenate([tiles(plane[None], new)[:, 0] for plane in piece])
        large = np.mean(np.abs(np.fft.fft2(piece - average, norm="ortho")) ** 2, axis=0)
        small = np.mean(np.abs(np.fft.fft2(cut - average, norm="ortho")) ** 2, axis=0)
        other = resized(prior_of(large), (new, new)).spectrum
        if old % new == 0:
            np.testing.assert_allclose(other.mean(), small.mean(), rtol=1e-12)
        measured.append([small[octave == o].mean() for o in np.unique(octave)])
        predicted.append([other[octave == o].mean() for o in np.unique(octave)])
    measured, predicted = np.array(measured), np.array(predicted)
    error = measured.std(axis=0, ddof=1) / np.sqrt(len(measured))
    z = (predicted - measured).mean(axis=0) / error
    assert np.abs(z).max() < 3
    constant = predicted[:, 0].mean() / measured[:, 0].mean()
    assert abs(constant - 1) < 0.1


def test_resized_to_more_pixels_agrees_with_photographs():
    """Tiles of 64 and the tiles of 128 that they are cut from: the variance of the mean grey value
    is that of the larger ones within its standard error, and the slow waves are not drowned in it.

    Interpolated up to frequency 0, it fell to a third.
    """
    photographs = built_in_photographs("luminance")
    pieces = [tiles(image, 128)[:, 0] for image in photographs.values()]
    cut = [np.concatenate([tiles(x[None], 64)[:, 0] for x in piece]) for piece in pieces]
    average = np.mean(np.concatenate(pieces))
    variances = [np.mean((piece.mean(axis=(1, 2)) - average) ** 2) for piece in pieces]
    weights = [len(piece) for piece in pieces]
    error = np.std(variances, ddof=1) / np.sqrt(len(variances))
    small = from_images(np.concatenate(cut))
    large = from_images(np.concatenate(pieces)).spectrum
    grown = resized(small, (128, 128)).spectrum
    np.testing.assert_allclose(grown.mean(), small.spectrum.mean(), rtol=ROUNDING)
    assert abs(grown[0, 0] / grown.size - np.average(variances, weights=weights)) < 2 * error
    np.testing.assert_allclose(grown[0, 0], large[0, 0], rtol=0.1)
    slow = (grown[0, 1] + grown[1, 0]) / (large[0, 1] + large[1, 0])
    assert 1 / 2 < slow < 2


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_resized_matern_is_the_same_density_in_a_crop(ratio):
    """The value at the same frequency is kept, but for the curvature inside of a band.

    A new value is a symmetric mean of old ones, whose distances from it have the variance v below.
    By Taylor's theorem it differs by at most v max|S''| (both axes), and where the grid folds back
    by the slope there times the mean distance.
    """
    old, length, smoothness = 60, 2.0, 1.0
    prior = matern((old, old), length, smoothness)
    given = resized(prior, (old // ratio, old // ratio)).spectrum
    a, decay = 2 * smoothness / length**2, smoothness + 1
    scale = prior.spectrum[0, 0] * a**decay
    curvature = 8 * np.pi**2 * decay * scale * a ** -(decay + 1)  # largest at 0
    slope = 4 * np.pi**2 * decay * scale * (a + np.pi**2) ** -(decay + 1)  # at half a cycle
    # A band is ratio old ones wide: for even ratios, the outermost two lie half inside.
    v = ((ratio**2 + 2) if ratio % 2 == 0 else (ratio**2 - 1)) / 12 / old**2
    bound = v * curvature + 2 * np.sqrt(v) * slope
    expected = prior.spectrum[::ratio, ::ratio]
    assert np.abs(given - expected).max() < bound
    assert bound < 0.14 * expected.max()  # of ratio 4; 0.05 of ratio 2


def test_resized_matern_is_the_same_density_in_a_larger_scene():
    """The old frequencies keep their values exactly, new ones are means of their neighbours."""
    old = matern((32, 24), 3.0).spectrum
    new = resized(matern((32, 24), 3.0), (64, 48)).spectrum
    np.testing.assert_allclose(new[::2, ::2], old, rtol=ROUNDING)
    middle = (old + np.roll(old, -1, axis=0)) / 2
    np.testing.assert_allclose(new[1::2, ::2], middle, rtol=ROUNDING)


@pytest.mark.parametrize("new", [16, 128])
def test_resized_power_law_stays_one(new):
    """Kept are the variance of a pixel and the exponent: in octaves, the same slope.

    The formula made at the size differs by a factor, as fewer or more slow waves share its `std`.
    """
    prior = power_law((64, 64), 2.0, std=0.4)
    given = resized(prior, (new, new)).spectrum
    np.testing.assert_allclose(given.mean(), 0.16, rtol=ROUNDING)
    at = np.array([n for n in (4, 8, 16, 32) if n < 32]) * new // 64  # on an axis, not the fold
    expected = prior.spectrum[0, [4, 8, 16]]
    # A band of width h around f has the mean 1/f^2 (1 + (h/f)^2 / 4 + ...) along its own axis and
    # less across; the narrowest here is h/f = 1 (index 1), for which the sum is below 1/3 + 1/12.
    np.testing.assert_allclose(given[0, at], expected, rtol=0.42)
    np.testing.assert_allclose(given[0, at][-1], expected[-1], rtol=0.03)


def prior_of(spectrum):
    return Prior(spectrum, np.zeros_like(spectrum), WIDE, "test")


def test_resized_keeps_a_pixelwise_mean_from_being_bent():
    prior = Prior(np.ones((4, 4)), np.arange(16.0).reshape(4, 4), WIDE, "test")
    with pytest.raises(InputError, match="pixelwise mean"):
        resized(prior, (8, 8))
    assert resized(prior, (4, 4)) is prior


def test_save_and_load(tmp_path):
    """Every number comes back, and the hash with them."""
    prior = from_images(
        np.random.default_rng(4).uniform(0, 1, (3, 5, 6)),
        mean="pixelwise",
        pixel_range=(0.0, 1.0),
        source="three planes",
    )
    path = tmp_path / "prior.npz"
    save_prior(path, prior)
    again = load_prior(path)
    np.testing.assert_array_equal(again.spectrum, prior.spectrum)
    np.testing.assert_array_equal(again.mean, prior.mean)
    assert again.pixel_range == prior.pixel_range
    assert again.source == prior.source
    assert again.hash == prior.hash


@pytest.mark.parametrize("kind", ["missing", "text", "other npz", "npy", "empty", "cut short"])
def test_load_errors(tmp_path, kind):
    """Whatever NumPy raises for a file that is none of ours, the user gets one line."""
    path = tmp_path / "prior.npz"
    if kind == "text":
        path.write_text("hello")
    elif kind == "other npz":
        np.savez(path, spectrum=np.ones(3))
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, np.ones(3))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut short":
        save_prior(tmp_path / "whole.npz", power_law((8, 8)))
        path.write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    with pytest.raises(
        InputError, match="there is no such file" if kind == "missing" else "is not a prior file"
    ):
        load_prior(path)


GOOD = {
    "spectrum": np.ones((4, 6)),
    "mean": np.zeros((4, 6)),
    "pixel_range": np.array([-1.0, 1.0]),
    "source": np.asarray("test"),
}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spectrum", np.full((4, 6), np.nan), "spectrum must be finite"),
        ("spectrum", np.full((4, 6), 1j), "spectrum must be finite numbers"),
        ("spectrum", np.full((4, 6), "a"), "spectrum must be finite numbers"),
        ("spectrum", -np.ones((4, 6)), "from -1 to -1"),
        ("spectrum", np.full((4, 6), 1e300), r"1e\+300"),
        ("spectrum", np.ones((4, 6, 1)), r"\(4, 6, 1\)"),
        ("spectrum", np.ones(()), r"\(\)"),
        ("spectrum", np.ones((0, 6)), r"\(0, 6\)"),
        ("spectrum", np.ones((6, 4)), r"mean of shape \(4, 6\)"),
        ("mean", np.full((4, 6), np.inf), "mean must be finite"),
        ("mean", np.zeros(6), r"mean of shape \(6,\)"),
        ("pixel_range", np.array([1.0, -1.0]), "low < high"),
        ("pixel_range", np.array([0.0, 1e308]), "between low and high"),
        ("pixel_range", np.array([0.0, 1.0, 2.0]), "must be numbers"),
        ("pixel_range", np.asarray("01"), "pixel_range must be"),
        ("source", np.asarray(3.0), "source must be a text"),
        ("source", np.asarray(["a", "b"]), "source must be a text"),
        ("source", np.asarray({"a": 1}), "not a prior file"),
        ("source", None, "not a prior file"),
    ],
)
def test_load_refuses_what_no_prior_has(key, value, message, tmp_path):
    stored = {**GOOD, key: value}
    if value is None:
        del stored[key]
    np.savez(tmp_path / "prior.npz", **stored)
    with pytest.raises(InputError, match=message) as caught:
        load_prior(tmp_path / "prior.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10**6, 10**6), "at most 33554432 values"),
        ((10**300, 1), "at most"),
        ((4096, 4096), "cut short"),
        ((-1, 6), "not a prior file"),
    ],
)
def test_load_is_not_led_by_the_claims_of_a_file(shape, message, tmp_path):
    """A header may claim any size: no memory is asked for before it is held against the file."""
    np.savez(tmp_path / "good.npz", **GOOD)
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    path = tmp_path / "prior.npz"
    with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name == "spectrum.npy":
                file = io.BytesIO()
                np.lib.format.write_array_header_1_0(file, header)
                content = file.getvalue() + content[-192:]
            bad.writestr(name, content)
    with pytest.raises(InputError, match=message):
        load_prior(path)


def test_load_refuses_a_bomb(tmp_path):
    """300 MB of zeros behind a modest header, in a file of 1.3 MB."""
    path = tmp_path / "prior.npz"
    np.savez(tmp_path / "good.npz", **GOOD)
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (4, 6)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bad:
        with bad.open("spectrum.npy", "w") as member:
            member.write(header.getvalue())
            for _ in range(9):
                member.write(bytes(2**25))
        with zipfile.ZipFile(tmp_path / "good.npz") as good:
            for name in set(good.namelist()) - {"spectrum.npy"}:
                bad.writestr(name, good.read(name))
    with pytest.raises(InputError, match="at most 33554432 values"):
        load_prior(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spectrum", np.ones((4, 6), np.float32)),
        ("spectrum", np.ones((4, 6), ">f8")),
        ("spectrum", np.asfortranarray(np.ones((4, 6)))),
        ("mean", np.zeros((4, 6), np.int8)),
        ("pixel_range", np.array([0, 255], np.uint8)),
        ("source", np.asarray("two\nlines \udcff")),
    ],
)
def test_what_is_loaded_can_be_saved(key, value, tmp_path):
    """Other types than ours become ours, and the words can be printed."""
    np.savez(tmp_path / "a.npz", **{**GOOD, key: value})
    prior = load_prior(tmp_path / "a.npz")
    assert prior.spectrum.dtype == prior.mean.dtype == np.float64
    assert prior.source.isprintable()
    save_prior(tmp_path / "b.npz", prior)
    again = load_prior(tmp_path / "b.npz")
    assert again.hash == prior.hash and again.source == prior.source


def test_save_does_not_overwrite(tmp_path):
    path = tmp_path / "prior.npz"
    save_prior(path, power_law((4, 4)))
    with pytest.raises(InputError, match="exists"):
        save_prior(path, power_law((4, 6)))
    assert load_prior(path).shape == (4, 4)


def test_hash_is_of_the_numbers():
    """Not of the words; a change of one number, of the mean or of the range is seen."""
    prior = power_law((4, 6))
    same = Prior(prior.spectrum.copy(), prior.mean.copy(), prior.pixel_range, "another name")
    assert same.hash == prior.hash
    spectrum = prior.spectrum.copy()
    spectrum[[1, 3], [2, 4]] *= 1 + 2 * EPS
    others = (
        Prior(spectrum, prior.mean, prior.pixel_range, ""),
        Prior(prior.spectrum, prior.mean + 0.1, prior.pixel_range, ""),
        Prior(prior.spectrum, prior.mean, (0.0, 1.0), ""),
        Prior(prior.spectrum.T, prior.mean.T, prior.pixel_range, ""),
    )
    assert len({prior.hash, *(other.hash for other in others)}) == 5
