"""The two passes over chunks of modes against reverse-mode differentiation of the whole chain."""

import json
import subprocess
import sys
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS, ROWS, VARIANTS, random_guidance

from spectralpost.errors import InputError
from spectralpost.learning import Search, prepare
from spectralpost.learning.gradient import CHUNK as LARGE
from spectralpost.learning.gradient import chunked_loss, loss_and_gradient
from spectralpost.metrics import kl, mse, perception, predicted_energy_score, wasserstein2
from spectralpost.noise import NoiseLevel, vp_linear
from spectralpost.objectives import WeightedSum
from spectralpost.problem import Problem, make_problem
from spectralpost.samplers import SAMPLERS
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps
from spectralpost.samplers.mcg import mcg
from spectralpost.samplers.mpgd import mpgd
from spectralpost.transfer import divides_by_norms, sampler_transfer

compiled_engine = jax.jit(
    loss_and_gradient, static_argnames=("sampler", "free", "objective", "chunk")
)
STEPS, MODES = 5, 29  # a prime number: no chunk divides it

OBJECTIVES = {
    "wasserstein2": wasserstein2,
    "kl": kl,
    "mse": mse,
    "perception": perception,
    "weighted": WeightedSum(wasserstein2=0.5, mse=1.0, perception=2.0),
}
# "exact" is made of the whole problem, so it has no chunks.
NAMES = [name for name in SAMPLERS if name != "exact"]
START_FROM_Y = "pigdm, from y"

pytestmark = pytest.mark.usefixtures("quick")


def random_problem(modes: int = MODES, seed: int = 0, dtype: type = np.float64) -> Problem:
    """Means far from 0, unequal weights, one mode that no measurement sees."""
    rng = np.random.default_rng(seed)
    response = rng.uniform(0.3, 1.3, modes)
    response[-2] = 0
    values = (
        rng.uniform(0.1, 2, modes),
        response,
        0.4,
        rng.normal(size=modes),
        rng.integers(1, 9, modes).astype(float),
    )
    return make_problem(*(jnp.asarray(value, dtype) for value in values))


def made(name: str):
    return (ROWS | VARIANTS)[name].make(random_problem())


@partial(jax.jit, static_argnames=("sampler", "free", "objective"))
def compiled_reference(sampler, problem, levels, guidance, free, objective):
    """What the engine computes, by `jax.value_and_grad` through the scan over steps."""

    def loss(weights):
        transfer = sampler_transfer(sampler, problem, levels, guidance | weights)
        return objective(problem, transfer)

    return jax.value_and_grad(loss)({name: guidance[name] for name in free})


def reference(sampler, *arguments):
    """The same, operation by operation unless there are many: sooner than to compile it."""
    if sampler.name == "daps":
        return compiled_reference(sampler, *arguments)
    with jax.disable_jit():
        return compiled_reference(sampler, *arguments)


def assert_same(got, wanted, size: float):
    """Two orders of summation: `size` roundings, of numbers as large as the largest derivative.

    Single derivatives are sums over modes that may cancel, so these are not held to their own size.
    """
    assert set(got[1]) == set(wanted[1])
    np.testing.assert_allclose(got[0], wanted[0], rtol=size * EPS)
    largest = max(np.abs(by).max() for by in wanted[1].values())
    assert largest > 0
    for name, by in wanted[1].items():
        assert got[1][name].shape == by.shape
        np.testing.assert_allclose(got[1][name], by, rtol=0, atol=size * EPS * largest)


def compare(name: str, objective) -> None:
    sampler, problem, levels = made(name), random_problem(), vp_linear(STEPS)
    guidance = random_guidance(name, seed=3)
    arguments = sampler, problem, levels, guidance, tuple(sorted(guidance)), objective
    # Each step is a few dozen operations; DAPS makes 100 Langevin steps of each.
    size = 100 * STEPS * (100 if name == "daps" else 1)
    assert_same(loss_and_gradient(*arguments, chunk=8), reference(*arguments), size)


@pytest.mark.parametrize("name", [*NAMES, START_FROM_Y])
def test_equals_reverse_mode(name):
    """All weights of all samplers, in four chunks, means included."""
    compare(name, wasserstein2)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "wasserstein2"])
def test_objectives(objective):
    """Offsets count in all of them."""
    compare("ilvr", OBJECTIVES[objective])


def test_chunks_do_not_matter():
    """One mode a chunk, three chunks of which the last is filled up, and all in one."""
    guidance = random_guidance("ilvr", seed=3)
    arguments = made("ilvr"), random_problem(), vp_linear(STEPS), guidance, tuple(guidance)
    whole = loss_and_gradient(*arguments)
    for chunk in (1, 10):
        assert_same(loss_and_gradient(*arguments, chunk=chunk), whole, 10 * MODES)


def test_derivative_of_chunked_loss():
    """`jax.grad` is the engine's, times what comes after; weights that are not free have 0."""
    guidance = random_guidance("diffpir", seed=3)
    problem, levels, free = random_problem(), vp_linear(STEPS), ("lambda_",)

    def loss(guidance):
        return 3 * chunked_loss(diffpir(), problem, levels, guidance, free, wasserstein2)

    value, gradient = jax.value_and_grad(loss)(guidance)
    arguments = diffpir(), problem, levels, guidance, free, wasserstein2
    wanted = jax.tree.map(lambda leaf: 3 * leaf, reference(*arguments))
    assert_same((value, {"lambda_": gradient["lambda_"]}), wanted, 100 * STEPS)
    np.testing.assert_array_equal(gradient["zeta"], np.zeros(STEPS))


def test_follows_the_dtype():
    """float32 in, float32 out, near to float64."""
    levels, guidance = vp_linear(STEPS), random_guidance("dps", seed=3)
    wanted = reference(dps(), random_problem(), levels, guidance, ("zeta",), wasserstein2)
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), (levels, guidance))
    got = loss_and_gradient(dps(), random_problem(dtype=np.float32), *single, ("zeta",), chunk=8)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}
    assert_same(got, wanted, 100 * STEPS * np.finfo(np.float32).eps / EPS)


@pytest.mark.parametrize("single", ["problem", "levels", "guidance"])
def test_the_wider_dtype_counts(single):
    """One of the inputs in single precision: the same as those numbers in double, to the bit."""
    given = {
        "problem": random_problem(),
        "levels": vp_linear(STEPS),
        "guidance": random_guidance("dps", seed=3),
    }
    few = jax.tree.map(lambda leaf: leaf.astype(np.float32), given[single])
    double = jax.tree.map(lambda leaf: leaf.astype(np.float64), few)
    got, wanted = (
        loss_and_gradient(dps(), **given | {single: one}, free=("zeta",)) for one in (few, double)
    )
    chex.assert_trees_all_equal(got, wanted)
    chex.assert_type(jax.tree.leaves(got), np.float64)


def test_integers_are_promoted():
    """Levels and weights of whole numbers: derivatives by these numbers."""
    whole = NoiseLevel(np.ones(4, int), np.asarray([3, 2, 1, 0]))
    weights = {"lambda_": np.asarray([1, 2, 3]), "zeta": np.asarray([0, 1, 1])}
    given = jax.tree.map(lambda leaf: leaf.astype(float), (whole, weights))
    got, wanted = (
        loss_and_gradient(diffpir(), random_problem(), *numbers, ("lambda_",))
        for numbers in ((whole, weights), given)
    )
    chex.assert_trees_all_equal(got, wanted)
    assert np.abs(got[1]["lambda_"]).max() > 0


TWO_DEVICES = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 2)
import conftest
from compiling import quick_compilation
from test_gradient import compiled_engine, few_chunks

assert jax.local_device_count() == 2
arguments, chunk = few_chunks()
lowered = compiled_engine.lower(*arguments, chunk=chunk)
assert "num_partitions = 2" in lowered.as_text(), "one device does it all"
_, *dynamic, _ = arguments
with quick_compilation():
    loss, gradient = lowered.compile()(*dynamic)
print(json.dumps([float(loss), {name: by.tolist() for name, by in gradient.items()}]))
"""


def few_chunks():
    """Arguments and a chunk: two devices have four of these each, filled up."""
    guidance = random_guidance("ilvr", seed=3)
    return (made("ilvr"), random_problem(), vp_linear(STEPS), guidance, tuple(guidance)), 4


def test_two_devices_agree_with_one():
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        cwd=__file__.rpartition("/")[0],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    loss, gradient = json.loads(done.stdout)
    assert jax.local_device_count() == 1
    arguments, chunk = few_chunks()
    got = loss, {name: np.asarray(by) for name, by in gradient.items()}
    assert_same(got, loss_and_gradient(*arguments, chunk=chunk), 10 * MODES)


def test_what_it_is_not_for():
    """Samplers that divide by norms; wrong weights as everywhere."""
    levels, guidance = vp_linear(STEPS), random_guidance("dps", seed=3)
    problem = random_problem()
    for make in (dps, mcg, mpgd):
        sampler = make(normalised=True)
        weights = sampler.heuristic(problem, levels)
        assert divides_by_norms(sampler, problem)
        with pytest.raises(InputError, match="without norms"):
            loss_and_gradient(sampler, problem, levels, weights, ("scale",))
    with pytest.raises(InputError, match="eta"):
        loss_and_gradient(dps(), problem, levels, {"zeta": guidance["zeta"]}, ("zeta",))
    by_mode = guidance | {"zeta": jnp.full((STEPS, MODES), 0.1)}
    with pytest.raises(InputError, match="one weight per step"):
        loss_and_gradient(dps(), problem, levels, by_mode, ("zeta",))
    usual = dps(), problem, levels, guidance, ("zeta",)
    with pytest.raises(InputError, match="predicted_energy_score: no average over modes"):
        loss_and_gradient(*usual, predicted_energy_score)
    for chunk in (0, 2.5, "8"):
        with pytest.raises(InputError, match=f"chunk = {chunk}: .* whole number >= 1"):
            loss_and_gradient(*usual, chunk=chunk)


def test_a_search_goes_by_chunks_for_averages_alone():
    """Of very many modes; else all modes at once, as one chunk would not know of the others."""
    problem, levels = random_problem(2 * LARGE + 1), vp_linear(2)
    mine = lambda problem, transfer: jnp.max(transfer.offset)  # noqa: E731
    search, objectives = Search(optimizer="adam"), (kl, predicted_energy_score, mine)
    losses = [
        prepare(dps(), [problem], levels, objective=one, search=search, tune=False).loss
        for one in objectives
    ]
    assert [loss.watched is not None for loss in losses] == [True, False, False]


def test_memory_does_not_grow_with_modes():
    """Ten times the modes need ten times the padded copy of the problem, and nothing more; reverse
    mode needs a state per step."""
    chunk, steps, modes = 64, 50, (1000, 10_000)
    levels = vp_linear(steps)
    guidance = {"zeta": jnp.full(steps, 0.1), "eta": jnp.zeros(steps)}

    def temporary(function, num: int, **options) -> int:
        arguments = dps(), random_problem(num), levels, guidance, ("zeta",), wasserstein2
        compiled = function.lower(*arguments, **options).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = (temporary(compiled_engine, num, chunk=chunk) for num in modes)
    state = np.dtype(float).itemsize * (modes[1] - modes[0])
    assert many - few < 5 * state  # spectrum, response, mean, weight, and what fills them up
    assert temporary(compiled_reference, modes[1]) > steps * state
