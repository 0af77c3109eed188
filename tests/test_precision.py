"""On accelerators JAX multiplies matrices of single precision with 10 or 7 bits, unless it is told:
no program of the model may leave that to it. And systems of a network's Jacobian."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS

import spectralpost as sp
from spectralpost.learning import Search, advance, begin, prepare
from spectralpost.restoration import _conjugate_gradients

SHAPE = (4, 4)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def prior():
    return sp.from_images(np.random.default_rng(0).uniform(-1, 1, (8, 3, *SHAPE)), colour=True)


DEGRADATIONS = {
    "blur": lambda: sp.gaussian_blur(SHAPE, 1.0),
    "downsample": lambda: sp.downsample(SHAPE, 2),
    "inpaint": lambda: sp.inpaint(SHAPE, keep=0.5),
    "mosaic": lambda: sp.mosaic(SHAPE),
    "matrix": lambda: sp.from_matrix(SHAPE, np.random.default_rng(1).normal(size=(6, 16))),
}


def products(function, *args) -> list[str]:
    """Lines of the program that multiply matrices."""
    text = jax.jit(function).lower(*args).as_text()
    return re.findall(r"^.*\bdot_general\b.*$", text, re.MULTILINE)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_matrices_are_multiplied_in_full_precision(prior, name):
    degradation = DEGRADATIONS[name]()
    problem, levels = sp.learning_problem(prior, degradation, 0.1), sp.vp_linear(2)
    gaussian, x_0 = sp.GaussianDenoiser.of(prior), np.zeros((1, 3, *SHAPE), np.float32)
    y = sp.measure(degradation, x_0, 0.1, jax.random.key(0))
    sampler = sp.SAMPLERS["tmpd"]()
    guidance = sampler.heuristic(problem, levels)
    found = []
    for metric in (sp.wasserstein2, sp.kl, sp.predicted_energy_score):
        loss = lambda problem, guidance, metric=metric: metric(  # noqa: E731
            problem, sp.sampler_transfer(sampler, problem, levels, guidance)
        )
        found += products(jax.value_and_grad(loss, argnums=1), problem, guidance)
    restored = lambda y, guidance: sp.restore(  # noqa: E731
        sampler, gaussian, degradation, y, levels, guidance, jax.random.key(0), sigma_y=0.1
    )
    found += products(restored, y, guidance)
    found += products(lambda x: sp.measure(degradation, x, 0.1, jax.random.key(0)), x_0)
    assert found
    assert [line for line in found if "HIGHEST" not in line] == []


@pytest.mark.parametrize("name", ["blur", "downsample"])
def test_a_search_multiplies_matrices_in_full_precision(prior, name):
    """With all that a schedule may be: levels, bands or knots, the prices."""
    problem = sp.learning_problem(prior, DEGRADATIONS[name](), 0.1)
    freedom = sp.Freedom(levels=True, bands=2) if name == "blur" else sp.Freedom(knots=2)
    for optimizer in ("lm", "adam"):
        given = sp.SAMPLERS["diffpir"](), [problem], sp.vp_linear(3)
        search = Search(starts=1, optimizer=optimizer)
        prices = sp.Prices(1.5, 0.1, (5.0,))
        loss, _, method, *_ = prepare(*given, freedom=freedom, prices=prices, search=search)
        num = sum(basis.shape[-1] for basis in loss.parameters.basis.values())
        vectors = jnp.zeros((1, num))
        lanes = begin(method, vectors)
        found = products(partial(advance, method=method, iterations=1), loss, lanes)
        assert found
        assert [line for line in found if "HIGHEST" not in line] == []


@pytest.mark.parametrize("kind", ["symmetric", "not symmetric", "indefinite"])
def test_conjugate_gradients(kind):
    """Solves what is symmetric and positive. Of what is not quite symmetric it solves a part, where
    the plain method ends with thousands of times the residual of nothing; of what is not positive
    its residual is no larger than that.
    """
    random = np.random.default_rng(0)
    root, r = random.normal(size=(12, 12)), random.normal(size=12)
    matrix = root @ root.T + 0.1 * np.eye(12)
    if kind == "not symmetric":
        matrix = matrix + 0.3 * random.normal(size=(12, 12))
    if kind == "indefinite":
        matrix = matrix - 10 * np.eye(12)
    found = _conjugate_gradients(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(r), 1e-6)
    if kind == "symmetric":
        condition = np.linalg.cond(matrix)
        gap = np.linalg.norm(found - np.linalg.solve(matrix, r)) / np.linalg.norm(found)
        assert gap < condition * 1e-6
    left = np.linalg.norm(matrix @ found - r) / np.linalg.norm(r)
    assert left < 0.9 if kind == "not symmetric" else left <= 1 + 100 * EPS
