"""Designed schedules: what the network sees, what it gives, what training gains, and its files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import many_blocks
from compiling import quick_compilation

from spectralpost.amortised import (
    Designer,
    design_schedule,
    features_of,
    load_designer,
    matched,
    penalised_loss,
    random_problems,
    save_designer,
    shipped_designer,
    train,
)
from spectralpost.errors import InputError
from spectralpost.merging import pad_modes
from spectralpost.noise import NoiseLevel, rectified_flow, vp_linear
from spectralpost.problem import Problem
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


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with quick_compilation():
        yield


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
    """Order, repetition and modes of weight 0: sums of 16 terms agree to rounding."""
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
    assert np.all(np.isfinite(features))
    for name, other in same.items():
        # Averages above 1e-8 in relative rounding, which the logarithm makes absolute.
        np.testing.assert_allclose(look(other, LEVELS), features, atol=1e-12, err_msg=name)
        again = match(SAMPLER, "lambda_", other, LEVELS)
        np.testing.assert_allclose(again, base, atol=1e-9, err_msg=name)


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
    """One number per step is enough for one mode: its data gain is that of exact conditioning."""
    problem = rows_of(one_of(problems, 2), np.array([0]))
    t, s = (NoiseLevel(LEVELS.alpha[i], LEVELS.sigma[i]) for i in (2, 3))
    wanted = step_transfer(exact(problem), problem, t, s, {"eta": jnp.zeros(())}).data_gain
    for sampler, name in ((pigdm(), "weight"), (dps(), "zeta")):
        u = match(sampler, name, problem, LEVELS)
        others = {key: w[2] for key, w in sampler.heuristic(problem, LEVELS).items()}
        one = step_transfer(sampler, problem, t, s, others | {name: jnp.exp(u[2])})
        np.testing.assert_allclose(one.data_gain, wanted, rtol=1e-8, err_msg=name)


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
    np.testing.assert_array_equal(schedule["zeta"], constant(0.1, LEVELS))


def test_batches_and_derivatives(trained, problems):
    """vmap over problems is the loop over them; the derivative by sigma_y is that of differences.

    Central differences of relative size 1e-5 have errors of about 1e-10, relative to the second
    derivative over the first."""
    designer, _ = trained
    some = jax.tree.map(lambda leaf: leaf[:3], problems)
    batch = jax.vmap(lambda p: design_schedule(designer, SAMPLER, p, LEVELS))(some)
    for i in range(3):
        single = design_schedule(designer, SAMPLER, one_of(problems, i), LEVELS)
        for name, weights in single.items():
            np.testing.assert_allclose(batch[name][i], weights, rtol=1e-9)

    problem = one_of(problems)

    def total(log_sigma):
        moved = problem._replace(sigma_y=jnp.exp(log_sigma))
        return jnp.sum(jnp.log(design_schedule(designer, SAMPLER, moved, LEVELS)["lambda_"]))

    at, step = jnp.log(problem.sigma_y), 1e-5
    differences = (total(at + step) - total(at - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(at), differences, rtol=1e-5)


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
    """Of a problem of 64x64 pixels; tuning its constant leaves DiffPIR's default above a half."""
    problem, levels = one_of(random_problems(7, 1)), vp_linear(8)
    designed = design_schedule(shipped_designer(SAMPLER), SAMPLER, problem, levels)
    published = SAMPLER.heuristic(problem, levels)
    losses = [loss_of(SAMPLER, problem, levels, weights) for weights in (designed, published)]
    assert losses[0] < 0.4 * losses[1]
    for other in (pigdm(noiseless=True), exact(problem)):
        with pytest.raises(InputError, match="no designer is shipped"):
            shipped_designer(other)


def test_files_round_trip(trained, problems, tmp_path):
    designer, _ = trained
    save_designer(tmp_path / "diffpir.npz", designer)
    loaded = load_designer(tmp_path / "diffpir.npz", SAMPLER)
    problem = one_of(problems)
    first, second = (design_schedule(d, SAMPLER, problem, LEVELS) for d in (designer, loaded))
    for name in first:  # stored in single precision: logarithms of up to 20 in absolute rounding
        np.testing.assert_allclose(second[name], first[name], rtol=2e-4)
    with pytest.raises(InputError, match="exists"):
        save_designer(tmp_path / "diffpir.npz", designer)
    with pytest.raises(InputError, match=r"designer of diffpir \(lambda_, zeta\): dps has"):
        load_designer(tmp_path / "diffpir.npz", dps())
    with pytest.raises(InputError, match="designer of diffpir"):
        design_schedule(loaded, pigdm(), problem, LEVELS)
    with pytest.raises(InputError, match="problem in blocks"):
        design_schedule(loaded, SAMPLER, many_blocks(2).problem, LEVELS)
    assert [path.name for path in tmp_path.iterdir()] == ["diffpir.npz"]


def test_broken_files_are_refused_in_one_line(trained, tmp_path):
    good, path = tmp_path / "good.npz", tmp_path / "bad.npz"
    save_designer(good, trained[0])
    with np.load(good) as stored:
        arrays = dict(stored)
    about = json.loads(str(arrays["about"]))
    nan = arrays["centre"] * np.nan
    broken = {
        "no about": {k: v for k, v in arrays.items() if k != "about"},
        "a layer less": {k: v for k, v in arrays.items() if k != "Dense_4/bias"},
        "another width": arrays | {"about": np.asarray(json.dumps(about | {"width": 8}))},
        "not a number": arrays | {"centre": nan},
        "pickled": arrays | {"centre": np.asarray([{}], dtype=object)},
        "free is a number": arrays | {"about": np.asarray(json.dumps(about | {"free": 3}))},
        "about is a list": arrays | {"about": np.asarray("[1]")},
        "spread of another size": arrays | {"spread": arrays["spread"][:3]},
        "spread of zero": arrays | {"spread": 0 * arrays["spread"]},
    }
    for what, contents in broken.items():
        np.savez(path, **contents)
        with pytest.raises(InputError, match="cannot be read") as error:
            load_designer(path)
        assert "\n" not in str(error.value), what
    path.write_bytes(good.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        load_designer(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_designer(tmp_path / "missing.npz")
