"""Learned schedules: better than constants, which are better than the published defaults.

Compiling a search takes seconds, running it milliseconds. So there is one small problem, `learned`
keeps the results, and what needs a compilation of its own is tested with as little of them as will
do: PiGDM in single precision, blocks with the sampler that divides by norms, KL with Adam.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS, circular, many_blocks, one_block

import spectralpost as sp
from spectralpost import transfer
from spectralpost.calibration import LEVELS as KNOWN_LEVELS
from spectralpost.calibration import Calibration
from spectralpost.degradations import motion_blur
from spectralpost.errors import InputError
from spectralpost.learning import (
    LearnResult,
    Parameters,
    Prices,
    Search,
    default_free,
    evaluate,
    evaluate_exact,
    gradient,
    jacobian,
    lanes,
    learn,
    levenberg_marquardt,
    plateau,
    prepare,
    preparing,
    sensitivity,
)
from spectralpost.learning.generations import KEPT, PATIENCE
from spectralpost.learning.guidance import constrain, unconstrain
from spectralpost.learning.loss import rescaled
from spectralpost.merging import unique_modes
from spectralpost.metrics import kl, wasserstein2
from spectralpost.noise import NoiseLevel, vp_cosine, vp_linear
from spectralpost.prior import draw, power_law
from spectralpost.problem import Problem, image_problem
from spectralpost.samplers import SAMPLERS as TABLE
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps
from spectralpost.samplers.pigdm import pigdm

SAMPLERS = {
    "dps": dps(),
    "dps normalised": dps(normalised=True),
    "pigdm": pigdm(),
    "diffpir": diffpir(),
}
EPS = np.finfo(float).eps
STEPS = 5
LEVELS = vp_linear(STEPS)
SINGLE = ("pigdm",)  # samplers that are learned in single precision
# The sizes of test_cli.py: what is compiled for one serves the other.
MANY = Search(starts=32)
EIGHT = Search(starts=8)
UNLIMITED = Prices(max_amplification=np.inf)
search = functools.partial(learn, search=MANY)

pytestmark = pytest.mark.usefixtures("quick")


# Every program of a search traces one of these: a step, the grid of a vector, a lane that begins.
TRACED = (
    (transfer, "step_transfer"),
    (jacobian, "step_transfer"),
    (gradient, "step_transfer"),
    (Parameters, "grid"),
    (levenberg_marquardt, "begin"),
)


@pytest.fixture
def forbid_tracing(monkeypatch):
    """A function, from whose call on a search may only run what is compiled already.

    What `divides_by_norms` finds out by shapes alone, and never compiles, is answered here.
    """

    def forbid():
        chex.clear_trace_counter()
        monkeypatch.setattr(preparing, "divides_by_norms", lambda *_: False)
        for place, name in TRACED:
            forbidden = chex.assert_max_traces(getattr(place, name), n=0)
            monkeypatch.setattr(place, name, forbidden)

    return forbid


def small_problem(exponent=2.0, angle=30.0, sigma_y=0.1) -> Problem:
    """16 x 16 pixels, a power law, a motion blur: 130 different modes whatever the numbers."""
    prior = power_law((16, 16), exponent)
    degradation = motion_blur((16, 16), length=3.0, angle=angle)
    return unique_modes(image_problem(prior, degradation, sigma_y))[0]


PROBLEM = small_problem()


def setting(name: str) -> tuple[Problem, NoiseLevel]:
    dtype = jnp.float32 if name in SINGLE else jnp.float64
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (PROBLEM, LEVELS))


def two_programs(name: str) -> float:
    """Relative difference of the same value by two compiled programs, whose roundings differ: eps
    times some thousand operations."""
    return 5000 * float(jnp.finfo(setting(name)[0].spectrum.dtype).eps)


@functools.cache
def learned(name: str, **options) -> LearnResult:
    return search(SAMPLERS[name], *setting(name), **options)


@functools.cache
def by_lbfgs() -> LearnResult:
    """Traced once at most: its state must have the same types before and after an iteration."""
    chex.clear_trace_counter()
    with pytest.MonkeyPatch.context() as patch:
        once = chex.assert_max_traces(lanes._optax_iteration, n=1)
        patch.setattr(lanes, "_optax_iteration", once)
        return learned("dps", search=EIGHT._replace(optimizer="lbfgs"))


def amplification(result: LearnResult):
    return transfer.trajectory(dps(), PROBLEM, LEVELS, result.guidance).amplification


def assert_ordered(result: LearnResult):
    """Learned < tuned constant < published default, and all of them are numbers."""
    losses = [result.loss, result.baselines["tuned_constant"], result.baselines["heuristic"]]
    assert np.all(np.isfinite(losses)) and losses[0] > 0
    assert losses[0] < losses[1] < losses[2]


# ----------------------------------------------------------------------------------- what it finds


@pytest.mark.parametrize("name", ["dps", "pigdm", "diffpir"])
def test_learned_beats_constant_beats_published(name):
    result = learned(name)
    assert_ordered(result)
    assert result.converged
    assert set(result.guidance) == set(SAMPLERS[name].constraint)
    assert set(result.baselines) == {"heuristic", "tuned_constant", "exact"}
    for weights in result.guidance.values():
        assert weights.shape == (STEPS,) and weights.dtype == setting(name)[1].alpha.dtype
        assert np.all(np.isfinite(weights)) and weights.min() >= 0


@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"exact"}))
def test_every_sampler_of_the_table_learns(name):
    """Without a limit the learned schedule is not worse than the constant that it starts from."""
    sampler, problem = TABLE[name](), PROBLEM
    result = learn(
        sampler, problem, LEVELS, prices=UNLIMITED, search=Search(starts=2, max_iterations=20)
    )
    assert result.free == tuple(sorted(default_free(sampler)))
    losses = [result.loss, result.baselines["tuned_constant"], result.baselines["heuristic"]]
    assert np.all(np.isfinite(losses)) and losses[0] > 0
    rounding = 1 + two_programs("dps")
    # Learned weights in [0, 1] keep 6e-6 away from both ends (`guidance.bounded`).
    assert losses[0] <= losses[1] * (1 + 1e-5) and losses[1] <= losses[2] * rounding
    assert np.all(np.isfinite(result.history)) and np.all(np.diff(result.history) <= 0)


def test_what_is_learned_by_default():
    assert default_free(TABLE["ddrm"]()) == ("eta_b",)
    assert set(default_free(TABLE["diffpir"]())) == {"lambda_", "zeta"}
    assert default_free(TABLE["ddnm"]()) == ("eta",)  # there is nothing else


@pytest.mark.parametrize("name", ["dps", "pigdm", "diffpir"])
def test_losses_are_those_of_the_schedules(name):
    """`loss` and `baselines` are what `evaluate` says of the schedules that are returned."""
    result, (problem, levels), rtol = learned(name), setting(name), two_programs(name)
    pairs = [(result.guidance, result.loss)]
    for baseline in ("heuristic", "tuned_constant"):
        pairs.append((result.baseline_guidance[baseline], result.baselines[baseline]))
    for guidance, loss in pairs:
        found = evaluate(SAMPLERS[name], problem, levels, guidance)
        np.testing.assert_allclose(found, loss, rtol=rtol)
    eta = result.baseline_guidance["exact"]["eta"]
    found = evaluate_exact(problem, levels, eta)
    np.testing.assert_allclose(found, result.baselines["exact"], rtol=rtol)
    for weight, values in SAMPLERS[name].heuristic(problem, levels).items():
        given = result.baseline_guidance["heuristic"][weight]
        np.testing.assert_allclose(given, values, rtol=rtol)


def test_single_precision_loses_nothing():
    """The schedule found in float32, scored in float64."""
    result = learned("pigdm")
    guidance = {name: values.astype(jnp.float64) for name, values in result.guidance.items()}
    assert result.guidance["weight"].dtype == jnp.float32
    loss = evaluate(pigdm(), PROBLEM, LEVELS, guidance)
    np.testing.assert_allclose(loss, result.loss, rtol=two_programs("pigdm"))


def test_the_exact_reference_takes_the_eta_of_the_sampler():
    """DPS is published with eta 1, PiGDM with 0; DiffPIR has none, which is 0."""
    for name, eta in (("dps", 1.0), ("pigdm", 0.0), ("diffpir", 0.0)):
        np.testing.assert_array_equal(learned(name).baseline_guidance["exact"]["eta"], eta)


def test_every_optimizer_learns():
    """All beat the tuned constant, and the least squares are at most 1 % above the best of them."""
    results = {
        "lm": learned("dps"),
        "lbfgs": by_lbfgs(),
        "adam": learned("dps", search=EIGHT._replace(optimizer="adam")),
    }
    for result in results.values():
        assert_ordered(result)
    best = min(result.loss for result in results.values())
    assert results["lm"].loss <= 1.01 * best


def test_auto_is_least_squares_where_it_applies():
    again = learn(dps(), PROBLEM, LEVELS, search=MANY._replace(optimizer="lm"))
    np.testing.assert_array_equal(again.guidance["zeta"], learned("dps").guidance["zeta"])


def test_gradient_vanishes_at_the_learned_schedule():
    """A hundredth of what it is at the tuned constant, in what the optimiser sees."""
    result = learned("dps", prices=UNLIMITED, search=MANY._replace(tolerance=1e-12))

    @jax.jit
    @jax.grad
    def gradient(u, eta):
        guidance = constrain(dps().constraint, u) | {"eta": eta}
        return evaluate(dps(), PROBLEM, LEVELS, guidance)

    def size(guidance):
        u = unconstrain(dps().constraint, {"zeta": guidance["zeta"]})
        return np.linalg.norm(gradient(u, guidance["eta"])["zeta"])

    assert size(result.guidance) < 0.01 * size(result.baseline_guidance["tuned_constant"])


def test_tuned_constant_is_the_best_that_one_number_can_do():
    """Against 4,001 constants, and as many multiples of the published scale, from 1e-4 to 1e4.

    It may only be better than the scan, and not by much: neighbours differ by 0.5 %.
    """
    result = learned("dps", prices=UNLIMITED)
    eta = result.baseline_guidance["heuristic"]["eta"]

    def of_constant(zeta):
        return evaluate(dps(), PROBLEM, LEVELS, {"zeta": jnp.full(STEPS, zeta), "eta": eta})

    def of_multiple(factor):
        return evaluate(dps(), PROBLEM, LEVELS, dps().heuristic(PROBLEM, LEVELS, factor))

    @jax.jit
    def best(numbers):
        both = lambda number: jnp.stack([of_constant(number), of_multiple(number)])  # noqa: E731
        return jnp.nanmin(jax.lax.map(both, numbers, batch_size=500))

    scanned = float(best(jnp.geomspace(1e-4, 1e4, 4001)))
    found = result.baselines["tuned_constant"]
    assert scanned * (1 - 1e-3) < found <= scanned * (1 + 1e-6)


@pytest.mark.parametrize(("name", "weight"), [("dps", "zeta"), ("diffpir", "lambda_")])
def test_plateau_of_a_tuned_constant(name, weight):
    """By hand: within the share at both ends, and not one factor further out."""
    sampler, within = SAMPLERS[name], 0.1
    constant = learned(name).baseline_guidance["tuned_constant"]

    def loss(factor):
        changed = constant | {weight: factor * constant[weight]}
        return float(evaluate(sampler, PROBLEM, LEVELS, changed))

    low, high = plateau(sampler, PROBLEM, LEVELS, constant, within, [weight])
    assert low < 1 < high
    for end, beyond in ((low, low / 1e3 ** (1 / 256)), (high, high * 1e3 ** (1 / 256))):
        assert loss(end) <= (1 + within) * loss(1) < loss(beyond)
    assert plateau(sampler, PROBLEM, LEVELS, constant, within) == (low, high)
    with pytest.raises(InputError, match="within = 0"):
        plateau(sampler, PROBLEM, LEVELS, constant, 0)
    with pytest.raises(InputError, match=f"names = eta: .*{weight}"):
        plateau(sampler, PROBLEM, LEVELS, constant, within, ["eta"])
    if weight == "zeta":  # no lambda_ is too large
        with pytest.raises(InputError, match="diverges"):
            plateau(sampler, PROBLEM, LEVELS, constant | {weight: 1e200 + 0 * constant[weight]})


def test_tuned_constants_of_two_weights():
    """Against a scan of 161 x 161 pairs, with the same starting range."""
    result = learned("diffpir", prices=UNLIMITED)

    def loss(pair):
        guidance = {"lambda_": jnp.full(STEPS, pair[0]), "zeta": jnp.full(STEPS, pair[1])}
        return evaluate(diffpir(), PROBLEM, LEVELS, guidance)

    lambdas = jnp.geomspace(1e-4, 1e4, 161)
    zetas = jax.nn.sigmoid(jnp.linspace(-np.log(1e4), np.log(1e4), 161))
    pairs = jnp.stack(jnp.meshgrid(lambdas, zetas), axis=-1).reshape(-1, 2)
    losses = jax.jit(lambda pairs: jax.lax.map(loss, pairs, batch_size=500))(pairs)
    assert result.baselines["tuned_constant"] <= jnp.nanmin(losses) * (1 + 1e-6)


def test_a_search_begins_at_the_schedule_that_is_given():
    """Whatever the range of its weights: early ones may be a million times those that matter."""
    given = {"eta": jnp.zeros(STEPS), "zeta": jnp.geomspace(1e-12, 0.1, STEPS)}
    still = Search(starts=1, max_iterations=1, optimizer="adam", learning_rate=1e-9)
    result = learn(dps(), PROBLEM, LEVELS, given, search=still)
    np.testing.assert_allclose(result.guidance["zeta"], given["zeta"], rtol=1e-6)


def test_fixed_weights_stay_exactly():
    """Awkward numbers, to the bit; the published zeta is only where the search starts."""
    eta = jnp.asarray([0.9, 1 / 3, 0.1 + 0.2, 0.0, 1.0])
    guidance = dps().heuristic(PROBLEM, LEVELS) | {"eta": eta}
    result = search(dps(), PROBLEM, LEVELS, guidance)
    assert np.asarray(result.guidance["eta"]).tobytes() == np.asarray(eta).tobytes()
    assert np.all(result.guidance["zeta"] != guidance["zeta"])
    for baseline in ("heuristic", "tuned_constant", "exact"):
        np.testing.assert_array_equal(result.baseline_guidance[baseline]["eta"], eta)
    assert result.free == ("zeta",)
    assert set(guidance) == {"zeta", "eta"}  # the caller's dictionary


def test_more_freedom_is_not_worse():
    both = learned("dps", free=("zeta", "eta"))
    assert both.loss <= learned("dps").loss
    assert set(both.free) == {"zeta", "eta"}
    assert np.any(both.guidance["eta"] != 1)
    assert np.all((both.guidance["eta"] >= 0) & (both.guidance["eta"] <= 1))
    assert both.baselines["tuned_constant"] <= learned("dps").baselines["tuned_constant"]


def test_order_of_the_free_weights_does_not_matter():
    one, other = (learned("dps", free=free) for free in (("zeta", "eta"), ("eta", "zeta")))
    assert one.loss == other.loss


# -------------------------------------------------------------------------------- how it gets there


def test_deterministic_for_a_seed():
    first, second, other = (
        learn(dps(), PROBLEM, LEVELS, search=MANY._replace(seed=seed)) for seed in (3, 3, 4)
    )
    chex.assert_trees_all_equal(first, second)
    assert np.any(first.final_losses != other.final_losses)


def test_history_and_progress():
    """The history falls; progress is told all values every 20 iterations; the best one ends it."""
    told = []
    result = search(dps(), PROBLEM, LEVELS, progress=told.append)
    assert len(result.explored) > PATIENCE and len(result.history) >= 1
    assert np.all(np.diff(result.history) <= 0)
    # a generation begins with its parents, so it cannot lose what the last one had
    assert np.all(np.diff(result.explored) <= 1e-9 * result.explored[:-1])
    both = [*result.explored, *result.history]
    assert [news.iteration for news in told] == [20 * (i + 1) for i in range(len(both))]
    explored = np.minimum.accumulate(result.explored)
    np.testing.assert_array_equal([news.loss for news in told], [*explored, *result.history])
    # a stage that ends as soon as nothing better turns up counts down to 0
    assert all(news.seconds_left >= 0 for news in told)
    assert min(news.seconds_left for news in told[: len(explored)]) == 0
    assert result.final_losses.shape == (KEPT + 1,)
    assert np.all(np.diff(result.final_losses) >= 0)
    assert result.final_losses[0] == result.history[-1]


def test_iterations_are_limited():
    """In chunks of 20, which are what is compiled."""
    short = MANY._replace(max_iterations=10, tolerance=0.0)
    result = learn(dps(), PROBLEM, LEVELS, search=short)
    assert len(result.history) == 1 and len(result.explored) == 1
    assert not result.converged


@pytest.mark.parametrize("limit", [1.2, 100.0, np.inf])
def test_amplification_is_limited_by_a_penalty(limit):
    """history = objective + variance of a pixel x (squared excess of log amplification)."""
    result = learned("dps", prices=Prices(max_amplification=limit, smoothness=0.0))
    excess = np.maximum(np.log(amplification(result)) - np.log(limit), 0)
    variance = float(jnp.sum(PROBLEM.weight * PROBLEM.spectrum) / jnp.sum(PROBLEM.weight))
    penalty = variance * np.sum(excess**2)
    assert penalty > 0 or limit > 2
    np.testing.assert_allclose(result.loss + penalty, result.history[-1], rtol=1e-10)


@pytest.mark.parametrize("lr", [0.3, 1.0, 3.0])
def test_weak_modes_may_amplify_more(lr):
    """Within 1, and 1.5 where the spectrum is below the variance of a pixel, at 1/100 of the
    spectrum too: the loss is the objective of both problems, and the penalty."""
    sampler, times, scales = TABLE["reddiff"](), 1.5, (1.0, 0.01)
    guidance = sampler.heuristic(PROBLEM, LEVELS) | {"lr": np.full(STEPS, lr)}
    prices = Prices(1.0, scales=scales[1:], weak_modes=times)
    loss = preparing.prepare(sampler, [PROBLEM], LEVELS, prices=prices, tune=False).loss
    variance = float(jnp.sum(PROBLEM.weight * PROBLEM.spectrum) / jnp.sum(PROBLEM.weight))
    strong = transfer.Leeway(jnp.asarray(variance), jnp.asarray(np.inf))
    penalty, losses = 0.0, []
    for scale in scales:
        problem = rescaled(PROBLEM, scale)
        given = sampler, problem, LEVELS, guidance
        run, of_strong = transfer.trajectory(*given), transfer.trajectory(*given, strong)
        worst = np.maximum(of_strong.amplification, run.amplification / times)
        penalty += scale * variance * np.sum(np.maximum(np.log(worst), 0) ** 2)
        losses.append(float(wasserstein2(problem, run.total)))
    np.testing.assert_allclose(loss.of_guidance(guidance), np.mean(losses) + penalty, rtol=1e-10)
    assert penalty > 0


def test_amplification_is_traded_for_loss():
    free, limited = (
        learned("dps", prices=Prices(max_amplification=limit)) for limit in (np.inf, 1.2)
    )
    assert amplification(limited).max() < amplification(free).max()
    assert limited.loss >= free.loss
    assert_ordered(limited)


def test_nothing_is_compiled_for_other_numbers(forbid_tracing):
    """Another prior, blur, noise, grid, schedule and seed of the same shapes.

    From the second time on: the tuned constant has two forms, one of which the first run lacks.
    """

    def other_numbers(angle, sigma_y, seed):
        problem, levels = small_problem(1.5, angle, sigma_y), vp_cosine(STEPS)
        assert problem.spectrum.shape == PROBLEM.spectrum.shape
        guidance = {"zeta": jnp.linspace(0.1, 1, STEPS), "eta": jnp.linspace(1, 0, STEPS)}
        return learn(
            dps(),
            problem,
            levels,
            guidance,
            prices=Prices(max_amplification=50.0),
            search=MANY._replace(seed=seed, tolerance=1e-3),
        )

    learned("dps")
    other_numbers(60.0, 0.3, 5)
    forbid_tracing()
    result = other_numbers(70.0, 0.2, 6)
    assert result.loss < result.baselines["tuned_constant"]


def test_a_search_is_compiled_once():
    """By L-BFGS, whose second chunk of iterations would be traced anew: `by_lbfgs` forbids it."""
    assert len(by_lbfgs().history) > 1


def test_nothing_is_compiled_for_the_default_schedule(forbid_tracing):
    """Without `guidance`, which then comes from a closed form of its own."""
    learned("dps")
    forbid_tracing()
    search(dps(), PROBLEM, LEVELS)


def test_another_number_of_steps_is_compiled(forbid_tracing):
    """So the two tests above would see it."""
    forbid_tracing()
    with pytest.raises(AssertionError, match="traced > 0 times"):
        search(dps(), PROBLEM, vp_linear(STEPS + 1))


# ------------------------------------------------------------------------------ numbers of any type


def cast(dtype, tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def few_modes():
    return unique_modes(circular((6,)).problem)[0], vp_linear(3)


# One chunk of iterations is enough to see in which numbers it runs.
SHORT_SEARCH = Search(starts=2, max_iterations=20)


@functools.cache
def of_dtypes(problem: str, levels: str, optimizer: str) -> LearnResult:
    """Inputs rounded to single precision before they are given these types."""
    single, grid = cast(jnp.float32, few_modes())
    single, grid = cast(problem, single), cast(levels, grid)
    return learn(diffpir(), single, grid, search=SHORT_SEARCH._replace(optimizer=optimizer))


@pytest.mark.parametrize("optimizer", ["auto", "lbfgs", "adam"])
@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")])
def test_the_wider_dtype_counts(dtypes, optimizer):
    """Single and double precision together: the same as all in double precision, to the bit."""
    result = of_dtypes(*dtypes, optimizer)
    chex.assert_type(jax.tree.leaves((result.guidance, result.levels)), jnp.float64)
    chex.assert_trees_all_equal(result, of_dtypes("float64", "float64", optimizer))
    assert result.loss <= result.baselines["tuned_constant"]


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_single_precision_stays(optimizer):
    """Also where double is switched on, and optax would go on in it."""
    result = of_dtypes("float32", "float32", optimizer)
    chex.assert_type(jax.tree.leaves((result.guidance, result.levels)), jnp.float32)
    assert result.loss < result.baselines["heuristic"]
    few = cast(jnp.float64, cast(jnp.float32, few_modes()))
    found = evaluate(diffpir(), *few, cast(jnp.float64, result.guidance))
    np.testing.assert_allclose(result.loss, found, rtol=two_programs("pigdm"))


@pytest.fixture(params=[np.float64, np.float32], ids=["x64", "no x64"])
def widest(request):
    """The widest floating dtype, in both settings of JAX."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", request.param == np.float64)
    yield request.param
    jax.config.update("jax_enable_x64", before)


WHOLE = (
    Problem(
        spectrum=np.asarray([4, 2, 1]),
        response=np.asarray([2, 1, 1]),
        basis=None,
        mean=np.zeros(3, int),
        weight=np.asarray([1, 2, 3]),
        sigma_y=np.asarray(1),
    ),
    NoiseLevel(np.ones(4, int), np.asarray([3, 2, 1, 0])),
    {"zeta": np.asarray([1, 0, 2]), "eta": np.asarray([1, 0, 1])},
)


def test_integers_are_promoted(widest):
    """Problem, levels and weights of whole numbers: the same as those numbers in floating point."""
    short = SHORT_SEARCH._replace(optimizer="adam")
    result, wanted = (learn(dps(), *given, search=short) for given in (WHOLE, cast(widest, WHOLE)))
    chex.assert_trees_all_equal(result, wanted)
    chex.assert_type(jax.tree.leaves((result.guidance, result.levels)), widest)
    assert result.loss < result.baselines["heuristic"]


def test_integers_fit_into_single_precision(widest):
    """Whole numbers do not make a search double. Doubles of NumPy do, where there are doubles."""
    problem, levels, _ = WHOLE
    short = Search(starts=1, max_iterations=1, optimizer="adam")
    doubles = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), levels)
    for grid, dtype in ((levels, np.float32), (doubles, widest)):
        result = learn(dps(), cast(np.float32, problem), grid, search=short)
        chex.assert_type(jax.tree.leaves((result.guidance, result.levels)), dtype)


# ------------------------------------------------------------------------ other problems and losses


def test_blocks_and_norms_learn():
    """Twelve samples blurred and decimated: six blocks of two modes, where W2 has no residuals, and
    the official DPS, which divides by norms: L-BFGS takes both."""
    problem = many_blocks(2).problem
    result = learn(SAMPLERS["dps normalised"], problem, LEVELS, search=Search(4, max_iterations=60))
    assert_ordered(result)
    assert result.free == ("scale",)
    np.testing.assert_array_equal(result.baseline_guidance["heuristic"]["scale"], 0.3)


def test_other_objectives():
    """KL, by Adam: `loss` and baselines are values of it."""
    result = learned("dps", objective=kl, search=EIGHT._replace(optimizer="adam"))
    assert_ordered(result)
    found = evaluate(dps(), PROBLEM, LEVELS, result.guidance, kl)
    np.testing.assert_allclose(found, result.loss, rtol=two_programs("dps"))


def test_sensitivity_of_a_weight_does_not_depend_on_the_others_that_are_asked_for():
    """Nor on where these are: eta on its boundary is a little below for the search alone."""
    guidance = dps().heuristic(PROBLEM, LEVELS) | {"eta": jnp.ones(STEPS)}
    alone = sensitivity(dps(), PROBLEM, LEVELS, guidance, ("zeta",))
    both = sensitivity(dps(), PROBLEM, LEVELS, guidance, ("zeta", "eta"))
    # Relative losses less 1, of two programs.
    np.testing.assert_allclose(both["zeta"], alone["zeta"], rtol=0, atol=two_programs("dps"))
    # 10 % of odds of 10^-4.
    assert np.all(np.abs(both["eta"]) < 1e-4)
    with pytest.raises(InputError, match="free = 'lambda_': dps has the weights zeta, eta"):
        sensitivity(dps(), PROBLEM, LEVELS, guidance, ("lambda_",))
    by_mode = guidance | {"zeta": jnp.ones((STEPS, PROBLEM.spectrum.size))}
    with pytest.raises(InputError, match="'zeta': is by mode"):
        sensitivity(dps(), PROBLEM, LEVELS, by_mode, ("zeta",))


@pytest.mark.parametrize("factor", [-1.0, np.nan, np.inf, "2", None, 1j, ()])
def test_factors_of_a_published_default_are_positive(factor):
    with pytest.raises(InputError, match="must be >= 0 and finite"):
        sp.heuristic(dps(), PROBLEM, LEVELS, factor)


@pytest.mark.parametrize(
    "name, weight, says",
    [("zeta", -0.1, ".* >= 0"), ("zeta", np.nan, "finite"), ("eta", 2, r".* in \[0, 1\]")],
)
def test_weights_that_a_sampler_cannot_have_are_refused(name, weight, says):
    """Before they are evaluated; under `jit` nobody can tell."""
    guidance = dps().heuristic(PROBLEM, LEVELS) | {name: np.full(STEPS, weight)}
    for function in (evaluate, sp.sampler_transfer, sp.trajectory):
        with pytest.raises(InputError, match=f"guidance.{name}: .*{says}"):
            function(dps(), PROBLEM, LEVELS, guidance)
    assert jax.jit(evaluate, static_argnums=0)(dps(), PROBLEM, LEVELS, guidance).shape == ()


def test_sensitivity():
    """The loss of every schedule with one weight changed, one by one."""
    problem, levels = circular((12,)).problem, vp_linear(4)
    guidance = {"lambda_": jnp.asarray([0.5, 1.0, 2.0, 1.0]), "zeta": jnp.full(4, 0.3)}
    change = sensitivity(diffpir(), problem, levels, guidance, ("lambda_", "zeta"))
    here = evaluate(diffpir(), problem, levels, guidance)
    odds = 0.3 / 0.7
    for i in range(4):
        losses = {"lambda_": [], "zeta": []}
        for factor in (np.exp(0.1), np.exp(-0.1)):
            up = guidance["lambda_"].at[i].mul(factor)
            losses["lambda_"].append(
                evaluate(diffpir(), problem, levels, guidance | {"lambda_": up})
            )
            unit = odds * factor / (1 + odds * factor)
            up = guidance["zeta"].at[i].set(unit)
            losses["zeta"].append(evaluate(diffpir(), problem, levels, guidance | {"zeta": up}))
        for name, both in losses.items():
            wanted = np.mean(both) / here - 1
            # two programs, whose roundings differ, and a difference of nearly equal numbers
            np.testing.assert_allclose(
                change[name][i], wanted, rtol=0, atol=1e4 * np.finfo(float).eps
            )


# ------------------------------------------------------------------------------------------- errors


def published(**changes):
    return dps().heuristic(PROBLEM, LEVELS) | changes


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"free": ("lambda_",)}, r"free = 'lambda_'.*zeta, eta"),
        ({"free": ()}, "free.*zeta, eta"),
        ({"free": "lambda_"}, r"free = 'lambda_'.*zeta, eta"),
        ({"free": ("zeta", "zeta")}, "free.*zeta"),
        ({"search": Search(starts=0)}, "starts = 0"),
        ({"search": Search(starts=2.5)}, "starts = 2.5: must be a whole number"),
        ({"search": Search(max_iterations=0)}, "max_iterations = 0"),
        ({"search": Search(seed=-1)}, "seed = -1"),
        ({"search": Search(tolerance=np.nan)}, "tolerance = nan: must be a number >= 0"),
        ({"search": Search(optimizer="adam", learning_rate=0)}, "learning_rate = 0"),
        ({"prices": {"smoothness": 0.1}}, r"prices = \{'smoothness': 0.1\}: must be Prices"),
        ({"freedom": ("levels",)}, r"freedom = \('levels',\): must be Freedom"),
        ({"several": True}, "several = True: must be Several"),
        ({"search": 12}, "search = 12: must be Search"),
        ({"prices": Prices(scales=5)}, "scales = 5: must be a tuple"),
        ({"prices": Prices(scales=np.array([5.0, 0.2]))}, r"scales = \[5. +0.2\]: must be a tuple"),
        ({"prices": Prices(smoothness="a")}, "smoothness = a"),
        ({"prices": Prices(max_amplification=None)}, "max_amplification = None"),
        ({"prices": Prices(max_amplification=0.0)}, "max_amplification"),
        ({"prices": Prices(max_amplification=-1.0)}, "max_amplification"),
        ({"prices": Prices(max_amplification=np.nan)}, "max_amplification"),
        ({"prices": Prices(weak_modes=0.5)}, "weak_modes = 0.5: must be a number >= 1"),
        ({"prices": Prices(weak_modes=np.inf)}, "weak_modes = inf"),
        ({"prices": Prices(smoothness=-1.0)}, "smoothness = -1.0"),
        ({"prices": Prices(smoothness=np.inf)}, "smoothness = inf"),
        ({"search": Search(optimizer="newton")}, "optimizer = 'newton'.*lm, lbfgs, adam"),
        ({"search": Search(optimizer="lm"), "objective": kl}, "'lm'.*lbfgs, adam"),
        ({"guidance": lambda: {"zeta": jnp.ones(STEPS)}}, "guidance.*eta"),
        ({"guidance": lambda: published(lambda_=jnp.ones(STEPS))}, "guidance.*lambda_"),
        ({"guidance": lambda: published(eta=jnp.ones(STEPS + 1))}, r"eta.*\(6,\).*\(5,\)"),
        ({"guidance": lambda: published(eta=jnp.full(STEPS, 2.0))}, r"eta.*\[0, 1\]"),
        ({"guidance": lambda: published(eta=jnp.full(STEPS, np.nan))}, "eta"),
        ({"guidance": lambda: published(zeta=jnp.full(STEPS, np.nan))}, "zeta"),
    ],
)
def test_bad_options(options, match):
    if "guidance" in options:
        options = options | {"guidance": options["guidance"]()}
    with pytest.raises(InputError, match=match) as caught:
        learn(dps(), PROBLEM, LEVELS, **options)
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_be_floats():
    given = [Search(starts=2, max_iterations=20), Search(starts=2.0, max_iterations=20.0, seed=0.0)]
    first, second = (learn(dps(), PROBLEM, LEVELS, search=search) for search in given)
    assert first.loss == second.loss


def test_bad_levels():
    levels = NoiseLevel(LEVELS.alpha[::-1], LEVELS.sigma[::-1])
    with pytest.raises(InputError, match="levels"):
        learn(dps(), PROBLEM, levels)


def test_least_squares_is_refused_for_norms():
    with pytest.raises(InputError, match="norms"):
        learn(dps(normalised=True), PROBLEM, LEVELS, search=Search(optimizer="lm"))


def test_one_large_block_is_searched_from_two_starts():
    """By least squares, which ends no higher than L-BFGS from the same starts."""
    problem = one_block("inpaint", 10).problem
    found = learn(dps(), problem, LEVELS, search=Search(max_iterations=40))
    assert found.final_losses.size == 2 and not found.explored.size
    by_lbfgs = learn(dps(), problem, LEVELS, search=Search(starts=2, optimizer="lbfgs"))
    assert found.final_losses[0] <= by_lbfgs.final_losses[0] * (1 + 1e-3)
    assert found.loss < found.baselines["tuned_constant"]


def test_no_finite_loss():
    """Variances near the end of the number range: every constant overflows."""
    problem = PROBLEM._replace(spectrum=jnp.full_like(PROBLEM.spectrum, 1e308))
    guidance = published()
    with pytest.raises(InputError, match="no constant weight of dps has a finite loss"):
        learn(dps(), problem, LEVELS, guidance)
    assert not np.isfinite(evaluate(dps(), problem, LEVELS, guidance, wasserstein2))


def test_scales_are_more_problems():
    """Losses relative to 1, 15 and 1, of 1, 5 and 1/5 of the spectrum; figures are of the first."""
    problem = circular().problem
    copies = [problem._replace(spectrum=scale * problem.spectrum) for scale in (1.0, 5.0, 0.2)]
    several = sp.Several(references=(1.0, 15.0, 1.0))
    levels, search = sp.vp_linear(5), sp.Search(starts=2, max_iterations=100, optimizer="adam")
    scaled = learn(pigdm(), problem, levels, prices=sp.Prices(scales=(5.0, 0.2)), search=search)
    smooth = sp.Prices(smoothness=0.0)  # a price that is relative to the constant's loss
    by_hand = prepare(pigdm(), copies, levels, several=several, prices=smooth)
    prepared = prepare(pigdm(), [problem], levels, prices=smooth._replace(scales=(5.0, 0.2)))
    vector = jnp.asarray(np.linspace(-1, 1, 5))
    np.testing.assert_allclose(prepared.loss(vector), by_hand.loss(vector), rtol=1e-12)
    alone = learn(pigdm(), problem, levels, search=search)
    chex.assert_trees_all_equal(scaled.baseline_guidance, alone.baseline_guidance)
    assert scaled.baselines == alone.baselines and scaled.losses.shape == (1,)
    found = float(evaluate(pigdm(), problem, levels, scaled.guidance, wasserstein2))
    assert scaled.loss == pytest.approx(found, rel=1e-9)
    assert alone.loss < scaled.loss < scaled.baselines["tuned_constant"]
    with pytest.raises(
        InputError, match=r"scales = \(5.0, -1.0\): must be a tuple of finite numbers > 0"
    ):
        learn(pigdm(), problem, levels, prices=sp.Prices(scales=(5.0, -1.0)))


def test_a_busy_part_has_the_models_jacobian():
    problem = circular().problem
    ratio = jnp.full((problem.spectrum.size, KNOWN_LEVELS.size), 0.5)
    calibrated = problem._replace(calibration=Calibration(ratio, jnp.asarray(1.0)))
    np.testing.assert_array_equal(rescaled(calibrated, 5.0).calibration.ratio, jnp.ones_like(ratio))
    np.testing.assert_array_equal(rescaled(calibrated, 0.2).calibration.ratio, ratio)
    assert rescaled(problem, 5.0).calibration is None


def test_scales_show_what_leans_on_the_denoiser():
    """A schedule of RED-diff that blew images up on FFDNet.

    In the model it is good, and within the limit at 1/5 of the spectrum; a denoiser that hands on
    80 % of what the model's does is enough for it to diverge. At 1/100 that is seen.
    """
    relative = [157.4, 5.1, 0.762, 0.298, 0.175, 0.12, 0.093, 0.077, 0.067, 0.061, 0.056]
    relative += [0.053, 0.05, 0.048, 0.046, 0.044, 0.042, 0.04, 0.037, 0.029, 0.0]
    lr = [0.5, 0.6, 0.9, 1.52, 2.18, 2.24, 2.03, 1.97, 2.03, 2.1, 2.13, 2.15, 2.15, 2.14]
    weight = [0.21, 0.25, 0.39, 0.66, 1.01, 1.12, 1.09, 1.03, 0.99, 0.96, 0.92, 0.89, 0.88, 0.87]
    guidance = {
        "lr": np.array([*lr, 2.13, 2.13, 2.12, 2.13, 1.96, 1.01]),
        "lambda_": np.array([*weight, 0.88, 0.9, 0.94, 1.02, 1.2, 1.91]),
    }
    alpha = 1 / np.sqrt(1 + np.array(relative) ** 2)
    levels = NoiseLevel(alpha, alpha * np.array(relative))
    sampler, prior = TABLE["reddiff"](), power_law((32, 32))
    blur = sp.gaussian_blur((32, 32), 1.5)
    problem, _ = unique_modes(sp.learning_problem(prior, blur, 0.05))
    scales = sp.for_network(sampler, levels)["prices"].scales

    def amplification(scale: float) -> float:
        run = sp.trajectory(sampler, rescaled(problem, scale), levels, guidance)
        return float(np.max(run.amplification))

    assert max(map(amplification, (5.0, 1.0, 0.2))) < 3 < max(map(amplification, scales))
    images, gaussian = draw(prior, 4), sp.GaussianDenoiser.of(prior)
    y = sp.measure(blur, images, 0.05, jax.random.key(1))

    def error(gain: float) -> float:
        denoiser = lambda x, t: gain * gaussian(x, t)  # noqa: E731
        run = sampler, denoiser, blur, y, levels, guidance, jax.random.key(2)
        return float(np.sqrt(np.mean((sp.restore(*run, sigma_y=0.05) - images) ** 2)))

    assert error(1.0) < images.std() < error(0.8)


def test_for_network():
    """Strict where the denoiser is differentiated, more so in many steps; what is learned."""
    few_steps, many_steps = sp.vp_linear(4), sp.vp_linear(20)
    made = {name: make() for name, make in TABLE.items() if name != "exact"}
    prices = {name: sp.for_network(one, many_steps)["prices"] for name, one in made.items()}
    limits = {name: one.max_amplification for name, one in prices.items()}
    strict = {name for name, limit in limits.items() if limit == 1.5}
    assert strict == {name for name in made if ROWS[name].jacobian}
    assert set(limits.values()) == {1.5, 2.0}
    scales = {name: one.scales for name, one in prices.items()}
    assert strict == {name for name, one in scales.items() if one == (5.0, 0.2, 25.0)}
    assert set(scales.values()) == {(5.0, 0.2, 25.0), (5.0, 0.01)}
    long = {name: sp.for_network(one, sp.vp_linear(50))["prices"] for name, one in made.items()}
    assert {name: (one.max_amplification, one.weak_modes) for name, one in long.items()} == {
        name: (1.2, 1.0) if ROWS[name].jacobian else (1.5, 2.0) for name in made
    }
    assert {one.weak_modes for one in prices.values()} == {1.0}
    weak = {steps: sp.for_network(diffpir(), sp.vp_linear(steps)) for steps in (49, 75, 100, 200)}
    assert [one["prices"].weak_modes for one in weak.values()] == [1.0, 2.5, 3.0, 3.0]
    assert sp.for_network(dps(), many_steps)["free"] == ("zeta",)
    kept = {
        name for name, one in made.items() if not sp.for_network(one, many_steps)["freedom"].levels
    }
    assert kept == {name for name in made if not ROWS[name].learns_levels}
    options = sp.for_network(pigdm(), few_steps)
    few = sp.Search(starts=2, max_iterations=20, optimizer="adam")
    assert options["freedom"].levels and options["prices"].scales == (5.0, 0.2)
    result = learn(pigdm(), circular().problem, few_steps, **options, search=few)
    assert set(result.free) == {"weight", "eta"}
