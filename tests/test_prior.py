"""Priors: their normalisation, what images teach, and files."""

import numpy as np
import pytest
from cases import EPS, even_spectrum

from spectralpost.errors import InputError
from spectralpost.prior import (
    Prior,
    draw,
    from_images,
    load_prior,
    matern,
    power_law,
    resized,
    save_prior,
)

WIDE = (-100.0, 100.0)


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


def test_from_images_errors():
    good = np.zeros((2, 4, 4))
    for planes, options, message in (
        (np.zeros((4, 4)), {}, "N, H, W"),
        (np.zeros((0, 4, 4)), {}, "N >= 1"),
        (np.full((1, 4, 4), np.nan), {}, "NaN or infinite"),
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
    # float32 images carried through a change of range may be a rounding outside
    from_images(np.where(np.eye(4) > 0, 1 + 1e-7, 0)[None])


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
    for shape in ((), (4, 4, 4), (1, 4), (4.5, 4), (0,)):
        with pytest.raises(InputError, match="whole numbers >= 2"):
            make(shape)
    for std in (0.0, -1.0, np.nan):
        with pytest.raises(InputError, match="must be > 0"):
            make((4, 4), std=std)
    with pytest.raises(InputError, match="low < high"):
        make((4, 4), pixel_range=(1.0, -1.0))


def test_matern_errors():
    for options in ({"length": 0.0}, {"smoothness": -1.0}, {"length": np.nan}):
        with pytest.raises(InputError, match="both must be > 0"):
            matern((4, 4), **options)


# --------------------------------------------------------------------------------- resized, files


def test_resized_reads_off_the_density():
    """Half the size: every second frequency. Twice the size: the old ones stay."""
    prior = matern((32, 24), 3.0, mean=0.4)
    small = resized(prior, (16, 12))
    np.testing.assert_allclose(small.spectrum, prior.spectrum[::2, ::2], rtol=1e-12)
    large = resized(prior, (64, 48))
    np.testing.assert_allclose(large.spectrum[::2, ::2], prior.spectrum, rtol=1e-12)
    np.testing.assert_allclose(
        large.spectrum[1, 0], np.sqrt(prior.spectrum[0, 0] * prior.spectrum[1, 0]), rtol=1e-12
    )
    np.testing.assert_array_equal(large.mean, 0.4)
    assert large.pixel_range == prior.pixel_range
    # geometric means of neighbours lie below arithmetic ones, which would keep the variance
    assert 0.9 * prior.spectrum.mean() < large.spectrum.mean() < prior.spectrum.mean()
    mirrored = np.roll(np.flip(large.spectrum), 1, axis=(0, 1))
    np.testing.assert_allclose(large.spectrum, mirrored, rtol=1e-12)
    assert resized(prior, (32, 24)) is prior
    assert "32x24" in small.source


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
    with pytest.raises(InputError, match="missing, or not a prior"):
        load_prior(path)


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
    spectrum[1, 2] *= 1 + 2 * EPS
    others = (
        Prior(spectrum, prior.mean, prior.pixel_range, ""),
        Prior(prior.spectrum, prior.mean + 0.1, prior.pixel_range, ""),
        Prior(prior.spectrum, prior.mean, (0.0, 1.0), ""),
        Prior(prior.spectrum.reshape(6, 4), prior.mean.reshape(6, 4), prior.pixel_range, ""),
    )
    assert len({prior.hash, *(other.hash for other in others)}) == 5
