"""Schedules on disk: the same numbers back, and a message that names what is wrong."""

import copy
import json
import math
import os
from dataclasses import fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectralpost.errors import InputError
from spectralpost.noise import NoiseLevel, rectified_flow, vp_linear, vp_timesteps
from spectralpost.prior import matern
from spectralpost.problem import image_problem
from spectralpost.schedule_file import Schedule, load_schedule, provenance, save_schedule
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
SCHEDULES = {"plain": PLAIN, "full": FULL, "flow": FLOW}


def bits(values) -> bytes:
    return np.asarray(values, dtype=float).tobytes()


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
        assert bits(loaded.guidance[weight]) == bits(schedule.guidance[weight])
    for field in fields(Schedule):
        if field.name not in ("levels", "guidance"):
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
    before = run(schedule.sampler(), problems[0], schedule.levels, schedule.guidance)
    after = run(loaded.sampler(), problems[1], loaded.levels, loaded.guidance)
    for one, other in zip(before, after, strict=True):
        assert bits(one) == bits(other)


def test_degradation_on_another_size():
    assert FULL.degradation((16, 12)).shape == (16, 12)
    assert FULL.degradation().shape == (8, 6)


def test_the_file_explains_itself(stored):
    """It is meant to be used without this package."""
    assert stored["format"] == "spectralpost schedule" and stored["format_version"] == 1
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


def test_nothing_is_half_written(tmp_path, monkeypatch):
    """The disk is full after some characters."""
    save_schedule(tmp_path / "old.json", PLAIN)
    old = (tmp_path / "old.json").read_text()
    write_text = Path.write_text

    def full_disk(path, text):
        write_text(path, text[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_schedule(tmp_path / "old.json", FULL, overwrite=True)
    with pytest.raises(OSError, match="No space"):
        save_schedule(tmp_path / "new.json", FULL)
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
    ],
)
def test_inconsistent_schedules_are_not_saved(change, match, tmp_path):
    """The last two happen: an unstable published default has an infinite loss."""
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
        ("format_version", 2, "format_version = 2.*newer spectralpost"),
        ("format_version", 0, "format_version = 0: this version reads 1$"),
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
        ("guidance.scale", [1.0, math.nan, 1.0], r"guidance\.scale.*NaN"),
        ("guidance.scale", [1.0, -0.5, 1.0], r"guidance\.scale.*>= 0"),
        ("guidance.scale", [1.0, 1.0], r"guidance.*scale.*\(2,\).*\(3,\)"),
        ("guidance.scale", [[1.0], [1.0], [1.0]], r"guidance\.scale"),
        ("guidance.eta", [0.0, 1.0, 1.0001], r"guidance\.eta.*in \[0, 1\]"),
        ("guidance.eta", [0.0, 1.0, -0.0001], r"guidance\.eta.*in \[0, 1\]"),
        ("guidance.zeta", [0.0, 1.0, 1.0], "guidance.*zeta"),
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
