"""Generations of searches: who is kept, who is tried next, and what a rough schedule costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import circular
from compiling import quick_compilation
from spectralpost.baselines import score
from spectralpost.guidance import interpolation, log_snr_position, roughness
from spectralpost.search import KICKS, Setting, basis_of, best_distinct, next_generation

from spectralpost.learning import learn, sensitivity
from spectralpost.noise import NoiseLevel, rectified_flow, ve_karras, vp_linear
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps

EPS = np.finfo(float).eps


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with quick_compilation():
        yield


def test_best_distinct():
    """Losses 0.1 % apart first, then the near copies; infinite ones last of all."""
    losses = np.asarray([3.0, np.inf, 1.0, 1.0005, 2.0])
    params = np.arange(5.0)[:, None]
    kept, best = best_distinct(params, losses, 4)
    np.testing.assert_array_equal(kept[:, 0], [2, 4, 0, 1])
    assert best == 1.0
    kept, _ = best_distinct(params[[2, 3]], losses[[2, 3]], 4)
    np.testing.assert_array_equal(kept[:, 0], [2, 3])  # fewer than asked for


def test_next_generation():
    """Parents as they are, then children around them in turn, by the kinds and sizes of `KICKS`."""
    levels, num = vp_linear(8), 2000
    parents = np.stack([np.zeros(16), np.full(16, 10.0)])  # two weights, eight steps
    basis = basis_of(("a", "b"), levels, interpolation(levels, None))
    setting = Setting(*[None] * 4, levels, *[None] * 3, basis)
    generation = np.asarray(next_generation(jax.random.key(0), parents, setting, num))
    assert generation.shape == (num, 16)
    np.testing.assert_array_equal(generation[:2], parents)
    children = generation[2:]
    which = np.arange(num - 2)
    kicks = children - parents[which % 2]
    for i, (kind, size) in enumerate(KICKS):
        some = kicks[which % len(KICKS) == i] / size
        if kind == "smooth":
            # a constant of standard deviation 2, and three waves (see `smooth_curves`)
            assert 4 < np.mean(some**2) < 4 * (1 + 1 / 4 + 1 / 9 + 1 / 16) * 1.2
            # neighbours in log-SNR go together
            assert np.corrcoef(some[:, 2], some[:, 3])[0, 1] > 0.9
            continue
        moved = some != 0 if kind == "local" else np.ones_like(some, bool)
        assert abs(np.mean(some[moved] ** 2) - 1) < 5 * np.sqrt(2 / moved.sum())
        assert abs(np.corrcoef(some[:, 2], some[:, 3])[0, 1]) < 5 / np.sqrt(len(some))
        if kind == "local":
            for weight in np.split(moved, 2, axis=1):
                count = weight.sum(axis=1)
                assert count.max() == 2 and count.min() <= 1  # a quarter of eight, fewer at ends
                assert np.all(np.abs(np.diff(weight.astype(int), axis=1)).sum(axis=1) <= 2)
                # every step has its turn, the first and the last too
                assert np.all(weight.mean(axis=0) > 0.1)
    again = next_generation(jax.random.key(0), parents, setting, num)
    np.testing.assert_array_equal(again, generation)


def test_interpolation():
    """Knots keep their values, straight lines in log-SNR stay straight, columns add up to 1."""
    levels = vp_linear(9)
    position = np.asarray(log_snr_position(levels))
    np.testing.assert_array_equal(interpolation(levels, None), np.eye(9))
    np.testing.assert_array_equal(interpolation(levels, 12), np.eye(9))
    np.testing.assert_array_equal(interpolation(levels, 1), np.ones((9, 1)))
    for knots in (2, 3, 5):
        shape = interpolation(levels, knots)
        assert shape.shape == (9, knots) and np.linalg.matrix_rank(shape) == knots
        np.testing.assert_allclose(shape.sum(axis=1), 1, rtol=10 * EPS)
        at = np.quantile(position, np.linspace(0, 1, knots))
        np.testing.assert_allclose(shape @ (2 * at + 1), 2 * position + 1, rtol=50 * EPS)


def test_fewer_numbers_learn_less():
    """Constant, three knots, free: each can do what the one before it can."""
    problem, levels = circular((12,)).problem, vp_linear(6)
    options = {"num_starts": 8, "smoothness": 0.0, "max_amplification": np.inf}
    results = [learn(dps(), problem, levels, knots=knots, **options) for knots in (1, 3, None)]
    losses = [result.loss for result in results]
    assert losses[0] >= losses[1] * (1 - 1e-6) and losses[1] >= losses[2] * (1 - 1e-6)
    assert losses[2] < 0.99 * losses[0]
    constant, piecewise = (np.log(result.guidance["zeta"]) for result in results[:2])
    assert np.ptp(constant) < 1e-9
    shape = interpolation(levels, 3)
    fitted = shape @ np.linalg.lstsq(shape, piecewise)[0]
    np.testing.assert_allclose(fitted, piecewise, rtol=1e-10)


def test_roughness():
    """0 for a constant; d^2 for a zigzag by d on levels even in log-SNR; linear."""
    sigma = np.append(np.geomspace(10, 0.1, 8), 0.0)
    even = NoiseLevel(jnp.ones(9), jnp.asarray(sigma))
    zigzag = jnp.asarray([1.5, 0.0] * 4)
    np.testing.assert_allclose(jnp.sum(roughness(zigzag, even) ** 2), 1.5**2, rtol=50 * EPS)
    np.testing.assert_allclose(log_snr_position(even), np.linspace(0, 1, 8), atol=10 * EPS)
    for levels in (even, ve_karras(8), rectified_flow(8), vp_linear(8)):
        np.testing.assert_array_equal(roughness(jnp.full(8, 3.0), levels), 0)
        rough = roughness(zigzag, levels)
        assert rough.shape == (7,) and np.all(np.isfinite(rough))
        np.testing.assert_allclose(roughness(2 * zigzag, levels), 2 * rough)
    # a step that is wide in log-SNR may change more
    wide = NoiseLevel(jnp.ones(9), jnp.asarray(sigma).at[0].set(1000.0))
    assert abs(roughness(zigzag, wide)[0]) < abs(roughness(zigzag, wide)[1])
    assert roughness(jnp.ones(1), vp_linear(1)).shape == (0,)


def test_smoothness_is_traded_for_loss():
    """A high price makes the schedule smooth, a small one hardly costs anything."""
    problem, levels = circular((12,)).problem, vp_linear(6)
    results = [
        learn(dps(), problem, levels, num_starts=8, smoothness=price) for price in (0, 1e-4, 1.0)
    ]
    rough = [
        float(jnp.sum(roughness(jnp.log(result.guidance["zeta"]), levels) ** 2))
        for result in results
    ]
    assert rough[2] < 0.5 * rough[0]
    assert rough[1] <= rough[0]
    losses = [result.loss for result in results]
    assert losses[0] <= losses[2] * (1 + 1e-6)
    constant = results[0].baselines["tuned_constant"]
    assert losses[1] <= losses[0] + 1e-4 * constant * rough[0] * (1 + 1e-3)


def test_sensitivity():
    """The loss of every schedule with one weight changed, one by one."""
    problem, levels = circular((12,)).problem, vp_linear(4)
    guidance = {"lambda_": jnp.asarray([0.5, 1.0, 2.0, 1.0]), "zeta": jnp.full(4, 0.3)}
    change = sensitivity(diffpir(), problem, levels, guidance, ("lambda_", "zeta"))
    here = score(diffpir(), problem, levels, guidance)
    odds = 0.3 / 0.7
    for i in range(4):
        losses = {"lambda_": [], "zeta": []}
        for factor in (np.exp(0.1), np.exp(-0.1)):
            up = guidance["lambda_"].at[i].mul(factor)
            losses["lambda_"].append(score(diffpir(), problem, levels, guidance | {"lambda_": up}))
            unit = odds * factor / (1 + odds * factor)
            up = guidance["zeta"].at[i].set(unit)
            losses["zeta"].append(score(diffpir(), problem, levels, guidance | {"zeta": up}))
        for name, both in losses.items():
            wanted = np.mean(both) / here - 1
            # two programs, whose roundings differ, and a difference of nearly equal numbers
            np.testing.assert_allclose(change[name][i], wanted, rtol=0, atol=1e4 * EPS)
