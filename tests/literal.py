"""Zero-shot posterior samplers written out literally: dense matrices, pixels, float64.

Setting: y = H x0 + sigma_y n, any H [m, n]; prior x0 ~ N(mu, C); x_t = alpha_t x0 + sigma_t eps.
Letters: t -> s with s less noisy, x_hat = E[x0|x_t], J = d x_hat / d x_t, r = y - H x_hat,
eps_hat = (x_t - alpha_t x_hat) / sigma_t, z ~ N(0, I) fresh.

A vector may also be a matrix whose columns are vectors (x_t [n, k], y [m, k], mu [n, 1]).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
    g = J.T @ pseudo_inverse(H) @ r
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


def pseudo_inverse(H: Array) -> Array:
    """H^+; singular values below 1e-10 of the largest count as zeros spoilt by rounding."""
    return np.linalg.pinv(H, rcond=1e-10)


STEPS: dict[str, Callable[..., Array]] = {
    "exact": step_exact,
    "dps": step_dps,
    "dps_normalised": step_dps_normalised,
    "pigdm": step_pigdm,
    "pigdm_noiseless": step_pigdm_noiseless,
    "diffpir": step_diffpir,
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
    x_T: Array,
    y: Array,
    z: Array,
) -> Array:
    """A whole trajectory to x_0: levels [S+1] noisiest first, weights name -> [S], z [S, n]."""
    x = x_T
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
) -> tuple[Array, Array, Array, Array]:
    """(A [n, n], B [n, m], Q [n, n], c [n]): output = A u + B y + c + N(0, Q), x_T = sigma_T u.

    Read off `run` at zero and at unit vectors, given as columns: nothing is derived by hand.
    """
    if name == "dps_normalised":
        raise ValueError("dps_normalised divides by a norm and is not affine")
    m, n = H.shape
    S = len(sigmas) - 1
    mu = mu.reshape(n, 1)

    def output(x_T: Array, y: Array, z: Array) -> Array:
        return run(name, H, mu, C, sigma_y, alphas, sigmas, weights, x_T, y, z)

    c = output(np.zeros((n, 1)), np.zeros((m, 1)), np.zeros((S, n, 1)))
    A = output(sigmas[0] * np.eye(n), np.zeros((m, n)), np.zeros((S, n, n))) - c
    B = output(np.zeros((n, m)), np.eye(m), np.zeros((S, n, m))) - c
    Q = np.zeros((n, n))
    for i in range(S):
        z = np.zeros((S, n, n))
        z[i] = np.eye(n)
        D = output(np.zeros((n, n)), np.zeros((m, n)), z) - c
        Q += D @ D.T
    return A, B, Q, c[:, 0]
