"""A denoiser's error against the Gaussian model's: calibration, and closed forms that use it."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS

import spectralpost as sp
from spectralpost.calibration import LEVELS, Calibration, Profile
from spectralpost.denoiser_checks import check_made_for
from spectralpost.denoisers.calibrating import _rings
from spectralpost.denoisers.gaussian import GaussianDenoiser
from spectralpost.denoisers.unet import load_unet
from spectralpost.learning.jacobian import linearise
from spectralpost.merging import bin_modes, stack_problems, unique_modes
from spectralpost.noise import NoiseLevel
from spectralpost.prior import draw, frequency, resized
from spectralpost.prior_file import load_prior, save_prior
from spectralpost.transfer import step_transfer

SHAPE = (16, 16)
SCALES, PROBABILITIES = np.array([0.2, 3.0]), np.array([0.7, 0.3])  # mean 1.04


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def prior():
    return sp.power_law(SHAPE, 2.0, std=0.3, pixel_range=(-9.0, 9.0))


def mixture_denoiser(prior, x_t, t):
    """Exact for x_0 | c ~ N(0, c C), images [..., H, W]: gains weighted by p(c | x_t)."""
    spectrum = jnp.asarray(prior.spectrum)
    x = jnp.fft.fft2(x_t, norm="ortho")
    variance = t.alpha**2 * SCALES[:, None, None] * spectrum[None] + t.sigma**2
    power = jnp.abs(x[..., None, :, :]) ** 2
    fits = -0.5 * jnp.sum(power / variance + jnp.log(variance), axis=(-2, -1))
    share = jax.nn.softmax(fits + jnp.log(PROBABILITIES), axis=-1)
    gains = t.alpha * SCALES[:, None, None] * spectrum[None] / variance
    gain = jnp.sum(share[..., None, None] * gains, axis=-3)
    return jnp.fft.ifft2(gain.astype(x.dtype) * x, norm="ortho").real


def draw_mixture(prior, num):
    """With each scale's share exact, which would be most of the error."""
    scales = np.repeat(SCALES, np.rint(num * PROBABILITIES).astype(int))
    return np.sqrt(scales)[:, None, None] * draw(prior, num, seed=2)


@pytest.fixture(scope="module")
def calibrated(prior):
    """The prior of the mixture's own second moments, with the mixture denoiser's calibration."""
    mean = float(SCALES @ PROBABILITIES)
    scaled = sp.Prior(mean * prior.spectrum, prior.mean, prior.pixel_range, "mixture")
    with jax.numpy_rank_promotion("allow"):
        return sp.calibrate(scaled, partial(mixture_denoiser, prior), draw_mixture(prior, 600))


def test_the_gaussian_denoiser_has_ratio_1(prior):
    images = draw(prior, 400, seed=3)
    profile = sp.calibrate(prior, GaussianDenoiser.of(prior), images).calibration
    # A ring's squared error is a sum of independent squares of normal variables: a ratio of n of
    # them has the standard deviation sqrt(2 / n), n the images times the pixels of a ring.
    pixels = np.bincount(_rings(frequency(SHAPE))[0])
    z = (profile.ratio - 1) / np.sqrt(2 / (400 * pixels))[:, None]
    assert np.abs(z).max() < 4.5 and z.std() < 1.3


def test_ratios_predict_the_mean_jacobian(prior, calibrated):
    """Of the exact denoiser of a mixture: E J = ratio x gain on every ring, and ratio < 1."""
    images = jnp.asarray(draw_mixture(prior, 400))
    ring = _rings(frequency(SHAPE))[0]
    pixels = np.bincount(ring)
    for k in (3, 5, 6, 8):
        t = NoiseLevel(jnp.asarray(1.0), jnp.asarray(9 * LEVELS[k]))
        keys = jax.random.split(jax.random.key(k))
        x_t = images + t.sigma * jax.random.normal(keys[0], images.shape)
        v = jax.random.normal(keys[1], images.shape)
        with jax.numpy_rank_promotion("allow"):
            pushed = jax.jvp(lambda x: mixture_denoiser(prior, x, t), (x_t,), (v,))[1]  # noqa: B023
        product = np.fft.fft2(v, norm="ortho").conj() * np.fft.fft2(pushed, norm="ortho")
        trace = np.stack([np.bincount(ring, one.real.ravel()) for one in product]) / pixels
        measured = trace.mean(axis=0)
        error = trace.std(axis=0, ddof=1) / np.sqrt(len(images))
        gain = calibrated.spectrum / (calibrated.spectrum + float(t.sigma) ** 2)
        # Over a ring J averages as the model's error does, by alpha / sigma^2 m.
        gain = np.bincount(ring, gain.ravel()) / pixels
        predicted = calibrated.calibration.ratio[:, k] * gain
        assert np.abs((measured - predicted) / np.hypot(error, 0.02 * measured)).max() < 4.5
    # A least-squares denoiser is never worse; ring 0 has 9 pixels in 600 images.
    assert calibrated.calibration.ratio.max() < 1 + 4.5 * np.sqrt(2 / (600 * 9))
    assert calibrated.calibration.ratio[:, 4:8].min() < 0.8


def test_the_regression_is_the_gaussian_gain(prior, calibrated):
    """E <x_t, x_hat> / E |x_t|^2 = E <x_t, x_0> / E |x_t|^2, whatever is known of x_0 beyond its
    second moments: that of the Gaussian model on every ring, and not the calibrated Jacobian."""
    images = jnp.asarray(draw_mixture(prior, 400))
    ring, of_the_slope = _rings(frequency(SHAPE))[0], []
    for k in (3, 5, 6, 8):
        t = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.8 * 9 * LEVELS[k]))
        x_t = t.alpha * images + t.sigma * jax.random.normal(jax.random.key(k), images.shape)
        with jax.numpy_rank_promotion("allow"):
            x_hat = mixture_denoiser(prior, x_t, t)
        noisy, clean = (np.fft.fft2(np.asarray(one), norm="ortho") for one in (x_t, x_hat))
        gain = 0.8 * calibrated.spectrum / (0.64 * calibrated.spectrum + float(t.sigma) ** 2)
        ratio = calibrated.calibration.ratio[:, k][ring].reshape(SHAPE)

        def z_of(slope, noisy=noisy, clean=clean):
            """Of E <x_t, x_hat - slope x_t> = 0, ring by ring."""
            rest = (noisy.conj() * (clean - slope * noisy)).real
            sums = np.stack([np.bincount(ring, one.ravel()) for one in rest])
            return sums.mean(axis=0) / (sums.std(axis=0, ddof=1) / np.sqrt(len(sums)))

        assert np.abs(z_of(gain)).max() < 4.5
        of_the_slope.append(np.abs(z_of(ratio * gain)).max())
    assert max(of_the_slope) > 6  # at little noise; at much the two are one


def of_scales(values):
    """Mean over `draw_mixture` and its standard error: each scale has its share exactly."""
    parts = np.split(values, [round(len(values) * PROBABILITIES[0])])
    squares = [p**2 * x.var(ddof=1) / len(x) for p, x in zip(PROBABILITIES, parts, strict=True)]
    return values.mean(), np.sqrt(np.sum(squares))


def test_calibrated_predictions_are_nearer_to_the_denoiser_s(prior, calibrated):
    """Of PiGDM with the mixture's denoiser: error and energy score, beside what the model predicts
    with and without the calibration, by more than 4 standard errors.

    At a noise where the Jacobian counts: at much more, where it hardly does, the mixture's denoiser
    knows more of an image than either model.
    """
    plain = sp.Prior(calibrated.spectrum, calibrated.mean, calibrated.pixel_range, "plain")
    blur, levels, sampler = sp.gaussian_blur(SHAPE, 1.0), sp.vp_linear(5), sp.SAMPLERS["pigdm"]()
    denoiser = partial(mixture_denoiser, prior)
    x_0 = jnp.asarray(draw_mixture(prior, 3000))[:, None]
    for sigma_y in (0.1, 0.3):
        problems = [sp.image_problem(one, blur, sigma_y) for one in (calibrated, plain)]
        guidance = sampler.heuristic(problems[1], levels)
        y = sp.measure(blur, x_0, sigma_y, jax.random.key(1))
        run = sampler, denoiser, blur, y, levels, guidance, jax.random.key(2)
        with jax.numpy_rank_promotion("allow"):
            x = np.asarray(sp.restore(*run, sigma_y=sigma_y, num_samples=2))
        error, gap = (np.mean(d**2, axis=(1, 2, 3)) for d in (x[0] - np.asarray(x_0), x[0] - x[1]))
        (mse, of_mse), (mean_gap, _) = of_scales(error), of_scales(gap)
        # As predicted, of roots of means; their error by the derivatives of the roots.
        energy = np.sqrt(mse) - np.sqrt(mean_gap) / 2
        of_energy = of_scales(error / (2 * np.sqrt(mse)) - gap / (4 * np.sqrt(mean_gap)))[1]
        for measured, standard_error, objective in (
            (mse, of_mse, sp.mse),
            (energy, of_energy, sp.predicted_energy_score),
        ):
            near, far = (
                abs(measured - float(sp.evaluate(sampler, one, levels, guidance, objective)))
                for one in problems
            )
            assert far - near > 4 * standard_error


# They see no Jacobian; DAPS takes long, and `exact` knows the problem.
WITHOUT = [name for name, row in ROWS.items() if not row.jacobian and name not in ("exact", "daps")]


def problem_of(prior, std=1.0):
    return sp.image_problem(prior, sp.gaussian_blur(prior.shape, std), 0.1)


def test_a_ratio_of_1_changes_nothing(prior):
    problem = problem_of(prior)
    ones = jnp.ones((problem.spectrum.size, LEVELS.size))
    same = problem._replace(calibration=Calibration(ones, jnp.asarray(9.0)))
    levels = sp.vp_linear(5)
    for name in ("dps", "pigdm", "tmpd", "freehunch", "mcg", "diffpir"):
        sampler = sp.SAMPLERS[name]()
        guidance = sampler.heuristic(problem, levels)
        chex.assert_trees_all_close(
            sp.sampler_transfer(sampler, problem, levels, guidance),
            sp.sampler_transfer(sampler, same, levels, guidance),
            rtol=1e-10,
            atol=1e-12,
        )


def test_gain_and_jacobian_enter_where_the_update_has_them(calibrated):
    """By hand: x_s = DDIM(g x_t) + pull (y - h g x_t), pull by J; g and J are two numbers."""
    problem = problem_of(calibrated)
    t, s = (
        NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6)),
        NoiseLevel(jnp.asarray(0.9), jnp.sqrt(0.19)),
    )
    g = t.alpha * problem.spectrum / (t.alpha**2 * problem.spectrum + t.sigma**2)
    octaves = np.log2(0.6 / (0.8 * 9))
    i = int(np.floor(octaves)) + 7
    share = octaves - np.floor(octaves)
    table = np.asarray(problem.calibration.ratio)
    j = ((1 - share) * table[:, i] + share * table[:, i + 1]) * g
    assert np.abs(j / g - 1).max() > 0.05
    h = problem.response
    r2 = 0.6**2
    weights = {
        "dps": ({"zeta": jnp.asarray(0.7), "eta": jnp.asarray(0.0)}, 2 * 0.7 * j * h),
        "pigdm": (
            {"weight": jnp.asarray(0.7), "eta": jnp.asarray(0.0)},
            0.7 * 0.9 * 0.8 * j * r2 * h / (r2 * h**2 + problem.sigma_y**2),
        ),
        # replaces x_hat: DDIM(0) hands on alpha_s - sigma_s alpha_t / sigma_t of the change
        "freehunch": (
            {"weight": jnp.asarray(0.7), "eta": jnp.asarray(0.0)},
            (s.alpha - s.sigma * t.alpha / t.sigma)
            * (0.7 * 0.36 / 0.8 * j * h / (h**2 * (0.36 / 0.8 * g) + problem.sigma_y**2)),
        ),
    }
    for name, (guidance, pull) in weights.items():
        one = step_transfer(sp.SAMPLERS[name](), problem, t, s, guidance)
        ddim = s.alpha * g + s.sigma * (1 - t.alpha * g) / t.sigma
        np.testing.assert_allclose(one.state_gain, ddim - pull * h * g, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(one.data_gain, pull, rtol=1e-9, atol=1e-12)


def test_samplers_without_jacobian_do_not_see_it(calibrated):
    problem, levels = problem_of(calibrated), sp.vp_linear(4)
    samplers = [sp.SAMPLERS[name]() for name in WITHOUT]
    for sampler in (*samplers, sp.SAMPLERS["freehunch"](jacobian=0)):
        guidance = sampler.heuristic(problem, levels)
        chex.assert_trees_all_equal(
            sp.sampler_transfer(sampler, problem, levels, guidance),
            sp.sampler_transfer(sampler, problem._replace(calibration=None), levels, guidance),
        )


def test_ratios_between_levels(prior):
    rows = jnp.asarray(np.random.default_rng(0).uniform(0.2, 1, (3, LEVELS.size)))
    calibration = Calibration(rows, jnp.asarray(2.0))
    at = lambda sigma, alpha=1.0: calibration.at(NoiseLevel(jnp.asarray(alpha), jnp.asarray(sigma)))  # noqa: E731
    np.testing.assert_allclose(at(2 * LEVELS[4]), rows[:, 4], rtol=1e-12)
    np.testing.assert_allclose(at(LEVELS[4], 0.5), rows[:, 4], rtol=1e-12)
    middle = (rows[:, 4] + rows[:, 5]) / 2
    np.testing.assert_allclose(at(2 * np.sqrt(LEVELS[4] * LEVELS[5])), middle, rtol=1e-12)
    np.testing.assert_allclose(at(1.0, 0.0), rows[:, -1], rtol=1e-12)
    np.testing.assert_allclose(at(0.0), rows[:, 0], rtol=1e-12)


def test_merging_keeps_losses(calibrated):
    problem, levels = problem_of(calibrated), sp.vp_linear(6)
    sampler = sp.SAMPLERS["pigdm"]()
    guidance = sampler.heuristic(problem, levels)
    loss = lambda p: float(sp.wasserstein2(p, sp.sampler_transfer(sampler, p, levels, guidance)))  # noqa: E731
    small = unique_modes(problem)[0]
    assert small.spectrum.size < problem.spectrum.size / 4
    np.testing.assert_allclose(loss(small), loss(problem), rtol=1e-9)
    np.testing.assert_allclose(loss(bin_modes(small, 30)[0]), loss(problem), rtol=0.05)
    both = stack_problems([small, bin_modes(small, 20)[0]])
    assert both.calibration.ratio.shape == (2, small.spectrum.size, LEVELS.size)
    with pytest.raises(sp.InputError, match="all or none must be calibrated"):
        stack_problems([small, small._replace(calibration=None)])


def test_all_gradients_agree(calibrated):
    """Reverse mode through the trajectory, the chunked engine, the Jacobian of the chain."""
    problem = unique_modes(problem_of(calibrated))[0]
    levels, sampler = sp.vp_linear(5), sp.SAMPLERS["pigdm"]()
    guidance = sampler.heuristic(problem, levels)

    def loss(weight):
        transfer = sp.sampler_transfer(sampler, problem, levels, guidance | {"weight": weight})
        return sp.wasserstein2(problem, transfer)

    wanted, by_hand = jax.jit(jax.value_and_grad(loss))(guidance["weight"])
    value, chunked = sp.loss_and_gradient(sampler, problem, levels, guidance, ("weight",), chunk=16)
    np.testing.assert_allclose(value, wanted, rtol=1e-10)
    np.testing.assert_allclose(chunked["weight"], by_hand, rtol=1e-8, atol=1e-14)
    residuals = lambda problem, transfer: transfer.state_gain + transfer.data_gain  # noqa: E731
    by_chain, _ = jax.jit(
        lambda moved: linearise(sampler, problem, levels, guidance, moved, residuals)
    )({"weight": {"weight": jnp.eye(5)}})

    def all_residuals(weight):
        transfer = sp.sampler_transfer(sampler, problem, levels, guidance | {"weight": weight})
        return residuals(problem, transfer)

    whole = jax.jit(jax.jacfwd(all_residuals))(guidance["weight"])
    jacobian = by_chain.jacobian["weight"].sum(axis=1)
    np.testing.assert_allclose(jacobian.T, whole, rtol=1e-8, atol=1e-12)


def test_learned_for_the_jacobian(calibrated):
    problem, levels, sampler = problem_of(calibrated), sp.vp_linear(4), sp.SAMPLERS["pigdm"]()
    problem = unique_modes(problem)[0]
    search = sp.Search(starts=2)
    uncalibrated = problem._replace(calibration=None)  # from which the search begins
    plain = sp.learn(sampler, uncalibrated, levels, search=search._replace(optimizer="adam"))
    learned = sp.learn(sampler, problem, levels, plain.guidance, search=search)
    assert learned.loss < learned.baselines["heuristic"]
    assert learned.loss <= learned.baselines["tuned_constant"]


def test_files_sizes_and_hashes(calibrated, tmp_path):
    save_prior(tmp_path / "prior.npz", calibrated)
    stored = load_prior(tmp_path / "prior.npz")
    chex.assert_trees_all_equal(stored.calibration, calibrated.calibration)
    assert stored.hash == calibrated.hash
    bare = sp.Prior(calibrated.spectrum, calibrated.mean, calibrated.pixel_range, "mixture")
    assert bare.hash != calibrated.hash
    larger = resized(calibrated, (32, 32))
    assert larger.calibration is calibrated.calibration
    ratio = problem_of(larger).calibration.ratio
    assert ratio.shape == (32 * 32, LEVELS.size) and np.all(np.isfinite(ratio))


@pytest.mark.parametrize(
    "frequency, ratio",
    [
        (np.array([0.2, 0.1]), np.ones((2, LEVELS.size))),
        (np.array([0.1, 0.2]), np.ones((2, 3))),
        (np.array([0.1, 0.2]), -np.ones((2, LEVELS.size))),
        (np.array([0.1, np.nan]), np.ones((2, LEVELS.size))),
        (np.zeros(0), np.ones((0, LEVELS.size))),
        (np.array(["a", "b"]), np.ones((2, LEVELS.size))),
    ],
)
def test_broken_calibrations_are_refused(prior, tmp_path, frequency, ratio):
    broken = sp.Prior(prior.spectrum, prior.mean, prior.pixel_range, "x", Profile(frequency, ratio))
    save_prior(tmp_path / "prior.npz", broken)
    with pytest.raises(sp.InputError, match="a calibration is ascending frequencies"):
        load_prior(tmp_path / "prior.npz")


def test_bad_input(prior):
    images = draw(prior, 8, seed=3)
    same = lambda x, t: x  # noqa: E731
    for given, denoiser, message in (
        (
            images[:2],
            GaussianDenoiser.of(prior),
            "images: 2 calibrate to .* only; about .* are",
        ),
        (images[:1], GaussianDenoiser.of(prior), "images: 1 is too few; about 64"),
        (images[0], same, r"images of shape \(16, 16\)"),
        (images + 100, same, r"images: pixels from .* outside of the pixel range \[-9, 9\]"),
        (images * np.nan, same, "images: NaN or infinite pixels"),
        (
            np.abs(images),
            same,
            r"images: pixels from .* one side of the prior's mean 0; .*\[-9, 9\]",
        ),
        (-np.abs(images), same, "one side of the prior's mean"),
        (images, lambda x, t: x[:, :8], r"returns the shape \(8, 8, 16\) for \(8, 16, 16\)"),
        (
            images,
            lambda x, t: (x, t),
            r"denoiser: returns tuple; real images of shape \(8, 16, 16\)",
        ),
        (images, lambda x, t: jnp.fft.fft(x), "denoiser: returns complex128; real images"),
        (
            images,
            lambda x, t: jnp.where(t.sigma > 9 * LEVELS[3], jnp.nan, x),
            f"returns NaN or infinite pixels at the level alpha = 1, sigma = {9 * LEVELS[4]:.4g}",
        ),
    ):
        with pytest.raises(sp.InputError, match=message) as refused:
            sp.calibrate(prior, denoiser, given)
        assert "\n" not in str(refused.value)


def test_pixel_ranges_that_are_not_the_prior_s():
    """Images about mid-grey, read as [0, 1] or 0..255 for a prior of [-1, 1]."""
    prior = sp.power_law(SHAPE, 1.5, std=0.4, mean=-0.1)
    images = draw(prior, 300).clip(-1, 1)
    gaussian = GaussianDenoiser.of(prior)
    assert sp.calibrate(prior, gaussian, images).calibration is not None
    unit = (images + 1) / 2
    for given, message in (
        (unit, r"pixels from 0 to 1, all on one side of the prior's mean -0.1; .*\[-1, 1\]"),
        (unit * 255, r"pixels from 0 to 255, outside of the pixel range \[-1, 1\]"),
    ):
        with pytest.raises(sp.InputError, match=message):
            sp.calibrate(prior, gaussian, given)


def test_a_network_of_another_pixel_range_is_refused(prior):
    """As far as it says so, also within what it is wrapped in."""
    network = load_unet()
    images = np.stack([draw(prior, 3, seed=i) for i in range(8)]) / 9
    planes = sp.power_law(SHAPE, 2.0, std=0.3)
    wrong = network.in_range((0, 255))
    for denoiser in (
        wrong,
        sp.WithCovariance.of(wrong, planes),
        sp.GaussianAbove.of(wrong, planes, 1.0),
    ):
        with pytest.raises(sp.InputError, match=r"denoiser: is for pixels from 0 to 255.*-1 to 1"):
            sp.calibrate(planes, denoiser, images)
    check_made_for(network, (-1, 1))
    check_made_for(sp.WithCovariance.of(network, planes), (-1, 1))
    check_made_for(GaussianDenoiser.of(prior), (0, 255))


def test_a_denoiser_that_is_worse_than_the_model_is_said_to_be(prior):
    images, told = draw(prior, 64, seed=3), []
    sp.calibrate(prior, lambda x_t, t: x_t / t.alpha, images, notice=told.append)  # nothing at all
    (text,) = told
    assert "squared error is" in text and "GaussianAbove" in text


def test_how_many_images_are_needed_is_said(prior):
    """Where they are few, but not too few; that many are enough."""
    gaussian, told = GaussianDenoiser.of(prior), []
    sp.calibrate(prior, gaussian, draw(prior, 12, seed=3), notice=told.append)
    (text,) = told
    found = re.fullmatch(
        r"images: 12 calibrate to (\d+)% only; about (\d+) are needed for 5%", text
    )
    error, needed = int(found[1]), int(found[2])
    assert 5 < error <= 20 and needed > 12
    # The error falls with the root of their number, and is itself known from 12 images: a sample
    # standard deviation is 1 / sqrt(2 * 11) of it off, and twice as many leave room for 2 of that.
    sp.calibrate(prior, gaussian, draw(prior, 2 * needed, seed=3), notice=told.append)
    assert len(told) == 1
