"""Searches that are interrupted, resumed, begun with half of the steps, or soon done."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_compilation
from spectralpost.baselines import score

from spectralpost import learning, search, stages
from spectralpost.errors import InputError
from spectralpost.learning import learn
from spectralpost.noise import vp_linear
from spectralpost.problem import make_problem
from spectralpost.samplers.dps import dps

STEPS, MODES = 5, 12
LEVELS = vp_linear(STEPS)
PROBLEM = make_problem(np.geomspace(4, 0.02, MODES), np.linspace(1, 0.02, MODES), 0.2)
# Three starts: two of them and the tuned constant are refined.
BARE = {"num_starts": 3, "max_iterations": 200, "smoothness": 0.0, "max_amplification": np.inf}


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with quick_compilation():
        yield


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
    found = score(dps(), PROBLEM, LEVELS, result.guidance)
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
    monkeypatch.setattr(learning, "COARSE", 3)
    first = learn(dps(), PROBLEM, LEVELS, **BARE)
    again = learn(dps(), PROBLEM, LEVELS, resume=first.kept, **BARE)
    assert again.loss <= first.loss * (1 + 1e-9)


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({}, vp_linear(STEPS + 1)),
        ({"bands": 2}, LEVELS),
        ({"free": ("zeta", "levels")}, LEVELS),
        ({"free": ("eta",)}, LEVELS),
    ],
)
def test_only_the_same_search_is_resumed(options, levels, monkeypatch):
    kept = whole().kept
    constant = jax.tree.map(lambda leaf: leaf[:1], dps().heuristic(PROBLEM, levels))
    monkeypatch.setattr(learning, "tuned_constant", lambda *_: (constant, 1.0))
    with pytest.raises(InputError, match="resume"):
        learn(dps(), PROBLEM, levels, resume=kept, **options)


def test_many_steps_begin_with_every_second(monkeypatch):
    """Fixed weights that differ from step to step go with their steps: exploring 8 steps begins
    with 4, which have every second eta."""
    monkeypatch.setattr(stages, "SHORT", 4)
    levels, seen = vp_linear(8), []
    guidance = dps().heuristic(PROBLEM, levels) | {"eta": jnp.linspace(1, 0.3, 8)}
    chunk = stages.Stages.chunk

    def watched(self, task, setting, *arguments):
        seen.append(setting)
        return chunk(self, task, setting, *arguments)

    monkeypatch.setattr(stages.Stages, "chunk", watched)
    result = learn(dps(), PROBLEM, levels, guidance, **BARE)
    assert result.loss < 0.999 * result.baselines["tuned_constant"]
    assert result.converged and result.guidance["zeta"].shape == (8,)
    np.testing.assert_array_equal(result.guidance["eta"], guidance["eta"])
    sizes = [setting.levels.alpha.shape[0] for setting in seen]
    assert sizes[0] == 5 and sizes[-1] == 9 and sizes == sorted(sizes)
    half = seen[0]
    for got, wanted in ((half.levels.sigma, levels.sigma), (half.fixed["eta"], guidance["eta"])):
        np.testing.assert_array_equal(got, wanted[::2].astype(jnp.float32))
    assert half.basis["zeta"].shape == (4, 4)


def test_an_easy_landscape_is_left_at_once():
    """One number: all starts find the same minimum in the first generation; three may by chance."""
    result = learn(dps(), PROBLEM, LEVELS, knots=1, **BARE | {"num_starts": 12})
    assert len(result.explored) == 1 and result.converged
    np.testing.assert_allclose(np.ptp(np.log(result.guidance["zeta"])), 0, atol=1e-12)
    assert len(whole().explored) > 1


def test_chunks_of_a_large_problem_have_the_same_search(monkeypatch):
    """Adam by the gradient that takes modes in chunks, against the plain one: equal to rounding,
    which twenty iterations do not blow up. (L-BFGS takes the same gradient.)"""
    options = BARE | {"num_starts": 2, "max_iterations": 20}
    results, calls = [], []
    chunked_loss = search.chunked_loss

    def counted(*arguments):
        calls.append(arguments)
        return chunked_loss(*arguments)

    monkeypatch.setattr(search, "chunked_loss", counted)
    for large in (learning.LARGE, 5):
        monkeypatch.setattr(learning, "LARGE", large)
        calls.clear()
        results.append(learn(dps(), PROBLEM, LEVELS, optimizer="adam", **options))
        assert bool(calls) == (large == 5)
    plain, chunked = results
    np.testing.assert_allclose(chunked.guidance["zeta"], plain.guidance["zeta"], rtol=1e-9)
    np.testing.assert_allclose(chunked.history, plain.history, rtol=1e-11)
    assert plain.history[-1] < plain.baselines["tuned_constant"]
