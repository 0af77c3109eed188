"""Colour as uncorrelated axes: the model's denoiser, closed forms of all axes, calibration."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spectralpost as sp
from spectralpost.denoisers.calibrating import _rings
from spectralpost.noise import NoiseLevel
from spectralpost.prior import Prior, frequency, resized
from spectralpost.prior_file import load_prior, save_prior

pytestmark = pytest.mark.usefixtures("quick")

SHAPE = (8, 8)
WIDE = (-9.0, 9.0)


def rotation():
    return np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0]


def turn(images):
    return np.einsum("...chw,dc->...dhw", images, rotation())


@pytest.fixture(scope="module")
def images():
    """Smooth colours of three strengths, mixed by a rotation."""
    strengths = [(0.7, 2.5), (0.3, 2.0), (0.1, 1.0)]
    priors = [sp.power_law(SHAPE, e, std=s, pixel_range=WIDE) for s, e in strengths]
    planes = [sp.draw(prior, 400, seed=i) for i, prior in enumerate(priors)]
    return turn(np.stack(planes, axis=1))


@pytest.fixture(scope="module")
def prior(images):
    return sp.from_images(images, colour=True, pixel_range=WIDE)


def test_axes_are_uncorrelated_and_keep_the_variance(prior, images):
    rotated = np.moveaxis(np.asarray(prior.along_axes(jnp.asarray(images))), 1, 0).reshape(3, -1)
    cov = np.cov(rotated)
    np.testing.assert_allclose(cov, np.diag(np.diag(cov)), atol=1e-12)
    pixels = np.moveaxis(images, 1, 0).reshape(3, -1)
    np.testing.assert_allclose(np.trace(cov), np.trace(np.cov(pixels)), rtol=1e-12)
    # The mean of a spectrum is the variance of a pixel.
    spectra = prior.spectrum.mean(axis=(1, 2))
    np.testing.assert_allclose(spectra, rotated.var(axis=1), rtol=1e-12)


def test_denoiser_does_not_depend_on_the_axes_of_colour(images, prior, getkey):
    """Images with rotated colours are denoised to rotated images."""
    x_t = jax.random.normal(getkey(), (2, 5, 3, *SHAPE))
    level = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))
    plain = sp.GaussianDenoiser.of(prior)(x_t, level)
    turned = sp.from_images(turn(images), colour=True, pixel_range=WIDE)
    found = sp.GaussianDenoiser.of(turned)(turn(x_t), level)
    np.testing.assert_allclose(found, turn(plain), rtol=1e-9, atol=1e-11)


def test_denoiser_by_hand(prior, getkey):
    """The linear estimate of all 192 numbers of an image from their whole covariance."""
    level = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))
    n = 64
    dft = np.fft.fft(np.eye(8), norm="ortho")
    dft = np.kron(dft, dft)
    cov = np.zeros((3 * n, 3 * n))
    for axis, plane in zip(prior.axes.T, prior.spectrum, strict=True):
        field = (dft.conj().T * plane.ravel()) @ dft
        cov += np.kron(np.outer(axis, axis), field.real)
    mean = np.concatenate([np.full(n, m) for m in prior.axes @ prior.mean[:, 0, 0]])
    x_t = np.asarray(jax.random.normal(getkey(), (3, *SHAPE)))
    gain = 0.8 * cov @ np.linalg.inv(0.64 * cov + 0.36 * np.eye(3 * n))
    wanted = mean + gain @ (x_t.ravel() - 0.8 * mean)
    found = sp.GaussianDenoiser.of(prior)(x_t, level)
    np.testing.assert_allclose(np.ravel(found), wanted, rtol=1e-9, atol=1e-11)


def test_one_plane_is_the_gaussian_denoiser(images, getkey):
    one = images[:, :1]
    prior = sp.from_images(one, colour=True, pixel_range=WIDE)
    plain = sp.from_images(one[:, 0], pixel_range=WIDE)
    x_t = jax.random.normal(getkey(), (5, 1, *SHAPE))
    level = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))
    found = sp.GaussianDenoiser.of(prior)(x_t, level)
    np.testing.assert_allclose(
        found[:, 0], sp.GaussianDenoiser.of(plain)(x_t[:, 0], level), rtol=1e-9, atol=1e-11
    )


def test_closed_form_is_what_runs_on_planes_give(prior, getkey):
    """Mean and variance of many restorations of a colour image, along the axes."""
    degradation, levels = sp.gaussian_blur(SHAPE, 1.0), sp.vp_linear(6)
    problem = sp.image_problem(prior, degradation, 0.1)
    sampler = sp.SAMPLERS["diffpir"]()
    guidance = sampler.heuristic(problem, levels)
    x_0 = jax.random.normal(getkey(), (3, *SHAPE)) * 0.3
    y = sp.measure(degradation, x_0, 0.1, getkey())
    found = sp.simulate(
        sampler,
        sp.GaussianDenoiser.of(prior),
        degradation,
        y,
        levels,
        guidance,
        getkey(),
        sigma_y=0.1,
        num_runs=4096,
    )
    mean = prior.along_axes(found.mean.reshape(3, *SHAPE)).reshape(-1)
    transfer = sp.sampler_transfer(sampler, problem, levels, guidance)
    rotated = prior.along_axes(degradation.to_measurement_modes(y).reshape(3, *SHAPE)).reshape(-1)
    expected = problem.mean + transfer.data_gain * (rotated - problem.response * problem.mean)
    expected = expected + transfer.offset
    variance = transfer.state_gain**2 + transfer.noise_cov
    z = (mean - expected) / np.sqrt(variance / found.num_runs)
    assert np.abs(z).max() < 5 and 0.8 < z.std() < 1.2
    # A rotation mixes the axes' variances.
    shares = np.einsum("ca,af->cf", prior.axes**2, np.asarray(variance).reshape(3, -1))
    ratio = np.asarray(found.var).reshape(3, -1) / shares
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / found.num_runs)


def test_modes_of_all_axes(prior):
    problem = sp.image_problem(prior, sp.gaussian_blur(SHAPE, 1.0), 0.1)
    chex.assert_shape((problem.spectrum, problem.response, problem.mean, problem.weight), (192,))
    assert problem.sigma_y.shape == ()
    planes = [Prior(s, m, WIDE, "") for s, m in zip(prior.spectrum, prior.mean, strict=True)]
    parts = [sp.image_problem(plane, sp.gaussian_blur(SHAPE, 1.0), 0.1) for plane in planes]
    losses = []
    sampler, levels = sp.SAMPLERS["diffpir"](), sp.vp_linear(5)
    for one in (*parts, problem):
        guidance = sampler.heuristic(one, levels)
        losses.append(sp.wasserstein2(one, sp.sampler_transfer(sampler, one, levels, guidance)))
    np.testing.assert_allclose(losses[3], np.mean(losses[:3]), rtol=1e-12)


def test_calibration_by_axis(prior, images):
    """Of the model's own denoiser: ratio 1 for every axis; kept when the prior is resized."""
    calibrated = sp.calibrate(prior, sp.GaussianDenoiser.of(prior), images)
    pixels = np.bincount(_rings(frequency(SHAPE))[0])
    z = (calibrated.calibration.ratio - 1) / np.sqrt(2 / (400 * pixels))[:, None]
    assert z.shape[0] == 3 and z.min() > -4.5 and z.max() <= 0  # never above 1
    problem = sp.image_problem(resized(calibrated, (16, 16)), sp.gaussian_blur((16, 16), 1.0), 0.1)
    assert problem.calibration.ratio.shape[0] == 3 * 16 * 16
    with pytest.raises(sp.InputError, match="3 planes are needed"):
        sp.calibrate(prior, sp.GaussianDenoiser.of(prior), images[:, :1])


def test_bad_input(images):
    for given, message in (
        (images[0], r"images of shape \(3, 8, 8\)"),
        (images[:0], "images of shape"),
        (images + 100, r"outside of the pixel range \[-9, 9\]"),
        (images * np.nan, "NaN or infinite pixels"),
    ):
        with pytest.raises(sp.InputError, match=message):
            sp.from_images(given, colour=True, pixel_range=WIDE)
    with pytest.raises(sp.InputError, match="images of 2 planes among others of 3"):
        sp.from_images([images[0], images[1, :2]], colour=True, pixel_range=WIDE)


def test_one_pass_over_sets_of_images(images, prior):
    """A stream of images and of sets of them gives the prior of the array."""
    stream = [images[0], images[1:200], images[200:].reshape(2, 100, 3, *SHAPE)]
    again = sp.from_images(stream, colour=True, pixel_range=WIDE)
    for name in ("spectrum", "mean", "axes"):
        found, wanted = getattr(again, name), getattr(prior, name)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_draws_have_the_priors_covariance(prior):
    drawn = sp.from_images(sp.draw(prior, 4000, seed=1), colour=True, pixel_range=WIDE)
    ratio = drawn.spectrum / prior.spectrum  # of chi square with 4000 degrees of freedom
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / 4000)
    np.testing.assert_allclose(np.abs(drawn.axes.T @ prior.axes), np.eye(3), atol=0.05)


def test_file(prior, tmp_path):
    save_prior(tmp_path / "prior.npz", prior)
    again = load_prior(tmp_path / "prior.npz")
    assert again.hash == prior.hash and again.shape == SHAPE
    np.testing.assert_array_equal(again.axes, prior.axes)
    with np.load(tmp_path / "prior.npz") as stored:
        whole = dict(stored)
    for name, value, message in (
        ("axes", 2 * prior.axes, r"axes of shape \(3, 3\); an orthonormal"),
        ("axes", prior.axes[:2], r"axes of shape \(2, 3\)"),
        ("spectrum", prior.spectrum[0], r"spectrum of shape \(8, 8\); \[C, H, W\] is needed"),
    ):
        np.savez(tmp_path / "bad.npz", **(whole | {name: value}))
        with pytest.raises(sp.InputError, match=message):
            load_prior(tmp_path / "bad.npz")


def test_channels_are_the_priors(prior):
    degradation = sp.gaussian_blur(SHAPE, 1.0)
    chex.assert_trees_all_equal(
        sp.image_problem(prior, degradation, 0.1), sp.image_problem(prior, degradation, 0.1, 3)
    )
    with pytest.raises(sp.InputError, match="channels = 1: the prior is of 3"):
        sp.image_problem(prior, degradation, 0.1, channels=1)
