"""The ideal posterior by dense conditioning; fewer modes without other losses; checked input."""

import chex
import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS, TWINS, expanded, many_blocks, one_block

from spectralpost.affine import Transfer
from spectralpost.algebra import floating
from spectralpost.degradations import (
    from_kernel,
    gaussian_blur,
    identity,
    motion_blur,
)
from spectralpost.errors import InputError
from spectralpost.learning import HOLDS, evaluate, prepare
from spectralpost.merging import bin_modes, stack_problems, unique_modes
from spectralpost.metrics import kl, mse, perception, wasserstein2
from spectralpost.noise import NoiseLevel, vp_linear
from spectralpost.prior import Prior, matern, power_law
from spectralpost.problem import (
    denoise,
    denoiser_cov,
    ideal_posterior,
    image_problem,
    make_problem,
    measurement_cov,
    num_pixels,
    prior_cov,
)
from spectralpost.samplers import SAMPLERS

pytestmark = pytest.mark.usefixtures("quick")

METRICS = (wasserstein2, kl, mse, perception)


@pytest.mark.parametrize("shape", TWINS)
def test_ideal_posterior_is_dense_conditioning(shape):
    """Wiener filter and error covariance in pixels, for square, rectangular and null-space H."""
    twin = TWINS[shape]()
    ideal = ideal_posterior(twin.problem)
    gain, cov = dense.posterior(twin.H, twin.mu, twin.C, twin.sigma_y)
    n = len(twin.mu)
    # both sides invert H C H^T + sigma_y^2
    kappa = np.linalg.cond(dense.measurement_covariance(twin.H, twin.C, twin.sigma_y))
    atol = 10 * n * EPS * kappa
    assert atol < 1e-11
    wanted = twin.V.T @ cov @ twin.V
    np.testing.assert_allclose(expanded(twin.problem, ideal.cov), wanted, rtol=0, atol=atol)
    np.testing.assert_allclose(
        expanded(twin.problem, ideal.gain), twin.V.T @ gain @ twin.U, rtol=0, atol=atol
    )
    np.testing.assert_allclose(np.ravel(ideal.var), np.diag(wanted), rtol=0, atol=atol)


@pytest.mark.parametrize("shape", TWINS)
def test_denoiser_and_covariances_are_dense_ones(shape):
    """E[x_0 | x_t], Cov(x_0 | x_t), Cov(x_0), Cov(y), against conditioning with H = alpha I."""
    twin = TWINS[shape]()
    problem, n = twin.problem, len(twin.mu)
    t = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))
    gain, cov = dense.posterior(0.8 * np.eye(n), twin.mu, twin.C, 0.6)
    x_t = np.random.default_rng(0).normal(size=n)
    modes = denoise(problem, jnp.asarray((twin.V.T @ x_t).reshape(problem.spectrum.shape)), t)
    np.testing.assert_allclose(twin.V @ np.ravel(modes), gain @ x_t, atol=1e-13)
    S_y = dense.measurement_covariance(twin.H, twin.C, twin.sigma_y)
    for got, wanted in (
        (denoiser_cov(problem, t), twin.V.T @ cov @ twin.V),
        (prior_cov(problem), twin.V.T @ twin.C @ twin.V),
    ):
        np.testing.assert_allclose(expanded(problem, got), wanted, atol=1e-13)
    # U has no column for what is not measured: there the covariance is 0, noise included
    cov_y = expanded(problem, measurement_cov(problem))
    np.testing.assert_allclose(cov_y, twin.U.T @ S_y @ twin.U, atol=1e-13)
    assert float(num_pixels(problem)) == n


def test_posterior_limits():
    """No noise: exact where h > 0. Much noise, or h = 0: the prior."""
    problem = make_problem([1.0, 2.0, 3.0], [0.5, 1.0, 0.0], 1e-9)
    np.testing.assert_allclose(ideal_posterior(problem).gain, [2, 1, 0], rtol=1e-12)
    np.testing.assert_allclose(ideal_posterior(problem).var, [0, 0, 3], atol=1e-15)
    problem = problem._replace(sigma_y=jnp.asarray(1e9))
    np.testing.assert_allclose(ideal_posterior(problem).var, problem.spectrum, rtol=1e-12)


# ------------------------------------------------------------------------------------ image_problem


def test_image_problem_counts_planes():
    """Weights add up to the pixels of all planes; the mean arrives in mode coordinates."""
    prior = power_law((6, 5), mean=0.25)
    problem = image_problem(prior, identity((6, 5)), 0.1, channels=3)
    assert float(num_pixels(problem)) == 90
    np.testing.assert_array_equal(problem.weight, 3)
    mean = np.zeros(30)
    mean[0] = 0.25 * np.sqrt(30)
    np.testing.assert_allclose(problem.mean, mean, atol=1e-14)
    np.testing.assert_array_equal(problem.spectrum, prior.spectrum.ravel())
    with pytest.raises(InputError, match="prior of size"):
        image_problem(prior, identity((5, 6)), 0.1)


# ------------------------------------------------------------------------------------- fewer modes


def fold(shape):
    """Wrapped frequency |k| of every grid point, one array per axis."""
    return np.meshgrid(*(np.minimum(np.arange(n), n - np.arange(n)) for n in shape), indexing="ij")


def isotropic_rows(shape):
    """Distinct |f|, counted in whole numbers: (a / H)^2 + (b / W)^2 times (H W)^2."""
    total_size = int(np.prod(shape))
    squares = sum((k * (total_size // n)) ** 2 for k, n in zip(fold(shape), shape, strict=True))
    return len(np.unique(squares))


def plus_minus_rows(shape):
    """Classes of {f, -f}."""
    own_mirror = int(np.prod([2 if n % 2 == 0 else 1 for n in shape]))
    return (int(np.prod(shape)) + own_mirror) // 2


def random_degradation(shape):
    return from_kernel(np.random.default_rng(0).normal(size=(3, 4)[: len(shape)]), shape)


@pytest.mark.parametrize("shape", [(15, 15), (12, 9), (31,), (64, 64)])
def test_unique_modes_finds_the_right_number_of_rows(shape):
    """All of equal |f| where all is isotropic; f and -f for an asymmetric kernel."""
    isotropic = image_problem(power_law(shape), identity(shape), 0.1)
    small, index = unique_modes(isotropic)
    # the constant component is given the variance of the lowest frequency, so these two merge
    assert small.spectrum.shape == (isotropic_rows(shape) - 1,)
    asymmetric = image_problem(matern(shape, length=2.0), random_degradation(shape), 0.1)
    small, index = unique_modes(asymmetric)
    assert small.spectrum.shape == (plus_minus_rows(shape),)
    assert float(num_pixels(small)) == np.prod(shape)
    np.testing.assert_allclose(small.spectrum[index], asymmetric.spectrum, rtol=1e-11)
    top = float(asymmetric.response.max())
    np.testing.assert_allclose(small.response[index], asymmetric.response, atol=1e-11 * top)


@pytest.mark.parametrize(
    ("shape", "kernel", "pixelwise"),
    [
        ((8, 8), gaussian_blur, False),
        ((7, 9), random_degradation, True),
        ((9,), random_degradation, True),
    ],
)
def test_unique_modes_keep_every_loss(shape, kernel, pixelwise):
    """To 12 digits, the mean included, which enters only by its square."""
    prior = matern(shape, length=2.0, mean=0.3)
    if pixelwise:
        mean = np.random.default_rng(1).normal(size=shape)
        prior = Prior(prior.spectrum, mean, prior.pixel_range, "test")
    problem = image_problem(prior, kernel(shape), 0.3, channels=3)
    small, _ = unique_modes(problem)
    assert small.spectrum.size < problem.spectrum.size
    np.testing.assert_allclose(np.sum(small.weight), 3 * np.prod(shape))
    np.testing.assert_allclose(all_losses(small), all_losses(problem), rtol=1e-12)


def some_transfer(problem):
    """Gains that are functions of (spectrum, response), an offset linear in the mean."""
    gain = problem.spectrum / (1 + problem.spectrum)
    noise = 0.1 + 0.3 * gain * problem.response
    return Transfer(gain, 0.7 * problem.response * gain, noise, -0.4 * gain * problem.mean)


@jax.jit
def all_losses(problem):
    return jnp.stack([metric(problem, some_transfer(problem)) for metric in METRICS])


def test_merging_leaves_blocks_of_several_measurements_alone():
    problem = one_block("inpaint").problem
    for small, index in (unique_modes(problem), bin_modes(problem, 2)):
        assert small is problem
        np.testing.assert_array_equal(index, np.arange(1))


def test_unique_modes_of_distinct_modes_changes_nothing_but_order():
    problem = make_problem([3.0, 1.0, 0.0], [0.0, 1.0, 1.0], 1.0, mean=[1.0, -2.0, 3.0])
    small, index = unique_modes(problem)
    np.testing.assert_array_equal(small.spectrum[index], problem.spectrum)
    np.testing.assert_array_equal(small.response[index], problem.response)
    np.testing.assert_array_equal(small.mean[index], np.abs(problem.mean))


def test_bin_modes_error_shrinks_with_the_number_of_bins():
    """The price of binning, in the worst of the losses: at least halved by 4 times the bins."""
    shape = (64, 64)
    problem = image_problem(power_law(shape), gaussian_blur(shape, 1.5), 0.05)
    full, _ = unique_modes(problem)

    exact = all_losses(full)
    errors = []
    for num_bins in (8, 32, 128):
        small, index = bin_modes(full, num_bins)
        assert small.spectrum.shape == (num_bins,)
        assert index.shape == full.spectrum.shape
        np.testing.assert_allclose(np.sum(small.weight), 64 * 64)
        errors.append(np.abs(all_losses(small) / exact - 1).max())
    assert errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2, errors
    assert errors[2] < 0.01
    assert bin_modes(full, full.spectrum.size)[0] is full
    with pytest.raises(InputError, match="whole number >= 1"):
        bin_modes(full, 0)


@pytest.mark.parametrize("merge", [lambda p: bin_modes(p, 2)[0], lambda p: unique_modes(p)[0]])
def test_whole_numbers_are_merged_as_floats(merge):
    made = make_problem([4.0, 2, 1], [2.0, 1, 1], 1.0, mean=[1.0, 0, 3], weight=[1.0, 1, 1])
    whole = jax.tree.map(lambda leaf: leaf.astype(int), made)
    chex.assert_trees_all_equal(merge(whole), merge(floating(whole)[0]))


def test_bin_modes_stops_when_cells_are_single_valued():
    """More bins than distinct modes: as many rows as there are distinct modes, without error."""
    problem = make_problem(np.repeat([1.0, 2.0], 10), np.ones(20), 1.0)
    small, _ = bin_modes(problem, 7)
    np.testing.assert_allclose(np.sort(small.spectrum), [1, 2])
    np.testing.assert_array_equal(small.weight, 10)


def bins_by_the_book(problem, num_bins):
    """The rule of `bin_modes`, one split after the other: the cell of each mode."""
    spectrum, response = np.asarray(problem.spectrum), np.asarray(problem.response)
    x = np.stack([np.log(spectrum), 2 * np.arcsinh(10 * response / float(problem.sigma_y))])
    share = np.asarray(problem.weight) * spectrum
    share = share / share.sum() + EPS
    cells = [np.arange(spectrum.size)]

    def spread(cell):
        mean = np.average(x[:, cell], axis=1, weights=share[cell], keepdims=True)
        squares = ((x[:, cell] - mean) ** 2) @ share[cell]
        return squares.max(), squares.argmax(), mean

    while len(cells) < num_bins:
        largest = max(range(len(cells)), key=lambda i: spread(cells[i])[0])
        cell = cells.pop(largest)
        _, axis, mean = spread(cell)
        below = x[axis, cell] <= mean[axis]
        cells += [cell[below], cell[~below]]
    index = np.empty(spectrum.size, int)
    for number, cell in enumerate(cells):
        index[cell] = number
    return index


def bins_and_most_responsive(problem, num_bins):
    """The whole rule: what responds most among modes of similar spectrum does not stay hidden."""
    log_spectrum = np.log(np.asarray(problem.spectrum))
    above = 2 * np.arcsinh(10 * np.asarray(problem.response) / float(problem.sigma_y))
    weight, index = np.asarray(problem.weight), bins_by_the_book(problem, num_bins)
    hidden = []
    for half in set(np.floor(2 * log_spectrum)):
        most = max(np.flatnonzero(np.floor(2 * log_spectrum) == half), key=lambda i: above[i])
        row = index == index[most]
        more = above[most] - np.average(above[row], weights=weight[row])
        hidden += [(more, most)] if more > 0.01 else []
    hidden = sorted(hidden, reverse=True)[: num_bins // 16]
    index = bins_by_the_book(problem, num_bins - len(hidden))
    for number, (_, mode) in enumerate(hidden):
        index[mode] = num_bins + number
    return index, len(hidden)


@pytest.mark.parametrize("num_bins", [1, 2, 7, 60])
@pytest.mark.parametrize("kind", ["isotropic", "random"])
def test_bin_modes_splits_the_worst_cell_first(kind, num_bins):
    """The same cells as by splitting one at a time, under other numbers."""
    if kind == "isotropic":
        problem, _ = unique_modes(image_problem(power_law((32, 32)), gaussian_blur((32, 32)), 0.05))
    else:
        rng = np.random.default_rng(0)
        spectrum, response, weight = rng.uniform(0.01, 1, (3, 300)) ** [[3], [1], [1]]
        problem = make_problem(spectrum, response, 0.1, weight=weight)
    small, index = bin_modes(problem, num_bins)
    wanted, hidden = bins_and_most_responsive(problem, num_bins)
    assert (hidden > 0) == (kind == "random" and num_bins == 60)
    assert set(index) == set(range(num_bins)) == set(range(small.spectrum.size))
    assert len(set(zip(index.tolist(), wanted.tolist(), strict=True))) == num_bins


def test_bin_modes_does_not_hide_what_responds_most():
    """Motion blur: lines of response 1 through all frequencies. A constant that is tuned on few
    rows is one for all modes, to what `constant_that_holds` leaves: RED-diff's had 2.5 times its
    loss on the rows before, for modes of little signal."""
    shape = (32, 32)
    problem, _ = unique_modes(image_problem(power_law(shape), motion_blur(shape, 9.0, 30.0), 0.1))
    small, _ = bin_modes(problem, 64)
    sampler, levels = SAMPLERS["reddiff"](), vp_linear(50)
    constant = prepare(sampler, [small], levels).constant
    on_all, on_rows = (evaluate(sampler, one, levels, constant) for one in (problem, small))
    assert on_rows / HOLDS < on_all < on_rows * HOLDS


def test_unique_and_binned_modes_of_a_large_image():
    """Three million modes, half of them distinct: a loop over cells would take a minute."""
    shape = (2000, 1500)
    problem = image_problem(power_law(shape), motion_blur(shape), 0.05)
    small, index = unique_modes(problem)
    binned, bins = bin_modes(small, 800)
    assert 0.9 * plus_minus_rows(shape) < small.spectrum.size <= plus_minus_rows(shape)
    np.testing.assert_allclose(small.spectrum[index], problem.spectrum, rtol=1e-11)
    np.testing.assert_allclose(small.response[index], problem.response, atol=1e-11)
    assert binned.spectrum.size == 800
    assert bins.shape == small.spectrum.shape and index.shape == problem.spectrum.shape
    np.testing.assert_allclose(np.sum(binned.weight), np.prod(shape))


def test_unique_modes_at_the_edges_of_digits():
    """Powers of ten, zeros, subnormal numbers, and numbers that round up to the next power."""
    spectrum = [0.0, 1e-300, 1e300, 1.0, 0.1, 1 - 1e-15, 1 + 1e-15, 1 + 1e-9, 10.0, 0.0, 1e-310]
    small, index = unique_modes(make_problem(spectrum, np.zeros(11), 1.0))
    groups = [set(np.flatnonzero(index == row).tolist()) for row in range(index.max() + 1)]
    assert {0, 9} in groups and {7} in groups and {8} in groups and {10} in groups
    assert {3, 6} in groups
    np.testing.assert_allclose(small.spectrum[index], spectrum, rtol=1e-11)


@pytest.mark.parametrize("dead", ["spectrum", "response"])
def test_bin_modes_of_a_dead_problem(dead):
    """Nothing to measure, or nothing to know: allowed by make_problem, so it must be binned."""
    arrays = {"spectrum": np.arange(1.0, 9.0), "response": np.linspace(0, 1, 8), dead: np.zeros(8)}
    small, _ = bin_modes(make_problem(arrays["spectrum"], arrays["response"], 1.0), 4)
    for leaf in jax.tree.leaves(small):
        assert np.all(np.isfinite(leaf))
    assert np.sum(small.weight) == 8


# ------------------------------------------------------------------------------------ make_problem


def test_make_problem_defaults_and_dtypes():
    problem = make_problem([1, 2], [1, 0], 1)
    assert problem.spectrum.dtype == jnp.float64
    np.testing.assert_array_equal(problem.mean, 0)
    np.testing.assert_array_equal(problem.weight, 1)
    assert problem.sigma_y.shape == ()
    single = make_problem(np.ones(2, np.float32), np.ones(2), 0.1, weight=np.array([1, 2]))
    assert {leaf.dtype for leaf in single if leaf is not None} == {jnp.dtype("float32")}


EYE = np.eye(2)[None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spectrum": []}, "spectrum of shape"),
        ({"spectrum": 1.0}, "spectrum of shape"),
        ({"spectrum": [[1.0, 2.0]]}, "together with a basis"),
        ({"spectrum": [1.0, np.nan]}, "spectrum: has NaN"),
        ({"spectrum": [1.0, np.inf]}, "spectrum: has NaN or infinite"),
        ({"spectrum": [1.0, -1e-9]}, "spectrum = -1e-09: must be >= 0"),
        ({"response": [1.0]}, "response of shape"),
        ({"response": [1.0, np.nan]}, "response: has NaN"),
        ({"response": [1.0, -1.0]}, "response = -1: must be >= 0"),
        ({"sigma_y": 0.0}, "sigma_y = 0: must be > 0 and finite; .* rounding of 8 bits, 0.0023"),
        ({"sigma_y": -1.0}, "sigma_y = -1: must be > 0"),
        ({"sigma_y": -1e-320}, "sigma_y = -9.99989e-321: must be > 0 and finite$"),
        ({"sigma_y": np.nan}, "sigma_y: is nan, must be finite"),
        ({"sigma_y": [0.1, 0.1]}, "sigma_y of shape"),
        ({"mean": [1.0]}, "mean of shape"),
        ({"mean": [1.0, np.inf]}, "mean: has NaN or infinite"),
        ({"weight": [1.0]}, "weight of shape"),
        ({"weight": [1.0, 0.0]}, "weight = 0: must be > 0"),
        ({"weight": [1.0, np.nan]}, "weight: has NaN"),
        ({"basis": EYE}, "is needed"),
        ({"spectrum": [[1.0, 2.0]], "response": [[1.0, 0.0]], "basis": EYE[0]}, "basis of shape"),
        ({"spectrum": [[1.0, 2.0]], "response": [1.0, 0.0], "basis": EYE}, "response of shape"),
        (
            {"spectrum": [[1.0, 2.0]], "response": [[1.0, 0.0]], "basis": 1.01 * EYE},
            "orthonormal",
        ),
        ({"spectrum": np.float32([1, 2]), "sigma_y": 1e-16}, "sigma_y = 1e-16: must be >= 1e-15"),
        (
            {"spectrum": [[1.0, 2.0]], "response": [[1.0, 0.0]], "basis": np.nan * EYE},
            "basis: has NaN",
        ),
        (
            {
                "spectrum": [[1.0, 2.0]],
                "response": [[1.0, 0.0]],
                "basis": EYE,
                "weight": [[1.0, 1.0]],
            },
            "weight of shape",
        ),
    ],
)
def test_make_problem_errors(arguments, message):
    good = {"spectrum": [1.0, 2.0], "response": [1.0, 0.5], "sigma_y": 0.1}
    with pytest.raises(InputError, match=message):
        make_problem(**{**good, **arguments})


# ------------------------------------------------------------------------------- several problems


def test_stacked_problems_are_the_same_problems():
    """The shorter one is filled up with rows that count for nothing: all losses stay."""
    long = make_problem([3.0, 1.0, 0.5], [1.0, 0.4, 0.0], 0.3, mean=[1.0, -2.0, 0.5])
    short = make_problem([2.0], [0.7], 0.1, mean=[3.0], weight=[5.0])
    stacked = stack_problems([long, short])
    assert stacked.spectrum.shape == (2, 3) and stacked.sigma_y.shape == (2,)
    for i, wanted in enumerate((long, short)):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        assert float(num_pixels(one)) == float(num_pixels(wanted))
        np.testing.assert_allclose(all_losses(one), all_losses(wanted), rtol=10 * EPS)
    blocks = many_blocks(2).problem
    assert stack_problems([blocks, blocks]).basis.shape == (2, 6, 2, 2)
    for other in (long, many_blocks(3).problem):
        with pytest.raises(InputError, match="problems"):
            stack_problems([blocks, other])
