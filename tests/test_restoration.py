"""Images through the same updates: restore, and simulation against the closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS, random_guidance, total

from spectralpost.degradation import from_kernel, gaussian_blur
from spectralpost.denoiser import GaussianDenoiser
from spectralpost.noise import ve_karras, vp_linear
from spectralpost.prior import Prior, matern, power_law
from spectralpost.problem import image_problem
from spectralpost.restoration import measure, restore, simulate
from spectralpost.samplers.dps import dps
from spectralpost.transfer import sampler_transfer

SIGMA_Y = 0.2


def prior_samples(prior: Prior, num: int, channels: int = 1, seed: int = 0):
    """[num, channels, H, W] by shaping white noise, independently of the mode coordinates."""
    white = np.random.default_rng(seed).normal(size=(num, channels, *prior.shape))
    shaped = np.fft.ifft2(np.sqrt(prior.spectrum) * np.fft.fft2(white)).real
    return jnp.asarray(prior.mean + shaped)


def small_setup(shape=(16, 16)):
    """An asymmetric blur and a prior whose mean differs from pixel to pixel."""
    rng = np.random.default_rng(0)
    kernel = rng.uniform(size=(3, 4))
    prior = matern(shape, length=3.0, std=0.6)
    mean = 0.5 + 0.3 * rng.normal(size=shape)
    prior = Prior(prior.spectrum, mean, prior.pixel_range, "test")
    return prior, from_kernel(kernel / kernel.sum(), shape)


@pytest.mark.parametrize("name", ROWS)
def test_simulation_has_the_predicted_law(name, getkey):
    """Thousands of runs with the pixel-space denoiser: mean and variance of every mode.

    Nothing but the update is shared with the closed form. |z| < 5 for each of 2 x 256 numbers, and
    the mean of z^2 over the modes within 5 of its own standard errors, which sees what is too
    small for a single mode. The VE start at sigma 3 makes the bias of the start visible.
    """
    prior, degradation = small_setup()
    problem = image_problem(prior, degradation, SIGMA_Y)
    levels = ve_karras(8, sigma_max=3.0, sigma_min=0.05)
    guidance = random_guidance(name, 0, num_steps=8)
    transfer = total(name)(problem, levels, guidance)
    assert np.abs(transfer.offset).max() > 0.01
    y = measure(degradation, prior_samples(prior, 1)[0, 0], SIGMA_Y, getkey())
    moments = simulate(
        ROWS[name].make(problem),
        GaussianDenoiser.of(prior),
        degradation,
        y,
        levels,
        guidance,
        getkey(),
        sigma_y=SIGMA_Y,
        num_runs=4000,
        batch_size=1000,
    )
    assert moments.num_runs == 4000
    y_modes = degradation.to_measurement_modes(y) - problem.response * problem.mean
    mean = problem.mean + transfer.data_gain * y_modes + transfer.offset
    var = transfer.state_gain**2 + transfer.noise_cov
    z_mean = np.asarray((moments.mean - mean) / jnp.sqrt(var / moments.num_runs))
    z_var = np.asarray((moments.var / var - 1) / np.sqrt(2 / (moments.num_runs - 1)))
    for z in (z_mean, z_var):
        assert np.abs(z).max() < 5
        assert abs(np.mean(z**2) - 1) < 5 * np.sqrt(2 / z.size)


def test_mean_field_closure_predicts_normalised_dps(getkey):
    """The literal, not affine algorithm on 64x64 colour images against its mean-field closed form.

    The published check of the closure has the literal variance at 1.003 to 1.005 of the closed
    form; the standard error here is 0.001. Strong guidance, so that a norm of one plane instead
    of three would be seen.
    """
    shape, runs, channels = (64, 64), 64, 3
    prior, degradation = power_law(shape, std=0.3, mean=0.2), gaussian_blur(shape, 1.0)
    problem = image_problem(prior, degradation, SIGMA_Y, channels=channels)
    levels, sampler = vp_linear(40), dps(normalised=True)
    guidance = {"scale": jnp.full(40, 8.0), "eta": jnp.full(40, 0.8)}
    transfer = jax.jit(sampler_transfer, static_argnums=0)(sampler, problem, levels, guidance)
    x_0 = prior_samples(prior, runs, channels)
    y = measure(degradation, x_0, SIGMA_Y, getkey())
    out = restore(
        sampler,
        GaussianDenoiser.of(prior),
        degradation,
        y,
        levels,
        guidance,
        getkey(),
        sigma_y=SIGMA_Y,
    )
    y_modes = degradation.to_measurement_modes(y)

    def every(modes):
        return jnp.broadcast_to(modes, y_modes.shape)

    law = every(problem.mean + transfer.offset) + every(transfer.data_gain) * (
        y_modes - every(problem.response * problem.mean)
    )
    std = jnp.sqrt(transfer.state_gain**2 + transfer.noise_cov)
    z = np.asarray((degradation.to_modes(out) - law) / every(std))
    print(np.mean(z**2), (z.mean(axis=(0, 1)) * np.sqrt(runs * channels))[:5])
    assert abs(np.mean(z**2) - 1) < 0.015
    z_mean = z.mean(axis=(0, 1)) * np.sqrt(runs * channels)
    assert np.abs(z_mean).max() < 5 * np.sqrt(1.015)
    assert abs(np.mean(z_mean**2) - 1) < 0.015 + 5 * np.sqrt(2 / z_mean.size)
    # The guidance is not negligible: without it the output does not follow y at all.
    assert transfer.data_gain.max() > 0.5
