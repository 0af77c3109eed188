"""What else a search may learn: weights by band, noise levels, one schedule for several problems.

The linear model of Levenberg-Marquardt, in all these freedoms at once, is compared with the
gradient of the loss. Searches are small, and as alike as can be: most of their time is compilation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import many_blocks
from compiling import quick_compilation
from spectralpost.baselines import score
from spectralpost.guidance import band_knots, interpolation, per_mode
from spectralpost.least_squares import initial_search
from spectralpost.search import Setting, Task, basis_of

from spectralpost import search
from spectralpost.errors import InputError
from spectralpost.learning import LearnResult, learn
from spectralpost.merging import stack_problems
from spectralpost.metrics import wasserstein2
from spectralpost.noise import (
    check_levels,
    curve_of,
    rectified_flow,
    respaced,
    ve_karras,
    vp_linear,
)
from spectralpost.problem import make_problem
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps
from spectralpost.transfer import sampler_transfer

EPS = np.finfo(float).eps
STEPS, MODES = 5, 12
GRIDS = {
    "vp": vp_linear(STEPS),
    "ve": ve_karras(STEPS, sigma_max=10.0, sigma_min=0.1),
    "flow": rectified_flow(STEPS),
}
LEVELS = GRIDS["vp"]


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with quick_compilation():
        yield


def varied(sigma_y=0.2, modes=MODES, mean=0.0):
    """From modes that are measured well to some that hardly are: one weight cannot serve all."""
    spectrum, response = np.geomspace(4, 0.02, modes), np.linspace(1, 0.02, modes)
    weight = 1 + np.arange(modes) % 3
    return make_problem(spectrum, response, sigma_y, mean=np.full(modes, mean), weight=weight)


PROBLEM = varied()


# ---------------------------------------------------------------------------------- weights by mode


@pytest.mark.parametrize("sampler", [dps(), diffpir()], ids=lambda sampler: sampler.name)
def test_weights_by_mode_are_plain_weights_of_each_mode(sampler):
    """[S, F], against as many problems of one mode, each with weights [S] of its own."""
    problem = varied(mean=0.3)
    rng = np.random.default_rng(0)
    guidance = {
        name: jnp.asarray(rng.uniform(0.05, 0.3, (STEPS, MODES))) for name in sampler.constraint
    }
    total = jax.jit(functools.partial(sampler_transfer, sampler))(problem, LEVELS, guidance)

    @jax.jit
    @jax.vmap
    def one_by_one(mode):
        one = jax.tree.map(lambda leaf: leaf[mode][None] if leaf.ndim else leaf, problem)
        weights = {name: values[:, mode] for name, values in guidance.items()}
        return sampler_transfer(sampler, one, LEVELS, weights)

    for found, wanted in zip(total, one_by_one(jnp.arange(MODES)), strict=True):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted[:, 0], rtol=0, atol=1000 * EPS * scale)
    assert np.ptp(total.data_gain) > 0.01


# ----------------------------------------------------- the linear model of Levenberg-Marquardt


def of_name(basis):
    """Which parameters these are of, [P]."""
    return np.any(np.asarray(basis).reshape(-1, basis.shape[-1]) != 0, axis=0)


class Freedom:
    """A task and a setting with random numbers, and what the search makes of them."""

    def __init__(self, curve, free, bands, num_problems):
        sampler = diffpir() if "lambda_" in free else dps()
        levels = GRIDS[curve]
        self.task = Task(
            sampler,
            wasserstein2,
            free,
            "lm",
            0.0,
            curve=curve if search.LEVELS in free else None,
        )
        problems = [
            varied(sigma_y, modes, mean)
            for sigma_y, modes, mean in ((0.2, 12, 0.4), (0.6, 9, 0.0), (0.05, 12, 1.0))
        ][:num_problems]
        fixed = {} if "eta" in free or sampler.name == "diffpir" else {"eta": jnp.linspace(0, 1, 5)}
        self.setting = Setting(
            stack_problems(problems),
            jnp.asarray([0.2, 1.3, 0.7][:num_problems]),
            jnp.asarray([1.5, 0.4, 1.0][:num_problems]),
            jnp.asarray(1.0),
            levels,
            fixed,
            jnp.asarray(np.log(0.2)),  # so low that all steps are above it
            jnp.asarray(0.02),
            basis_of(free, levels, interpolation(levels, None), bands),
            band_knots=None if bands is None else band_knots(problems[0], bands),
        )
        rng, params = np.random.default_rng(1), []
        for name, basis in self.setting.basis.items():
            # Gaps near the given ones, and all weights at work.
            law = (0, 0.2) if name == search.LEVELS else (-1, 0.5)
            params.append(rng.normal(*law, np.count_nonzero(of_name(basis))))
        self.params = np.concatenate(params)

    @functools.cached_property
    def model(self):
        """Compiled (setting, params) -> (loss, its gradient, the same of the linear model)."""

        @jax.jit
        def model(setting, params):
            caught = []

            def catch(state, loss, linearised):
                caught.append((loss, linearised))
                return state

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(search, "levenberg_marquardt", catch)
                search._lm_iteration(self.task, setting, initial_search(params))
            ((loss, linearised),) = caught
            r, jacobian = linearised(params)
            assert jacobian.shape == (*r.shape, params.size)
            return jax.value_and_grad(loss)(params), (jnp.sum(r**2), 2 * jacobian.T @ r)

        return model

    def assert_model_is_the_loss(self, **changes):
        """To the rounding of five steps: 1e-10 of the largest derivative by the same input."""
        setting = self.setting._replace(**changes)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            wanted, found = self.model(setting, jnp.asarray(self.params))
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)
        overall = np.abs(wanted[1]).max()
        for basis in setting.basis.values():
            mine = of_name(basis)
            one, other = found[1][mine], wanted[1][mine]
            largest = np.abs(other).max()
            assert largest > 1e-8 * overall
            atol = 1e-10 * largest + 1e-14 * overall
            np.testing.assert_allclose(one, other, rtol=0, atol=atol)
        return wanted


@pytest.mark.parametrize(
    ("curve", "free", "bands", "num_problems"),
    [
        ("flow", ("lambda_", "levels", "zeta"), None, 2),
        ("vp", ("eta", "levels", "zeta"), 3, 3),
    ],
)
def test_linear_model_has_the_gradient_of_the_loss(curve, free, bands, num_problems):
    """Bands, levels and several problems, alone and together: 2 J^T r is the gradient, r . r the
    loss; for their average and for the worst of them, without the penalties and with them."""
    freedom = Freedom(curve, free, bands, num_problems)
    loss, gradient = freedom.assert_model_is_the_loss()
    # without the price of amplification, of roughness: both count
    unlimited = freedom.assert_model_is_the_loss(max_growth=jnp.asarray(np.inf))
    smooth = freedom.assert_model_is_the_loss(rough_price=jnp.asarray(0.0))
    assert loss - unlimited[0] > 0.1 and loss - smooth[0] > 1e-3
    if num_problems > 1:
        worst = freedom.assert_model_is_the_loss(power=jnp.asarray(50.0))
        assert np.abs(worst[1] - gradient).max() > 1e-3 * np.abs(gradient).max()
        worst = freedom.assert_model_is_the_loss(
            power=jnp.asarray(50.0), max_growth=jnp.asarray(np.inf)
        )


# ----------------------------------------------------------------------------------------- learning

# Three starts: as many are refined as are explored, so that one program does both.
BARE = {"num_starts": 3, "max_iterations": 200, "smoothness": 0.0, "max_amplification": np.inf}
OTHER = varied(0.05)


@functools.cache
def learned(problems=1, **options) -> LearnResult:
    """Of PROBLEM, of it and OTHER (2), or of it twice (-2)."""
    problem = {1: PROBLEM, 2: [PROBLEM, OTHER], -2: [PROBLEM, PROBLEM]}[problems]
    return learn(dps(), problem, LEVELS, **BARE | options)


RICHER = {
    "bands": {"bands": 2},
    "levels": {"free": ("zeta", "levels")},
    "all": {"free": ("zeta", "eta", "levels"), "bands": 2},
}


@pytest.mark.parametrize("name", RICHER)
def test_richer_schedules_are_better(name):
    """Never worse than weights by step, and here, where modes differ, clearly better."""
    plain, rich = learned(), learned(**RICHER[name])
    assert rich.loss < 0.9 * plain.loss
    assert plain.loss < plain.baselines["tuned_constant"]
    if name != "all":  # eta is free in all of its baselines
        assert rich.baselines["tuned_constant"] == pytest.approx(
            plain.baselines["tuned_constant"], rel=1e-9
        )
    # `loss` is what `score` says of the schedule that is returned
    guidance = rich.guidance
    if "bands" in RICHER[name]:
        assert rich.band_knots is not None and rich.guidance["zeta"].shape == (STEPS, 2)
        assert np.ptp(np.log(rich.guidance["zeta"]), axis=1).max() > 0.1
        guidance = per_mode(dps().constraint, guidance, PROBLEM, rich.band_knots)
    else:
        assert rich.band_knots is None and rich.guidance["zeta"].shape == (STEPS,)
    found = score(dps(), PROBLEM, rich.levels, guidance)
    np.testing.assert_allclose(found, rich.loss, rtol=1e-9)
    assert rich.losses.shape == (1,) and rich.losses[0] == rich.loss


@pytest.mark.parametrize("name", RICHER)
def test_the_loss_is_that_of_the_search(name):
    """The schedule that is returned loses nothing of what was found in unconstrained numbers, where
    weights may be very near 0 or 1."""
    rich = learned(**RICHER[name])
    np.testing.assert_allclose(rich.history[-1], rich.loss, rtol=1e-9)


def test_more_is_better_still():
    """All freedoms against each of them."""
    assert learned(**RICHER["all"]).loss < min(
        learned(**RICHER[name]).loss for name in ("bands", "levels")
    )


@pytest.mark.parametrize("name", ["levels", "all"])
def test_learned_levels_are_a_grid(name):
    """Of the same family, with the same ends, and what `kept` says of the best."""
    result = learned(**RICHER[name])
    levels = check_levels(result.levels)
    assert curve_of(levels) == "vp"
    for new, old in zip(levels, LEVELS, strict=True):
        assert new.shape == old.shape and new[0] == old[0] and new[-1] == old[-1]
        assert np.abs(new - old).max() > 0.01
    grids = [respaced("vp", LEVELS, jnp.asarray(u)) for u in result.kept["levels"]]
    assert min(np.abs(grid.sigma - levels.sigma).max() for grid in grids) < 1e-12
    np.testing.assert_array_equal(learned().levels.sigma, LEVELS.sigma)


# ----------------------------------------------------------------------------------- many problems


def test_average_of_several_problems():
    """`loss` is the mean of `losses`, which are those of the one schedule."""
    result = learned(2)
    wanted = [score(dps(), one, LEVELS, result.guidance) for one in (PROBLEM, OTHER)]
    np.testing.assert_allclose(result.losses, wanted, rtol=1e-9)
    np.testing.assert_allclose(result.loss, np.mean(result.losses), rtol=1e-12)
    assert result.loss < result.baselines["tuned_constant"]
    assert result.losses[0] >= learned().loss * (1 - 1e-3)  # which serves that problem alone


def test_the_same_problem_twice_is_that_problem():
    """All roundings differ, and searches are not stable: the same minimum, where it is flat."""
    one, two = learned(), learned(-2)
    np.testing.assert_allclose(two.loss, one.loss, rtol=1e-4)
    assert two.losses[0] == pytest.approx(two.losses[1], rel=1e-12)
    for name, value in one.baselines.items():
        np.testing.assert_allclose(two.baselines[name], value, rtol=1e-9)


def test_references_and_the_worst_case():
    """Losses relative to references; the worst case is bought with the average."""
    references = (0.02, 0.005)
    many = {"num_starts": 48, "references": references}  # 16 may end in a lesser minimum
    average, worst = learned(2, **many), learned(2, **many, worst_case=True)
    ratios = [result.losses / np.asarray(references) for result in (average, worst)]
    assert ratios[1].max() < 0.999 * ratios[0].max()
    assert ratios[1].mean() >= ratios[0].mean() * (1 - 1e-4)
    size = np.mean(references)
    np.testing.assert_allclose(average.loss, ratios[0].mean() * size, rtol=1e-12)
    norm = np.mean(ratios[1] ** 50) ** (1 / 50)
    np.testing.assert_allclose(worst.loss, norm * size, rtol=1e-12)
    np.testing.assert_allclose(worst.history[-1], worst.loss, rtol=1e-9)
    # a problem with a small reference counts more than without
    plain = learned(2, num_starts=48)
    assert average.losses[1] < plain.losses[1] and average.losses[0] > plain.losses[0]


@pytest.mark.parametrize(
    ("problem", "options", "match"),
    [
        (PROBLEM, {"free": ("levels",)}, "one weight at least.*zeta, eta"),
        (PROBLEM, {"free": ("zeta", "level")}, "levels may be learned"),
        (PROBLEM, {"knots": 0}, "knots = 0"),
        (PROBLEM, {"knots": 1.5}, "knots = 1.5"),
        (PROBLEM, {"bands": 0}, "bands = 0"),
        (PROBLEM, {"bands": True}, "bands = True"),
        (many_blocks(2).problem, {"bands": 2}, "bands = 2.*independent modes"),
        ([PROBLEM, many_blocks(2).problem], {}, "problems.*blocks"),
        ([many_blocks(2).problem, many_blocks(3).problem], {}, "problems.*one size"),
        ([], {}, "problem"),
        ([PROBLEM, OTHER], {"references": [1.0]}, "references.*2 finite numbers"),
        ([PROBLEM, OTHER], {"references": [1.0, 0.0]}, "references"),
        ([PROBLEM, OTHER], {"references": [1.0, np.nan]}, "references"),
        ([PROBLEM, OTHER], {"references": [1.0, np.inf]}, "references"),
    ],
)
def test_wrong_freedoms(problem, options, match):
    with pytest.raises(InputError, match=match):
        learn(dps(), problem, LEVELS, **options)
