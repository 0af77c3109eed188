"""Designed schedules: what the network sees, what it gives, what training gains, and its files."""

import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import many_blocks
from flax.serialization import msgpack_restore, msgpack_serialize

from spectralpost.algebra import floating
from spectralpost.designers import (
    Designer,
    design_schedule,
    load_designer,
    penalised_loss,
    random_problems,
    save_designer,
    shipped_designer,
    train,
)
from spectralpost.designers.network import FEATURES, features_of, matched
from spectralpost.errors import InputError
from spectralpost.learning import default_free, prepare
from spectralpost.merging import pad_modes
from spectralpost.noise import NoiseLevel, rectified_flow, vp_linear
from spectralpost.problem import Problem
from spectralpost.samplers import SAMPLERS
from spectralpost.samplers.base import constant
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps
from spectralpost.samplers.exact import exact
from spectralpost.samplers.pigdm import pigdm
from spectralpost.transfer import step_transfer

SAMPLER = diffpir()
GRIDS = [vp_linear(4), vp_linear(7)]
LEVELS = vp_linear(5)  # not trained on
look = jax.jit(features_of)
match = jax.jit(matched, static_argnames=("sampler", "name"))
loss_of = jax.jit(penalised_loss, static_argnames="sampler")

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def problems() -> Problem:
    return random_problems(0, 24, size=32, rows=16)


@pytest.fixture(scope="module")
def trained(problems) -> tuple[Designer, np.ndarray]:
    return train(SAMPLER, problems, GRIDS, width=16, iterations=150, batch=8)


def one_of(problems: Problem, i: int = 0) -> Problem:
    return jax.tree.map(lambda leaf: leaf[i], problems)


def rows_of(problem: Problem, rows: np.ndarray, weight: float = 1.0) -> Problem:
    """The rows of a problem in another order or number, weights times a factor."""
    pick = lambda leaf: leaf if leaf.ndim == 0 else leaf[rows]  # noqa: E731
    return jax.tree.map(pick, problem)._replace(weight=weight * problem.weight[rows])


def test_features_do_not_depend_on_the_list_of_modes(problems):
    """Order, repetition and modes of weight 0: sums of 16 or 32 terms agree to rounding."""
    problem = one_of(problems, 3)
    order = np.random.default_rng(0).permutation(16)
    louder = pad_modes(problem, 32)  # a mode that is not there may be anything
    louder = louder._replace(response=louder.response.at[16:].set(5.0))
    same = {
        "permuted": rows_of(problem, order),
        "repeated": rows_of(problem, np.repeat(np.arange(16), 2), 0.5),
        "padded": louder,
    }
    base = match(SAMPLER, "lambda_", problem, LEVELS)
    features = look(problem, LEVELS)
    assert features.shape == (5, FEATURES) and np.all(np.isfinite(features))
    # A sum of n positive terms is off by n eps at most, relatively. A feature is the logarithm,
    # which makes that absolute, of what three of them give, and itself rounded, up to log 1e8.
    close = dict(rtol=0, atol=(3 * 32 + 18) * np.finfo(float).eps)
    for name, other in same.items():
        np.testing.assert_allclose(look(other, LEVELS), features, **close, err_msg=name)
        # Also logarithms of sums, but of either sign: some digit may cancel.
        again = match(SAMPLER, "lambda_", other, LEVELS)
        np.testing.assert_allclose(again, base, rtol=0, atol=10 * close["atol"], err_msg=name)


def test_features_tell_problems_apart(problems):
    """Each quantity of a problem moves some feature."""
    problem = one_of(problems, 1)
    before = look(problem, LEVELS)
    for field in ("spectrum", "response", "sigma_y"):
        changed = problem._replace(**{field: getattr(problem, field) * 1.5})
        assert np.abs(look(changed, LEVELS) - before).max() > 0.1, field


def test_padding_leaves_losses_alone(problems):
    problem = one_of(problems)
    guidance = SAMPLER.heuristic(problem, LEVELS)
    before = loss_of(SAMPLER, problem, LEVELS, guidance)
    after = loss_of(SAMPLER, pad_modes(problem, 20), LEVELS, guidance)
    np.testing.assert_allclose(after, before, rtol=1e-14)
    with pytest.raises(InputError, match="rows = 3: the problem has 16"):
        pad_modes(problem, 3)


def test_a_single_mode_is_matched_exactly(problems):
    """One number per step is enough for one mode: its data gain is that of exact conditioning.

    To rounding: a few dozen operations, and a weight exp(u) with |u| < 18.5 is off by |u| eps."""
    problem = rows_of(one_of(problems, 2), np.array([0]))
    t, s = (NoiseLevel(LEVELS.alpha[i], LEVELS.sigma[i]) for i in (2, 3))
    wanted = step_transfer(exact(problem), problem, t, s, {"eta": jnp.zeros(())}).data_gain
    for sampler, name in ((pigdm(), "weight"), (dps(), "zeta")):
        u = match(sampler, name, problem, LEVELS)
        others = {key: w[2] for key, w in sampler.heuristic(problem, LEVELS).items()}
        one = step_transfer(sampler, problem, t, s, others | {name: jnp.exp(u[2])})
        np.testing.assert_allclose(one.data_gain, wanted, rtol=1e-14, err_msg=name)


@pytest.mark.parametrize("levels", [LEVELS, rectified_flow(3)], ids=["vp 5", "flow 3"])
def test_schedules_satisfy_the_constraints(trained, problems, levels):
    designer, _ = trained
    schedule = design_schedule(designer, SAMPLER, one_of(problems), levels)
    assert set(schedule) == set(SAMPLER.constraint)
    for name, weights in schedule.items():
        assert weights.shape == (levels.alpha.shape[0] - 1,)
        assert weights.dtype == levels.alpha.dtype
        assert np.all(np.isfinite(weights)) and weights.min() > 0, name
    assert schedule["zeta"].max() < 1
    again = design_schedule(designer, SAMPLER, one_of(problems), levels)
    jax.tree.map(np.testing.assert_array_equal, again, schedule)


def test_weights_that_are_not_designed_stay_as_published(problems):
    designer, _ = train(SAMPLER, problems, GRIDS[:1], ("lambda_",), width=4, iterations=0)
    problem = one_of(problems)
    schedule = design_schedule(designer, SAMPLER, problem, LEVELS)
    np.testing.assert_array_equal(schedule["zeta"], constant(0.3, LEVELS))


def test_whole_numbers_are_taken_as_floats(trained, problems):
    """Levels and problems by hand."""
    levels = NoiseLevel(jnp.array([1, 1, 1]), jnp.array([4, 2, 0]))
    found = design_schedule(trained[0], SAMPLER, one_of(problems), levels)
    wanted = design_schedule(trained[0], SAMPLER, one_of(problems), floating(levels)[0])
    for name, weights in found.items():
        np.testing.assert_array_equal(weights, wanted[name])


def test_batches_and_derivatives(trained, problems):
    """vmap over problems is the loop over them; the derivative by sigma_y is that of differences.

    Logarithms of weights are off by some 1e-13: sums over modes, and products in the network of up
    to hundreds of eps. That makes central differences of size 1e-5 wrong by 1e-8 to 1e-7, while
    the third derivative is worth 1e-11 of it."""
    designer, _ = trained
    some = jax.tree.map(lambda leaf: leaf[:3], problems)
    batch = jax.vmap(lambda p: design_schedule(designer, SAMPLER, p, LEVELS))(some)
    for i in range(3):
        single = design_schedule(designer, SAMPLER, one_of(problems, i), LEVELS)
        for name, weights in single.items():
            np.testing.assert_allclose(batch[name][i], weights, rtol=1e-12)

    problem = one_of(problems)

    def total(log_sigma):
        moved = problem._replace(sigma_y=jnp.exp(log_sigma))
        return jnp.sum(jnp.log(design_schedule(designer, SAMPLER, moved, LEVELS)["lambda_"]))

    at, step = jnp.log(problem.sigma_y), 1e-5
    differences = (total(at + step) - total(at - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(at), differences, rtol=1e-7)


def test_training_beats_the_published_default_and_where_it_began(trained, problems):
    """On problems and a grid that were not trained on; `history` falls too."""
    designer, history = trained
    assert history.shape == (150,)
    assert history[-20:].mean() < history[:5].mean() - 0.02
    held_out = random_problems(1, 12, size=32, rows=16)
    untrained, _ = train(SAMPLER, problems, GRIDS[:1], width=16, iterations=0)

    def losses(design):
        return jax.jit(jax.vmap(lambda p: loss_of(SAMPLER, p, LEVELS, design(p))))(held_out)

    after = losses(lambda p: design_schedule(designer, SAMPLER, p, LEVELS))
    before = losses(lambda p: design_schedule(untrained, SAMPLER, p, LEVELS))
    published = losses(lambda p: SAMPLER.heuristic(p, LEVELS))
    assert np.median(after / before) < 0.97
    assert np.median(after / published) < 0.5


def test_a_shipped_designer_is_near_the_optimum():
    """Of a problem of 64x64 pixels: 0.0178 where the tuned constant has 0.0210, a search 0.0177."""
    problem, levels = one_of(random_problems(7, 1)), vp_linear(8)
    designed = design_schedule(shipped_designer(SAMPLER), SAMPLER, problem, levels)
    tuned = prepare(SAMPLER, [problem], levels).constant
    losses = [loss_of(SAMPLER, problem, levels, weights) for weights in (designed, tuned)]
    assert losses[0] < 0.87 * losses[1]


@pytest.mark.parametrize("name", ["diffpir", "dps", "mpgd", "pigdm"])
def test_shipped_designers_are_found_by_sampler_and_by_name(name):
    sampler = SAMPLERS[name]()
    by_name = shipped_designer(name)
    assert by_name.sampler == name and by_name.free == tuple(sorted(default_free(sampler)))
    chex.assert_trees_all_equal(by_name, shipped_designer(sampler))


def test_there_is_no_shipped_designer_for_other_samplers_and_options(problems):
    with pytest.raises(InputError, match="pigdm: a designer is shipped for its default options"):
        shipped_designer(pigdm(noiseless=True))
    reference = exact(one_of(problems))
    for other in ("ddrm", "../designers/dps", "no\nsuch", "", reference):
        with pytest.raises(InputError, match="there are diffpir, dps, mpgd, pigdm") as error:
            shipped_designer(other)
        assert "\n" not in str(error.value)


def test_flax_waits_until_a_designer_is_used():
    """It takes a tenth of a second that those who only learn need not wait for."""
    program = (
        "import sys, spectralpost as sp\n"
        "assert 'optax' not in sys.modules and 'jax' not in sys.modules\n"
        "sp.learn, sp.restore, sp.SAMPLERS\n"
        "assert 'flax' not in sys.modules\n"
        "sp.shipped_designer\n"
        "assert 'flax' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_files_round_trip(trained, problems, tmp_path):
    designer, _ = trained
    save_designer(tmp_path / "diffpir.msgpack", designer)
    loaded = load_designer(tmp_path / "diffpir.msgpack", SAMPLER)
    problem = one_of(problems)
    # Single precision, and nothing else is lost.
    chex.assert_trees_all_equal(loaded, jax.tree.map(lambda leaf: leaf.astype("float32"), designer))
    first, second = (design_schedule(d, SAMPLER, problem, LEVELS) for d in (designer, loaded))
    # Numbers are rounded by up to 2^-25. Some 1000 products of up to 4 add up to a logarithm: it is
    # off by sqrt(1000) 4 2^-25 = 4e-6, of which five are never reached.
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=2e-5)
    with pytest.raises(InputError, match="exists"):
        save_designer(tmp_path / "diffpir.msgpack", designer)
    with pytest.raises(InputError, match=r"designer of diffpir \(lambda_, zeta\): dps has"):
        load_designer(tmp_path / "diffpir.msgpack", dps())
    with pytest.raises(InputError, match="designer of diffpir"):
        design_schedule(loaded, pigdm(), problem, LEVELS)
    with pytest.raises(InputError, match=r"designer of diffpir\(.*the sampler has the options"):
        load_designer(tmp_path / "diffpir.msgpack", diffpir(multistep=2))
    with pytest.raises(InputError, match="problem in blocks"):
        design_schedule(loaded, SAMPLER, many_blocks(2).problem, LEVELS)
    assert [path.name for path in tmp_path.iterdir()] == ["diffpir.msgpack"]


def test_broken_files_are_refused_in_one_line(trained, tmp_path):
    good, path = tmp_path / "good.msgpack", tmp_path / "bad.msgpack"
    save_designer(good, trained[0])
    content = msgpack_restore(good.read_bytes())
    params, centre, spread = (content[name] for name in ("params", "centre", "spread"))
    less = {layer: arrays for layer, arrays in params.items() if layer != "Dense_4"}
    deep: dict = {}
    for _ in range(400):
        deep = {"params": deep}
    broken = {
        "not a dictionary": [1],
        "nothing": {},
        "no sampler": {name: leaf for name, leaf in content.items() if name != "sampler"},
        "a field more": content | {"depth": 3},
        "a layer less": content | {"params": less},
        "an array less": content | {"params": params | {"Dense_4": {}}},
        "no layers": content | {"params": 3},
        "another width": content | {"width": 8},
        "width is text": content | {"width": "wide"},
        "width below zero": content | {"width": -16},
        "width is huge": content | {"width": 10**18},
        "free is a number": content | {"free": 3},
        "free holds a number": content | {"free": ["lambda_", 3]},
        "free is of another length": content | {"free": ["lambda_"]},
        "two lines": content | {"sampler": "diffpir\nand more"},
        "not a number": content | {"centre": centre * np.nan},
        "whole numbers": content | {"centre": centre.astype(np.int32)},
        "complex numbers": content | {"centre": centre.astype(np.complex64)},
        "text": content | {"centre": "middle"},
        "features of another version": content | {"centre": centre[1:], "spread": spread[1:]},
        "spread of another size": content | {"spread": spread[:3]},
        "spread of zero": content | {"spread": 0 * spread},
        "nested": content | {"params": deep},
    }
    for what, contents in broken.items():
        path.write_bytes(msgpack_serialize(contents))
        refused_in_one_line(path, what)
    for size in (0, 1, 1000, len(good.read_bytes()) - 1):
        path.write_bytes(good.read_bytes()[:size])
        refused_in_one_line(path, f"cut to {size} bytes")
    refused_in_one_line(tmp_path / "missing.msgpack", "missing")
    refused_in_one_line(tmp_path, "a folder")
    refused_in_one_line(Path("/dev/zero"), "without end")


def test_any_changed_byte_of_the_structure_is_refused_or_harmless(trained, tmp_path):
    """Each byte of names, shapes and lengths in turn; among the numbers, some."""
    good, path = tmp_path / "good.msgpack", tmp_path / "bad.msgpack"
    save_designer(good, trained[0])
    content, random = good.read_bytes(), np.random.default_rng(0)
    for place in [*range(150), *random.integers(len(content), size=50)]:
        changed = bytearray(content)
        changed[place] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(changed))
        try:
            load_designer(path)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 400, place


def refused_in_one_line(path: Path, what: str) -> None:
    with pytest.raises(InputError, match="cannot be read") as error:
        load_designer(path)
    text = str(error.value)
    assert "\n" not in text and len(text) < 200 + len(f"designer {str(path)!r}: ") + 30, what
