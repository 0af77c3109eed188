"""Schedules on disk: the same numbers back, and a message that names what is wrong."""

import copy
import json
import math
import os
import resource
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spectralpost
from spectralpost.degradations import downsample
from spectralpost.errors import InputError
from spectralpost.learning import per_mode
from spectralpost.learning.guidance import band_knots
from spectralpost.noise import NoiseLevel, rectified_flow, vp_cosine, vp_linear, vp_timesteps
from spectralpost.prior import matern
from spectralpost.problem import image_problem
from spectralpost.schedule import Schedule, provenance
from spectralpost.schedule_checks import (
    LARGEST_PLANES,
    LARGEST_SHAPE,
    LARGEST_STEPS,
    _smaller,
    check_degradation,
)
from spectralpost.schedule_file import load_schedule, save_schedule
from spectralpost.signatures import as_words
from spectralpost.transfer import sampler_transfer

STEPS = 3
HUGE = 10**400  # JSON has it, floating point has not
KERNEL = [[0.1, 0.3, 0.0], [0.05, 0.4, 0.15]]


def awkward(seed, num=STEPS, high=1.0):
    """Numbers with all 53 bits in use."""
    return jnp.asarray(np.random.default_rng(seed).uniform(0, high, num))


PLAIN = Schedule("dps", vp_linear(STEPS), {"zeta": awkward(0), "eta": awkward(1)}, "gaussian_blur",
                 (8, 8), 0.1)  # fmt: skip
# One with every field set, none to a round number.
FULL = Schedule(
    sampler_name="dps",
    sampler_options={"scale": 1 / 3, "normalised": True},
    levels=vp_linear(STEPS, "trailing"),
    timesteps=(999, 666, 332),
    grid="vp-linear, trailing",
    guidance={"scale": awkward(2, high=1e3), "eta": awkward(3)},
    degradation_name="from_kernel",
    degradation_options={"kernel": KERNEL},
    shape=(8, 6),
    channels=3,
    sigma_y=math.pi / 70,
    pixel_range=(-1 / 3, math.e),
    prior_source="süße photographs",
    prior_hash="0123456789abcdef",
    objective="wasserstein2",
    loss=1 / 7,
    baselines={"heuristic": 1e300 / 3, "exact": 5e-324},
    provenance=provenance(seed=17),
)
FLOW = replace(
    PLAIN,
    sampler_name="diffpir",
    levels=rectified_flow(STEPS),
    guidance={"lambda_": awkward(4), "zeta": jnp.asarray([0.0, 1.0, 0.5])},
    degradation_name="motion_blur",
    degradation_options={"length": 2.7, "angle": 31.0},
)
BANDED = replace(
    FLOW,
    levels=vp_cosine(STEPS),
    timesteps=tuple(vp_timesteps(STEPS).tolist()),
    grid="vp-cosine, uniform",
    guidance={"lambda_": awkward(5, (STEPS, 4)), "zeta": awkward(6)},
    band_knots=jnp.linspace(math.log(0.01), 4.7, 4),
)
SCHEDULES = {"plain": PLAIN, "full": FULL, "flow": FLOW, "banded": BANDED}
DATA = Path(__file__).parent / "data"


def bits(values) -> bytes:
    return b"" if values is None else np.asarray(values, dtype=float).tobytes()


@pytest.fixture
def stored(tmp_path):
    """The JSON of FULL as plain Python values, to be spoiled."""
    save_schedule(tmp_path / "good.json", FULL)
    return json.loads((tmp_path / "good.json").read_text())


def refuse(tmp_path, stored, match):
    """Loading `stored` must fail, with one line that names the file."""
    path = tmp_path / "spoiled.json"
    path.write_text(stored if isinstance(stored, str) else json.dumps(stored))
    with pytest.raises(InputError, match=match) as caught:
        load_schedule(path)
    assert "spoiled.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def set_at(stored, path, value):
    *parents, last = path.split(".")
    for part in parents:
        stored = stored[part]
    stored[last] = value


def delete_at(stored, path):
    *parents, last = path.split(".")
    for part in parents:
        stored = stored[part]
    del stored[last]


# -------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("name", SCHEDULES)
def test_round_trip_is_exact(name, tmp_path):
    """Floats bit for bit, everything else equal."""
    schedule = SCHEDULES[name]
    save_schedule(tmp_path / "a.json", schedule)
    loaded = load_schedule(tmp_path / "a.json")
    assert bits(loaded.levels.alpha) == bits(schedule.levels.alpha)
    assert bits(loaded.levels.sigma) == bits(schedule.levels.sigma)
    assert list(loaded.guidance) == list(schedule.guidance)
    for weight in schedule.guidance:
        assert loaded.guidance[weight].shape == schedule.guidance[weight].shape
        assert bits(loaded.guidance[weight]) == bits(schedule.guidance[weight])
    assert bits(loaded.band_knots) == bits(schedule.band_knots)
    assert loaded == schedule == load_schedule(tmp_path / "a.json")
    for field in fields(Schedule):
        if field.name not in ("levels", "guidance", "band_knots"):
            assert getattr(loaded, field.name) == getattr(schedule, field.name), field.name


def test_saving_again_writes_the_same_text(tmp_path):
    save_schedule(tmp_path / "a.json", FULL)
    save_schedule(tmp_path / "b.json", load_schedule(tmp_path / "a.json"))
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_float32_numbers_survive(tmp_path):
    """Their decimal text in double precision is exact."""
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (PLAIN.levels, PLAIN.guidance))
    save_schedule(tmp_path / "a.json", replace(PLAIN, levels=single[0], guidance=single[1]))
    loaded = load_schedule(tmp_path / "a.json")
    assert bits(loaded.levels.sigma) == bits(single[0].sigma)
    assert bits(loaded.guidance["zeta"]) == bits(single[1]["zeta"])


def test_numbers_of_numpy_can_be_saved(tmp_path):
    """`vp_timesteps` returns NumPy integers, losses and shapes are often NumPy scalars."""
    schedule = replace(
        PLAIN,
        timesteps=tuple(vp_timesteps(STEPS)),
        shape=tuple(np.asarray([8, 8])),
        channels=np.int64(1),
        sigma_y=np.float32(0.5),
        loss=np.float32(0.25),
        baselines={"heuristic": np.float32(0.75)},
    )
    save_schedule(tmp_path / "a.json", schedule)
    loaded = load_schedule(tmp_path / "a.json")
    assert loaded.timesteps == (999, 500, 0)
    assert (loaded.shape, loaded.sigma_y, loaded.loss) == ((8, 8), 0.5, 0.25)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_loaded_schedule_does_the_same(name, tmp_path):
    """Sampler with its options and degradation with its options: equal transfer, to the bit."""
    schedule = SCHEDULES[name]
    save_schedule(tmp_path / "a.json", schedule)
    loaded = load_schedule(tmp_path / "a.json")
    assert loaded.sampler() is schedule.sampler()  # nothing is compiled again
    prior = matern(schedule.shape, length=3.0)
    problems = [image_problem(prior, s.degradation(), s.sigma_y) for s in (schedule, loaded)]
    run = jax.jit(sampler_transfer, static_argnums=0)
    before, after = (
        run(s.sampler(), problem, s.levels, s.guidance_for(problem))
        for s, problem in zip((schedule, loaded), problems, strict=True)
    )
    for one, other in zip(before, after, strict=True):
        assert bits(one) == bits(other)


def test_degradation_on_another_size():
    assert FULL.degradation((16, 12)).shape == (16, 12)
    assert FULL.degradation().shape == (8, 6)


def test_the_file_explains_itself(stored):
    """It is meant to be used without this package."""
    assert stored["format"] == "spectralpost schedule" and stored["format_version"] == 2
    assert "alpha_t x_0 + sigma_t eps" in stored["convention"]
    assert "Chung" in stored["sampler"]["reference"]
    assert "DDIM" in stored["sampler"]["update"]
    assert set(stored["provenance"]) == {"spectralpost", "jax", "seed", "date"}


# ------------------------------------------------------------------------------------------ saving


def test_existing_file_is_kept(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("mine")
    with pytest.raises(InputError, match=r"a\.json.*exists"):
        save_schedule(path, PLAIN)
    assert path.read_text() == "mine"
    save_schedule(path, PLAIN, overwrite=True)
    assert load_schedule(path).sigma_y == PLAIN.sigma_y
    assert os.listdir(tmp_path) == ["a.json"]


def test_nothing_is_half_written(tmp_path):
    """The disk is full after some characters: one line, and the old file as it was."""
    save_schedule(tmp_path / "old.json", PLAIN)
    save_schedule(tmp_path / "gone.json", FULL)  # what JAX compiles on the way is kept in files
    (tmp_path / "gone.json").unlink()
    old = (tmp_path / "old.json").read_text()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
    try:
        for name in ("old.json", "new.json"):
            with pytest.raises(InputError, match=rf"{name}.*File too large"):
                save_schedule(tmp_path / name, FULL, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["old.json"]
    assert (tmp_path / "old.json").read_text() == old


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sampler_name": "magic"}, r"sampler = 'magic'.*dps"),
        ({"sampler_options": {"power": 2}}, r"sampler.*power"),
        ({"levels": NoiseLevel(jnp.ones(2), jnp.asarray([1.0, 2.0]))}, "levels.*decrease"),
        ({"guidance": {"zeta": awkward(0)}}, "guidance.*eta"),
        ({"guidance": {"zeta": awkward(0), "eta": awkward(0, 7)}}, r"eta.*\(7,\)"),
        ({"guidance": {"zeta": awkward(0) - 2, "eta": awkward(0)}}, r"guidance\.zeta.*>= 0"),
        ({"guidance": {"zeta": awkward(0), "eta": 2 + awkward(0)}}, r"eta.*in \[0, 1\]"),
        ({"guidance": {"zeta": awkward(0) * np.nan, "eta": awkward(0)}}, r"zeta.*finite"),
        ({"timesteps": (5, 1)}, r"timestep.*2 values, 3 are needed"),
        ({"degradation_name": "rain"}, r"degradation = 'rain'"),
        ({"degradation_options": {"std": -1.0}}, "std = -1"),
        ({"shape": (2, 2), "degradation_name": "uniform_blur"}, "9x9.*2x2"),
        ({"sigma_y": 0.0}, r"sigma_y = 0\.0.*> 0"),
        ({"sigma_y": math.nan}, "sigma_y = nan"),
        ({"sigma_y": math.inf}, "sigma_y = inf"),
        ({"pixel_range": (1.0, 0.0)}, r"pixel range \(1\.0, 0\.0\)"),
        ({"channels": 0}, "channels = 0"),
        ({"loss": math.nan}, "objective"),
        ({"baselines": {"heuristic": math.inf}}, "baselines|objective"),
        # an unstable published default has an infinite loss: the two above happen
        ({"guidance": BANDED.guidance | {"eta": awkward(0)}}, "guidance.*lambda_"),
        ({"guidance": {"zeta": awkward(0, (3, 4)), "eta": awkward(0)}}, r"zeta.*bands\.knots"),
        ({"guidance": {"zeta": awkward(0, (3, 2, 2)), "eta": awkward(0)}}, r"guidance\.zeta\.axes"),
        ({"band_knots": jnp.asarray([1.0, 0.0])}, r"bands\.knots.*increasing"),
        ({"band_knots": jnp.asarray([[1.0]])}, r"bands\.knots"),
        ({"timesteps": (999.0, 5, 1)}, r"levels\.timestep"),
        ({"timesteps": "all"}, r"levels\.timestep"),
        ({"channels": 3.0}, r"problem\.channels = 3\.0.*whole"),
        ({"sigma_y": "small"}, r"problem\.sigma_y"),
        ({"shape": 8}, r"problem\.shape"),
        ({"grid": None}, r"levels\.grid"),
        ({"provenance": {"who": {"me"}}}, r"provenance\.who.*set"),
        ({"provenance": {3: "me"}}, "provenance.*key 3"),
        ({"provenance": {"x": [1.0, math.nan]}}, r"provenance\.x\[1\] = nan"),
        ({"provenance": {"seed": 2**64}}, r"provenance\.seed"),
        ({"sampler_options": {"name": "dps"}}, r"sampler\.options.*name"),
        ({"degradation_options": {"shape": [8, 8]}}, r"degradation_options.*shape"),
    ],
)
def test_inconsistent_schedules_are_not_saved(change, match, tmp_path):
    """What `load_schedule` would not take back."""
    with pytest.raises(InputError, match=match):
        save_schedule(tmp_path / "a.json", replace(PLAIN, **change))
    assert os.listdir(tmp_path) == []


# ----------------------------------------------------------------------------------------- loading

# Every field that is read, and something that is not of its type.
WRONG = {
    "format": 7,
    "format_version": "1",
    "sampler": "dps",
    "sampler.name": ["dps"],
    "sampler.options": ["scale"],
    "levels": [1, 0],
    "levels.grid": None,
    "levels.timestep": "all",
    "levels.alpha": "0.5",
    "levels.sigma": {"0": 1.0},
    "guidance": [1, 2, 3],
    "guidance.scale": 0.3,
    "guidance.scale.axes": "step",
    "guidance.scale.weights": 0.3,
    "bands": [1.0],
    "problem": None,
    "problem.degradation": None,
    "problem.degradation_options": 3,
    "problem.shape": 8,
    "problem.channels": 3.0,
    "problem.sigma_y": "0.1",
    "problem.pixel_range": 2,
    "prior": "photographs",
    "prior.source": 3,
    "prior.hash": None,
    "objective": 0.1,
    "objective.name": None,
    "objective.value": "small",
    "objective.baselines": [0.1],
    "provenance": "me",
}


@pytest.mark.parametrize("path", WRONG)
def test_missing_fields_are_named(path, stored, tmp_path):
    delete_at(stored, path)
    # A missing weight is a guidance without it.
    refuse(tmp_path, stored, "guidance.*scale" if path == "guidance.scale" else path)


@pytest.mark.parametrize("path", WRONG)
def test_wrong_types_are_named(path, stored, tmp_path):
    set_at(stored, path, WRONG[path])
    refuse(tmp_path, stored, path)


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("format", "another", "format: must be"),
        ("format_version", 3, "format_version = 3.*newer spectralpost"),
        ("format_version", 0, "format_version = 0: this version reads 1 to 2$"),
        ("format_version", True, "format_version"),
        ("sampler.name", "magic", "sampler = 'magic'"),
        ("sampler.name", "exact", "sampler.*exact"),
        ("sampler.options", {"power": 2}, "sampler.*power"),
        ("sampler.options", {"scale": "large", "normalised": True}, "sampler.*scale"),
        ("levels.alpha", [1.0, "1", 1.0, 1.0], r'levels\.alpha.*"1"'),
        ("levels.alpha", [1.0, math.nan, 1.0, 1.0], r"levels\.alpha.*NaN"),
        ("levels.alpha", [1.0, True, 1.0, 1.0], r"levels\.alpha.*true"),
        ("levels.alpha", [HUGE, 1, 1, 1], r"levels\.alpha"),
        ("levels.alpha", [0.5, 1.0], r"levels.*\(2,\).*\(4,\)"),
        ("levels.alpha", [], "levels"),
        ("levels.alpha", [-0.1, 0.5, 0.9, 1.0], "levels.*alpha"),
        ("levels.sigma", [0.1, 0.5, 50.0, 0.0], "levels.*decrease"),
        ("levels.sigma", [math.inf, 0.5, 0.1, 0.0], r"levels\.sigma.*Infinity"),
        ("levels.timestep", [999, 666], r"levels\.timestep.*2 values, 3"),
        ("levels.timestep", [999, 666, 332.5], r"levels\.timestep.*whole"),
        ("guidance.scale.weights", [1.0, math.nan, 1.0], r"guidance\.scale\.weights\[1\].*NaN"),
        ("guidance.scale.weights", [1.0, -0.5, 1.0], r"guidance\.scale.*>= 0"),
        ("guidance.scale.weights", [1.0, 1.0], r"guidance.*scale.*\(2,\).*\(3,\)"),
        ("guidance.scale.weights", [[1.0], [1.0], [1.0]], r"guidance\.scale"),
        ("guidance.eta.weights", [0.0, 1.0, 1.0001], r"guidance\.eta.*in \[0, 1\]"),
        ("guidance.eta.weights", [0.0, 1.0, -0.0001], r"guidance\.eta.*in \[0, 1\]"),
        ("guidance.zeta", {"axes": ["step"], "weights": [0.0, 1.0, 1.0]}, "guidance.*zeta"),
        ("guidance.a\nb", {"axes": ["step"], "weights": [0.0]}, r"guidance.*a\\nb"),
        ("guidance.scale.axes", ["step", "band"], r"guidance\.scale\.weights.*lists"),
        ("guidance.scale.axes", ["step", "plane"], r"guidance\.scale\.axes.*plane.*reads"),
        ("guidance.scale.axes", [["step"]], r"guidance\.scale\.axes"),
        ("guidance.scale.axes", [], r"guidance\.scale\.axes"),
        (
            "guidance.scale",
            {"axes": ["step", "band"], "weights": [[1.0, 2.0]] * 3},
            r"guidance\.scale.*bands\.knots",
        ),
        ("problem.degradation", "rain", "degradation = 'rain'"),
        ("problem.degradation_options", {"kernel": [[1.0] * 9]}, "1x9.*8x6"),
        ("problem.degradation_options", {"kernel": "wide"}, "problem|kernel"),
        ("problem.degradation_options", {"std": 1.0}, "std"),
        ("problem.shape", [], "problem.shape"),
        ("problem.shape", [8, 0], "problem.shape"),
        ("problem.shape", [8.0, 6.0], "problem.shape"),
        ("problem.channels", 0, "channels = 0"),
        ("problem.sigma_y", 0, "sigma_y = 0.*> 0"),
        ("problem.sigma_y", -0.1, r"sigma_y = -0\.1"),
        ("problem.sigma_y", math.nan, "sigma_y"),
        ("problem.sigma_y", HUGE, "sigma_y"),
        ("problem.pixel_range", [0.0, 1.0, 2.0], "pixel_range.*two"),
        ("problem.pixel_range", [1.0, 0.0], r"\(1\.0, 0\.0\)"),
        ("problem.pixel_range", [0.0, math.inf], r"pixel_range.*Infinity"),
        ("objective.baselines", {"heuristic": "large"}, r"objective\.baselines"),
        ("objective.baselines", {"heuristic": None}, r"objective\.baselines"),
        ("objective.value", math.inf, r"objective\.value"),
        # numbers beyond all bounds
        ("problem.channels", 2**63, "problem.channels"),
        ("problem.channels", LARGEST_PLANES + 1, "problem.channels"),
        ("problem.sigma_y", 1e200, "problem.sigma_y"),
        ("problem.sigma_y", 1e-200, "problem.sigma_y"),
        ("problem.pixel_range", [-1e308, 1e308], "problem.pixel_range"),
        ("problem.pixel_range", [0.0, 1e-200], "problem.pixel_range"),
        ("problem.pixel_range", [None, 1.0], "problem.pixel_range"),
        ("problem.shape", [30000, 30000], "problem.shape.*at most"),
        ("problem.shape", [1] * 70, "problem.shape"),
        ("problem.shape", [True, 6], "problem.shape"),
        ("problem.shape", [HUGE, 6], "problem.shape"),
        ("provenance", {"seed": HUGE}, "provenance.seed"),
        ("provenance", {"seed": 2**64}, "provenance.seed.*2\\^64"),
        ("provenance", {"a": [{"jax": math.nan}]}, r"provenance\.a\[0\]\.jax.*NaN"),
        # options of sampler and degradation
        ("sampler.options", {"name": "x"}, r"sampler\.options.*no option 'name'"),
        ("sampler.options", {"scale": [[1.0]]}, r"sampler\.options.*scale"),
        ("sampler.options", {"scale": None}, r"sampler\.options.*scale"),
        ("sampler.options", {"scale": {"a": 1}}, r"sampler\.options.*scale"),
        ("sampler.options", {"normalised": 1}, r"sampler\.options.*normalised.*true"),
        ("problem.degradation_options", {"kernel": [[HUGE]]}, r"degradation_options\.kernel\[0\]"),
        ("problem.degradation_options", {"kernel": {"a": 1}}, "degradation_options"),
        ("problem.degradation_options", {"kernel": [[1, [2]]]}, "degradation_options"),
        ("problem.degradation_options", {"kernel": [[None]]}, "degradation_options"),
        ("problem.degradation_options", {"kernel": [[1e308] * 3] * 3}, "degradation_options"),
        ("problem.degradation_options", {}, "degradation_options"),
        ("problem.degradation_options", {"kernel": KERNEL, "name": "x"}, "degradation_options"),
        ("problem.degradation_options", {"kernel": KERNEL, "shape": [1]}, "degradation_options"),
        # time steps
        ("levels.timestep", [5000, 2, 1], r"levels\.timestep\[0\] = 5000.*below 1000"),
        ("levels.timestep", [999, 666, -7], r"levels\.timestep\[2\] = -7"),
        ("levels.timestep", [666, 666, 332], r"levels\.timestep\[1\] = 666.*descend"),
        ("levels.timestep", [332, 666, 999], r"levels\.timestep\[1\] = 666.*descend"),
        ("levels.timestep", [3, 2, 1], r"levels\.timestep\[0\] = 3: alpha\^2.*vp-linear"),
        ("levels.timestep", [999, 666, 331], r"levels\.timestep\[2\] = 331: alpha\^2"),
        ("levels.grid", "vp-cosine", r"levels\.timestep\[0\].*vp-cosine"),
        ("levels.grid", "vp_cosine, trailing", r"levels\.timestep\[0\].*vp_cosine, trailing"),
    ],
)
def test_wrong_values_are_named(path, value, match, stored, tmp_path):
    set_at(stored, path, value)
    refuse(tmp_path, stored, match)


def test_what_is_not_read_may_be_absent(stored, tmp_path):
    """Texts for people: without them the schedule is still a schedule."""
    less = copy.deepcopy(stored)
    for path in ("convention", "sampler.update", "sampler.reference"):
        delete_at(less, path)
    (tmp_path / "less.json").write_text(json.dumps(less))
    loaded = load_schedule(tmp_path / "less.json")
    assert bits(loaded.guidance["scale"]) == bits(FULL.guidance["scale"])


# The degradations that have options: what is wrong with these is not seen in a type alone.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gaussian_blur", {"std": 1e200}),
        ("gaussian_blur", {"std": [1.0, 2.0]}),
        ("gaussian_blur", {"std": True}),
        ("gaussian_blur", {"std": 0}),
        ("uniform_blur", {"size": "x"}),
        ("uniform_blur", {"size": 8}),
        ("uniform_blur", {"size": 99999}),  # 80 GB, if its kernel were made
        ("uniform_blur", {"size": 2**63 - 1}),
        ("motion_blur", {"length": 5.0, "angle": []}),
        ("motion_blur", {"length": 1e200}),
        ("motion_blur", {"length": 1e18, "angle": 1e18}),
        ("identity", {"std": 2.0}),
    ],
)
@pytest.mark.parametrize("shape", [[8, 6], [10000, 10000], [1, LARGEST_SHAPE]])
def test_wrong_degradations_are_named_soon(name, options, shape, stored, tmp_path):
    """Whatever the image's size."""
    stored["problem"] |= {"degradation": name, "degradation_options": options, "shape": shape}
    before = time.process_time()
    refuse(tmp_path, stored, r"problem\.degradation_options")
    assert time.process_time() - before < 10  # 1 s, if nothing else runs


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("uniform_blur", {"size": 501}),
        ("motion_blur", {"length": 700.0, "angle": 10.0}),
        ("from_kernel", {"kernel": [[0.5] * 300]}),
    ],
)
def test_kernels_larger_than_the_first_trial(name, options):
    """Large blurs of large images are right, though not built on all of their pixels."""
    check_degradation(name, options, (3000, 4000))


def test_trials_keep_what_divides_a_side():
    assert _smaller((128, 200), 2**16) == (128, 200)
    for shape in [(3000, 4000), (257, 30000), (2**27,), (500, 500, 500), (4096, 4800)]:
        for pixels in (2**16, 2**22):
            small = _smaller(shape, pixels)
            assert all(0 < a <= b and (b - a) % 240 == 0 for a, b in zip(small, shape, strict=True))
            assert math.prod(small) <= max(pixels, 240 ** len(shape))


def test_time_steps_are_held_against_the_grid_only_where_it_is_known(tmp_path):
    """A text that names no grid of time steps says nothing about them, but that they descend."""
    deep = "vp_linear, beta_end=" + "[" * 5000
    endless = "vp_linear, train_steps=10000000000"
    for grid in ("", "my own network", "ve-karras", "vp-linear of 4000 steps", deep, endless):
        save_schedule(
            tmp_path / "a.json", replace(FULL, grid=grid, timesteps=(7, 5, 3)), overwrite=True
        )
        assert load_schedule(tmp_path / "a.json").timesteps == (7, 5, 3)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), BANDED.levels)
    save_schedule(tmp_path / "b.json", replace(BANDED, levels=single))  # 1e-7 off
    moved = BANDED.levels._replace(alpha=BANDED.levels.alpha * jnp.asarray([1, 1 + 1e-6, 1, 1]))
    save_schedule(tmp_path / "c.json", replace(BANDED, levels=moved))
    moved = BANDED.levels._replace(sigma=BANDED.levels.sigma * jnp.asarray([1, 1 + 1e-5, 1, 1]))
    with pytest.raises(InputError, match=r"levels\.timestep\[1\] = 500: sigma\^2.*vp-cosine"):
        save_schedule(tmp_path / "d.json", replace(BANDED, levels=moved))


@pytest.mark.parametrize("options", [{"beta_end": 0.03}, {"train_steps": 400, "beta_end": 0.05}])
def test_time_steps_on_a_grid_with_options(options, tmp_path):
    """What was changed of a grid stands in its label, and belongs to the network's levels."""
    grid = ", ".join(["vp_linear", *as_words(options)])
    timesteps = tuple(vp_timesteps(STEPS, train_steps=options.get("train_steps", 1000)).tolist())
    schedule = replace(BANDED, levels=vp_linear(STEPS, **options), timesteps=timesteps, grid=grid)
    save_schedule(tmp_path / "a.json", schedule)
    assert load_schedule(tmp_path / "a.json").timesteps == timesteps
    save_schedule(tmp_path / "b.json", replace(schedule, grid=grid + ", learned"))
    with pytest.raises(InputError, match=r"levels\.timestep\[0\] = "):
        save_schedule(tmp_path / "c.json", replace(schedule, grid="vp_linear"))


def test_more_steps_than_allowed(stored, tmp_path):
    count = LARGEST_STEPS + 1
    stored["levels"] |= {
        "timestep": None,
        "alpha": [1.0] * (count + 1),
        "sigma": np.linspace(1, 0, count + 1).tolist(),
    }
    for weights in stored["guidance"].values():
        weights["weights"] = [1.0] * count
    refuse(tmp_path, stored, "levels: 100001 steps, at most 100000")


# ------------------------------------------------------------------------------ by band, version 1


def test_weights_by_band_of_a_problem(tmp_path):
    """What a sampler takes is spread over the problem's modes; weights by step stay."""
    problem = image_problem(matern((8, 8), length=3.0), BANDED.degradation(), BANDED.sigma_y)
    schedule = replace(BANDED, band_knots=band_knots(problem, 4))
    save_schedule(tmp_path / "a.json", schedule)
    guidance = load_schedule(tmp_path / "a.json").guidance_for(problem)
    assert guidance["lambda_"].shape == (STEPS, 64) and guidance["zeta"].shape == (STEPS,)
    constraint = schedule.sampler().constraint
    wanted = per_mode(constraint, schedule.guidance, problem, schedule.band_knots)
    for name, weights in wanted.items():
        assert bits(guidance[name]) == bits(weights)
    assert FLOW.guidance_for(problem) is FLOW.guidance
    with pytest.raises(InputError, match=r"'lambda_' of shape .*: 3 bands have knots"):
        per_mode(constraint, schedule.guidance, problem, schedule.band_knots[:3])
    blocks = image_problem(matern((8, 8), length=3.0), downsample((8, 8), 2), 0.1)
    with pytest.raises(InputError, match="by band are for independent modes, not blocks"):
        schedule.guidance_for(blocks)


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("guidance.lambda_.weights", [[1.0] * 4] * 2, r"guidance.*lambda_.*\(2, 4\).*\(3,"),
        ("guidance.lambda_.weights", [[1.0] * 5] * 3, r"guidance.*lambda_.*\(3, 5\).*\(3,"),
        (
            "guidance.lambda_.weights",
            [[1.0] * 4, [1.0] * 3, [1.0] * 4],
            r"guidance\.lambda_\.weights",
        ),
        ("guidance.lambda_.weights", [[1.0] * 4, 1.0, [1.0] * 4], r"guidance\.lambda_\.weights"),
        ("guidance.lambda_.weights", [[], [], []], r"guidance.*lambda_"),
        ("guidance.lambda_.weights", [[[1.0]]] * 3, r"guidance\.lambda_\.weights"),
        (
            "guidance.lambda_.weights",
            [[1.0, 1.0, "1", 1.0]] * 3,
            r"guidance\.lambda_\.weights.*\"1\"",
        ),
        ("guidance.lambda_.weights", [[1.0, 1.0, -1.0, 1.0]] * 3, r"guidance\.lambda_.*>= 0"),
        ("guidance.lambda_.axes", ["step"], r"guidance\.lambda_\.weights"),
        ("bands", None, r"guidance\.lambda_.*bands\.knots"),
        ("bands", {}, r"bands\.knots: is missing"),
        ("bands.knots", 3, r"bands\.knots"),
        ("bands.knots", [], r"bands\.knots"),
        ("bands.knots", ["a"] * 4, r"bands\.knots"),
        ("bands.knots", [0.0, 1.0, 2.0, math.nan], r"bands\.knots\[3\]"),
        ("bands.knots", [0.0, 1.0, 2.0, 3.1], r"bands\.knots.*evenly"),
        ("bands.knots", [3.0, 2.0, 1.0, 0.0], r"bands\.knots.*increasing"),
        ("bands.knots", [1.0, 1.0, 1.0, 1.0], r"bands\.knots.*increasing"),
        ("bands.knots", [0.0, 1.0, 2.0], r"guidance.*lambda_.*\(3, 4\)"),
    ],
)
def test_wrong_bands_are_named(path, value, match, tmp_path):
    save_schedule(tmp_path / "a.json", BANDED)
    stored = json.loads((tmp_path / "a.json").read_text())
    set_at(stored, path, value)
    refuse(tmp_path, stored, match)


def test_files_of_version_1_are_read(tmp_path):
    """Written by the version of this package that had no bands."""
    dps = load_schedule(DATA / "schedule-v1-dps.json")
    assert dps.sampler_name == "dps" and dps.band_knots is None and dps.channels == 3
    assert dps.timesteps == (999, 666, 333, 0) and dps.grid == "vp-linear, uniform"
    assert bits(dps.levels.alpha) == bits(vp_linear(4).alpha)
    weights = [0.505768672581658, 0.06903109992005442, 0.42749924707447906, 1.158936013564836]
    assert bits(dps.guidance["zeta"]) == bits(weights)
    diffpir = load_schedule(DATA / "schedule-v1-diffpir.json")
    assert not diffpir.sampler_options and diffpir.timesteps is None  # there: official_units
    assert diffpir.degradation_options == {"kernel": KERNEL} and diffpir.shape == (8, 6)
    assert bits(diffpir.guidance["lambda_"]) == bits([1 / 3, 7.0, 2.0])
    for schedule in (dps, diffpir):  # and saved again as version 2
        save_schedule(tmp_path / "a.json", schedule, overwrite=True)
        assert load_schedule(tmp_path / "a.json") == schedule


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("guidance.zeta", [[1.0]] * 4, r"guidance\.zeta"),
        ("guidance.zeta", {"axes": ["step"], "weights": [1.0] * 4}, r"guidance\.zeta.*a list"),
        ("guidance.zeta", [1.0] * 3, r"guidance.*zeta.*\(3,\).*\(4,\)"),
    ],
)
def test_wrong_weights_of_version_1_are_named(path, value, match, tmp_path):
    stored = json.loads((DATA / "schedule-v1-dps.json").read_text())
    set_at(stored, path, value)
    refuse(tmp_path, stored, match)


# ------------------------------------------------------------------------------------ bad files


def test_equal_schedules():
    same = jax.tree.map(lambda leaf: leaf + 0, FULL.guidance)
    assert replace(FULL, guidance=same) == FULL and FULL != PLAIN and FULL != "FULL"
    assert replace(FULL, guidance=same | {"eta": same["eta"] / 2}) != FULL
    assert replace(BANDED, band_knots=BANDED.band_knots + 1) != BANDED


def test_whole_numbers_are_equal_to_what_is_read_back(tmp_path):
    whole = replace(PLAIN, pixel_range=(-1, 1), guidance=jax.tree.map(np.ones_like, PLAIN.guidance))
    whole = replace(whole, guidance={name: w.astype(int) for name, w in whole.guidance.items()})
    save_schedule(tmp_path / "s.json", whole)
    assert load_schedule(tmp_path / "s.json") == whole


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"format": 1, "format": 2}', "'format'.*twice"),
        ('{"provenance": {"a": 1, "a": 1}}', "'a'.*twice"),
        ("[" * 100_000 + "]" * 100_000, "nested"),
        ('{"a": ' * 100_000, "nested"),
        ("[" * 40 + "]" * 40, "nested"),
        ('{"format": NaN}', r"format.*NaN"),
        ('{"a": {"b": [1, -Infinity]}}', r"a\.b\[1\].*Infinity"),
        ('{"a": 1e999}', r"a = inf.*finite"),
        ('{"a": -' + "9" * 5000 + "}", "a.*finite"),
        ('"' + "x" * 1000 + '"', "format"),
        ("7", "format"),
        ("null", "format"),
        ('{"a": "\x01"}', "not a JSON file"),
    ],
)
def test_json_that_is_no_schedule(text, match, tmp_path):
    refuse(tmp_path, text, match)


def test_deep_values_are_not_saved(tmp_path):
    """Else a file could be written that cannot be read, or read and not written again."""
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InputError, match=r"provenance.*nested"):
        save_schedule(tmp_path / "a.json", replace(PLAIN, provenance={"deep": deep}))


LIMITS = """
import sys, time
from pathlib import Path
from spectralpost.errors import InputError
from spectralpost.plain_json import read_json
start = time.process_time()
try:
    assert isinstance(read_json(sys.argv[1]), list)
    print("read")
except InputError as error:
    print(error)
print(time.process_time() - start)
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
print(int(peak.split()[1]) / 1024)
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" + '[{"a":[0]}],' * 499_999 + "0]", "read"),  # the costliest of all that are allowed
        ("[" + "1e5," * 1_999_999 + "0]", "read"),
        ("[" + "[]," * 2_000_000 + "0]", "more than 2000000 values"),
        ('["' + "x" * (32 * 2**20) + '"]', "larger than 32 MB"),
    ],
    ids=["objects", "numbers", "lists", "text"],
)
def test_large_files_take_bounded_time_and_memory(text, said, tmp_path):
    (tmp_path / "large.json").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", LIMITS, tmp_path / "large.json"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(spectralpost.__file__).parents[1])},
    )
    found, seconds, megabytes = done.stdout.splitlines()
    print(found, seconds, megabytes)
    assert found == said
    assert float(seconds) < (30 if said == "read" else 1)
    assert float(megabytes) < (1000 if said == "read" else 200)


def test_endless_files_are_not_read_to_their_end():
    with pytest.raises(InputError, match="larger than 32 MB"):
        load_schedule("/dev/zero")


def test_bytes_before_and_in_the_text(tmp_path):
    """A byte-order mark, which some editors write, is no part of it. All text is ASCII."""
    save_schedule(tmp_path / "a.json", FULL)
    content = (tmp_path / "a.json").read_bytes()
    assert content.isascii() and b"s\\u00fc\\u00dfe photographs" in content
    (tmp_path / "b.json").write_bytes(b"\xef\xbb\xbf" + content)
    assert load_schedule(tmp_path / "b.json") == FULL
    (tmp_path / "c.json").write_text(content.decode("unicode-escape"), encoding="utf-8")
    assert load_schedule(tmp_path / "c.json") == FULL
    odd = replace(FULL, prior_source="\ud800 \udcff \x00", provenance={"\udcff\n": "\u2028"})
    save_schedule(tmp_path / "d.json", odd)  # names that were not UTF-8
    assert load_schedule(tmp_path / "d.json") == odd


def test_names_and_texts_in_any_locale(tmp_path):
    """An ASCII terminal, a name that is not UTF-8, texts that the locale lacks; and, as that
    process computes in single precision, numbers that it lacks."""
    large = PLAIN.guidance | {"zeta": jnp.asarray([1.0, 1e300, 1.0])}
    save_schedule(tmp_path / "large.json", replace(PLAIN, guidance=large))
    stored = {"format": "spectralpost schedule", "format_version": 1, "guidance": {"ж": 1}}
    for name in (b"\xff.json", "ж.json".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text(json.dumps(stored))
    code = (
        "import os\nfrom spectralpost.errors import InputError\n"
        "from spectralpost.schedule_file import load_schedule\n"
        "for name in (b'\\xff.json', b'\\xd0\\xb6.json', b'\\xfe.json', "
        "b'large.json'):\n"
        "    try:\n        load_schedule(os.fsdecode(name))\n"
        "    except InputError as error:\n        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        env=os.environ
        | {
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONIOENCODING": "ascii",
            "PYTHONPATH": str(Path(spectralpost.__file__).parents[1]),
        },
    )
    lines = done.stdout.decode("ascii").splitlines()
    assert (done.returncode, len(lines)) == (0, 4), done.stderr
    assert all(line.startswith("schedule '\\") for line in lines[:3])
    assert "guidance" in lines[0] and "guidance" in lines[1] and "No such file" in lines[2]
    assert "guidance.zeta.weights: too large for float32" in lines[3]


def test_files_that_are_no_schedule(stored, tmp_path):
    refuse(tmp_path, json.dumps(stored)[:-40], "not a JSON file")
    refuse(tmp_path, "", "not a JSON file")
    refuse(tmp_path, "[1, 2]", "format")
    refuse(tmp_path, "{}", "format")
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match=r"latin\.json.*not a JSON file"):
        load_schedule(tmp_path / "latin.json")
    with pytest.raises(InputError, match=r"missing\.json.*No such file"):
        load_schedule(tmp_path / "missing.json")
    with pytest.raises(InputError, match="cannot be read"):
        load_schedule(tmp_path)
