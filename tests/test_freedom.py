"""What else a search may learn: weights by band, noise levels, one schedule for several problems.

The linear model of Levenberg-Marquardt, in all these freedoms at once, is compared with the
gradient of the loss. Searches are small, and as alike as can be: most of their time is compilation.
"""

import functools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import many_blocks

from spectralpost.errors import InputError
from spectralpost.learning import (
    Freedom,
    LearnResult,
    Prices,
    Search,
    Several,
    evaluate,
    learn,
    loss_of,
    parameters_of,
    per_mode,
)
from spectralpost.learning.guidance import interpolation, roughness
from spectralpost.learning.parameters import LEVELS as LEVELS_NAME
from spectralpost.metrics import kl, wasserstein2
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

pytestmark = pytest.mark.usefixtures("quick")


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


def random_loss(curve, free, bands, num_problems):
    """A loss with random numbers in all that it may have, and a vector."""
    sampler = diffpir() if "lambda_" in free else dps()
    levels = GRIDS[curve]
    problems = [
        varied(sigma_y, modes, mean)
        for sigma_y, modes, mean in ((0.2, 12, 0.4), (0.6, 9, 0.0), (0.05, 12, 1.0))
    ][:num_problems]
    guidance = sampler.heuristic(problems[0], levels)
    if sampler.name == "dps":
        guidance |= {"eta": jnp.linspace(0, 1, STEPS)}
    parameters = parameters_of(
        sampler, levels, guidance, free, learn_levels=True, bands=bands, problem=problems[0]
    )
    loss = loss_of(
        parameters,
        problems,
        wasserstein2,
        several=Several(references=(1.0, 4.0, 1.5)[:num_problems]),
        max_amplification=0.2,  # so low that all steps are above it
        weak_modes=1.3,
        rough_price=0.02,
    )
    rng, vector = np.random.default_rng(1), []
    for name, basis in parameters.basis.items():
        # Gaps near the given ones, and all weights at work.
        law = (0, 0.2) if name == LEVELS_NAME else (-1, 0.5)
        vector.append(rng.normal(*law, basis.shape[-1]))
    return loss, jnp.asarray(np.concatenate(vector))


@jax.jit
def loss_and_model(loss, vector):
    """The loss and its gradient; the same of its linear model."""
    r, jacobian = loss.linearised(vector)
    chex.assert_shape(jacobian, (*r.shape, vector.size))
    return jax.value_and_grad(loss)(vector), (jnp.sum(r**2), 2 * jacobian.T @ r)


def assert_model_is_the_loss(loss, vector):
    """To the rounding of five steps: 1e-10 of the largest derivative by the same input."""
    wanted, found = loss_and_model(loss, vector)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)
    overall = np.abs(wanted[1]).max()
    parts = (loss.parameters.split(gradient).values() for gradient in (found[1], wanted[1]))
    for one, other in zip(*parts, strict=True):
        largest = np.abs(other).max()
        assert largest > 1e-8 * overall
        atol = 1e-10 * largest + 1e-14 * overall
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)
    return wanted


@pytest.mark.parametrize(
    ("curve", "free", "bands", "num_problems"),
    [("flow", ("lambda_", "zeta"), None, 2), ("vp", ("eta", "zeta"), 3, 3)],
)
def test_linear_model_has_the_gradient_of_the_loss(curve, free, bands, num_problems):
    """Bands, levels and several problems, alone and together: 2 J^T r is the gradient, r . r the
    loss; for their average and for the worst of them, without the prices and with them."""
    loss, vector = random_loss(curve, free, bands, num_problems)
    value, gradient = assert_model_is_the_loss(loss, vector)
    # without the price of amplification, of roughness: both count
    unlimited = replace(loss, max_growth=jnp.asarray(np.inf))
    smooth = replace(loss, rough_price=jnp.asarray(0.0))
    assert value - assert_model_is_the_loss(unlimited, vector)[0] > 0.1
    assert value - assert_model_is_the_loss(smooth, vector)[0] > 1e-3
    worst = assert_model_is_the_loss(replace(loss, power=jnp.asarray(50.0)), vector)
    assert np.abs(worst[1] - gradient).max() > 1e-3 * np.abs(gradient).max()
    assert_model_is_the_loss(replace(unlimited, power=jnp.asarray(50.0)), vector)


# ----------------------------------------------------------------------------------------- learning

# Three starts: as many are refined as are explored, so that one program does both.
FEW = Search(starts=3, max_iterations=200)
BARE = {"search": FEW, "prices": Prices(max_amplification=np.inf, smoothness=0.0)}
OTHER = varied(0.05)


@functools.cache
def learned(problems=1, **options) -> LearnResult:
    """Of PROBLEM, of it and OTHER (2), or of it twice (-2)."""
    problem = {1: PROBLEM, 2: [PROBLEM, OTHER], -2: [PROBLEM, PROBLEM]}[problems]
    return learn(dps(), problem, LEVELS, **BARE | options)


RICHER = {
    "bands": {"freedom": Freedom(bands=2)},
    "levels": {"freedom": Freedom(levels=True)},
    "all": {"free": ("zeta", "eta"), "freedom": Freedom(levels=True, bands=2)},
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
    # `loss` is what `evaluate` says of the schedule that is returned
    guidance = rich.guidance
    if RICHER[name]["freedom"].bands:
        assert rich.band_knots is not None and rich.guidance["zeta"].shape == (STEPS, 2)
        assert np.ptp(np.log(rich.guidance["zeta"]), axis=1).max() > 0.1
        guidance = per_mode(dps().constraint, guidance, PROBLEM, rich.band_knots)
    else:
        assert rich.band_knots is None and rich.guidance["zeta"].shape == (STEPS,)
    found = evaluate(dps(), PROBLEM, rich.levels, guidance)
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


def test_fewer_numbers_learn_less():
    """Constant, three knots, free: each can do what the one before it can."""
    results = [learned(freedom=Freedom(knots=knots)) for knots in (1, 3, None)]
    losses = [result.loss for result in results]
    assert losses[0] >= losses[1] * (1 - 1e-6) and losses[1] >= losses[2] * (1 - 1e-6)
    assert losses[2] < 0.99 * losses[0]
    constant, piecewise = (np.log(result.guidance["zeta"]) for result in results[:2])
    assert np.ptp(constant) < 1e-9
    shape = interpolation(LEVELS, 3)
    fitted = shape @ np.linalg.lstsq(shape, piecewise)[0]
    np.testing.assert_allclose(fitted, piecewise, rtol=1e-10)


def test_smoothness_is_traded_for_loss():
    """A high price makes the schedule smooth, a small one hardly costs anything."""
    results = [learned(prices=Prices(smoothness=price)) for price in (0.0, 1e-4, 1.0)]
    rough = [
        float(jnp.sum(roughness(jnp.log(result.guidance["zeta"]), LEVELS) ** 2))
        for result in results
    ]
    assert rough[2] < 0.5 * rough[0]
    assert rough[1] <= rough[0]
    losses = [result.loss for result in results]
    assert losses[0] <= losses[2] * (1 + 1e-6)
    constant = results[0].baselines["tuned_constant"]
    assert losses[1] <= losses[0] + 1e-4 * constant * rough[0] * (1 + 1e-3)


# ----------------------------------------------------------------------------------- many problems


def test_average_of_several_problems():
    """`loss` is the mean of `losses`, which are those of the one schedule."""
    result = learned(2)
    wanted = [evaluate(dps(), one, LEVELS, result.guidance) for one in (PROBLEM, OTHER)]
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
    size = np.mean(references)
    # Searches end in one of several minima. Each begins where the one before it ended, so what it
    # finds is at least as good by its own measure, whatever the minimum.
    begun_at = functools.partial(learn, dps(), [PROBLEM, OTHER], LEVELS, **BARE)
    first = learned(2, several=Several(False, references))
    worst = begun_at(first.guidance, several=Several(True, references))
    average = begun_at(worst.guidance, several=Several(False, references))
    ratios = [result.losses / np.asarray(references) for result in (first, worst, average)]
    norms = [np.mean(ratio**50) ** (1 / 50) for ratio in ratios]
    assert norms[1] < 0.999 * norms[0]
    assert ratios[2].mean() <= ratios[1].mean() * (1 + 1e-9)
    for result, ratio in ((first, ratios[0]), (average, ratios[2])):
        np.testing.assert_allclose(result.loss, ratio.mean() * size, rtol=1e-12)
    np.testing.assert_allclose(worst.loss, norms[1] * size, rtol=1e-12)
    np.testing.assert_allclose(worst.history[-1], worst.loss, rtol=1e-9)
    # Unweighted: the average of the losses themselves counts, and no schedule has a lower one.
    plain = begun_at(average.guidance)
    assert plain.losses.mean() <= average.losses.mean() * (1 + 1e-9)
    assert plain.losses[1] / plain.losses[0] > average.losses[1] / average.losses[0]


LEVELS_ARE_A_FLAG = r"free = 'levels': .*freedom=Freedom\(levels=True\)"


@pytest.mark.parametrize(
    ("problem", "options", "match"),
    [
        (PROBLEM, {"free": ("levels",)}, LEVELS_ARE_A_FLAG),
        (PROBLEM, {"free": ("zeta", "levels")}, LEVELS_ARE_A_FLAG),
        (PROBLEM, {"free": ()}, "one weight at least.*zeta, eta"),
        (PROBLEM, {"free": ("zeta", "level")}, "free = 'level'.*zeta, eta"),
        (PROBLEM, {"freedom": Freedom(knots=0)}, "knots = 0"),
        (PROBLEM, {"freedom": Freedom(knots=1.5)}, "knots = 1.5"),
        (PROBLEM, {"freedom": Freedom(bands=0)}, "bands = 0"),
        (PROBLEM, {"freedom": Freedom(bands=True)}, "bands = True"),
        (many_blocks(2).problem, {"freedom": Freedom(bands=2)}, "bands = 2.*independent modes"),
        ([PROBLEM, many_blocks(2).problem], {}, "problems.*blocks"),
        ([many_blocks(2).problem, many_blocks(3).problem], {}, "problems.*one size"),
        ([], {}, "problem"),
        ([PROBLEM, OTHER], {"several": Several(references=[1.0])}, "references.*2 finite numbers"),
        ([PROBLEM, OTHER], {"several": Several(references=[1.0, 0.0])}, "references"),
        ([PROBLEM, OTHER], {"several": Several(references=[1.0, np.nan])}, "references"),
        ([PROBLEM, OTHER], {"several": Several(references=[1.0, np.inf])}, "references"),
    ],
)
def test_wrong_freedoms(problem, options, match):
    """Each in one line."""
    with pytest.raises(InputError, match=match) as caught:
        learn(dps(), problem, LEVELS, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("search", [Search(starts=2), Search(starts=2, explore=False)])
@pytest.mark.parametrize("objective", [wasserstein2, kl])
def test_levels_alone(objective, search):
    """White images of variance 1 and no measurement. A DDIM step takes the standard deviation times
    the cosine of the angle that arctan(sigma / alpha) moves by, log cos is concave, so equal angles
    are best, for any metric of the one variance that comes out."""
    problem = make_problem(spectrum=[1.0], response=[0.0], sigma_y=1.0)
    still = {"zeta": jnp.zeros(STEPS), "eta": jnp.zeros(STEPS)}
    result = learn(
        dps(),
        problem,
        LEVELS,
        still,
        (),
        objective=objective,
        freedom=Freedom(levels=True),
        prices=Prices(max_amplification=np.inf, smoothness=0.0),
        search=search,
    )
    assert result.free == ()
    for name, weights in result.guidance.items():
        np.testing.assert_array_equal(weights, still[name])
    assert result.baselines["tuned_constant"] == result.baselines["heuristic"]
    first = np.arctan2(*(float(leaf[0]) for leaf in reversed(LEVELS)))
    std = np.sin(first) * np.cos(first / STEPS) ** STEPS
    best = (1 - std) ** 2 if objective is wasserstein2 else (std**2 - 1) / 2 - np.log(std)
    # A search ends where 20 iterations gain less than its tolerance.
    assert best * (1 - 1e-9) <= result.loss <= best * (1 + 10 * search.tolerance)


def test_one_step_has_no_gap_to_learn():
    with pytest.raises(InputError, match="levels: one step has no gap"):
        learn(dps(), PROBLEM, vp_linear(1), freedom=Freedom(levels=True))


@pytest.mark.parametrize("bands", [None, 2])
def test_one_more_weight_ends_no_higher(bands):
    """A search for eta begins, among others, where that without it ends up."""
    fewer = learned(freedom=Freedom(levels=True), free=("zeta",))
    more = learned(freedom=Freedom(levels=True, bands=bands), free=("zeta", "eta"))
    assert set(more.free) == {"zeta", "eta"}
    assert more.loss < 1.01 * fewer.loss
