"""Grids of noise levels against published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS

from spectralpost.errors import InputError
from spectralpost.noise import (
    NoiseLevel,
    check_levels,
    log_snr,
    num_steps_of,
    rectified_flow,
    safe_divide,
    safe_sqrt,
    step_pairs,
    ve_karras,
    vp_cosine,
    vp_linear,
    vp_timesteps,
)


def test_vp_linear_published_values():
    """alpha-bar of the grid that all VP codes share, and the VE noise level of its ends."""
    levels = vp_linear(1000)
    alpha_bar = np.asarray(levels.alpha[:-1])[::-1] ** 2
    for index, value in ((0, 0.9999), (950, 1.06e-4), (990, 4.84e-5), (999, 4.04e-5)):
        np.testing.assert_allclose(alpha_bar[index], value, rtol=5e-3)
    ve = np.asarray(levels.sigma / levels.alpha)[:-1][::-1]
    np.testing.assert_allclose(ve[[999, 0]], [157.4, 0.0100], rtol=1e-3)
    np.testing.assert_allclose(alpha_bar[0], 1 - 1e-4, rtol=EPS)
    np.testing.assert_allclose(alpha_bar[1], (1 - 1e-4) * (1 - 1e-4 - 0.0199 / 999), rtol=4 * EPS)


def test_vp_timesteps_published_values():
    """DiffPIR's "quad" grid of 100 steps; the evenly spaced ones by their definition."""
    quadratic = vp_timesteps(100, "quadratic")
    np.testing.assert_array_equal(quadratic[:5], [999, 899, 857, 825, 798])
    np.testing.assert_array_equal(quadratic[-5:], [20, 15, 10, 5, 0])
    assert len(quadratic) == 100
    np.testing.assert_array_equal(vp_timesteps(5), [999, 749, 500, 250, 0])
    np.testing.assert_array_equal(vp_timesteps(4, "leading"), [750, 500, 250, 0])
    np.testing.assert_array_equal(vp_timesteps(20, "leading"), np.arange(950, -1, -50))
    np.testing.assert_array_equal(vp_timesteps(4, "trailing"), [999, 749, 499, 249])
    np.testing.assert_array_equal(vp_timesteps(1000), np.arange(999, -1, -1))
    np.testing.assert_array_equal(vp_timesteps(3, train_steps=3), [2, 1, 0])
    np.testing.assert_array_equal(vp_timesteps(1, "trailing"), [999])


def test_vp_cosine_is_the_published_curve():
    """The product of 1 - beta telescopes to f(t + 1) / f(0), but for the clipped last beta."""
    levels = vp_cosine(1000)
    alpha_bar = np.asarray(levels.alpha[:-1])[::-1] ** 2
    t = np.arange(1, 1001) / 1000
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alpha_bar[:-1], f[:-1], rtol=1e-8)  # f falls to 1e-6 at t = 998
    np.testing.assert_allclose(alpha_bar[-1], 1e-3 * alpha_bar[-2], rtol=1e-10)


def test_ve_karras_is_the_published_formula():
    """sigma_i = (max^(1/7) + i/(N-1) (min^(1/7) - max^(1/7)))^7, EDM's default 18 steps."""
    sigma = np.asarray(ve_karras(18).sigma)
    i = np.arange(18) / 17
    wanted = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigma[:-1], wanted, rtol=1e-12)
    np.testing.assert_allclose(sigma[1:4], [57.586, 40.785, 28.374], rtol=1e-4)
    assert sigma[-1] == 0


def test_rectified_flow_and_its_shift():
    np.testing.assert_allclose(rectified_flow(4).sigma, [1, 0.75, 0.5, 0.25, 0])
    # Esser et al.: t -> s t / (1 + (s - 1) t)
    np.testing.assert_allclose(rectified_flow(2, shift=3.0).sigma, [1, 0.75, 0])


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_all_grids_are_grids(num_steps):
    """[S + 1], valid, from noisy to clean, and on their own curve."""
    grids = {
        "vp": [
            make(num_steps, spacing)
            for make in (vp_linear, vp_cosine)
            for spacing in ("uniform", "leading", "trailing", "quadratic")
        ],
        "ve": [ve_karras(num_steps)],
        "flow": [rectified_flow(num_steps), rectified_flow(num_steps, shift=0.5)],
    }
    for kind, members in grids.items():
        for levels in members:
            assert check_levels(levels) is levels
            assert num_steps_of(levels) == num_steps
            assert levels.alpha.dtype == jnp.float64
            alpha, sigma = (np.asarray(leaf) for leaf in levels)
            assert alpha[-1] == 1 and sigma[-1] == 0
            constant = {"vp": alpha**2 + sigma**2, "ve": alpha, "flow": alpha + sigma}[kind]
            np.testing.assert_allclose(constant, 1, rtol=2 * EPS)
            t, s = step_pairs(levels)
            np.testing.assert_array_equal(t.sigma[1:], s.sigma[:-1])
            assert np.all(np.diff(np.asarray(log_snr(t))) > 0)


@pytest.mark.parametrize("make", [vp_linear, vp_cosine, ve_karras, rectified_flow])
@pytest.mark.parametrize("num_steps", [0, -1, 2.5, True])
def test_num_steps_errors(make, num_steps):
    with pytest.raises(InputError, match="whole number >= 1"):
        make(num_steps)


@pytest.mark.parametrize("make", [vp_linear, vp_cosine, ve_karras, rectified_flow])
def test_a_whole_number_may_be_a_float(make):
    """The check speaks of whole numbers, and YAML or a division may well write 10.0."""
    np.testing.assert_array_equal(make(4.0).sigma, make(4).sigma)


def test_grid_errors():
    for call, message in (
        (lambda: vp_linear(1001), "only 1000 time steps"),
        (lambda: vp_linear(10, "cosine"), "allowed are uniform, leading, trailing, quadratic"),
        (lambda: vp_linear(1000, "quadratic"), "visit a time step twice"),
        (lambda: ve_karras(5, sigma_min=0.0), "0 < sigma_min < sigma_max"),
        (lambda: ve_karras(5, sigma_min=2.0, sigma_max=1.0), "0 < sigma_min < sigma_max"),
        (lambda: rectified_flow(5, shift=0.0), "must be > 0"),
        (lambda: rectified_flow(5, shift=float("nan")), "must be > 0"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("alpha", "sigma", "message"),
    [
        ([1.0], [0.0], "S >= 1"),
        ([[0.5, 1.0]], [[0.5, 0.0]], "S >= 1"),
        ([0.5, 1.0], [0.5, 0.1, 0.0], "S >= 1"),
        ([0.5, np.nan], [0.5, 0.0], "finite"),
        ([0.5, 1.0], [np.inf, 0.0], "finite"),
        ([-0.5, 1.0], [0.5, 0.0], "alpha must be > 0"),
        ([0.5, 0.0], [0.5, 0.0], "alpha must be > 0"),
        ([0.5, 1.0], [0.5, -0.1], "sigma > 0"),
        ([0.5, 0.7, 1.0], [0.0, 0.0, 0.0], "sigma > 0"),
        ([0.5, 0.5], [0.5, 0.5], "must decrease"),
        ([0.9, 0.5], [0.5, 0.5], "must decrease"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 0.0], "must decrease"),
    ],
)
def test_check_levels_errors(alpha, sigma, message):
    with pytest.raises(InputError, match=message):
        check_levels(NoiseLevel(np.array(alpha), np.array(sigma)))


def test_log_snr():
    level = NoiseLevel(jnp.asarray([0.0, 0.6, 1.0]), jnp.asarray([1.0, 0.8, 0.0]))
    np.testing.assert_allclose(log_snr(level), [-np.inf, np.log(0.36 / 0.64), np.inf])


def test_safe_functions_and_their_gradients():
    """Values at the edge are 0 and so are gradients: no NaN from a branch not taken."""
    x = jnp.asarray([-1.0, 0.0, 4.0])
    value, slope = jax.vmap(jax.value_and_grad(safe_sqrt))(x)
    np.testing.assert_array_equal(value, [0, 0, 2])
    np.testing.assert_array_equal(slope, [0, 0, 0.25])
    value, slopes = jax.vmap(jax.value_and_grad(safe_divide, argnums=(0, 1)))(
        jnp.asarray([3.0, 0.0, 3.0]), jnp.asarray([0.0, 0.0, 2.0])
    )
    np.testing.assert_array_equal(value, [0, 0, 1.5])
    np.testing.assert_array_equal(slopes[0], [0, 0, 0.5])
    np.testing.assert_array_equal(slopes[1], [0, 0, -0.75])
