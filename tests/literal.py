"""Zero-shot posterior samplers written out literally: dense matrices, pixels, float64.

Setting: y = H x0 + sigma_y n, any H [m, n]; prior x0 ~ N(mu, C); x_t = alpha_t x0 + sigma_t eps.
Letters: t -> s with s less noisy, x_hat = E[x0|x_t], J = d x_hat / d x_t, r = y - H x_hat,
eps_hat = (x_t - alpha_t x_hat) / sigma_t, z ~ N(0, I) fresh, rho = sigma / alpha,
tau^2 = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2, P = H^+ H.
Allowed ends: alpha_t = 0 (pure noise, not for DAPS) and sigma_s = 0 (no noise).

H^+ leaves out singular values below `THRESHOLD`, except where a step says otherwise.
A step that draws several noises gets one z, multiplied by the symmetric square root of the
covariance of their sum: the law of x_s is the same.

A vector may also be a matrix whose columns are vectors (x_t [n, k], y [m, k], mu [n, 1]).
"""

from collections.abc import Callable

import numpy as np
from dense import square_root
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The deblurring operators of several official codes count smaller singular values as zeros.
THRESHOLD = 0.03


def svd(H: Array) -> tuple[Array, Array, Array]:
    """(U [m, n], h [n], V [n, n]), H = U diag(h) V^T; h and the column of U are 0 where unmeasured.

    Singular values below 1e-10 of the largest count as zeros spoilt by rounding.
    """
    m, n = H.shape
    left, values, right = np.linalg.svd(H, full_matrices=True)
    rank = np.count_nonzero(values > 1e-10 * values.max())
    U, h = np.zeros((m, n)), np.zeros(n)
    U[:, :rank], h[:rank] = left[:, :rank], values[:rank]
    return U, h, right.T


def pseudo_inverse(H: Array, threshold: float = 0.0) -> Array:
    """H^+ with singular values below the threshold, or 0 up to rounding, counted as zeros."""
    U, h, V = svd(H)
    inverse = np.zeros(len(h))
    kept = (h > 0) & (h >= threshold)
    inverse[kept] = 1 / h[kept]
    return V @ np.diag(inverse) @ U.T


def denoiser_jacobian(alpha: float, sigma: float, C: Array) -> Array:
    """J = alpha C (alpha^2 C + sigma^2 I)^{-1}, the derivative of `denoise` by x_t."""
    identity = np.eye(len(C))
    return alpha * C @ np.linalg.inv(alpha**2 * C + sigma**2 * identity)


def denoise(x_t: Array, alpha: float, sigma: float, mu: Array, C: Array) -> Array:
    """E[x0|x_t] = mu + alpha C (alpha^2 C + sigma^2 I)^{-1} (x_t - alpha mu)."""
    identity = np.eye(len(C))
    return mu + alpha * C @ np.linalg.solve(alpha**2 * C + sigma**2 * identity, x_t - alpha * mu)


def conditional_mean(
    x_t: Array,
    y: Array,
    alpha: float,
    sigma: float,
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """E[x0|x_t, y]: x0 conditioned on the stacked vector (x_t, y).

    With w = (x_t, y) = G x0 + noise, G = (alpha I; H), R = diag(sigma^2 I, sigma_y^2 I):
    E[x0|w] = mu + C G^T (G C G^T + R)^{-1} (w - G mu). Needs a regular G C G^T + R.
    """
    m, n = H.shape
    G = np.concatenate([alpha * np.eye(n), H])
    R = np.diag(np.concatenate([np.full(n, sigma**2), np.full(m, sigma_y**2)]))
    w = np.concatenate([x_t, y])
    return mu + C @ G.T @ np.linalg.solve(G @ C @ G.T + R, w - G @ mu)


def conditional_covariance(alpha: float, sigma: float, H: Array, C: Array, sigma_y: float) -> Array:
    """Cov(x0|x_t, y), with the G and R of `conditional_mean`.

    C - K G C with the gain K = C G^T (G C G^T + R)^{-1}, in Joseph's form
    (I - K G) C (I - K G)^T + K R K^T, which stays positive semi-definite in floating point.
    """
    m, n = H.shape
    G = np.concatenate([alpha * np.eye(n), H])
    R = np.diag(np.concatenate([np.full(n, sigma**2), np.full(m, sigma_y**2)]))
    K = np.linalg.solve(G @ C @ G.T + R, G @ C).T
    L = np.eye(n) - K @ G
    return L @ C @ L.T + K @ R @ K.T


def ddim(
    x_t: Array,
    x_hat: Array,
    eps_hat: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    eta: float,
) -> Array:
    """DDIM step ("Denoising Diffusion Implicit Models", arXiv 2010.02502); eta = 1: DDPM ancestral.

    tau^2 = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2,
    x_s = alpha_s x_hat + sigma_s sqrt(1 - eta^2 tau^2) eps_hat + eta sigma_s tau z.
    x_t enters through eps_hat only: samplers differ in which x_hat they take eps_hat from.
    """
    tau = np.sqrt(1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)
    return (
        alpha_s * x_hat + sigma_s * np.sqrt(1 - eta**2 * tau**2) * eps_hat + eta * sigma_s * tau * z
    )


def ddnm_type(
    x_prime: Array, eps_hat: Array, z: Array, alpha_s: float, sigma_s: float, eta: float
) -> Array:
    """x_s = alpha_s x' + sigma_s (eta z + sqrt(1 - eta^2) eps_hat): more noise than DDIM(eta)."""
    return alpha_s * x_prime + sigma_s * (eta * z + np.sqrt(1 - eta**2) * eps_hat)


def step_exact(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """Exact conditional score in the DDIM(eta) step: x' = E[x0|x_t, y], eps' from x'."""
    x_prime = conditional_mean(x_t, y, alpha_t, sigma_t, H, mu, C, sigma_y)
    eps_prime = (x_t - alpha_t * x_prime) / sigma_t
    return ddim(x_t, x_prime, eps_prime, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])


def step_exact_kernel(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """The exact p(x_s|x_t, y), whatever the distance of the levels.

    DDPM's posterior q(x_s|x_t, x0) = N(a x0 + d x_t, sigma_s^2 tau^2 I) conditions x_s on x_t for a
    given x0: its mean is alpha_s x0 + d (x_t - alpha_t x0), d = Cov(x_s, x_t|x0) / sigma_t^2.
    Averaged over p(x0|x_t, y):
    x_s ~ N(a E[x0|x_t, y] + d x_t, sigma_s^2 tau^2 I + a^2 Cov(x0|x_t, y)).
    """
    ratio = alpha_t / alpha_s  # x_t = ratio x_s + noise
    d = ratio * sigma_s**2 / sigma_t**2
    a = alpha_s - d * alpha_t
    variance = sigma_s**2 - d * ratio * sigma_s**2
    mean = a * conditional_mean(x_t, y, alpha_t, sigma_t, H, mu, C, sigma_y) + d * x_t
    covariance = variance * np.eye(len(C)) + a**2 * conditional_covariance(
        alpha_t, sigma_t, H, C, sigma_y
    )
    return mean + square_root(covariance) @ z


def step_exact_flow(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """Heun's second-order step for the posterior's probability-flow ODE (EDM, arXiv 2206.00364).

    With x~ = x / alpha and D = E[x0|x_t, y], d x~ / d rho = (x~ - D(x~, rho)) / rho.
    Where a slope would divide by zero (sigma_s = 0) or rho_t is infinite (alpha_t = 0), Euler:
    x_s = alpha_s D + (sigma_s / sigma_t) (x_t - alpha_t D).
    """
    if sigma_s == 0 or alpha_t == 0:
        D = conditional_mean(x_t, y, alpha_t, sigma_t, H, mu, C, sigma_y)
        return alpha_s * D + sigma_s / sigma_t * (x_t - alpha_t * D)

    def slope(x: Array, rho: float) -> Array:
        return (x - conditional_mean(x, y, 1.0, rho, H, mu, C, sigma_y)) / rho

    rho_t, rho_s = sigma_t / alpha_t, sigma_s / alpha_s
    x = x_t / alpha_t
    first = slope(x, rho_t)
    second = slope(x + (rho_s - rho_t) * first, rho_s)
    return alpha_s * (x + (rho_s - rho_t) * (first + second) / 2)


def step_dps(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DPS with the squared norm ("Diffusion Posterior Sampling", arXiv 2209.14687, Algorithm 1).

    x_s = DDIM(x_hat, eps_hat) - zeta grad_{x_t} (r . r), grad_{x_t} (r . r) = -2 J^T H^T r.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    J = denoiser_jacobian(alpha_t, sigma_t, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    r = y - H @ x_hat
    grad = -2 * J.T @ H.T @ r
    x_s = ddim(x_t, x_hat, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])
    return x_s - weights["zeta"] * grad


def step_dps_normalised(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DPS as in its official code (DPS2022/diffusion-posterior-sampling): the norm, not squared.

    x_s = DDIM(x_hat, eps_hat) - scale grad_{x_t} ||r||, grad_{x_t} ||r|| = -J^T H^T r / ||r||.
    Not affine. The official code clips x_hat and learns the variance; neither is done here.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    J = denoiser_jacobian(alpha_t, sigma_t, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    r = y - H @ x_hat
    grad = -J.T @ H.T @ r / np.linalg.norm(r, axis=0)
    x_s = ddim(x_t, x_hat, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])
    return x_s - weights["scale"] * grad


def step_pigdm(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """Noisy PiGDM ("Pseudoinverse-Guided Diffusion Models", ICLR 2023, openreview 9_gsMA8MRKQ).

    r2 = sigma_t^2 / (sigma_t^2 + alpha_t^2), g = r2 J^T H^T (r2 H H^T + sigma_y^2 I)^{-1} r,
    x_s = DDIM(x_hat, eps_hat) + weight alpha_s alpha_t g; factor as in NVlabs/RED-diff (awd=True).
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    J = denoiser_jacobian(alpha_t, sigma_t, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    r = y - H @ x_hat
    r2 = sigma_t**2 / (sigma_t**2 + alpha_t**2)
    g = r2 * J.T @ H.T @ np.linalg.solve(r2 * H @ H.T + sigma_y**2 * np.eye(len(H)), r)
    x_s = ddim(x_t, x_hat, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])
    return x_s + weights["weight"] * alpha_s * alpha_t * g


def step_pigdm_noiseless(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """PiGDM as in NVlabs/RED-diff (awd=True), which ignores sigma_y and uses the pseudo-inverse.

    x_s = DDIM(x_hat, eps_hat) + weight alpha_s alpha_t J^T H^+ r.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    J = denoiser_jacobian(alpha_t, sigma_t, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    r = y - H @ x_hat
    g = J.T @ pseudo_inverse(H, THRESHOLD) @ r
    x_s = ddim(x_t, x_hat, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])
    return x_s + weights["weight"] * alpha_s * alpha_t * g


def step_diffpir(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DiffPIR ("Denoising Diffusion Models for Plug-and-Play Image Restoration", arXiv 2305.08995).

    x' = argmin_x ||y - H x||^2 + rho ||x - x_hat||^2 = x_hat + H^T (H H^T + rho I)^{-1} r,
    rho = lambda_ sigma_y^2 alpha_t^2 / sigma_t^2, eps' = (x_t - alpha_t x') / sigma_t,
    x_s = alpha_s x' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) z); the official eta is 0.
    rho = 0 means the limit rho -> 0, x' = x_hat + H^+ r.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    r = y - H @ x_hat
    rho = weights["lambda_"] * sigma_y**2 * alpha_t**2 / sigma_t**2
    if rho == 0:
        x_prime = x_hat + pseudo_inverse(H) @ r
    else:
        # (H^T H + rho I)^{-1} (H^T y + rho x_hat) is equal, but loses digits in proportion to 1/rho
        x_prime = x_hat + H.T @ np.linalg.solve(H @ H.T + rho * np.eye(len(H)), r)
    eps_prime = (x_t - alpha_t * x_prime) / sigma_t
    zeta = weights["zeta"]
    return alpha_s * x_prime + sigma_s * (np.sqrt(1 - zeta) * eps_prime + np.sqrt(zeta) * z)


def step_tmpd(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """TMPD with the full matrix ("Tweedie Moment Projected Diffusions", arXiv 2310.06721).

    x' = x_hat + weight J^T H^T (H J H^T + c I)^{-1} r, c = alpha_t sigma_y^2 / sigma_t^2,
    eps' = (x_t - alpha_t x') / sigma_t, then DDIM. At alpha_t = 0, J = 0 and x' = x_hat.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    J = denoiser_jacobian(alpha_t, sigma_t, C)
    r = y - H @ x_hat
    c = alpha_t / sigma_t**2 * sigma_y**2
    x_prime = x_hat
    if alpha_t > 0:
        K = J.T @ H.T @ np.linalg.inv(H @ J @ H.T + c * np.eye(len(H)))
        x_prime = x_hat + weights["weight"] * K @ r
    eps_prime = (x_t - alpha_t * x_prime) / sigma_t
    return ddim(x_t, x_prime, eps_prime, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])


def step_freehunch(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """Free Hunch without its space updates, from the data's covariance C (arXiv 2410.11149).

    C_t^{-1} = C^{-1} + (alpha_t / sigma_t)^2 I (time updates), here C_t = C - K alpha_t C with the
    Kalman gain K of x_0 given x_t. The score of N(y; H x_hat, H C_t H^T + sigma_y^2 I), with C_t
    held fixed, is s = J^T H^T (H C_t H^T + sigma_y^2 I)^{-1} r, and by Tweedie's formula
    x' = (x_t + sigma_t^2 (score of x_t + s)) / alpha_t = x_hat + (sigma_t^2 / alpha_t) s.
    At alpha_t = 0 (sigma_t^2 / alpha_t) J is its limit C.
    """
    x_hat, identity = denoise(x_t, alpha_t, sigma_t, mu, C), np.eye(len(C))
    K = np.linalg.solve(alpha_t**2 * C + sigma_t**2 * identity, alpha_t * C).T
    C_t = C - K @ (alpha_t * C)
    s = H.T @ np.linalg.solve(H @ C_t @ H.T + sigma_y**2 * np.eye(len(H)), y - H @ x_hat)
    if alpha_t > 0:
        s = sigma_t**2 / alpha_t * denoiser_jacobian(alpha_t, sigma_t, C).T @ s
    else:
        s = C @ s
    x_prime = x_hat + weights["weight"] * s
    eps_prime = (x_t - alpha_t * x_prime) / sigma_t
    return ddim(x_t, x_prime, eps_prime, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])


def step_tmpd_row_sum(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """TMPD as its official code runs it on images (bb515/tmpdtorch): row sums of H J H^T.

    As `step_tmpd`, with the diagonal matrix of H J H^T 1 + c in place of H J H^T + c I.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    J = denoiser_jacobian(alpha_t, sigma_t, C)
    r = y - H @ x_hat
    c = alpha_t / sigma_t**2 * sigma_y**2
    x_prime = x_hat
    if alpha_t > 0:
        row_sums = (H @ J @ H.T).sum(axis=1)
        K = J.T @ H.T @ np.diag(1 / (row_sums + c))
        x_prime = x_hat + weights["weight"] * K @ r
    eps_prime = (x_t - alpha_t * x_prime) / sigma_t
    return ddim(x_t, x_prime, eps_prime, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])


def step_ddnm(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """Noise-free DDNM ("Denoising Diffusion Null-Space Model", arXiv 2212.00490), official code.

    x' = x_hat - H^+ (H x_hat - y), x_s = alpha_s x' + sigma_s (eta z + sqrt(1 - eta^2) eps_hat).
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    x_prime = x_hat - pseudo_inverse(H, THRESHOLD) @ (H @ x_hat - y)
    return ddnm_type(x_prime, eps_hat, z, alpha_s, sigma_s, weights["eta"])


def step_ddnm_plus(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DDNM+ by the SVD (arXiv 2212.00490); eps_hat in the basis V (the official code omits V^T).

    In the coordinates of V, with u = U^T y - h x_hat:
    x_s = alpha_s (x_hat + lam u / h) + d1 z + d2 eps_hat,
    h = 0: no data term, d1 = eta sigma_s, d2 = sqrt(1 - eta^2) sigma_s;
    h sigma_s > alpha_s sigma_y: lam = 1, d1^2 = sigma_s^2 - alpha_s^2 sigma_y^2 / h^2, d2 = 0;
    else: lam = h sigma_s sqrt(1 - eta^2) / (alpha_s sigma_y), d1 = eta sigma_s, d2 = 0.
    No threshold. sigma_y = 0 always takes lam = 1, also at sigma_s = 0.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    U, h, V = svd(H)
    x_hat, eps_hat, z, y = V.T @ x_hat, V.T @ eps_hat, V.T @ z, U.T @ y
    eta = weights["eta"]
    x_s = np.zeros_like(x_hat)
    for i in range(len(h)):
        if h[i] == 0:
            data, d1, d2 = 0.0, eta * sigma_s, np.sqrt(1 - eta**2) * sigma_s
        elif sigma_y == 0 or sigma_s > alpha_s * sigma_y / h[i]:
            data = (y[i] - h[i] * x_hat[i]) / h[i]
            d1, d2 = np.sqrt(sigma_s**2 - alpha_s**2 * sigma_y**2 / h[i] ** 2), 0.0
        else:
            lam = h[i] * sigma_s * np.sqrt(1 - eta**2) / (alpha_s * sigma_y)
            data = lam * (y[i] - h[i] * x_hat[i]) / h[i]
            d1, d2 = eta * sigma_s, 0.0
        x_s[i] = alpha_s * (x_hat[i] + data) + d1 * z[i] + d2 * eps_hat[i]
    return V @ x_s


def step_ddrm(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DDRM ("Denoising Diffusion Restoration Models", arXiv 2201.11793), by the SVD.

    In the coordinates of V, with ybar = U^T y / h, rho = rho_s and x_s = alpha_s V x_bar:
    h rho > sigma_y: x_bar = (1 - eta_b) x_hat + eta_b ybar + sqrt(rho^2 - (eta_b sigma_y / h)^2) z;
    h rho < sigma_y: x_bar = x_hat + sqrt(1 - eta^2) rho h (ybar - x_hat) / sigma_y + eta rho z;
    h = 0 or equal:  x_bar = x_hat + sqrt(1 - eta^2) rho eps_hat + eta rho z.
    No threshold. It starts from y: see `start_ddrm`.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    U, h, V = svd(H)
    x_hat, eps_hat, z, y = V.T @ x_hat, V.T @ eps_hat, V.T @ z, U.T @ y
    eta, eta_b, rho = weights["eta"], weights["eta_b"], sigma_s / alpha_s
    x_bar = np.zeros_like(x_hat)
    for i in range(len(h)):
        if h[i] > 0 and h[i] * rho > sigma_y:
            noise = np.sqrt(rho**2 - eta_b**2 * sigma_y**2 / h[i] ** 2)
            x_bar[i] = (1 - eta_b) * x_hat[i] + eta_b * y[i] / h[i] + noise * z[i]
        elif h[i] > 0 and h[i] * rho < sigma_y:
            frozen = (y[i] - h[i] * x_hat[i]) / sigma_y
            x_bar[i] = x_hat[i] + np.sqrt(1 - eta**2) * rho * frozen + eta * rho * z[i]
        else:
            x_bar[i] = x_hat[i] + np.sqrt(1 - eta**2) * rho * eps_hat[i] + eta * rho * z[i]
    return alpha_s * V @ x_bar


def step_mpgd(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """MPGD with the squared norm ("Manifold Preserving Guided Diffusion", arXiv 2311.16424).

    x' = x_hat + scale H^T r, x_s = DDIM(x', eps_hat).
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    r = y - H @ x_hat
    x_prime = x_hat + weights["scale"] * H.T @ r
    return ddim(x_t, x_prime, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])


def step_mpgd_normalised(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """MPGD as in its official code (KellyYutongHe/mpgd_pytorch): the norm, not squared.

    x' = x_hat + (scale / alpha_s) H^T r / ||r||, x_s = DDIM(x', eps_hat). Not affine.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    r = y - H @ x_hat
    x_prime = x_hat + weights["scale"] / alpha_s * H.T @ r / np.linalg.norm(r, axis=0)
    return ddim(x_t, x_prime, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])


def dmps_shift(
    x: Array,
    y: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    scale: float,
    H: Array,
    sigma_y: float,
) -> Array:
    """DMPS: scale g H^T (sigma_y^2 I + rho_t^2 H H^T)^{-1} (y - H x / alpha_t).

    g = sigma_t^2 tau^2 alpha_s / alpha_t^2. No shift at alpha_t = 0, where x_t knows nothing of x0.
    """
    if alpha_t == 0:
        return np.zeros_like(x)
    tau2 = 1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
    g = sigma_t**2 * tau2 * alpha_s / alpha_t**2
    matrix = sigma_y**2 * np.eye(len(H)) + (sigma_t / alpha_t) ** 2 * H @ H.T
    return scale * g * H.T @ np.linalg.solve(matrix, y - H @ x / alpha_t)


def step_dmps(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DMPS ("Diffusion Model Based Posterior Sampling", arXiv 2211.12343) as its official code.

    x_s = x'_s + shift at x'_s, x'_s = DDIM(x_hat, eps_hat); see `dmps_shift`.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    x_s = ddim(x_t, x_hat, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])
    scale = weights["scale"]
    return x_s + dmps_shift(x_s, y, alpha_t, sigma_t, alpha_s, sigma_s, scale, H, sigma_y)


def step_dmps_paper(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DMPS as in the paper: x_s = DDIM(x_hat, eps_hat) + shift at x_t; see `dmps_shift`."""
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    x_s = ddim(x_t, x_hat, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])
    scale = weights["scale"]
    return x_s + dmps_shift(x_t, y, alpha_t, sigma_t, alpha_s, sigma_s, scale, H, sigma_y)


def step_dds(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DDS ("Decomposed Diffusion Sampler", arXiv 2303.05754) with the linear system solved.

    x' = (I + gamma H^T H)^{-1} (x_hat + gamma H^T y),
    x_s = alpha_s x' + sigma_s (eta z + sqrt(1 - eta^2) eps_hat).
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    gamma = weights["gamma"]
    x_prime = np.linalg.solve(np.eye(len(C)) + gamma * H.T @ H, x_hat + gamma * H.T @ y)
    return ddnm_type(x_prime, eps_hat, z, alpha_s, sigma_s, weights["eta"])


def conjugate_gradients(A: Array, b: Array, x: Array, iterations: int) -> Array:
    """Conjugate gradients for A x = b, all vectors [n], from the given x."""
    r = b - A @ x
    p = r
    for _ in range(iterations):
        if not r.any():
            break
        step_size = (r @ r) / (p @ A @ p)
        x = x + step_size * p
        r_next = r - step_size * A @ p
        p = r_next + (r_next @ r_next) / (r @ r) * p
        r = r_next
    return x


def step_dds_cg5(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DDS as in its official code (HJ-harry/DDS): five conjugate gradients from x_hat.

    The step sizes depend on the vector: not affine, and columns are solved one at a time.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    gamma = weights["gamma"]
    A, b = np.eye(len(C)) + gamma * H.T @ H, x_hat + gamma * H.T @ y
    if b.ndim == 1:
        x_prime = conjugate_gradients(A, b, x_hat, 5)
    else:
        pairs = zip(b.T, x_hat.T, strict=True)
        x_prime = np.stack([conjugate_gradients(A, *pair, 5) for pair in pairs], axis=1)
    return ddnm_type(x_prime, eps_hat, z, alpha_s, sigma_s, weights["eta"])


def replace_measured(x: Array, y: Array, z: Array, alpha: float, sigma: float, H: Array) -> Array:
    """(I - P) x + alpha H^+ y + sigma P z: the measured part of x becomes that of noised y.

    x may hold the same z as the second noise: (I - P) z and P z are independent.
    """
    H_plus = pseudo_inverse(H, THRESHOLD)
    P = H_plus @ H
    return (np.eye(len(P)) - P) @ x + alpha * H_plus @ y + sigma * P @ z


def step_mcg(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """MCG ("Manifold Constrained Gradient", arXiv 2206.00941) with the squared norm.

    x'_s = DDIM(x_hat, eps_hat) - zeta grad_{x_t} (r . r), whose measured part is then replaced by y
    noised to level t, the level of the official code: see `replace_measured`.
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    J = denoiser_jacobian(alpha_t, sigma_t, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    r = y - H @ x_hat
    grad = -2 * J.T @ H.T @ r
    x_s = ddim(x_t, x_hat, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])
    x_s = x_s - weights["zeta"] * grad
    return replace_measured(x_s, y, z, alpha_t, sigma_t, H)


def step_mcg_paper(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """MCG as `step_mcg`, with y noised to level s."""
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    J = denoiser_jacobian(alpha_t, sigma_t, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    r = y - H @ x_hat
    grad = -2 * J.T @ H.T @ r
    x_s = ddim(x_t, x_hat, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])
    x_s = x_s - weights["zeta"] * grad
    return replace_measured(x_s, y, z, alpha_s, sigma_s, H)


def step_mcg_normalised(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """MCG as in its official code (HJ-harry/MCG_diffusion): the norm, not squared. Not affine.

    As `step_mcg`, with scale grad_{x_t} ||r|| in place of zeta grad_{x_t} (r . r).
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    J = denoiser_jacobian(alpha_t, sigma_t, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    r = y - H @ x_hat
    grad = -J.T @ H.T @ r / np.linalg.norm(r, axis=0)
    x_s = ddim(x_t, x_hat, eps_hat, z, alpha_t, sigma_t, alpha_s, sigma_s, weights["eta"])
    x_s = x_s - weights["scale"] * grad
    return replace_measured(x_s, y, z, alpha_t, sigma_t, H)


def polar(H: Array) -> tuple[Array, Array]:
    """(W [m, n], Phi [n, n]): H = W Phi, Phi = (H^T H)^{1/2}, W a partial isometry."""
    U, h, V = svd(H)
    return U @ V.T, V @ np.diag(h) @ V.T


def ilvr_mix(
    x_s: Array,
    c1: float,
    y_image: Array,
    z: Array,
    alpha: float,
    sigma: float,
    weight: float,
    Phi: Array,
) -> Array:
    """x'_s + weight (-Phi x'_s + alpha y_image + sigma Phi z2), x'_s = x_s + c1 z1; z1, z2 fresh.

    The noises are (I - weight Phi) c1 z1 and weight sigma Phi z2, merged into one z.
    """
    mean = x_s + weight * (-Phi @ x_s + alpha * y_image)
    kept = np.eye(len(Phi)) - weight * Phi
    covariance = c1**2 * kept @ kept.T + (weight * sigma) ** 2 * Phi @ Phi.T
    return mean + square_root(covariance) @ z


def step_ilvr(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """ILVR ("Iterative Latent Variable Refinement", arXiv 2108.02938) with a degradation as filter.

    Polar decomposition H = W Phi; W^T y = Phi x0 + noise is the measurement as an image.
    x_s = x'_s + weight (-Phi x'_s + alpha_t W^T y + sigma_t Phi z2), x'_s = DDIM(x_hat, eps_hat);
    level t as in the official code (jychoi118/ilvr_adm).
    """
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    W, Phi = polar(H)
    y_image = W.T @ y
    eta, level = weights["eta"], (alpha_t, sigma_t, alpha_s, sigma_s)
    without_noise = ddim(x_t, x_hat, eps_hat, np.zeros_like(z), *level, eta)
    c1 = eta * sigma_s * np.sqrt(1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)
    weight = weights["weight"]
    return ilvr_mix(without_noise, c1, y_image, z, alpha_t, sigma_t, weight, Phi)


def step_ilvr_paper(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """ILVR as `step_ilvr`, with y noised to level s, as in the paper."""
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    W, Phi = polar(H)
    y_image = W.T @ y
    eta, level = weights["eta"], (alpha_t, sigma_t, alpha_s, sigma_s)
    without_noise = ddim(x_t, x_hat, eps_hat, np.zeros_like(z), *level, eta)
    c1 = eta * sigma_s * np.sqrt(1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)
    weight = weights["weight"]
    return ilvr_mix(without_noise, c1, y_image, z, alpha_s, sigma_s, weight, Phi)


def step_ilvr_projection(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """ILVR as `step_ilvr`, with the projection as the filter: Phi = P, H^+ y in place of W^T y."""
    x_hat = denoise(x_t, alpha_t, sigma_t, mu, C)
    eps_hat = (x_t - alpha_t * x_hat) / sigma_t
    H_plus = pseudo_inverse(H, THRESHOLD)
    Phi, y_image = H_plus @ H, H_plus @ y
    eta, level = weights["eta"], (alpha_t, sigma_t, alpha_s, sigma_s)
    without_noise = ddim(x_t, x_hat, eps_hat, np.zeros_like(z), *level, eta)
    c1 = eta * sigma_s * np.sqrt(1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)
    weight = weights["weight"]
    return ilvr_mix(without_noise, c1, y_image, z, alpha_t, sigma_t, weight, Phi)


def reddiff_gradient(
    m: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    lambda_: float,
    H: Array,
    mu: Array,
    C: Array,
) -> Array:
    """RED-diff: g = H^T (H m - y) + lambda_ (m - E[x0|x_t]), x_t = alpha_t m + sigma_t z."""
    x_hat = denoise(alpha_t * m + sigma_t * z, alpha_t, sigma_t, mu, C)
    return H.T @ (H @ m - y) + lambda_ * (m - x_hat)


def step_reddiff(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """RED-diff ("A Variational Perspective on Solving Inverse Problems", arXiv 2305.04391) by SGD.

    The state x_t is no noisy image but the image m that is optimised: m <- m - lr g at level t; see
    `reddiff_gradient`, and `run_reddiff_adam` for the official optimiser.
    """
    g = reddiff_gradient(x_t, y, z, alpha_t, sigma_t, weights["lambda_"], H, mu, C)
    return x_t - weights["lr"] * g


def step_daps(
    x_t: Array,
    y: Array,
    z: Array,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    weights: dict[str, float],
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DAPS ("Decoupled Annealing Posterior Sampling", arXiv 2407.01521), constants as published.

    x0h: 5 Euler steps of the prior's probability-flow ODE d x~ / d rho = (x~ - D(x~, rho)) / rho
    from x~ = x_t / alpha_t, down to rho = 0.01; then 100 Langevin steps from x0h,
    x += lr (-(2 / tau^2) H^T (H x - y) + (x0h - x) / rho_t^2) + sqrt(2 lr) n_i;
    then x_s = alpha_s x + sigma_s n. The weight precision is 1 / tau^2; the likelihood assumes the
    noise level tau.
    """
    rho_t = sigma_t / alpha_t
    rho = np.linspace(rho_t ** (1 / 7), min(0.01, rho_t) ** (1 / 7), 6) ** 7
    x0h = x_t / alpha_t
    for j in range(5):
        x0h = x0h + (rho[j + 1] - rho[j]) * (x0h - denoise(x0h, 1.0, rho[j], mu, C)) / rho[j]

    lr, tau, identity = weights["lr"], weights["precision"] ** -0.5, np.eye(len(C))
    # x = mean + N(0, covariance): the noises alone follow the homogeneous part of the recursion
    mean, covariance = x0h, np.zeros_like(C)
    homogeneous = identity - lr * (2 / tau**2 * H.T @ H + identity / rho_t**2)
    for _ in range(100):
        mean = mean + lr * (-2 / tau**2 * H.T @ (H @ mean - y) + (x0h - mean) / rho_t**2)
        covariance = homogeneous @ covariance @ homogeneous.T + 2 * lr * identity
    return alpha_s * mean + square_root(alpha_s**2 * covariance + sigma_s**2 * identity) @ z


STEPS: dict[str, Callable[..., Array]] = {
    "exact": step_exact,
    "exact_kernel": step_exact_kernel,
    "exact_flow": step_exact_flow,
    "dps": step_dps,
    "dps_normalised": step_dps_normalised,
    "pigdm": step_pigdm,
    "pigdm_from_y": step_pigdm,
    "pigdm_noiseless": step_pigdm_noiseless,
    "pigdm_noiseless_from_y": step_pigdm_noiseless,
    "diffpir": step_diffpir,
    "tmpd": step_tmpd,
    "tmpd_row_sum": step_tmpd_row_sum,
    "freehunch": step_freehunch,
    "ddnm": step_ddnm,
    "ddnm_plus": step_ddnm_plus,
    "ddrm": step_ddrm,
    "mpgd": step_mpgd,
    "mpgd_normalised": step_mpgd_normalised,
    "dmps": step_dmps,
    "dmps_paper": step_dmps_paper,
    "dds": step_dds,
    "dds_cg5": step_dds_cg5,
    "mcg": step_mcg,
    "mcg_paper": step_mcg_paper,
    "mcg_normalised": step_mcg_normalised,
    "ilvr": step_ilvr,
    "ilvr_paper": step_ilvr_paper,
    "ilvr_projection": step_ilvr_projection,
    "reddiff": step_reddiff,
    "daps": step_daps,
}

NON_AFFINE = {"dps_normalised", "mpgd_normalised", "mcg_normalised", "dds_cg5"}


def start_noise(
    u: Array,
    y: Array,
    alpha_T: float,
    sigma_T: float,
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """x_T = sigma_T u, u ~ N(0, I): the start of every sampler that `START` does not name."""
    return sigma_T * u


def start_pseudo_inverse(
    u: Array,
    y: Array,
    alpha_T: float,
    sigma_T: float,
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """x_T = alpha_T H^+ y + sigma_T u, the start of NVlabs/RED-diff's PiGDM."""
    return alpha_T * pseudo_inverse(H, THRESHOLD) @ y + sigma_T * u


def start_ddrm(
    u: Array,
    y: Array,
    alpha_T: float,
    sigma_T: float,
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """DDRM starts from y where it is less noisy than level T, else from sigma_T u.

    In the coordinates of V, where h sigma_T > alpha_T sigma_y:
    x_T = alpha_T U^T y / h + sqrt(sigma_T^2 - alpha_T^2 sigma_y^2 / h^2) u.
    """
    U, h, V = svd(H)
    u, y = V.T @ u, U.T @ y
    x_T = sigma_T * u
    for i in range(len(h)):
        if h[i] * sigma_T > alpha_T * sigma_y:
            noise = np.sqrt(sigma_T**2 - alpha_T**2 * sigma_y**2 / h[i] ** 2)
            x_T[i] = alpha_T * y[i] / h[i] + noise * u[i]
    return V @ x_T


def start_reddiff(
    u: Array,
    y: Array,
    alpha_T: float,
    sigma_T: float,
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
) -> Array:
    """RED-diff optimises from H^+ y, without noise."""
    return pseudo_inverse(H, THRESHOLD) @ y


START: dict[str, Callable[..., Array]] = {
    "ddrm": start_ddrm,
    "pigdm_from_y": start_pseudo_inverse,
    "pigdm_noiseless_from_y": start_pseudo_inverse,
    "reddiff": start_reddiff,
}


def run(
    name: str,
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
    alphas: Array,
    sigmas: Array,
    weights: dict[str, Array],
    u: Array,
    y: Array,
    z: Array,
    from_state: bool = False,
) -> Array:
    """A whole trajectory to x_0: levels [S+1] noisiest first, weights name -> [S], z [S, n].

    u is the unit-normal start noise, or the first state x_T itself if from_state.
    """
    x = u
    if not from_state:
        start = START.get(name, start_noise)
        x = start(u, y, float(alphas[0]), float(sigmas[0]), H, mu, C, sigma_y)
    for i in range(len(sigmas) - 1):
        weights_t = {key: float(value[i]) for key, value in weights.items()}
        x = STEPS[name](
            x,
            y,
            z[i],
            float(alphas[i]),
            float(sigmas[i]),
            float(alphas[i + 1]),
            float(sigmas[i + 1]),
            weights_t,
            H,
            mu,
            C,
            sigma_y,
        )
    return x


def affine(
    name: str,
    H: Array,
    mu: Array,
    C: Array,
    sigma_y: float,
    alphas: Array,
    sigmas: Array,
    weights: dict[str, Array],
    from_state: bool = False,
) -> tuple[Array, Array, Array, Array]:
    """(A [n, n], B [n, m], Q [n, n], c [n]): output = A u + B y + c + N(0, Q).

    u is the unit-normal start noise, as in `run` (x_T = sigma_T u, unless `START` has another
    start), or x_T itself if from_state.
    Read off `run` at zero and at unit vectors, all given as columns of one run, which decomposes
    its matrices once: nothing is derived by hand.
    """
    if name in NON_AFFINE:
        raise ValueError(f"{name} is not affine")
    m, n = H.shape
    S = len(sigmas) - 1
    # Columns: zero, the units of u, those of y, those of each step's noise.
    ends = np.cumsum([1, n, m] + [n] * S)
    u, y, z = (np.zeros((*rows, ends[-1])) for rows in ((n,), (m,), (S, n)))
    u[:, ends[0] : ends[1]] = np.eye(n)
    y[:, ends[1] : ends[2]] = np.eye(m)
    for i in range(S):
        z[i, :, ends[2 + i] : ends[3 + i]] = np.eye(n)
    out = run(name, H, mu.reshape(n, 1), C, sigma_y, alphas, sigmas, weights, u, y, z, from_state)
    _, A, B, *noise = np.split(out - out[:, :1], ends[:-1], axis=1)
    return A, B, sum(D @ D.T for D in noise), out[:, 0]


def run_reddiff_adam(
    H: Array,
    mu_prior: Array,
    C: Array,
    alphas: Array,
    sigmas: Array,
    lr: Array,
    lambda_: Array,
    y: Array,
    z: Array,
) -> Array:
    """RED-diff with Adam (arXiv 1412.6980) at beta1 = 0.9, beta2 = 0.99, eps = 1e-8; not affine.

    From H^+ y, one update per level: lr, lambda_ [S], z [S, n], levels noisiest first, S or more.
    Returns the image after all S updates.
    """
    m = pseudo_inverse(H, THRESHOLD) @ y
    first, second = np.zeros_like(m), np.zeros_like(m)
    for i in range(len(lr)):
        alpha, sigma = float(alphas[i]), float(sigmas[i])
        g = reddiff_gradient(m, y, z[i], alpha, sigma, float(lambda_[i]), H, mu_prior, C)
        first = 0.9 * first + 0.1 * g
        second = 0.99 * second + 0.01 * g**2
        first_unbiased = first / (1 - 0.9 ** (i + 1))
        second_unbiased = second / (1 - 0.99 ** (i + 1))
        m = m - float(lr[i]) * first_unbiased / (np.sqrt(second_unbiased) + 1e-8)
    return m


def run_dps_remembering(
    H: Array,
    mu: Array,
    C: Array,
    alphas: Array,
    sigmas: Array,
    weights: dict[str, Array],
    num_estimates: int,
    u: Array,
    y: Array,
    z: Array,
) -> Array:
    """DPS that remembers earlier estimates, and (weight "momentum") its guidance of earlier steps.

    x_s = DDIM of sum_k c_k x_k + m, x_0 = x_hat, x_k the estimate of k steps ago, with shares
    c_0 = w_1, c_1 = (1 - w_1) w_2, ... of the weights "extrapolation", "extrapolation_2", ... and
    for the oldest what is left to 1. m is the exponential moving average of the guidance,
    m = mu m_before + (1 - mu) g, g = 2 zeta J^T H^T r, as in Adam (arXiv 1412.6980) without its
    second moment. Before the first step all is 0. weights [S], u [n], y [m], z [S, n].
    """
    x, estimates, m = sigmas[0] * u, [np.zeros_like(mu)] * num_estimates, np.zeros_like(mu)
    names = ["extrapolation", *(f"extrapolation_{k}" for k in range(2, num_estimates + 1))]
    for i in range(len(sigmas) - 1):
        levels = alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1]
        x_hat = denoise(x, *levels[:2], mu, C)
        g = 2 * weights["zeta"][i] * denoiser_jacobian(*levels[:2], C).T @ H.T @ (y - H @ x_hat)
        average = weights["momentum"][i] if "momentum" in weights else 0.0
        m = average * m + (1 - average) * g
        w = [weights[name][i] for name in names[:num_estimates]]
        shares = [np.prod([1 - one for one in w[:k]]) * w[k] for k in range(num_estimates)]
        shares.append(1 - sum(shares))
        base = sum(c * one for c, one in zip(shares, [x_hat, *estimates], strict=True))
        x = ddim(x, base, (x - levels[0] * base) / levels[1], z[i], *levels, weights["eta"][i]) + m
        estimates = [x_hat, *estimates][:num_estimates]
    return x


def run_combining(
    name: str,
    H: Array,
    C: Array,
    sigma_y: float,
    alphas: Array,
    sigmas: Array,
    weights: dict[str, Array],
) -> tuple[Array, list[Array]]:
    """Learnable linear extrapolation (arXiv 2503.10103) of dps, pigdm, mpgd, diffpir; no mean.

    The guided estimate x' of a step becomes c_i x' + sum_j c_j (that of step j), with the least
    E ||. - x_0||^2: A c = b, A_jk = E x_j . x_k, b_j = E x_j . x_0. As in its code DiffPIR takes
    eps' from the combination, the others eps_hat from x_hat. Returns x as a matrix of the columns
    (start noise, y, fresh noise of each step), and c of each step, the oldest estimate first.
    """
    (m, n), num = H.shape, len(sigmas) - 1
    start, y, *fresh = np.split(np.eye(n + m + num * n), [n, *(n + m + n * i for i in range(num))])
    cov_y = H @ C @ H.T + sigma_y**2 * np.eye(m)
    cov = start.T @ start + y.T @ cov_y @ y + sum(z.T @ z for z in fresh)
    with_x_0 = y.T @ H @ C
    x, estimates, found = sigmas[0] * start, [], []
    for i, z in enumerate(fresh):
        a, s = alphas[i], sigmas[i]
        J = denoiser_jacobian(a, s, C)
        x_hat = J @ x
        r = y - H @ x_hat
        if name == "dps":
            guided = x_hat + 2 * weights["zeta"][i] * J.T @ H.T @ r / alphas[i + 1]
        elif name == "pigdm":
            r2 = s**2 / (s**2 + a**2)
            g = r2 * J.T @ H.T @ np.linalg.solve(r2 * H @ H.T + sigma_y**2 * np.eye(m), r)
            guided = x_hat + weights["weight"][i] * a * g
        elif name == "mpgd":
            guided = x_hat + weights["scale"][i] * H.T @ r
        else:
            rho = weights["lambda_"][i] * sigma_y**2 * a**2 / s**2
            guided = x_hat + H.T @ np.linalg.solve(H @ H.T + rho * np.eye(m), r)
        estimates.append(guided)
        A = [[np.trace(one @ cov @ other.T) for other in estimates] for one in estimates]
        b = [np.trace(one @ with_x_0) for one in estimates]
        found.append(np.linalg.solve(np.array(A), np.array(b)))
        estimates[-1] = sum(c * one for c, one in zip(found[-1], estimates, strict=True))
        base = estimates[-1]
        if name == "diffpir":
            eta = np.sqrt(weights["zeta"][i])
            x = ddnm_type(base, (x - a * base) / s, z, alphas[i + 1], sigmas[i + 1], eta)
        else:
            levels = a, s, alphas[i + 1], sigmas[i + 1]
            x = ddim(x, base, (x - a * x_hat) / s, z, *levels, weights["eta"][i])
    return x, found
