"""Exported files themselves, run in PyTorch: beside stand-ins for the classes of the official codes
that they extend, and with azula, deepinv and diffusers themselves.

As in tests/test_exports.py all inputs of a run go through it as one batch, whose law has the W2
that the schedule promises. Norms have the value of the mean-field closure and the gradient u / R.
Needs the extra `oracles`; all is skipped without it.
"""

import importlib
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import BLUR, HALF, MASK, SHAPE, SIGMA_Y, TIMESTEPS, Probes, close, promised, schedule
from test_exports import exported, install

import spectralpost as sp
from spectralpost.errors import InputError

torch = pytest.importorskip("torch")

from test_oracles import declared_operators  # noqa: E402, it needs torch

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("quick")]

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
LEVELS = (1 - BETAS).cumprod(0).sqrt()
SINGLE = 1e-5  # of W2^2 of about 0.02, where deepinv and diffusers round to float32


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


def executed(export) -> SimpleNamespace:
    """The file as a module: its classes may look for it."""
    module = ModuleType("exported_schedule")
    sys.modules["exported_schedule"] = module
    exec(compile(export.content, "exported_schedule.py", "exec"), vars(module))
    return module


class TorchProbes(Probes):
    """Probes as images [K, 1, H, W] where images are asked for."""

    def __init__(self, degradation=BLUR, **options):
        super().__init__(degradation, torch, **options)

    def images(self, x):
        return x.reshape(len(x), 1, *SHAPE)

    def noise_images(self, *_, **__):
        return self.images(self.noise())

    def eps_network(self, x, t):
        """As the official codes call theirs: the predicted noise of images at time steps [N]."""
        i = int(t.reshape(-1)[0])
        alpha, sigma = float(LEVELS[i]), float((1 - LEVELS[i] ** 2).sqrt())
        x_hat = self.denoise(x.reshape(self.rows, -1), alpha, sigma).reshape(x.shape)
        return (x - alpha * x_hat) / sigma

    def gradient_norm(self, u):
        """A number for each row whose gradient is that of the norm, with R for its value."""
        return (u * u).flatten(1).sum(1) / (2 * self.norm(u.reshape(self.rows, -1)))


# ----------------------------------------------------------------------------- the official codes


@pytest.mark.parametrize("degradation", [BLUR, MASK], ids=lambda one: one[0])
def test_dps(degradation, monkeypatch):
    one, run = schedule("dps", degradation), TorchProbes(degradation)
    known = torch.ones(1, len(run.C))
    if degradation == MASK:
        known = torch.tensor(MASK[1]["mask"]).reshape(1, -1).double()

    def spread(y):
        """A measurement as a picture, as the official code has those of masks."""
        return (
            y
            if degradation != MASK
            else torch.zeros(len(y), len(run.C)).index_copy(1, known[0].nonzero()[:, 0], y)
        )

    registered = {}

    def register(name):
        return lambda kind: registered.setdefault(name, kind)

    class PosteriorSampling:
        def __init__(self, operator, noiser, **kwargs):
            self.scale = 1.0

        def conditioning(self, x_prev, x_t, x_0_hat, measurement, **kwargs):
            difference = measurement - spread(run.A(x_0_hat))
            norm = run.gradient_norm(difference).sum()
            x_t -= torch.autograd.grad(outputs=norm, inputs=x_prev)[0] * self.scale
            return x_t, norm

    class DDIM:
        def __init__(self, use_timesteps, betas):
            bars = (1 - betas).cumprod(0)[sorted(use_timesteps)]
            self.timesteps, self.bars = sorted(use_timesteps), [1.0, *bars.tolist()]

        def p_sample_loop(self, model, x_start, measurement, measurement_cond_fn):
            img = x_start
            for idx in range(len(self.timesteps))[::-1]:
                img = img.requires_grad_()
                x_s, x_0_hat = self.p_sample(model=model, x=img, t=torch.tensor([idx]))
                img, _ = measurement_cond_fn(
                    x_t=x_s, x_prev=img, x_0_hat=x_0_hat, measurement=measurement
                )
                img = img.detach_()
            return img

        def p_sample(self, model, x, t, eta=0.0):
            bar, before = self.bars[int(t) + 1], self.bars[int(t)]
            eps = model(x, torch.tensor([self.timesteps[int(t)]]))
            x_0_hat = (x - (1 - bar) ** 0.5 * eps) / bar**0.5
            sigma = eta * ((1 - before) / (1 - bar)) ** 0.5 * (1 - bar / before) ** 0.5
            mean = before**0.5 * x_0_hat + (1 - before - sigma**2) ** 0.5 * eps
            return mean + sigma * run.noise(), x_0_hat

    methods = {"PosteriorSampling": PosteriorSampling, "register_conditioning_method": register}
    install(monkeypatch, "guided_diffusion.condition_methods", **methods)
    install(
        monkeypatch, "guided_diffusion.gaussian_diffusion", DDIM=DDIM, register_sampler=register
    )
    executed(exported(one, "dps"))
    method = registered["ps_schedule"](None, None, scale=9.9)
    sampler = registered["ddim_schedule"](use_timesteps={1}, betas=BETAS)
    x_start = run.noise().requires_grad_()
    conditioning, y = method.conditioning, run.y
    if degradation == MASK:  # noise at unknown pixels too
        conditioning, y = partial(conditioning, mask=known), spread(y) + 3 * (1 - known)
    x = sampler.p_sample_loop(run.eps_network, x_start, y, conditioning)
    close(run.w2(x), promised(one))
    assert method.calls == len(TIMESTEPS)


class SingularVectors:
    """What the official codes ask of a degradation with a decomposition."""

    def __init__(self, run: TorchProbes):
        self.run, self.U_, self.V_ = run, run.array(run.U), run.array(run.V)
        self.A = self.H = lambda x: run.A(x.reshape(len(x), -1))

    def add_zeros(self, z):
        return torch.cat([z, z.new_zeros(len(z), len(self.V_) - z.shape[1])], 1)

    def singulars(self):
        return self.run.array(self.run.h[: len(self.run.H)])

    def V(self, z):
        return z @ self.V_.T

    def Vt(self, x):
        return x.reshape(len(x), -1) @ self.V_

    def Ut(self, y):
        return y @ self.U_


@pytest.mark.parametrize("degradation", [BLUR, HALF, MASK], ids=lambda one: one[0])
def test_ddrm(degradation, monkeypatch):
    one, run = schedule("ddrm", degradation), TorchProbes(degradation)
    code, operator = executed(exported(one, "ddrm")), SingularVectors(run)
    start = run.images(run.noise() @ run.array(run.V.T))  # white noise, its coordinates in V
    monkeypatch.setattr(torch, "randn_like", run.noise)
    restored = code.efficient_generalized_steps
    given = range(20), run.eps_network, BETAS, operator, run.y
    xs, x0_preds = restored(start, *given, SIGMA_Y, 1, 0.85, 0.85)
    close(run.w2(xs[-1]), promised(one))
    assert xs[-1].shape == start.shape and len(xs) == len(x0_preds) + 1 == len(TIMESTEPS) + 1
    with pytest.raises(ValueError, match="sigma_y"):
        restored(start, *given, 2 * SIGMA_Y, 1, 0.85, 0.85)


@pytest.mark.parametrize("degradation", [BLUR, HALF, MASK], ids=lambda one: one[0])
@pytest.mark.parametrize("noiseless", [False, True])
def test_ddnm(degradation, noiseless, monkeypatch):
    one, run = schedule("ddnm", degradation, noiseless=noiseless), TorchProbes(degradation)
    code = executed(exported(one, "ddnm"))
    start = run.noise_images()
    monkeypatch.setattr(torch, "randn_like", lambda x: run.noise().reshape(x.shape))
    given = start, run.eps_network, BETAS, 0.85, SingularVectors(run), run.y
    x = code.ddnm_diffusion(*given) if noiseless else code.ddnm_plus_diffusion(*given, SIGMA_Y)
    close(run.w2(x[0][0]), promised(one))
    given = start, run.eps_network, BETAS / 2, 0.85, SingularVectors(run), run.y
    with pytest.raises(ValueError, match="betas"):
        code.ddnm_diffusion(*given) if noiseless else code.ddnm_plus_diffusion(*given, SIGMA_Y)


@pytest.mark.parametrize("degradation", [BLUR, HALF], ids=lambda one: one[0])
@pytest.mark.parametrize("name", ["reddiff", "dps"])
def test_reddiff(name, degradation, monkeypatch):
    options = {"threshold": 0.0} if name == "reddiff" else {}
    one, run = schedule(name, degradation, **options), TorchProbes(degradation)

    class Algorithm:
        def __init__(self):
            self.H, self.diffusion = SingularVectors(run), self

        def alpha(self, t):
            return LEVELS[t] ** 2

        def initialize(self, x, y, ts, y_0):
            return run.images(run.pinv(y_0))

        def model(self, xt, y, t):
            alpha = LEVELS[t[0]]
            eps = run.eps_network(xt, t)
            return eps, (xt - (1 - alpha**2).sqrt() * eps) / alpha

    install(monkeypatch, f"algos.{name}", **{name.upper(): Algorithm})
    code = executed(exported(one, "reddiff"))
    monkeypatch.setattr(torch, "randn_like", run.noise_images)
    x = torch.zeros(run.rows, 1, *SHAPE)
    found = getattr(code, f"Scheduled{name.upper()}")().sample(x, None, [0], y_0=run.y)[0]
    close(run.w2(found[0] if name == "dps" else found), promised(one))
    monkeypatch.setattr(Algorithm, "alpha", lambda self, t: LEVELS[t] ** 4)
    run.drawn = 0
    with pytest.raises(ValueError, match="diffusion: alpha is"):
        getattr(code, f"Scheduled{name.upper()}")().sample(x, None, [0], y_0=run.y)


@pytest.mark.parametrize(("name", "degradation"), [("dps", MASK), ("diffpir", HALF)])
def test_inversebench(name, degradation, monkeypatch):
    one, run = schedule(name, degradation), TorchProbes(degradation)

    class Algo:
        def __init__(self, net, forward_op):
            self.net, self.forward_op = net, forward_op

    class Operator:
        device = "cpu"

        def gradient(self, pred, observation):
            at = pred.clone().detach().requires_grad_()
            loss = (run.A(at.flatten(1)) - observation).square().sum()
            return torch.autograd.grad(loss, at)[0]

    class Net:
        img_channels, img_resolution = 1, SHAPE[0]

        def __call__(self, x, sigma):
            return run.images(run.denoise(x.flatten(1), 1.0, float(sigma)))

    install(monkeypatch, "algo.base", Algo=Algo)
    code = executed(exported(one, "inversebench"))
    monkeypatch.setattr(torch, "randn", run.noise_images)
    monkeypatch.setattr(torch, "randn_like", run.noise_images)
    kind = {"dps": "ScheduledDPS", "diffpir": "ScheduledDiffPIR"}[name]
    algorithm = vars(code)[kind](Net(), Operator())
    x = algorithm.inference(run.y, num_samples=1)
    # Conjugate gradients to 1e-6: of W2^2 below 1, as much of its square.
    close(run.w2(x), promised(one), 1e-9 if name == "dps" else 1e-6)


@pytest.mark.parametrize(
    ("name", "degradation", "options", "kind"),
    [
        ("dps", BLUR, {"multistep": True, "momentum": True}, "epsilon"),
        ("dps", MASK, {"normalised": True}, "v_prediction"),
        ("pigdm", HALF, {}, "sample"),
        ("diffpir", BLUR, {}, "epsilon"),
        ("mpgd", MASK, {}, "epsilon"),
    ],
)
def test_diffusers(name, degradation, options, kind, monkeypatch):
    """The pipeline's network and scheduler, as far as they are asked."""
    one, run = schedule(name, degradation, **options), TorchProbes(degradation)
    code = executed(exported(one, "diffusers"))

    def unet(x, t):
        i = int(t)
        alpha, sigma = float(LEVELS[i]), float((1 - LEVELS[i] ** 2).sqrt())
        x_hat = run.images(run.denoise(x.flatten(1), alpha, sigma))
        eps = (x - alpha * x_hat) / sigma
        kinds = {"epsilon": eps, "sample": x_hat, "v_prediction": alpha * eps - sigma * x_hat}
        return SimpleNamespace(sample=kinds[kind])

    config = SimpleNamespace(prediction_type=kind)
    scheduler = SimpleNamespace(alphas_cumprod=LEVELS**2, config=config)
    monkeypatch.setattr(torch, "randn", run.noise_images)
    if "image_norm" in vars(code):
        probe = torch.ones(2, 1, 3, 1, dtype=torch.float64)
        assert torch.allclose(code.image_norm(probe), torch.full((2, 1, 1, 1), 3.0).sqrt())
        code.image_norm = run.norm
    if "conjugate_gradients" in vars(code):  # which the last few digits depend on, see below
        exact = code.conjugate_gradients
        code.conjugate_gradients = lambda operator, r: exact(operator, r, 200, 1e-13)
    A = lambda x: run.A(x.flatten(1))  # noqa: E731
    shape = (run.rows, 1, *SHAPE)
    x = code.restore(unet, scheduler, run.y, A, shape)
    close(run.w2(x), promised(one))
    scheduler.alphas_cumprod = LEVELS
    with pytest.raises(ValueError, match="scheduler"):
        code.restore(unet, scheduler, run.y, A, shape)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_diffusers_scheduler(kind, monkeypatch):
    """Levels, noise and velocity are those of its DDPMScheduler, with the betas that it has by
    itself, in single precision."""
    diffusers = pytest.importorskip("diffusers")
    one, run = schedule("dps", BLUR), TorchProbes(BLUR)
    code = executed(exported(one, "diffusers"))
    scheduler = diffusers.DDPMScheduler(prediction_type=kind)

    def unet(x, t):
        time = t.reshape(1)
        unit, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        alpha, sigma = (scheduler.add_noise(*one, time) for one in ((unit, none), (none, unit)))
        x_hat = run.images(run.denoise(x.flatten(1), float(alpha), float(sigma)))
        eps = (x - alpha * x_hat) / sigma
        velocity = scheduler.get_velocity(x_hat, eps, time)
        kinds = {"epsilon": eps, "v_prediction": velocity, "sample": x_hat}
        return SimpleNamespace(sample=kinds[kind])

    monkeypatch.setattr(torch, "randn", run.noise_images)
    A = lambda x: run.A(x.flatten(1))  # noqa: E731
    x = code.restore(unet, scheduler, run.y, A, (run.rows, 1, *SHAPE))
    close(run.w2(x), promised(one), SINGLE)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_diffusers_pipeline(kind):
    """A network of its own that predicts the variance as well, of which the pipeline's scheduler
    says what x_0 is: the same image."""
    diffusers = pytest.importorskip("diffusers")
    code = executed(exported(schedule("pigdm", HALF), "diffusers"))
    torch.manual_seed(0)
    try:
        network = diffusers.UNet2DModel
    except RuntimeError as error:  # torchvision, which it imports, is of another build of PyTorch
        pytest.skip(f"diffusers cannot be imported: {error}")
    unet = network(
        in_channels=1,
        out_channels=2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    own = diffusers.DDPMScheduler(prediction_type=kind, clip_sample=False)
    pipe = diffusers.DDPMPipeline(unet.eval(), own)

    def estimate(x, t):
        out = pipe.unet(x, t).sample[:, :1]
        return SimpleNamespace(sample=own.step(out, int(t), x).pred_original_sample)

    shape, A = (2, 1, 16, 16), lambda x: (x[..., ::2] + x[..., 1::2]) / 2
    y = torch.randn(2, 1, 16, 8)
    config = SimpleNamespace(prediction_type="sample")
    of_images = SimpleNamespace(alphas_cumprod=own.alphas_cumprod, config=config)
    found = [
        code.restore(*network, y, A, shape, generator=torch.Generator().manual_seed(1))
        for network in ((pipe.unet, pipe.scheduler), (estimate, of_images))
    ]
    assert found[0].shape == shape and bool(found[0].isfinite().all())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5 * float(found[1].std()))


# ------------------------------------------------------------------------------ azula and deepinv


@pytest.fixture(scope="module")
def azula():
    library = pytest.importorskip("azula")
    for part in ("denoise", "guidance", "linalg.covariance", "noise", "sample"):
        importlib.import_module(f"azula.{part}")
    return library


@pytest.fixture(scope="module")
def deepinv():
    operators = declared_operators()
    yield pytest.importorskip("deepinv")
    del operators


def azula_denoiser(azula, schedule):
    mean, C = probes.PRIOR.mean.ravel(), Probes().C
    L, Q = torch.linalg.eigh(torch.from_numpy(C))
    full = azula.linalg.covariance.FullCovariance(Q, L)
    return azula.denoise.GaussianDenoiser(torch.from_numpy(mean), full, schedule)


def test_azula_dps(azula, monkeypatch):
    one, run = schedule("dps"), TorchProbes()
    one = replace(one, guidance=one.guidance | {"eta": jnp.ones(len(TIMESTEPS))})
    code = executed(exported(one, "azula"))
    denoiser = azula_denoiser(azula, azula.noise.VPSchedule(alpha_min=1e-3, sigma_min=1e-3))
    options = {"silent": True, "dtype": torch.float64}
    sampler = code.ScheduledDPS(denoiser, run.y, run.A, **options)
    x_T = code.SIGMA[0] * run.noise()
    monkeypatch.setattr(torch, "randn_like", run.noise)
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda u: run.gradient_norm(u).sum())
    close(run.w2(sampler(x_T)), promised(one))
    narrow = azula_denoiser(azula, azula.noise.VPSchedule(alpha_min=1e-2, sigma_min=1e-2))
    run.drawn = 0
    with pytest.raises(ValueError, match="to a wider one"):
        code.ScheduledDPS(narrow, run.y, run.A, **options)(x_T)


@pytest.mark.parametrize("degradation", [BLUR, MASK], ids=lambda one: one[0])
def test_azula_diffpir(azula, degradation, monkeypatch):
    one, run = schedule("diffpir", degradation), TorchProbes(degradation)
    code = executed(exported(one, "azula"))
    denoiser = azula_denoiser(azula, azula.noise.CosineSchedule(alpha_min=1e-3, sigma_min=1e-3))
    sampler = code.ScheduledDiffPIR(
        denoiser, run.y, run.A, iterations=16, silent=True, dtype=torch.float64
    )
    x_T = code.SIGMA[0] * run.noise()
    monkeypatch.setattr(torch, "randn_like", run.noise)
    close(run.w2(sampler(x_T)), promised(one))


def deepinv_physics(deepinv, run: TorchProbes):
    """The blur, of images in [0, 1]; that it is the same is checked."""
    kernel = np.roll(run.H[0].reshape(SHAPE), (2, 2), (0, 1))  # symmetric, its middle at 4 // 2
    physics = deepinv.physics.BlurFFT(
        img_size=(1, *SHAPE),
        filter=torch.from_numpy(kernel.copy())[None, None],
        noise_model=deepinv.physics.GaussianNoise(torch.tensor(SIGMA_Y / 2)),
    )
    x = run.images(run.noise())
    wanted = run.images(run.A(x.flatten(1)))
    assert torch.allclose(physics.A(x), wanted, atol=1e-12)
    run.drawn = 0
    return physics


def in_unit_range(run: TorchProbes, ours: bool = False):
    """A deepinv denoiser of images in [0, 1], and y there; ours: by JAX."""

    def denoise(x, sigma):
        of = run.denoise(2 * x.double().flatten(1) - 1, 1.0, 2 * float(torch.as_tensor(sigma)))
        return run.images((of + 1) / 2).to(x.dtype)

    ones = run.array(np.ones((1, len(run.C))))
    if ours:
        denoise = sp.as_torch_denoiser(sp.GaussianDenoiser.of(probes.PRIOR))
    return denoise, run.images((run.y + run.A(ones)) / 2)


OURS = pytest.mark.parametrize("ours", [False, True], ids=["in PyTorch", "as_torch_denoiser"])


@OURS
def test_deepinv_dps(deepinv, ours, monkeypatch):
    one, run = schedule("dps"), TorchProbes()
    code = executed(exported(one, "deepinv"))
    physics = deepinv_physics(deepinv, run)
    denoise, y = in_unit_range(run, ours)
    model = code.posterior(denoise)
    start = code_start(model, run)
    monkeypatch.setattr(model.solver, "randn_like", run.noise_images, raising=True)
    norm = lambda u, ord, dim: run.gradient_norm(u)  # noqa: E731
    monkeypatch.setattr(torch.linalg, "vector_norm", norm)
    x = model(y, physics, x_init=start, denoise_output=False)
    close(run.w2(2 * x - 1), promised(one), SINGLE)


def code_start(model, run: TorchProbes):
    """Its own start draws noise of the level of the first time."""
    t = model.solver.timesteps[0]
    scale = float(model.sde.scale_t(t) * model.sde.sigma_t(t))
    drawn = model.sde.sample_init((4000, 1, 1, 1), rng=torch.Generator().manual_seed(0), t=t)
    assert abs(float(drawn.std()) / scale - 1) < 5 / np.sqrt(2 * 4000)
    assert abs(scale - float((1 - LEVELS[TIMESTEPS[0]] ** 2).sqrt())) < 1e-7
    return scale * run.noise_images()


@OURS
def test_deepinv_diffpir(deepinv, ours, monkeypatch):
    one, run = schedule("diffpir"), TorchProbes()
    code = executed(exported(one, "deepinv"))
    physics = deepinv_physics(deepinv, run)
    denoise, y = in_unit_range(run, ours)
    model = code.ScheduledDiffPIR(denoise, deepinv.optim.data_fidelity.L2())
    monkeypatch.setattr(torch, "randn_like", run.noise_images)
    close(run.w2(2 * model(y, physics) - 1), promised(one))


# ------------------------------------------------------------------------ our denoisers in PyTorch


def test_as_torch_denoiser_of_a_gaussian():
    """Values of our own call at the same log SNR, derivatives of finite differences."""
    gaussian, rng = sp.GaussianDenoiser.of(probes.PRIOR), np.random.default_rng(0)
    module, x = sp.as_torch_denoiser(gaussian), torch.from_numpy(rng.random((2, 1, *SHAPE)))
    sigmas = torch.tensor([0.1, 0.7])
    for i, sigma in enumerate(sigmas.tolist()):
        # In [-1, 1] sigma is twice as large; a Gaussian denoiser is the same at all scales.
        wanted = gaussian(2 * x[i].numpy() - 1, sp.NoiseLevel(1.0, 2 * sigma))
        for given in (sigma, torch.tensor(sigma), torch.full((2, 1, 1, 1), sigma), sigmas):
            np.testing.assert_allclose(module(x, given)[i], (wanted + 1) / 2, rtol=1e-12)
    inputs = x.clone().requires_grad_(), sigmas.clone().requires_grad_()
    assert torch.autograd.gradcheck(module, inputs, eps=1e-6, atol=1e-8)
    shared = x.clone().requires_grad_(), torch.tensor(0.3, requires_grad=True)
    assert torch.autograd.gradcheck(module, shared, eps=1e-6, atol=1e-8)
    # In other ranges: of the images given, and of those that the denoiser is for.
    moved = gaussian._replace(mean=gaussian.mean + 1)  # of the same images, brighter
    other = sp.as_torch_denoiser(moved, pixel_range=(0.0, 2.0), model_range=(-1.0, 1.0))
    np.testing.assert_allclose((other(2 * x - 1, 0.2) + 1) / 2, module(x, 0.1), rtol=1e-12)


def test_as_torch_denoiser_of_the_shipped_network():
    """In single precision, also where x is in half; gradients are jax.grad's."""
    unet, rng = sp.load_unet(), np.random.default_rng(0)
    module = sp.as_torch_denoiser(unet)
    x, sigma = rng.random((2, 3, 16, 16), np.float32), np.float32(0.2)
    direction = rng.normal(size=x.shape).astype(np.float32)

    def ours(x, sigma):
        return (unet(2 * x - 1, sp.NoiseLevel(jnp.ones_like(sigma), 2 * sigma)) + 1) / 2

    given = torch.from_numpy(x).requires_grad_(), torch.tensor(sigma, requires_grad=True)
    x_hat = module(*given)
    assert x_hat.dtype == torch.float32
    np.testing.assert_allclose(x_hat.detach(), ours(x, jnp.asarray(sigma)), atol=SINGLE)
    (x_hat * torch.from_numpy(direction)).sum().backward()
    inner = lambda x, sigma: jnp.vdot(direction, ours(x, sigma))  # noqa: E731
    by_x, by_sigma = jax.grad(inner, (0, 1))(jnp.asarray(x), jnp.asarray(sigma))
    largest = float(jnp.abs(by_x).max())
    np.testing.assert_allclose(given[0].grad, by_x, atol=10 * SINGLE * largest)
    # A sum of 1536 terms, which cancel; how large they are, by finite differences.
    terms = (ours(x, jnp.asarray(sigma * 1.05)) - ours(x, jnp.asarray(sigma / 1.05))) / 0.1 / sigma
    scale = float(jnp.abs(direction * terms).sum())
    np.testing.assert_allclose(given[1].grad, by_sigma, atol=10 * SINGLE * scale)
    half = module(torch.from_numpy(x).bfloat16(), float(sigma))
    assert half.dtype == torch.bfloat16
    np.testing.assert_allclose(half.float(), x_hat.detach(), atol=0.05)  # 8 bits of x


def test_as_torch_denoiser_refuses():
    module, x = sp.as_torch_denoiser(lambda x_t, level: x_t[..., :2, :]), torch.zeros(3, 1, 4, 4)
    for wrong, sigma, words in (
        (x[0], 0.1, r"x: torch.float64 of shape \(1, 4, 4\): floating images \[N, planes, H, W\]"),
        (x.long(), 0.1, "x: torch.int64 of shape"),
        (x, torch.ones(2), r"sigma of shape \(2,\): one number, or one for each of 3 images"),
        (x, 0.1, r"denoiser: returns the shape \(3, 1, 2, 4\) for \(3, 1, 4, 4\)"),
    ):
        with pytest.raises(InputError, match=words):
            module(wrong, sigma)
    with pytest.raises(InputError, match="denoiser: int is not a function"):
        sp.as_torch_denoiser(3)
    with pytest.raises(InputError, match="range"):
        sp.as_torch_denoiser(lambda x_t, level: x_t, model_range=(1.0, 0.0))


def test_deepinv_restores_with_the_shipped_network(deepinv):
    """The example of docs/denoisers.md, as a reader would run it."""
    text = (Path(__file__).parent.parent / "docs" / "denoisers.md").read_text("utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (program,) = [one for one in programs if "as_torch_denoiser" in one]
    # As in this process: torchvision may be one that cannot load its operators beside this torch.
    before = "from test_oracles import declared_operators\noperators = declared_operators()\n"
    done = subprocess.run(
        [sys.executable, "-c", before + program],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    *shape, error = done.stdout.replace("torch.Size", "").split()
    assert "".join(shape) == "([1,3,32,32])"
    # A sample of images of standard deviation 0.25 that knows nothing of y is off by 0.35.
    assert float(error) < 0.2
