"""Gradient steps through restorations, judged by a proper score."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spectralpost as sp

SHAPE = (8, 8)
LEVELS = sp.vp_linear(4)
WIDE = {"pixel_range": (-9.0, 9.0)}  # nothing of what is drawn is outside
BLUR = sp.gaussian_blur(SHAPE, 1.0)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def prior():
    return sp.power_law(SHAPE, 2.0, std=0.4, **WIDE)


def test_energy_score_is_least_for_the_law_itself():
    """Of normal samples around a normal truth; a point estimate and too wide samples are worse."""
    keys = jax.random.split(jax.random.key(0), 2)
    x_0 = jax.random.normal(keys[0], (4000, 1, 2, 2))
    noise = jax.random.normal(keys[1], (2, 4000, 1, 2, 2))
    scores = {scale: sp.energy_score(scale * noise, x_0) for scale in (0.0, 0.6, 1.0, 1.6)}
    for scale in (0.0, 0.6, 1.6):
        worse = np.asarray(scores[scale] - scores[1.0])
        assert worse.mean() > 4 * worse.std() / np.sqrt(worse.size)


def test_energy_score_of_two_samples_an_image_alone():
    x_0 = np.zeros((4, 1, 8, 8))
    for shape in ((3, 4, 1, 8, 8), (2, 1, 1, 8, 8), (4, 1, 8, 8)):
        with pytest.raises(sp.InputError, match=r"samples of shape .* \(2, 4, 1, 8, 8\) is needed"):
            sp.energy_score(np.zeros(shape), x_0)
    whole = np.arange(2 * x_0.size).reshape(2, *x_0.shape)
    of_floats = sp.energy_score(whole.astype(float), np.zeros(x_0.shape))
    np.testing.assert_array_equal(sp.energy_score(whole, np.zeros(x_0.shape, int)), of_floats)


def test_energy_score_is_predicted(prior):
    """By the moments of its two norms exactly; and itself, as norms of many modes vary little."""
    sampler, denoiser = sp.SAMPLERS["diffpir"](), sp.GaussianDenoiser.of(prior)
    problem = sp.image_problem(prior, BLUR, 0.1)
    guidance = sampler.heuristic(problem, LEVELS)
    x_0 = jnp.asarray(sp.draw(prior, 4000)[:, None])
    y = sp.measure(BLUR, x_0, 0.1, jax.random.key(1))
    key = jax.random.key(2)
    x = sp.restore(sampler, denoiser, BLUR, y, LEVELS, guidance, key, sigma_y=0.1, num_samples=2)
    predicted = sp.evaluate(sampler, problem, LEVELS, guidance, sp.predicted_energy_score)
    squares = [np.mean(np.asarray(one) ** 2, axis=(1, 2, 3)) for one in (x[0] - x_0, x[0] - x[1])]
    (error, gap), (of_error, of_gap) = np.transpose(
        [(np.sqrt(one.mean()), one.std() / np.sqrt(one.size)) for one in squares]
    )
    tolerance = 4 * (of_error / (2 * error) + of_gap / (4 * gap))  # of a root: its derivative
    np.testing.assert_allclose(predicted, error - gap / 2, atol=tolerance)
    # E ||e|| is less than the root of E ||e||^2, by an eighth of the squares' relative variance to
    # second order, and by less than half as much again by the others.
    below = [np.sqrt(one.mean()) * (one.std() / one.mean()) ** 2 / 8 for one in squares]
    score = np.mean(sp.energy_score(x, x_0))
    np.testing.assert_allclose(predicted, score, atol=tolerance + 1.5 * sum(below))


def test_its_gradient_is_right(prior):
    """Through DPS, which differentiates the denoiser: against finite differences."""
    sampler, denoiser = sp.SAMPLERS["dps"](), sp.GaussianDenoiser.of(prior)
    x_0 = jnp.asarray(sp.draw(prior, 3)[:, None])
    y = sp.measure(BLUR, x_0, 0.1, jax.random.key(1))
    guidance = sampler.heuristic(sp.image_problem(prior, BLUR, 0.1), LEVELS)
    start = guidance["zeta"] * 20

    def score(zeta):
        weights = guidance | {"zeta": zeta}
        key = jax.random.key(2)
        x = sp.restore(sampler, denoiser, BLUR, y, LEVELS, weights, key, sigma_y=0.1, num_samples=2)
        return jnp.mean(sp.energy_score(x, x_0))

    gradient = jax.grad(score)(start)
    for i in range(4):
        shift = 1e-5 * start[i] * jnp.eye(4)[i]
        by_differences = (score(start + shift) - score(start - shift)) / (2 * shift[i])
        # Rounding eps / 1e-5 and truncation (1e-5)^2, relative.
        np.testing.assert_allclose(gradient[i], by_differences, rtol=1e-7, atol=1e-9)


def test_a_poor_schedule_gets_better_and_a_good_one_no_worse(prior):
    sampler, denoiser = sp.SAMPLERS["diffpir"](), sp.GaussianDenoiser.of(prior)
    images = sp.draw(prior, 32)
    problem = sp.image_problem(prior, BLUR, 0.1)
    poor = sampler.heuristic(problem, LEVELS)
    polish = partial(sp.polish, sampler, denoiser, images, BLUR, 0.1, LEVELS, steps=12, **WIDE)
    seen = []
    found = polish(
        poor,
        learning_rate=0.3,
        progress=lambda i, score: seen.append(score),
    )
    assert found.kept_out.min() < 0.97 * found.kept_out[0]
    np.testing.assert_array_equal(found.kept_out[1:], seen)
    assert found.curve.shape == (len(seen),) and found.seconds > 0
    # The distance to the posterior, which polishing does not know, falls with the score.
    before, after = (sp.evaluate(sampler, problem, LEVELS, g) for g in (poor, found.guidance))
    assert after < 0.7 * before
    # Steps that are too large make it worse: it ends early, with what it was given.
    wild = polish(found.guidance, free=("lambda_",), learning_rate=30.0, patience=2)
    assert len(wild.curve) < 12
    assert wild.kept_out.min() == wild.kept_out[0]
    for name, weights in found.guidance.items():
        np.testing.assert_array_equal(wild.guidance[name], weights)


def test_bad_input(prior):
    sampler, denoiser = sp.SAMPLERS["diffpir"](), sp.GaussianDenoiser.of(prior)
    guidance = sampler.heuristic(sp.image_problem(prior, BLUR, 0.1), LEVELS)
    images = sp.draw(prior, 8)
    call = lambda images, **others: sp.polish(  # noqa: E731
        sampler, denoiser, images, BLUR, 0.1, LEVELS, guidance, **WIDE | others
    )
    for given, others, message in (
        (images[:7], {}, "images: 7; 8 at least are needed"),
        (images[0], {}, "images of shape"),
        (images, {"free": ("zeta_",)}, "diffpir has the weights lambda_, zeta"),
        (images, {"steps": 0}, "steps = 0"),
        (images, {"pixel_range": (-0.1, 0.1)}, r"images: pixels from .*range \[-0.1, 0.1\]"),
        (127.5 * (images + 1), {}, r"images: pixels from .*outside of the pixel range \[-9, 9\]"),
        (images * np.nan, {}, "images: NaN or infinite pixels"),
        (images, {"pixel_range": (9.0, -9.0)}, "low < high is needed"),
        (images, {"learning_rate": 0.0}, "learning_rate = 0.0: must be > 0 and finite"),
        (images, {"seed": -1}, "seed = -1: must be a whole number >= 0"),
    ):
        with pytest.raises(sp.InputError, match=message):
            call(given, **others)
    for sigma_y in (0.0, np.nan):
        with pytest.raises(sp.InputError, match=f"sigma_y = {sigma_y:g}"):
            sp.polish(sampler, denoiser, images, BLUR, sigma_y, LEVELS, guidance, **WIDE)
    with pytest.raises(sp.InputError, match="restores to NaN"):
        sp.polish(sampler, lambda x, t: x * jnp.nan, images, BLUR, 0.1, LEVELS, guidance, **WIDE)


def test_a_network_of_another_pixel_range_is_refused(prior):
    images = np.stack([sp.draw(prior, 3, seed=i) for i in range(8)]).clip(-1, 1)
    sampler = sp.SAMPLERS["diffpir"]()
    guidance = sampler.heuristic(sp.image_problem(prior, BLUR, 0.1), LEVELS)
    network = sp.load_unet().in_range((0, 255))
    with pytest.raises(sp.InputError, match="denoiser: is for pixels from 0 to 255"):
        sp.polish(sampler, network, images, BLUR, 0.1, LEVELS, guidance)


def test_a_second_call_compiles_nothing(prior):
    """Of other images, another seed and another rate."""
    sampler, gaussian, traced = sp.SAMPLERS["ddnm"](), sp.GaussianDenoiser.of(prior), []

    def denoiser(x_t, level):
        traced.append(1)
        return gaussian(x_t, level)

    guidance = sampler.heuristic(sp.image_problem(prior, BLUR, 0.1), LEVELS)
    known = None
    for seed, rate in ((0, 0.05), (1, 0.1)):
        given = sampler, denoiser, sp.draw(prior, 8, seed=seed), BLUR, 0.1, LEVELS, guidance
        polished = sp.polish(*given, steps=2, seed=seed, learning_rate=rate, **WIDE)
        assert len(traced) == (known or len(traced))
        known = len(traced)
    assert polished.curve.size == 2
