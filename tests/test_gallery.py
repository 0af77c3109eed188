"""The gallery: what its files hold, what is shipped, the nearest schedule, the command."""

import importlib.util
import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_compilation

from spectralpost.cli import main
from spectralpost.commands import gallery as command
from spectralpost.degradations import make_degradation
from spectralpost.errors import InputError
from spectralpost.gallery import (
    Entry,
    Scores,
    gallery_entries,
    gallery_nearest,
    gallery_prior,
    gallery_schedule,
    holds_between,
    levels_at,
    problem_on,
    scores_of,
    tuned_of,
)
from spectralpost.gallery.entries import (
    FOLDER,
    SIZES,
    TASKS,
    entry_name,
    entry_of,
    write_entries,
)
from spectralpost.learning import Prices, evaluate, for_network, heuristic
from spectralpost.noise import vp_linear
from spectralpost.prior import Prior, power_law
from spectralpost.prior_file import load_prior, save_prior
from spectralpost.problem_checks import ROUNDING
from spectralpost.samplers import SAMPLERS
from spectralpost.schedule_file import load_schedule, save_schedule

pytestmark = pytest.mark.usefixtures("quick")

SHIPPED = gallery_entries()
LARGEST = 5 * 10**6  # bytes
DIGITS = 5e-6  # of numbers with six digits
MEASURED = {
    "images": 9,
    "energy": {"learned": 0.09, "tuned": 0.1, "published": 0.3},
    "of_tuned": [-10.0, 1.5],
}
LOST = 1e-4  # of W2 by rounding weights, as the builder promises
RELEARNED = "diffpir-gaussian_blur2-s0.05-10"


@pytest.fixture(scope="module", name="builder")
def builder_of_experiments():
    path = Path(__file__).parents[1] / "experiments" / "gallery.py"
    spec = importlib.util.spec_from_file_location("gallery_builder", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def made_up(task: str, sigma_y: float, steps: int, sampler: str = "diffpir") -> Entry:
    """An entry that nobody has learned."""
    weights = {name: (0.5,) * steps for name in SAMPLERS[sampler]().constraint}
    name, timesteps = entry_name(sampler, task, sigma_y, steps), tuple(range(steps - 1, -1, -1))
    scores = {"learned": 0.1, "tuned": 0.2, "published": None}
    holds = {"sigma_y": (sigma_y / 1.1, sigma_y * 1.1)}
    now = for_network(SAMPLERS[sampler](), levels_at(timesteps))["prices"]
    learned = weights, scores, scores, holds, now
    return Entry(name, sampler, task, sigma_y, steps, 8, timesteps, *learned)


@pytest.fixture(scope="module", name="folder")
def folder_of_some(tmp_path_factory):
    """A gallery of made-up entries."""
    folder = tmp_path_factory.mktemp("gallery")
    tasks = ("gaussian_blur1", "gaussian_blur3", "uniform_blur", "x2", "x4", "denoise", "inpaint")
    entries = [made_up(task, s, n) for task in tasks for s in (0.05, 0.2) for n in (2, 4)]
    (old,) = (i for i, one in enumerate(entries) if one.name == "diffpir-denoise-s0.05-4")
    entries[old] = entries[old]._replace(within=Prices(3.0, 0.1, (5.0, 0.2)))
    write_entries(folder / "diffpir.json", entries)
    measured = made_up("denoise", 0.1, 2, "dps")._replace(measured=MEASURED)
    write_entries(folder / "dps.json", [measured])
    return folder


# ---------------------------------------------------------------------------------- what is shipped


def test_something_is_shipped_and_it_is_small():
    files = list(FOLDER.glob("*.json"))
    assert SHIPPED and files
    assert sum(path.stat().st_size for path in files) < LARGEST
    assert {path.stem for path in files} == {entry.sampler for entry in SHIPPED}
    assert len({entry.name for entry in SHIPPED}) == len(SHIPPED)


def test_the_page_says_what_there_is():
    """Numbers of steps, of all sigma_y but the one that stands for data without noise; `lines` is
    what docs/gallery.md should have."""
    noisy = [entry for entry in SHIPPED if entry.sigma_y != ROUNDING]
    blocks = {"x2, x4": ["x2", "x4"], "inpainting": ["inpaint"]}
    others = [task for task in TASKS if task not in ("x2", "x4", "inpaint")]
    kinds = {"blurs, denoising": others} | blocks
    lines = [f"{'':<9}" + "".join(f"{kind:<20}" for kind in kinds)]
    for sampler in sorted({entry.sampler for entry in SHIPPED}):
        row = f"{sampler:<9}"
        for tasks in kinds.values():
            of_each = {
                tuple(sorted({e.steps for e in noisy if (e.sampler, e.task) == (sampler, task)}))
                for task in tasks
            }
            assert len(of_each) == 1  # tasks of a kind have the same
            row += f"{', '.join(map(str, of_each.pop())) or '-':<20}"
        lines.append(row)
    page = (Path(__file__).parents[1] / "docs" / "gallery.md").read_text()
    assert "\n".join(line.rstrip() for line in lines) in page, "\n".join(lines)
    # Without noise: blurs, x2 and x4 in 10 and 20 steps, inpainting in 10.
    expected = {
        entry_name(sampler, task, ROUNDING, steps)
        for sampler in {entry.sampler for entry in SHIPPED}
        for task in set(TASKS) - {"denoise"}
        for steps in (10, 20)
        if task != "inpaint" or steps == 10
    }
    silent = [entry for entry in SHIPPED if entry.sigma_y == ROUNDING]
    assert {entry.name for entry in silent} == expected
    assert f"The other {len(silent)} are of sigma_y {ROUNDING}" in page
    assert all(entry.w2["learned"] < 1.001 * entry.w2["tuned"] for entry in silent)
    measured = sum(entry.measured is not None for entry in SHIPPED)
    assert f"{len(SHIPPED)} schedules, {measured} of them measured" in page
    begun = sum(entry.began_from is not None for entry in SHIPPED)
    assert f"{begun} schedules, of many steps mostly, began from" in page
    limits = [for_network(SAMPLERS[e.sampler](), levels_at(e.timesteps))["prices"] for e in SHIPPED]
    before = sum(e.within != now for e, now in zip(SHIPPED, limits, strict=True))
    assert f"{before} are of older limits" in page
    assert "Of DMPS, ILVR and DAPS all that were measured" in page
    for entry in SHIPPED:
        if entry.measured is not None and entry.sampler in ("dmps", "ilvr", "daps"):
            energy = entry.measured["energy"]
            assert energy["learned"] < min(energy["tuned"], energy["published"])


@pytest.mark.parametrize("sampler", sorted({entry.sampler for entry in SHIPPED}))
def test_every_entry_is_a_schedule(sampler, tmp_path):
    """It loads, and can be stored and read back as it is."""
    entries = [entry for entry in SHIPPED if entry.sampler == sampler]
    by_name = {entry.name: entry for entry in entries}
    for entry in entries:
        assert entry.name == entry_name(sampler, entry.task, entry.sigma_y, entry.steps)
        assert len(entry.timesteps) == entry.steps
        assert set(entry.guidance) == set(SAMPLERS[sampler]().constraint)
        assert {len(weights) for weights in entry.guidance.values()} == {entry.steps}
        for scores in (entry.w2, entry.energy):
            assert set(scores) == {"learned", "tuned", "published"}
            assert scores["learned"] > 0 and scores["tuned"] > 0
        # Of the constants that it is the best of one is the published; it is tuned on merged modes.
        assert entry.w2["published"] is None or entry.w2["tuned"] < 1.001 * entry.w2["published"]
        for name in entry.began_from or ():  # can be learned again
            other = by_name[name]
            assert (other.sampler, other.task) == (sampler, entry.task)
            assert other.steps <= entry.steps and name != entry.name
        size = TASKS[entry.task].size
        own = {"sigma_y": entry.sigma_y} | ({} if size is None else TASKS[entry.task].options)
        assert set(entry.holds) == set(own)
        for name, (low, high) in entry.holds.items():
            assert low <= own[name] <= high and high < 4.01 * low
        if (found := entry.measured) is not None:
            energy, (gap, error) = found["energy"], found["of_tuned"]
            assert found["images"] > 1 and set(energy) == set(scores) and error >= 0
            rounding = 0.05 + 100 * 1e-3  # of one digit of per cent, and of four digits
            assert gap == pytest.approx(
                100 * (energy["learned"] / energy["tuned"] - 1), abs=rounding
            )
        path = tmp_path / f"{entry.name}.json"
        schedule = gallery_schedule(entry)
        save_schedule(path, schedule)  # which checks all of it
        assert load_schedule(path) == schedule
    grids = {(entry.task, entry.steps) for entry in entries}
    noises = {entry.sigma_y for entry in entries} - {ROUNDING}
    whole = {entry_name(sampler, task, noise, steps) for task, steps in grids for noise in noises}
    assert {name for name, one in by_name.items() if one.sigma_y != ROUNDING} == whole


@pytest.mark.parametrize(
    "entry",
    [SHIPPED[i] for i in np.random.default_rng(0).permutation(len(SHIPPED))[:5]],
    ids=lambda entry: entry.name,
)
def test_what_is_stored_is_what_it_does(entry):
    """W2 and energy score, evaluated anew on all modes, are the stored ones to rounding."""
    schedule = gallery_schedule(entry)
    problem = problem_on(schedule.degradation(), schedule.sigma_y)
    found = scores_of(schedule.sampler(), problem, schedule.levels, schedule.guidance)
    np.testing.assert_allclose(found.w2, entry.w2["learned"], rtol=DIGITS)
    np.testing.assert_allclose(found.energy, entry.energy["learned"], rtol=DIGITS)
    levels = vp_linear(entry.steps)
    given = heuristic(schedule.sampler(), problem, levels)
    found = scores_of(schedule.sampler(), problem, levels, given)
    np.testing.assert_allclose(found.w2, entry.w2["published"], rtol=DIGITS)


# ------------------------------------------------------------------------------------------- parts


def test_prior_of_colour():
    prior = gallery_prior(16)
    assert prior.spectrum.shape == (3, 16, 16)
    # As written out, to the last digit: schedules name the prior by its hash.
    share = 3 * np.asarray((0.01, 0.16, 0.83))[:, None, None]
    axes = np.array([[1, -2, 1], [1, 0, -1], [1, 1, 1]]).T / np.sqrt([6, 2, 3])
    spectrum = share * power_law((16, 16), 2.0, std=0.5).spectrum
    by_hand = Prior(spectrum, np.zeros((3, 16, 16)), (-1.0, 1.0), "by hand", axes=axes)
    assert prior.hash == by_hand.hash
    np.testing.assert_allclose(prior.spectrum.mean(), 0.5**2, rtol=1e-12)  # of a pixel of a plane
    np.testing.assert_allclose(prior.axes.T @ prior.axes, np.eye(3), atol=1e-12)
    assert gallery_prior(16).hash == prior.hash != gallery_prior(8).hash


def test_entries_survive_their_file(folder):
    entries = gallery_entries(folder)
    assert len(entries) == 29
    assert made_up("x4", 0.2, 4) in entries
    assert [one.measured for one in entries if one.sampler == "dps"] == [MEASURED]
    schedule = gallery_schedule(made_up("x4", 0.2, 4))
    assert schedule.baselines == {"tuned_constant": 0.2}  # the published one has no number
    assert schedule.timesteps == (3, 2, 1, 0)
    np.testing.assert_array_equal(schedule.levels.alpha[:-1], vp_linear(1000).alpha[-5:-1])


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "spectralpost gallery"}', "no JSON"])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "dps.json").write_text(text)
    with pytest.raises(InputError):
        gallery_entries(tmp_path)


def test_broken_entry_is_refused(folder, tmp_path):
    stored = json.loads((folder / "dps.json").read_text())
    del next(iter(stored["entries"].values()))["timesteps"]
    (tmp_path / "dps.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"dps\.json.*none of its files.*timesteps"):
        gallery_entries(tmp_path)


def test_unknown_name_says_what_is_like_it(folder):
    with pytest.raises(InputError, match=r"'diffpir-x3-s0\.05-2'.*diffpir-x[24]-s0\.05-2"):
        entry_of("diffpir-x3-s0.05-2", folder)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (("gaussian_blur", {"std": 1.2}, 0.06, 4), "diffpir-gaussian_blur1-s0.05-4"),
        (("gaussian_blur", {"std": 2.5}, 0.06, 4), "diffpir-gaussian_blur3-s0.05-4"),
        (("gaussian_blur", {}, 0.3, 1), "diffpir-gaussian_blur3-s0.2-2"),  # the default std is 2
        (("downsample", {"factor": 8}, 0.05, 2), "diffpir-x4-s0.05-2"),
        (("downsample", {}, 0.05, 2), "diffpir-x4-s0.05-2"),
        (("downsample", {"factor": 3}, 0.05, 2), "diffpir-x4-s0.05-2"),
        (("identity", {}, 1e-9, 1000), "diffpir-denoise-s0.05-4"),
        (("inpaint", {"keep": 0.1, "seed": 7}, 0.2, 3), "diffpir-inpaint-s0.2-4"),
        (("uniform_blur", {"size": 5}, 0.11, 2), "diffpir-uniform_blur-s0.2-2"),
    ],
)
def test_nearest(asked, name, folder):
    assert gallery_nearest("diffpir", *asked, folder).name == name


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("pigdm", "identity", {}, 0.1, 2), "sampler = 'pigdm': the gallery has diffpir, dps"),
        (("dps", "gaussian_blur", {}, 0.1, 2), "'gaussian_blur': the gallery has of dps denoise"),
        (("diffpir", "inpaint", {"mask": "box"}, 0.1, 2), "'inpaint', mask = box"),
        (("diffpir", "downsample", {"kernel": "average"}, 0.1, 2), "kernel = average"),
        (("diffpir", "downsample", {"factor": 99}, 0.1, 2), "factor = 99: does not divide"),
        (
            ("diffpir", "identity", {}, 0.0, 2),
            "sigma_y = 0: must be > 0 and finite; data without noise",
        ),
        (("diffpir", "identity", {}, float("nan"), 2), "sigma_y = nan"),
        (("diffpir", "identity", {}, 0.1, 0), "steps = 0"),
    ],
)
def test_nothing_near(asked, message, folder):
    with pytest.raises(InputError, match=re.escape(message)):
        gallery_nearest(*asked, folder)


def test_sizes_are_options_of_tasks():
    for task in TASKS.values():
        assert task.size is None or task.size in SIZES
        make_degradation(task.degradation, (16, 16), **task.options)


def test_range_is_contiguous():
    """It ends at the first value that is worse, whatever is behind it; NaN is worse."""
    gains = np.array([0.5, 0.6, 0.52, 0.5, 0.525, np.nan, 0.1])
    asked = []

    def gain(i: int) -> float:
        asked.append(i)
        return gains[i]

    assert holds_between([1, 2, 3, 4, 5, 6, 7], gain, 3) == (3, 5)
    assert asked == [3, 2, 1, 4, 5]  # none behind the first that is worse
    assert holds_between([1, 2, 3], lambda i: 0.1, 0) == (1, 3)
    assert holds_between([1, 2], [0.2, 0.1].__getitem__, 1) == (2, 2)


@pytest.mark.parametrize("sigma_y", [0.05, 0.5])
def test_no_constant_beats_the_tuned_one(sigma_y):
    """On a fine grid."""
    sampler, levels = SAMPLERS["ddrm"](), vp_linear(2)
    problem = problem_on(make_degradation("identity", (8, 8)), sigma_y)
    constant = tuned_of(sampler, problem, levels)
    assert set(constant) == set(sampler.constraint)
    least = evaluate(sampler, problem, levels, constant)
    for share in np.linspace(0, 1, 11):
        tried = constant | {"eta_b": jnp.full(2, share)}
        assert least <= evaluate(sampler, problem, levels, tried) * (1 + 1e-5)


def test_the_experiment_builds_all_that_is_shipped(builder):
    assert {*builder.Options().samplers} == {entry.sampler for entry in SHIPPED}


def test_built_by_the_experiment(builder, tmp_path):
    """A tiny gallery: cells kept, rounded weights that do what the exact ones do, ranges."""
    options = builder.Options(
        out=tmp_path / "out",
        into=tmp_path,
        samplers=("ddrm",),
        tasks=("uniform_blur", "denoise"),
        sigma_y=(0.1,),
        steps=(2,),
        size=16,
        bins=8,
        starts=2,
    )
    builder.build(options)
    entries = gallery_entries(tmp_path)
    assert [entry.name for entry in entries] == ["ddrm-uniform_blur-s0.1-2", "ddrm-denoise-s0.1-2"]
    assert [set(entry.holds) for entry in entries] == [{"sigma_y", "size"}, {"sigma_y"}]
    assert {entry.within for entry in entries} == {Prices(2.0, 0.1, (5.0, 0.01))}
    for entry in entries:
        schedule = gallery_schedule(entry)
        assert schedule.shape == (16, 16)
        problem = problem_on(schedule.degradation(), 0.1)
        found = scores_of(schedule.sampler(), problem, schedule.levels, schedule.guidance)
        np.testing.assert_allclose(found.w2, entry.w2["learned"], rtol=DIGITS)
        # On bins it was learned; on all modes it may be worse than the constant by what they lose.
        assert entry.w2["learned"] < 1.1 * entry.w2["tuned"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    builder.build(options)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(InputError, match="its cells are of"):
        builder.build(replace(options, bins=16))


@pytest.mark.slow
def test_a_shipped_schedule_is_learned_again(builder, tmp_path):
    """The builder finds its loss once more, and all that is said of it.

    DiffPIR's searches end in one optimum, on whose floor what is left is the rounding of weights
    (LOST / 2 either time) and of W2 (DIGITS).
    """
    shipped = entry_of(RELEARNED)
    options = builder.Options(
        out=tmp_path / "cells",
        into=tmp_path,
        samplers=(shipped.sampler,),
        tasks=(shipped.task,),
        sigma_y=(shipped.sigma_y,),
        steps=(shipped.steps,),
    )
    with quick_compilation():
        builder.build(options)
    (again,) = gallery_entries(tmp_path)
    assert again.name == RELEARNED
    assert again.w2["learned"] < 0.3 * again.w2["tuned"]  # it did search
    for found, stored in ((again.w2, shipped.w2), (again.energy, shipped.energy)):
        for label, value in stored.items():
            np.testing.assert_allclose(found[label], value, rtol=LOST + DIGITS, err_msg=label)
    assert again.timesteps == shipped.timesteps
    # Where W2 has lost 5 %, over a factor of 1.5: LOST moves that point by less than 1e-3.
    for axis, limits in shipped.holds.items():
        np.testing.assert_allclose(again.holds[axis], limits, rtol=1e-3)


def test_weights_are_rounded_as_little_as_is_needed(builder):
    sampler, levels = SAMPLERS["ddrm"](), vp_linear(3)
    problem = problem_on(make_degradation("identity", (8, 8)), 0.1)
    guidance = {"eta": jnp.array([0.123456789, 0.7, 1 / 3]), "eta_b": jnp.array([0.9, 0.1, 2 / 3])}
    timesteps = builder.noise_grid("vp_linear", 3).timesteps
    short = builder.rounded(sampler, problem, timesteps, guidance)
    assert max(len(repr(one)) for weights in short.values() for one in weights) < 9
    both = [evaluate(sampler, problem, levels, w) for w in (guidance, builder.as_arrays(short))]
    np.testing.assert_allclose(both[1], both[0], rtol=LOST)


# ------------------------------------------------------------------------------------- the command


@pytest.fixture(name="fake")
def command_on_made_up_entries(folder, monkeypatch):
    """The command, with the made-up gallery in place of the shipped one."""
    monkeypatch.setattr(command, "gallery_entries", lambda: gallery_entries(folder))
    monkeypatch.setattr(command, "entry_of", lambda name: entry_of(name, folder))
    near = lambda *given: gallery_nearest(*given, folder)  # noqa: E731
    monkeypatch.setattr(command, "gallery_nearest", near)


def test_list(fake, capsys):
    main(["gallery"])
    assert "29 schedules" in capsys.readouterr().out
    main(shlex.split("gallery list --sampler diffpir --degradation x4 --steps 2"))
    out = capsys.readouterr().out
    assert "2 schedules" in out and "diffpir-x4-s0.05-2" in out and "diffpir-x4-s0.2-2" in out
    main(shlex.split("gallery --degradation gaussian-blur --sigma-y 0.2"))
    assert "4 schedules" in capsys.readouterr().out
    main(shlex.split("gallery --blur-std 3"))
    assert "4 schedules" in capsys.readouterr().out


def test_names_are_whole(capsys):
    """They are what `show` takes."""
    main(["gallery"])
    assert set(re.findall(r"[a-z]+-\w+-s[\d.]+-\d+", capsys.readouterr().out)) == {
        entry.name for entry in SHIPPED
    }


def test_show_and_write(fake, tmp_path, capsys):
    main(shlex.split("gallery show dps-denoise-s0.1-2"))
    out = capsys.readouterr().out
    assert "9 tiles of photographs, energy score: 0.09; tuned constant 0.1 (-10.0 %, " in out
    assert "sigma_y 0.0909091 to 0.11" in out and "50 %" in out and "diverges" in out
    assert "older limits" not in out
    main(shlex.split("gallery show diffpir-denoise-s0.05-4"))
    said = " ".join(capsys.readouterr().out.split())
    assert "within older limits: amplification 3, at 5 and 0.2 times the spectrum" in said
    assert "--start diffpir-denoise-s0.05-4 ..." in said
    out = tmp_path / "one.json"
    main(shlex.split(f"gallery show diffpir-x2-s0.05-4 --out {out}"))
    schedule = load_schedule(out)
    assert schedule == gallery_schedule(made_up("x2", 0.05, 4))
    assert load_prior(tmp_path / "prior.npz").hash == schedule.prior_hash
    main(shlex.split(f"gallery show diffpir-x4-s0.05-4 --out {tmp_path / 'two.json'}"))
    main(shlex.split(f"export {out} --to csv"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "one.json",
        "two.json",
        "prior.npz",
        "one_csv.csv",
    }


def test_a_schedule_without_its_prior(fake, tmp_path, capsys):
    main(shlex.split(f"gallery show dps-denoise-s0.1-2 --out {tmp_path}/one.json"))
    (tmp_path / "prior.npz").unlink()
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(f"evaluate {tmp_path}/one.json"))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1
    assert "prior.npz, is not beside it; copy it there, or name it with --prior" in error


def test_nearest_says_what_is_lost(fake, tmp_path, capsys):
    out = tmp_path / "near.json"
    asked = "--sampler diffpir --blur-std 1.2 --sigma-y 0.1 --steps 3"
    main(shlex.split(f"gallery nearest {asked} --out {out}"))
    said = " ".join(capsys.readouterr().out.split())
    near = said.split("Nearest: ")[1].split()[0]
    assert near in ("diffpir-gaussian_blur1-s0.05-2", "diffpir-gaussian_blur1-s0.05-4")
    assert "sigma_y = 0.1 is outside of its range" in said and "not 3." in said
    there = "--degradation gaussian_blur --degradation-options std=1.2 --sigma-y 0.1 --steps 3"
    assert f"design --limits network --sampler diffpir --start {near} {there}` goes on" in said
    assert load_schedule(out).sigma_y == 0.05
    result = command.compute(
        command.Gallery(
            action="nearest", sampler="diffpir", degradation="x4", sigma_y=0.05, steps=2
        )
    )
    assert result.entries[0].name == "diffpir-x4-s0.05-2"
    scores = result.asked.scores
    assert scores["tuned"].w2 <= scores["published"].w2 * (1 + 1e-9)
    schedule = gallery_schedule(result.entries[0])
    problem = problem_on(schedule.degradation(), 0.05)
    found = scores_of(schedule.sampler(), problem, schedule.levels, schedule.guidance)
    np.testing.assert_allclose(found.w2, scores["learned"].w2, rtol=1e-12)


@pytest.mark.parametrize(
    ("keep", "learned", "said"),
    [
        (0.5, 0.1, "That is within its range."),
        (0.5, 0.12, "That is more than 5 % worse"),
        (0.5, None, "Something diverges."),
        (0.1, 0.1, "It is made for keep = 0.5, not 0.1."),
    ],
)
def test_within_its_range_is_what_is_like_its_own_problem(keep, learned, said, capsys):
    """In all sizes, and within 5 % of its share of the constant's W2^2, which is a half."""
    scores = {"learned": Scores(learned, 0.1), "tuned": Scores(0.2, 0.2)}
    scores["published"] = Scores(None, None)
    asked = command.Asked("a mask", {"sigma_y": 0.05, "keep": keep}, 2, scores, "")
    command.present(command.Result("nearest", (made_up("inpaint", 0.05, 2),), asked, None))
    found = capsys.readouterr().out
    assert said in found
    assert ("goes on from it" in found) == ("within its range" not in found)


BAD = {
    "unknown name": ("gallery show magic", "name = 'magic': not in the gallery"),
    "no name": ("gallery show", "name a schedule"),
    "name of a list": ("gallery list dps-denoise-s0.1-2", "no effect on gallery list"),
    "unknown action": ("gallery burn", "burn"),
    "out of a list": ("gallery --out x.json", "no effect on gallery list"),
    "no such task": (
        "gallery nearest --degradation x3 --sampler dps --steps 10 --sigma-y 0.1",
        "degradation = 'x3': allowed are the gallery's gaussian_blur1, .*x4.*`spectralpost deg",
    ),
    "nothing so": ("gallery --sampler magic", "sampler = 'magic': the gallery has diffpir, dps"),
    "no such noise": ("gallery --sigma-y 0.3", r"sigma_y = 0.3: the gallery has .*0.1.*nearest"),
    "no such steps": ("gallery --steps 33", r"steps = 33: the gallery has 2, .*any number"),
    "nothing of both": (
        "gallery --sampler dps --degradation motion-blur",
        r"none of its 29 .*sampler = 'dps', degradation = .*gallery nearest",
    ),
    "no sampler": ("gallery nearest --sigma-y 0.1 --steps 2", "needs --sampler"),
    "unknown sampler": (
        "gallery nearest --sampler magic --sigma-y 0.1 --steps 2",
        "sampler = 'magic': the gallery has diffpir, dps",
    ),
    "a kernel": (
        "gallery nearest --sampler dps --degradation from_kernel --kernel kernel.csv "
        "--sigma-y 0.1 --steps 2",
        "degradation = 'from_kernel': the gallery has of dps denoise",
    ),
    "unknown degradation": (
        "gallery nearest --sampler dps --degradation rain --sigma-y 0.1 --steps 2",
        "degradation = 'rain'",
    ),
    "sigma_y 0": (
        "gallery nearest --sampler dps --degradation denoise --sigma-y 0 --steps 2",
        "sigma_y = 0: .* the rounding of 8 bits, 0.0023",
    ),
    "wrong size": (
        "gallery nearest --sampler diffpir --blur-std -1 --sigma-y 0.1 --steps 2",
        r"std = -1",
    ),
    "flag of another": ("gallery --degradation x4 --blur-std 2", "blur_std = 2.0: has no effect"),
    "no folder": ("gallery show dps-denoise-s0.1-2 --out no/x.json", "no folder 'no'"),
    "file that exists": ("gallery show dps-denoise-s0.1-2 --out taken.json", "exists"),
    "a filter of one": ("gallery show dps-denoise-s0.1-2 --steps 10", "steps = 10: has no effect"),
    "a folder": ("gallery show dps-denoise-s0.1-2 --out .", "out = '.': a .json file is needed"),
    "the prior's name": ("gallery show dps-denoise-s0.1-2 --out prior.npz", "a .json file"),
    "another prior": ("gallery show dps-denoise-s0.1-2 --out other/x.json", "another prior"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, fake, tmp_path, monkeypatch, capsys):
    arguments, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.json").write_text("")
    (tmp_path / "kernel.csv").write_text("1,2\n3,4\n")
    (tmp_path / "other").mkdir()
    save_prior(tmp_path / "other" / "prior.npz", gallery_prior(4))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as end:
        main(shlex.split(arguments))
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("spectralpost: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert sorted(tmp_path.rglob("*")) == before
