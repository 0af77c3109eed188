"""Grids of noise levels against published numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS

from spectralpost.algebra import safe_divide, safe_sqrt
from spectralpost.errors import InputError
from spectralpost.noise import (
    NoiseLevel,
    check_levels,
    curve_of,
    log_snr,
    moved_positions,
    nearest_timesteps,
    num_steps_of,
    on_curve,
    rectified_flow,
    respaced,
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
            assert all(a is b for a, b in zip(check_levels(levels), levels, strict=True))
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
        (lambda: vp_linear(5, beta_start=-1), "beta_start = -1: must be > 0 and < 1"),
        (lambda: vp_linear(5, beta_end=2.0), "beta_end = 2.0: must be > 0 and < 1"),
        (lambda: vp_linear(5, train_steps=0), "train_steps = 0: must be a whole number >= 1"),
        (lambda: vp_cosine(5, offset=-1.0), "offset = -1.0: must be >= 0"),
        (lambda: vp_cosine(5, offset=math.inf), "offset = inf: must be >= 0 and finite"),
        (lambda: vp_cosine(5, max_beta=0), "max_beta = 0: must be > 0 and < 1"),
        (lambda: ve_karras(5, sigma_min=0.0), "sigma_min = 0.0: must be > 0 and finite"),
        (lambda: ve_karras(5, sigma_max=math.inf), "sigma_max = inf: must be > 0 and finite"),
        (lambda: ve_karras(5, sigma_min=2.0, sigma_max=1.0), "sigma_min = 2.0: must be below"),
        (lambda: ve_karras(5, rho=0.0), "rho = 0.0: must be > 0 and finite"),
        (lambda: ve_karras(5, rho=-1), "rho = -1: must be > 0 and finite"),
        (lambda: ve_karras(5, rho=1e-3), "rho = 0.001: double precision does not hold"),
        (lambda: rectified_flow(5, shift=0.0), "shift = 0.0: must be > 0"),
        (lambda: rectified_flow(5, shift=math.nan), "shift = nan: must be > 0"),
        (lambda: rectified_flow(5, shift=math.inf), "shift = inf: must be > 0 and finite"),
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


# ------------------------------------------------------------------------- learned noise levels

FAMILIES = {
    "vp": [vp_linear(6), vp_cosine(6, "trailing")],
    "ve": [ve_karras(6)],
    "flow": [rectified_flow(6), rectified_flow(6, shift=3.0)],
}


def one_of(curve, levels):
    """What is 1 on a family, written out."""
    alpha, sigma = (np.asarray(leaf) for leaf in levels)
    return {"vp": alpha**2 + sigma**2, "ve": alpha, "flow": alpha + sigma}[curve]


@pytest.mark.parametrize("curve", FAMILIES)
def test_families_are_recognised(curve):
    """In single precision too, and with one level off the curve not any more."""
    for levels in FAMILIES[curve]:
        assert curve_of(levels) == curve
        assert curve_of(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), levels)) == curve
        off = levels._replace(alpha=levels.alpha.at[3].multiply(1.001))
        with pytest.raises(InputError, match="levels"):
            curve_of(off)


@pytest.mark.parametrize("curve", FAMILIES)
def test_on_curve(curve):
    """On the family and of the asked ratio: an error of log(sigma / alpha) is relative there."""
    at = jnp.linspace(-12, 12, 25)
    levels = on_curve(curve, at)
    np.testing.assert_allclose(one_of(curve, levels), 1, rtol=8 * EPS)
    ratio = np.log(np.asarray(levels.sigma)) - np.log(np.asarray(levels.alpha))
    np.testing.assert_allclose(ratio, at, rtol=0, atol=50 * EPS)


@pytest.mark.parametrize("curve", FAMILIES)
def test_moved_positions(curve):
    """The first stays, and every gap is its old one times its factor; pure noise counts as 15."""
    factors = jnp.asarray([0.5, 2.0, 1.0, 3.0, 0.25])
    for levels in FAMILIES[curve]:
        old = -np.asarray(log_snr(levels))[:-1] / 2
        old[np.isinf(old)] = 15
        new = np.asarray(moved_positions(levels, jnp.log(factors)))
        assert new.shape == (6,) and new[0] == old[0]
        np.testing.assert_allclose(np.diff(new), np.diff(old) * factors, rtol=0, atol=1000 * EPS)


@pytest.mark.parametrize("curve", FAMILIES)
def test_respaced_by_nothing_is_the_same_grid(curve):
    """To the rounding of sums of positions up to 15."""
    for levels in FAMILIES[curve]:
        same = respaced(curve, levels, jnp.zeros(5))
        for new, old in zip(same, levels, strict=True):
            np.testing.assert_allclose(new, old, rtol=200 * EPS)
            assert new[0] == old[0] and new[-1] == old[-1] and new.dtype == old.dtype


@pytest.mark.parametrize("curve", FAMILIES)
def test_respaced_grids_are_grids_of_the_family(curve):
    """For gaps up to 7 times as wide or as narrow. Both ends stay, the flow's alpha = 0 too."""
    rng = np.random.default_rng(0)
    for levels in FAMILIES[curve]:
        for factors in rng.uniform(-2, 2, (20, 5)):
            new = check_levels(respaced(curve, levels, jnp.asarray(factors)))
            assert num_steps_of(new) == 6
            for leaf, old in zip(new, levels, strict=True):
                assert leaf[0] == old[0] and leaf[-1] == old[-1]
            np.testing.assert_allclose(one_of(curve, new), one_of(curve, levels), rtol=8 * EPS)
        wider = respaced(curve, levels, jnp.asarray([0.2, 0, 0, 0, 0]))
        assert curve_of(wider) == curve
        assert np.all(np.diff(np.stack([log_snr(levels), log_snr(wider)])[:, 1:-1], axis=0) > 0)


def test_nearest_timesteps_of_sub_grids():
    """A grid's own time steps, exactly; those between two go to the nearer one in log-SNR."""
    for make in (vp_linear, vp_cosine):
        train = make(1000)
        for num, spacing in ((5, "uniform"), (7, "leading"), (10, "trailing"), (50, "quadratic")):
            np.testing.assert_array_equal(
                nearest_timesteps(make(num, spacing), train), vp_timesteps(num, spacing)
            )
    train = vp_linear(1000)
    ratio = log_snr(train)[:-1][::-1]  # by time step
    for share, wanted in ((0.4, 500), (0.6, 501)):
        at = -((1 - share) * ratio[500] + share * ratio[501]) / 2
        level = on_curve("vp", at[None])
        levels = NoiseLevel(jnp.append(level.alpha, 1.0), jnp.append(level.sigma, 0.0))
        np.testing.assert_array_equal(nearest_timesteps(levels, train), [wanted])


def test_nearest_timesteps_collide():
    """Levels that crowd at either end, or in the middle, of 10 time steps: all different, in order,
    and as near as that allows."""
    train = vp_linear(10)
    ratio = np.asarray(log_snr(train))[:-1][::-1]

    def timesteps(log_ratios):
        level = on_curve("vp", -jnp.asarray(log_ratios) / 2)
        levels = NoiseLevel(jnp.append(level.alpha, 1.0), jnp.append(level.sigma, 0.0))
        return nearest_timesteps(check_levels(levels), train).tolist()

    crowd = 1e-3 * np.arange(3)
    assert timesteps(ratio[0] + 1 + crowd) == [2, 1, 0]
    assert timesteps(ratio[9] - 1 + crowd) == [9, 8, 7]
    assert timesteps(np.append(ratio[9] - 1 + crowd, ratio[0])) == [9, 8, 7, 0]
    assert timesteps(np.append(ratio[9], ratio[0] + crowd)) == [9, 2, 1, 0]
    middle = timesteps(ratio[4] + crowd)
    assert middle == [6, 5, 4]
    assert timesteps(ratio[9] - 1 + 1e-3 * np.arange(10)) == list(range(9, -1, -1))
    with pytest.raises(InputError, match="steps = 11"):
        timesteps(ratio[9] - 1 + 1e-3 * np.arange(11))
