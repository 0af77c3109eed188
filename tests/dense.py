"""Dense Gaussian facts in NumPy float64: posterior, distances between laws, their averages over y.

Setting: x0 ~ N(mu, C), y = H x0 + sigma_y n, so y ~ N(H mu, S_y), S_y = H C H^T + sigma_y^2 I.
A sampler's output is A u + B y + c + N(0, Q), u ~ N(0, I), so N(B y + c, A A^T + Q) given y.
"""

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]


def posterior(H: Array, mu: Array, C: Array, sigma_y: float) -> tuple[Array, Array]:
    """(K [n, m], P [n, n]): x0 given y is N(mu + K (y - H mu), P), K = C H^T S_y^{-1}."""
    n = len(mu)
    S_y = measurement_covariance(H, C, sigma_y)
    # without noise S_y may be singular; y then lies in its range, where the pseudo-inverse is exact
    inverse = np.linalg.inv(S_y) if sigma_y > 0 else np.linalg.pinv(S_y, hermitian=True)
    K = C @ H.T @ inverse
    # Joseph's form of C - K H C stays positive semi-definite in floating point
    L = np.eye(n) - K @ H
    return K, L @ C @ L.T + sigma_y**2 * K @ K.T


def measurement_covariance(H: Array, C: Array, sigma_y: float) -> Array:
    """S_y = H C H^T + sigma_y^2 I."""
    return H @ C @ H.T + sigma_y**2 * np.eye(len(H))


def square_root(C: Array) -> Array:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = scipy.linalg.eigh((C + C.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def w2_squared(m1: Array, C1: Array, m2: Array, C2: Array) -> float:
    """|m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1^{1/2} C2 C1^{1/2})^{1/2} (Gelbrich 1990; Bures).

    The last trace is the sum of the singular values of C1^{1/2} C2^{1/2}, which keeps the digits
    that a root of C1^{1/2} C2 C1^{1/2} would lose. Rounding: about 1e-15 of the traces.
    """
    overlap = scipy.linalg.svdvals(square_root(C1) @ square_root(C2)).sum()
    gap = m1 - m2
    return float(gap @ gap + np.trace(C1) + np.trace(C2) - 2 * overlap)


def kl(m1: Array, C1: Array, m2: Array, C2: Array) -> float:
    """KL(N1||N2) = (tr C2^{-1} C1 - n + log(det C2 / det C1) + d^T C2^{-1} d) / 2, d = m1 - m2."""
    d = m1 - m2
    trace = np.trace(np.linalg.solve(C2, C1))
    log_ratio = np.linalg.slogdet(C2)[1] - np.linalg.slogdet(C1)[1]
    return float(trace + d @ np.linalg.solve(C2, d) - len(d) + log_ratio) / 2


def mean_gap(
    B: Array, c: Array, H: Array, mu: Array, C: Array, sigma_y: float
) -> tuple[Array, Array]:
    """Mean [n] and covariance [n, n], over y, of (sampler mean given y) - (posterior mean given y).

    With y = H mu + w, w ~ N(0, S_y), the gap is (B H mu + c - mu) + (B - K) w.
    """
    K, _ = posterior(H, mu, C, sigma_y)
    S_y = measurement_covariance(H, C, sigma_y)
    return B @ H @ mu + c - mu, (B - K) @ S_y @ (B - K).T


def averaged_w2(
    A: Array, B: Array, Q: Array, c: Array, H: Array, mu: Array, C: Array, sigma_y: float
) -> float:
    """E_y W2^2(sampler given y, posterior given y) / n = (|E gap|^2 + tr Cov gap + Bures^2) / n."""
    d, M = mean_gap(B, c, H, mu, C, sigma_y)
    _, P = posterior(H, mu, C, sigma_y)
    zero = np.zeros_like(mu)
    bures2 = w2_squared(zero, A @ A.T + Q, zero, P)
    return float(d @ d + np.trace(M) + bures2) / len(mu)


def averaged_kl(
    A: Array, B: Array, Q: Array, c: Array, H: Array, mu: Array, C: Array, sigma_y: float
) -> float:
    """E_y KL(sampler given y || posterior given y) / n; needs sigma_y > 0.

    The gap, of mean d and covariance M over y, enters as gap^T P^{-1} gap / 2, whose mean is
    (d^T P^{-1} d + tr P^{-1} M) / 2.
    """
    d, M = mean_gap(B, c, H, mu, C, sigma_y)
    _, P = posterior(H, mu, C, sigma_y)
    zero = np.zeros_like(mu)
    covariance_term = kl(zero, A @ A.T + Q, zero, P)
    mean_term = (d @ np.linalg.solve(P, d) + np.trace(np.linalg.solve(P, M))) / 2
    return float(covariance_term + mean_term) / len(mu)


def mse(
    A: Array, B: Array, Q: Array, c: Array, H: Array, mu: Array, C: Array, sigma_y: float
) -> float:
    """E ||output - x0||^2 / n over x0, y and the sampler's noise.

    With x0 = mu + e: output - x0 = (B H mu + c - mu) + (B H - I) e + sigma_y B n + A u + N(0, Q).
    """
    d = B @ H @ mu + c - mu
    E = B @ H - np.eye(len(mu))
    variance = E @ C @ E.T + sigma_y**2 * B @ B.T + A @ A.T + Q
    return float(d @ d + np.trace(variance)) / len(mu)


def perception(
    A: Array, B: Array, Q: Array, c: Array, H: Array, mu: Array, C: Array, sigma_y: float
) -> float:
    """W2^2(law of the outputs, prior) / n; over y they are N(B H mu + c, B S_y B^T + A A^T + Q)."""
    S_y = measurement_covariance(H, C, sigma_y)
    return w2_squared(B @ H @ mu + c, B @ S_y @ B.T + A @ A.T + Q, mu, C) / len(mu)


def circulant(kernel: Array) -> Array:
    """H with H x = periodic convolution of kernel and x, any number of axes, flattened row-major.

    The kernel is given on the full grid with its origin at index 0: H[i, j] = kernel[i - j].
    """
    columns = [
        np.roll(kernel, shift, axis=tuple(range(kernel.ndim))).ravel()
        for shift in np.ndindex(kernel.shape)
    ]
    return np.stack(columns, axis=1)


def stationary(spectrum: Array) -> Array:
    """C = F^* diag(spectrum) F, F the unitary DFT on the grid, flattened row-major.

    Each DFT mode of x0 then has variance spectrum[k]; real signals need spectrum[k] = spectrum[-k].
    """
    F = np.ones((1, 1))
    for size in spectrum.shape:
        F = np.kron(F, scipy.linalg.dft(size, scale="sqrtn"))
    C = F.conj().T @ np.diag(spectrum.ravel()) @ F
    if np.abs(C.imag).max() > 1e-9 * np.abs(C.real).max():
        raise ValueError("spectrum[k] != spectrum[-k]: no real signal has this spectrum")
    return C.real
