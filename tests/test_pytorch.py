"""PyTorch networks as denoisers, against the same networks written in JAX."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_compilation

from spectralpost.commands.inputs import denoiser_of
from spectralpost.degradations import gaussian_blur
from spectralpost.denoisers.calibrating import calibrate
from spectralpost.denoisers.gaussian import GaussianAbove, GaussianDenoiser
from spectralpost.denoisers.pytorch import torch_denoiser, torch_eps_denoiser
from spectralpost.errors import InputError
from spectralpost.noise import NoiseLevel, rectified_flow, ve_karras, vp_linear
from spectralpost.prior import draw, power_law
from spectralpost.restoration import restore
from spectralpost.samplers import SAMPLERS

EPS = float(np.finfo(np.float32).eps)
PRIOR = power_law((8, 6))
ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
LEVEL = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with quick_compilation():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network(torch):
    """x + conv(tanh(conv(x) + sigma)), smooth, in double precision; `.calls` counts."""

    class Small(torch.nn.Module):
        def __init__(self, planes=3):
            super().__init__()
            self.first = torch.nn.Conv2d(planes, 4, 3, padding=1)
            self.last = torch.nn.Conv2d(4, planes, 3, padding=1)
            self.calls = []

        def forward(self, x, sigma):
            self.calls.append(len(x))
            inside = self.first(x) + sigma.reshape(-1, 1, 1, 1)
            return x + self.last(torch.tanh(inside))

    torch.manual_seed(0)
    return Small().double().eval()


def twin(network, pixel_range=(-1.0, 1.0)):
    """The denoiser of that network in JAX."""
    weights = [
        jnp.asarray(one.detach().numpy())
        for layer in (network.first, network.last)
        for one in (layer.weight, layer.bias)
    ]
    low, high = pixel_range

    def conv(x, kernel, bias):
        dimensions = ("NCHW", "OIHW", "NCHW")
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
        return y + jnp.broadcast_to(bias[None, :, None, None], y.shape)

    def denoiser(x_t, t):
        x = (x_t / t.alpha - low) / (high - low)
        images = x.reshape(-1, *x.shape[-3:])
        inside = conv(images, *weights[:2]) + t.sigma / t.alpha / (high - low)
        x_hat = images + conv(jnp.tanh(inside), *weights[2:])
        return low + (high - low) * x_hat.reshape(x.shape)

    return denoiser


# ------------------------------------------------------------------------ the convention of deepinv


@pytest.mark.parametrize("pixel_range", [(-1.0, 1.0), (10.0, 12.5)])
def test_it_is_its_twin(network, pixel_range, getkey):
    """Values and derivatives, by levels too; any leading axes; in the dtype of x_t."""
    ours, other = torch_denoiser(network, pixel_range=pixel_range), twin(network, pixel_range)
    x_t = jax.random.normal(getkey(), (2, 2, 3, 8, 6))
    np.testing.assert_allclose(ours(x_t, LEVEL), other(x_t, LEVEL), rtol=1e-9)
    assert ours(x_t.astype(np.float32), LEVEL).dtype == np.float32
    cotangent = jax.random.normal(getkey(), x_t.shape)
    pulled, expected = (
        jax.jit(lambda x, t, f=f: jax.vjp(lambda x, t: f(x, t), x, t)[1](cotangent))(x_t, LEVEL)
        for f in (ours, other)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), pulled, expected)


def test_derivative_against_differences(network, getkey):
    ours = torch_denoiser(network)
    x_t, direction = (jax.random.normal(getkey(), (3, 8, 6)) for _ in range(2))
    at = lambda x: jnp.sum(ours(x, LEVEL) ** 2)  # noqa: E731
    slope = jnp.vdot(jax.grad(at)(x_t), direction)
    step = 2.0**-17
    difference = (at(x_t + step * direction) - at(x_t - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-8)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_a_batch_is_one_call(network, axes, getkey):
    """Images, levels or both that differ, and batches of batches."""
    ours, other = torch_denoiser(network), twin(network)
    shape = (5, 3, 8, 6) if axes[0] == 0 else (3, 8, 6)
    x_t = jax.random.normal(getkey(), shape)
    sigmas = jnp.linspace(0.1, 1, 5)
    t = NoiseLevel(1 / (1 + sigmas), sigmas) if axes[1] == 0 else LEVEL
    ours(x_t, LEVEL)  # looked at
    run = lambda f: jax.vmap(lambda x, t: f(x, t), axes)(x_t, t)  # noqa: E731
    network.calls.clear()
    np.testing.assert_allclose(run(ours), run(other), atol=1e-12)
    assert network.calls == [5]
    slope = lambda f: jax.grad(lambda x: jnp.sum(jax.vmap(lambda x, t: f(x, t), axes)(x, t) ** 2))(  # noqa: E731
        x_t
    )
    slope(ours)
    network.calls.clear()
    np.testing.assert_allclose(slope(ours), slope(other), rtol=1e-9)
    assert network.calls == [5, 5]  # the estimate, and once more for its derivative
    by_both = jax.vmap(jax.vmap(lambda x, s: ours(x, NoiseLevel(s, s)), (None, 0)), (0, None))
    network.calls.clear()
    found = by_both(jnp.stack([x_t, 2 * x_t]), sigmas)
    assert network.calls == [2 * 5 * (5 if axes[0] == 0 else 1)]
    np.testing.assert_allclose(
        found[1, 3], other(2 * x_t, NoiseLevel(sigmas[3], sigmas[3])), atol=1e-12
    )


def test_rows_of_a_jacobian(network, getkey):
    """Batched cotangents of one image."""
    x_t = jax.random.normal(getkey(), (3, 2, 3))
    found, expected = (
        jax.jacrev(lambda x, f=f: f(x, LEVEL))(x_t)
        for f in (torch_denoiser(network), twin(network))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sampler", ["dps", "pigdm", "diffpir", "daps"])
def test_samplers_restore_with_it(sampler, network, getkey):
    """As with its twin; a batch of images and two samples of each are one call a step."""
    sampler, levels = SAMPLERS[sampler](), vp_linear(3)
    y, blur = jax.random.uniform(getkey(), (2, 3, 8, 6), minval=-1), gaussian_blur((8, 6), 1.0)
    given = {"zeta": 0.1, "eta": 0.3, "weight": 0.5, "lambda_": 1.0, "lr": 1e-3, "precision": 100.0}
    constraints = sampler.constraint
    weights = {name: jnp.full(3, given.get(name, 0.1)) for name in constraints}
    key = getkey()
    run = lambda f: restore(  # noqa: E731
        sampler, f, blur, y, levels, weights, key, sigma_y=0.1, num_samples=2
    )
    ours = torch_denoiser(network)
    run(ours)
    network.calls.clear()
    found = run(ours)
    assert set(network.calls) == {4} and found.shape == (2, 2, 3, 8, 6)
    np.testing.assert_allclose(found, run(twin(network)), rtol=1e-8, atol=1e-8)


def test_below_a_limit(network, getkey):
    """With the Gaussian denoiser above its range it starts from pure noise."""
    y, blur = jax.random.uniform(getkey(), (3, 8, 6)), gaussian_blur((8, 6), 1.0)
    weights = {"zeta": jnp.full(4, 0.1), "eta": jnp.zeros(4)}
    key = getkey()
    found, expected = (
        restore(
            *(SAMPLERS["dps"](), GaussianAbove.of(f, PRIOR, 1.0), blur, y, rectified_flow(4)),
            *(weights, key),
            sigma_y=0.1,
        )
        for f in (torch_denoiser(network), twin(network))
    )
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


def test_it_can_be_calibrated(network, getkey):
    prior = power_law((8, 6), std=0.1)
    images = np.clip(draw(prior, 40 * 3, seed=0).reshape(40, 3, 8, 6), -1, 1)
    found, expected = (
        calibrate(prior, f, images).calibration for f in (torch_denoiser(network), twin(network))
    )
    np.testing.assert_allclose(found.ratio, expected.ratio, rtol=1e-8)


def test_grey_images_and_weights_that_change(torch, getkey):
    """[..., H, W] for a network of one plane, in its own precision; nothing of it is kept."""
    layer = torch.nn.Conv2d(1, 1, 1).eval()
    ours = torch_denoiser(lambda x, sigma: layer(x), planes=1, model_range=(-1, 1))
    x_t = jax.random.normal(getkey(), (4, 8, 6))
    for weight in (2.0, 3.0):
        with torch.no_grad():
            layer.weight.fill_(weight)
            layer.bias.zero_()
        found = ours(x_t, LEVEL)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, weight * x_t / 0.8, rtol=4 * EPS)
    jax.grad(lambda x: jnp.sum(ours(x, LEVEL)))(x_t)
    assert layer.weight.grad is None


def test_half_precision(torch, getkey):
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x, sigma):
            assert x.dtype == sigma.dtype == torch.bfloat16
            return self.layer(x) * sigma.reshape(-1, 1, 1, 1)

    ours = torch_denoiser(Half().to(torch.bfloat16).eval())
    x_t = jax.random.normal(getkey(), (3, 8, 6), np.float32)
    found, pull = jax.vjp(lambda x: ours(x, LEVEL), x_t)
    assert found.dtype == pull(found)[0].dtype == np.float32
    assert np.all(np.isfinite(pull(found)[0]))


def test_deepinv(torch, getkey):
    """A denoiser of that library; its sigma is one for each image."""
    from test_oracles import declared_operators

    operators = declared_operators()
    deepinv = pytest.importorskip("deepinv")
    model = deepinv.models.DRUNet(3, 3, nc=(4, 4, 4, 4), nb=1, pretrained=None).eval()
    x_t = jax.random.normal(getkey(), (3, 3, 16, 8))
    sigmas = jnp.asarray([0.1, 0.5, 1.0])
    found = jax.vmap(lambda x, s: torch_denoiser(model)(x, NoiseLevel(2 * s**0, s)))(x_t, sigmas)
    for x, s, x_hat in zip(x_t, sigmas, found, strict=True):
        unit = torch.tensor(np.asarray(x)[None] / 4 + 0.5, dtype=torch.float32)
        with torch.no_grad():
            expected = model(unit, float(s) / 4)
        np.testing.assert_allclose(x_hat, 2 * expected[0].numpy() - 1, atol=1e-4)
    del operators


test_deepinv = pytest.mark.oracle(test_deepinv)


# --------------------------------------------------------------------------- networks of the noise


def gaussian_eps(torch, form="sample", seen=None):
    """The best eps for a Gaussian prior at the level of a time step, which may be fractional."""
    spectrum = torch.tensor(PRIOR.spectrum)
    log_snrs = np.log(ALPHAS_CUMPROD) - np.log1p(-ALPHAS_CUMPROD)

    def model(x_t, timesteps):
        if seen is not None:
            seen.append(timesteps)
        at = np.interp(timesteps.detach().double().numpy(), np.arange(1000), log_snrs)
        alpha_bar = torch.tensor(1 / (1 + np.exp(-at)))[:, None, None, None]
        # eps_hat = sigma (alpha^2 spectrum + sigma^2)^-1 x_t for a prior without mean
        gain = torch.sqrt(1 - alpha_bar) / (alpha_bar * spectrum + 1 - alpha_bar)
        eps = torch.fft.ifft2(gain * torch.fft.fft2(x_t.double())).real.to(x_t.dtype)
        both = torch.cat([eps, 7 + eps], dim=1)
        forms = {
            "eps": eps,
            "variance": both,
            "tuple": (both,),
            "sample": SimpleNamespace(sample=eps),
        }
        return forms[form]

    return model


@pytest.mark.parametrize(
    "form, fractional",
    [("eps", False), ("variance", False), ("tuple", False), ("sample", False), ("eps", True)],
)
def test_optimal_noise_gives_the_gaussian_denoiser(torch, form, fractional, getkey):
    """At time steps of the network, whatever the scale; between them if fractional."""
    model = gaussian_eps(torch, form)
    ours = torch_eps_denoiser(model, ALPHAS_CUMPROD, fractional=fractional)
    ours, exact = (jax.jit(lambda x, t, f=f: f(x, t)) for f in (ours, GaussianDenoiser.of(PRIOR)))
    x_t = jax.random.normal(getkey(), (2, 3, 8, 6))
    if fractional:
        levels = [ve_karras(9, sigma_max=100.0, sigma_min=0.02), rectified_flow(7)]
    else:
        levels = [vp_linear(7)]
    for grid in levels:
        for alpha, sigma in zip(grid.alpha[:-1], grid.sigma[:-1], strict=True):
            for size in (1.0, 3.0):
                t = NoiseLevel(size * alpha, size * sigma)
                if alpha == 0:
                    continue
                found, expected = ours(size * x_t, t), exact(size * x_t, t)
                # Single precision, divided by alpha / sigma.
                tolerance = 1e-3 if fractional else 64 * EPS
                tolerance *= 1 + float(sigma / alpha)
                np.testing.assert_allclose(found, expected, atol=tolerance)


def test_time_steps(torch, getkey):
    """Each level of a grid is the time step that it was made of; others are the nearest."""
    seen = []
    model = gaussian_eps(torch, seen=seen)
    ours = torch_eps_denoiser(model, torch.tensor(ALPHAS_CUMPROD), pixel_range=(0.0, 1.0))
    x_t = jax.random.normal(getkey(), (3, 8, 6), np.float32)
    grid = vp_linear(1000)
    t = jax.tree.map(lambda leaf: jnp.asarray(leaf[:-1:9], np.float32), grid)
    halves = NoiseLevel(t.alpha, t.sigma / 2)  # as pixels are
    seen.clear()
    x_hat = jax.vmap(lambda t: ours(x_t, t))(halves)
    assert np.all(np.isfinite(x_hat))
    steps = seen[-1]
    assert steps.dtype == torch.int64
    np.testing.assert_array_equal(steps, np.arange(999, -1, -9))
    for alpha, sigma, step in ((0.0, 1.0, 999), (1e-9, 1.0, 999), (1.0, 1e-6, 0), (1.0, 0.0, 0)):
        x_hat = ours(x_t, NoiseLevel(jnp.asarray(alpha), jnp.asarray(sigma)))
        assert seen[-1].tolist() == [step] and np.all(np.isfinite(x_hat))
        if sigma == 0:
            np.testing.assert_allclose(x_hat, x_t, atol=8 * EPS)
    fractional = torch_eps_denoiser(model, ALPHAS_CUMPROD, fractional=True)
    middle = np.sqrt(ALPHAS_CUMPROD[400] * ALPHAS_CUMPROD[401])
    fractional(x_t, NoiseLevel(*(jnp.sqrt(jnp.asarray(one)) for one in (middle, 1 - middle))))
    assert seen[-1].dtype == torch.float32
    np.testing.assert_allclose(seen[-1], 400.5, atol=0.01)


@pytest.mark.parametrize("fractional", [False, True])
def test_dps_with_optimal_noise(torch, fractional, getkey):
    """A sampler that differentiates it, in double precision, as with the Gaussian denoiser."""
    double = torch.nn.Linear(1, 1).double().eval()  # whose dtype it takes

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.double = double
            self.eps = gaussian_eps(torch)

        def forward(self, x_t, timesteps):
            return self.eps(x_t, timesteps)

    y, blur = jax.random.uniform(getkey(), (3, 8, 6)), gaussian_blur((8, 6), 1.0)
    weights, key = {"zeta": jnp.full(4, 0.1), "eta": jnp.ones(4)}, getkey()
    ours = torch_eps_denoiser(Model().eval(), ALPHAS_CUMPROD, fractional=fractional)
    found, expected = (
        restore(SAMPLERS["dps"](), f, blur, y, vp_linear(4), weights, key, sigma_y=0.1)
        for f in (ours, GaussianDenoiser.of(PRIOR))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------- what is refused


def test_networks_that_are_refused_before_any_work(torch):
    def fails(x, sigma):
        raise RuntimeError("no such\nlayer")

    without = lambda x, sigma: torch.tensor(x.detach().numpy())  # noqa: E731
    x_t, level = jnp.zeros((3, 8, 6)), LEVEL
    for network, match in {
        fails: r"fails for images \(2, 3, 8, 6\) \(RuntimeError: no such layer\)",
        (lambda x, sigma: x[:, :1]): r"returns \(2, 1, 8, 6\) for images \(2, 3, 8, 6\)",
        (lambda x, sigma: torch.cat([x, x], dim=1)): r"returns \(2, 6, 8, 6\)",
        (lambda x, sigma: x / 0): "NaN or infinite output",
        (lambda x, sigma: x * 1j): "returns torch.complex64; real images are needed",
        (lambda x, sigma: None): "fails",
        (lambda x, sigma: x + sigma): "fails",  # sigma is one for each image
    }.items():
        ours = torch_denoiser(network)
        with pytest.raises(InputError, match=match) as caught:
            jax.eval_shape(lambda x, t, f=ours: f(x, t), x_t, level)
        assert "\n" not in str(caught.value)
    ours = torch_denoiser(without)
    assert ours(x_t, level).shape == x_t.shape
    with pytest.raises(InputError, match="has no derivative"):
        jax.grad(lambda x: jnp.sum(ours(x, level)))(x_t)
    ours = torch_denoiser(lambda x, sigma: torch.sqrt(x * 0))
    with pytest.raises(InputError, match="NaN or infinite derivative"):
        jax.grad(lambda x: jnp.sum(ours(x, level)))(x_t)


@pytest.mark.parametrize("shape", [(8, 6), (4, 8, 6), (6,), (3, 0, 6)])
def test_images_it_does_not_take(network, shape):
    with pytest.raises(InputError, match=r"the network takes \[\.\.\., 3, H, W\]"):
        torch_denoiser(network)(jnp.zeros(shape), LEVEL)


def test_arguments_that_are_refused(torch):
    part = torch.nn.Sequential(torch.nn.Dropout()).eval()
    part[0].train()
    for network in (torch.nn.Conv2d(3, 3, 1), part):
        with pytest.raises(InputError, match=r"training mode; call its eval\(\)"):
            torch_denoiser(network)
    for wrong in ("model", type("Unhashable", (), {"__call__": len, "__hash__": None})()):
        with pytest.raises(InputError, match="is not a function"):
            torch_eps_denoiser(wrong, ALPHAS_CUMPROD)
    identity = lambda x, t: x  # noqa: E731
    for wrong in (
        ALPHAS_CUMPROD[::-1],
        [0.5],
        [1.0, 0.5],
        [0.5, 0.0],
        np.ones((2, 2)),
        "a",
        [0.5, np.nan],
    ):
        with pytest.raises(InputError, match="alphas_cumprod"):
            torch_eps_denoiser(identity, wrong)
    with pytest.raises(InputError, match="planes = 0"):
        torch_denoiser(identity, planes=0)
    for ranges in ({"pixel_range": (1.0, 0.0)}, {"model_range": (0.0, 0.0)}):
        with pytest.raises(InputError, match="pixel range"):
            torch_denoiser(identity, **ranges)


def test_on_the_command_line(torch, tmp_path, monkeypatch):
    """A module with such a denoiser; what is wrong with it is said before images are restored."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch_of_mine.py").write_text(
        "import torch\nfrom spectralpost import torch_denoiser\n"
        "good = torch_denoiser(torch.nn.Identity().eval())\n"
        "halved = torch_denoiser(lambda x, sigma: x / 2)\n"
        "wrong = torch_denoiser(lambda x, sigma: x[..., :2])\n"
    )
    halved = denoiser_of("torch_of_mine:halved", PRIOR, (3, 8, 6))
    np.testing.assert_allclose(halved(jnp.ones((3, 8, 6)), LEVEL), 0.125, rtol=8 * EPS)
    with pytest.raises(InputError, match="returns"):
        denoiser_of("torch_of_mine:wrong", PRIOR, (3, 8, 6))
    with pytest.raises(InputError, match=r"fails .*positional arguments"):
        denoiser_of("torch_of_mine:good", PRIOR, (3, 8, 6))
