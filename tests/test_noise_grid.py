"""Grids by name, and the time steps of a network."""

import jax.numpy as jnp
import numpy as np
import pytest

from spectralpost.errors import InputError
from spectralpost.noise import NoiseLevel, nearest_timesteps, num_steps_of, vp_linear
from spectralpost.noise_grid import GRIDS, noise_grid, rounded, timestep_grid, training_levels


@pytest.mark.parametrize("name", GRIDS)
def test_grids_by_name(name):
    grid = noise_grid(name, 5)
    np.testing.assert_array_equal(grid.levels.sigma, GRIDS[name](5).sigma)
    assert (grid.timesteps is None) == (name not in ("vp_linear", "vp_cosine"))
    assert grid.label == grid.name == name and grid.options == {}
    for options, message in (
        ({"steps": 3}, f"grid '{name}': has no option 'steps'"),
        ({"num_steps": 3}, "has no option 'num_steps'"),
    ):
        with pytest.raises(InputError, match=message):
            noise_grid(name, 5, **options)
    with pytest.raises(InputError, match="grid = 'linear': allowed are vp_linear"):
        noise_grid("linear", 5)


def test_numbers_of_numpy_and_jax_are_numbers():
    one = noise_grid("vp_linear", 3, train_steps=np.int64(500), beta_end=jnp.float32(0.01))
    two = noise_grid("vp_linear", 3, train_steps=500, beta_end=float(np.float32(0.01)))
    assert one.options == two.options and type(one.options["train_steps"]) is int
    np.testing.assert_array_equal(one.levels.sigma, two.levels.sigma)


def test_a_label_names_what_was_changed():
    grid = noise_grid("vp_linear", 5, spacing="leading", train_steps=1000.0)
    assert grid.label == "vp_linear, spacing=leading"
    assert noise_grid("rectified_flow", 5, shift=3).label == "rectified_flow, shift=3.0"


@pytest.mark.parametrize("options", [{}, {"train_steps": 100, "beta_end": 0.1}])
def test_levels_of_a_grid_are_among_those_of_training(options):
    """Row T - 1 - t of the training grid is time step t, whatever the spacing of the grid is."""
    options = options | {"spacing": "trailing"}
    trained = training_levels("vp_linear", **options)
    grid = noise_grid("vp_linear", 5, **options)
    rows = num_steps_of(trained) - 1 - np.asarray(grid.timesteps)
    np.testing.assert_array_equal(grid.levels.sigma[:-1], trained.sigma[rows])
    np.testing.assert_array_equal(nearest_timesteps(grid.levels, trained), grid.timesteps)


def test_learned_levels_become_those_of_time_steps():
    grid = noise_grid("vp_linear", 3, train_steps=500)
    learned = NoiseLevel(grid.levels.alpha * 1.0001, grid.levels.sigma * 0.9999)
    learned = NoiseLevel(learned.alpha.at[-1].set(1.0), learned.sigma)
    found = rounded(grid, learned)
    assert found.timesteps == grid.timesteps and found.label == f"{grid.label}, learned"
    np.testing.assert_array_equal(found.levels.sigma, grid.levels.sigma)
    flow = noise_grid("rectified_flow", 3)
    moved = vp_linear(3)  # any: the grid has no time steps
    assert rounded(flow, moved).levels is moved and rounded(flow, moved).timesteps is None


def test_time_steps_of_ones_own():
    """The levels that a network knows there; those of a grid by name are the grid's."""
    uniform = noise_grid("vp_linear", 5)
    own = timestep_grid(uniform.timesteps)
    np.testing.assert_array_equal(own.levels.alpha, uniform.levels.alpha)
    assert own.timesteps == uniform.timesteps and own.label == "vp_linear, own time steps"
    short = timestep_grid([400, 7], "vp_linear", train_steps=500)
    trained = vp_linear(500, train_steps=500)
    np.testing.assert_array_equal(short.levels.sigma[:2], trained.sigma[np.array([99, 492])])
    for given, options, message in (
        ((1, 2), {}, "must descend"),
        ((), {}, "timesteps: 0 were given"),
        ((1000, 1), {}, "1000 is the largest; of 1000 the last is 999"),
        ((2.5, 1), {}, "timesteps = 2.5"),
        ((2, 1), {"spacing": "leading"}, "has no option 'spacing'"),
    ):
        with pytest.raises(InputError, match=message):
            timestep_grid(given, **options)
    with pytest.raises(InputError, match="'ve_karras': has no time steps"):
        timestep_grid((2, 1), "ve_karras")
