"""Images through the same updates: restore, and simulation against the closed forms."""

import copy
import dataclasses
import pickle

import dense
import jax
import jax.numpy as jnp
import literal
import numpy as np
import pytest
from cases import EPS, ROWS, random_guidance, total

from spectralpost import restoration
from spectralpost.borders import on_canvas, restore_crop
from spectralpost.commands.restore import middle
from spectralpost.degradations import from_kernel, gaussian_blur
from spectralpost.denoisers.gaussian import GaussianAbove, GaussianDenoiser, WithCovariance
from spectralpost.errors import InputError
from spectralpost.noise import NoiseLevel, ve_karras, vp_linear
from spectralpost.prior import Prior, matern, power_law
from spectralpost.problem import denoise, image_problem
from spectralpost.restoration import measure, restore
from spectralpost.samplers.dps import dps
from spectralpost.samplers.freehunch import freehunch
from spectralpost.samplers.pigdm import pigdm
from spectralpost.simulation import simulate
from spectralpost.transfer import sampler_transfer

pytestmark = pytest.mark.usefixtures("quick")

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
    # ... except for those that overwrite the measured modes, whose start is forgotten.
    assert np.abs(transfer.offset).max() > 0.01 or name in ("ddnm", "ddrm", "daps", "mcg")
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
        num_runs=2000,
        batch_size=1000,
    )
    assert moments.num_runs == 2000
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
    form; the standard error here is 0.002. Strong guidance, so that a norm of one plane instead
    of three would be seen.
    """
    shape, runs, channels = (64, 64), 32, 3
    prior, degradation = power_law(shape, std=0.3, mean=0.2), gaussian_blur(shape, 1.0)
    problem = image_problem(prior, degradation, SIGMA_Y, channels=channels)
    levels, sampler = vp_linear(30), dps(normalised=True)
    guidance = {"scale": np.full(30, 8.0), "eta": np.full(30, 0.8)}
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
    assert abs(np.mean(z**2) - 1) < 0.015
    z_mean = z.mean(axis=(0, 1)) * np.sqrt(runs * channels)
    assert np.abs(z_mean).max() < 5 * np.sqrt(1.015)
    assert abs(np.mean(z_mean**2) - 1) < 0.015 + 5 * np.sqrt(2 / z_mean.size)
    # The guidance is not negligible: without it the output does not follow y at all.
    assert transfer.data_gain.max() > 0.5


# ----------------------------------------------------------------------------------- the denoiser


@pytest.mark.parametrize("shape", [(9,), (5, 4)])
def test_gaussian_denoiser_is_the_dense_one(shape):
    """E[x_0 | x_t] by matrices, for odd and even sizes, with leading axes left alone."""
    rng = np.random.default_rng(0)
    prior = power_law(shape, 1.0)
    prior = Prior(prior.spectrum, rng.normal(size=shape), prior.pixel_range, "test")
    x_t = rng.normal(size=(2, 3, *shape))
    level = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))
    got = GaussianDenoiser.of(prior)(jnp.asarray(x_t), level)
    C = dense.stationary(prior.spectrum)
    columns = x_t.reshape(6, -1).T
    wanted = literal.denoise(columns, 0.8, 0.6, prior.mean.reshape(-1, 1), C)
    # conditioning of alpha^2 C + sigma^2
    kappa = (0.64 * prior.spectrum.max() + 0.36) / 0.36
    np.testing.assert_allclose(got.reshape(6, -1).T, wanted, rtol=0, atol=10 * EPS * kappa)


def test_gaussian_denoiser_is_that_of_the_problem():
    """Pixels and mode coordinates: one theory."""
    prior, degradation = small_setup((6, 7))
    problem = image_problem(prior, degradation, SIGMA_Y)
    x_t = jnp.asarray(np.random.default_rng(1).normal(size=(6, 7)))
    level = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))
    pixels = degradation.to_modes(GaussianDenoiser.of(prior)(x_t, level))
    relative = degradation.to_modes(x_t) - level.alpha * problem.mean
    wanted = problem.mean + denoise(problem, relative, level)
    np.testing.assert_allclose(pixels, wanted, rtol=0, atol=20 * EPS)


@pytest.mark.parametrize("shape", [(9,), (5, 4)])
def test_covariance_of_the_gaussian_denoiser_is_the_dense_one(shape):
    """(C^-1 + (alpha / sigma)^2)^-1 by matrices; no signal in x_t leaves C."""
    prior = power_law(shape, 1.0)
    v = np.random.default_rng(0).normal(size=(2, 3, *shape))
    C = dense.stationary(prior.spectrum)
    kappa = prior.spectrum.max() / prior.spectrum.min()
    for alpha, sigma in ((0.8, 0.6), (0.0, 1.0)):
        level = NoiseLevel(jnp.asarray(alpha), jnp.asarray(sigma))
        got = GaussianDenoiser.of(prior).cov(jnp.asarray(v), level)
        C_t = np.linalg.inv(np.linalg.inv(C) + (alpha / sigma) ** 2 * np.eye(len(C)))
        wanted = C_t @ v.reshape(6, -1).T
        atol = 10 * EPS * kappa * np.abs(wanted).max()
        np.testing.assert_allclose(got.reshape(6, -1).T, wanted, rtol=0, atol=atol)


def test_covariance_along_axes_of_colour(getkey):
    """The derivative of the denoiser, by Tweedie: C_t v = (sigma^2 / alpha) J v."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    spectrum = np.stack([power_law((6, 7), n, std=0.1 * n).spectrum for n in (1.0, 2.0, 3.0)])
    prior = Prior(spectrum, 0 * spectrum, (-1.0, 1.0), "test", axes=axes)
    level = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))
    v = jax.random.normal(getkey(), (2, 3, 6, 7), float)
    denoiser = GaussianDenoiser.of(prior)
    wanted = 0.36 / 0.8 * denoiser(v, level)
    atol = 100 * EPS * np.abs(wanted).max()
    np.testing.assert_allclose(denoiser.cov(v, level), wanted, rtol=0, atol=atol)


def test_measure_adds_noise_of_the_stated_strength(getkey):
    """y - H x_0 is white with standard deviation sigma_y."""
    prior, degradation = small_setup()
    x_0 = prior_samples(prior, 20)
    noise = measure(degradation, x_0, 0.3, getkey()) - degradation.apply(x_0)
    z = float(jnp.mean(noise**2)) / 0.09 - 1
    assert abs(z) < 5 * np.sqrt(2 / noise.size)


# ----------------------------------------------------------------------------------------- restore

SHAPE = (8, 8)


@pytest.fixture(scope="module")
def setup():
    """Prior, degradation, problem of three planes, levels, and two measured colour images."""
    prior, degradation = small_setup(SHAPE)
    problem = image_problem(prior, degradation, SIGMA_Y, channels=3)
    y = measure(degradation, prior_samples(prior, 2, 3), SIGMA_Y, jax.random.key(5))
    return prior, degradation, problem, vp_linear(3), y


def run(sampler, setup, y, guidance, key=None, **options):
    prior, degradation, _, levels, _ = setup
    key = jax.random.key(0) if key is None else key
    options = {"sigma_y": SIGMA_Y, **options}
    return restore(
        sampler, GaussianDenoiser.of(prior), degradation, y, levels, guidance, key, **options
    )


@pytest.mark.parametrize("name", ROWS)
def test_planes_of_one_image_do_not_mix(name, setup, monkeypatch):
    """Colour images [C, H, W], for every sampler: another plane changes nothing in this one.

    Not by a bit; but for TMPD and Free Hunch, whose conjugate gradients solve for all planes at
    once. Here they do so to rounding, times the condition of their operator, which is below 400 on
    these levels.
    """
    monkeypatch.setattr(restoration, "CG_TOLERANCE", 1e-15)
    y = setup[-1][0]
    sampler, guidance = ROWS[name].make(setup[2]), random_guidance(name, 0, num_steps=3)
    out = run(sampler, setup, y, guidance)
    assert out.shape == y.shape
    assert np.all(np.isfinite(out))
    changed = run(sampler, setup, y.at[1].add(1.0), guidance)
    atol = 400 * EPS if name in ("tmpd", "freehunch") else 0
    np.testing.assert_allclose(changed[::2], out[::2], rtol=0, atol=atol)
    assert np.abs(changed[1] - out[1]).max() > 1e-3


def test_a_network_is_told_the_covariance_of_images(setup, monkeypatch):
    """Free Hunch asks for it; any other sampler takes a denoiser that does not know it."""
    monkeypatch.setattr(restoration, "CG_TOLERANCE", 1e-15)
    prior, degradation, _, levels, y = setup
    guidance, gaussian = random_guidance("freehunch", 0, num_steps=3), GaussianDenoiser.of(prior)

    def network(x_t, t):
        return gaussian(x_t, t)

    def restored(sampler, denoiser, guidance):
        key = jax.random.key(0)
        return restore(sampler, denoiser, degradation, y, levels, guidance, key, sigma_y=SIGMA_Y)

    wanted = restored(freehunch(), gaussian, guidance)
    for told in (WithCovariance.of(network, prior), GaussianAbove.of(network, prior, 1.0)):
        found = restored(freehunch(), told, guidance)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=400 * EPS)
    with pytest.raises(InputError, match="WithCovariance"):
        restored(freehunch(), network, guidance)
    guidance = random_guidance("pigdm", 0, num_steps=3)
    found = restored(pigdm(), WithCovariance.of(network, prior), guidance)
    np.testing.assert_allclose(found, restored(pigdm(), network, guidance), rtol=0, atol=100 * EPS)


def test_images_of_a_batch_do_not_mix_but_planes_share_a_norm(setup):
    """Normalised DPS divides by the norm of one whole image, never of the batch."""
    y = setup[-1]
    sampler, guidance = dps(normalised=True), {"scale": np.full(3, 2.0), "eta": np.zeros(3)}
    out = run(sampler, setup, y, guidance)
    assert out.shape == y.shape == (2, 3, *SHAPE)
    changed = run(sampler, setup, y.at[0, 1].add(1.0), guidance)
    np.testing.assert_array_equal(changed[1], out[1])
    assert np.abs(changed[0, 0] - out[0, 0]).max() > 1e-3
    assert np.abs(out[0] - out[1]).max() > 1e-3


def test_samples_are_independent_and_reproducible(setup):
    """[n, ...] with fresh noise each; the same key gives the same images."""
    y, guidance = setup[-1][0, 0], random_guidance("pigdm", 0, num_steps=3)
    samples = run(pigdm(), setup, y, guidance, num_samples=3)
    assert samples.shape == (3, *SHAPE)
    assert min(np.abs(samples[i] - samples[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.01
    again = run(pigdm(), setup, y, guidance, num_samples=3)
    np.testing.assert_array_equal(again, samples)
    other = run(pigdm(), setup, y, guidance, key=jax.random.key(1), num_samples=3)
    assert np.abs(other - samples).max() > 0.01


@pytest.mark.parametrize("batch_size", [1, 4, 6, 7])
def test_batches_bound_memory_and_change_nothing(setup, batch_size):
    """Two images, three samples each: also where a batch is not full, or larger than all."""
    y, guidance = setup[-1], random_guidance("pigdm", 0, num_steps=3)
    news = []
    out = run(
        pigdm(),
        setup,
        y,
        guidance,
        num_samples=3,
        batch_size=batch_size,
        progress=lambda *numbers: news.append(numbers),
    )
    at_once = run(pigdm(), setup, y, guidance, num_samples=3)
    assert out.shape == at_once.shape == (3, 2, 3, *SHAPE)
    np.testing.assert_allclose(out, at_once, rtol=0, atol=400 * EPS)
    assert news == [(min(i + batch_size, 6), 6) for i in range(0, 6, batch_size)]
    assert run(pigdm(), setup, y[0, 0], guidance, batch_size=batch_size).shape == SHAPE


def test_any_callable_is_a_denoiser(setup):
    """A plain function is as good as the pytree: two programs of the same few dozen operations."""
    prior, degradation, _, levels, y = setup
    gaussian = GaussianDenoiser.of(prior)
    guidance = random_guidance("pigdm", 0, num_steps=3)
    wanted = run(pigdm(), setup, y[0], guidance)
    key = jax.random.key(0)
    got = restore(
        pigdm(),
        lambda x_t, t: gaussian(x_t, t),
        degradation,
        y[0],
        levels,
        guidance,
        key,
        sigma_y=SIGMA_Y,
    )
    np.testing.assert_allclose(got, wanted, rtol=0, atol=20 * EPS)


def test_the_middle_of_an_image_that_a_network_takes():
    image = jnp.arange(2 * 9 * 8).reshape(2, 9, 8)
    np.testing.assert_array_equal(middle(image, 4), image[:, :8])
    assert middle(image[:, :3, :7], 4).shape == (2, 3, 4)


@dataclasses.dataclass
class Shrinking:
    """Compares by value, so that it cannot be hashed."""

    factor: float

    def __call__(self, x_t, t):
        return self.factor * x_t

    def __len__(self):
        return 0


def test_callables_that_cannot_be_hashed_are_denoisers(setup):
    y = jnp.zeros((2, 1, 8, 8)) + 0.5
    for factor in (0.5, 0.7):
        one = restore_with(Shrinking(factor), setup, y)
        function = restore_with(lambda x_t, t, factor=factor: factor * x_t, setup, y)
        np.testing.assert_array_equal(one, function)


def test_keys_of_both_kinds(setup):
    y, denoiser = jnp.zeros((2, 1, 8, 8)) + 0.5, Shrinking(0.5)
    keys = jax.random.key(3), jax.random.PRNGKey(3)
    for batch_size in (None, 3):
        options = {"num_samples": 2, "batch_size": batch_size}
        one, other = (restore_with(denoiser, setup, y, key=key, **options) for key in keys)
        np.testing.assert_array_equal(one, other)


def test_a_level_for_each_image_is_refused(setup):
    """Of as many images as columns it would be taken along the columns."""
    x_t, alpha = jnp.ones((8, 8, 8)), jnp.linspace(0.1, 0.9, 8)
    levels = NoiseLevel(alpha, jnp.sqrt(1 - alpha**2))
    denoiser = GaussianDenoiser.of(power_law((8, 8)))
    with pytest.raises(InputError, match=r"levels of shape \(8,\): one for all"):
        denoiser(x_t, levels)
    each = jax.vmap(denoiser)(x_t, levels)
    np.testing.assert_allclose(each[3], denoiser(x_t[3], jax.tree.map(lambda a: a[3], levels)))


def test_restoring_again_does_not_trace_again(setup):
    """Another image, schedule, grid, noise strength, prior or key: the program stays."""
    _, degradation, _, _, y = setup
    calls = []

    def update(*args):
        calls.append(1)
        return pigdm().update(*args)

    sampler = dataclasses.replace(pigdm(), update=update)
    run(sampler, setup, y[0], random_guidance("pigdm", 0, num_steps=3))
    traced = len(calls)
    assert traced > 0
    restore(
        sampler,
        GaussianDenoiser.of(matern(SHAPE)),
        degradation,
        y[1],
        ve_karras(3),
        random_guidance("pigdm", 1, num_steps=3),
        jax.random.key(7),
        sigma_y=0.5,
    )
    assert len(calls) == traced


def test_an_equal_degradation_does_not_trace_again(setup):
    """Made anew, copied or sent to another process: the same static argument."""
    _, degradation, _, levels, y = setup
    calls = []

    def denoiser(x_t, t):
        calls.append(1)
        return x_t

    def again(degradation):
        guidance, key = random_guidance("pigdm", 0, num_steps=3), jax.random.key(0)
        args = (pigdm(), denoiser, degradation, y[0], levels, guidance, key)
        return restore(*args, sigma_y=SIGMA_Y)

    wanted = again(degradation)
    traced = len(calls)
    for equal in (
        from_kernel(degradation.options["kernel"], list(SHAPE)),
        copy.deepcopy(degradation),
        pickle.loads(pickle.dumps(degradation)),
    ):
        np.testing.assert_array_equal(again(equal), wanted)
        assert len(calls) == traced
    again(gaussian_blur(SHAPE, 1.0))
    assert len(calls) > traced
    half = dataclasses.replace(degradation, response=degradation.response / 2)
    assert np.any(again(half) != wanted)


def test_restore_within_jit_and_vmap(setup):
    """Whatever is an array may be traced: the same images as from plain calls."""
    prior, degradation, _, levels, y = setup
    sampler, key = dps(normalised=True), jax.random.key(2)
    guidance = {"scale": np.full(3, 2.0), "eta": np.full(3, 0.5)}
    gaussian = GaussianDenoiser.of(prior)

    def image(y, levels, guidance, key, sigma_y, denoiser=gaussian):
        return restore(sampler, denoiser, degradation, y, levels, guidance, key, sigma_y=sigma_y)

    args = (y[0], levels, guidance, key, SIGMA_Y)
    plain = image(*args)
    for got in (jax.jit(image)(*args, gaussian), jax.jit(lambda y: image(y, *args[1:]))(y[0])):
        np.testing.assert_allclose(got, plain, rtol=0, atol=20 * EPS)

    batches = (
        y,
        jax.tree.map(lambda *leaves: jnp.stack(leaves), levels, ve_karras(3, sigma_max=5.0)),
        {"scale": jnp.asarray([[2.0] * 3, [1.0] * 3]), "eta": jnp.full((2, 3), 0.5)},
        jax.random.split(key),
        jnp.asarray([SIGMA_Y, 0.5]),
    )
    for i, batch in enumerate(batches):
        axes = [0 if i == j else None for j in range(5)]
        many = jax.vmap(image, axes)(*args[:i], batch, *args[i + 1 :])
        for j in range(2):
            one = jax.tree.map(lambda leaf, j=j: leaf[j], batch)
            wanted = image(*args[:i], one, *args[i + 1 :])
            np.testing.assert_allclose(many[j], wanted, rtol=0, atol=100 * EPS)
    assert np.all(np.isfinite(jax.grad(lambda y: jnp.sum(image(y, *args[1:]) ** 2))(y[0])))
    # Shapes are known, and refused if wrong, all the same.
    with pytest.raises(InputError, match="measurement of shape"):
        jax.jit(lambda y: image(y, *args[1:]))(jnp.zeros((8, 9)))


def test_float32_image_in_float32_image_out(setup):
    """Everything in float32, as outside of these tests: no float64 constant may leak in."""
    prior, degradation, _, levels, y = setup
    single = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32),
        (GaussianDenoiser.of(prior), y[0], levels, random_guidance("dps", 0, num_steps=3)),
    )
    denoiser, image, levels, guidance = single
    args = (dps(), denoiser, degradation, image, levels, guidance, jax.random.key(0))
    out = restore(*args, sigma_y=SIGMA_Y)
    assert out.dtype == jnp.float32
    assert np.all(np.isfinite(out))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": jnp.zeros((8, 9))}, "measurement of shape"),
        ({"y": jnp.zeros(8)}, "measurement of shape"),
        ({"y": jnp.zeros((0, *SHAPE))}, "no pixels"),
        ({"y": jnp.zeros((1, 1, 1, 8, 8))}, "measurement of shape"),
        ({"y": jnp.full(SHAPE, jnp.nan)}, "NaN or infinite"),
        ({"sigma_y": 0.0}, "must be > 0"),
        ({"sigma_y": float("nan")}, "must be > 0"),
        ({"num_samples": 0}, "whole number >= 1"),
        ({"num_samples": 1.5}, "whole number >= 1"),
        ({"batch_size": 0}, "whole number >= 1"),
        ({"sigma_y": np.inf}, "must be > 0"),
        ({"sigma_y": np.ones(2)}, "one number is needed"),
        ({"y": jnp.zeros(SHAPE, complex)}, "real numbers are needed"),
        ({"y": [["a"] * 8] * 8}, "real numbers are needed"),
        ({"guidance": {"weight": np.ones(3)}}, "needed are"),
        ({"guidance": {"weight": np.ones(2), "eta": np.ones(3)}}, "one weight per step"),
        ({"guidance": {"weight": -np.ones(3), "eta": np.ones(3)}}, "weight: .* >= 0"),
        ({"guidance": {"weight": np.ones(3), "eta": 2 * np.ones(3)}}, r"eta: .* \[0, 1\]"),
        ({"levels": NoiseLevel(jnp.ones(4), jnp.zeros(4))}, "sigma > 0"),
    ],
)
def test_restore_errors(changes, message, setup):
    prior, degradation, _, levels, y = setup
    good = {
        "sampler": pigdm(),
        "denoiser": GaussianDenoiser.of(prior),
        "degradation": degradation,
        "y": y[0, 0],
        "levels": levels,
        "guidance": random_guidance("pigdm", 0, num_steps=3),
        "key": jax.random.key(0),
        "sigma_y": SIGMA_Y,
    }
    with pytest.raises(InputError, match=message):
        restore(**{**good, **changes})


def test_simulate_is_mean_and_variance_of_restore(setup):
    """The running update over batches against NumPy, and runs rounded up to whole batches."""
    prior, degradation, _, levels, y = setup
    guidance = random_guidance("pigdm", 0, num_steps=3)
    args = (pigdm(), GaussianDenoiser.of(prior), degradation, y[0, 0], levels, guidance)
    key = jax.random.key(3)
    moments = simulate(*args, key, sigma_y=SIGMA_Y, num_runs=8, batch_size=3)
    assert moments.num_runs == 9
    runs = [
        restore(*args, batch_key, sigma_y=SIGMA_Y, num_samples=3)
        for batch_key in jax.random.split(key, 3)
    ]
    modes = np.asarray(degradation.to_modes(jnp.concatenate(runs)))
    mean, std = modes.mean(axis=0), modes.std(axis=0, ddof=1)
    np.testing.assert_allclose(moments.mean, mean, rtol=0, atol=10 * EPS * np.abs(modes).max())
    # Of x - mean, x has been rounded by EPS of itself.
    rtol = 10 * EPS * np.max(np.abs(mean) / std)
    np.testing.assert_allclose(moments.var, std**2, rtol=rtol)


# ----------------------------------------------------------------- denoisers that return no images


def restore_with(denoiser, setup, y, guidance=None, key=None, **options):
    _, degradation, _, levels, _ = setup
    guidance = random_guidance("pigdm", 0, num_steps=3) if guidance is None else guidance
    key = jax.random.key(0) if key is None else key
    options = {"sigma_y": SIGMA_Y, **options}
    return restore(pigdm(), denoiser, degradation, y, levels, guidance, key, **options)


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (lambda x, t: (x, x), "denoiser: returns tuple; real images of shape"),
        (lambda x, t: {"x": x}, "denoiser: returns dict"),
        (lambda x, t: None, "denoiser: returns NoneType"),
        (lambda x, t: 0.0, "denoiser: returns float"),
        (lambda x, t: x[:1], r"denoiser: returns the shape \(1, 8, 8\) for \(3, 8, 8\)"),
        (lambda x, t: x.sum(), r"denoiser: returns the shape \(\) for"),
        (lambda x, t: jnp.fft.fft(x), "denoiser: returns complex128; real images"),
        (lambda x, t: x > 0, "denoiser: returns bool; real images"),
    ],
)
def test_what_a_denoiser_returns_is_checked(denoiser, message, setup):
    y = setup[-1]
    with pytest.raises(InputError, match=message) as refused:
        restore_with(denoiser, setup, y)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=message):  # shapes are known while JAX traces it
        jax.jit(lambda y: restore_with(denoiser, setup, y))(y)


def nan_below(limit):
    """A denoiser that breaks at little noise."""

    def denoiser(x_t, t):
        return jnp.where(t.sigma < limit * t.alpha, jnp.nan, x_t / 2)

    return denoiser


def test_a_denoiser_that_returns_nan_is_refused(setup):
    """With the first level at which it does; of any number of images, whatever is batched."""
    prior, degradation, _, levels, y = setup
    limit = float(np.sqrt(np.prod(levels.sigma[1:3] / levels.alpha[1:3])))
    first = np.flatnonzero(levels.sigma < limit * levels.alpha)[0]
    wanted = f"denoiser: returns NaN .* alpha = {levels.alpha[first]:.4g}, sigma"
    assert 0 < first < 3
    for images in (y, y[0], y[0, 0]):
        with pytest.raises(InputError, match=wanted):
            restore_with(nan_below(limit), setup, images)
    with pytest.raises(InputError, match=wanted):
        restore_with(nan_below(limit), setup, y, num_samples=3, batch_size=2)
    with pytest.raises(InputError, match=wanted):
        canvas = on_canvas(degradation)
        guidance, key = random_guidance("pigdm", 0, num_steps=3), jax.random.key(0)
        run = pigdm(), nan_below(limit), canvas, y, levels, guidance, key
        restore_crop(*run, prior=power_law(canvas.shape), sigma_y=SIGMA_Y)
    broken = GaussianDenoiser.of(prior)  # as a pytree
    broken = broken._replace(spectrum=broken.spectrum * jnp.nan)
    with pytest.raises(InputError, match=f"alpha = {levels.alpha[0]:.4g}, sigma"):
        restore_with(broken, setup, y)
    # Traced values are nobody's to look at.
    for got in (
        jax.jit(lambda y: restore_with(nan_below(limit), setup, y))(y),
        jax.vmap(lambda y: restore_with(nan_below(limit), setup, y))(y),
    ):
        assert np.all(np.isnan(got))


def test_a_schedule_that_diverges_is_not_refused(setup):
    """The denoiser is finite where images are: who counts divergences is told of them all."""
    y = setup[-1]
    huge = {"weight": np.full(3, 1e200), "eta": np.ones(3)}
    out = restore_with(GaussianDenoiser.of(setup[0]), setup, y, huge)
    assert out.shape == y.shape and not np.any(np.isfinite(out))


def test_a_good_restoration_asks_the_denoiser_nothing_more(setup, monkeypatch):
    monkeypatch.setattr(restoration, "check_finite", None)
    assert np.all(np.isfinite(restore_with(GaussianDenoiser.of(setup[0]), setup, setup[-1])))
