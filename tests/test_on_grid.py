"""Schedules for the levels that a network knows."""

import numpy as np
import pytest

import spectralpost as sp
from spectralpost.noise_grid import training_levels

pytestmark = pytest.mark.usefixtures("quick")

QUICK = sp.Search(starts=2, max_iterations=20)
PRIOR, BLUR = sp.power_law((8, 8)), sp.gaussian_blur((8, 8), 1.0)
PROBLEM = sp.unique_modes(sp.image_problem(PRIOR, BLUR, 0.1))[0]
DPS = sp.SAMPLERS["dps"]()


def test_weights_are_for_the_rounded_levels():
    """As `learn` gives them there, if nothing else is asked for."""
    grid = sp.noise_grid("vp_linear", 3, spacing="leading")
    found = sp.learn_on_grid(DPS, PROBLEM, grid, learn_levels=True, search=QUICK)
    trained = training_levels("vp_linear")
    np.testing.assert_array_equal(
        found.grid.timesteps, sp.nearest_timesteps(found.search.levels, trained)
    )
    assert found.grid.timesteps != grid.timesteps
    assert found.grid.label == "vp_linear, spacing=leading, learned"
    sigma = np.asarray(trained.sigma)[999 - np.asarray(found.grid.timesteps)]
    np.testing.assert_array_equal(found.grid.levels.sigma[:-1], sigma)
    alone = sp.learn(DPS, PROBLEM, found.grid.levels, search=QUICK)
    np.testing.assert_array_equal(found.result.guidance["zeta"], alone.guidance["zeta"])


def test_for_a_network_the_search_goes_on():
    """On the rounded levels from what was found, within the limits; the history is of both."""
    grid = sp.noise_grid("vp_linear", 3)
    found = sp.learn_on_grid(DPS, PROBLEM, grid, network=True, search=QUICK)
    limits = sp.for_network(DPS, grid.levels)
    alone = sp.learn(DPS, PROBLEM, grid.levels, **limits, search=QUICK)
    for one, other in zip(found.search.levels, alone.levels, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.result.levels.sigma, found.grid.levels.sigma)
    assert len(found.result.history) > len(found.search.history)
    np.testing.assert_array_equal(found.result.explored, found.search.explored)
    # DDNM's levels are not learned for a network: it keeps its grid.
    ddnm = sp.SAMPLERS["ddnm"]()
    assert not sp.for_network(ddnm, grid.levels)["freedom"].levels
    kept = sp.learn_on_grid(ddnm, PROBLEM, grid, network=True, search=QUICK)
    assert kept.grid is grid and kept.result is kept.search


def test_levels_can_be_held_within_limits_of_a_network():
    grid = sp.noise_grid("vp_linear", 3)
    found = sp.learn_on_grid(DPS, PROBLEM, grid, learn_levels=False, network=True, search=QUICK)
    assert found.grid is grid and found.result is found.search
    limits = {**sp.for_network(DPS, grid.levels), "freedom": sp.Freedom()}
    alone = sp.learn(DPS, PROBLEM, grid.levels, **limits, search=QUICK)
    np.testing.assert_array_equal(found.result.guidance["zeta"], alone.guidance["zeta"])


@pytest.mark.parametrize("network", [False, True])
def test_an_interrupted_search_for_levels_is_said(network):
    """Though the search for weights that follows it ends by itself."""
    told = []

    def once(news):
        told.append(news)
        if len(told) == 1:
            raise KeyboardInterrupt

    grid, how = sp.noise_grid("vp_linear", 3), {"learn_levels": True, "network": network}
    found = sp.learn_on_grid(DPS, PROBLEM, grid, search=QUICK, progress=once, **how)
    assert found.search.interrupted and found.result.interrupted and len(told) > 1


def test_levels_without_time_steps_stay_as_they_are_learned():
    grid = sp.noise_grid("rectified_flow", 3)
    found = sp.learn_on_grid(DPS, PROBLEM, grid, learn_levels=True, search=QUICK)
    assert found.grid.timesteps is None
    np.testing.assert_array_equal(found.grid.levels.sigma, found.search.levels.sigma)


def test_a_schedule_begins_the_search_or_an_earlier_search_does():
    grid = sp.noise_grid("vp_linear", 3)
    first = sp.learn_on_grid(DPS, PROBLEM, grid, search=QUICK)
    schedule = sp.Schedule.of(DPS, PRIOR, BLUR, 0.1, grid, first.result.guidance)
    # At the minimum already: nothing to explore, and nothing lost.
    again = sp.learn_on_grid(DPS, PROBLEM, grid, schedules=[schedule], search=QUICK)
    assert not again.search.explored.size and again.result.loss <= first.result.loss * (1 + 1e-6)
    with pytest.raises(sp.InputError, match="leave schedules out"):
        sp.learn_on_grid(DPS, PROBLEM, grid, schedules=[schedule], resume=first.search.kept)
    alone = sp.learn_on_grid(DPS, PROBLEM, grid, free="zeta", search=QUICK)
    assert alone.result.free == ("zeta",)
    with pytest.raises(sp.InputError, match="free = 'xi'"):
        sp.learn_on_grid(DPS, PROBLEM, grid, free=("xi",), learn_levels=True)
