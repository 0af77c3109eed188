"""Closed-form losses against dense Gaussian formulas, written independently."""

from functools import partial

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from cases import EPS, circular, many_blocks, one_block

from spectralpost.affine import Transfer
from spectralpost.degradations import downsample, from_kernel, gaussian_blur
from spectralpost.errors import InputError
from spectralpost.merging import pad_modes, unique_modes
from spectralpost.metrics import (
    image_mse,
    kl,
    mode_error,
    mse,
    output_cov,
    perception,
    psnr,
    wasserstein2,
    wasserstein2_residuals,
)
from spectralpost.noise import vp_linear
from spectralpost.prior import Prior, power_law
from spectralpost.problem import (
    basis_matrix,
    ideal_posterior,
    image_problem,
    make_problem,
    per_pixel,
)
from spectralpost.samplers import SAMPLERS
from spectralpost.samplers.ddnm import ddnm
from spectralpost.samplers.dps import dps
from spectralpost.samplers.pigdm import pigdm
from spectralpost.transfer import sampler_transfer

pytestmark = pytest.mark.usefixtures("quick")

PROBLEMS = {
    "modes": lambda: circular().problem,
    "blocks": lambda: many_blocks(3).problem,
    "one block": lambda: one_block("decimate 2").problem,
}
METRICS = {
    wasserstein2: dense.averaged_w2,
    kl: dense.averaged_kl,
    mse: dense.mse,
    perception: dense.perception,
}


def measured(problem) -> np.ndarray:
    """Which modes a measurement has: in a block, singular values of 0 stand for no data at all."""
    h = np.asarray(problem.response)
    return np.ones(h.shape, bool) if problem.basis is None else h > 0


def random_transfer(problem, seed=0) -> Transfer:
    """Not of any sampler: full gains, noise and offset, near enough to be of the same size."""
    rng = np.random.default_rng(seed)
    blocks = problem.basis is not None
    shape = problem.spectrum.shape + problem.spectrum.shape[-1:] * blocks
    ideal = np.asarray(ideal_posterior(problem).gain)
    gain = ideal + 0.2 * rng.normal(size=shape)
    root = 0.3 * rng.normal(size=shape)
    return Transfer(
        jnp.asarray(0.4 * rng.normal(size=shape)),
        jnp.asarray(gain * measured(problem)[:, None, :] if blocks else gain),
        jnp.asarray(0.05 * np.eye(shape[-1]) + root @ root.mT if blocks else 0.05 + root**2),
        jnp.asarray(0.3 * rng.normal(size=problem.spectrum.shape)),
    )


def with_weights(problem):
    """Rows that stand for 1, 2, 3, ... identical ones."""
    return problem._replace(weight=jnp.arange(1.0, len(problem.weight) + 1))


def dense_form(problem, transfer):
    """(A, B, Q, c, H, mu, C, sigma_y) in mode coordinates, a row of weight w written w times.

    H has only the rows that are measured, B only their columns.
    """
    repeats = np.asarray(problem.weight).astype(int)

    def matrix(rows):
        rows = np.repeat(np.asarray(rows), repeats, axis=0)
        return np.diag(rows) if problem.basis is None else scipy.linalg.block_diag(*rows)

    def vector(rows):
        return np.repeat(np.asarray(rows), repeats, axis=0).ravel()

    if problem.basis is None:
        C = matrix(problem.spectrum)
    else:
        basis, spectrum = np.asarray(basis_matrix(problem)), np.asarray(problem.spectrum)
        C = matrix(basis * spectrum[:, None, :] @ basis.mT)
    A, B, Q = (matrix(gain) for gain in transfer[:3])
    seen = vector(measured(problem))
    H, mu, B = np.diag(vector(problem.response))[seen], vector(problem.mean), B[:, seen]
    c = vector(transfer.offset) + mu - B @ H @ mu
    return A, B, Q, c, H, mu, C, float(problem.sigma_y)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_losses_are_the_dense_ones(kind):
    """W2, KL, MSE and perception, with offsets and weights, to 10 digits."""
    problem = with_weights(PROBLEMS[kind]())
    for seed in range(2):
        transfer = random_transfer(problem, seed)
        arrays = dense_form(problem, transfer)
        for metric, reference in METRICS.items():
            np.testing.assert_allclose(
                metric(problem, transfer),
                reference(*arrays),
                rtol=1e-10,
                err_msg=metric.__name__,
            )


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_perfect_sampler_has_no_loss(kind):
    """The ideal posterior itself: W2 = KL = perception = 0, and MSE is twice its variance.

    In blocks W2 is a difference of traces of size 1, so 0 means a few eps.
    """
    problem = PROBLEMS[kind]()
    ideal = ideal_posterior(problem)
    zero = jnp.zeros_like(ideal.gain)
    perfect = Transfer(zero, ideal.gain, ideal.cov, jnp.zeros_like(problem.spectrum))
    np.testing.assert_allclose(wasserstein2(problem, perfect), 0, atol=100 * EPS)
    np.testing.assert_allclose(kl(problem, perfect), 0, atol=100 * EPS)
    np.testing.assert_allclose(perception(problem, perfect), 0, atol=100 * EPS)
    error = mode_error(problem, perfect)
    np.testing.assert_allclose(mse(problem, perfect), 2 * np.mean(error.ideal_var), rtol=1e-13)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_mode_error_adds_up_to_the_mse(kind):
    problem = with_weights(PROBLEMS[kind]())
    transfer = random_transfer(problem)
    error = mode_error(problem, transfer)
    rows = (error.bias2 + error.var + error.ideal_var).reshape(len(problem.weight), -1)
    pixels = rows.shape[1] * np.sum(problem.weight)
    expected = np.sum(np.asarray(problem.weight)[:, None] * rows) / pixels
    np.testing.assert_allclose(mse(problem, transfer), expected, rtol=1e-13)
    assert output_cov(transfer).shape == transfer.noise_cov.shape


@pytest.mark.parametrize("kind", PROBLEMS)
def test_averaged_wasserstein2_is_the_average_over_y(kind):
    """Many y drawn from the model: their mean W2^2 within 5 standard errors of the closed form."""
    problem = with_weights(PROBLEMS[kind]())
    transfer = random_transfer(problem)
    rng = np.random.default_rng(1)
    shape = (20_000, *problem.spectrum.shape)
    x = np.sqrt(np.asarray(problem.spectrum)) * rng.normal(size=shape)
    if problem.basis is not None:
        x = np.einsum("bij,nbj->nbi", np.asarray(basis_matrix(problem)), x)
    noise = float(problem.sigma_y) * rng.normal(size=shape) * measured(problem)
    y = np.asarray(problem.response) * x + noise
    for wrong in (y[0][..., :-1], y, 1.0):
        with pytest.raises(InputError, match="y of shape"):
            wasserstein2(problem, transfer, wrong)
    losses = np.asarray(jax.jit(jax.vmap(lambda y: wasserstein2(problem, transfer, y)))(y))
    error = losses.std() / np.sqrt(len(losses))
    averaged = float(wasserstein2(problem, transfer))
    assert error < 0.02 * averaged
    assert abs(losses.mean() - averaged) < 5 * error


@pytest.mark.parametrize("kind", PROBLEMS)
def test_wasserstein2_of_one_y_is_the_dense_one(kind):
    problem = PROBLEMS[kind]()
    transfer = random_transfer(problem)
    A, B, Q, _, H, mu, C, sigma_y = dense_form(problem, transfer)
    seen = measured(problem)
    y = np.random.default_rng(2).normal(size=problem.spectrum.shape) * seen
    K, P = dense.posterior(H, mu, C, sigma_y)
    output = B @ y[seen] + np.ravel(transfer.offset)
    wanted = dense.w2_squared(output, A @ A.T + Q, K @ y[seen], P) / len(mu)
    np.testing.assert_allclose(wasserstein2(problem, transfer, jnp.asarray(y)), wanted, rtol=1e-10)


def test_residuals_are_square_roots_of_the_loss():
    """What Levenberg-Marquardt relies on."""
    problem = with_weights(PROBLEMS["modes"]())
    transfer = random_transfer(problem)
    residuals = wasserstein2_residuals(problem, transfer)
    assert residuals.shape == (3 * problem.spectrum.size,)
    loss = dense.averaged_w2(*dense_form(problem, transfer))
    np.testing.assert_allclose(np.sum(residuals**2), loss, rtol=1e-12)


@pytest.mark.parametrize("kind", ["modes", "blocks"])
def test_gradient_is_finite_at_zero_variance(kind):
    """Dead modes: no prior variance, no response, no output variance; roots of 0 all over."""
    spectrum = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    response = np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    if kind == "modes":
        problem = make_problem(spectrum.ravel(), response.ravel(), 0.3)
    else:
        basis = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 4, 4)))[0]
        problem = make_problem(spectrum, response, 0.3, basis=basis)
    zero = jnp.zeros_like(ideal_posterior(problem).gain)
    dead = Transfer(zero, zero, zero, jnp.zeros_like(problem.spectrum))

    def losses(transfer):
        return [metric(problem, transfer) for metric in (wasserstein2, mse, perception)]

    # Dead in all, and dead but for an output that follows y.
    for transfer in (dead, dead._replace(data_gain=zero + 0.5)):
        slopes = jax.jit(jax.jacrev(losses))(transfer)
        for leaf in jax.tree.leaves(slopes):
            assert np.all(np.isfinite(leaf))


def test_gradient_in_blocks_is_finite_where_eigenvalues_repeat():
    """Derivatives of eigenvectors are infinite there; those of W2 by the transfer are not."""
    ones, eye = np.ones((1, 3)), jnp.eye(3)[None]
    problem = make_problem(ones, ones, 0.5, basis=eye)
    transfer = Transfer(0.5 * eye, 0.1 * eye, 0.2 * eye, jnp.zeros((1, 3)))
    for leaf in jax.jit(jax.grad(lambda transfer: wasserstein2(problem, transfer)))(transfer):
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("metric", [wasserstein2, perception])
@pytest.mark.parametrize(("factor", "side"), [(2, 8), (4, 8)])
def test_gradient_by_the_problem_in_blocks(factor, side, metric):
    """Of the spectrum, variances that are equal by symmetry included, and of sigma_y; blocks of
    more modes than rotations are made for (16), too. By differences of 1e-5: the third derivative
    leaves 1e-10, rounding of values of 0.1 leaves 1e-11."""
    prior = power_law((side, side))
    problem, _ = unique_modes(image_problem(prior, downsample((side, side), factor), 0.1))
    sampler, levels = SAMPLERS["dmps"](), vp_linear(2)
    guidance = sampler.heuristic(problem, levels)

    @jax.jit
    def value(spectrum, sigma_y):
        changed = problem._replace(spectrum=spectrum, sigma_y=sigma_y)
        return metric(changed, sampler_transfer(sampler, changed, levels, guidance))

    spectrum, sigma_y = problem.spectrum, jnp.asarray(0.1)
    slopes = jax.grad(value, (0, 1))(spectrum, sigma_y)
    random = np.random.default_rng(0)
    for tangent in (np.ones(spectrum.shape), random.uniform(-1, 1, spectrum.shape)):
        change = 1e-5 * spectrum * tangent
        up, down = (value(spectrum + one, sigma_y) for one in (change, -change))
        slope = jnp.sum(slopes[0] * change)
        np.testing.assert_allclose(slope, (up - down) / 2, rtol=1e-5, atol=1e-14)
    up, down = (value(spectrum, sigma_y + one) for one in (1e-5, -1e-5))
    np.testing.assert_allclose(slopes[1], (up - down) / 2e-5, rtol=1e-5, atol=1e-9)


def test_kl_is_infinite_for_a_deterministic_output():
    problem = make_problem([1.0], [1.0], 0.5)
    zero = jnp.zeros(1)
    assert kl(problem, Transfer(zero, zero, zero, zero)) == np.inf


def test_kl_of_gains_whose_squares_are_too_small():
    """PiGDM's of a hundred steps: in single precision variances of 1e-48 are 0, their logarithms
    are not. Inputs are rounded once, by 2^-24 = 6e-8, as is each of some ten operations on them."""
    problem = image_problem(power_law((16, 16)), gaussian_blur((16, 16), 2.0), 0.05)
    levels = vp_linear(100)
    guidance = pigdm().heuristic(problem, levels)
    transfer = sampler_transfer(pigdm(), problem, levels, guidance)
    assert jnp.min(jnp.abs(transfer.state_gain)) < 1e-23
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (problem, transfer))
    assert jnp.min(single[1].state_gain ** 2) == 0 == jnp.max(single[1].noise_cov)
    np.testing.assert_allclose(kl(*single), kl(problem, transfer), rtol=1e-6)


def test_kl_of_a_sampler_that_replaces_all_that_is_measured():
    """DDNM without noise: nothing is random of the frequencies that a blur lets through."""
    blur = from_kernel([[0.1, -0.5, 0.2], [0.3, 0.9, -0.2]], (5, 6))
    problem, levels = image_problem(power_law((5, 6)), blur, 0.1), vp_linear(4)
    sampler = ddnm(noiseless=True)
    guidance = sampler.heuristic(problem, levels)
    assert kl(problem, sampler_transfer(sampler, problem, levels, guidance)) == np.inf


@pytest.mark.parametrize("kind", ["modes", "blocks"])
def test_kl_without_prior_variance(kind):
    """Directions that both laws know exactly count 0; where only one does, the loss is infinite.

    The finite value is the dense one of what is left, by the number of all pixels; its gradient is
    that of finite differences.
    """
    rng = np.random.default_rng(0)
    spectrum = np.array([[0.0, 0.4, 0.0, 1.0], [0.3, 1.0, 0.8, 2.0], [0.0, 0.0, 0.0, 0.0]])
    response = np.array([[0.0, 1.0, 0.5, 0.7], [0.3, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.3]])
    if kind == "modes":
        problem = make_problem(spectrum.ravel(), response.ravel(), 0.3)
        alive = spectrum.ravel() > 0
        transfer = random_transfer(problem)
        transfer = jax.tree.map(lambda leaf: jnp.where(alive, leaf, 0), transfer)
        left = jax.tree.map(lambda leaf: leaf[alive] if leaf.ndim else leaf, problem)
        rest = jax.tree.map(lambda leaf: leaf[alive], transfer)
        wanted = dense.averaged_kl(*dense_form(left, rest)) * alive.sum() / alive.size
    else:
        basis = np.linalg.qr(rng.normal(size=(3, 4, 4)))[0]
        problem = make_problem(spectrum, response, 0.3, basis=basis)
        onto = basis * (spectrum > 0)[:, None, :] @ basis.mT  # what has variance
        free = random_transfer(problem)
        transfer = Transfer(
            onto @ free.state_gain,
            onto @ free.data_gain,
            onto @ free.noise_cov @ onto,
            (onto @ free.offset[..., None])[..., 0],
        )
        wanted = sum(restricted_kl(problem, transfer, block) for block in range(2)) / 12
    value, slope = jax.jit(jax.value_and_grad(lambda transfer: kl(problem, transfer)))(transfer)
    np.testing.assert_allclose(value, wanted, rtol=1e-10)
    for leaf in slope:
        assert np.all(np.isfinite(leaf))
    moved, step = transfer._replace(offset=transfer.offset * 1.5), 1e-6
    scaled = lambda c: kl(problem, transfer._replace(offset=c * transfer.offset))  # noqa: E731
    by_offset = jax.jit(jax.grad(scaled))(1.5)
    ends = [moved.offset * (1 + sign * step / 1.5) for sign in (1, -1)]
    loss = jax.jit(partial(kl, problem))
    up, down = (loss(moved._replace(offset=end)) for end in ends)
    np.testing.assert_allclose(by_offset, (up - down) / (2 * step), rtol=1e-7)
    # One law that varies where the other does not, or a bias there.
    ones = jnp.ones_like(transfer.offset)
    live = 1 if kind == "modes" else 0  # a row in which the posterior varies
    shifted = transfer._replace(offset=transfer.offset + 1e-3 * ones)
    noisy = transfer._replace(
        noise_cov=transfer.noise_cov
        + 1e-6 * (ones if kind == "modes" else jnp.broadcast_to(jnp.eye(4), (3, 4, 4)))
    )
    stiff = jax.tree.map(lambda leaf: leaf.at[live].set(0), transfer)
    for other in (shifted, noisy, stiff):
        assert loss(other) == np.inf


def restricted_kl(problem, transfer, block) -> float:
    """KL of one block, in coordinates of what has prior variance there; not divided by pixels."""
    spectrum = np.asarray(problem.spectrum[block])
    E = np.asarray(basis_matrix(problem)[block])[:, spectrum > 0]
    A, B, Q, c = (np.asarray(leaf[block]) for leaf in transfer)
    h, sigma_y = np.asarray(problem.response[block]), float(problem.sigma_y)
    seen = h > 0
    H = np.diag(h)[seen] @ E
    C = np.diag(spectrum[spectrum > 0])
    A, Q = E.T @ A, E.T @ Q @ E
    arrays = (A, E.T @ B[:, seen], Q, E.T @ c, H, np.zeros(len(C)), C, sigma_y)
    return dense.averaged_kl(*arrays) * len(C)


def test_kl_of_padding_does_not_count():
    """Rows of weight 0 repeat the last one, infinite or not."""
    problem = make_problem([1.0, 0.0], [1.0, 1.0], 0.5)
    ideal = ideal_posterior(problem)
    zero = jnp.zeros(2)
    padded, rows = pad_modes(problem, 4), jnp.asarray([0, 1, 1, 1])
    for cov, wanted in ((ideal.cov, 0.0), (ideal.cov + jnp.asarray([0.0, 1.0]), np.inf)):
        transfer = jax.tree.map(lambda leaf: leaf[rows], Transfer(zero, ideal.gain, cov, zero))
        assert kl(padded, transfer) == wanted


def test_kl_of_published_samplers_is_not_nan():
    """On images of which some frequencies are known: a spectrum with zeros."""
    spectrum = np.asarray(power_law((6, 6)).spectrum).copy()
    spectrum[2:5] = 0
    prior = Prior(spectrum, np.zeros((6, 6)), (-1.0, 1.0), "test")
    problem = image_problem(prior, gaussian_blur((6, 6), 1.0), 0.1)
    levels, sampler = vp_linear(4), dps()
    guidance = {"zeta": jnp.full(4, 0.05), "eta": jnp.ones(4)}

    def loss(zeta):
        weights = guidance | {"zeta": zeta}
        return kl(problem, sampler_transfer(sampler, problem, levels, weights))

    value, slope = jax.jit(jax.value_and_grad(loss))(guidance["zeta"])
    assert np.isfinite(value) and value > 0
    assert np.all(np.isfinite(slope)) and np.any(slope != 0)


def test_image_mse_is_the_dense_expectation():
    """One given x_0, all noise averaged: |bias|^2 + trace of sigma_y^2 B B^T + A A^T + Q."""
    problem = with_weights(PROBLEMS["modes"]())
    transfer = random_transfer(problem)
    A, B, Q, c, H, mu, _, sigma_y = dense_form(problem, transfer)
    x_0 = np.random.default_rng(3).normal(size=problem.spectrum.shape)
    deviation = np.repeat(x_0, np.asarray(problem.weight).astype(int))
    bias = B @ H @ (mu + deviation) + c - (mu + deviation)
    spread = np.trace(sigma_y**2 * B @ B.T + A @ A.T + Q)
    wanted = (bias @ bias + spread) / len(mu)
    np.testing.assert_allclose(image_mse(problem, transfer, jnp.asarray(x_0)), wanted, rtol=1e-12)


def test_image_mse_of_the_mean_of_samples():
    """The sampler's own noise is averaged out, the measurement's is not."""
    problem = with_weights(PROBLEMS["modes"]())
    transfer = random_transfer(problem)
    x_0 = jnp.linspace(-1, 1, problem.spectrum.size)
    one, many = (image_mse(problem, transfer, x_0, num) for num in (1, 10**9))
    own = per_pixel(problem, output_cov(transfer))
    np.testing.assert_allclose(one - many, own, rtol=1e-8)
    eight = image_mse(problem, transfer, x_0, 8)
    np.testing.assert_allclose(eight - many, own / 8, rtol=1e-7)


def test_image_mse_averages_to_the_mse():
    """Over x_0 from the prior: E x_0^2 = spectrum, mode by mode, by linearity."""
    problem = with_weights(PROBLEMS["modes"]())
    transfer = random_transfer(problem)
    at_zero = image_mse(problem, transfer, jnp.zeros_like(problem.spectrum))
    std = jnp.sqrt(problem.spectrum)
    # image_mse is quadratic in x_0: its even part at one standard deviation is the average
    even = (image_mse(problem, transfer, std) + image_mse(problem, transfer, -std)) / 2
    np.testing.assert_allclose(even, mse(problem, transfer), rtol=1e-12)
    assert at_zero < even


def test_psnr():
    """Peak = width of the pixel range: 2 by default, so 0.04 is 20 dB."""
    with pytest.raises(InputError, match="low < high"):
        psnr(0.1, (1.0, 1.0))
    np.testing.assert_allclose(psnr(jnp.asarray(0.04)), 20)
    np.testing.assert_allclose(psnr(jnp.asarray(0.01), (0.0, 1.0)), 20)
    np.testing.assert_allclose(psnr(jnp.asarray([1.0, 100.0]), (0, 255)), [48.1308, 28.1308], 1e-5)
