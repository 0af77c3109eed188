"""Generations of searches: who is kept, who is tried next; searches that are interrupted, resumed,
begun with half of the steps, or soon done."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectralpost.errors import InputError
from spectralpost.learning import (
    Freedom,
    Prices,
    Search,
    evaluate,
    generations,
    halving,
    learn,
    loss,
    loss_of,
    parameters_of,
    preparing,
    searching,
)
from spectralpost.learning.generations import (
    AGREED_PATIENCE,
    KICKS,
    PATIENCE,
    best_distinct,
    next_generation,
)
from spectralpost.metrics import wasserstein2
from spectralpost.noise import nearest_timesteps, vp_linear
from spectralpost.problem import make_problem
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps

STEPS, MODES = 5, 12
LEVELS = vp_linear(STEPS)
PROBLEM = make_problem(np.geomspace(4, 0.02, MODES), np.linspace(1, 0.02, MODES), 0.2)
# Three starts: two of them and the tuned constant are refined.
FEW = Search(starts=3, max_iterations=200)
BARE = {"search": FEW, "prices": Prices(max_amplification=np.inf, smoothness=0.0)}

pytestmark = pytest.mark.usefixtures("quick")


# ------------------------------------------------------------------------------ one generation


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
    parameters = parameters_of(
        diffpir(), levels, diffpir().heuristic(PROBLEM, levels), diffpir().constraint
    )
    of_both = loss_of(parameters, [PROBLEM], wasserstein2)
    generation = next_generation(np.random.default_rng(0), parents, of_both, num)
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
    again = next_generation(np.random.default_rng(0), parents, of_both, num)
    np.testing.assert_array_equal(again, generation)


@pytest.mark.parametrize("num", [2, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_generations_follow_the_dtype_of_the_levels(dtype, num):
    """Parents alone, and parents with children."""
    problem, levels = jax.tree.map(lambda leaf: leaf.astype(dtype), (PROBLEM, vp_linear(8)))
    given = dps().heuristic(problem, levels)
    of_zeta = loss_of(parameters_of(dps(), levels, given, ("zeta",)), [problem], wasserstein2)
    generation = next_generation(np.random.default_rng(0), np.zeros((3, 8)), of_zeta, num)
    chex.assert_shape(generation, (num, 8))
    chex.assert_type(generation, dtype)


# ------------------------------------------------------------------------------------- stages


@functools.cache
def whole():
    return learn(dps(), PROBLEM, LEVELS, **BARE)


class Impatience:
    """Interrupts from the progress callback, at the n-th look."""

    def __init__(self, looks):
        self.looks, self.told = looks, []

    def __call__(self, news):
        self.told.append(news)
        if len(self.told) == self.looks:
            raise KeyboardInterrupt


def interrupted(looks, **options):
    impatience = Impatience(looks)
    result = learn(dps(), PROBLEM, LEVELS, progress=impatience, **BARE, **options)
    assert len(impatience.told) == looks  # nobody is asked again
    return result


def looks_until(what):
    """How often progress is told before it interrupts."""
    explored, refined = len(whole().explored), len(whole().history)
    assert explored > 3 and refined > 1
    return {
        "first generation": 1,
        "third generation": 3,
        "first refining": explored + 1,
        "last refining": explored + refined,
    }[what]


@pytest.mark.parametrize(
    "when", ["first generation", "third generation", "first refining", "last refining"]
)
def test_interrupted_searches_end_with_the_best_so_far(when):
    """A finite loss, that of the schedule, not above the tuned constant, which is among the starts.

    `final_losses` are true ones: what `kept` stands for.
    """
    result = interrupted(looks_until(when))
    assert result.interrupted and not result.converged
    assert not whole().interrupted and whole().converged
    assert np.isfinite(result.loss)
    assert result.loss <= result.baselines["tuned_constant"] * (1 + 1e-9)
    assert result.loss >= whole().loss * (1 - 1e-3)
    found = evaluate(dps(), PROBLEM, LEVELS, result.guidance)
    np.testing.assert_allclose(found, result.loss, rtol=1e-9)
    assert np.all(np.isfinite(result.final_losses))
    np.testing.assert_allclose(result.final_losses[0], result.loss, rtol=1e-9)


def test_what_was_explored_is_not_lost():
    """The third generation's parents are as good as the second's history says, refined or not."""
    rounding = 1 + 100 * float(np.finfo(np.float32).eps)  # exploring is in single precision
    result = interrupted(looks_until("third generation"))
    assert result.loss <= result.explored[1] * rounding
    result = interrupted(looks_until("first refining"))
    assert result.loss <= result.explored.min() * rounding


@pytest.mark.parametrize("when", ["first generation", "first refining", None])
def test_resumed_searches_go_on(when):
    """From an interrupted search, or from one that ended: never worse, and then converged."""
    before = whole() if when is None else interrupted(looks_until(when))
    after = learn(dps(), PROBLEM, LEVELS, resume=before.kept, **BARE)
    assert after.loss <= before.loss * (1 + 1e-9)
    assert after.converged and not after.interrupted
    # the tuned constant would be there anyway
    if when is None:
        assert after.loss < 0.99 * after.baselines["tuned_constant"]


def test_resumed_searches_do_not_lose_what_bins_hide(monkeypatch):
    """Exploring goes on with a problem of few bins, on which the best schedule is another one."""
    monkeypatch.setattr(searching, "COARSE", 3)
    first = learn(dps(), PROBLEM, LEVELS, **BARE)
    again = learn(dps(), PROBLEM, LEVELS, resume=first.kept, **BARE)
    assert again.loss <= first.loss * (1 + 1e-9)


def test_weights_for_rounded_levels_go_on_by_the_same_program():
    """As good as a search anew, of smooth schedules. A loss of the same structure: where both
    searches begin from schedules, they are one program."""
    smooth = {"search": FEW, "prices": Prices(1.5, 0.1)}
    found = learn(dps(), PROBLEM, LEVELS, freedom=Freedom(levels=True), **smooth)
    train = vp_linear(1000)
    timesteps = nearest_timesteps(found.levels, train)
    rounded = jax.tree.map(lambda leaf: leaf[np.append(999 - timesteps, 1000)], train)
    held = Freedom(levels=True, held=True)
    goes_on = smooth | {"search": FEW._replace(explore=False)}
    after = learn(dps(), PROBLEM, rounded, freedom=held, resume=found.kept, **goes_on)
    chex.assert_trees_all_equal(after.levels, rounded)
    assert not len(after.explored)
    anew = learn(dps(), PROBLEM, rounded, **smooth)
    assert after.final_losses[0] < 1.001 * anew.final_losses[0]
    losses = [
        preparing.prepare(dps(), [PROBLEM], levels, freedom=freedom).loss
        for levels, freedom in ((LEVELS, Freedom(levels=True)), (rounded, held))
    ]
    chex.assert_trees_all_equal_structs(*losses)
    chex.assert_trees_all_equal_shapes_and_dtypes(*losses)
    with pytest.raises(InputError, match="held = True: without levels"):
        learn(dps(), PROBLEM, rounded, freedom=Freedom(held=True))


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({}, vp_linear(STEPS + 1)),
        ({"freedom": Freedom(bands=2)}, LEVELS),
        ({"freedom": Freedom(levels=True)}, LEVELS),
        ({"free": ("eta",)}, LEVELS),
    ],
)
def test_only_the_same_search_is_resumed(options, levels, monkeypatch):
    kept = whole().kept
    constant = dps().heuristic(PROBLEM, levels)
    monkeypatch.setattr(preparing, "tuned_constant", lambda *_: (constant, 1.0))
    with pytest.raises(InputError, match="resume"):
        learn(dps(), PROBLEM, levels, resume=kept, **options)


def test_many_steps_begin_with_every_second(monkeypatch):
    """Fixed weights that differ from step to step go with their steps: exploring 8 steps begins
    with 4, which have every second eta."""
    monkeypatch.setattr(generations, "SHORT", 4)
    levels, seen = vp_linear(8), []
    guidance = dps().heuristic(PROBLEM, levels) | {"eta": jnp.linspace(1, 0.3, 8)}
    generation = generations._generation

    def watched(loss, *arguments):
        seen.append(loss.parameters)
        return generation(loss, *arguments)

    monkeypatch.setattr(generations, "_generation", watched)
    result = learn(dps(), PROBLEM, levels, guidance, **BARE)
    assert result.loss < 0.999 * result.baselines["tuned_constant"]
    assert result.converged and result.guidance["zeta"].shape == (8,)
    np.testing.assert_array_equal(result.guidance["eta"], guidance["eta"])
    sizes = [parameters.levels.alpha.shape[0] for parameters in seen]
    assert sizes[0] == 5 and sizes[-1] == 9 and sizes == sorted(sizes)
    half = seen[0]
    every_second = jax.tree.map(
        lambda leaf: leaf[::2].astype(jnp.float32), (levels, {"eta": guidance["eta"]})
    )
    chex.assert_trees_all_equal((half.levels, half.fixed), every_second)
    assert half.basis["zeta"].shape == (4, 4)


def test_refining_goes_on_with_the_better_half(monkeypatch):
    """As they are; kept are all where they ended, best first, with what that costs."""
    advanced, looks = halving._advanced, []

    def watched(losses, cell, lanes, *rest):
        looks.append((lanes, advanced(losses, cell, lanes, *rest)))
        return looks[-1][1]

    monkeypatch.setattr(halving, "_advanced", watched)
    result = learn(dps(), PROBLEM, LEVELS, **BARE)
    counts = [len(before.loss) for before, _ in looks]
    assert counts[:3] == [3, 2, 1] and set(counts[3:]) <= {1} and result.converged
    order = np.argsort(looks[0][1].loss)
    better = looks[0][1].vector[np.sort(order[:2])]
    np.testing.assert_array_equal(looks[1][0].vector, better)
    ended = [looks[0][1].loss.max(), looks[1][1].loss.max(), looks[-1][1].loss[0]]
    np.testing.assert_array_equal(result.final_losses, np.sort(ended))
    loss = preparing.prepare(dps(), [PROBLEM], LEVELS, prices=BARE["prices"]).loss
    losses = [loss(vector) for vector in loss.parameters.fit(result.kept)]
    np.testing.assert_allclose(result.final_losses, losses, rtol=1e-9)


DOZEN = {"search": FEW._replace(starts=12)}  # three may agree by chance


def test_an_easy_landscape_is_soon_left():
    """One number: all starts find the same minimum in the first generation, no other a better."""
    result = learn(dps(), PROBLEM, LEVELS, freedom=Freedom(knots=1), **BARE | DOZEN)
    assert len(result.explored) == 1 + AGREED_PATIENCE and result.converged
    np.testing.assert_allclose(np.ptp(np.log(result.guidance["zeta"])), 0, atol=1e-12)
    assert len(whole().explored) > 1 + AGREED_PATIENCE


def test_easy_weights_do_not_end_the_search_for_levels():
    """The same number with levels: what was easy for the weights alone says nothing about both, so
    their stage goes on until nothing better turns up."""
    freedom = Freedom(levels=True, knots=1)
    result = learn(dps(), PROBLEM, LEVELS, freedom=freedom, **BARE | DOZEN)
    assert len(result.explored) > PATIENCE  # not 2: one for the weights, one for both
    assert result.loss < 0.99 * result.baselines["tuned_constant"]


def test_chunks_of_a_large_problem_have_the_same_search(monkeypatch):
    """Adam by the gradient that takes modes in chunks, against the plain one: equal to rounding,
    which twenty iterations do not blow up. (L-BFGS takes the same gradient.)"""
    options = BARE | {"search": Search(starts=2, max_iterations=20, optimizer="adam")}
    results, calls = [], []
    chunked_loss = loss.chunked_loss

    def counted(*arguments):
        calls.append(arguments)
        return chunked_loss(*arguments)

    monkeypatch.setattr(loss, "chunked_loss", counted)
    for large in (preparing.LARGE, 5):
        monkeypatch.setattr(preparing, "LARGE", large)
        calls.clear()
        results.append(learn(dps(), PROBLEM, LEVELS, **options))
        assert bool(calls) == (large == 5)
    plain, chunked = results
    np.testing.assert_allclose(chunked.guidance["zeta"], plain.guidance["zeta"], rtol=1e-9)
    np.testing.assert_allclose(chunked.history, plain.history, rtol=1e-11)
    assert plain.history[-1] < plain.baselines["tuned_constant"]
