"""How far are transfer functions from the published algorithms, written out as dense matrices?

All samplers on super-resolution and inpainting, double precision: the largest difference between
the closed form of a whole sampler and its literal version in pixels (tests/literal.py, NumPy, by
other hands), over state gain, data gain, noise covariance and offset, on the VP, VE and flow grids,
relative to the largest gain. Random weights, random stationary priors, a mean that differs from
pixel to pixel.

    python benchmarks/largest_errors.py             three minutes on two cores
    python benchmarks/largest_errors.py --quick     two samplers
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

import spectralpost as sp

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import dense
from cases import (
    ALL,
    GRIDS,
    NUM_STEPS,
    Twin,
    coordinates,
    decimated,
    even_spectrum,
    expanded,
    literal_total,
    random_guidance,
    total,
)


def masked(mask: str, seed: int = 3) -> Twin:
    """4x4 pixels: `inpaint` and its coordinates; H keeps the rows of the known pixels."""
    rng = np.random.default_rng(seed)
    prior = sp.Prior(even_spectrum((4, 4), rng), rng.normal(size=(4, 4)), (-1.0, 1.0), "random")
    degradation, sigma_y = sp.inpaint((4, 4), mask), 0.4
    known = degradation.response.ravel() > 0
    V, U = coordinates(degradation)
    return Twin(
        sp.image_problem(prior, degradation, sigma_y),
        np.eye(16)[known],
        prior.mean.ravel(),
        dense.stationary(prior.spectrum),
        sigma_y,
        V,
        U[known],
    )


TWINS = {
    "1-D x3": lambda: decimated((12,), 3, "bicubic"),
    "x2 average": lambda: decimated((4, 6), 2, "average"),
    "x4 average": lambda: decimated((4, 8), 4, "average"),
    "x4 bicubic": lambda: decimated((4, 8), 4, "bicubic"),
    "random mask": lambda: masked("random"),
    "box": lambda: masked("box"),
}


@dataclass
class Options:
    """How far are transfer functions from the published algorithms?"""

    quick: bool = False
    """Two samplers."""


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    print(f"{'':<24}" + "".join(f"{name:>13}" for name in TWINS))
    worst = 0.0
    for name in ("dps", "ddrm") if options.quick else ALL:
        errors = [error(name, make()) for make in TWINS.values()]
        worst = max(worst, *errors)
        print(f"{name:<24}" + "".join(f"{one:>13.1e}" for one in errors), flush=True)
    if worst > 1e-9:
        sys.exit(f"largest_errors: {worst:.1e}")


def error(name: str, twin: Twin) -> float:
    found = []
    for seed, make in enumerate(GRIDS.values()):
        # Some divide by alpha, which is 0 where a flow begins.
        levels = jax.tree.map(lambda leaf: leaf[1:], make(NUM_STEPS + 1))
        guidance = random_guidance(name, seed)
        ours = total(name)(twin.problem, levels, guidance)
        A, B, Q, c = literal_total(name, twin, levels, guidance)
        V, U = twin.V, twin.U
        gaps = (
            expanded(twin.problem, ours.state_gain) - V.T @ A @ V,
            expanded(twin.problem, ours.data_gain) - V.T @ B @ U,
            expanded(twin.problem, ours.noise_cov) - V.T @ Q @ V,
            np.ravel(ours.offset) - V.T @ (c - twin.mu + B @ twin.H @ twin.mu),
        )
        size = max(np.abs(A).max(), np.abs(B).max(), np.abs(Q).max())
        found.append(max(np.abs(gap).max() for gap in gaps) / size)
    return max(found)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
