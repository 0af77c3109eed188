"""Learned schedules: better than constants, which are better than the published defaults.

Compiling a search takes seconds, running it milliseconds. So there is one small problem, `learned`
keeps the results, and what needs a compilation of its own is tested with as little of them as will
do: PiGDM in single precision, blocks with the sampler that divides by norms, KL with Adam.
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import many_blocks
from compiling import quick_compilation
from spectralpost.baselines import exact_score, score
from spectralpost.guidance import constrain, unconstrain
from spectralpost.search import KEPT

from spectralpost import baselines, learning, stages
from spectralpost.degradations import motion_blur
from spectralpost.errors import InputError
from spectralpost.learning import LearnResult, default_free, learn
from spectralpost.merging import unique_modes
from spectralpost.metrics import kl, wasserstein2
from spectralpost.noise import NoiseLevel, vp_cosine, vp_linear
from spectralpost.prior import power_law
from spectralpost.problem import Problem, image_problem
from spectralpost.samplers import SAMPLERS as TABLE
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps
from spectralpost.samplers.pigdm import pigdm
from spectralpost.transfer import trajectory

SAMPLERS = {
    "dps": dps(),
    "dps normalised": dps(normalised=True),
    "pigdm": pigdm(),
    "diffpir": diffpir(),
}
STEPS = 5
LEVELS = vp_linear(STEPS)
SINGLE = ("pigdm",)  # samplers that are learned in single precision
# The sizes of test_cli.py: what is compiled for one serves the other.
search = functools.partial(learn, num_starts=32)


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with quick_compilation():
        yield


class Compilations(logging.Handler):
    """Names of what JAX compiles while this is in use."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        message = record.getMessage()
        if message.startswith("Compiling "):
            self.names.append(message.split()[1])

    def __enter__(self):
        self.logger = logging.getLogger("jax")
        self.context = jax.log_compiles()
        self.context.__enter__()
        self.propagate, self.logger.propagate = self.logger.propagate, False
        self.logger.addHandler(self)
        return self

    def __exit__(self, *error):
        self.logger.removeHandler(self)
        self.logger.propagate = self.propagate
        self.context.__exit__(*error)


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
def by_lbfgs() -> tuple[LearnResult, Compilations]:
    with Compilations() as compilations:
        return learned("dps", optimizer="lbfgs", num_starts=8), compilations


def amplification(result: LearnResult):
    return trajectory(dps(), PROBLEM, LEVELS, result.guidance).amplification


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
        sampler, problem, LEVELS, num_starts=2, max_iterations=20, max_amplification=np.inf
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
    """`loss` and `baselines` are what `score` says of the schedules that are returned."""
    result, (problem, levels), rtol = learned(name), setting(name), two_programs(name)
    pairs = [(result.guidance, result.loss)]
    for baseline in ("heuristic", "tuned_constant"):
        pairs.append((result.baseline_guidance[baseline], result.baselines[baseline]))
    for guidance, loss in pairs:
        found = score(SAMPLERS[name], problem, levels, guidance)
        np.testing.assert_allclose(found, loss, rtol=rtol)
    eta = result.baseline_guidance["exact"]["eta"]
    found = exact_score(problem, levels, eta)
    np.testing.assert_allclose(found, result.baselines["exact"], rtol=rtol)
    for weight, values in SAMPLERS[name].heuristic(problem, levels).items():
        given = result.baseline_guidance["heuristic"][weight]
        np.testing.assert_allclose(given, values, rtol=rtol)


def test_single_precision_loses_nothing():
    """The schedule found in float32, scored in float64."""
    result = learned("pigdm")
    guidance = {name: values.astype(jnp.float64) for name, values in result.guidance.items()}
    assert result.guidance["weight"].dtype == jnp.float32
    loss = score(pigdm(), PROBLEM, LEVELS, guidance)
    np.testing.assert_allclose(loss, result.loss, rtol=two_programs("pigdm"))


def test_the_exact_reference_takes_the_eta_of_the_sampler():
    """DPS is published with eta 1, PiGDM with 0; DiffPIR has none, which is 0."""
    for name, eta in (("dps", 1.0), ("pigdm", 0.0), ("diffpir", 0.0)):
        np.testing.assert_array_equal(learned(name).baseline_guidance["exact"]["eta"], eta)


def test_every_optimizer_learns():
    """All beat the tuned constant, and the least squares are at most 1 % above the best of them."""
    results = {
        "lm": learned("dps"),
        "lbfgs": by_lbfgs()[0],
        "adam": learned("dps", optimizer="adam", num_starts=8),
    }
    for result in results.values():
        assert_ordered(result)
    best = min(result.loss for result in results.values())
    assert results["lm"].loss <= 1.01 * best


def test_auto_is_least_squares_where_it_applies():
    again = search(dps(), PROBLEM, LEVELS, optimizer="lm")
    np.testing.assert_array_equal(again.guidance["zeta"], learned("dps").guidance["zeta"])


def test_gradient_vanishes_at_the_learned_schedule():
    """A hundredth of what it is at the tuned constant, in what the optimiser sees."""
    result = learned("dps", max_amplification=np.inf, tolerance=1e-12)

    @jax.jit
    @jax.grad
    def gradient(u, eta):
        guidance = constrain(dps().constraint, u) | {"eta": eta}
        return score(dps(), PROBLEM, LEVELS, guidance)

    def size(guidance):
        u = unconstrain(dps().constraint, {"zeta": guidance["zeta"]})
        return np.linalg.norm(gradient(u, guidance["eta"])["zeta"])

    assert size(result.guidance) < 0.01 * size(result.baseline_guidance["tuned_constant"])


def test_tuned_constant_is_the_best_that_one_number_can_do():
    """Against 4,001 constants, and as many multiples of the published scale, from 1e-4 to 1e4.

    It may only be better than the scan, and not by much: neighbours differ by 0.5 %.
    """
    result = learned("dps", max_amplification=np.inf)
    eta = result.baseline_guidance["heuristic"]["eta"]

    def of_constant(zeta):
        return score(dps(), PROBLEM, LEVELS, {"zeta": jnp.full(STEPS, zeta), "eta": eta})

    def of_multiple(factor):
        return score(dps(), PROBLEM, LEVELS, dps().heuristic(PROBLEM, LEVELS, factor))

    @jax.jit
    def best(numbers):
        both = lambda number: jnp.stack([of_constant(number), of_multiple(number)])  # noqa: E731
        return jnp.nanmin(jax.lax.map(both, numbers, batch_size=500))

    scanned = float(best(jnp.geomspace(1e-4, 1e4, 4001)))
    found = result.baselines["tuned_constant"]
    assert scanned * (1 - 1e-3) < found <= scanned * (1 + 1e-6)


def test_tuned_constants_of_two_weights():
    """Against a scan of 161 x 161 pairs, with the same starting range."""
    result = learned("diffpir", max_amplification=np.inf)

    def loss(pair):
        guidance = {"lambda_": jnp.full(STEPS, pair[0]), "zeta": jnp.full(STEPS, pair[1])}
        return score(diffpir(), PROBLEM, LEVELS, guidance)

    lambdas = jnp.geomspace(1e-4, 1e4, 161)
    zetas = jax.nn.sigmoid(jnp.linspace(-np.log(1e4), np.log(1e4), 161))
    pairs = jnp.stack(jnp.meshgrid(lambdas, zetas), axis=-1).reshape(-1, 2)
    losses = jax.jit(lambda pairs: jax.lax.map(loss, pairs, batch_size=500))(pairs)
    assert result.baselines["tuned_constant"] <= jnp.nanmin(losses) * (1 + 1e-6)


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
    first, second, other = (search(dps(), PROBLEM, LEVELS, seed=seed) for seed in (3, 3, 4))
    for one, another in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, another)
    assert np.any(first.final_losses != other.final_losses)


def test_history_and_progress():
    """The history falls; progress is told all values every 20 iterations; the best one ends it."""
    told = []
    result = search(dps(), PROBLEM, LEVELS, progress=told.append)
    assert len(result.explored) > stages.PATIENCE and len(result.history) >= 1
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
    result = search(dps(), PROBLEM, LEVELS, max_iterations=10, tolerance=0.0)
    assert len(result.history) == 1 and len(result.explored) == 1
    assert not result.converged


@pytest.mark.parametrize("limit", [1.2, 100.0, np.inf])
def test_amplification_is_limited_by_a_penalty(limit):
    """history = objective + variance of a pixel x (squared excess of log amplification)."""
    result = learned("dps", max_amplification=limit, smoothness=0.0)
    excess = np.maximum(np.log(amplification(result)) - np.log(limit), 0)
    variance = float(jnp.sum(PROBLEM.weight * PROBLEM.spectrum) / jnp.sum(PROBLEM.weight))
    penalty = variance * np.sum(excess**2)
    assert penalty > 0 or limit > 2
    np.testing.assert_allclose(result.loss + penalty, result.history[-1], rtol=1e-10)


def test_amplification_is_traded_for_loss():
    free, limited = (learned("dps", max_amplification=limit) for limit in (np.inf, 1.2))
    assert amplification(limited).max() < amplification(free).max()
    assert limited.loss >= free.loss
    assert_ordered(limited)


def programs(compilations: Compilations) -> list[str]:
    """Those that take long to compile: functions of this package, and loops. Not single sums."""
    long = {f"jit({name})" for name in vars(learning) | vars(stages) | vars(baselines)} | {
        "jit(scan)",
        "jit(while)",
    }
    return [name for name in compilations.names if name in long]


def test_nothing_is_compiled_for_other_numbers():
    """Another prior, blur, noise, grid, schedule and seed of the same shapes.

    From the second time on: the tuned constant has two forms, one of which the first run lacks.
    """

    def other_numbers(angle, sigma_y, seed):
        problem, levels = small_problem(1.5, angle, sigma_y), vp_cosine(STEPS)
        assert problem.spectrum.shape == PROBLEM.spectrum.shape
        guidance = {"zeta": jnp.linspace(0.1, 1, STEPS), "eta": jnp.linspace(1, 0, STEPS)}
        return search(
            dps(), problem, levels, guidance, seed=seed, tolerance=1e-3, max_amplification=50.0
        )

    learned("dps")
    other_numbers(60.0, 0.3, 5)
    with Compilations() as compilations:
        result = other_numbers(70.0, 0.2, 6)
    assert result.loss < result.baselines["tuned_constant"]
    assert programs(compilations) == []


def test_a_search_is_compiled_once():
    """By L-BFGS, whose state must have the same types before and after an iteration."""
    _, compilations = by_lbfgs()
    assert programs(compilations).count("jit(search)") == 1


def test_nothing_is_compiled_for_the_default_schedule():
    """Without `guidance`, which then comes from a closed form of its own."""
    learned("dps")
    with Compilations() as compilations:
        search(dps(), PROBLEM, LEVELS)
    assert programs(compilations) == []


# ------------------------------------------------------------------------ other problems and losses


def test_blocks_and_norms_learn():
    """Twelve samples blurred and decimated: six blocks of two modes, where W2 has no residuals, and
    the official DPS, which divides by norms: L-BFGS takes both."""
    problem = many_blocks(2).problem
    result = learn(SAMPLERS["dps normalised"], problem, LEVELS, num_starts=4)
    assert_ordered(result)
    assert result.free == ("scale",)
    np.testing.assert_array_equal(result.baseline_guidance["heuristic"]["scale"], 0.3)


def test_other_objectives():
    """KL, by Adam: `loss` and baselines are values of it."""
    result = learned("dps", objective=kl, optimizer="adam", num_starts=8)
    assert_ordered(result)
    found = score(dps(), PROBLEM, LEVELS, result.guidance, kl)
    np.testing.assert_allclose(found, result.loss, rtol=two_programs("dps"))


# ------------------------------------------------------------------------------------------- errors


def published(**changes):
    return dps().heuristic(PROBLEM, LEVELS) | changes


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"free": ("lambda_",)}, r"free = 'lambda_'.*zeta, eta"),
        ({"free": ()}, "free.*zeta, eta"),
        ({"free": ("zeta", "zeta")}, "free.*zeta"),
        ({"num_starts": 0}, "starts = 0"),
        ({"max_iterations": 0}, "max_iterations = 0"),
        ({"max_amplification": 0.0}, "max_amplification"),
        ({"max_amplification": -1.0}, "max_amplification"),
        ({"max_amplification": np.nan}, "max_amplification"),
        ({"optimizer": "newton"}, "optimizer = 'newton'.*lm, lbfgs, adam"),
        ({"optimizer": "lm", "objective": kl}, "'lm'.*lbfgs, adam"),
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
    with pytest.raises(InputError, match=match):
        search(dps(), PROBLEM, LEVELS, **options)


def test_bad_levels():
    levels = NoiseLevel(LEVELS.alpha[::-1], LEVELS.sigma[::-1])
    with pytest.raises(InputError, match="levels"):
        learn(dps(), PROBLEM, levels)


def test_least_squares_is_refused_for_blocks_and_norms():
    with pytest.raises(InputError, match="independent modes"):
        learn(dps(), many_blocks(2).problem, LEVELS, optimizer="lm")
    with pytest.raises(InputError, match="norms"):
        learn(dps(normalised=True), PROBLEM, LEVELS, optimizer="lm")


def test_no_finite_loss():
    """Variances near the end of the number range: every constant overflows."""
    problem = PROBLEM._replace(spectrum=jnp.full_like(PROBLEM.spectrum, 1e308))
    guidance = published()
    with pytest.raises(InputError, match="no constant weight of dps has a finite loss"):
        learn(dps(), problem, LEVELS, guidance)
    assert not np.isfinite(score(dps(), problem, LEVELS, guidance, wasserstein2))
