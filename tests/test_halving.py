"""The quick search (`Search(explore=False)`), the tuned constant it begins from, and the limits."""

import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import spectralpost as sp
from spectralpost.learning import halving
from spectralpost.learning.baselines import NEAR, tuned_constants
from spectralpost.learning.preparing import prepare, usual_growth
from spectralpost.learning.search import Watch
from spectralpost.noise import vp_linear
from spectralpost.samplers import make_sampler

pytestmark = pytest.mark.usefixtures("quick")
LEVELS = vp_linear(6)


def problem_of(rows, sigma_y=0.1):
    whole = sp.image_problem(sp.power_law((32, 32)), sp.gaussian_blur((32, 32), 1.5), sigma_y)
    return sp.bin_modes(sp.unique_modes(whole)[0], rows)[0]


PROBLEM = problem_of(140)
QUICK = sp.Search(starts=4, max_iterations=60, explore=False)


def test_the_better_half_goes_on_and_the_best_is_refined(monkeypatch):
    """Four starts on few bins in single precision, then two, then one; one on the whole problem."""
    seen, advanced = [], halving._advanced

    def counted(losses, cell, *rest):
        seen.append((len(cell), losses.problems.spectrum.shape[-1], losses.power.dtype))
        return advanced(losses, cell, *rest)

    monkeypatch.setattr(halving, "_advanced", counted)
    told = []
    result = sp.learn(make_sampler("dps"), PROBLEM, LEVELS, search=QUICK, progress=told.append)
    coarse = [num for num, _, dtype in seen if dtype == np.float32]
    assert coarse in ([4, 2, 1], [4, 2, 1, 1])  # up to 60 iterations by 15
    fine = [(num, rows) for num, rows, dtype in seen if dtype == np.float64]
    assert fine and set(fine) == {(1, 140)}
    assert len(told) == len(seen) and told[-1].iteration == 15 * len(coarse) + 4 * len(fine)
    assert np.all(np.diff(result.history) <= 0)
    assert result.loss < result.baselines["tuned_constant"]
    # A search that explores has the same optimum within a per cent: the landscape is easy here.
    best = sp.learn(make_sampler("dps"), PROBLEM, LEVELS, search=sp.Search(8, 100))
    assert result.loss <= 1.01 * best.loss


def test_given_schedules_are_halved_one_at_a_time_on_the_whole_problem(monkeypatch):
    """And the constant with them: what is left of them costs no more than itself."""
    seen, advanced = [], halving._advanced

    def counted(losses, cell, lanes, method, iterations, width):
        seen.append((len(cell), losses.problems.spectrum.shape[-1], iterations, width))
        return advanced(losses, cell, lanes, method, iterations, width)

    monkeypatch.setattr(halving, "_advanced", counted)
    zeta = np.log(np.random.default_rng(0).uniform(0.1, 1, (5, 6)))
    result = sp.learn(make_sampler("dps"), PROBLEM, LEVELS, search=QUICK, resume={"zeta": zeta})
    assert [num for num, *_ in seen[:3]] == [6, 3, 2] and not len(result.explored)
    assert {one[1:] for one in seen} == {(140, 20, 1)}
    assert result.loss < result.baselines["tuned_constant"]


def test_a_given_schedule_that_is_good_is_kept_even_if_interrupted():
    """Before it was refined at all, and none is worse than the constant."""

    def stop(_):
        raise KeyboardInterrupt

    found = sp.learn(make_sampler("dps"), PROBLEM, LEVELS, search=QUICK)
    hopeless = {"zeta": found.kept["zeta"] + 9.0}
    for resume, least in ((found.kept, found.loss), (hopeless, found.baselines["tuned_constant"])):
        options = {"search": QUICK, "resume": resume, "progress": stop}
        result = sp.learn(make_sampler("dps"), PROBLEM, LEVELS, **options)
        assert result.interrupted and result.loss <= least * (1 + 1e-12)


def test_linear_algebra_takes_one_thread_while_searching():
    """As many as there were before and after; other processes would make them wait."""
    threads = lambda: [  # noqa: E731
        one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"
    ]
    with threadpool_limits(2, user_api="blas"):
        within = Watch().run(threads, lambda _: 0.0, [], 1, 0)
        assert within == [1] * len(within) and len(within) > 0
        assert threads() == [2] * len(within)


def test_searches_in_threads_take_turns():
    """On two cores two at once may wait for each other's threads for ever."""
    inside, most = [], []

    def go():
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()

    with ThreadPoolExecutor(4) as pool:
        every = [pool.submit(Watch().run, go, lambda _: 0.0, [], 1, 0) for _ in range(8)]
    assert [one.exception() for one in every] == [None] * 8 and most == [1] * 8


def test_nothing_is_worse_than_the_tuned_constant_even_if_interrupted():
    def stop(_):
        raise KeyboardInterrupt

    result = sp.learn(make_sampler("dps"), PROBLEM, LEVELS, search=QUICK, progress=stop)
    assert result.interrupted and not result.converged
    assert result.loss <= result.baselines["tuned_constant"] * (1 + 1e-12)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_other_optimizers_halve_on_the_whole_problem(optimizer):
    search = QUICK._replace(optimizer=optimizer)
    result = sp.learn(make_sampler("pigdm"), PROBLEM, LEVELS, search=search)
    assert len(result.explored) == 0 and 1 <= len(result.history) <= 3
    assert result.loss <= result.baselines["tuned_constant"] * (1 + 1e-12)


@pytest.mark.parametrize("name", ["dps", "pigdm", "diffpir", "mpgd", "ddrm", "dds"])
def test_constants_found_on_few_bins_first_are_those_of_the_whole_problem(name):
    """To a millionth of the loss: what a last grid leaves, `zoom.ENOUGH`."""
    begun = prepare(make_sampler(name), [PROBLEM], LEVELS, tune=False)
    one = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)  # noqa: E731
    assert begun.given.coarse.problems.spectrum.shape == (1, 64)
    whole, few = (
        tuned_constants(one(begun.given), one(begun.heuristic), coarse)[1][0]
        for coarse in (None, one(begun.given.coarse))
    )
    assert few == pytest.approx(whole, rel=1e-6)


def test_few_bins_that_lead_astray_are_noticed():
    """In place of few bins of the problem those of one with 30 times the noise, whose best constant
    is far off: that of the whole problem is found all the same."""
    begun, other = (
        prepare(make_sampler("mpgd"), [one], LEVELS, tune=False).given
        for one in (PROBLEM, problem_of(140, sigma_y=3.0))
    )
    given = make_sampler("mpgd").heuristic(PROBLEM, LEVELS)
    one = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)  # noqa: E731
    right, wrong, found = (
        tuned_constants(one(loss), one(given), None if coarse is None else one(coarse.coarse))
        for loss, coarse in ((begun, None), (other, None), (begun, other))
    )
    apart = np.abs(np.log(right[0]["scale"] / wrong[0]["scale"]))
    assert apart.max() > 2 * NEAR
    assert found[1][0] == pytest.approx(right[1][0], rel=1e-6)


def test_a_sampler_without_jacobian_may_do_what_both_its_baselines_do():
    """DiffPIR's baselines both do 1.34 times what the denoiser is made for: with a limit of 1.2,
    what is learned must not be worse than the constant for the limit. DPS is held to its own."""
    sampler, levels, prices = make_sampler("diffpir"), vp_linear(6), sp.Prices(1.2)
    blur = sp.gaussian_blur((32, 32), 2.0)
    problem = sp.image_problem(sp.power_law((32, 32), 3.0), blur, 0.05)
    problem = sp.bin_modes(sp.unique_modes(problem)[0], 40)[0]
    prepared = prepare(sampler, [problem], levels, prices=prices)
    growth = usual_growth(prepared.given, prepared.heuristic, prepared.constant)
    assert growth.max() > np.log(1.3)
    np.testing.assert_allclose(
        prepared.loss.max_growth, np.maximum(growth, np.log(1.2)), rtol=1e-12, atol=0
    )
    result = sp.learn(sampler, problem, levels, prices=prices, search=QUICK)
    assert result.loss <= result.baselines["tuned_constant"] * (1 + 1e-6)
    held = prepare(make_sampler("dps"), [PROBLEM], LEVELS).loss.max_growth
    np.testing.assert_allclose(held, np.log(3), rtol=1e-12)


def test_a_sampler_that_only_mixes_may_do_so_at_other_scales():
    """DDRM overwrites what is known of an image that is smooth yet: ten times what the denoiser is
    made for, by its constant, which for_network's limits would make it worse than."""
    places = np.arange(4)
    covariance = np.exp(-(((places[:, None] - places) / 3.0) ** 2)) + 1e-4 * np.eye(4)
    mask = sp.from_matrix((2, 2), np.diag([1.0, 0.0, 1.0, 0.0]))
    problem, levels = sp.covariance_problem(mask, covariance, 0.01), vp_linear(4)
    sampler = make_sampler("ddrm")
    options = sp.for_network(sampler, levels)
    prepared = prepare(sampler, [problem], levels, **options)
    prices = options["prices"]
    scaled = [problem._replace(spectrum=c * problem.spectrum) for c in (1.0, *prices.scales)]
    published, constant = (
        np.max([sp.trajectory(sampler, p, levels, of).amplification for p in scaled], axis=0)
        for of in (prepared.heuristic, prepared.constant)
    )
    most = np.maximum(np.minimum(published, constant), prices.max_amplification)
    assert most.max() > 10
    np.testing.assert_allclose(np.exp(prepared.loss.max_growth), most, rtol=1e-6)
    held = prepare(make_sampler("diffpir"), [problem], levels, prices=prices).loss.max_growth
    np.testing.assert_allclose(np.exp(held), prices.max_amplification, rtol=1e-6)
