"""A small Gaussian problem on which other people's updates run once for each of their inputs.

A run is an affine function of the measurement and of the noise that it draws, so its law is known
from one run a coordinate: all of them at the same time, as a batch [K, *shape] whose first row is
the mean. Nothing here is spectralpost's but the problem itself. NumPy, or PyTorch where it is asked
for.
"""

from typing import Any

import dense
import numpy as np
from cases import even_spectrum

from spectralpost.degradations import Degradation, make_degradation
from spectralpost.metrics import wasserstein2
from spectralpost.noise import NoiseLevel, vp_linear
from spectralpost.prior import Prior
from spectralpost.problem import Problem, image_problem
from spectralpost.samplers import make_sampler
from spectralpost.samplers.base import Guidance
from spectralpost.schedule import Schedule
from spectralpost.transfer import sampler_transfer

SHAPE = (4, 4)
TIMESTEPS = (990, 700, 300, 40)
SIGMA_Y = 0.1
RNG = np.random.default_rng(3)
# Images of a standard deviation of 0.2 about a mean that differs from pixel to pixel: [-1, 1] holds
# every probe's estimates.
PRIOR = Prior(
    0.04 * even_spectrum(SHAPE, RNG), 0.2 * RNG.normal(size=SHAPE), (-1.0, 1.0), "test", None, None
)
BLUR = ("gaussian_blur", {"std": 0.8})
HALF = ("downsample", {"factor": 2})
MASK = ("inpaint", {"mask": [[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1]]})


def levels() -> NoiseLevel:
    """Of TIMESTEPS, and the clean end."""
    known = vp_linear(1000)
    rows = np.append(999 - np.asarray(TIMESTEPS), 1000)
    return NoiseLevel(known.alpha[rows], known.sigma[rows])


def schedule(
    name: str, degradation: tuple[str, dict] = BLUR, seed: int = 0, **options: Any
) -> Schedule:
    """A sampler's default weights, each step's changed by chance; those in [0, 1] drawn."""
    sampler, rng = make_sampler(name, **options), np.random.default_rng(seed)
    guidance = {}
    defaults = sampler.heuristic(problem(degradation), levels())
    for weight, kind in sampler.constraint.items():
        steps = len(TIMESTEPS)
        by_chance = rng.uniform(0.1, 0.9, steps)
        guidance[weight] = by_chance if kind == "unit" else defaults[weight] * (0.5 + by_chance)
    return of(name, guidance, degradation, options)


def of(name: str, guidance: Guidance, degradation=BLUR, options=None, **changes) -> Schedule:
    fields = {
        "sampler_name": name,
        "levels": levels(),
        "guidance": guidance,
        "degradation_name": degradation[0],
        "degradation_options": degradation[1],
        "shape": SHAPE,
        "sigma_y": SIGMA_Y,
        "sampler_options": options or {},
        "timesteps": TIMESTEPS,
        "grid": "vp_linear",
    }
    return Schedule(**fields | changes)


def operator(degradation: tuple[str, dict]) -> Degradation:
    name, options = degradation
    return make_degradation(name, SHAPE, **options)


def problem(degradation: tuple[str, dict]) -> Problem:
    return image_problem(PRIOR, operator(degradation), SIGMA_Y)


def promised(schedule: Schedule) -> float:
    """Averaged W2^2 of a schedule, by its transfer function."""
    of_file = problem((schedule.degradation_name, schedule.degradation_options))
    total = sampler_transfer(schedule.sampler(), of_file, schedule.levels, schedule.guidance)
    return float(wasserstein2(of_file, total))


class Probes:
    """Inputs of a run, a row for each coordinate, and what comes out of it.

    library  numpy, or torch
    scale    images are in units of 1 / scale of [-1, 1], shifted by `shift`: 1/2 and 1/2 for [0, 1]
    """

    def __init__(self, degradation=BLUR, library: Any = np, noises: int = len(TIMESTEPS) + 1):
        self.H = dense_operator(operator(degradation))
        self.library, self.drawn = library, 0
        self.mean, self.C = PRIOR.mean.ravel(), dense.stationary(PRIOR.spectrum)
        m, n = self.H.shape
        S_y = dense.measurement_covariance(self.H, self.C, SIGMA_Y)
        self.root, self.rows, self.noises = dense.square_root(S_y), 1 + m + n * noises, noises
        y = np.tile(self.H @ self.mean, (self.rows, 1))
        y[1 : 1 + m] += self.root
        self.y = self.array(y)  # [K, m]
        U, h, Vt = np.linalg.svd(self.H)
        self.U, self.h, self.V = U, np.zeros(n), Vt.T
        self.h[:m] = np.where(h > 1e-12, h, 0)

    def array(self, values):
        """A batch of vectors, in the library."""
        return self.library.asarray(np.array(values, float))

    def noise(self, *_: Any, **__: Any):
        """Fresh unit noise [K, n]: its own rows have one coordinate each, others none."""
        m, n = self.H.shape
        assert self.drawn < self.noises, "more noise than the run draws"
        found, first = np.zeros((self.rows, n)), 1 + m + n * self.drawn
        found[first : first + n] = np.eye(n)
        self.drawn += 1
        return self.array(found)

    def A(self, x):
        return x @ self.array(self.H.T)

    def AT(self, r):
        return r @ self.array(self.H)

    def pinv(self, y):
        return y @ self.array(np.linalg.pinv(self.H).T)

    def solve(self, c, d, r):
        return r @ self.array(np.linalg.inv(c * self.H @ self.H.T + d * np.eye(len(self.H))))

    def norm(self, u) -> float:
        """The root mean square norm over all inputs, of an affine function of them."""
        rows = np.asarray(u.detach() if hasattr(u, "detach") else u)
        return float(np.sqrt(np.sum(rows[0] ** 2) + np.sum((rows[1:] - rows[0]) ** 2)))

    def jacobian(self, alpha: float, sigma: float):
        n = len(self.C)
        return alpha * self.C @ np.linalg.inv(alpha**2 * self.C + sigma**2 * np.eye(n))

    def denoise(self, x, alpha: float, sigma: float):
        """E[x_0 | x_t], [K, n]."""
        mean = self.array(self.mean)
        return mean + (x - alpha * mean) @ self.array(self.jacobian(alpha, sigma))

    def w2(self, x) -> float:
        """Averaged W2^2 per pixel of what came out, [K, n]."""
        rows = np.asarray(x.detach() if hasattr(x, "detach") else x, float)
        rows = rows.reshape(self.rows, -1)
        m = len(self.H)
        by = rows[1:] - rows[0]
        B = np.linalg.solve(self.root, by[:m]).T  # rows are B root
        c = rows[0] - B @ self.H @ self.mean
        Q = by[m:].T @ by[m:]
        zero = np.zeros_like(Q)
        return dense.averaged_w2(zero, B, Q, c, self.H, self.mean, self.C, SIGMA_Y)


def dense_operator(degradation: Degradation) -> np.ndarray:
    """H [m, n], of flattened images; of a mask the rows of pixels that are known."""
    n = int(np.prod(SHAPE))
    columns = np.asarray(degradation.apply(np.eye(n).reshape(n, *SHAPE))).reshape(n, -1)
    return columns[:, columns.any(axis=0)].T


def close(got: float, wanted: float, bound: float = 1e-9) -> None:
    """Equal up to rounding: some hundred operations and inverses of matrices of 16 pixels, whose
    condition is 1e4 at most. The distance itself is a small difference of variances of 0.04."""
    print(f"W2^2 {got:.9g}, promised {wanted:.9g}")
    assert abs(got - wanted) < bound * max(1.0, wanted)
