"""Published steps as text: loops in plain Python that several targets share.

They use +, -, *, / and ** of arrays, and comparison, so that they run on NumPy, PyTorch and JAX.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..schedule import Schedule
from .base import Weights, levels_of

Given = Mapping[str, Any]  # the options of a sampler


class Step(NamedTuple):
    """The text of a sampler's loop."""

    start: str  # an expression
    body: str  # statements that make the next x, indented by 8
    needs: tuple[str, ...]  # what a user has to give: keys of NEEDS
    gradient: bool = False  # whether `denoise` returns the derivative too


NEEDS = {
    "A": "A(x): the degradation, of images",
    "AT": "AT(r): its transpose, of measurements",
    "pinv": "pinv(y): its pseudo-inverse{threshold}",
    "solve": "solve(c, d, r): (c A A^T + d I)^-1 r; by conjugate gradients if None",
    "norm": "norm(r): of each image with all its planes, in a shape that divides images",
    "svd": "h, Vt(x), V(z), Ut(y): A = U diag(h) V^T; h and Ut(y) as long as Vt(x), with 0 where\n"
    "        nothing is measured",
}
DENOISE = "denoise(x, i): E[x_0 | x] at ALPHA[i], SIGMA[i]"
GRADIENT = ", and v -> J^T v with J = d x_hat / d x"

NOISE = "SIGMA[0] * noise()"

DDIM = '''
def ddim(i, x_hat, eps_hat, noise, eta):
    """DDIM from level i to i + 1; eta = 1 is DDPM with its smaller variance."""
    tau2 = 1 - (ALPHA[i] * SIGMA[i + 1] / (ALPHA[i + 1] * SIGMA[i])) ** 2
    kept = max(1 - eta**2 * tau2, 0.0) ** 0.5
    return ALPHA[i + 1] * x_hat + SIGMA[i + 1] * (kept * eps_hat + eta * tau2**0.5 * noise)
'''
REPLACED = '''
def renoise(i, x_hat, eps_hat, noise, eta):
    """To level i + 1, eta^2 of the noise's variance drawn anew."""
    kept = max(1 - eta**2, 0.0) ** 0.5
    return ALPHA[i + 1] * x_hat + SIGMA[i + 1] * (kept * eps_hat + eta * noise)
'''
EXTRAPOLATED = '''
def extrapolated(i, x_hat, before):
    """The estimate that the step starts from, given those of the steps before, the newest first."""
    base, *newer = reversed((x_hat, *before))
    for weights, estimate in zip(reversed(EXTRAPOLATION), newer):
        base = base + weights[i] * (estimate - base)
    return base
'''
CONJUGATE_GRADIENTS = '''
def conjugate_gradients(operator, r, most=100, tolerance=1e-6):
    """operator^-1 r of a positive definite operator."""
    found, p, size = 0 * r, r, (r * r).sum()
    enough = tolerance**2 * size
    for _ in range(most):
        if size <= enough:
            break
        q = operator(p)
        step = size / (p * q).sum()
        found, r = found + step * p, r - step * q
        before, size = size, (r * r).sum()
        p = r + size / before * p
    return found
'''
SVD = '''
def svd_step(i, x, x_hat, y, noise, h, eta, eta_b):
    """To level i + 1, in the coordinates of V; y = U^T y, all as long as h."""
    alpha, sigma = ALPHA[i + 1], SIGMA[i + 1]
    measured = (h > 0) * 1.0
    informed = (h * sigma > alpha * SIGMA_Y) * 1.0
    safe = informed * h + (1 - informed)
    spread = (sigma**2 - informed * (eta_b * alpha * SIGMA_Y / safe) ** 2) ** 0.5
    from_y = alpha * ((1 - eta_b) * x_hat + eta_b * y / safe) + spread * noise
    eps_hat = (x - ALPHA[i] * x_hat) / SIGMA[i]
    misfit = measured * ((y - h * x_hat) / SIGMA_Y) + (1 - measured) * eps_hat
    kept = max(1 - eta**2, 0.0) ** 0.5
    otherwise = alpha * x_hat + sigma * (kept * misfit + eta * noise)
    return informed * from_y + (1 - informed) * otherwise


def svd_start(y, noise, h):
    """x at the first level: from y where that is less noisy than the level."""
    informed = (h * SIGMA[0] > ALPHA[0] * SIGMA_Y) * 1.0
    safe = informed * h + (1 - informed)
    spread = (SIGMA[0] ** 2 - informed * (ALPHA[0] * SIGMA_Y / safe) ** 2) ** 0.5
    return informed * (ALPHA[0] * y / safe) + spread * noise
'''

EPS = "(x - alpha_t * base) / sigma_t"


class Parts(NamedTuple):
    """What the loops of a sampler with memory have besides: lines of text, or none."""

    base: str  # the estimate that the step starts from
    after: str  # what is remembered


PLAIN = Parts("        base = x_hat\n", "")
REMEMBERING = Parts(
    "        base = extrapolated(i, x_hat, before)\n",
    "        before = (x_hat, *before[:-1])\n",
)


def _dps(given: Given, parts: Parts) -> Step:
    weight = "SCALE[i] / norm(r)" if given["normalised"] else "2 * ZETA[i]"
    average = "        down = last = down + MOMENTUM[i] * (last - down)\n"
    average = average if given["momentum"] else ""
    return Step(
        NOISE,
        "        x_hat, vjp = denoise(x, i)\n"
        "        r = y - A(x_hat)\n"
        f"        down = {weight} * vjp(AT(r))\n{average}{parts.base}"
        f"        x = ddim(i, base, {EPS}, noise(), ETA[i]) + down\n{parts.after}",
        ("A", "AT", *(["norm"] if given["normalised"] else [])),
        gradient=True,
    )


def _pigdm(given: Given, parts: Parts) -> Step:
    noiseless, informed = given["noiseless"], given["start_from_y"]
    g = "vjp(pinv(r))" if noiseless else "vjp(AT(solve(r2, SIGMA_Y**2, r2 * r)))"
    r2 = "" if noiseless else "        r2 = sigma_t**2 / (sigma_t**2 + alpha_t**2)\n"
    return Step(
        f"ALPHA[0] * pinv(y) + {NOISE}" if informed else NOISE,
        "        x_hat, vjp = denoise(x, i)\n"
        f"        r = y - A(x_hat)\n{r2}"
        f"        g = WEIGHT[i] * alpha_s * alpha_t * {g}\n{parts.base}"
        f"        x = ddim(i, base, {EPS}, noise(), ETA[i]) + g\n{parts.after}",
        (
            "A",
            *([] if noiseless else ["AT", "solve"]),
            *(["pinv"] if noiseless or informed else []),
        ),
        gradient=True,
    )


def _mpgd(given: Given, parts: Parts) -> Step:
    weight = "SCALE[i] / (alpha_s * norm(r))" if given["normalised"] else "SCALE[i]"
    return Step(
        NOISE,
        "        x_hat = denoise(x, i)\n"
        f"        r = y - A(x_hat)\n{parts.base}"
        f"        guided = base + {weight} * AT(r)\n"
        f"        x = ddim(i, guided, {EPS}, noise(), ETA[i])\n{parts.after}",
        ("A", "AT", *(["norm"] if given["normalised"] else [])),
    )


def _diffpir(given: Given, parts: Parts) -> Step:
    del given
    return Step(
        NOISE,
        "        x_hat = denoise(x, i)\n"
        "        rho = LAMBDA[i] * (SIGMA_Y * alpha_t / sigma_t) ** 2\n"
        f"        x_hat = x_hat + AT(solve(1.0, rho, y - A(x_hat)))\n{parts.base}"
        f"        x = renoise(i, base, {EPS}, noise(), ZETA[i] ** 0.5)\n{parts.after}",
        ("A", "AT", "solve"),
    )


def _dds(given: Given, parts: Parts) -> Step:
    del given, parts
    return Step(
        NOISE,
        "        x_hat = denoise(x, i)\n"
        "        eps_hat = (x - alpha_t * x_hat) / sigma_t\n"
        "        x_hat = x_hat + GAMMA[i] * AT(solve(GAMMA[i], 1.0, y - A(x_hat)))\n"
        "        x = renoise(i, x_hat, eps_hat, noise(), ETA[i])\n",
        ("A", "AT", "solve"),
    )


def _dmps(given: Given, parts: Parts) -> Step:
    del parts
    of = "after" if given["variant"] == "code" else "x"
    return Step(
        NOISE,
        "        x_hat = denoise(x, i)\n"
        "        eps_hat = (x - alpha_t * x_hat) / sigma_t\n"
        "        after = ddim(i, x_hat, eps_hat, noise(), ETA[i])\n"
        "        if alpha_t > 0:\n"
        "            tau2 = 1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2\n"
        "            factor = SCALE[i] * sigma_t**2 * tau2 * alpha_s / alpha_t**2\n"
        f"            r = y - A({of}) / alpha_t\n"
        "            after = after + factor * AT(solve((sigma_t / alpha_t) ** 2, SIGMA_Y**2, r))\n"
        "        x = after\n",
        ("A", "AT", "solve"),
    )


def _ddnm(given: Given, parts: Parts) -> Step:
    del parts
    if not given["noiseless"]:
        return _by_svd(NOISE, "1.0")
    return Step(
        NOISE,
        "        x_hat = denoise(x, i)\n"
        "        eps_hat = (x - alpha_t * x_hat) / sigma_t\n"
        "        x_hat = x_hat + pinv(y - A(x_hat))\n"
        "        x = renoise(i, x_hat, eps_hat, noise(), ETA[i])\n",
        ("A", "pinv"),
    )


def _ddrm(given: Given, parts: Parts) -> Step:
    del given, parts
    return _by_svd("V(svd_start(Ut(y), Vt(noise()), h))", "ETA_B[i]")


def _by_svd(start: str, eta_b: str) -> Step:
    return Step(
        start,
        "        x_hat = Vt(denoise(x, i))\n"
        f"        z = svd_step(i, Vt(x), x_hat, Ut(y), Vt(noise()), h, ETA[i], {eta_b})\n"
        "        x = V(z)\n",
        ("svd",),
    )


def _reddiff(given: Given, parts: Parts) -> Step:
    del parts
    rate = "LR[i] / norm(g)" if given["normalised"] else "LR[i]"
    return Step(
        "pinv(y)",
        "        x_hat = denoise(alpha_t * x + sigma_t * noise(), i)\n"
        "        g = AT(A(x) - y) + LAMBDA[i] * (x - x_hat)\n"
        f"        x = x - {rate} * g\n",
        ("A", "AT", "pinv", *(["norm"] if given["normalised"] else [])),
    )


# Samplers that have a loop, and which of their options it carries, or which only change a default.
LOOPS: dict[str, tuple[Callable[[Given, Parts], Step], tuple[str, ...]]] = {
    "dps": (_dps, ("scale", "normalised", "multistep", "momentum")),
    "pigdm": (_pigdm, ("noiseless", "start_from_y", "threshold", "multistep")),
    "mpgd": (_mpgd, ("scale", "normalised", "multistep")),
    "diffpir": (_diffpir, ("task", "multistep")),
    "dds": (_dds, ()),
    "dmps": (_dmps, ("variant",)),
    "ddnm": (_ddnm, ("noiseless", "threshold")),
    "ddrm": (_ddrm, ()),
    "reddiff": (_reddiff, ("lr", "normalised", "threshold")),
}


def step_of(schedule: Schedule) -> Step:
    """The loop of a schedule's sampler, one of LOOPS."""
    given = dict(schedule.sampler().options)
    parts = REMEMBERING if given.get("multistep") else PLAIN
    return LOOPS[schedule.sampler_name][0](given, parts)


def numbers_of(schedule: Schedule, weights: Weights) -> dict[str, object]:
    """What the loops read: ALPHA, SIGMA, TIMESTEPS if there are, SIGMA_Y and the weights by name in
    capitals."""
    numbers: dict[str, object] = {**levels_of(schedule), "SIGMA_Y": schedule.sigma_y}
    if schedule.timesteps is not None:
        numbers["TIMESTEPS"] = schedule.timesteps
    plain = {name: one for name, one in weights.items() if not name.startswith("extrapolation")}
    return numbers | {name.strip("_").upper(): one for name, one in plain.items()}


def loop(schedule: Schedule, weights: Weights) -> list[str]:
    """The texts of what `sample(y, noise, denoise, ...)` calls, and of itself."""
    step = step_of(schedule)
    memory = [one for key, one in weights.items() if key.startswith("extrapolation")]
    threshold = dict(schedule.sampler().options).get("threshold")
    small = f", singular values up to {threshold:g} counted as 0" if threshold else ""
    docs = [DENOISE + (GRADIENT if step.gradient else "")]
    docs += [NEEDS[need].format(threshold=small) for need in step.needs]
    names = [part for need in step.needs for part in _names(need)]
    helpers = {"ddim(": DDIM, "renoise(": REPLACED, "extrapolated(": EXTRAPOLATED, "svd_": SVD}
    parts = [text for call, text in helpers.items() if call in step.body]
    before, solver = "", ""
    if memory:
        rows = ", ".join(f"EXTRAPOLATION_{k}" for k in range(1, len(memory) + 1))
        parts.insert(0, f"\nEXTRAPOLATION = ({rows},)\n")
        before = f"    before = (0 * x,) * {len(memory)}\n"
    if "MOMENTUM" in step.body:
        before += "    last = 0 * x\n"
    if "solve" in step.needs:
        parts.append(CONJUGATE_GRADIENTS)
        names[names.index("solve")] = "solve=None"
        names.sort(key=lambda one: "=" in one)
        solver = (
            "    if solve is None:\n\n"
            "        def solve(c, d, r):\n"
            "            return conjugate_gradients(lambda v: c * A(AT(v)) + d * v, r)\n\n"
        )
    parts.append(
        f"def sample(y, noise, denoise, {', '.join(names)}):\n"
        '    """A sample of x_0 given y.\n\n'
        "    noise(): fresh unit noise, of the shape of an image\n"
        + "".join(f"    {line}\n" for line in docs)
        + '    """\n'
        + solver
        + f"    x = {step.start}\n{before}"
        "    for i in range(len(ALPHA) - 1):\n"
        "        alpha_t, sigma_t = ALPHA[i], SIGMA[i]\n"
        "        alpha_s, sigma_s = ALPHA[i + 1], SIGMA[i + 1]\n" + step.body + "    return x\n"
    )
    return parts


def memory_numbers(weights: Weights) -> dict[str, object]:
    """EXTRAPOLATION_1, ... of a sampler with memory, that of the newest estimate first."""
    rows = [one for key, one in sorted(weights.items()) if key.startswith("extrapolation")]
    return {f"EXTRAPOLATION_{k}": one for k, one in enumerate(rows, start=1)}


def _names(need: str) -> tuple[str, ...]:
    return ("h", "Vt", "V", "Ut") if need == "svd" else (need,)
