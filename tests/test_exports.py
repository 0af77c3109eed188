"""Exported schedules, run by the updates of the codes that they are for.

Each target's own update is written out here, in NumPy and by its code's formulas, and runs on a
small Gaussian problem with the numbers of the exported file; the law of what comes out has the W2
that the schedule promises. Norms are those of the mean-field closure. tests/test_exports_torch.py
runs the exported files themselves in PyTorch, and azula's and deepinv's own code.
"""

import ast
import csv
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax.numpy as jnp
import literal
import numpy as np
import probes
import pytest
from probes import BLUR, HALF, MASK, SIGMA_Y, TIMESTEPS, Probes, close, promised, schedule

import spectralpost as sp
from spectralpost.cli import main
from spectralpost.errors import InputError
from spectralpost.exports import EXPORTS, Export, export_schedule, needs_problem
from spectralpost.literal_form import to_literal
from spectralpost.metrics import mse
from spectralpost.noise import rectified_flow, ve_karras, vp_cosine
from spectralpost.options import Export as Options
from spectralpost.prior_file import save_prior
from spectralpost.schedule import Schedule
from spectralpost.schedule_file import save_schedule
from spectralpost.transfer import sampler_transfer

pytestmark = pytest.mark.usefixtures("quick")

PAGE = (Path(__file__).parent.parent / "docs" / "exports.md").read_text("utf-8")


def exported(one: Schedule, target: str) -> Export:
    degradation = one.degradation_name, one.degradation_options
    if target in ("ddrm", "ddnm", "reddiff"):  # their filters are for three planes
        one = replace(one, channels=3)
    return export_schedule(one, target, probes.problem(degradation))


def numbers(export: Export) -> SimpleNamespace:
    """The numbers at the top of an exported Python file."""
    found = {}
    for node in ast.parse(export.content).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = ast.literal_eval(node.value) if _is_literal(node.value) else None
            found[node.targets[0].id] = np.asarray(value) if isinstance(value, list) else value
    return SimpleNamespace(**found)


def _is_literal(node: ast.AST) -> bool:
    return not any(isinstance(part, ast.Name | ast.Call) for part in ast.walk(node))


def executed(export: Export) -> SimpleNamespace:
    names: dict = {"__name__": "exported"}
    exec(compile(export.content, "exported.py", "exec"), names)
    return SimpleNamespace(**names)


# ------------------------------------------------------------------------------- csv, npz, python


def test_csv_is_read_back_bit_by_bit():
    one = schedule("dps")
    text = exported(one, "csv").content.decode()
    steps = list(csv.DictReader(io.StringIO(text)))
    read = lambda name: [float(step[name]) for step in steps]  # noqa: E731
    assert [int(step["timestep"]) for step in steps] == list(TIMESTEPS)
    assert [int(step["step"]) for step in steps] == list(range(len(TIMESTEPS)))
    for field in ("alpha", "sigma"):
        wanted = np.asarray(getattr(one.levels, field))
        np.testing.assert_array_equal(read(f"{field}_t"), wanted[:-1])
        np.testing.assert_array_equal(read(f"{field}_s"), wanted[1:])
    for name, weights in one.guidance.items():
        np.testing.assert_array_equal(read(name), weights)
    x = run_literal(one, literal.step_dps, {name: read(name) for name in one.guidance})
    close(x, promised(one))


def test_npz_is_read_back_bit_by_bit():
    one = schedule("diffpir")
    with np.load(io.BytesIO(exported(one, "npz").content)) as stored:
        for name in ("alpha", "sigma"):
            np.testing.assert_array_equal(stored[name], getattr(one.levels, name))
        for name, weights in one.guidance.items():
            np.testing.assert_array_equal(stored[name], weights)
        np.testing.assert_array_equal(stored["timestep"], TIMESTEPS)
        problem = json.loads(str(stored["problem"]))
        assert problem["sigma_y"] == SIGMA_Y and problem["degradation"] == "gaussian_blur"
        assert problem["loss"] == one.loss and problem["objective"] == one.objective
        weights = {name: stored[name] for name in one.guidance}
    close(run_literal(one, literal.step_diffpir, weights), promised(one))


def test_npz_holds_weights_by_band():
    one = by_band()
    with np.load(io.BytesIO(exported(one, "npz").content)) as stored:
        np.testing.assert_array_equal(stored["zeta"], one.guidance["zeta"])
        np.testing.assert_array_equal(stored["band_knots"], one.band_knots)


@pytest.mark.parametrize("kind", ["csv", "npz", "npz by band"])
def test_the_lines_that_are_printed_read_all_numbers(tmp_path, monkeypatch, kind):
    """Levels, time steps and weights, as the file has them."""
    target, _, bands = kind.partition(" ")
    one = by_band() if bands else schedule("dps")
    export = exported(one, target)
    (tmp_path / "one").write_bytes(export.content)
    monkeypatch.chdir(tmp_path)
    read: dict = {}
    exec("\n".join(line.format(file="one") for line in export.usage), read)
    np.testing.assert_array_equal(read["timestep"], TIMESTEPS)
    for name, weights in one.guidance.items():
        np.testing.assert_array_equal(read[name], weights)
    alpha = read["alpha"][:-1] if target == "npz" else read["alpha_t"]
    np.testing.assert_array_equal(alpha, np.asarray(one.levels.alpha)[:-1])
    if bands:
        np.testing.assert_array_equal(read["band_knots"], one.band_knots)


def run_literal(one: Schedule, step, weights: dict) -> float:
    """W2^2 of a published step (tests/literal.py) with these weights, [S]."""
    run = Probes((one.degradation_name, one.degradation_options))
    alpha, sigma = (np.asarray(leaf, float) for leaf in one.levels)
    mu, y = run.mean[:, None], run.y.T
    x = sigma[0] * run.noise().T
    for i in range(len(TIMESTEPS)):
        now = {name: float(values[i]) for name, values in weights.items()}
        levels = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        x = step(x, y, run.noise().T, *levels, now, run.H, mu, run.C, SIGMA_Y)
    return run.w2(x.T)


LOOPS = [
    ("dps", BLUR, {}),
    ("dps", MASK, {"multistep": 2}),
    ("dps", BLUR, {"momentum": True}),
    ("dps", HALF, {"normalised": True, "multistep": True, "momentum": True}),
    ("dps", HALF, {"normalised": True}),
    ("pigdm", HALF, {}),
    ("pigdm", MASK, {"noiseless": True, "start_from_y": True, "threshold": 0.0}),
    ("pigdm", BLUR, {"multistep": True}),
    ("mpgd", BLUR, {}),
    ("mpgd", MASK, {"normalised": True, "multistep": True}),
    ("diffpir", HALF, {}),
    ("diffpir", BLUR, {"task": "inpainting", "multistep": True}),
    ("dds", MASK, {}),
    ("dmps", BLUR, {}),
    ("dmps", HALF, {"variant": "paper"}),
    ("ddnm", HALF, {}),
    ("ddnm", MASK, {"noiseless": True}),
    ("ddrm", BLUR, {}),
    ("ddrm", HALF, {}),
    ("reddiff", BLUR, {"threshold": 0.0}),
    ("reddiff", MASK, {"normalised": True}),
]


def given(run: Probes, code: SimpleNamespace) -> dict:
    """What a loop asks for, by the names of its arguments."""
    h, V, U = run.h, run.V, run.U
    everything = {
        "A": run.A,
        "AT": run.AT,
        "pinv": run.pinv,
        "solve": run.solve,
        "norm": run.norm,
        "h": h,
        "Vt": lambda x: x @ V,
        "V": lambda z: z @ V.T,
        "Ut": lambda y: np.pad(y @ U, [(0, 0), (0, len(h) - len(U))]),
    }
    named = code.sample.__code__.co_varnames[3 : code.sample.__code__.co_argcount]
    return {name: everything[name] for name in named}


def denoiser(run: Probes, code: SimpleNamespace):
    """As the loops ask for it, with the derivative where they do."""

    def denoise(x, i):
        x_hat = run.denoise(x, code.ALPHA[i], code.SIGMA[i])
        if "vjp" not in code.sample.__code__.co_varnames:
            return x_hat
        J = run.jacobian(code.ALPHA[i], code.SIGMA[i])
        return x_hat, lambda v: v @ J

    return denoise


@pytest.mark.parametrize(("name", "degradation", "options"), LOOPS)
def test_the_python_file_runs(name, degradation, options):
    one = schedule(name, degradation, **options)
    code, run = executed(exported(one, "python")), Probes(degradation)
    x = code.sample(run.y, run.noise, denoiser(run, code), **given(run, code))
    close(run.w2(x), promised(one))


@pytest.mark.parametrize("name", ["dps", "dmps", "ddrm", "reddiff"])
@pytest.mark.parametrize("levels", [rectified_flow(4), ve_karras(4)], ids=["flow", "exploding"])
def test_the_python_file_runs_on_any_levels(name, levels):
    """Also where alpha is 0 at first."""
    options = {"threshold": 0.0} if name == "reddiff" else {}
    one = replace(schedule(name, **options), levels=levels, timesteps=None)
    code, run = executed(exported(one, "python")), Probes()
    x = code.sample(run.y, run.noise, denoiser(run, code), **given(run, code))
    close(run.w2(x), promised(one))


def test_the_python_file_runs_on_numbers():
    """An image of one pixel is a number: nothing but arithmetic is asked of it."""
    for name in ("dps", "pigdm", "diffpir", "dds", "dmps", "mpgd"):
        code = executed(exported(schedule(name), "python"))
        gain = [
            a * 0.04 / (a**2 * 0.04 + s**2) for a, s in zip(code.ALPHA, code.SIGMA, strict=True)
        ]

        def denoise(x, i, gain=gain, both="vjp" in code.sample.__code__.co_varnames):
            return (gain[i] * x, lambda v: gain[i] * v) if both else gain[i] * x

        more = {"solve": lambda c, d, r: r / (c * 0.25 + d)}
        asked = code.sample.__code__.co_varnames
        more = more if "solve" in asked else {}
        x = code.sample(0.3, lambda: 0.5, denoise, lambda x: x / 2, lambda r: r / 2, **more)
        assert type(x) is float and np.isfinite(x)


def test_conjugate_gradients_are_the_solution():
    code, run = executed(exported(schedule("diffpir"), "python")), Probes()
    H, r = run.H, np.random.default_rng(0).normal(size=len(run.H))
    wanted = np.linalg.solve(0.7 * H @ H.T + 0.01 * np.eye(len(H)), r)
    # Of condition 0.71 / 0.01: the error is at most that many times the residual's share.
    got = code.conjugate_gradients(lambda v: 0.7 * H @ H.T @ v + 0.01 * v, r)
    assert np.linalg.norm(got - wanted) < 71 * 1e-6 * np.linalg.norm(wanted)
    assert not code.conjugate_gradients(lambda v: v, 0 * r).any()


def test_systems_beyond_conjugate_gradients_are_told():
    """DiffPIR's published lambda asks for them in early steps, a weak pull there does not."""
    prior, blur = sp.power_law((16, 16)), sp.gaussian_blur((16, 16), 1.5)
    grid, sampler = sp.noise_grid("vp_linear", 8), sp.SAMPLERS["diffpir"]()
    strong = {"lambda_": np.ones(8), "zeta": np.full(8, 0.3)}
    weak = strong | {"lambda_": np.geomspace(1e5, 1e2, 8)}
    told = {}
    for name, weights in (("strong", strong), ("weak", weak)):
        one = sp.Schedule.of(sampler, prior, blur, 0.05, grid, weights)
        for target in ("python", "diffusers", "azula", "inversebench"):
            told[name, target] = sp.export_schedule(one, target).usage[-1]
    said = re.search(r"change outputs by about (\d+) % of their error", told["strong", "python"])
    assert said is not None and 5 <= int(said[1]) <= 50
    for (name, _), line in told.items():
        assert ("conjugate gradients change" in line) == (name == "strong")
    plain = sp.Schedule.of(
        sp.SAMPLERS["ddrm"](),
        prior,
        blur,
        0.05,
        grid,
        {"eta": np.full(8, 0.5), "eta_b": np.ones(8)},
    )
    assert "conjugate" not in " ".join(sp.export_schedule(plain, "python").usage)


def test_a_schedule_that_diverges_is_not_blamed_on_conjugate_gradients():
    """A flow begins at alpha = 0, where DiffPIR does not look at y: lambda = 1 diverges with any
    solver. Where nothing is measured there is nothing to solve."""
    prior, sampler = sp.power_law((16, 16)), sp.SAMPLERS["diffpir"]()
    weights = {"lambda_": np.ones(8), "zeta": np.full(8, 0.3)}
    for degradation in (sp.gaussian_blur((16, 16), 1.5), sp.inpaint((16, 16))):
        grid = sp.noise_grid("rectified_flow", 8)
        one = sp.Schedule.of(sampler, prior, degradation, 0.05, grid, weights)
        assert "conjugate gradients change" not in " ".join(sp.export_schedule(one, "python").usage)


def test_python_files_are_what_people_read():
    """Every one of them: within 100 columns, no line of a schedule's own words outside comments."""
    evil = '"""\nimport os\nraise SystemExit("evil")\n# ü'
    for target in ("python", *CODES):
        for one in of_each(target):
            one = replace(one, objective=evil, loss=1.0, grid=evil, prior_source=evil)
            text = exported(one, target).content.decode("ascii")
            assert all(len(line) <= 100 for line in text.splitlines())
            statements = ast.parse(text).body
            assert not any("evil" in ast.dump(node) for node in statements)
            assert not re.search(r"\n\n\n\n", text)


# -------------------------------------------------------------------------- codes that use a norm


def test_dps_runs(monkeypatch):
    """The official loop and both of its classes, by their formulas; its DDIM with eta by step."""
    one, run = schedule("dps"), Probes()
    betas = np.linspace(1e-4, 0.02, 1000)
    registered = {}

    def register(name):
        return lambda kind: registered.setdefault(name, kind)

    class PosteriorSampling:
        def __init__(self, operator, noiser, **kwargs):
            self.scale = kwargs.get("scale", 1.0)

        def conditioning(self, x_prev, x_t, x_0_hat, measurement, **kwargs):
            difference = measurement - run.A(x_0_hat)
            norm_grad = -run.AT(difference) @ self.jacobian / run.norm(difference)
            return x_t - norm_grad * self.scale, None

    class DDIM:
        def __init__(self, use_timesteps, betas):
            known, last, new = np.cumprod(1 - betas), 1.0, []
            for i, alpha_cumprod in enumerate(known):
                if i in set(use_timesteps):
                    new.append(1 - alpha_cumprod / last)
                    last = alpha_cumprod
            self.alphas_cumprod = np.cumprod(1 - np.asarray(new))
            self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])

        def p_sample_loop(self, model, x_start, measurement, conditioning):
            img = x_start
            for idx in range(len(self.alphas_cumprod))[::-1]:
                sample, x_0_hat = self.p_sample(model=model, x=img, t=[idx])
                img, _ = conditioning(
                    x_t=sample, measurement=measurement, x_prev=img, x_0_hat=x_0_hat
                )
            return img

        def p_sample(self, model, x, t, eta=0.0):
            bar, before = self.alphas_cumprod[t[0]], self.alphas_cumprod_prev[t[0]]
            x_0_hat = model(x, bar)
            eps = (np.sqrt(1 / bar) * x - x_0_hat) / np.sqrt(1 / bar - 1)
            sigma = eta * np.sqrt((1 - before) / (1 - bar)) * np.sqrt(1 - bar / before)
            sample = x_0_hat * np.sqrt(before) + np.sqrt(1 - before - sigma**2) * eps
            return (sample + sigma * run.noise() if t[0] != 0 else sample), x_0_hat

    methods = {"PosteriorSampling": PosteriorSampling, "register_conditioning_method": register}
    install(monkeypatch, "guided_diffusion.condition_methods", **methods)
    install(
        monkeypatch, "guided_diffusion.gaussian_diffusion", DDIM=DDIM, register_sampler=register
    )
    executed(exported(one, "dps"))
    sampler = registered["ddim_schedule"](use_timesteps={999}, betas=betas)
    method = registered["ps_schedule"](None, None, scale=9.9)

    def model(x, bar):
        method.jacobian = run.jacobian(np.sqrt(bar), np.sqrt(1 - bar))
        return run.denoise(x, np.sqrt(bar), np.sqrt(1 - bar))

    x_start = run.noise().view(type("Tensor", (np.ndarray,), {"detach": lambda self: self}))
    x = sampler.p_sample_loop(model, x_start, run.y, method.conditioning)
    close(run.w2(np.asarray(x)), promised(one))


def install(monkeypatch, name: str, **contents) -> None:
    """A module of that name, and the package that it is in."""
    package = name.partition(".")[0]
    if package not in sys.modules:
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def test_normalised_schedules_need_no_problem():
    one = schedule("dps", normalised=True)
    assert not needs_problem(one, "dps")
    values = numbers(export_schedule(one, "dps"))
    np.testing.assert_array_equal(values.SCALE, one.guidance["scale"])


@pytest.mark.parametrize("eta", [None, 1.0])
def test_deepinv_dps(eta):
    """Its solver's step and data fidelity, with a state in [-1, 1] and y in [0, 1]."""
    one, run = schedule("dps") if eta is None else with_eta(eta), Probes()
    values = numbers(exported(one, "deepinv"))
    integral = values.BETA_MIN * values.TIMES
    integral = integral + (values.BETA_MAX - values.BETA_MIN) * values.TIMES**2 / 2
    scale = np.exp(-integral / 2)
    sigma = np.sqrt(np.expm1(integral))  # of x / scale
    np.testing.assert_allclose(scale, one.levels.alpha, rtol=1e-12)
    y = (run.y + run.A(np.ones_like(run.mean))) / 2
    x = scale[0] * sigma[0] * run.noise()
    for i in range(len(TIMESTEPS)):
        here = (x / scale[i] + 1) / 2
        x_hat = (run.denoise(2 * here - 1, 1.0, sigma[i]) + 1) / 2
        difference = run.A(x_hat) - y
        gradient = run.AT(difference) @ run.jacobian(1.0, sigma[i]) / run.norm(difference)
        score = (scale[i] * (2 * x_hat - 1) - x) / (scale[i] * sigma[i]) ** 2
        score = score - 0.5 * values.WEIGHT[i] * gradient / scale[i]
        ratio = sigma[i + 1] / sigma[i]
        shared = 1 - values.ETA[i] ** 2 * (1 - ratio**2)
        noise = sigma[i + 1] * np.sqrt(max(1 - shared, 0))
        step = scale[i] * scale[i + 1] * sigma[i] ** 2 * (1 - ratio * np.sqrt(shared))
        x = scale[i + 1] / scale[i] * x + step * score + scale[i + 1] * noise * run.noise()
    close(run.w2(x), promised(one))


def test_azula_dps():
    one, run = with_eta(1.0), Probes()
    values = numbers(exported(one, "azula"))
    alpha, sigma = values.ALPHA, values.SIGMA
    x = sigma[0] * run.noise()
    for i in range(len(TIMESTEPS)):
        tau = 1 - (alpha[i] / alpha[i + 1] * sigma[i + 1] / sigma[i]) ** 2
        x_hat = run.denoise(x, alpha[i], sigma[i])
        error = run.y - run.A(x_hat)
        grad = -run.AT(error) @ run.jacobian(alpha[i], sigma[i]) / run.norm(error)
        x = alpha[i + 1] * x_hat + sigma[i + 1] * np.sqrt(1 - tau) / sigma[i] * (
            x - alpha[i] * x_hat
        )
        x = x + sigma[i + 1] * np.sqrt(tau) * run.noise() - values.ZETA[i] * grad
    close(run.w2(x), promised(one))


# -------------------------------------------------------------------------------------- DiffPIR's


def prox(run: Probes, x_hat, rho: float):
    """argmin ||y - H x||^2 + rho ||x - x_hat||^2 by its normal equations."""
    matrix = run.H.T @ run.H + rho * np.eye(len(run.C))
    return (run.AT(run.y) + rho * x_hat) @ np.linalg.inv(matrix)


@pytest.mark.parametrize("degradation", [BLUR, HALF, MASK], ids=lambda one: one[0])
def test_diffpir_runs(degradation, monkeypatch):
    """Its data step in [0, 1]: `data_solution` solves the same normal equations there."""
    one, run = schedule("diffpir", degradation), Probes(degradation)
    install(monkeypatch, "torch", randn_like=run.noise)
    code = executed(exported(one, "diffpir"))
    alpha_of = dict(zip(TIMESTEPS, np.asarray(one.levels.alpha), strict=False))
    y = (run.y + run.A(np.ones_like(run.mean))) / 2

    def predict(x, t_i):
        alpha = alpha_of[t_i]
        return run.denoise(x, alpha, np.sqrt(1 - alpha**2))

    def data_step(x0, rho):
        matrix = run.H.T @ run.H + rho * np.eye(len(run.C))
        return 2 * (run.AT(y) + rho * (x0 / 2 + 0.5)) @ np.linalg.inv(matrix) - 1

    x = code.sample(np.zeros((run.rows, len(run.C))), predict, data_step)
    close(run.w2(x), promised(one))


@pytest.mark.parametrize(
    ("target", "rho", "zeta"),
    [("deepinv", "RHO", "ZETA"), ("inversebench", "RHO", "ZETA"), ("azula", "LMBDA", "ETA")],
)
def test_diffpir_elsewhere(target, rho, zeta):
    """deepinv's prox of gamma = 1 / RHO; InverseBench's rho; azula's lmbda, and eta in DDIM."""
    one, run = schedule("diffpir"), Probes()
    values = numbers(exported(one, target))
    alpha, sigma = values.ALPHA, values.SIGMA
    x = sigma[0] * run.noise()
    for i in range(len(TIMESTEPS)):
        x_hat, weight, fresh = run.denoise(x, alpha[i], sigma[i]), vars(values)[rho][i], 0.0
        fresh = vars(values)[zeta][i]
        if target == "azula":
            tau = 1 - (alpha[i] / alpha[i + 1] * sigma[i + 1] / sigma[i]) ** 2
            fresh = np.clip(fresh * tau, 0, 1)
            # (A^T A / var_y + lmbda / rho_t) shift = A^T (y - A x_hat) / var_y
            ratio = (sigma[i] / alpha[i]) ** 2
            matrix = run.H.T @ run.H / SIGMA_Y**2 + weight / ratio * np.eye(len(run.C))
            x_hat = x_hat + run.AT(run.y - run.A(x_hat)) / SIGMA_Y**2 @ np.linalg.inv(matrix)
        elif target == "deepinv":
            # argmin_x ||x - z||^2 / 2 + gamma ||A x - y||^2 / 2
            gamma = 1 / weight
            matrix = np.eye(len(run.C)) + gamma * run.H.T @ run.H
            x_hat = (x_hat + gamma * run.AT(run.y)) @ np.linalg.inv(matrix)
        else:
            x_hat = prox(run, x_hat, weight)
        eps = (x - alpha[i] * x_hat) / sigma[i]
        noise = np.sqrt(1 - fresh) * eps + np.sqrt(fresh) * run.noise()
        x = alpha[i + 1] * x_hat + sigma[i + 1] * noise
    close(run.w2(x), promised(one))


# ----------------------------------------------------------------- by singular values, and others


@pytest.mark.parametrize("degradation", [BLUR, HALF], ids=lambda one: one[0])
def test_ddrm_numbers(degradation):
    """The official step for each mode (tests/literal.py), and its start from y."""
    one, run = schedule("ddrm", degradation), Probes(degradation)
    values = numbers(exported(one, "ddrm"))
    assert list(values.TIMESTEPS) == list(TIMESTEPS)
    alpha, sigma = values.ALPHA, values.SIGMA
    y, mu = run.y.T, run.mean[:, None]
    of_problem = run.H, mu, run.C, SIGMA_Y
    x = literal.start_ddrm(run.noise().T, y, alpha[0], sigma[0], *of_problem)
    for i in range(len(TIMESTEPS)):
        weights = {"eta": values.ETA[i], "eta_b": values.ETA_B[i]}
        levels = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        x = literal.step_ddrm(x, y, run.noise().T, *levels, weights, *of_problem)
    close(run.w2(x.T), promised(one))


@pytest.mark.parametrize("noiseless", [False, True])
def test_ddnm_numbers(noiseless):
    one = schedule("ddnm", HALF, noiseless=noiseless)
    values = numbers(exported(one, "ddnm"))
    step = literal.step_ddnm if noiseless else literal.step_ddnm_plus
    close(run_literal(one, step, {"eta": values.ETA}), promised(one))


def test_reddiff_numbers():
    """Descent on half the sum of squares and lambda (mu - x_hat), from H^+ y."""
    one, run = schedule("reddiff", threshold=0.0), Probes()
    values = numbers(exported(one, "reddiff"))
    mu = run.pinv(run.y)
    for i in range(len(TIMESTEPS)):
        alpha, sigma = values.ALPHA[i], values.SIGMA[i]
        noise = run.noise()
        x_hat = run.denoise(alpha * mu + sigma * noise, alpha, sigma)
        # sqrt(1 / alpha^2 - 1) times the error of the predicted noise
        eps_hat = (alpha * mu + sigma * noise - alpha * x_hat) / sigma
        prior = values.LAMBDA[i] * sigma / alpha * (eps_hat - noise)
        mu = mu - values.LR[i] * (run.AT(run.A(mu) - run.y) + prior)
    close(run.w2(mu), promised(one))


@pytest.mark.parametrize("target", ["inversebench", "reddiff"])
def test_dps_of_the_squared_norm(target):
    """The gradient of the squared norm, through the network at x / alpha, sigma / alpha."""
    one, run = schedule("dps"), Probes()
    values = numbers(exported(one, target))
    alpha, sigma = values.ALPHA, values.SIGMA
    x = sigma[0] * run.noise()
    for i in range(len(TIMESTEPS)):
        ratio = sigma[i] / alpha[i]
        x_hat = run.denoise(x / alpha[i], 1.0, ratio)
        gradient = 2 * run.AT(run.A(x_hat) - run.y)
        pulled = gradient @ run.jacobian(1.0, ratio) / alpha[i]
        eps_hat = (x - alpha[i] * x_hat) / sigma[i]
        levels = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        x = literal.ddim(x, x_hat, eps_hat, run.noise(), *levels, values.ETA[i])
        x = x - values.ZETA[i] * pulled
    close(run.w2(x), promised(one))


def test_diffusers_numbers():
    one = schedule("dps")
    values = numbers(exported(one, "diffusers"))
    weights = {"zeta": values.ZETA, "eta": values.ETA}
    close(run_literal(one, literal.step_dps, weights), promised(one))


# ------------------------------------------------------------------------------------ the checks


def test_other_numbers_are_noticed():
    """What these tests compare depends on the weights: by more than they allow for."""
    one = schedule("dps")
    wrong = {"zeta": 1.01 * one.guidance["zeta"], "eta": one.guidance["eta"]}
    assert abs(run_literal(one, literal.step_dps, wrong) - promised(one)) > 1e-6


def test_the_norm_of_each_image_is_near_the_closure():
    """The official update with each image's own norm, 2000 runs: the mean squared error is that of
    the closure, up to five standard errors and to what 16 pixels leave of a norm's fluctuation,
    whose square is 1 / (2 * 16), 3 %."""
    one, runs = schedule("dps"), 2000
    of_file = probes.problem(BLUR)
    scale = to_literal(one.sampler(), of_file, one.levels, one.guidance)["scale"]
    run, rng = Probes(), np.random.default_rng(0)
    x_0 = run.mean + rng.normal(size=(runs, len(run.C))) @ np.linalg.cholesky(run.C).T
    y = x_0 @ run.H.T + SIGMA_Y * rng.normal(size=x_0.shape)
    alpha, sigma = (np.asarray(leaf, float) for leaf in one.levels)
    x = sigma[0] * rng.normal(size=x_0.shape)
    for i in range(len(TIMESTEPS)):
        weights = {"scale": float(scale[i]), "eta": float(one.guidance["eta"][i])}
        levels = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        noise, mu = rng.normal(size=x.shape), run.mean[:, None]
        args = (*levels, weights, run.H, mu, run.C, SIGMA_Y)
        x = literal.step_dps_normalised(x.T, y.T, noise.T, *args).T
    errors = np.mean((x - x_0) ** 2, axis=1)
    total = sampler_transfer(one.sampler(), of_file, one.levels, one.guidance)
    wanted, standard = float(mse(of_file, total)), errors.std() / np.sqrt(runs)
    print(f"mean squared error {errors.mean():.5g} +- {standard:.2g}, of the closure {wanted:.5g}")
    assert abs(errors.mean() - wanted) < 5 * standard + wanted / 32


# ---------------------------------------------------------------------------------------- refusals


def by_band() -> Schedule:
    guidance = {"zeta": jnp.ones((len(TIMESTEPS), 3)), "eta": jnp.ones(len(TIMESTEPS))}
    return probes.of("dps", guidance, band_knots=jnp.asarray([-1.0, 0.0, 1.0]))


def with_eta(eta: float, name: str = "dps") -> Schedule:
    one = schedule(name)
    return replace(one, guidance=one.guidance | {"eta": jnp.full(len(TIMESTEPS), eta)})


def of_each(target: str) -> list[Schedule]:
    """Schedules of the samplers that a target has."""
    found = []
    for name in ("dps", "diffpir", "ddrm", "ddnm", "reddiff"):
        one = with_eta(1.0) if name == "dps" else schedule(name)
        try:
            exported(one, target)
        except InputError as error:
            assert f"has no {name!r}" in str(error)
        else:
            found.append(one)
    assert found
    return found


def test_other_samplers_are_refused():
    """By all but the two tables, in one line that says what is taken."""
    for name in ("tmpd", "ilvr", "mcg", "daps", "freehunch"):
        one = schedule(name)
        for target in EXPORTS:
            if target in ("csv", "npz"):
                exported(one, target)
                continue
            refused(one, target, f"has no '{name}'; it takes ")


def refused(one: Schedule, target: str, words: str, export=exported) -> None:
    with pytest.raises(InputError) as caught:
        export(one, target)
    message = str(caught.value)
    assert message.startswith(f"target = {target!r}: ") and words in message
    assert "\n" not in message and len(message) < 300


CODES = [target for target in EXPORTS if target not in ("csv", "npz", "python")]


@pytest.mark.parametrize("target", CODES)
def test_what_no_code_can_do(target):
    one = of_each(target)[0]
    if target != "azula":  # which is of any range, and finds levels by itself
        refused(replace(one, pixel_range=(0.0, 1.0)), target, "[-1, 1], the schedule's in [0, 1]")
        cosine = replace(one, levels=vp_cosine(4), timesteps=(999, 666, 333, 0))
        if target != "deepinv":
            refused(replace(one, timesteps=None), target, "indexes by time step")
            refused(cosine, target, "1000 time steps of linear beta")
    if target != "reddiff":
        noisy = jnp.asarray([*one.levels.sigma[:-1], 1e-3])
        refused(replace(one, levels=one.levels._replace(sigma=noisy)), target, "ends without noise")


def test_what_some_codes_cannot_do():
    for target in ("csv", "python", "dps", "deepinv", "azula", "diffusers", "inversebench"):
        refused(by_band(), target, "one weight a step, not weights by band")
    for target in ("dps", "deepinv", "azula", "inversebench"):
        for option in ("multistep", "momentum"):
            one = schedule("dps", **{option: True})
            refused(one, target, f"cannot do dps with {option}=True")
    refused(schedule("dps", normalised=True), "inversebench", "normalised=True")
    refused(schedule("pigdm", noiseless=True), "diffusers", "noiseless=True")
    refused(schedule("dds", cg_steps=3), "python", "cg_steps=3")
    refused(with_eta(0.5), "azula", "eta = 1; the schedule has eta = 0.5")
    zero = schedule("diffpir")
    zero = replace(zero, guidance=zero.guidance | {"lambda_": jnp.asarray([1.0, 0, 1, 1])})
    for target in ("deepinv", "diffpir", "azula", "inversebench"):
        refused(zero, target, "0 at step 1")
    exploding = ve_karras(4)
    refused(replace(schedule("dps"), levels=exploding, timesteps=None), "deepinv", "alpha^2")


def test_what_the_repositories_cannot_run_is_refused():
    """Filters of one plane, and a diffusion of one step: neither runs there."""

    def as_it_is(one: Schedule, target: str) -> Export:
        return export_schedule(one, target, probes.problem(BLUR))

    for target, name in (("ddrm", "ddrm"), ("ddnm", "ddnm"), ("reddiff", "reddiff")):
        refused(schedule(name), target, "its filters are for 3 planes", as_it_is)
        said = exported(schedule(name), target).usage
        assert any("repeat_interleave(3)" in line for line in said)
    levels = sp.NoiseLevel(*(part[-2:] for part in schedule("dps").levels))
    weights = {name: one[-1:] for name, one in schedule("dps").guidance.items()}
    last = schedule("dps").timesteps[-1:]
    one = replace(schedule("dps"), levels=levels, guidance=weights, timesteps=last)
    refused(one, "dps", "two steps or more")


ROOF = np.outer([1.0, 2, 1], [1, 2, 1]) / 16
NO_OPERATOR = {
    "mosaic": {"pattern": "grey"},
    "mri": {"acceleration": 2},
    "from_matrix": {"matrix": np.eye(16)[::2].tolist()},
}
NO_PRODUCT = {
    "motion_blur": {"length": 2.0, "angle": 45.0},
    "from_kernel": {"kernel": np.eye(3).tolist()},
    "downsample": {"factor": 2, "kernel": np.eye(2).tolist()},
}
OBLONG = {  # products, but of other filters along rows than along columns
    "motion_blur": {"length": 2.0, "angle": 90.0},
    "from_kernel": {"kernel": np.outer([1.0, 1, 1], [1, 2, 1]).tolist()},
}
NOT_ALIKE = {"factor": 2, "kernel": np.outer([1.0, 1], [1, 2]).tolist()}


@pytest.mark.parametrize("target", ["diffpir", "ddrm", "ddnm", "reddiff"])
def test_degradations_that_a_code_has_no_operator_for(target):
    """Its list is of what it builds; all of them are taken."""

    def of(name: str, options: dict) -> Schedule:
        return replace(schedule(target), degradation_name=name, degradation_options=options)

    def taken(name: str, options: dict) -> None:
        exported(of(name, options), target)

    for name, options in NO_OPERATOR.items():
        refused(of(name, options), target, f"no operator for {name!r}; it has identity, gaussian")
    for name, options in NO_PRODUCT.items():
        if target == "diffpir":  # by Fourier transform, whatever the kernel is
            taken(name, options)
        elif target == "reddiff" and name == "motion_blur":
            refused(of(name, options), target, "no operator for 'motion_blur'; it has identity")
        else:
            refused(of(name, options), target, f"for this {name!r}; it has those whose kernel is a")
    for name, options in OBLONG.items():
        if target == "reddiff":
            refused(of(name, options), target, f"{name!r}; it has ")
        else:
            taken(name, options)
    if target != "diffpir":
        refused(of("downsample", NOT_ALIKE), target, "filters, the same along rows and columns")
    for name, options in (
        ("identity", {}),
        BLUR,
        ("uniform_blur", {"size": 3}),
        ("from_kernel", {"kernel": ROOF.astype(np.float32).tolist()}),
        HALF,
        ("downsample", {"factor": 2, "kernel": "average"}),
        ("downsample", {"factor": 2, "kernel": ROOF.tolist()}),
        MASK,
    ):
        taken(name, options)


def test_other_ways_to_ask():
    one = schedule("dps")
    with pytest.raises(InputError, match="target = 'torch': allowed are csv, npz, python"):
        export_schedule(one, "torch")
    with pytest.raises(InputError, match="target = 'dps': divides by the norm"):
        export_schedule(one, "dps")
    assert export_schedule(one, "python").suffix == ".py"


# ------------------------------------------------------------------------------------- the command


@pytest.fixture(name="folder")
def stored(tmp_path) -> Path:
    one = replace(schedule("dps"), prior_hash=probes.PRIOR.hash)
    save_schedule(tmp_path / "schedule.json", one)
    save_prior(tmp_path / "prior.npz", probes.PRIOR)
    return tmp_path


def test_the_command_writes_beside_the_schedule(folder, capsys, monkeypatch):
    main(["export", f"{folder}/schedule.json", "--to", "dps"])
    out, path = capsys.readouterr().out, folder / "schedule_dps.py"
    assert f"wrote {path}" in out and "import schedule_dps" in out and "ps_schedule" in out
    wanted = exported(sp.load_schedule(folder / "schedule.json"), "dps")
    assert path.read_bytes() == wanted.content
    before = path.read_bytes()
    for target, words in [("dps", "exists; choose another name"), ("x", "allowed are csv, npz")]:
        with pytest.raises(SystemExit):
            main(["export", f"{folder}/schedule.json", "--to", target])
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert path.read_bytes() == before
    main(["export", f"{folder}/schedule.json", "--to", "csv", "--out", f"{folder}/other name.csv"])
    assert 'open("other name.csv"' in capsys.readouterr().out
    for target, name, words in [
        ("python", "a-b.py", "a Python module is needed"),
        ("python", "import.py", "a Python module is needed"),
        ("python", "numpy.py", "a Python module is needed that hides none of others"),
        ("csv", "table.npz", "the target writes a .csv file"),
        ("npz", "table", "the target writes a .npz file"),
    ]:
        with pytest.raises(SystemExit):
            main(["export", f"{folder}/schedule.json", "--to", target, "--out", f"{folder}/{name}"])
        assert words in capsys.readouterr().err and not (folder / name).exists()
    (folder / "prior.npz").unlink()
    with pytest.raises(SystemExit):
        main(["export", f"{folder}/schedule.json", "--to", "dps", "--out", f"{folder}/again.py"])
    assert "prior.npz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", f"{folder}/schedule.json", "--to", "csv", "--prior", "no.npz"])
    assert "has no effect on target 'csv'" in capsys.readouterr().err
    main(["export", f"{folder}/schedule.json", "--to", "python"])  # divides by no norm
    names = {one.name for one in folder.iterdir()}
    assert names == {"schedule.json", "schedule_dps.py", "other name.csv", "schedule_python.py"}


def test_names_become_modules(folder, capsys):
    (folder / "schedule.json").rename(folder / "2-steps é.json")
    main(["export", f"{folder}/2-steps é.json", "--to", "npz"])
    main(["export", f"{folder}/2-steps é.json", "--to", "python"])
    assert "from _2_steps___python import" in capsys.readouterr().out
    assert (folder / "_2_steps___npz.npz").exists()


def test_the_page_lists_every_target():
    """docs/exports.md, and the option's help."""
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == list(EXPORTS)
    source = (Path(sp.__file__).parent / "options.py").read_text()
    words = source[source.index("class Export:") :]
    told = re.search(r"Whose code: ([\w\s,]+)\.", words)
    assert told is not None and re.split(r",\s+", told[1]) == list(EXPORTS)
    assert Options(Path("schedule.json"), "csv").out is None
