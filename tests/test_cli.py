"""The command line, in process, on images of 16 x 16 pixels and five steps.

All runs share one sampler and one set of shapes, so the search is compiled once.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_compilation
from pictures import texture, write

import spectralpost
from spectralpost import commands, metrics
from spectralpost.cli import COMMANDS, Design, Evaluate, Restore, main, parse, to_yaml
from spectralpost.degradations import gaussian_blur
from spectralpost.errors import InputError
from spectralpost.images import load_image, save_image
from spectralpost.noise import vp_linear
from spectralpost.prior import Prior, load_prior, power_law, save_prior
from spectralpost.problem import image_problem
from spectralpost.restoration import measure
from spectralpost.samplers import SAMPLERS
from spectralpost.schedule_file import load_schedule
from spectralpost.transfer import sampler_transfer

SHAPE = (16, 16)
SIGMA_Y = 0.05
QUICK = "--steps 5 --blur-std 1"  # the sizes of test_learning.py, see there
SMALL = "--bins 128 --starts 2"  # as little as will do


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def w(tmp_path_factory) -> Path:
    """A folder with good and bad inputs; `designed` is the result of a run."""
    w = tmp_path_factory.mktemp("w")
    for name in (
        "images",
        "empty",
        "mixed",
        "flat",
        "nan",
        "corrupt",
        "large",
        "full",
        "kernels",
        "small",
    ):
        (w / name).mkdir()
    for i in range(4):
        write(w / "images" / f"{i}.png", texture(SHAPE, seed=i))
    for i, shape in enumerate([SHAPE, SHAPE, (20, 16)]):
        write(w / "mixed" / f"{i}.png", texture(shape))
        write(w / "flat" / f"{i}.png", np.full((*SHAPE, 3), 128, np.uint8))
    broken = texture(SHAPE) / np.float32(255)
    write(w / "nan" / "a.tif", broken)
    broken[3, 4, 1] = np.nan
    write(w / "nan" / "b.tif", broken)
    (w / "corrupt" / "a.png").write_bytes(b"no image")
    write(w / "large" / "a.png", texture((33, 50)))
    write(w / "small" / "small.png", texture((8, 8)))
    write(w / "small" / "photo.png", texture((24, 20), channels=1)[..., 0])
    (w / "full" / "mine.txt").write_text("mine")
    (w / "file").write_text("a file")
    kernels = w / "kernels"
    np.savetxt(kernels / "good.txt", np.full((3, 5), 1 / 15))
    np.savetxt(kernels / "large.txt", np.ones((17, 3)))
    np.savetxt(kernels / "nan.txt", [[1.0, np.nan]])
    np.savetxt(kernels / "zero.txt", np.zeros((3, 3)))
    np.save(kernels / "cube.npy", np.ones((3, 3, 3)))
    np.save(kernels / "pickled.npy", np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    (kernels / "words.txt").write_text("one two\nthree four\n")
    (kernels / "ragged.txt").write_text("1 2\n3\n")
    (kernels / "empty.txt").write_text("")
    (kernels / "broken.npy").write_bytes(b"no array")
    main(shlex.split(f"design --images {w}/images {QUICK} --out {w}/designed"))

    stored = json.loads((w / "designed" / "schedule.json").read_text())
    other = power_law(SHAPE)
    spoiled = {
        "newer": stored | {"format_version": 3},
        "box": stored
        | {
            "problem": stored["problem"]
            | {"degradation": "uniform_blur", "degradation_options": {"size": 9}}
        },
    }
    for name in ("newer", "box", "alone", "stranger", "broken"):
        (w / name).mkdir()
        text = json.dumps(spoiled.get(name, stored))
        (w / name / "schedule.json").write_text(text[:-50] if name == "broken" else text)
    prior = (w / "designed" / "prior.npz").read_bytes()
    (w / "box" / "prior.npz").write_bytes(prior)
    save_prior(w / "stranger" / "prior.npz", other)
    save_prior(w / "unit.npz", Prior(other.spectrum, other.mean, (0.0, 1.0), ""))
    (w / "text.npz").write_text("no prior")
    (w / "cut.npz").write_bytes(prior[:100])
    np.save(w / "array.npy", np.ones(SHAPE))
    np.savez(w / "incomplete.npz", spectrum=np.ones(SHAPE))

    (w / "unknown.yaml").write_text("steps: 4\nsharpness: 3\n")
    (w / "broken.yaml").write_text("steps: [4\n")
    (w / "list.yaml").write_text("- steps\n")
    (w / "empty.yaml").write_text("")
    (w / "words.yaml").write_text("steps: ten\n")
    (w / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    return w


def run(arguments: str, capsys) -> str:
    """Run a command; its standard output."""
    capsys.readouterr()
    main(shlex.split(arguments))
    return capsys.readouterr().out


def contents(*folders: Path) -> dict[Path, bytes | None]:
    """Everything below some folders: files with their bytes."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def scores_in(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())


# ------------------------------------------------------------------------------------------ design


def test_design_writes_all_its_files(w):
    names = ["config.yaml", "prior.npz", "report.png", "restored.png", "schedule.json"]
    assert sorted(os.listdir(w / "designed")) == [*names, "scores.json", "search.npz"]
    for name in ("report.png", "restored.png"):
        assert load_image(w / "designed" / name).std() > 0.1
    assert not [path for path in w.iterdir() if path.name.startswith(".")]


def test_levels_are_learned_and_rounded_to_time_steps(w, capsys):
    out = run(f"design --images {w}/images {QUICK} --learn-levels --out {w}/levels", capsys)
    schedule = load_schedule(w / "levels" / "schedule.json")
    assert schedule.timesteps is not None and schedule.timesteps[0] == 999
    assert "time steps " + " ".join(map(str, schedule.timesteps)) in out
    assert all(np.diff(schedule.timesteps) < 0)
    trained = vp_linear(1000)
    rows = 999 - np.asarray(schedule.timesteps)
    np.testing.assert_array_equal(schedule.levels.sigma[:-1], trained.sigma[rows])
    assert schedule.levels.sigma[-1] == 0
    loss, before = (
        scores_in(w / name)["average image"]["learned"]["W2^2"] for name in ("levels", "designed")
    )
    assert loss < 0.9 * before


def test_a_search_is_resumed(w, capsys):
    run(f"design --images {w}/images {QUICK} --resume {w}/designed --out {w}/resumed", capsys)
    again, before = (
        scores_in(w / name)["average image"]["learned"]["W2^2"] for name in ("resumed", "designed")
    )
    # the loss that is minimised has prices, so the score itself may rise by as little as these
    assert again <= before * (1 + 1e-3)


def test_design_writes_the_schedule_of_its_options(w):
    schedule = load_schedule(w / "designed" / "schedule.json")
    assert schedule.sampler_name == "dps"
    assert schedule.timesteps == (999, 749, 500, 250, 0)
    assert (schedule.degradation_name, schedule.degradation_options) == (
        "gaussian_blur",
        {"std": 1.0},
    )
    assert (schedule.shape, schedule.channels, schedule.sigma_y) == (SHAPE, 3, SIGMA_Y)
    assert schedule.prior_hash == load_prior(w / "designed" / "prior.npz").hash
    assert "images" in schedule.prior_source
    np.testing.assert_array_equal(schedule.guidance["eta"], 1)


def test_the_photograph_is_kept_out_of_the_prior(w):
    """The first image is restored; mean and spectrum are those of the three others."""
    prior = load_prior(w / "designed" / "prior.npz")
    others = np.concatenate([load_image(w / "images" / f"{i}.png") for i in (1, 2, 3)])
    power = np.abs(np.fft.fft2(others - others.mean(), norm="ortho")) ** 2
    np.testing.assert_allclose(prior.mean, others.mean(), rtol=1e-12)
    np.testing.assert_allclose(prior.spectrum, power.mean(axis=0), rtol=1e-10)


def test_learned_beats_constant_beats_published(w):
    scores = scores_in(w / "designed")["average image"]
    assert set(scores) == {"heuristic", "tuned_constant", "learned", "exact"}
    losses = [scores[name]["W2^2"] for name in ("learned", "tuned_constant", "heuristic")]
    assert 0 < losses[0] < losses[1] < losses[2]
    schedule = load_schedule(w / "designed" / "schedule.json")
    assert schedule.loss == losses[0]
    assert schedule.baselines["tuned_constant"] == losses[1]


@pytest.mark.parametrize("name", ["heuristic", "learned"])
def test_measured_psnr_is_the_predicted_one(name, w):
    """Within five standard errors of the photograph's own prediction.

    A restored mode is b + sqrt(v) n away from the truth, n ~ N(0, 1), for noise of the measurement
    and of the sampler together. The mean of the squares over 3 x 256 modes has the expectation
    mean(b^2 + v) and the variance sum(2 v^2 + 4 b^2 v) / N^2.
    """
    schedule = load_schedule(w / "designed" / "schedule.json")
    prior, degradation = load_prior(w / "designed" / "prior.npz"), schedule.degradation()
    problem = image_problem(prior, degradation, schedule.sigma_y, channels=3)
    sampler, guidance = schedule.sampler(), schedule.guidance
    if name == "heuristic":
        guidance = sampler.heuristic(problem, schedule.levels)
    law = sampler_transfer(sampler, problem, schedule.levels, guidance)
    x_0 = degradation.to_modes(jnp.asarray(load_image(w / "images" / "0.png") - prior.mean))
    b = np.asarray(law.data_gain * problem.response - 1) * np.asarray(x_0) + np.asarray(law.offset)
    v = np.asarray((law.data_gain * schedule.sigma_y) ** 2 + metrics.output_cov(law))
    v = np.broadcast_to(v, b.shape)
    expected, error = np.mean(b**2 + v), np.sqrt(np.sum(2 * v**2 + 4 * b**2 * v)) / b.size

    found = scores_in(w / "designed")["0.png"][name]
    peak = 2.0**2
    np.testing.assert_allclose(
        found["PSNR predicted, this image"], 10 * np.log10(peak / expected), rtol=1e-9
    )
    measured = peak / 10 ** (found["PSNR measured"] / 10)
    assert abs(measured - expected) < 5 * error
    assert error < 0.1 * expected  # else this would test nothing


def test_config_reproduces_a_run(w, tmp_path, capsys):
    """The file names `designed`, which is not empty any more: the flag --out wins."""
    out = run(f"design --config {w}/designed/config.yaml --out {tmp_path}/again", capsys)
    assert "results in" in out and "published default" in out
    texts = [
        (folder / "schedule.json").read_text() for folder in (w / "designed", tmp_path / "again")
    ]
    one, other = (json.loads(text) for text in texts)
    assert one["provenance"].pop("date") <= other["provenance"].pop("date")
    assert one == other
    assert scores_in(w / "designed") == scores_in(tmp_path / "again")


def test_other_options_of_design(w, tmp_path, capsys):
    """One photograph cut into tiles, another grid, blur, range and eta."""
    run(
        f"design --images {w}/large --size 16 --channels luminance --pixel-range 0 1 --window hann "
        f"--degradation kernel --kernel {w}/kernels/good.txt --sigma-y 0.1 --steps 5 "
        f"--grid ve-karras --eta 0.5 --photo {w}/small/photo.png --seed 3 --out {tmp_path}/out",
        capsys,
    )
    schedule = load_schedule(tmp_path / "out" / "schedule.json")
    assert schedule.degradation_name == "from_kernel" and schedule.timesteps is None
    np.testing.assert_allclose(schedule.degradation_options["kernel"], np.full((3, 5), 1 / 15))
    assert (schedule.channels, schedule.pixel_range) == (1, (0.0, 1.0))
    assert (schedule.sigma_y, schedule.provenance["seed"]) == (0.1, 3)
    np.testing.assert_array_equal(schedule.levels.alpha, 1)
    np.testing.assert_array_equal(schedule.guidance["eta"], 0.5)
    prior = load_prior(tmp_path / "out" / "prior.npz")
    assert prior.shape == SHAPE and 0 < prior.mean[0, 0] < 1
    assert "photo.png" in scores_in(tmp_path / "out")


def test_variants_of_a_sampler(w, tmp_path, capsys):
    """--sampler-options reach the sampler, and the schedule file, which restores with them."""
    run(
        f"design --images {w}/images {QUICK} --starts 4 --sampler pigdm "
        f"--sampler-options noiseless=true threshold=0.2 --out {tmp_path}/out",
        capsys,
    )
    schedule = load_schedule(tmp_path / "out" / "schedule.json")
    assert schedule.sampler_options == {"noiseless": True, "threshold": 0.2}
    assert schedule.sampler() is SAMPLERS["pigdm"](noiseless=True, threshold=0.2)


# ----------------------------------------------------------------------------------------- compare


def test_compare_ranks_the_samplers(w, tmp_path, capsys):
    """Three samplers, two step counts: a table each, all numbers in the file, best ones first."""
    options = f"--samplers ddnm dps reddiff --steps 5 4 --blur-std 1 {SMALL}"
    out = run(f"compare --images {w}/images {options} --out {tmp_path}/out", capsys)
    names = ["compare.json", "compare.png", "config.yaml"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert load_image(tmp_path / "out" / "compare.png").std() > 0.05
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())
    samplers = [row for row in rows if "learned" in row["scores"]]
    references = [row for row in rows if "exact" in row["scores"]]
    for steps in (5, 4):
        found = [row for row in samplers if row["steps"] == steps]
        assert {row["name"] for row in found} == {"ddnm", "dps", "reddiff"}
        losses = [row["scores"]["learned"]["W2^2"] for row in found]
        assert losses == sorted(losses)
        for row in found:
            scores = row["scores"]
            # the constant is not held to the limit on amplification
            assert 0 < scores["learned"]["W2^2"] <= 1.05 * scores["tuned_constant"]["W2^2"]
            assert scores["tuned_constant"]["W2^2"] <= scores["heuristic"]["W2^2"] * (1 + 1e-9)
            assert row["calls"] == steps
            assert (row["closure"] is None) == (row["name"] != "dps")
            assert f"{scores['learned']['W2^2']:.5f}" in out
        by_name = {row["name"]: row for row in references if row["steps"] == steps}
        assert by_name["exact score, Heun"]["calls"] == 2 * steps
        kernel = by_name["exact kernel"]["scores"]["exact"]["W2^2"]
        assert kernel < 1e-6 < min(losses)
    assert "5 steps" in out and "4 steps" in out and "published" in out
    assert "RED-diff's published default is Adam's" in out
    # the design of this fixture, on the same prior, problem and steps
    dps = next(row for row in samplers if row["name"] == "dps" and row["steps"] == 5)
    scores = scores_in(w / "designed")["average image"]
    for name in ("heuristic", "tuned_constant"):
        np.testing.assert_allclose(dps["scores"][name]["W2^2"], scores[name]["W2^2"], rtol=1e-6)


def test_compare_says_where_a_closure_fails(w, tmp_path, monkeypatch, capsys):
    """The literal algorithm decides, not the closed form; --no-check leaves it out."""
    # The module, which `commands` hides behind its function of that name.
    module = importlib.import_module("spectralpost.commands.compare")
    monkeypatch.setattr(module, "CLOSURE_HOLDS", -1.0)
    options = f"--samplers dps --steps 4 --blur-std 1 {SMALL}"
    out = run(f"compare --images {w}/images {options} --out {tmp_path}/a", capsys)
    assert "Does not hold" in out and "dps's published default at 4 steps" in out
    out = run(f"compare --images {w}/images {options} --no-check --out {tmp_path}/b", capsys)
    assert "Does not hold" not in out and "simulated" not in out


# ---------------------------------------------------------------------------------------- tradeoff


def test_tradeoff_buys_realism_with_error(w, tmp_path, capsys):
    """Between the prices error rises and perception falls, and nothing goes below the optimum."""
    options = f"--sampler diffpir --steps 5 --blur-std 1 {SMALL} --prices 10 0"
    out = run(f"tradeoff --images {w}/images {options} --out {tmp_path}/out", capsys)
    names = ["config.yaml", "tradeoff.json", "tradeoff.png"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert load_image(tmp_path / "out" / "tradeoff.png").std() > 0.05
    scores = json.loads((tmp_path / "out" / "tradeoff.json").read_text())
    assert list(scores) == [
        "published default",
        "tuned constant, W2^2",
        "learned, W2^2",
        "learned, price 0",
        "learned, price 10",
    ]
    for name, row in scores.items():
        assert row["mse"] >= row["least mse at this perception"] and name in out
    free, priced = scores["learned, price 0"], scores["learned, price 10"]
    assert free["mse"] < priced["mse"] and free["perception"] > priced["perception"]
    assert free["mse"] == min(row["mse"] for row in scores.values())


# ---------------------------------------------------------------------------- evaluate and restore


def test_evaluate_on_the_schedules_own_problem(w, tmp_path, monkeypatch, capsys):
    """The scores of `design` again; without --out, in a new folder that the last line names."""
    monkeypatch.chdir(tmp_path)
    out = run(f"evaluate {w}/designed/schedule.json --no-relearn", capsys)
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("evaluate-") and f"results in {folder}" in out
    assert os.listdir(tmp_path) == ["runs"]
    found, expected = scores_in(folder), scores_in(w / "designed")["average image"]
    pairs = {
        "published default": "heuristic",
        "this schedule": "learned",
        "exact reference": "exact",
    }
    assert set(found) == set(pairs)
    for row, name in pairs.items():
        for score, value in expected[name].items():
            np.testing.assert_allclose(found[row][score], value, rtol=1e-10)


def test_evaluate_on_another_problem(w, tmp_path, capsys):
    """Learning for it cannot be worse than the schedule of another one."""
    out = run(
        f"evaluate {w}/designed/schedule.json --sigma-y 0.3 --degradation uniform-blur "
        f"--blur-size 3 --out {tmp_path}/out",
        capsys,
    )
    assert "uniform_blur" in out and "0.3" in out
    losses = {name: row["W2^2"] for name, row in scores_in(tmp_path / "out").items()}
    learned = losses["learned for this problem"]
    assert learned < losses["tuned constant"] < losses["published default"]
    assert learned < losses["this schedule"]


def test_restore_a_simulated_measurement(w, tmp_path, capsys):
    """Printed PSNRs are those of the files, up to their 8 bits; samples differ, seeds reproduce."""
    image, schedule = w / "images" / "0.png", w / "designed" / "schedule.json"
    command = f"restore {image} --schedule {schedule} --simulate --samples 2 --seed 5"
    out = run(f"{command} --out {tmp_path}/a", capsys)
    names = ["config.yaml", "overview.png", "restored-1.png", "restored-2.png"]
    assert sorted(os.listdir(tmp_path / "a")) == names
    printed = [float(number) for number in re.findall(r"PSNR ([\d.]+) dB", out)]
    clean = load_image(image)
    samples = [load_image(tmp_path / "a" / f"restored-{i}.png") for i in (1, 2)]
    assert len(printed) == 2 and np.any(samples[0] != samples[1])
    for sample, psnr in zip(samples, printed, strict=True):
        of_file = 10 * np.log10(4 / np.mean((sample - clean) ** 2))
        # 8 bits add (2 / 255)^2 / 12 to an error of at least 4 / 10^3; clipping can only help.
        assert psnr < 30 and of_file > psnr - 0.05
    run(f"{command} --out {tmp_path}/b", capsys)
    run(f"{command} --seed 6 --out {tmp_path}/c", capsys)
    first = [(tmp_path / run / "restored-1.png").read_bytes() for run in "abc"]
    assert first[0] == first[1] != first[2]


def test_restore_a_measurement_of_another_size(w, tmp_path, capsys):
    """24 x 20, grey: the prior is resized, and the result is closer to the truth than grey is."""
    clean = load_image(w / "small" / "photo.png")
    degradation = gaussian_blur(clean.shape[1:], 1.0)
    y = measure(degradation, jnp.asarray(clean), SIGMA_Y, jax.random.key(0))
    save_image(tmp_path / "y.png", np.asarray(y))
    schedule = w / "designed" / "schedule.json"
    # The schedule is for three channels; a grey image must be readable with it, too.
    out = run(f"restore {tmp_path}/y.png --schedule {schedule} --out {tmp_path}/out", capsys)
    assert "PSNR" not in out  # unknown without the clean image
    restored = load_image(tmp_path / "out" / "restored-1.png")
    assert restored.shape == clean.shape
    assert np.mean((restored - clean) ** 2) < np.var(clean)


def test_samplers_are_listed(capsys):
    out = run("samplers", capsys)
    for name, factory in SAMPLERS.items():
        assert name in out
        if name != "exact":
            for weight in factory().constraint:
                assert weight in out
    assert "[0, 1]" in out and "2209.14687" in out.replace("\n", "")


# --------------------------------------------------------------------------------------- bad input

TRADEOFF = "tradeoff --images {w}/images --out {out}"
COMPARE = "compare --images {w}/images --out {out}"
DESIGN = f"design --images {{w}}/images {QUICK} --out {{out}}"
KERNEL = f"{DESIGN} --degradation kernel --kernel {{w}}/kernels"
SCHEDULE = "{w}/designed/schedule.json"
EVALUATE = f"evaluate {SCHEDULE} --out {{out}}"
RESTORE = f"restore {{w}}/images/0.png --schedule {SCHEDULE} --out {{out}}"

# name -> command line, and what its one line must say
BAD = {
    # images
    "empty folder": ("design --images {w}/empty --out {out}", "empty.*holds no image"),
    "missing folder": ("design --images {w}/nowhere --out {out}", "nowhere.*no such folder"),
    "file as folder": ("design --images {w}/file --out {out}", "file.*no such folder"),
    "corrupt image": ("design --images {w}/corrupt --out {out}", r"a\.png.*cannot be read"),
    "flat images": ("design --images {w}/flat --out {out}", "planes: no variance"),
    "mixed sizes": ("design --images {w}/mixed --out {out}", "mixed sizes: 16x16, 20x16"),
    "NaN pixels": ("design --images {w}/nan --out {out}", r"b\.tif.*NaN"),
    "size 1": (f"{DESIGN} --size 1", "size = 1"),
    "size too large": (f"{DESIGN} --size 17", "size = 17"),
    "missing photo": (f"{DESIGN} --photo {{w}}/no.png", r"no\.png.*no such file"),
    "photo too small": (f"{DESIGN} --photo {{w}}/small/small.png", r"small\.png.*8x8.*16x16"),
    "empty pixel range": (f"{DESIGN} --pixel-range 1 1", r"pixel range \(1\.0, 1\.0\)"),
    "NaN pixel range": (f"{DESIGN} --pixel-range nan 1", "pixel range"),
    "half a pixel range": (f"{DESIGN} --pixel-range 1", "pixel-range"),
    "unknown channels": (f"{DESIGN} --channels cmyk", "cmyk"),
    "unknown window": (f"{DESIGN} --window kaiser", "kaiser"),
    # degradation
    "sigma_y 0": (f"{DESIGN} --sigma-y 0", "sigma_y = 0.*> 0"),
    "sigma_y negative": (f"{DESIGN} --sigma-y -0.1", r"sigma_y = -0\.1"),
    "sigma_y nan": (f"{DESIGN} --sigma-y nan", "sigma_y"),
    "sigma_y inf": (f"{DESIGN} --sigma-y inf", "sigma_y"),
    "unknown degradation": (f"{DESIGN} --degradation rain", "rain"),
    "blur std 0": (f"{DESIGN} --blur-std 0", r"std = 0\.0"),
    "blur std nan": (f"{DESIGN} --blur-std nan", "std = nan"),
    "even box": (f"{DESIGN} --degradation uniform-blur --blur-size 4", "size = 4.*odd"),
    "large box": (f"{DESIGN} --degradation uniform-blur --blur-size 17", "17x17.*16x16"),
    "long motion": (f"{DESIGN} --degradation motion-blur --motion-length 40", "larger.*16x16"),
    "endless motion": (f"{DESIGN} --degradation motion-blur --motion-length 1e5", "larger.*16x16"),
    "no motion": (f"{DESIGN} --degradation motion-blur --motion-length 0", r"length = 0\.0"),
    "angle nan": (f"{DESIGN} --degradation motion-blur --motion-angle nan", "angle"),
    "no kernel": (f"{DESIGN} --degradation kernel", "needs --kernel"),
    "missing kernel": (f"{KERNEL}/no.npy", r"no\.npy.*cannot be read"),
    "folder as kernel": (KERNEL, "kernels.*cannot be read"),
    "large kernel": (f"{KERNEL}/large.txt", "17x3.*larger.*16x16"),
    "NaN kernel": (f"{KERNEL}/nan.txt", "kernel.*finite"),
    "kernel of zeros": (f"{KERNEL}/zero.txt", "kernel.*not 0"),
    "cubic kernel": (f"{KERNEL}/cube.npy", r"kernel of shape \(3, 3, 3\)"),
    "pickled kernel": (f"{KERNEL}/pickled.npy", r"pickled\.npy"),
    "kernel of words": (f"{KERNEL}/words.txt", r"words\.txt.*numbers"),
    "ragged kernel": (f"{KERNEL}/ragged.txt", r"ragged\.txt.*numbers"),
    "empty kernel": (f"{KERNEL}/empty.txt", "kernel"),
    "broken kernel": (f"{KERNEL}/broken.npy", r"broken\.npy"),
    # sampler
    "unknown sampler": (f"{DESIGN} --sampler magic", "sampler = 'magic'.*dps"),
    "nothing to learn": (f"{DESIGN} --sampler exact", "sampler = 'exact'"),
    "option without value": (f"{DESIGN} --sampler-options noiseless", "'noiseless': name=value"),
    "option of another": (f"{DESIGN} --sampler-options noiseless=true", "'dps'.*'noiseless'"),
    "option of words": (
        f"{DESIGN} --sampler-options normalised=maybe",
        "normalised = 'maybe'.*true",
    ),
    "number of words": (f"{DESIGN} --sampler-options scale=big", "scale = 'big'.*number"),
    "option not yaml": (f"{DESIGN} --sampler-options scale=[", "sampler-options = 'scale=\\['"),
    "steps 0": (f"{DESIGN} --steps 0", "steps = 0"),
    "steps negative": (f"{DESIGN} --steps -3", "steps = -3"),
    "too many steps": (f"{DESIGN} --steps 1001", "steps = 1001.*1000"),
    "too many quadratic steps": (f"{DESIGN} --steps 900 --spacing quadratic", "steps = 900.*twice"),
    "compare nothing known": (f"{COMPARE} --samplers magic", "sampler = 'magic'.*dps"),
    "compare twice": (f"{COMPARE} --samplers dps dps", "samplers = dps dps"),
    "compare the reference": (f"{COMPARE} --samplers exact", "'exact'"),
    "compare equal steps": (f"{COMPARE} --steps 4 4", "steps = 4 4"),
    "compare 0 steps": (f"{COMPARE} --steps 4 0", "steps = 0"),
    "compare without images": ("compare --images {w}/empty --out {out}", "holds no image"),
    "compare into files": (COMPARE.replace("{out}", "{w}/full"), "full.*already holds files"),
    "tradeoff of nothing": (f"{TRADEOFF} --sampler exact", "sampler = 'exact'"),
    "negative price": (f"{TRADEOFF} --prices 1 -2", "prices = 1.0 -2.0"),
    "price inf": (f"{TRADEOFF} --prices inf", "prices = inf"),
    "steps in words": (f"{DESIGN} --steps ten", "ten"),
    "steps and a half": (f"{DESIGN} --steps 4.5", r"4\.5"),
    "unknown grid": (f"{DESIGN} --grid cosine", "cosine"),
    "unknown spacing": (f"{DESIGN} --spacing random", "random"),
    "eta too large": (f"{DESIGN} --eta 1.5", r"eta = 1\.5.*between 0 and 1"),
    "eta negative": (f"{DESIGN} --eta -0.5", r"eta = -0\.5"),
    "eta nan": (f"{DESIGN} --eta nan", "eta = nan"),
    "no eta": (f"{DESIGN} --sampler diffpir --eta 0.5", "diffpir has no eta"),
    "unknown weight": (f"{DESIGN} --free zeta lambda_", "free = 'lambda_'.*zeta, eta"),
    "no starts": (f"{DESIGN} --starts 0", "starts = 0"),
    "no bins": (f"{DESIGN} --bins 0", "bins = 0"),
    "nothing to resume": (f"{DESIGN} --resume {{w}}/images", "search.npz"),
    "resume of another": (f"{DESIGN} --steps 4 --resume {{w}}/designed", "resume: a search of"),
    "seed too long": (f"{DESIGN} --seed 1{'0' * 30}", "seed"),
    # the command line itself
    "no command": ("", "design, compare, tradeoff, evaluate, restore, samplers"),
    "unknown command": ("improve", "improve"),
    "unknown option": (f"{DESIGN} --sharpness 3", "sharpness"),
    "option without a value": (f"{DESIGN} --steps", "steps"),
    "evaluate without a schedule": ("evaluate --out {out}", "Schedule file"),
    "restore without a schedule": ("restore {w}/images/0.png --out {out}", "--schedule"),
    # schedules and priors
    "missing schedule": ("evaluate {w}/no.json --out {out}", r"no\.json.*cannot be read"),
    "broken schedule": ("evaluate {w}/broken/schedule.json --out {out}", "not a JSON file"),
    "newer schedule": ("evaluate {w}/newer/schedule.json --out {out}", "format_version = 3.*newer"),
    "image as schedule": ("evaluate {w}/images/0.png --out {out}", r"0\.png.*not a JSON file"),
    "no prior": ("evaluate {w}/alone/schedule.json --out {out}", r"prior\.npz.*missing"),
    "another prior": ("evaluate {w}/stranger/schedule.json --out {out}", "hash.*--prior"),
    "missing prior": (f"{EVALUATE} --prior {{w}}/no.npz", r"no\.npz.*missing"),
    "text as prior": (f"{EVALUATE} --prior {{w}}/text.npz", r"text\.npz.*not a prior"),
    "half a prior": (f"{EVALUATE} --prior {{w}}/cut.npz", r"cut\.npz.*not a prior"),
    "array as prior": (f"{EVALUATE} --prior {{w}}/array.npy", r"array\.npy.*not a prior"),
    "incomplete prior": (
        f"{EVALUATE} --prior {{w}}/incomplete.npz",
        r"incomplete\.npz.*not a prior",
    ),
    "prior of another range": (f"{EVALUATE} --prior {{w}}/unit.npz", r"range \(0\.0, 1\.0\)"),
    "evaluate sigma_y 0": (f"{EVALUATE} --sigma-y 0", "sigma_y = 0"),
    "evaluate without a kernel": (f"{EVALUATE} --degradation kernel", "needs --kernel"),
    # restore
    "missing image": (
        f"restore no.png --schedule {SCHEDULE} --out {{out}}",
        r"no\.png.*no such file",
    ),
    "NaN image": (f"restore {{w}}/nan/b.tif --schedule {SCHEDULE} --out {{out}}", r"b\.tif.*NaN"),
    "corrupt image to restore": (
        f"restore {{w}}/corrupt/a.png --schedule {SCHEDULE} --out {{out}}",
        r"a\.png.*cannot be read",
    ),
    "no samples": (f"{RESTORE} --samples 0", "samples = 0"),
    "restore a broken schedule": (
        "restore {w}/images/0.png --schedule {w}/broken/schedule.json --out {out}",
        "not a JSON file",
    ),
    "restore with another prior": (
        "restore {w}/images/0.png --schedule {w}/stranger/schedule.json --out {out}",
        "hash.*--prior",
    ),
    "image smaller than the blur": (
        "restore {w}/small/small.png --schedule {w}/box/schedule.json --out {out}",
        "9x9.*8x8",
    ),
    # config files
    "missing config": ("design --config {w}/no.yaml --out {out}", r"no\.yaml.*cannot be read"),
    "broken config": ("design --config {w}/broken.yaml --out {out}", r"broken\.yaml.*not a YAML"),
    "binary config": ("design --config {w}/binary.yaml --out {out}", r"binary\.yaml.*not a YAML"),
    "config of a list": ("design --config {w}/list.yaml --out {out}", r"list\.yaml"),
    "empty config": ("design --config {w}/empty.yaml --out {out}", r"empty\.yaml"),
    "unknown key": ("design --config {w}/unknown.yaml --out {out}", "'sharpness'.*steps"),
    "wrong type in config": ("design --config={w}/words.yaml --out {out}", "ten"),
    "config without a name": ("design --config", "--config"),
    "config without a command": ("--config {w}/words.yaml", "--config.*design"),
    # results
    "out with files": (DESIGN.replace("{out}", "{w}/full"), "full.*already holds files"),
    "out is a file": (DESIGN.replace("{out}", "{w}/file"), "file.*is not a folder"),
    "out with a long name": (DESIGN.replace("{out}", "{out}" + "x" * 250), "longer than 200"),
    "out below a file": (DESIGN.replace("{out}", "{w}/file/out"), "file/out"),
    "evaluate into files": (f"evaluate {SCHEDULE} --out {{w}}/full", "already holds files"),
    "restore into files": (RESTORE.replace("{out}", "{w}/full"), "already holds files"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, w, tmp_path, monkeypatch, capsys):
    """Exit code 2, one line that names the value, no traceback, nothing written or changed."""
    arguments, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    before = contents(w, tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(shlex.split(arguments.format(w=w, out=tmp_path / "out")))
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("spectralpost: ") and error.count("\n") == 1 and error.endswith("\n")
    assert re.search(message, error)
    assert contents(w, tmp_path) == before


def test_unreadable_folder(w, tmp_path, monkeypatch, capsys):
    """Patched, as permissions do not bind every user that runs tests."""
    iterdir = Path.iterdir

    def refuse(path):
        if path.name == "images":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SystemExit) as end:
        main(shlex.split(DESIGN.format(w=w, out=tmp_path / "out")))
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    assert re.match("spectralpost: .*images.*Permission denied", error)
    assert not (tmp_path / "out").exists()


def test_interruption(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupt)
    with pytest.raises(SystemExit) as end:
        main(["samplers"])
    assert end.value.code == 130
    assert capsys.readouterr().err == "spectralpost: interrupted; nothing was written\n"


def test_errors_of_the_program_keep_their_traceback(monkeypatch):
    """A plain ValueError is not the user's fault."""

    def fail(options):
        raise ValueError("a bug")

    monkeypatch.setattr(commands, "run", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["samplers"])


# ------------------------------------------------------------------------------- options and files


@pytest.mark.parametrize(
    "options",
    [
        Design(),
        Design(
            images=Path("a folder"),
            size=64,
            channels="luminance",
            pixel_range=(-0.5, 1e-7),
            sampler="pigdm",
            steps=7,
            eta=0.0,
            free=("weight", "eta"),
            sigma_y=1 / 3,
            out=Path("../elsewhere"),
        ),
        Evaluate(Path("a.json"), relearn=False, degradation="identity", sigma_y=0.1),
        Evaluate(Path("a.json"), prior=Path("p.npz"), seed=3),
        Restore(Path("a.png"), Path("a.json"), simulate=True, samples=3),
        Restore(Path("a.png"), Path("a.json")),
    ],
)
def test_options_survive_their_config_file(options, tmp_path):
    """What config.yaml says is what was asked for, values to the last digit."""
    (tmp_path / "config.yaml").write_text(to_yaml(options))
    (command,) = (name for name, kind in COMMANDS.items() if kind is type(options))
    assert parse([command, "--config", str(tmp_path / "config.yaml")]) == options


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_errors_of_the_command_line_are_without_boxes(encoding):
    """tyro draws them around its messages, with other characters where Unicode is not available."""
    program = "from spectralpost.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "design", "--steps", "ten"],
        env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "60"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "spectralpost: Error parsing --steps: invalid literal for int() with base 10: 'ten' "
        "(see --help)\n"
    )


def test_flags_win_over_the_file(tmp_path):
    config = tmp_path / "config.yaml"
    values = {"steps": 7, "sigma_y": 0.2, "free": ["zeta"], "pixel-range": [0, 1], "window": "hann"}
    config.write_text(json.dumps(values))  # JSON is YAML, too
    flags = "--sigma-y 0.3 --free eta --pixel-range -1 2"
    for given in (f"--config {config} {flags}", f"{flags} --config={config}"):
        assert parse(["design", *shlex.split(given)]) == Design(
            steps=7, sigma_y=0.3, free=("eta",), pixel_range=(-1.0, 2.0), window="hann"
        )


def test_arguments_win_over_the_file(tmp_path):
    """The config.yaml of one restoration, used for another image."""
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(Restore(Path("old.png"), Path("a.json"), samples=3)))
    assert parse(["restore", "new.png", "--config", str(config)]) == Restore(
        Path("new.png"), Path("a.json"), samples=3
    )


def test_the_config_of_a_run_is_complete(w):
    """All options but those that are None, so that new defaults do not change old runs."""
    import yaml

    stored = yaml.safe_load((w / "designed" / "config.yaml").read_text())
    nones = {"size", "white_level", "kernel", "eta", "free", "photo", "resume"}
    assert set(stored) == set(vars(Design())) - nones
    assert stored["steps"] == 5 and stored["pixel_range"] == [-1.0, 1.0]


# ------------------------------------------------------------------------------------- the package


def test_help_does_not_wait_for_jax():
    """Nor does `import spectralpost`. In a fresh process, as this one has imported everything."""
    program = """
import contextlib, io, sys
slow = {"jax", "matplotlib", "skimage", "scipy"}
import spectralpost
assert not slow & set(sys.modules), slow & set(sys.modules)
from spectralpost.cli import main
for arguments in (["--help"], ["design", "--help"], ["restore", "--help"]):
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            main(arguments)
    except SystemExit as end:
        assert end.code in (0, None), end.code
    else:
        raise AssertionError("--help did not end the program")
    assert "--config" in text.getvalue() or len(arguments) == 2
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_every_public_name_resolves():
    assert len(spectralpost.__all__) > 40
    for name in spectralpost.__all__:
        assert getattr(spectralpost, name) is not None
    assert set(spectralpost.__all__) <= set(dir(spectralpost))


def test_functions_are_not_shadowed_by_modules():
    """`learn` and `restore` stay functions, whatever modules were imported before."""
    import spectralpost.learning
    import spectralpost.restoration

    assert spectralpost.learn is spectralpost.learning.learn
    assert spectralpost.restore is spectralpost.restoration.restore
    assert spectralpost.InputError is InputError
