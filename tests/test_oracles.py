"""Other people's samplers on the same Gaussian problem: azula and deepinv run their own code.

Both libraries are given the exact denoiser of the prior (azula's own, or one written here in
PyTorch), the same measurement, start and random numbers. Their states are then compared with those
of spectralpost's update, level by level. Where a library deviates from the published algorithm, or
counts a weight in other units, the test shows that the plain comparison fails and that the
translation explains all of it.

Every test prints what it compared and the largest error: `pytest -rP -m oracle`. Needs the extra
`oracles`; all is skipped without it.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import NamedTuple

import dense
import jax
import jax.numpy as jnp
import literal
import numpy as np
import pytest
from cases import even_spectrum, hartley

from spectralpost.degradations import Degradation, from_kernel
from spectralpost.denoisers.gaussian import GaussianDenoiser
from spectralpost.noise import NoiseLevel, step_pairs, vp_linear, vp_timesteps
from spectralpost.prior import Prior
from spectralpost.problem import image_problem
from spectralpost.samplers import SAMPLERS
from spectralpost.samplers.base import Guidance, Measurement, Sampler, Step
from spectralpost.samplers.steps import fresh_share
from spectralpost.transfer import sampler_transfer

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("quick")]

NUM_STEPS = 8
LEVELS = vp_linear(NUM_STEPS)
SEED = 5
DOUBLE = 1e-10  # relative error where all is float64
SINGLE = 1e-5  # where deepinv rounds to float32 what it hands to denoisers, or its noise levels
DIFFERENT = 1e-2  # what two different algorithms exceed

# PyTorch's forward mode loads its rules through its own deprecated compiler.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


# ----------------------------------------------------------------------------------- the libraries


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small arrays, in one of several processes: 30 times as fast on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def declared_operators() -> "torch.library.Library | None":
    """What lets torchvision be imported beside a torch that its compiled operators do not fit.

    A CPU build of torch beside torchvision from a package index, which is built for CUDA, is the
    smallest way to install both. That torchvision cannot load its operators, goes on without them,
    and then fails at two that it looks up by name. deepinv calls neither: declaring them is enough.
    The declaration lasts as long as the object returned.
    """
    try:
        importlib.import_module("torchvision")
        return None
    except ModuleNotFoundError:
        pytest.skip("could not import 'torchvision'")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators


def versioned(library: str) -> str:
    return f"{library} {importlib.metadata.version(library)}"


# -------------------------------------------------------------------------------------- the problem


class Case(NamedTuple):
    """A problem as spectralpost knows it, and dense."""

    prior: Prior
    degradation: Degradation
    kernel: np.ndarray
    H: np.ndarray  # [n, n], on flattened pixels
    sigma_y: float
    y: np.ndarray  # [*shape]

    @property
    def problem(self):
        return image_problem(self.prior, self.degradation, self.sigma_y)


def make_case(
    shape: tuple[int, ...] = (24,),
    sigma_y: float = 0.3,
    *,
    seed: int = 0,
    kernel: np.ndarray | None = None,
    std: float = 1.0,
) -> Case:
    """An asymmetric blur far from singular, and a prior whose mean differs from pixel to pixel."""
    rng = np.random.default_rng(seed)
    if kernel is None:
        kernel = rng.uniform(-0.12, 0.12, (5, 3)[-len(shape) :])
        kernel.flat[1] += 0.9
    spectrum, mean = std**2 * even_spectrum(shape, rng), std * rng.normal(size=shape)
    on_grid = np.zeros(shape)
    on_grid[tuple(slice(k) for k in kernel.shape)] = kernel
    H = dense.circulant(np.roll(on_grid, [-(k // 2) for k in kernel.shape], range(len(shape))))
    root = dense.square_root(dense.stationary(spectrum))
    x_0 = mean.ravel() + root @ rng.normal(size=mean.size)
    y = (H @ x_0 + sigma_y * rng.normal(size=mean.size)).reshape(shape)
    prior = Prior(spectrum, mean, (-1.0, 1.0), "test")
    return Case(prior, from_kernel(kernel, shape), kernel, H, sigma_y, y)


def random_weights(low: float, high: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, NUM_STEPS)


def run(
    case: Case,
    sampler: Sampler,
    levels: NoiseLevel,
    guidance: Guidance,
    noise: np.ndarray,
    *,
    x_T: np.ndarray | None = None,
    measured: np.ndarray | None = None,
) -> np.ndarray:
    """The states of spectralpost's update on pixels, [S + 1, *shape], as `restore` runs it.

    noise [S + 1, *shape] is that of the start, then one a step. `x_T` replaces the start. Modes
    that are not `measured` are treated as if their singular value were 0.
    """
    to_modes, from_modes = case.degradation.to_modes, case.degradation.from_modes
    denoiser, response = GaussianDenoiser.of(case.prior), case.degradation.response
    if measured is not None:
        response = jnp.where(measured, response, 0)

    def denoise(x, level):
        return to_modes(denoiser(from_modes(x), level))

    def solve(operator, r):
        return jnp.linalg.solve(jax.jacfwd(operator)(r), r)

    @jax.jit
    def states(y, noise, x_T):
        sigma_y = jnp.asarray(case.sigma_y, y.dtype)
        measurement = Measurement(response, sigma_y, jnp.linalg.norm, solve)
        y, noise = case.degradation.to_measurement_modes(y), to_modes(noise)
        first = jax.tree.map(lambda leaf: leaf[0], levels)
        start = sampler.start(measurement, first, y, noise[0]) if x_T is None else to_modes(x_T)

        def step(x, inputs):
            t, s, guidance_t, eps = inputs
            x = sampler.update(denoise, measurement, Step(t, s, x, y, eps, guidance_t))
            return x, x

        later = jax.lax.scan(step, start, (*step_pairs(levels), guidance, noise[1:]))[1]
        return from_modes(jnp.concatenate([start[None], later]))

    return np.asarray(states(jnp.asarray(case.y), jnp.asarray(noise), x_T))


def difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Of two trajectories [S + 1, *shape]: the largest at any level, relative to its pixels."""
    pixels = tuple(range(1, ours.ndim))
    return float(np.max(np.abs(theirs - ours).max(pixels) / np.abs(ours).max(pixels)))


def agree(what: str, theirs: np.ndarray, ours: np.ndarray, bound: float) -> None:
    error = difference(theirs, ours)
    print(f"{what}, {len(ours) - 1} steps, largest error {error:.0e}")
    assert error < bound


def disagree(what: str, theirs: np.ndarray, ours: np.ndarray) -> None:
    error = difference(theirs, ours)
    print(f"    {what}: {error:.0e}")
    assert error > DIFFERENT


# -------------------------------------------------------------------------------------------- azula


def azula_denoiser(azula, case: Case, levels: NoiseLevel = LEVELS):
    """azula's analytic denoiser of the same prior, at the levels of a grid."""
    alpha, sigma = (torch.tensor(np.asarray(leaf)) for leaf in levels)

    class Grid(azula.noise.Schedule):
        def __call__(self, t):
            """t = 1 at the noisiest level, 0 at the last, evenly spaced."""
            index = torch.round((1 - t) * (len(alpha) - 1)).long()
            return alpha[index], sigma[index]

    covariance = azula.linalg.covariance
    Q = torch.from_numpy(hartley(case.y.size))
    prior_cov = covariance.KroneckerCovariance(
        [Q], covariance.DiagonalCovariance(torch.from_numpy(case.prior.spectrum))
    )
    return azula.denoise.GaussianDenoiser(torch.from_numpy(case.prior.mean), prior_cov, Grid())


def azula_problem(case: Case) -> tuple:
    """(y, A) as azula wants them."""
    H = torch.from_numpy(case.H)
    return torch.from_numpy(case.y), lambda x: x @ H.T


def azula_options(num_steps: int = NUM_STEPS) -> dict:
    return {"steps": num_steps, "silent": True, "dtype": torch.float64}


def azula_run(sampler, case: Case, **per_step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """azula's states [S + 1, n], and the noise that it drew, the start's first.

    Its weights are constants: those in `per_step`, [S], are set before each step, on the sampler or
    on its denoiser.
    """
    alpha, sigma = sampler.denoiser.schedule(sampler.timesteps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        noise = torch.stack([torch.randn(case.y.shape, dtype=alpha.dtype) for _ in sigma])
        torch.manual_seed(SEED)
        states = [sigma[0] * torch.randn(case.y.shape, dtype=alpha.dtype)]
        for i, (t, s) in enumerate(sampler.timesteps.unfold(0, 2, 1)):
            for name, values in per_step.items():
                owner = sampler if hasattr(sampler, name) else sampler.denoiser
                setattr(owner, name, float(values[i]))
            states.append(sampler.step(states[-1], t, s))
    return torch.stack(states).numpy(), noise.numpy()


def test_azula_unguided(azula):
    """DDPM, DDIM and Euler without a measurement are ours with zero weights.

    azula's DDIM multiplies the variance by its eta: it is the square of the published one.
    """
    case, sampler, zero = make_case(), SAMPLERS["dps"](), np.zeros(NUM_STEPS)
    name, denoiser = versioned("azula"), azula_denoiser(azula, case)
    one, eta = np.ones(NUM_STEPS), random_weights(0.2, 0.9, 1)

    theirs, noise = azula_run(azula.sample.DDPMSampler(denoiser, **azula_options()), case)
    ours = run(case, sampler, LEVELS, {"zeta": zero, "eta": one}, noise)
    agree(f"{name} DDPMSampler: unguided, eta 1", theirs, ours, DOUBLE)

    theirs, noise = azula_run(azula.sample.EulerSampler(denoiser, **azula_options()), case)
    ours = run(case, sampler, LEVELS, {"zeta": zero, "eta": zero}, noise)
    agree(f"{name} EulerSampler: unguided, eta 0", theirs, ours, DOUBLE)

    ddim = azula.sample.DDIMSampler(denoiser, **azula_options())
    theirs, noise = azula_run(ddim, case, eta=eta**2)
    ours = run(case, sampler, LEVELS, {"zeta": zero, "eta": eta}, noise)
    agree(f"{name} DDIMSampler(eta^2): unguided, eta", theirs, ours, DOUBLE)
    disagree("with eta as it is", azula_run(ddim, case, eta=eta)[0], ours)


def test_azula_dps(azula):
    """The official form: the norm of the whole tensor, DDPM's small variance."""
    case = make_case()
    y, A = azula_problem(case)
    zeta = random_weights(0.1, 0.6, 2)
    dps = azula.guidance.DPSSampler(azula_denoiser(azula, case), y, A, **azula_options())
    theirs, noise = azula_run(dps, case, zeta=zeta)
    official = {"scale": zeta, "eta": np.ones(NUM_STEPS)}
    ours = run(case, SAMPLERS["dps"](normalised=True), LEVELS, official, noise)
    agree(f"{versioned('azula')} DPSSampler: dps(normalised)", theirs, ours, DOUBLE)


@pytest.mark.parametrize("threshold", [0.03, 0.9])
def test_azula_pigdm(azula, threshold):
    """Without noise in y: H^+, whole and with small singular values counted as zeros."""
    case = make_case()
    y, A = azula_problem(case)
    h = np.asarray(case.degradation.response)
    assert (h > threshold).all() if threshold == 0.03 else 0 < (h > threshold).sum() < h.size
    inverse = torch.from_numpy(literal.pseudo_inverse(case.H, threshold))
    eta = random_weights(0.2, 0.9, 3)
    pigdm = azula.guidance.PGDMSampler(
        azula_denoiser(azula, case), y, A, lambda y: y @ inverse.T, **azula_options()
    )
    theirs, noise = azula_run(pigdm, case, eta=eta**2)
    sampler = SAMPLERS["pigdm"](noiseless=True, threshold=threshold)
    ours = run(case, sampler, LEVELS, {"weight": np.ones(NUM_STEPS), "eta": eta}, noise)
    what = f"{versioned('azula')} PGDMSampler: pigdm(noiseless, threshold={threshold})"
    agree(what, theirs, ours, DOUBLE)


@forward_mode
@pytest.mark.parametrize("method", ["MMPS", "JFPS"])
def test_azula_exact_conditional_mean(azula, method):
    """Solved to the end, MMPS is E[x_0 | x_t, y]: our tmpd and our exact reference.

    JFPS is too, given the prior's covariance. The default single iteration is not.
    """
    case = make_case()
    y, A = azula_problem(case)
    denoiser, covariance = azula_denoiser(azula, case), azula.linalg.covariance
    kind = getattr(azula.guidance, f"{method}Denoiser")
    options = {"solver": "gmres", "cov_y": covariance.IsotropicCovariance(case.sigma_y**2)}
    if method == "JFPS":
        options["cov_x"] = denoiser.cov
    guided = kind(denoiser, y, A, iterations=case.y.size, **options)
    eta, name = random_weights(0.2, 0.9, 4), f"{versioned('azula')} {method}Denoiser in DDIMSampler"
    ddim = azula.sample.DDIMSampler(guided, **azula_options())
    theirs, noise = azula_run(ddim, case, eta=eta**2)
    tmpd = {"weight": np.ones(NUM_STEPS), "eta": eta}
    ours = run(case, SAMPLERS["tmpd"](), LEVELS, tmpd, noise)
    agree(f"{name}: tmpd", theirs, ours, DOUBLE)
    exact = run(case, SAMPLERS["exact"](problem=case.problem), LEVELS, {"eta": eta}, noise)
    agree(f"{name}: exact", theirs, exact, DOUBLE)

    once = azula.sample.DDIMSampler(kind(denoiser, y, A, **options), **azula_options())
    disagree("after the default single iteration", azula_run(once, case, eta=eta**2)[0], ours)


@forward_mode
def test_azula_exact_flow(azula):
    """Heun's method on the posterior's probability flow, to the last level with noise."""
    case, levels = make_case(), jax.tree.map(lambda leaf: leaf[:-1], LEVELS)
    y, A = azula_problem(case)
    guided = azula.guidance.MMPSDenoiser(
        azula_denoiser(azula, case, levels),
        y,
        A,
        azula.linalg.covariance.IsotropicCovariance(case.sigma_y**2),
        iterations=case.y.size,
    )
    heun = azula.sample.HeunSampler(guided, **azula_options(NUM_STEPS - 1))
    theirs, noise = azula_run(heun, case)
    name = f"{versioned('azula')} MMPSDenoiser in HeunSampler"
    one = {"weight": np.ones(NUM_STEPS - 1)}
    ours = run(case, SAMPLERS["tmpd"](solver="heun"), levels, one, noise)
    agree(f"{name}: tmpd(heun)", theirs, ours, DOUBLE)
    exact = run(case, SAMPLERS["exact"](problem=case.problem, kind="flow"), levels, {}, noise)
    agree(f"{name}: exact(flow)", theirs, exact, DOUBLE)


def test_azula_tmpd_by_row_sums(azula):
    """Row sums of H J H^T are one number on a stationary problem, the constant component's."""
    case = make_case()
    y, A = azula_problem(case)
    guided = azula.guidance.TMPDenoiser(azula_denoiser(azula, case), y, A, case.sigma_y**2)
    theirs, noise = azula_run(azula.sample.DDPMSampler(guided, **azula_options()), case)
    guidance = {"weight": np.ones(NUM_STEPS), "eta": np.ones(NUM_STEPS)}
    constant = float(case.kernel.sum()), float(case.prior.spectrum[0])
    ours = run(case, SAMPLERS["tmpd"](row_sum=constant), LEVELS, guidance, noise)
    name = f"{versioned('azula')} TMPDenoiser in DDPMSampler"
    agree(f"{name}: tmpd(row_sum)", theirs, ours, DOUBLE)
    disagree(
        "tmpd with the full matrix", theirs, run(case, SAMPLERS["tmpd"](), LEVELS, guidance, noise)
    )


@pytest.mark.parametrize("zeta", [0, 1])
def test_azula_diffpir(azula, zeta):
    """Its proximal step in DDIM: zeta = 0 is eta = 0; an infinite eta, clipped, is zeta = 1.

    lmbda is our lambda_. In between a constant eta replaces a share of the noise that depends on
    the step, so no zeta is equal to it.
    """
    case = make_case()
    y, A = azula_problem(case)
    lambda_ = random_weights(0.3, 5, 6)
    guided = azula.guidance.DiffPIRDenoiser(
        azula_denoiser(azula, case), y, A, case.sigma_y**2, iterations=case.y.size
    )
    eta = float("inf") if zeta else 0.0
    ddim = azula.sample.DDIMSampler(guided, eta=eta, **azula_options())
    theirs, noise = azula_run(ddim, case, lmbda=lambda_)
    guidance = {"lambda_": lambda_, "zeta": np.full(NUM_STEPS, float(zeta))}
    ours = run(case, SAMPLERS["diffpir"](), LEVELS, guidance, noise)
    what = f"{versioned('azula')} DiffPIRDenoiser in DDIMSampler({eta}): diffpir, zeta {zeta}"
    agree(what, theirs, ours, DOUBLE)


# ------------------------------------------------------------------------------------------ deepinv


SHAPE = (6, 8)  # even: the column at the Nyquist frequency is one of its traps


def as_torch(image: np.ndarray):
    """[1, 1, H, W]"""
    return torch.from_numpy(np.ascontiguousarray(image))[None, None]


def deepinv_physics(deepinv, case: Case):
    """The same blur and noise; that it is the same is checked."""
    physics = deepinv.physics.BlurFFT(
        img_size=(1, *case.y.shape),
        filter=as_torch(case.kernel),
        noise_model=deepinv.physics.GaussianNoise(torch.tensor(case.sigma_y, dtype=torch.float64)),
    )
    x = np.random.default_rng(7).normal(size=case.y.shape)
    np.testing.assert_allclose(
        physics.A(as_torch(x))[0, 0], case.degradation.apply(jnp.asarray(x)), atol=1e-13
    )
    return physics


def ve_denoiser(case: Case, seen: list | None = None) -> Callable:
    """(x, sigma) -> E[x_0 | x_0 + sigma noise = x], as deepinv calls its denoisers.

    Computed in float64, returned in the precision of x. `seen` collects the pairs of both.
    """
    mean, spectrum = torch.from_numpy(case.prior.mean), torch.from_numpy(case.prior.spectrum)

    def denoise(x, sigma):
        variance = torch.as_tensor(sigma, dtype=torch.float64).squeeze() ** 2
        centred = torch.fft.fft2(x.to(torch.float64) - mean)
        denoised = mean + torch.fft.ifft2(spectrum / (spectrum + variance) * centred).real
        if seen is not None:
            seen.append((x.clone(), denoised))
        return denoised.to(x.dtype)

    return denoise


def deepinv_diffusion(
    deepinv, case: Case, data_fidelity, eta: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The states of deepinv's PosteriorDiffusion on our grid, and the noise that it drew.

    Its continuous VP schedule, alpha = exp(-(beta_min t + (beta_max - beta_min) t^2 / 2) / 2), is
    met at the times where it has the alpha of our grid.
    """
    low, high = 0.1, 20.0
    width, integral = high - low, -2 * np.log(np.asarray(LEVELS.alpha))
    times = (np.sqrt(low**2 + 2 * width * integral) - low) / width
    sde = deepinv.sampling.VariancePreservingDiffusion(
        beta_min=low, beta_max=high, minus_one_one=False
    )
    shape = (1, 1, *case.y.shape)
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.stack(
        [torch.empty(shape, dtype=torch.float64).normal_(generator=generator) for _ in times]
    )
    generator.manual_seed(SEED)
    x_T = float(LEVELS.sigma[0]) * torch.empty(shape, dtype=torch.float64).normal_(
        generator=generator
    )
    model = deepinv.sampling.PosteriorDiffusion(
        data_fidelity=data_fidelity,
        denoiser=ve_denoiser(case),
        sde=sde,
        solver=deepinv.sampling.DDIMSolver(timesteps=times, eta=eta, rng=generator),
        minus_one_one=False,
    )
    _, states = model(
        as_torch(case.y),
        deepinv_physics(deepinv, case),
        x_init=x_T,
        denoise_output=False,
        get_trajectory=True,
    )
    return states[:, 0, 0].numpy(), noise[:, 0, 0].numpy()


def score_step(eta: float) -> np.ndarray:
    """[S] What a step makes of a likelihood score g(x~) in deepinv, x~ = x_t / alpha_t.

    Its guidance is added to the score, which DDIM(eta) multiplies by alpha_t alpha_s
    (sigma_t / alpha_t)^2 (1 - c), c = (sigma_s alpha_t / (alpha_s sigma_t)) sqrt(1 - eta^2 tau^2):
    x_s moves by this number times J^T g(x_hat), J = d x_hat / d x_t = (d x_hat / d x~) / alpha_t.
    """
    t, s = step_pairs(LEVELS)
    tau2 = fresh_share(t, s)
    kept = jnp.sqrt(1 - tau2) * jnp.sqrt(1 - eta**2 * tau2)
    return np.asarray(s.alpha * t.sigma**2 / t.alpha * (1 - kept))


def test_deepinv_unguided(deepinv):
    """The ancestral solver without a measurement; its eta is the published one."""
    case, zero = make_case(SHAPE), np.zeros(NUM_STEPS)
    for eta in (0.0, 0.6, 1.0):
        theirs, noise = deepinv_diffusion(deepinv, case, None, eta)
        guidance = {"zeta": zero, "eta": np.full(NUM_STEPS, eta)}
        ours = run(case, SAMPLERS["dps"](), LEVELS, guidance, noise)
        agree(f"{versioned('deepinv')} DDIMSolver: unguided, eta {eta}", theirs, ours, SINGLE)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_deepinv_dps(deepinv, eta):
    """Its gradient enters the score, so the step on x_s shrinks with the noise level.

    Of its weight DDPM's step makes the scale weight beta_t / sqrt(1 - beta_t), where the official
    scale is constant: no single weight makes the two equal.
    """
    case, weight = make_case(SHAPE), 0.7
    kept = (LEVELS.alpha[:-1] / LEVELS.alpha[1:]) ** 2  # 1 - beta_t, beta_t from level to level
    np.testing.assert_allclose(score_step(1.0), (1 - kept) / np.sqrt(kept), rtol=DOUBLE)
    fidelity = deepinv.sampling.DPSDataFidelity(weight=weight, clip=None)
    theirs, noise = deepinv_diffusion(deepinv, case, fidelity, eta)
    sampler, full = SAMPLERS["dps"](normalised=True), np.full(NUM_STEPS, eta)
    scale = weight * score_step(eta)
    ours = run(case, sampler, LEVELS, {"scale": scale, "eta": full}, noise)
    name = f"{versioned('deepinv')} DPSDataFidelity in DDIMSolver({eta})"
    agree(f"{name}: dps(normalised), translated scale", theirs, ours, SINGLE)
    assert scale.max() > 10 * scale.min()
    constant = run(case, sampler, LEVELS, {"scale": 0 * full + weight, "eta": full}, noise)
    disagree("with the weight as scale", theirs, constant)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_deepinv_pigdm(deepinv, eta):
    """A likelihood score without the published factor r_t^2, in the score."""
    case, weight = make_case(SHAPE), 0.7
    fidelity = deepinv.sampling.PiGDMDataFidelity(weight=weight, clip=None)
    theirs, noise = deepinv_diffusion(deepinv, case, fidelity, eta)
    t, s = step_pairs(LEVELS)
    r2 = t.sigma**2 / (t.sigma**2 + t.alpha**2)
    translated = np.asarray(weight * score_step(eta) / (s.alpha * t.alpha * r2))
    full = np.full(NUM_STEPS, eta)
    ours = run(case, SAMPLERS["pigdm"](), LEVELS, {"weight": translated, "eta": full}, noise)
    name = f"{versioned('deepinv')} PiGDMDataFidelity in DDIMSolver({eta})"
    agree(f"{name}: pigdm, translated weight", theirs, ours, SINGLE)
    plain = {"weight": 0 * full + weight, "eta": full}
    disagree(
        "with the weight as it is", theirs, run(case, SAMPLERS["pigdm"](), LEVELS, plain, noise)
    )


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_deepinv_moment_matching(deepinv, eta):
    """Solved to the end it is the exact conditional score: tmpd, weight by weight, and exact.

    The default three conjugate gradients are not enough.
    """
    case, full = make_case(SHAPE), np.full(NUM_STEPS, eta)
    name = f"{versioned('deepinv')} MomentMatchingDataFidelity in DDIMSolver({eta})"
    for weight in (0.7, 1.0):
        fidelity = deepinv.sampling.MomentMatchingDataFidelity(
            weight=weight, clip=None, cg_max_iter=30, cg_tol=1e-7
        )
        theirs, noise = deepinv_diffusion(deepinv, case, fidelity, eta)
        guidance = {"weight": 0 * full + weight, "eta": full}
        ours = run(case, SAMPLERS["tmpd"](), LEVELS, guidance, noise)
        agree(f"{name}: tmpd, weight {weight}", theirs, ours, SINGLE)
    exact = run(case, SAMPLERS["exact"](problem=case.problem), LEVELS, {"eta": full}, noise)
    agree(f"{name}: exact", theirs, exact, SINGLE)
    default = deepinv.sampling.MomentMatchingDataFidelity(clip=None)
    hasty = deepinv_diffusion(deepinv, case, default, eta)[0]
    disagree("after the default three iterations", hasty, exact)


def test_deepinv_diffpir(deepinv):
    """Its proximal weight is 2 rho in units of [0, 1]: our lambda_ is half of its own.

    The published rho has sigma_y in units of [-1, 1], where it is twice as large; the official code
    takes that of [0, 1], which makes our lambda_ a quarter. deepinv starts from
    H^T y, noised as if sigma_y were the constructor's, and returns the last state with noise.
    """
    sigma_n, lambda_, zeta, num_levels = 0.15, 3.0, 0.4, NUM_STEPS + 1
    # [-1, 1] for us, [0, 1] for them; a small std keeps x_hat inside, where their clipping is idle.
    case = make_case(SHAPE, 2 * sigma_n, std=0.15)
    unit = case._replace(
        prior=Prior(case.prior.spectrum / 4, (case.prior.mean + 1) / 2, (0.0, 1.0), "test"),
        sigma_y=sigma_n,
        y=(case.y + case.kernel.sum()) / 2,
    )
    seen = []
    model = deepinv.sampling.DiffPIR(
        model=ve_denoiser(unit, seen),
        data_fidelity=deepinv.optim.data_fidelity.L2(),
        max_iter=num_levels,
        zeta=zeta,
        lambda_=lambda_,
    )
    physics, y = deepinv_physics(deepinv, unit), as_torch(unit.y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        noise = torch.cat([torch.randn_like(y) for _ in range(num_levels)])[:, 0].numpy()
        torch.manual_seed(SEED)
        out = model(y, physics)
    steps = 999 - model.seq.numpy()
    np.testing.assert_array_equal(steps, vp_timesteps(num_levels, "quadratic"))
    # As deepinv has them: in float32 the smallest sigma, sqrt(1 - 0.9999), keeps three digits.
    alpha = model.sqrt_alphas_cumprod.double().numpy()[steps]
    sigma = model.sqrt_1m_alphas_cumprod.double().numpy()[steps]
    levels = NoiseLevel(jnp.asarray(alpha), jnp.asarray(sigma))
    inputs, outputs = (torch.cat(images)[:, 0].numpy() for images in zip(*seen, strict=True))
    assert outputs.min() > 0 and outputs.max() < 1
    theirs = alpha[:, None, None] * (2 * inputs - 1)
    np.testing.assert_allclose(2 * out[0, 0].numpy() - 1, theirs[-1], atol=SINGLE)

    assert model.sigma != sigma_n
    spread = np.sqrt((sigma[0] / alpha[0]) ** 2 - 4 * model.sigma**2)
    adjoint = (unit.H.T @ unit.y.ravel()).reshape(SHAPE)
    x_T = jnp.asarray(alpha[0] * (2 * adjoint - 1 + spread * noise[0]))
    name, full = f"{versioned('deepinv')} DiffPIR", np.ones(NUM_STEPS)

    def ours(factor: float) -> np.ndarray:
        guidance = {"lambda_": factor * lambda_ * full, "zeta": zeta * full}
        return run(case, SAMPLERS["diffpir"](), levels, guidance, noise, x_T=x_T)

    agree(f"{name}: diffpir, lambda_ / 2", theirs, ours(1 / 2), SINGLE)
    disagree("with lambda_ as it is", theirs, ours(1))
    disagree("with lambda_ in official units", theirs, ours(1 / 4))


# ------------------------------------------------------------------------------------ deepinv, DDRM


SIGMAS = np.append(np.geomspace(3, 0.1, NUM_STEPS), 0.0)
VE_LEVELS = NoiseLevel(jnp.ones(NUM_STEPS + 1), jnp.asarray(SIGMAS))
ETA = {"eta": 0.6, "eta_b": 0.8}


def weak_case() -> Case:
    """Some singular values are smaller than sigma_y, none is 0."""
    return make_case(SHAPE, 0.3, kernel=np.array([[0.1, 0.25, 0.05], [0.1, 0.35, 0.2]]))


def real_modes() -> np.ndarray:
    """[F] Frequencies in the two columns that a half transform stores with their mirror images,
    k_x = 0 and the Nyquist frequency."""
    column = np.arange(np.prod(SHAPE)) % SHAPE[1]
    return (column == 0) | (column == SHAPE[1] // 2)


def fourier_noise(physics, coefficients) -> np.ndarray:
    """deepinv's noise, drawn in its singular basis, as images [N, H, W]."""
    return physics.V(coefficients / np.sqrt(2))[:, 0].numpy()


def deepinv_ddrm(deepinv, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The states of deepinv's DDRM and the noise that it drew, as images.

    Every state is what it hands to the denoiser. eps, added to singular values, is set to 0.
    """
    physics, seen = deepinv_physics(deepinv, case), []
    model = deepinv.sampling.DDRM(
        ve_denoiser(case, seen), sigmas=SIGMAS, eta=ETA["eta"], etab=ETA["eta_b"], eps=0.0
    )
    y = as_torch(case.y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        coefficients = [torch.randn_like(physics.U_adjoint(y)) for _ in SIGMAS]
        torch.manual_seed(SEED)
        model(y, physics)
    noise = fourier_noise(physics, torch.cat(coefficients))
    return torch.cat([x for x, _ in seen])[:, 0].numpy(), noise


def test_deepinv_ddrm(deepinv):
    """In float64, and to rounding, where every mode is measured better than sigma_y / h = 1."""
    case, full = make_case(SHAPE), np.ones(NUM_STEPS)
    assert case.degradation.response.min() > case.sigma_y
    theirs, noise = deepinv_ddrm(deepinv, case)
    guidance = {name: value * full for name, value in ETA.items()}
    ours = run(case, SAMPLERS["ddrm"](), VE_LEVELS, guidance, noise)
    agree(f"{versioned('deepinv')} DDRM: ddrm", theirs, ours, DOUBLE)


def test_deepinv_ddrm_drops_weak_modes(deepinv):
    """Modes with h <= sigma_y are never guided; officially they are, once the noise is small."""
    case, full = weak_case(), np.ones(NUM_STEPS)
    measured = np.asarray(case.degradation.response) > case.sigma_y
    assert 0 < measured.sum() < measured.size
    theirs, noise = deepinv_ddrm(deepinv, case)
    guidance = {name: value * full for name, value in ETA.items()}
    ours = run(case, SAMPLERS["ddrm"](), VE_LEVELS, guidance, noise, measured=measured)
    agree(f"{versioned('deepinv')} DDRM: ddrm, h <= sigma_y as 0", theirs, ours, DOUBLE)
    official = run(case, SAMPLERS["ddrm"](), VE_LEVELS, guidance, noise)
    disagree("with all h", theirs, official)
    gap = np.abs(case.degradation.to_modes(jnp.asarray(theirs - official))).max(0)
    assert (gap[measured] < DOUBLE).all() and (gap[~measured] > DOUBLE).any()


def test_deepinv_ddrm_noise(deepinv):
    """Its noise is white but for half the variance where Fourier coefficients are real.

    Complex coefficients of variance 1/2 + 1/2 are right for a pair of frequencies f and -f. In the
    columns where the half transform holds both, only their Hermitian part is left.
    """
    case = make_case(SHAPE)
    physics = deepinv_physics(deepinv, case)
    layout = physics.V_adjoint(as_torch(case.y)).shape
    unit = torch.eye(np.prod(layout), dtype=torch.float64).reshape(-1, *layout[1:])
    modes = case.degradation.to_modes(jnp.asarray(fourier_noise(physics, unit)))
    expected = np.diag(np.where(real_modes(), 0.5, 1.0))
    error = np.abs(modes.T @ modes - expected).max()
    print(f"{versioned('deepinv')} DDRM: covariance of its noise, largest error {error:.0e}")
    assert error < DOUBLE


def test_deepinv_ddrm_law(deepinv):
    """Mean and variance of thousands of runs against the closed form, in standard errors.

    |z| < 5 for each mode, and the mean of z^2 within 5 of its own standard errors, which sees what
    is too small for a single mode.
    """
    case, runs, full = weak_case(), 4000, np.ones(NUM_STEPS)
    physics = deepinv_physics(deepinv, case)
    model = deepinv.sampling.DDRM(
        ve_denoiser(case), sigmas=SIGMAS, eta=ETA["eta"], etab=ETA["eta_b"], eps=0.0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        images = model(as_torch(case.y).repeat(runs, 1, 1, 1), physics)[:, 0].numpy()
    modes = np.asarray(case.degradation.to_modes(jnp.asarray(images)))

    problem, guidance = case.problem, {name: value * full for name, value in ETA.items()}
    h = problem.response
    problem = problem._replace(response=jnp.where(h > case.sigma_y, h, 0))
    law = sampler_transfer(SAMPLERS["ddrm"](), problem, VE_LEVELS, guidance)
    y = case.degradation.to_measurement_modes(jnp.asarray(case.y)) - h * problem.mean
    mean = np.asarray(problem.mean + law.data_gain * y + law.offset)
    var = np.asarray(law.state_gain**2 + law.noise_cov) * np.where(real_modes(), 0.5, 1.0)
    z_mean = (modes.mean(0) - mean) / np.sqrt(var / runs)
    z_var = (modes.var(0, ddof=1) / var - 1) / np.sqrt(2 / (runs - 1))
    print(
        f"{versioned('deepinv')} DDRM: sampler_transfer(ddrm), {runs} runs, largest z-scores "
        f"{np.abs(z_mean).max():.1f} (mean), {np.abs(z_var).max():.1f} (variance)"
    )
    for z in (z_mean, z_var):
        assert np.abs(z).max() < 5
        assert abs(np.mean(z**2) - 1) < 5 * np.sqrt(2 / z.size)
