"""Weights and the unconstrained numbers that optimisers see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spectralpost as sp
from spectralpost.errors import InputError
from spectralpost.learning.guidance import (
    BOUNDARY,
    band_knots,
    band_membership,
    band_position,
    constant_grid,
    constrain,
    from_weight,
    interpolation,
    log_snr_position,
    low_pass,
    per_mode,
    roughness,
    smooth_curves,
    to_weight,
    unconstrain,
)
from spectralpost.noise import NoiseLevel, rectified_flow, ve_karras, vp_linear
from spectralpost.problem import make_problem

EPS = np.finfo(float).eps


@pytest.mark.parametrize("constraint", ["nonnegative", "unit"])
def test_weights_and_back(constraint):
    """u -> weight -> u. A relative error of the weight is one of u times weight / (d weight / d u).

    200 eps: XLA's log1p is off by 87 eps at -0.41.
    """
    low, high = -np.log(1 / BOUNDARY), np.log(1 / BOUNDARY)
    if constraint == "nonnegative":  # where weights of all sizes are kept
        low, high = 4 * low, 4 * high
    u = jnp.linspace(low, high, 101)[1:-1]
    again = from_weight(constraint, to_weight(constraint, u))
    slope = jax.vmap(jax.grad(lambda u: to_weight(constraint, u)))(u)
    allowed = 200 * EPS * (to_weight(constraint, u) / slope + jnp.abs(u))
    assert np.all(np.abs(again - u) <= allowed)


@pytest.mark.parametrize("constraint", ["nonnegative", "unit"])
def test_unconstrained_numbers_and_back(constraint):
    """weight -> u -> weight. exp passes on an absolute error of u as a relative one."""
    weight = jnp.geomspace(2 * BOUNDARY, 0.99, 101)
    u = from_weight(constraint, weight)
    again = to_weight(constraint, u)
    assert np.all(np.abs(again - weight) <= 8 * EPS * (1 + jnp.abs(u)) * weight)


def test_boundaries_are_finite():
    """Published defaults are often 0 or 1; u must stay finite, the weight next to them."""
    ends = jnp.asarray([0.0, 1.0])
    u = from_weight("unit", ends)
    assert np.all(np.isfinite(u))
    np.testing.assert_allclose(
        to_weight("unit", u), [BOUNDARY, 1 - BOUNDARY], rtol=0, atol=10 * EPS
    )
    u = from_weight("nonnegative", jnp.zeros(1))
    np.testing.assert_allclose(to_weight("nonnegative", u), BOUNDARY, rtol=20 * EPS)
    # relative to the smallest weight: schedules of small weights are kept, and of any range
    small = jnp.asarray([1e-9, 1e8, 0.0])
    u = from_weight("nonnegative", small)
    np.testing.assert_allclose(
        to_weight("nonnegative", u), [1e-9, 1e8, BOUNDARY * 1e-9], rtol=50 * EPS
    )


def test_weights_stay_in_their_range():
    """However far an optimiser goes, short of overflow."""
    u = jnp.asarray([-700.0, -40.0, 0.0, 40.0, 700.0])
    assert np.all(to_weight("nonnegative", u) > 0)
    unit = to_weight("unit", u)
    assert np.all((unit >= 0) & (unit <= 1)) and unit[2] == 0.5


def test_whole_schedules():
    constraint = {"zeta": "nonnegative", "eta": "unit"}
    weights = {"eta": jnp.asarray([0.25, 0.75]), "zeta": jnp.asarray([3.0, 0.01])}
    u = unconstrain(constraint, weights)
    again = constrain(constraint, u)
    assert set(again) == set(weights)
    for name in weights:
        np.testing.assert_array_equal(u[name], from_weight(constraint[name], weights[name]))
        np.testing.assert_allclose(again[name], weights[name], rtol=50 * EPS)


def test_constant_grid_of_one_weight():
    """Evenly spaced, ends included."""
    grid = constant_grid(1)
    np.testing.assert_allclose(grid, np.linspace(-1, 1, 128)[:, None], rtol=0, atol=4 * EPS)


@pytest.mark.parametrize(("num_weights", "parts"), [(2, 8), (3, 3)])
def test_constant_grid_of_several_weights(num_weights, parts):
    """Cut the range of each weight into parts: there is a point in every combination."""
    grid = constant_grid(num_weights, 128)
    assert grid.shape == (128, num_weights)
    cells = np.floor((grid + 1) / 2 * parts).astype(int)
    assert cells.min() == 0 and cells.max() == parts - 1
    assert len(np.unique(cells, axis=0)) == parts**num_weights


def test_constant_grid_of_many_weights():
    """No two are alike, and each goes through its range."""
    grid = constant_grid(12, 128)
    assert grid.shape == (128, 12)
    assert len(np.unique(grid.T, axis=0)) == 12 and np.all(np.ptp(grid, axis=0) > 1.5)


def test_smooth_curves_have_the_stated_law():
    """At the noisy end all cosines are 1: variance 4 + 1 + 4/9 + 1/4. |z| < 5."""
    num = 4000
    curves = smooth_curves(np.random.default_rng(0), ve_karras(12), num)
    assert curves.shape == (num, 12)
    variance = 4 + 1 + 4 / 9 + 1 / 4
    assert abs(curves[:, 0].mean()) < 5 * np.sqrt(variance / num)
    assert abs(curves[:, 0].var() / variance - 1) < 5 * np.sqrt(2 / num)


def test_smooth_curves_are_smooth():
    """The steepest of four cosines of amplitude s_k turns by s_k pi k per unit of log-SNR range."""
    levels = vp_linear(200)
    curves = smooth_curves(np.random.default_rng(1), levels, 200)
    position = 2 * np.log(np.asarray(levels.alpha)[:-1] / np.asarray(levels.sigma)[:-1])
    position = (position - position[0]) / np.ptp(position)
    slopes = np.diff(curves, axis=1) / np.diff(position)
    # The sum of |N(0, 1)| s_k pi k, six standard deviations each.
    assert np.abs(slopes).max() < 6 * np.pi * sum(2 / (1 + k) * k for k in range(4))


@pytest.mark.parametrize("levels", [rectified_flow(6), vp_linear(1), rectified_flow(1)])
def test_smooth_curves_at_infinite_signal_to_noise(levels):
    """Pure noise (alpha = 0) and a single step must not give NaN."""
    assert np.all(np.isfinite(smooth_curves(np.random.default_rng(0), levels, 3)))


def test_interpolation():
    """Knots keep their values, straight lines in log-SNR stay straight, columns add up to 1."""
    levels = vp_linear(9)
    position = np.asarray(log_snr_position(levels))
    np.testing.assert_array_equal(interpolation(levels, None), np.eye(9))
    np.testing.assert_array_equal(interpolation(levels, 12), np.eye(9))
    np.testing.assert_array_equal(interpolation(levels, 1), np.ones((9, 1)))
    for knots in (2, 3, 5):
        shape = interpolation(levels, knots)
        assert shape.shape == (9, knots) and np.linalg.matrix_rank(shape) == knots
        np.testing.assert_allclose(shape.sum(axis=1), 1, rtol=10 * EPS)
        at = np.quantile(position, np.linspace(0, 1, knots))
        np.testing.assert_allclose(shape @ (2 * at + 1), 2 * position + 1, rtol=50 * EPS)


def test_roughness():
    """0 for a constant; d^2 for a zigzag by d on levels even in log-SNR; linear."""
    sigma = np.append(np.geomspace(10, 0.1, 8), 0.0)
    even = NoiseLevel(jnp.ones(9), jnp.asarray(sigma))
    zigzag = jnp.asarray([1.5, 0.0] * 4)
    np.testing.assert_allclose(jnp.sum(roughness(zigzag, even) ** 2), 1.5**2, rtol=50 * EPS)
    np.testing.assert_allclose(log_snr_position(even), np.linspace(0, 1, 8), atol=10 * EPS)
    for levels in (even, ve_karras(8), rectified_flow(8), vp_linear(8)):
        np.testing.assert_array_equal(roughness(jnp.full(8, 3.0), levels), 0)
        rough = roughness(zigzag, levels)
        assert rough.shape == (7,) and np.all(np.isfinite(rough))
        np.testing.assert_allclose(roughness(2 * zigzag, levels), 2 * rough)
    # a step that is wide in log-SNR may change more
    wide = NoiseLevel(jnp.ones(9), jnp.asarray(sigma).at[0].set(1000.0))
    assert abs(roughness(zigzag, wide)[0]) < abs(roughness(zigzag, wide)[1])
    assert roughness(jnp.ones(1), vp_linear(1)).shape == (0,)


# ------------------------------------------------------------------------------- weights by band


def measured(*ratios):
    """A problem whose modes have these signal-to-noise ratios, by awkward responses."""
    ratios = np.asarray(ratios)
    response = np.linspace(0.3, 1.7, ratios.size) * (ratios > 0)
    spectrum = ratios * 0.2**2 / np.where(response > 0, response, 1) ** 2
    return make_problem(np.where(ratios > 0, spectrum, 1.0), response, 0.2)


def test_band_position_and_knots():
    """log(h^2 spectrum / sigma_y^2), finite where nothing is measured; knots from log 0.01 up."""
    problem = measured(0.0, 0.001, 0.05, 1.0, 300.0)
    position = np.asarray(band_position(problem))
    np.testing.assert_allclose(position[1:], np.log([0.001, 0.05, 1, 300]), atol=50 * EPS)
    assert np.isfinite(position[0]) and position[0] < -500
    knots = np.asarray(band_knots(problem, 4))
    np.testing.assert_allclose(knots, np.linspace(np.log(0.01), np.log(300), 4), atol=50 * EPS)
    # where nothing is measured better than its noise, knots still rise
    np.testing.assert_allclose(band_knots(measured(1e-3, 1e-4), 2), [np.log(0.01), 0], atol=EPS)


def test_band_membership_is_made_of_hat_functions():
    """1 at its own knot, linear to 0 at the next ones, constant beyond the ends; rows add to 1."""
    ends = np.log(0.01), np.log(300)
    at = np.linspace(*ends, 4)
    inside = np.linspace(*ends, 41)
    knots = band_knots(measured(300.0), 4)
    membership = np.asarray(band_membership(measured(*np.exp(inside)), knots))
    wanted = np.stack([np.interp(inside, at, one) for one in np.eye(4)], axis=1)
    np.testing.assert_allclose(membership, wanted, atol=200 * EPS)
    beyond = np.asarray(band_membership(measured(0.0, 1e-9, 0.009, 301.0, 1e9), knots))
    np.testing.assert_array_equal(beyond, np.eye(4)[[0, 0, 0, 3, 3]])
    for rows in (membership, beyond):
        np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=10 * EPS)


def test_one_band_is_all_modes():
    problem = measured(0.0, 0.001, 1.0, 300.0)
    knots = band_knots(problem, 1)
    assert knots.shape == (1,)
    np.testing.assert_array_equal(band_membership(problem, knots), 1)


def test_weights_per_mode():
    """The same in all bands: that weight for all modes. Different: its hat functions, on a log or
    logit scale. Plain schedules stay as they are."""
    problem = measured(0.0, 0.01, np.sqrt(3), 300.0, 1e5)  # the third is midway between the knots
    knots = band_knots(problem._replace(spectrum=problem.spectrum.at[4].set(0)), 2)
    np.testing.assert_allclose(knots, np.log([0.01, 300]), atol=50 * EPS)
    constraint = {"scale": "nonnegative", "eta": "unit", "zeta": "nonnegative"}
    scale, eta = np.asarray([0.0, 0.2, 30.0]), np.asarray([1e-3, 0.4, 0.999])
    zeta = jnp.asarray([1.0, 2.0, 3.0])
    plain = {
        "scale": jnp.asarray(np.repeat(scale[:, None], 2, 1)),
        "eta": jnp.asarray(np.repeat(eta[:, None], 2, 1)),
        "zeta": zeta,
    }
    spread = per_mode(constraint, plain, problem, knots)
    assert spread["zeta"] is zeta
    for name, values in (("scale", scale), ("eta", eta)):
        assert spread[name].shape == (3, 5)
        # the scale's logarithm is -708 for 0, and up to 7 in size otherwise
        wanted = np.repeat(values[:, None], 5, 1)
        np.testing.assert_allclose(spread[name], wanted, rtol=50 * EPS, atol=1e-300)
    banded = {
        "scale": jnp.asarray([[0.1, 10.0]]),
        "eta": jnp.asarray([[0.2, 0.8]]),
        "zeta": zeta[:1],
    }
    spread = per_mode(constraint, banded, problem, knots)
    tight = {"rtol": 200 * EPS}
    np.testing.assert_allclose(spread["scale"], [[0.1, 0.1, 1.0, 10.0, 10.0]], **tight)
    np.testing.assert_allclose(spread["eta"], [[0.2, 0.2, 0.5, 0.8, 0.8]], **tight)


def test_low_pass():
    """The weight strictly below the cutoff, 0 elsewhere; the others stay as they are."""
    eta, frequency = jnp.asarray([0.1, 0.2, 0.3]), [[0, 0.25], [0.5, 0.25]]
    cut = low_pass({"zeta": [1, 2, 3], "eta": eta}, frequency, [0, 0.5, np.inf])
    assert cut["eta"] is eta
    wanted = [[0, 0, 0, 0], [2, 2, 0, 2], [3, 3, 3, 3]]
    np.testing.assert_array_equal(cut["zeta"], wanted)
    both = low_pass({"zeta": [1, 2, 3], "eta": eta}, frequency, np.full(3, 0.1), ("zeta", "eta"))
    assert both["eta"].shape == both["zeta"].shape == (3, 4)
    np.testing.assert_array_equal(both["eta"][:, 0], eta)
    jitted = jax.jit(low_pass)({"zeta": eta, "eta": eta}, np.asarray(frequency), eta)
    np.testing.assert_array_equal(jitted["zeta"][1], [0.2, 0, 0, 0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"guidance": {"lambda_": [1, 1], "zeta": [1, 1]}}, "guidance has lambda_, zeta; name"),
        ({"guidance": {"eta": [1, 1]}}, "guidance has eta; name those"),
        ({"weights": ("scale",)}, "weights = 'scale': guidance has eta, zeta"),
        (
            {"guidance": {"zeta": [[1, 1], [1, 1]]}},
            r"'zeta' of shape \(2, 2\): one weight per step",
        ),
        ({"cutoffs": [0.1]}, r"cutoffs of shape \(1,\): \(2,\), one per step"),
        ({"cutoffs": [0.1, np.nan]}, "cutoffs: NaN"),
        ({"frequency": [0.1, -0.1]}, "frequency: all values must be finite and >= 0"),
        ({"frequency": [0.1, np.nan]}, "frequency: all values must be finite and >= 0"),
    ],
)
def test_low_pass_errors(changed, message):
    good = {"guidance": {"zeta": [1, 1], "eta": [1, 1]}, "frequency": [0, 0.5], "cutoffs": [1, 1]}
    with pytest.raises(InputError, match=message):
        low_pass(**(good | changed))


def test_memory_is_no_guidance():
    """Weights of older estimates stay as they are, whatever their number."""
    problem = make_problem([1.0, 0.1], [1.0, 0.5], 0.1)
    guidance = sp.heuristic(sp.SAMPLERS["dps"](multistep=2), problem, vp_linear(3))
    assert "extrapolation_2" in guidance
    cut = low_pass(guidance, [0.1, 0.4], np.full(3, 0.2))
    np.testing.assert_array_equal(cut["zeta"][:, 1], 0)
    assert all(cut[name].shape == (3,) for name in guidance if name != "zeta")


def test_weights_of_each_mode_are_not_for_blocks():
    prior, degradation = sp.power_law((8, 8)), sp.downsample((8, 8), 2)
    problem, levels = sp.image_problem(prior, degradation, 0.1), vp_linear(2)
    sampler = sp.SAMPLERS["dps"]()
    guidance = low_pass(
        sampler.heuristic(problem, levels), sp.mode_frequency(prior, degradation), np.full(2, 0.2)
    )
    given = sampler, sp.GaussianDenoiser.of(prior), degradation, np.zeros((4, 4)), levels, guidance
    for run in (
        lambda: sp.evaluate(sampler, problem, levels, guidance),
        lambda: sp.restore(*given, jax.random.key(0), sigma_y=0.1),
    ):
        with pytest.raises(InputError, match=r"\(2, 64\).*for independent modes, not blocks"):
            run()
