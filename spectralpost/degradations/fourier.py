"""Fourier samples of real images, as in magnetic resonance imaging with one coil.

With F the unitary DFT, a scanner gives at each frequency f that it samples

    k_f = (F x)_f + e_f,      Re e_f and Im e_f independent N(0, sigma_y^2).

Of a real x, F x at -f is the conjugate of that at f: samples of both are two of one complex number,
whose mean has noise of sigma_y / sqrt(2) in each part, one sample alone of sigma_y. The Hartley
coordinates at f and -f (see `circular`) are real part -+ imaginary part, so their noise is sqrt(2)
of that. Scaled to noise of sigma_y, what is measured is

    y = h (V^T x)_f + sigma_y n,      h^2 = (m_f + m_-f) / 2,

with m the mask of samples: h is 1 where both are sampled, or f = -f (the imaginary part is noise
alone there), sqrt(1/2) where one is, else 0. No information is lost: as a matrix of all real and
imaginary parts, the sampling S has S^T S = V diag(h^2) V^T, and H^T y = S^T k.
"""

import numpy as np
from jax.typing import ArrayLike

from ..errors import InputError, check_shape, check_whole
from .base import Degradation, mask_array
from .circular import by_frequency, mirrored


def mri(
    shape: tuple[int, ...],
    acceleration: float = 4.0,
    centre: float = 0.08,
    seed: int = 0,
    mask: ArrayLike | None = None,
) -> Degradation:
    """Some frequencies are known: single-coil MRI of real images. All planes have one mask.

    Without a mask, lines along all axes but the last are known, a share 1 / acceleration of them:
    those of |frequency| < centre / 2 cycles per pixel, and others chosen by `seed`. Cartesian
    sampling after Zbontar et al., "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI",
    2018 (arXiv 1811.08839): acceleration 4 with centre 0.08, 8 with 0.04. Their code draws each
    line on its own, so that the share is right on average; here lines are drawn with their
    negatives, which hold the same of real images, until the share is reached, to the nearest line
    or one more: then as much is known as of the complex images of a scanner.

    mask  an array [*shape] of 0 (unknown) and 1, in the order of numpy.fft.fftn

    sigma_y is the standard deviation of the noise of real and imaginary part, each, of a sample of
    the unitary DFT (norm="ortho"). y is an image [*shape], for samples k of the mask

        y = real(ifftn(k / h, norm="ortho"))      h = sqrt((mask at f + mask at -f) / 2), 0 / 0 = 0

    which is the zero-filled image if the mask is its own mirror image, as without a mask. What y
    holds at unknown frequencies reaches no image, but counts in the norms of samplers that divide
    by one, as noise of sigma_y, which `measure` puts there as it does where a blur has no response.

    Raises InputError for acceleration < 1, centre outside [0, 1], more lines in the centre than
    wanted in all, a mask of another shape or with other values, or if no frequency is known.

    >>> sp.mri((8, 8), acceleration=2.0).apply(x_0).shape
    (4, 8, 8)
    """
    shape = check_shape(shape)
    given = {"acceleration": (acceleration, 4.0), "centre": (centre, 0.08), "seed": (seed, 0)}
    for name, (value, default) in given.items():
        if mask is not None and value != default:
            raise InputError(f"{name} = {value}: has no effect on a mask that is given")
    if mask is None:
        sampled = np.broadcast_to(_lines(shape[-1], acceleration, centre, seed), shape)
        options = {"acceleration": float(acceleration), "centre": float(centre), "seed": int(seed)}
    else:
        sampled = mask_array(mask, shape)
        if not sampled.any():
            raise InputError("mask: knows no frequency")
        options = {"mask": sampled.astype(int).tolist()}
    response = np.sqrt((sampled + mirrored(sampled)) / 2)
    return by_frequency("mri", options, response, np.ones(shape))


def _lines(n: int, acceleration: float, centre: float, seed: int) -> np.ndarray:
    """Which of n lines are sampled: 0 or 1, [n], in the order of numpy.fft.fft."""
    if not acceleration >= 1:
        raise InputError(f"acceleration = {acceleration}: must be >= 1")
    if not 0 <= centre <= 1:
        raise InputError(f"centre = {centre}: must be >= 0 and <= 1")
    seed = check_whole("seed", seed, 0)
    distance = np.minimum(np.arange(n), n - np.arange(n))  # |frequency| in cycles per image
    central = distance < centre * n / 2
    wanted, found = round(n / acceleration), int(np.sum(central))
    if wanted < 1:
        raise InputError(f"acceleration = {acceleration}: leaves none of {n} lines")
    if found > wanted:
        raise InputError(
            f"centre = {centre}: {found} of {n} lines; acceleration = {acceleration} wants {wanted}"
        )
    pairs = np.random.default_rng(seed).permutation(np.unique(distance[~central]))
    lines = np.bincount(distance)[pairs]  # one each at frequency 0 and, if n is even, at n / 2
    chosen = pairs[np.cumsum(lines) - lines < wanted - found]
    return (central | np.isin(distance, chosen)).astype(float)
