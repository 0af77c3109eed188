"""Error against perception: the residuals of both, their weighted sum, and what theory allows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BLOCKS, circular

from spectralpost.affine import Transfer
from spectralpost.errors import InputError
from spectralpost.figures import tradeoff_figure, tradeoffs_figure
from spectralpost.metrics import mse, optimal_tradeoff, perception, wasserstein2
from spectralpost.objectives import RESIDUALS, WeightedSum
from spectralpost.problem import ideal_posterior

pytestmark = pytest.mark.usefixtures("quick")

EPS = np.finfo(float).eps
ideal_of = jax.jit(ideal_posterior)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def found_and_least(problem, transfer):
    """The error of a transfer, and the least that one of its perception can have."""
    least = optimal_tradeoff(problem).mse_at(perception(problem, transfer))
    return mse(problem, transfer), least


def some_transfer(problem, seed: int) -> Transfer:
    """An output that is neither good nor hopeless: the ideal one, spoilt."""
    rng = np.random.default_rng(seed)
    ideal_gain = np.asarray(ideal_of(problem).gain)
    shape = ideal_gain.shape
    gain = ideal_gain * rng.uniform(0.5, 1.5, shape)
    noise = rng.normal(size=shape)
    cov = noise**2 if gain.ndim == 1 else noise @ noise.mT
    offset = 0.1 * rng.normal(size=problem.mean.shape)
    state = 0.1 * rng.normal(size=shape)
    return Transfer(*map(jnp.asarray, (state, gain, rng.uniform(0, 1) * cov, offset)))


@pytest.mark.parametrize("metric", RESIDUALS, ids=lambda metric: metric.__name__)
def test_residuals_are_square_roots(metric):
    problem = circular().problem
    for seed in range(5):
        transfer = some_transfer(problem, seed)
        squares = jnp.sum(RESIDUALS[metric](problem, transfer) ** 2)
        np.testing.assert_allclose(squares, metric(problem, transfer), rtol=100 * EPS)


def test_weighted_sum():
    """The sum, its square roots, and equality by value: a static argument of compiled programs."""
    problem = circular().problem
    transfer = some_transfer(problem, 0)
    objective = WeightedSum(wasserstein2=0.2, mse=1.0, perception=3.0)
    wanted = (
        0.2 * wasserstein2(problem, transfer)
        + mse(problem, transfer)
        + 3 * perception(problem, transfer)
    )
    np.testing.assert_allclose(objective(problem, transfer), wanted, rtol=100 * EPS)
    squares = jnp.sum(objective.residuals(problem, transfer) ** 2)
    np.testing.assert_allclose(squares, wanted, rtol=100 * EPS)
    assert WeightedSum(mse=1.0) == WeightedSum(mse=1.0) != WeightedSum(mse=2.0)
    assert WeightedSum(mse=jnp.float32(1), perception=np.int64(2)) == WeightedSum(0.0, 1.0, 2.0)
    assert hash(WeightedSum(mse=1.0)) == hash(WeightedSum(mse=1.0))
    for bad in (
        {},
        {"mse": -1.0},
        {"mse": float("nan")},
        {"perception": float("inf")},
        {"mse": "1"},
    ):
        with pytest.raises(InputError, match="weights must be >= 0"):
            WeightedSum(**bad)


@pytest.mark.parametrize("make", [circular, *BLOCKS.values()], ids=["modes", *BLOCKS])
def test_ends_of_the_optimal_tradeoff(make):
    """The posterior mean has the least error; perfect perception costs the square of its own, which
    is less than the posterior's own price, a doubled error."""
    problem = make().problem
    best, ideal = optimal_tradeoff(problem), ideal_posterior(problem)
    zero = jnp.zeros_like(ideal.gain)
    mean = Transfer(zero, ideal.gain, zero, jnp.zeros_like(problem.mean))
    samples = mean._replace(noise_cov=ideal.cov)
    np.testing.assert_allclose(best.least_mse, mse(problem, mean), rtol=100 * EPS)
    np.testing.assert_allclose(best.its_perception, perception(problem, mean), rtol=1e-10)
    np.testing.assert_allclose(best.mse_at(best.its_perception), best.least_mse, rtol=100 * EPS)
    np.testing.assert_allclose(best.mse_at(0.0), best.least_mse + best.its_perception, rtol=1e-12)
    assert perception(problem, samples) < 1e-12
    np.testing.assert_allclose(mse(problem, samples), 2 * best.least_mse, rtol=1e-12)
    assert best.mse_at(0.0) < mse(problem, samples)


@pytest.mark.parametrize("make", [circular, *BLOCKS.values()], ids=["modes", *BLOCKS])
def test_nothing_beats_the_optimal_tradeoff(make):
    problem = make().problem
    transfers = [some_transfer(problem, seed) for seed in range(50)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *transfers)
    found, least = found_and_least(problem, stacked)
    assert np.all(found >= least * (1 - 1000 * EPS))


def test_the_optimal_tradeoff_is_reached():
    """By straight interpolation between the posterior mean and its optimal transport to images."""
    problem = circular().problem
    best, ideal = optimal_tradeoff(problem), ideal_posterior(problem)
    # mean of variance v = spectrum - ideal.var; the map to the prior multiplies by sqrt(spectrum/v)
    stretch = jnp.sqrt(problem.spectrum / (problem.spectrum - ideal.var))
    zero = jnp.zeros_like(ideal.gain)
    for share in (0.0, 0.3, 1.0):
        gain = ideal.gain * (1 + share * (stretch - 1))
        transfer = Transfer(zero, gain, zero, jnp.zeros_like(problem.mean))
        least = best.mse_at(perception(problem, transfer))
        np.testing.assert_allclose(mse(problem, transfer), least, rtol=1e-12)


def test_tradeoff_figure():
    """The curve, the priced schedules joined, and an unstable default named instead of drawn."""
    problem = circular().problem
    best = optimal_tradeoff(problem)
    good = {"mse": 1.2 * float(best.least_mse), "perception": 0.5 * float(best.its_perception)}
    rows = {
        "published default": {"mse": 1e9, "perception": 1e9},
        "tuned constant, W2^2": good,
        "learned, W2^2": good,
        "learned, price 0": good,
        "learned, price 3": good | {"perception": 0.3 * float(best.its_perception)},
    }
    (axes,) = tradeoff_figure(best, rows, "a title").axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:3] == [
        "least possible",
        "true posterior samples",
        "learned for mse + price x perception",
    ]
    assert any("published default" in label and "outside" in label for label in labels)
    assert axes.get_ylim()[1] < 10 * float(np.sqrt(best.least_mse))
    assert {text.get_text() for text in axes.texts} == {"price 0", "price 3"}
    curve = axes.lines[0]
    wanted = np.sqrt(best.mse_at(curve.get_xdata() ** 2))
    np.testing.assert_allclose(curve.get_ydata(), wanted)
    rows["learned, price 0"] = {"mse": 1e9, "perception": 1.0}
    (axes,) = tradeoff_figure(best, rows, "").axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "learned for mse + price x perception (price 0 outside)" in labels


def test_tradeoffs_figure():
    """A panel a sampler; what is beyond its ends is said in it; a legend of all."""
    problem = circular().problem
    best = optimal_tradeoff(problem)
    good = {"mse": 1.2 * float(best.least_mse), "perception": 0.5 * float(best.its_perception)}
    far = {"mse": 9.0, "perception": 1e9}
    panels = {
        "one": {"published default": far, "learned, price 0": good, "learned, price 3": good},
        "two": {"published default": good, "learned, W2^2": good, "exact score": good},
        "empty": {},
        "four": {},
        "five": {},
    }
    figure = tradeoffs_figure(best, panels, "a title")
    assert [axes.get_title() for axes in figure.axes] == list(panels)
    notes = [axes.texts[0].get_text() for axes in figure.axes]
    assert notes == ["published default at (3.2e+04, 3)", "", "", "", ""]
    curve = figure.axes[4].lines[0]
    wanted = np.sqrt(best.mse_at(curve.get_xdata() ** 2))
    np.testing.assert_allclose(curve.get_ydata(), wanted)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "least possible",
        "true posterior samples",
        "learned for mse + price x perception",
        "published default",
        "learned, W2$^2$",
        "exact score",
    ]
