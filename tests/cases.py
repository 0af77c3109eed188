"""The table of samplers, grids, and small problems that exist twice: as a `Problem` and dense.

A new sampler pays one row of `ROWS` and one function in `literal.py`; every test that runs over
`ROWS` then checks it. `VARIANTS` are options of these that change the update or the start: they are
compared with their literal versions too.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import dense
import jax
import literal
import numpy as np
import scipy.linalg

from spectralpost.affine import Transfer
from spectralpost.degradations import Degradation, downsample, from_kernel
from spectralpost.noise import (
    NoiseLevel,
    rectified_flow,
    step_pairs,
    ve_karras,
    vp_cosine,
    vp_linear,
)
from spectralpost.prior import Prior
from spectralpost.problem import Problem, image_problem, make_problem
from spectralpost.samplers.base import Sampler
from spectralpost.samplers.daps import daps
from spectralpost.samplers.ddnm import ddnm
from spectralpost.samplers.ddrm import ddrm
from spectralpost.samplers.dds import dds
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dmps import dmps
from spectralpost.samplers.dps import dps
from spectralpost.samplers.exact import exact
from spectralpost.samplers.freehunch import freehunch
from spectralpost.samplers.ilvr import ilvr
from spectralpost.samplers.mcg import mcg
from spectralpost.samplers.mpgd import mpgd
from spectralpost.samplers.pigdm import pigdm
from spectralpost.samplers.reddiff import reddiff
from spectralpost.samplers.tmpd import tmpd
from spectralpost.transfer import sampler_transfer, step_transfer

EPS = np.finfo(float).eps


def made_once(make: Callable) -> Callable:
    """`functools.cache` for what holds arrays: numbers, also where a test is being traced when it
    asks for them first. Which test that is depends on the order of the files."""

    @functools.cache
    def made(*args):
        with jax.ensure_compile_time_eval():
            return make(*args)

    return made


# ---------------------------------------------------------------------------------------- samplers


def _ddim_noise(levels: NoiseLevel, guidance: dict) -> tuple[np.ndarray, np.ndarray]:
    """How much of eps_hat and of fresh noise DDIM(eta) puts into x_s, [S] each."""
    alpha, sigma = (np.asarray(leaf) for leaf in levels)
    tau2 = 1 - (alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])) ** 2
    eta = np.asarray(guidance["eta"])
    return sigma[1:] * np.sqrt(1 - eta**2 * tau2), sigma[1:] * eta * np.sqrt(tau2)


def _ddnm_noise(levels: NoiseLevel, guidance: dict) -> tuple[np.ndarray, np.ndarray]:
    """The same of the step of DDNM, whose eta is another one."""
    sigma_s, eta = np.asarray(levels.sigma)[1:], np.asarray(guidance["eta"])
    return sigma_s * np.sqrt(1 - eta**2), sigma_s * eta


def _diffpir_noise(levels: NoiseLevel, guidance: dict) -> tuple[np.ndarray, np.ndarray]:
    sigma_s, zeta = np.asarray(levels.sigma)[1:], np.asarray(guidance["zeta"])
    return sigma_s * np.sqrt(1 - zeta), sigma_s * np.sqrt(zeta)


class Row(NamedTuple):
    """What the generic tests need to know of a sampler."""

    make: Callable[[Problem], Sampler]  # `exact` closes over the problem
    literal: str  # its name in `literal.STEPS`
    ranges: dict[str, tuple[float, float]]  # weights that keep the small problems well conditioned
    # Weights that switch the guidance off (None: no weight does) ...
    unguided: dict[str, float] | None
    # ... and what is left then: the share of eps_hat and of fresh noise in x_s.
    noise: Callable[[NoiseLevel, dict], tuple[np.ndarray, np.ndarray]]
    # The data gain falls like 1 / sigma_y^decay for useless measurements (0: sigma_y is not used).
    decay: int
    heuristic: dict[str, float] | None  # the published constants (None: not constant)
    jacobian: bool = False  # whether it differentiates the denoiser
    equivariant: bool = True  # whether it commutes with a shift of images and measurement
    learns_levels: bool = True  # whether a schedule for a network has noise levels of its own


UNIT = (0.0, 1.0)

ROWS = {
    "exact": Row(exact, "exact", {"eta": UNIT}, None, _ddim_noise, 2, {"eta": 0.0}),
    "dps": Row(
        lambda problem: dps(),
        "dps",
        {"zeta": (0.05, 0.3), "eta": UNIT},
        {"zeta": 0.0},
        _ddim_noise,
        0,
        None,
        jacobian=True,
    ),
    "pigdm": Row(
        lambda problem: pigdm(),
        "pigdm",
        {"weight": (0.3, 1.2), "eta": UNIT},
        {"weight": 0.0},
        _ddim_noise,
        2,
        {"weight": 1.0, "eta": 0.0},
        jacobian=True,
    ),
    "diffpir": Row(
        lambda problem: diffpir(),
        "diffpir",
        {"lambda_": (0.3, 2), "zeta": (0.1, 0.9)},
        {"lambda_": 1e30},
        _diffpir_noise,
        2,
        {"lambda_": 1.75, "zeta": 0.3},
    ),
    "ddnm": Row(
        lambda problem: ddnm(),
        "ddnm_plus",
        {"eta": UNIT},
        None,
        _ddnm_noise,
        1,
        {"eta": 0.85},
        learns_levels=False,
    ),
    "ddrm": Row(
        lambda problem: ddrm(),
        "ddrm",
        {"eta_b": UNIT, "eta": UNIT},
        None,
        _ddnm_noise,
        1,
        {"eta_b": 1.0, "eta": 0.85},
        learns_levels=False,
    ),
    "mpgd": Row(
        lambda problem: mpgd(),
        "mpgd",
        {"scale": (0.1, 0.6), "eta": UNIT},
        {"scale": 0.0},
        _ddim_noise,
        0,
        None,
    ),
    "dmps": Row(
        lambda problem: dmps(),
        "dmps",
        {"scale": (0.1, 0.6), "eta": UNIT},
        {"scale": 0.0},
        _ddim_noise,
        2,
        {"scale": 1.75, "eta": 1.0},
        equivariant=False,
    ),
    "tmpd": Row(
        lambda problem: tmpd(),
        "tmpd",
        {"weight": (0.3, 1.2), "eta": UNIT},
        {"weight": 0.0},
        _ddim_noise,
        2,
        {"weight": 1.0, "eta": 1.0},
        jacobian=True,
    ),
    "freehunch": Row(
        lambda problem: freehunch(),
        "freehunch",
        {"weight": (0.3, 1.2), "eta": UNIT},
        {"weight": 0.0},
        _ddim_noise,
        2,
        {"weight": 1.0, "eta": 0.0},
        jacobian=True,
    ),
    "dds": Row(
        lambda problem: dds(),
        "dds",
        {"gamma": (0.2, 2), "eta": UNIT},
        {"gamma": 0.0},
        _ddnm_noise,
        0,
        {"gamma": 1.0, "eta": 0.85},
    ),
    "mcg": Row(
        lambda problem: mcg(),
        "mcg",
        {"zeta": (0.05, 0.3), "eta": UNIT},
        None,
        _ddim_noise,
        0,
        None,
        jacobian=True,
        equivariant=False,
    ),
    "ilvr": Row(
        lambda problem: ilvr(),
        "ilvr",
        {"weight": (0.1, 0.9), "eta": UNIT},
        {"weight": 0.0},
        _ddim_noise,
        0,
        None,
        equivariant=False,
    ),
    "reddiff": Row(
        lambda problem: reddiff(),
        "reddiff",
        {"lr": (0.1, 0.5), "lambda_": (0.1, 1)},
        None,
        _ddim_noise,
        0,
        None,
    ),
    # Rates at which 100 Langevin steps are stable, and do something, on every grid.
    "daps": Row(
        lambda problem: daps(),
        "daps",
        {"lr": (1e-5, 5e-5), "precision": (400, 2500)},
        None,
        _ddim_noise,
        0,
        None,
    ),
}

VARIANTS = {
    "exact, kernel": ROWS["exact"]._replace(
        make=lambda problem: exact(problem, "kernel"), literal="exact_kernel", ranges={}
    ),
    "exact, flow": ROWS["exact"]._replace(
        make=lambda problem: exact(problem, "flow"), literal="exact_flow", ranges={}
    ),
    "pigdm, noiseless": ROWS["pigdm"]._replace(
        make=lambda problem: pigdm(noiseless=True), literal="pigdm_noiseless"
    ),
    "pigdm, from y": ROWS["pigdm"]._replace(
        make=lambda problem: pigdm(start_from_y=True), literal="pigdm_from_y"
    ),
    "freehunch, no Jacobian": ROWS["freehunch"]._replace(
        make=lambda problem: freehunch(jacobian=0), jacobian=False
    ),
    "freehunch, Jacobian": ROWS["freehunch"]._replace(make=lambda problem: freehunch(jacobian=1e6)),
    "ddnm, noiseless": ROWS["ddnm"]._replace(
        make=lambda problem: ddnm(noiseless=True), literal="ddnm"
    ),
    "dmps, paper": ROWS["dmps"]._replace(
        make=lambda problem: dmps(variant="paper"), literal="dmps_paper", equivariant=True
    ),
    "mcg, level s": ROWS["mcg"]._replace(
        make=lambda problem: mcg(level="s"), literal="mcg_paper", equivariant=True
    ),
    "ilvr, level s": ROWS["ilvr"]._replace(
        make=lambda problem: ilvr(level="s"), literal="ilvr_paper", equivariant=True
    ),
    "ilvr, projection": ROWS["ilvr"]._replace(
        make=lambda problem: ilvr(low_pass="projection"), literal="ilvr_projection"
    ),
}
ALL = {**ROWS, **VARIANTS}

NUM_STEPS = 5
GRIDS: dict[str, Callable[[int], NoiseLevel]] = {
    "vp_linear": vp_linear,
    "vp_cosine": vp_cosine,
    # Levels on the scale of the small problems' signals: the literal version inverts matrices.
    "ve_karras": lambda num_steps: ve_karras(num_steps, sigma_max=10.0, sigma_min=0.1),
    "rectified_flow": rectified_flow,
}


def random_guidance(name: str, seed: int, num_steps: int = NUM_STEPS) -> dict:
    """Weights drawn from the row's ranges, leaves [S]."""
    rng = np.random.default_rng(seed)
    ranges = ALL[name].ranges
    return {key: rng.uniform(*ranges[key], num_steps) for key in ranges}


@functools.cache
def total_and_steps(name: str) -> Callable[..., tuple[Transfer, Transfer]]:
    """Compiled (problem, levels, guidance) -> total transfer, transfers of the steps [S, ...].

    Compiled once per shape for the whole session: compiling is most of what these tests cost.
    """

    def transfers(problem: Problem, levels: NoiseLevel, guidance: dict):
        sampler = ALL[name].make(problem)
        one = functools.partial(step_transfer, sampler, problem)
        steps = jax.vmap(one)(*step_pairs(levels), guidance)
        return sampler_transfer(sampler, problem, levels, guidance), steps

    return jax.jit(transfers)


def total(name: str) -> Callable[..., Transfer]:
    """Compiled (problem, levels, guidance) -> total transfer, sharing that compilation."""
    return lambda *args: total_and_steps(name)(*args)[0]


# --------------------------------------------------------------------------------- small problems


class Twin(NamedTuple):
    """A problem in mode coordinates and the same one in dense pixels."""

    problem: Problem
    H: np.ndarray  # [m, n]
    mu: np.ndarray  # [n]
    C: np.ndarray  # [n, n]
    sigma_y: float
    V: np.ndarray  # [n, n], x = V modes
    U: np.ndarray  # [m, n], y = U modes; 0 columns for modes that no measurement sees


def even_spectrum(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A random spectrum of a real signal: spectrum[k] = spectrum[-k]."""
    spectrum = rng.uniform(0.1, 2, shape)
    mirrored = np.roll(np.flip(spectrum), 1, axis=range(len(shape)))
    return (spectrum + mirrored) / 2


def hartley(n: int) -> np.ndarray:
    """cas(2 pi i k / n) / sqrt(n), written out: real, symmetric, orthogonal."""
    angle = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
    return (np.cos(angle) + np.sin(angle)) / np.sqrt(n)


@made_once
def circular(shape: tuple[int, ...] = (12,), seed: int = 0) -> Twin:
    """An asymmetric blur far from singular, with a stationary prior and a pixelwise mean."""
    rng = np.random.default_rng(seed)
    kernel = rng.uniform(-0.12, 0.12, (4, 3)[: len(shape)])
    kernel.flat[1] += 0.9
    spectrum, mean, sigma_y = even_spectrum(shape, rng), rng.normal(size=shape), 0.4
    degradation = from_kernel(kernel, shape)
    V, U = coordinates(degradation)
    on_grid = np.zeros(shape)
    on_grid[tuple(slice(k) for k in kernel.shape)] = kernel
    on_grid = np.roll(on_grid, [-(k // 2) for k in kernel.shape], range(len(shape)))
    return Twin(
        image_problem(Prior(spectrum, mean, (-1.0, 1.0), "test"), degradation, sigma_y),
        dense.circulant(on_grid),
        mean.ravel(),
        dense.stationary(spectrum),
        sigma_y,
        V,
        U,
    )


def _decimated_blur(kernel: np.ndarray, factor: int) -> np.ndarray:
    """Blur, then keep every `factor`-th sample: [n / factor, n]."""
    return dense.circulant(kernel)[::factor]


@made_once
def one_block(kind: str, n: int = 12, seed: int = 1) -> Twin:
    """All modes in one block, V from the SVD of the dense H: any H, also rectangular."""
    rng = np.random.default_rng(seed)
    kernel = np.zeros(n)
    kernel[[0, 1, 2, -1]] = np.array([0.8, 0.3, -0.2, 0.1]) + rng.uniform(-0.05, 0.05, 4)
    H = {
        "decimate 2": lambda: _decimated_blur(kernel, 2),
        "decimate 3": lambda: _decimated_blur(kernel, 3),
        "inpaint": lambda: np.eye(n)[rng.permutation(n)[: n // 2]],
        "blur, prior not stationary": lambda: _decimated_blur(kernel, 1),
    }[kind]()
    m = len(H)
    U, h, Vt = np.linalg.svd(H, full_matrices=True)
    C, mu, sigma_y = dense.stationary(even_spectrum((n,), rng)), rng.normal(size=n), 0.4
    if kind == "blur, prior not stationary":
        envelope = rng.uniform(0.5, 1.5, n)
        C = envelope[:, None] * C * envelope
    eigenvalues, Q = np.linalg.eigh(C)
    problem = make_problem(
        eigenvalues[None],
        np.concatenate([h, np.zeros(n - m)])[None],
        sigma_y,
        mean=(Vt @ mu)[None],
        basis=(Vt @ Q)[None],
    )
    return Twin(problem, H, mu, C, sigma_y, Vt.T, np.concatenate([U, np.zeros((m, n - m))], axis=1))


@made_once
def many_blocks(factor: int, n: int = 12, seed: int = 2) -> Twin:
    """A symmetric blur and decimation: m = n / factor blocks of `factor` aliased frequencies.

    The Hartley functions cas_k, T[:, k], are eigenvectors of a symmetric circular blur (eigenvalue
    b_k, its real DFT) and of the prior. Sampled at multiples of `factor`, cas_k is cas_{k mod m} of
    the short grid over sqrt(factor). So in the class of all k = q mod m the whole H is one row,

        H T[:, class] = T_m[:, q] a,    a = b[class] / sqrt(factor),

    whose SVD is |a| times one right singular vector and factor - 1 null vectors.
    """
    rng = np.random.default_rng(seed)
    m = n // factor
    kernel = np.zeros(n)
    kernel[[0, 1, -1, 2, -2]] = [0.6, 0.25, 0.25, -0.1, -0.1]
    b = np.fft.fft(kernel).real
    spectrum, mu, sigma_y = even_spectrum((n,), rng), rng.normal(size=n), 0.4
    T, T_m = hartley(n), hartley(m)
    V, U = np.zeros((n, m, factor)), np.zeros((m, m, factor))
    response, basis = np.zeros((m, factor)), np.zeros((m, factor, factor))
    variances = np.zeros((m, factor))
    for q in range(m):
        members = q + m * np.arange(factor)
        left, values, right = np.linalg.svd(b[None, members] / np.sqrt(factor))
        response[q, 0] = values[0]
        V[:, q] = T[:, members] @ right.T
        U[:, q, 0] = left[0, 0] * T_m[:, q]
        variances[q], basis[q] = spectrum[members], right
    V, U = V.reshape(n, n), U.reshape(m, n)
    mean = (V.T @ mu).reshape(m, factor)
    problem = make_problem(variances, response, sigma_y, mean=mean, basis=basis)
    H, C = _decimated_blur(kernel, factor), dense.stationary(spectrum)
    return Twin(problem, H, mu, C, sigma_y, V, U)


@made_once
def decimated(shape: tuple[int, ...], factor: int, kernel: str, seed: int = 6) -> Twin:
    """`degradations.downsample`, its prior and its coordinates; H by weights written out here."""
    rng = np.random.default_rng(seed)
    prior = Prior(even_spectrum(shape, rng), rng.normal(size=shape), (-1.0, 1.0), "random")
    degradation, sigma_y = downsample(shape, factor, kernel), 0.4
    H = np.ones((1, 1))
    for n in shape:
        H = np.kron(H, decimation(n, factor, kernel))
    V, U = coordinates(degradation)
    problem = image_problem(prior, degradation, sigma_y)
    return Twin(problem, H, prior.mean.ravel(), dense.stationary(prior.spectrum), sigma_y, V, U)


def decimation(n: int, factor: int, kernel: str) -> np.ndarray:
    """One axis of super-resolution as a matrix [n / factor, n]: means of squares, or the cubic
    kernel of Keys stretched by the factor, at the middle of each square."""
    H = np.zeros((n // factor, n))
    for i in range(n // factor):
        middle = factor * i + (factor - 1) / 2
        for j in range(-4 * factor, n + 4 * factor):
            x = abs(j - middle) / factor
            if kernel == "average":
                w = float(x < 0.5)
            elif x <= 1:
                w = (1.5 * x - 2.5) * x**2 + 1
            else:
                w = ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0
            H[i, j % n] += w
    return H / H.sum(axis=1, keepdims=True)


def coordinates(degradation: Degradation) -> tuple[np.ndarray, np.ndarray]:
    """V [n, n] and U [m, n], columns in the order of the modes, of blocks one after the other."""
    units = np.eye(degradation.response.size).reshape(-1, *degradation.response.shape)
    of_modes = (degradation.from_modes, degradation.from_measurement_modes)
    return tuple(np.asarray(of(units)).reshape(len(units), -1).T for of in of_modes)


MODES: dict[str, Callable[[], Twin]] = {
    "1-D": lambda: circular((12,)),
    "2-D": lambda: circular((4, 3)),  # as many modes: nothing is compiled twice
}
BLOCKS: dict[str, Callable[[], Twin]] = {
    "one block, decimate 2": lambda: one_block("decimate 2"),
    "one block, decimate 3": lambda: one_block("decimate 3"),
    "one block, inpaint": lambda: one_block("inpaint"),
    "one block, not stationary": lambda: one_block("blur, prior not stationary"),
    "six blocks, decimate 2": lambda: many_blocks(2),
    "four blocks, decimate 3": lambda: many_blocks(3),
    "three blocks, average 2x2": lambda: decimated((6, 2), 2, "average"),
}
TWINS = {**MODES, **BLOCKS}


# ------------------------------------------------------------------------------- the dense answer


class Affine(NamedTuple):
    """output = A u + B y + c + N(0, Q)."""

    A: np.ndarray
    B: np.ndarray
    Q: np.ndarray
    c: np.ndarray


def literal_total(name: str, twin: Twin, levels: NoiseLevel, guidance: dict) -> Affine:
    """The whole literal sampler, from unit-normal start noise and y, in pixels."""
    alphas, sigmas = (np.asarray(leaf) for leaf in levels)
    weights = {key: np.asarray(value) for key, value in guidance.items()}
    return Affine(
        *literal.affine(
            ALL[name].literal, twin.H, twin.mu, twin.C, twin.sigma_y, alphas, sigmas, weights
        )
    )


def literal_steps(name: str, twin: Twin, levels: NoiseLevel, guidance: dict) -> list[Affine]:
    """Each literal step alone, from x_t and y, in pixels."""
    alphas, sigmas = map(np.asarray, levels)
    guidance = {key: np.asarray(value) for key, value in guidance.items()}
    steps = []
    for i in range(len(sigmas) - 1):
        step = literal.affine(
            ALL[name].literal,
            twin.H,
            twin.mu,
            twin.C,
            twin.sigma_y,
            alphas[i : i + 2],
            sigmas[i : i + 2],
            {key: value[i : i + 1] for key, value in guidance.items()},
            from_state=True,
        )
        steps.append(Affine(*step))
    return steps


def expanded(problem: Problem, gain) -> np.ndarray:
    """A gain or covariance of all modes as one dense matrix, zero between modes or blocks."""
    gain = np.asarray(gain)
    return np.diag(gain) if problem.basis is None else scipy.linalg.block_diag(*gain)


def condition_number(twin: Twin, levels: NoiseLevel, lambda_: float) -> float:
    """The worst condition number among the matrices that the literal versions invert.

    Solving with a matrix of condition number kappa in floating point costs a relative error of
    kappa eps, and that is the only place of a step where digits can be lost.
    """
    H, C, identity = twin.H, twin.C, np.eye
    m, n = H.shape
    worst = 1.0
    for alpha, sigma in zip(*(np.asarray(leaf)[:-1] for leaf in levels), strict=True):
        G = np.concatenate([alpha * identity(n), H])
        R = np.diag(np.concatenate([np.full(n, sigma**2), np.full(m, twin.sigma_y**2)]))
        r2 = sigma**2 / (sigma**2 + alpha**2)
        rho = lambda_ * twin.sigma_y**2 * alpha**2 / sigma**2
        for matrix in (
            alpha**2 * C + sigma**2 * identity(n),
            G @ C @ G.T + R,
            r2 * H @ H.T + twin.sigma_y**2 * identity(m),
            H @ H.T + rho * identity(m),
        ):
            worst = max(worst, np.linalg.cond(matrix))
    return worst


def rounding(twin: Twin, levels: NoiseLevel, steps: list[Affine]) -> tuple[float, float]:
    """Bounds of the rounding errors (one step, whole sampler) of either version.

    A step commits n eps kappa times the size of what it computes (n: the length of its sums), and
    passes on the earlier error times the norm of its gain:

        size_s  = |A| size_t + |B| + |Q|^1/2 + |c|,
        error_s = |A| error_t + n eps kappa size_s.
    """
    unit = len(twin.mu) * EPS * condition_number(twin, levels, lambda_=0.3)
    size, error, largest = float(levels.sigma[0]), 0.0, 0.0
    for A, B, Q, c in steps:
        gain = np.linalg.norm(A, 2)
        own = np.linalg.norm(B, 2) + np.sqrt(np.linalg.norm(Q, 2)) + np.linalg.norm(c)
        size = gain * size + own
        error = gain * error + unit * size
        largest = max(largest, gain + own)
    # noise_cov is a square: its error is the error of the root times twice the root
    return unit * max(1.0, 2 * largest) * largest, error * max(1.0, 2 * size)
