"""Crops of larger scenes: the law of what is beyond their borders, and restoration on a canvas."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS

from spectralpost import borders
from spectralpost.borders import cropped, extended, extent, on_canvas, restore_crop
from spectralpost.degradations import (
    from_kernel,
    gaussian_blur,
    identity,
    motion_blur,
    uniform_blur,
)
from spectralpost.denoisers.gaussian import GaussianDenoiser
from spectralpost.errors import InputError
from spectralpost.images import built_in_photographs, tiles
from spectralpost.learning import heuristic
from spectralpost.noise import ve_karras, vp_linear
from spectralpost.prior import Prior, from_images, matern, power_law, resized
from spectralpost.problem import image_problem
from spectralpost.restoration import measure, restore
from spectralpost.samplers.exact import exact
from spectralpost.samplers.pigdm import pigdm

pytestmark = pytest.mark.usefixtures("quick")

SIGMA_Y = 0.2
CROP, CANVAS = (5, 6), (8, 12)


def setup() -> tuple[Prior, borders.Degradation]:
    """A canvas with an asymmetric blur, and a prior whose mean differs from pixel to pixel."""
    rng = np.random.default_rng(0)
    kernel = rng.uniform(size=(3, 4))
    prior = matern(CANVAS, length=3.0, std=0.6)
    mean = 0.5 + 0.3 * rng.normal(size=CANVAS)
    prior = Prior(prior.spectrum, mean, prior.pixel_range, "test")
    return prior, from_kernel(kernel / kernel.sum(), CANVAS)


def matrices(prior: Prior, degradation):
    """H, the covariance of x, and which pixels of the canvas are known."""
    columns = np.eye(prior.spectrum.size).reshape(-1, *prior.shape)
    H = np.asarray(degradation.apply(columns)).reshape(len(columns), -1).T
    known = np.zeros(prior.shape, bool)
    known[1:6, 3:9] = True
    return H, dense.stationary(prior.spectrum), known.ravel()


# -------------------------------------------------------------------------------- size of a canvas


@pytest.mark.parametrize(
    "degradation, wanted",
    [
        (identity((16, 20)), (1, 1)),
        (uniform_blur((30, 40), 21), (21, 21)),
        (motion_blur((64, 64), 20.0, 0.0), (1, 21)),
        (motion_blur((64, 64), 10.0, 90.0), (11, 1)),
        (from_kernel([[0.0, 0.0, 1.0]], (8, 8)), (1, 3)),  # off centre: reaches one pixel
        (from_kernel([[-0.5, 1.0, 0.5, 0.0]], (8, 8)), (1, 5)),
        (uniform_blur((9, 9), 9), (9, 9)),
        (uniform_blur((50,), 5), (5,)),
    ],
)
def test_extent(degradation, wanted):
    assert extent(degradation) == wanted


def test_extent_of_a_gaussian_leaves_a_thousandth_outside():
    (reach, _) = extent(gaussian_blur((128, 100), 3.0))
    assert reach == 21  # 3.29 standard deviations to each side


def test_canvas_has_room_for_all_that_was_blurred_in():
    """A size that networks and transforms like, and the same kernel."""
    for n in (21, 64, 101, 128, 1000):
        (size,) = on_canvas(uniform_blur((n,), 21)).shape
        assert size % 4 == 0 and n + 20 <= size <= 1.1 * (n + 20) + 4
        odd = size // (size & -size)
        assert odd in (1, 3, 5, 9, 15, 25, 27, 45, 75, 81, 135)
    blur = on_canvas(uniform_blur((128, 128), 21))
    assert blur == uniform_blur((160, 160), 21)
    assert on_canvas(identity((16, 20))).shape == (16, 20)
    assert on_canvas(identity((14, 20)), margin=9).shape == (24, 32)


@pytest.mark.parametrize("margin", [-1, 1.5, "wide", np.nan])
def test_bad_margins(margin):
    with pytest.raises(InputError, match="margin"):
        on_canvas(identity((8, 8)), margin)


# --------------------------------------------------------------------------------------- extension


def test_margin_has_the_law_that_the_model_gives_it(getkey, monkeypatch):
    """Conditional mean and covariance by dense algebra: |z| < 5, mean of z^2 near 1."""
    monkeypatch.setattr(borders, "TOLERANCE", 1e-12)
    prior, degradation = setup()
    H, C, known = matrices(prior, degradation)
    S = H @ C @ H.T + SIGMA_Y**2 * np.eye(len(H))
    K = np.linalg.solve(S[np.ix_(known, known)], S[known]).T  # [pixels, known]
    mu = H @ prior.mean.ravel()
    y = np.random.default_rng(1).normal(size=CROP)
    wanted = mu + K @ (y.ravel() - mu[known])

    got = extended(y, prior, degradation, None, sigma_y=SIGMA_Y)
    kappa = np.linalg.cond(S)
    np.testing.assert_allclose(np.ravel(got), wanted, rtol=0, atol=10 * EPS * kappa)

    runs = 4000
    many = np.broadcast_to(y, (runs, 1, *CROP))
    drawn = np.asarray(extended(many, prior, degradation, getkey(), sigma_y=SIGMA_Y))
    gap = (drawn.reshape(runs, -1) - wanted)[:, ~known]
    cov = (S - K @ S[known])[np.ix_(~known, ~known)]
    white = np.linalg.solve(np.linalg.cholesky(cov), gap.T)
    z_mean = white.mean(axis=1) * np.sqrt(runs)
    second = white @ white.T / runs - np.eye(len(white))
    z_cov = second[np.triu_indices(len(white))] * np.sqrt(runs)
    assert np.abs(z_mean).max() < 5 and np.abs(z_cov).max() < 5 * np.sqrt(2)
    assert abs(np.mean(z_mean**2) - 1) < 5 * np.sqrt(2 / z_mean.size)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_crop_of_the_extension_is_the_image(leading, dtype, getkey):
    prior, degradation = setup()
    y = np.random.default_rng(2).normal(size=(*leading, *CROP)).astype(dtype)
    for key in (None, getkey()):
        canvas = extended(y, prior, degradation, key, sigma_y=SIGMA_Y)
        assert canvas.shape == (*leading, *CANVAS) and canvas.dtype == dtype
        assert np.all(np.isfinite(canvas))
        np.testing.assert_array_equal(cropped(canvas, CROP), y)


def test_planes_are_extended_each_on_its_own(getkey):
    prior, degradation = setup()
    y = np.random.default_rng(3).normal(size=(3, *CROP))
    mean = extended(y, prior, degradation, None, sigma_y=SIGMA_Y)
    alone = extended(y[1], prior, degradation, None, sigma_y=SIGMA_Y)
    np.testing.assert_allclose(mean[1], alone, rtol=0, atol=1e-3 * SIGMA_Y)
    same = extended(np.stack([y[0]] * 2), prior, degradation, getkey(), sigma_y=SIGMA_Y)
    assert np.abs(same[0] - same[1]).max() > SIGMA_Y


def test_canvas_full_of_image_is_the_image(getkey):
    prior, degradation = setup()
    y = np.random.default_rng(4).normal(size=CANVAS)
    np.testing.assert_array_equal(extended(y, prior, degradation, getkey(), sigma_y=1.0), y)


def test_extension_is_circularly_smooth():
    """Neighbours across the canvas' border and the crop's are as near as those inside."""
    photograph = built_in_photographs("luminance")["coffee.png"]
    blur = uniform_blur(photograph.shape[1:], 9)
    y = np.asarray(measure(blur, photograph, 0.0, jax.random.key(0)))[:, 100:164, 200:264]
    canvas = on_canvas(uniform_blur((64, 64), 9))
    prior = power_law(canvas.shape, std=0.5)
    whole = np.asarray(extended(y, prior, canvas, None, sigma_y=0.01))
    for axis in (-2, -1):
        jump = lambda x, axis=axis: np.abs(x - np.roll(x, 1, axis=axis)).max()  # noqa: E731
        inside = np.abs(np.diff(y, axis=axis)).max()
        assert jump(whole) < 1.5 * inside
        assert jump(y) > 3 * inside


@pytest.mark.parametrize("grey", [-0.8, 0.0, 0.7])
def test_a_constant_image_stays_constant(grey):
    """To a hundredth: the prior has its say of the mean grey value beyond the borders."""
    canvas = on_canvas(uniform_blur((64, 64), 9))
    prior = power_law(canvas.shape, std=0.5)
    whole = extended(np.full((3, 64, 64), grey), prior, canvas, None, sigma_y=0.01)
    np.testing.assert_allclose(whole, grey, rtol=0, atol=0.01 * abs(grey) + 1e-12)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y": np.zeros((9, 6))}, "crop of size .9, 6.: larger than the canvas"),
        ({"y": np.zeros(6)}, "crop of size .6,.: larger"),
        ({"y": np.full(CROP, np.nan)}, "NaN"),
        ({"y": np.zeros(CROP, complex)}, "real numbers"),
        ({"sigma_y": 0.0}, "sigma_y = 0: must be > 0"),
        ({"sigma_y": np.inf}, "sigma_y = inf"),
        ({"prior": power_law(CROP)}, r"prior of size \(5, 6\)"),
    ],
)
def test_errors(changes, message):
    prior, degradation = setup()
    good = {"y": np.zeros(CROP), "prior": prior, "degradation": degradation, "key": None}
    with pytest.raises(InputError, match=message):
        extended(**{**good, "sigma_y": SIGMA_Y, **changes})


def test_tracing_is_refused():
    prior, degradation = setup()
    with pytest.raises(InputError, match="while JAX traces"):
        jax.jit(lambda y: extended(y, prior, degradation, None, sigma_y=1.0))(jnp.zeros(CROP))


# ------------------------------------------------------------------------------------- restoration


def test_exact_sampler_draws_from_the_posterior_given_the_crop(getkey, monkeypatch):
    """Mean and covariance of x given the crop, by dense algebra: nothing is lost at the borders.

    The kernel is exact but for its start, N(0, sigma_T^2) with sigma_T 300 times what x varies.
    """
    monkeypatch.setattr(borders, "TOLERANCE", 1e-12)
    prior, degradation = setup()
    H, C, known = matrices(prior, degradation)
    seen = H[known]
    S = seen @ C @ seen.T + SIGMA_Y**2 * np.eye(len(seen))
    gain = np.linalg.solve(S, seen @ C).T
    y = np.random.default_rng(5).normal(size=CROP)
    mu = prior.mean.ravel()
    mean = (mu + gain @ (y.ravel() - seen @ mu))[known]
    cov = (C - gain @ seen @ C)[np.ix_(known, known)]

    runs, levels = 1000, ve_karras(4, sigma_max=200.0, sigma_min=0.02)
    problem = image_problem(prior, degradation, SIGMA_Y)
    sampler = exact(problem, "kernel")
    out = restore_crop(
        sampler,
        GaussianDenoiser.of(prior),
        degradation,
        y,
        levels,
        heuristic(sampler, problem, levels),
        getkey(),
        prior=prior,
        sigma_y=SIGMA_Y,
        num_samples=runs,
        drawn=True,
    )
    assert out.shape == (runs, *CROP)
    white = np.linalg.solve(np.linalg.cholesky(cov), (np.asarray(out).reshape(runs, -1) - mean).T)
    z_mean = white.mean(axis=1) * np.sqrt(runs)
    second = white @ white.T / runs - np.eye(len(white))
    z_cov = second[np.triu_indices(len(white))] * np.sqrt(runs)
    assert np.abs(z_mean).max() < 5 and np.abs(z_cov).max() < 5 * np.sqrt(2)


def test_a_crop_loses_little_on_a_canvas():
    """A built-in photograph, blur of 21 pixels: less than 1 dB against circular blur, not 10."""
    photographs = built_in_photographs("luminance")
    scene = photographs.pop("chelsea.png")[:, 20:276, 100:356]
    truth = cropped(jnp.asarray(scene), (128, 128))
    prior = from_images(np.concatenate([tiles(one, 128)[:, 0] for one in photographs.values()]))
    sampler, levels, sigma_y = pigdm(), vp_linear(20), 0.01
    blur, canvas = uniform_blur((128, 128), 21), on_canvas(uniform_blur((128, 128), 21))

    def psnr(restoring, y, degradation, **others):
        own = resized(prior, degradation.shape)
        guidance = heuristic(sampler, image_problem(own, degradation, sigma_y), levels)
        denoiser, key = GaussianDenoiser.of(own), jax.random.key(1)
        others |= {"sigma_y": sigma_y}
        x = restoring(sampler, denoiser, degradation, y, levels, guidance, key, **others)
        return 10 * np.log10(4 / np.mean((x - truth) ** 2))

    y = measure(uniform_blur((256, 256), 21), scene, sigma_y, jax.random.key(0))
    y = cropped(y, (128, 128))
    circular = psnr(restore, measure(blur, truth, sigma_y, jax.random.key(0)), blur)
    assert circular - psnr(restore, y, blur) > 10
    own = resized(prior, canvas.shape)
    assert circular - psnr(restore_crop, y, canvas, prior=own) < 1.0
    assert circular - psnr(restore_crop, y, canvas, prior=own, drawn=True) < 1.5


@pytest.mark.parametrize("drawn", [False, True])
def test_samples_are_independent_and_reproducible(drawn):
    prior, degradation = setup()
    y = np.random.default_rng(6).normal(size=(2, 3, *CROP))
    sampler, levels = pigdm(), vp_linear(3)
    problem = image_problem(prior, degradation, SIGMA_Y, channels=3)

    def run(key, **options):
        return restore_crop(
            sampler,
            GaussianDenoiser.of(prior),
            degradation,
            y,
            levels,
            heuristic(sampler, problem, levels),
            jax.random.key(key),
            prior=prior,
            sigma_y=SIGMA_Y,
            drawn=drawn,
            **options,
        )

    samples = run(0, num_samples=2)
    assert samples.shape == (2, *y.shape) and np.all(np.isfinite(samples))
    assert np.abs(samples[0] - samples[1]).max() > 0.01
    np.testing.assert_array_equal(run(0, num_samples=2), samples)
    assert run(0).shape == y.shape
    with pytest.raises(InputError, match="samples = 0"):
        run(0, num_samples=0)


def test_colours_are_filled_along_the_axes_of_the_prior(monkeypatch):
    """Axis by axis as planes of its own prior are; equal planes stay equal."""
    monkeypatch.setattr(borders, "TOLERANCE", 1e-12)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, 3, 16, 16)).cumsum(-1).cumsum(-2) / 20
    images[:, 1] = 0.8 * images[:, 0] + 0.2 * images[:, 1]
    wide = (-99.0, 99.0)
    prior = from_images(images, colour=True, pixel_range=wide)
    blur = on_canvas(gaussian_blur((16, 16), 1.0))
    canvas = resized(prior, blur.shape)
    y = jnp.asarray(images[0])
    found = extended(y, canvas, blur, None, sigma_y=0.1)
    np.testing.assert_array_equal(cropped(found, (16, 16)), y)
    turned = prior.along_axes(y)
    for axis in range(3):
        plane = Prior(canvas.spectrum[axis], canvas.mean[axis], wide, "")
        alone = extended(turned[axis], plane, blur, None, sigma_y=0.1)
        np.testing.assert_allclose(prior.along_axes(found)[axis], alone, rtol=0, atol=1e-9)
