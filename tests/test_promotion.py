"""Whole numbers, Python numbers, lists and mixed precision from outside: promoted or refused in a
line, never cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS, ROWS, random_guidance

from spectralpost.algebra import as_floating, float_dtype, floating
from spectralpost.degradations import gaussian_blur
from spectralpost.denoisers.gaussian import GaussianDenoiser
from spectralpost.errors import InputError, check_whole
from spectralpost.learning import Search, learn, per_mode
from spectralpost.merging import unique_modes
from spectralpost.metrics import image_mse, optimal_tradeoff, psnr, wasserstein2
from spectralpost.noise import NoiseLevel, check_levels, nearest_timesteps, vp_linear
from spectralpost.prior import Prior, power_law
from spectralpost.problem import image_problem, make_problem
from spectralpost.restoration import measure, restore
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.pigdm import pigdm
from spectralpost.simulation import simulate
from spectralpost.transfer import sampler_transfer, step_transfer

pytestmark = pytest.mark.usefixtures("quick")

SHAPE = (6, 6)
# A VE grid of whole numbers, and the same numbers as floats.
WHOLE = NoiseLevel(jnp.array([1, 1, 1, 1]), jnp.array([80, 10, 1, 0]))
FLOATS = NoiseLevel(jnp.ones(4), jnp.array([80.0, 10.0, 1.0, 0.0]))
LISTS = NoiseLevel([1, 1, 1, 1], [80, 10, 1, 0])


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def problem():
    return image_problem(power_law(SHAPE), gaussian_blur(SHAPE, 1.0), 0.05)


@pytest.mark.parametrize(
    ("values", "with_x64", "without"),
    [
        ([np.arange(3)], "float64", "float32"),
        ([3], "float64", "float32"),
        ([[1, 2.5]], "float64", "float32"),
        ([np.ones(2, np.float32)], "float32", "float32"),
        ([np.ones(2, np.float16)], "float32", "float32"),
        ([jnp.ones(2, jnp.bfloat16), 2.0], "float32", "float32"),
        ([np.ones(2, np.float32), 0.5, [1, 2], np.arange(2), np.float64(2)], "float32", "float32"),
        ([np.ones(2, np.float32), np.ones(2)], "float64", "float32"),
        ([{"a": np.ones(2, bool)}, None], "float64", "float32"),
    ],
)
def test_float_dtype(values, with_x64, without):
    """The widest of the floating arrays; numbers without a precision of their own follow."""
    assert float_dtype(*values) == with_x64
    assert all(leaf.dtype == with_x64 for leaf in jax.tree.leaves(floating(*values)))
    with jax.enable_x64(False):
        assert float_dtype(*values) == without
        assert all(leaf.dtype == without for leaf in jax.tree.leaves(floating(*values)))


@pytest.mark.parametrize("value", ["a", ["a"], 1j, np.ones(2, complex), [[1], [1, 2]], object()])
def test_what_is_no_real_number_is_refused(value):
    with pytest.raises(InputError, match=r"^y.*real numbers") as caught:
        as_floating("y", value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 1.5, True, np.True_, "2", None, np.nan, np.inf, [1], 1j])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(InputError, match="must be a whole number >= 1"):
        check_whole("channels", value)
    if value is None:  # the default
        return
    with pytest.raises(InputError, match=r"channels = .*whole number >= 1"):
        image_problem(power_law(SHAPE), gaussian_blur(SHAPE, 1.0), 0.05, channels=value)


@pytest.mark.parametrize("value", [3, 3.0, np.int8(3), np.float32(3), jnp.asarray(3)])
def test_a_whole_number_of_any_type(value):
    number = check_whole("steps", value)
    assert number == 3 and type(number) is int


# ------------------------------------------------------------------------------------ noise levels


@pytest.mark.parametrize("levels", [WHOLE, LISTS, jax.tree.map(np.asarray, WHOLE)])
def test_levels_of_whole_numbers_become_floats(levels):
    for got, wanted in zip(check_levels(levels), FLOATS, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == jnp.float64
    assert check_levels(levels, jnp.float32).sigma.dtype == jnp.float32
    with jax.enable_x64(False):
        assert check_levels(levels).sigma.dtype == jnp.float32
    train = NoiseLevel(np.ones(5, int), [100, 80, 9, 2, 0])
    np.testing.assert_array_equal(nearest_timesteps(levels, train), [2, 1, 0])


def test_traced_levels_are_checked_for_their_shape_only():
    jax.jit(check_levels)(NoiseLevel(jnp.ones(3), jnp.ones(3)))
    with pytest.raises(InputError, match=r"\[S \+ 1\]"):
        jax.jit(check_levels)(NoiseLevel(jnp.ones(1), jnp.ones(1)))


@pytest.mark.parametrize("name", ROWS)
def test_published_defaults_on_levels_of_whole_numbers(name):
    """0.85 stays 0.85: a weight has no reason to be whole where levels are."""
    sampler = ROWS[name].make(problem())
    wanted = sampler.heuristic(problem(), FLOATS)
    for levels in (WHOLE, LISTS):
        for weight, values in sampler.heuristic(problem(), levels).items():
            assert values.dtype == jnp.float64
            np.testing.assert_allclose(values, wanted[weight], rtol=10 * EPS)


# ------------------------------------------------------------------------------------ closed forms


def test_transfer_of_whole_numbers():
    """Levels and weights; of lists too."""
    wanted = sampler_transfer(
        diffpir(), problem(), FLOATS, {"lambda_": np.ones(3), "zeta": np.ones(3)}
    )
    for levels in (WHOLE, LISTS):
        for ones in (np.ones(3, int), [1, 1, 1]):
            guidance = {"lambda_": ones, "zeta": ones}
            got = sampler_transfer(diffpir(), problem(), levels, guidance)
            for a, b in zip(got, wanted, strict=True):
                assert a.dtype == jnp.float64
                np.testing.assert_array_equal(a, b)
    t, s = NoiseLevel(1, 80), NoiseLevel(1, 10)
    one = step_transfer(diffpir(), problem(), t, s, {"lambda_": 1, "zeta": 1})
    wanted = step_transfer(
        diffpir(), problem(), *floating(t, s), {"lambda_": jnp.ones(()), "zeta": jnp.ones(())}
    )
    np.testing.assert_array_equal(one.data_gain, wanted.data_gain)
    assert np.any(np.asarray(one.data_gain) % 1)  # which whole numbers would not hold


def test_transfer_of_mixed_precision():
    """The widest of problem, levels and guidance, as if all had been given so."""
    parts = problem(), vp_linear(3), random_guidance("diffpir", 0, num_steps=3)
    for wide in range(3):
        mixed = [part if i == wide else single(part) for i, part in enumerate(parts)]
        got = sampler_transfer(diffpir(), *mixed)
        wanted = sampler_transfer(diffpir(), *floating(*mixed, dtype=jnp.float64))
        assert {leaf.dtype for leaf in got} == {jnp.dtype("float64")}
        np.testing.assert_array_equal(got.data_gain, wanted.data_gain)
    got = sampler_transfer(diffpir(), *map(single, parts))
    assert {leaf.dtype for leaf in got} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "dtypes", ["levels whole", "problem single", "levels single", "all single"]
)
def test_learn_in_mixed_precision(dtypes):
    """Every pairing, and L-BFGS: optax has constants of its own."""
    small, levels = unique_modes(problem())[0], vp_linear(3)
    guidance = None
    if dtypes == "levels whole":
        levels = WHOLE
        guidance = {"lambda_": np.ones(3, int), "zeta": [0, 0, 0]}
    if dtypes in ("problem single", "all single"):
        small = single(small)
    if dtypes in ("levels single", "all single"):
        levels = single(levels)
    search = Search(starts=2, max_iterations=20, optimizer="lbfgs")
    result = learn(diffpir(), small, levels, guidance, ("lambda_",), search=search)
    wanted = jnp.float32 if dtypes == "all single" else jnp.float64
    assert {leaf.dtype for leaf in jax.tree.leaves(result.guidance)} == {jnp.dtype(wanted)}
    assert result.loss <= result.baselines["tuned_constant"] * (1 + 1e-3)
    if dtypes == "levels whole":
        np.testing.assert_array_equal(result.guidance["zeta"], 0)


def test_make_problem_takes_any_numbers():
    wanted = make_problem([1.0, 2.0], [1.0, 0.0], 1.0, [3.0, 4.0], [1.0, 2.0])
    for one in (
        make_problem([1, 2], [1, 0], 1, [3, 4], [1, 2]),
        make_problem(np.array([1, 2], np.uint8), np.array([True, False]), 1, (3, 4), [1, 2.0]),
        make_problem(np.array([1, 2]), np.ones(2, np.float32) * [1, 0], 1, [3, 4], [1, 2]),
    ):
        for got, leaf in zip(jax.tree.leaves(one), jax.tree.leaves(wanted), strict=True):
            assert got.dtype == jnp.float64
            np.testing.assert_array_equal(got, leaf)
    for bad in (["1", "2"], [1j, 2], [[1], [1, 2]], None):
        with pytest.raises(InputError, match=r"^spectrum.* real numbers"):
            make_problem(bad, [1, 0], 1)
        with pytest.raises(InputError, match=r"^response.* real numbers"):
            make_problem([1, 2], bad, 1)


def test_make_problem_can_be_differentiated():
    """Values are checked where there are any; the slope of the Wiener gain h / (h^2 + sigma^2)."""
    gain = lambda sigma: make_problem([1.0], [0.5], sigma)  # noqa: E731
    slope = jax.jit(jax.grad(lambda sigma: optimal_tradeoff(gain(sigma)).least_mse))(0.3)
    # sigma^2 / (h^2 + sigma^2)
    np.testing.assert_allclose(slope, 2 * 0.3 * 0.25 / (0.25 + 0.09) ** 2, rtol=20 * EPS)


def test_image_problem_of_whole_numbers():
    """A prior's arrays may be whole; so may the mean grey value."""
    twos = np.full(SHAPE, 2)
    priors = [Prior(values, values, (0, 255), "test") for values in (twos, 1.0 * twos)]
    whole, floats = (image_problem(prior, gaussian_blur(SHAPE, 1), 1) for prior in priors)
    for got, wanted in zip(jax.tree.leaves(whole), jax.tree.leaves(floats), strict=True):
        assert got.dtype == jnp.float64
        np.testing.assert_array_equal(got, wanted)


def test_metrics_take_any_numbers():
    one = problem()
    transfer = sampler_transfer(diffpir(), one, FLOATS, {"lambda_": np.ones(3), "zeta": np.ones(3)})
    y = np.arange(36)
    for metric in (wasserstein2, image_mse):
        wanted = metric(one, transfer, jnp.asarray(y, float))
        for given in (y, list(range(36)), y.astype(np.float32)):
            np.testing.assert_array_equal(metric(one, transfer, given), wanted)
    np.testing.assert_allclose(psnr(1, (0, 255)), 48.1308, rtol=1e-6)
    np.testing.assert_allclose(psnr(1.0, (np.uint8(0), np.uint8(255))), 48.1308, rtol=1e-6)
    assert psnr(0.0) == np.inf
    tradeoff = optimal_tradeoff(one)
    assert tradeoff.mse_at(0) == tradeoff.mse_at(jnp.zeros(()))


def test_weights_by_band_take_any_numbers():
    knots = jnp.asarray([-2.0, 2.0])
    weights = {"lambda_": [[1, 2], [3, 4]], "zeta": [1, 0]}
    got = per_mode(diffpir().constraint, weights, problem(), [-2, 2])
    floats = {name: jnp.asarray(values, float) for name, values in weights.items()}
    wanted = per_mode(diffpir().constraint, floats, problem(), knots)
    for name in weights:
        np.testing.assert_array_equal(got[name], wanted[name])


# ------------------------------------------------------------------------------------------ images


def test_degradations_and_denoiser_of_whole_pixels():
    blur, pixels = gaussian_blur(SHAPE, 1), np.arange(36).reshape(SHAPE)
    denoiser, level = GaussianDenoiser.of(power_law(SHAPE)), NoiseLevel(1, 2)
    floats = NoiseLevel(jnp.ones(()), 2 * jnp.ones(()))
    for function, wanted in (
        (blur.apply, blur.apply(1.0 * pixels)),
        (blur.adjoint, blur.adjoint(1.0 * pixels)),
        (blur.to_modes, blur.to_modes(1.0 * pixels)),
        (lambda x: denoiser(x, level), denoiser(jnp.asarray(1.0 * pixels), floats)),
    ):
        assert np.any(np.asarray(wanted) % 1)
        for given in (pixels, pixels.tolist(), pixels.astype(np.uint8)):
            got = function(given)
            assert got.dtype == jnp.float64
            np.testing.assert_array_equal(got, wanted)
        assert function(pixels.astype(np.float32)).dtype == jnp.float32
        assert function(pixels.astype(np.float16)).dtype == jnp.float32
        with jax.enable_x64(False):
            assert function(pixels).dtype == jnp.float32


def test_a_degradation_made_in_single_precision_is_not_less_exact():
    """x64 may be switched on after it was made."""
    with jax.enable_x64(False):
        early = gaussian_blur(SHAPE, 1.3)
    x = np.random.default_rng(0).normal(size=SHAPE)
    np.testing.assert_array_equal(early.apply(x), gaussian_blur(SHAPE, 1.3).apply(x))


@pytest.fixture(scope="module")
def setting():
    """In units of 8-bit pixels, with noise below one grey level."""
    prior = power_law(SHAPE, std=60.0, mean=120.0, pixel_range=(0, 255))
    blur, levels = gaussian_blur(SHAPE, 1.0), NoiseLevel(np.ones(4, int), np.array([800, 90, 8, 0]))
    y = np.random.default_rng(0).integers(0, 255, SHAPE)
    return prior, blur, levels, y


@pytest.mark.parametrize("name", ["ddrm", "diffpir", "pigdm"])
def test_restore_of_whole_pixels(name, setting):
    """sigma_y 0.7 is not 0: the same image as from floats, whatever the pixels' type."""
    prior, blur, levels, y = setting
    sampler = ROWS[name].make(None)
    guidance = sampler.heuristic(image_problem(prior, blur, 0.7), levels)
    floats = check_levels(levels)

    def run(y, levels=floats, guidance=guidance, sigma_y=0.7):
        key = jax.random.key(0)
        return restore(
            sampler, GaussianDenoiser.of(prior), blur, y, levels, guidance, key, sigma_y=sigma_y
        )

    wanted = run(1.0 * y)
    assert np.all(np.isfinite(wanted))
    for given in (y, y.tolist(), y.astype(np.uint8), jnp.asarray(y)):
        got = run(given)
        assert got.dtype == jnp.float64
        np.testing.assert_array_equal(got, wanted)
    lists = {weight: values.tolist() for weight, values in guidance.items()}
    np.testing.assert_array_equal(run(y, levels, lists, np.asarray(0.7)), wanted)
    # The image's dtype is what counts.
    got = run(y.astype(np.float32), sigma_y=np.float64(0.7))
    assert got.dtype == jnp.float32
    with jax.enable_x64(False):
        off = run(y)
    assert off.dtype == jnp.float32
    np.testing.assert_array_equal(off, got)


def test_measure_and_simulate_of_whole_pixels(setting):
    prior, blur, levels, x_0 = setting
    key = jax.random.key(1)
    y = measure(blur, x_0, 0.7, key)
    np.testing.assert_array_equal(y, measure(blur, 1.0 * x_0, jnp.asarray(0.7), key))
    assert measure(blur, x_0.astype(np.float32), np.float64(0.7), key).dtype == jnp.float32
    np.testing.assert_array_equal(measure(blur, x_0, 0, key), blur.apply(x_0))
    for bad, message in ((-1, "must be >= 0"), (np.nan, "must be >= 0"), ([1, 2], "one number")):
        with pytest.raises(InputError, match=message):
            measure(blur, x_0, bad, key)
    guidance = {"weight": [1, 1, 1], "eta": [0, 0, 0]}
    args = (pigdm(), GaussianDenoiser.of(prior), blur)
    got, wanted = (
        simulate(*args, y, levels, guidance, key, sigma_y=0.7, num_runs=4, batch_size=2)
        for y in (x_0, 1.0 * x_0)
    )
    np.testing.assert_array_equal(got.var, wanted.var)
    assert np.all(got.var > 0)
    for bad in ({"num_runs": 0}, {"num_runs": 2.5}, {"num_runs": 4, "batch_size": 0}):
        with pytest.raises(InputError, match="whole number >= 1"):
            simulate(*args, x_0, levels, guidance, key, sigma_y=0.7, **bad)


def test_a_denoiser_of_another_precision(setting):
    """A network in single precision within a run in double, and the reverse."""
    prior, blur, levels, y = setting
    guidance, key = {"weight": np.ones(3), "eta": np.zeros(3)}, jax.random.key(0)
    gaussian = GaussianDenoiser.of(prior)
    for image, inside in ((1.0 * y, jnp.float32), (y.astype(np.float32), jnp.float64)):
        network = lambda x, t, dtype=inside: gaussian(x.astype(dtype), t)  # noqa: E731
        run = lambda denoiser, y=image: restore(  # noqa: E731
            pigdm(), denoiser, blur, y, levels, guidance, key, sigma_y=0.7
        )
        got = run(network)
        assert got.dtype == image.dtype
        # levels down to 800 times single precision's eps of pixels up to 255
        np.testing.assert_allclose(got, run(gaussian), atol=800 * 255 * np.finfo(np.float32).eps)
