"""Priors of any covariance: one dense block, against dense algebra."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL, EPS, Twin, coordinates, literal_total, random_guidance

import spectralpost as sp
from spectralpost.errors import InputError
from spectralpost.problem import prior_cov

pytestmark = pytest.mark.usefixtures("quick")

RNG = np.random.default_rng(0)
SHAPE, N, SIGMA_Y = (3, 4), 12, 0.3
ROOT = RNG.normal(size=(N, N)) / 3
C, MEAN, H = ROOT @ ROOT.T, RNG.normal(size=SHAPE), RNG.normal(size=(7, N))
LEVELS = sp.vp_linear(4)
DEGRADATION = sp.from_matrix(SHAPE, H)


@pytest.fixture(scope="module")
def problem():
    return sp.covariance_problem(DEGRADATION, C, SIGMA_Y, MEAN)


def test_the_posterior_is_that_of_dense_algebra(problem):
    """Mean (gain of y, in pixels) and covariance."""
    K, P = dense.posterior(H, MEAN.ravel(), C, SIGMA_Y)
    V, U = coordinates(DEGRADATION)
    found = sp.ideal_posterior(problem)
    np.testing.assert_allclose(V @ prior_cov(problem)[0] @ V.T, C, atol=1e3 * EPS)
    np.testing.assert_allclose(V @ problem.mean[0], MEAN.ravel(), atol=1e3 * EPS)
    # Of a condition of about |H C H^T| / sigma_y^2 < 1e3.
    np.testing.assert_allclose(V @ found.gain[0] @ U.T, K, atol=1e5 * EPS)
    np.testing.assert_allclose(V @ found.cov[0] @ V.T, P, atol=1e5 * EPS)


@pytest.mark.parametrize("name", ["exact", "dps", "tmpd"])
def test_w2_is_that_of_the_literal_algorithm(problem, name):
    """Of the exact score in four steps, and of published samplers."""
    V, U = coordinates(DEGRADATION)
    twin = Twin(problem, H, MEAN.ravel(), C, SIGMA_Y, V, U)
    guidance = random_guidance(name, 0, num_steps=4)
    A, B, Q, c = literal_total(name, twin, LEVELS, guidance)
    expected = dense.averaged_w2(A, B, Q, c, H, MEAN.ravel(), C, SIGMA_Y)
    sampler = ALL[name].make(problem)
    found = float(sp.evaluate(sampler, problem, LEVELS, guidance))
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_denoiser_is_the_conditional_mean():
    denoiser, t = sp.CovarianceDenoiser.of(C, SHAPE, MEAN), sp.NoiseLevel(0.8, 0.6)
    x_t, v = RNG.normal(size=(2, 5, *SHAPE))
    K, P = dense.posterior(0.8 * np.eye(N), MEAN.ravel(), C, 0.6)
    expected = MEAN.ravel() + (x_t - 0.8 * MEAN).reshape(5, N) @ K.T
    np.testing.assert_allclose(denoiser(x_t, t).reshape(5, N), expected, atol=1e4 * EPS)
    np.testing.assert_allclose(
        denoiser.cov(v, t).reshape(5, N), v.reshape(5, N) @ P, atol=1e4 * EPS
    )
    assert denoiser(x_t.astype(np.float32), t).dtype == np.float32


def test_schedules_are_learned_and_images_restored_as_predicted(problem):
    """Mean and variance of 4096 runs on one measurement, mode by mode, within 5 standard errors."""
    sampler = sp.SAMPLERS["diffpir"]()
    search = sp.Search(starts=2, max_iterations=20)
    learned = sp.learn(sampler, problem, LEVELS, search=search)
    assert learned.loss < learned.baselines["heuristic"]
    x_0 = (MEAN.ravel() + ROOT @ RNG.normal(size=N)).reshape(SHAPE)
    y = sp.measure(DEGRADATION, x_0, SIGMA_Y, jax.random.key(0))
    denoiser = sp.CovarianceDenoiser.of(C, SHAPE, MEAN)
    given = sampler, denoiser, DEGRADATION, y, LEVELS, learned.guidance
    found = sp.simulate(*given, jax.random.key(1), sigma_y=SIGMA_Y, num_runs=4096, batch_size=512)
    transfer = sp.sampler_transfer(sampler, problem, LEVELS, learned.guidance)
    centred = DEGRADATION.to_measurement_modes(y) - problem.response * problem.mean
    mean = jnp.einsum("bij,bj->bi", transfer.data_gain, centred) + transfer.offset + problem.mean
    cov = transfer.state_gain @ transfer.state_gain.mT + transfer.noise_cov
    var = jnp.diagonal(cov, axis1=-2, axis2=-1)
    assert np.all(np.abs(found.mean - mean) < 5 * np.sqrt(var / 4096))
    assert np.all(np.abs(found.var / var - 1) < 5 * np.sqrt(2 / 4096))


def test_a_stationary_covariance_is_the_stationary_prior():
    """Of a blur, whose modes are independent; of planes that are taken together, too."""
    prior, sampler = sp.power_law((4, 4), mean=0.2), sp.SAMPLERS["ddrm"]()
    blur, mosaic = sp.gaussian_blur((4, 4), 1.0), sp.mosaic((4, 4))
    one = dense.stationary(prior.spectrum)
    for degradation, covariance in ((blur, one), (mosaic, np.kron(np.eye(3), one))):
        expected = sp.image_problem(prior, degradation, 0.1)
        mean = np.broadcast_to(0.2, degradation.pixels)
        found = sp.covariance_problem(degradation, covariance, 0.1, mean)
        guidance = sampler.heuristic(expected, LEVELS)
        losses = [
            float(sp.evaluate(sampler, problem, LEVELS, guidance)) for problem in (found, expected)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"covariance": np.eye(3)}, r"covariance of shape \(3, 3\): \(12, 12\) is needed"),
        ({"covariance": ROOT}, "covariance: is not symmetric"),
        ({"covariance": C - np.eye(N)}, "has the eigenvalue -0.9.*; none may be negative"),
        ({"covariance": np.nan * C}, "covariance: all values must be finite"),
        ({"mean": np.zeros(3)}, r"mean of shape \(3,\): \(3, 4\) finite numbers"),
        ({"sigma_y": 0.0}, "sigma_y = 0: must be > 0"),
        ({"degradation": sp.identity((33, 32))}, "of 1056 pixels: at most 1024 are possible"),
    ],
)
def test_wrong_input_is_one_line(change, says):
    given = {"degradation": DEGRADATION, "covariance": C, "sigma_y": SIGMA_Y, "mean": MEAN}
    with pytest.raises(InputError, match=says) as error:
        sp.covariance_problem(**(given | change))
    assert "\n" not in str(error.value)


def test_images_of_another_size_or_of_several_levels_are_refused():
    denoiser, x = sp.CovarianceDenoiser.of(C, SHAPE, MEAN), np.zeros((N, *SHAPE))
    several = sp.NoiseLevel(np.full(N, 0.8), np.full(N, 0.6))
    for given, says in (
        ((x[..., 1:], sp.NoiseLevel(0.8, 0.6)), "the prior is of"),
        ((x, several), "one for all images is needed"),
    ):
        with pytest.raises(InputError, match=says):
            denoiser(*given)
