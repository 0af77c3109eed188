"""A vector and what it stands for: unconstrained numbers, noise levels, weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectralpost.learning import parameters_of, schedule_of
from spectralpost.learning.guidance import log_snr_position, unconstrain
from spectralpost.learning.parameters import LEVELS as LEVELS_NAME
from spectralpost.noise import vp_linear
from spectralpost.problem import make_problem
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps

EPS = np.finfo(float).eps
STEPS = 8
LEVELS = vp_linear(STEPS)
PROBLEM = make_problem(np.geomspace(4, 0.02, 12), np.linspace(1, 0.02, 12), 0.2)
GIVEN = {"zeta": jnp.geomspace(0.1, 2, STEPS), "eta": jnp.linspace(1, 0.2, STEPS)}


def parameters(free=("zeta",), **options):
    return parameters_of(dps(), LEVELS, GIVEN, free, problem=PROBLEM, **options)


def some_vectors(of, num=3):
    size = sum(basis.shape[-1] for basis in of.basis.values())
    return np.random.default_rng(0).normal(0, 0.3, (num, size))


OPTIONS = {
    "plain": {},
    "knots": {"knots": 3},
    "bands": {"bands": 2},
    "levels": {"learn_levels": True},
    "all": {"free": ("zeta", "eta"), "knots": 4, "bands": 3, "learn_levels": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_fit_is_the_inverse_of_unconstrained(name):
    """Every number of a vector counts for something of its own, whatever is learned."""
    of = parameters(**OPTIONS[name])
    vectors = some_vectors(of)
    numbers = {
        key: np.stack([np.asarray(of.basis[key] @ jnp.asarray(one)) for one in own])
        for key, own in of.split(vectors).items()
    }
    chex.assert_trees_all_close(of.fit(numbers), vectors, rtol=0, atol=200 * EPS)
    chex.assert_trees_all_close(
        of.unconstrained(jnp.asarray(vectors[0])), jax.tree.map(lambda u: u[0], numbers), rtol=0
    )


def test_schedules():
    """The numbers' weights, the fixed ones to the bit; gaps by exp(0) are the levels as given."""
    of = parameters(learn_levels=True)
    given = unconstrain(dps().constraint, {"zeta": GIVEN["zeta"]})
    numbers = {name: np.asarray(u)[None] for name, u in given.items()}
    (vector,) = of.fit_weights(numbers)
    schedule = schedule_of(of, jnp.asarray(vector))
    chex.assert_trees_all_equal(schedule.guidance["eta"], GIVEN["eta"])
    chex.assert_trees_all_close(schedule.guidance["zeta"], GIVEN["zeta"], rtol=200 * EPS)
    chex.assert_trees_all_close(schedule.levels, LEVELS, rtol=0, atol=200 * EPS)
    assert of.weights == ("zeta",) and set(of.basis) == {"zeta", LEVELS_NAME}
    # levels that are not learned are those given, to the bit
    plain = parameters()
    chex.assert_trees_all_equal(schedule_of(plain, jnp.asarray(vector[-STEPS:])).levels, LEVELS)


def test_weights_begin_the_same_in_all_bands():
    u = np.random.default_rng(1).normal(size=(2, STEPS))
    of = parameters(bands=3, learn_levels=True)
    vectors = of.fit_weights({"zeta": u})
    for vector, wanted in zip(vectors, u, strict=True):
        numbers = of.unconstrained(jnp.asarray(vector))
        repeated = np.repeat(wanted[:, None], 3, axis=1)
        chex.assert_trees_all_close(numbers["zeta"], repeated, rtol=0, atol=200 * EPS)
        chex.assert_trees_all_close(numbers[LEVELS_NAME], np.zeros(STEPS - 1), atol=200 * EPS)


def test_half_of_the_levels_and_back():
    """Fixed weights go with their steps; what is straight in log-SNR on few levels stays so."""
    whole = parameters()
    half = whole.thinned(np.arange(0, STEPS + 1, 2))
    every_second = jax.tree.map(lambda leaf: leaf[::2], (LEVELS, {"eta": GIVEN["eta"]}))
    chex.assert_trees_all_equal((half.levels, half.fixed), every_second)
    chex.assert_shape(half.basis["zeta"], (STEPS // 2, STEPS // 2))
    few, many = (np.asarray(log_snr_position(of.levels)) for of in (half, whole))
    u = np.stack([2 * few + 1, -few])
    carried = whole.carried({"zeta": u}, half.levels)["zeta"]
    # `position` runs from the first step to the last, of which the half has an earlier one
    wanted = np.stack([2 * many + 1, -many])
    chex.assert_trees_all_close(carried, wanted, rtol=0, atol=50 * EPS)


def test_knots_stay_knots_on_half_of_the_levels():
    half = parameters(knots=3).thinned(np.arange(0, STEPS + 1, 2))
    chex.assert_shape(half.basis["zeta"], (STEPS // 2, 3))


def test_order_of_names_does_not_matter():
    one, other = (
        parameters_of(diffpir(), LEVELS, diffpir().heuristic(PROBLEM, LEVELS), free)
        for free in (("zeta", "lambda_"), ("lambda_", "zeta"))
    )
    assert list(one.basis) == list(other.basis) == ["lambda_", "zeta"]
    chex.assert_trees_all_equal(one, other)


def test_roughness_of_vectors():
    """None for a constant weight on levels as given; grows with the square; bands share it."""
    of = parameters(bands=2, learn_levels=True)
    constant = of.fit_weights({"zeta": np.full((1, STEPS), 3.0)})[0]
    chex.assert_trees_all_close(of.rough(jnp.asarray(constant)), jnp.zeros(20), atol=200 * EPS)
    vector = jnp.asarray(some_vectors(of)[0])
    chex.assert_trees_all_close(of.rough(2 * vector), 2 * of.rough(vector), rtol=50 * EPS)
    zigzag = np.tile([1.0, 0.0], STEPS // 2)[None]
    plain, banded = (
        jnp.sum(one.rough(jnp.asarray(one.fit_weights({"zeta": zigzag})[0])) ** 2)
        for one in (parameters(), of)
    )
    np.testing.assert_allclose(plain, banded, rtol=200 * EPS)
