"""What the commands find, write and print."""

import dataclasses
import inspect
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.io
from commandline import (  # noqa: F401
    QUICK,
    SHAPE,
    SIGMA_Y,
    SMALL,
    by_adam,
    compile_quickly,
    metrics_in,
    run,
    workplace,
)
from pictures import texture, write

import spectralpost as sp
from spectralpost import metrics
from spectralpost.choices import choice
from spectralpost.cli import main
from spectralpost.commands import compare, evaluate, tradeoff
from spectralpost.commands import restore as restore_command
from spectralpost.commands.inputs import complete, degradation_choice, grid_of, inputs_of, search_of
from spectralpost.degradations import DEGRADATIONS, gaussian_blur
from spectralpost.errors import InputError
from spectralpost.images import load_image, save_image
from spectralpost.learning import Search, default_free, generations, halving
from spectralpost.noise import vp_linear, vp_timesteps
from spectralpost.noise_grid import GRIDS
from spectralpost.options import Compare, Design, Evaluate, Tradeoff
from spectralpost.prior import Prior
from spectralpost.prior_file import load_prior, save_prior
from spectralpost.problem import image_problem
from spectralpost.restoration import measure
from spectralpost.samplers import SAMPLERS
from spectralpost.schedule_file import load_schedule, save_schedule
from spectralpost.transfer import sampler_transfer

# ------------------------------------------------------------------------------------------ design


def test_design_writes_all_its_files(w):
    names = ["config.yaml", "metrics.json", "prior.npz", "report.png", "restored.png"]
    assert sorted(os.listdir(w / "designed")) == [*names, "schedule.json", "search.npz"]
    for name in ("report.png", "restored.png"):
        assert load_image(w / "designed" / name).std() > 0.1
    assert not [path for path in w.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("by_adam")
def test_levels_are_learned_and_rounded_to_time_steps(w, capsys):
    out = run(
        f"design --images {w}/images {QUICK} --starts 8 --learn-levels --out {w}/levels", capsys
    )
    schedule = load_schedule(w / "levels" / "schedule.json")
    assert schedule.timesteps is not None and schedule.timesteps[0] == 999
    assert "time steps " + " ".join(map(str, schedule.timesteps)) in out
    assert all(np.diff(schedule.timesteps) < 0)
    trained = vp_linear(1000)
    rows = 999 - np.asarray(schedule.timesteps)
    np.testing.assert_array_equal(schedule.levels.sigma[:-1], trained.sigma[rows])
    assert schedule.levels.sigma[-1] == 0
    loss, before = (
        metrics_in(w / name)["average image"]["learned"]["W2^2"] for name in ("levels", "designed")
    )
    assert loss < 0.9 * before


def test_a_schedule_is_polished(w, tmp_path, capsys, monkeypatch):
    """From where the search ended, on images of a folder, cut to the prior's size."""
    given = []

    def polish(*args, **others):
        found = sp.polish(*args, **others)
        given.append((args[2], found))
        return found._replace(guidance=found.guidance | {"zeta": 1.1 * found.guidance["zeta"]})

    monkeypatch.setattr("spectralpost.commands.polish.polish", polish)
    for i in range(8):
        write(tmp_path / f"{i}.png", texture((18, 21), seed=i))
    write(tmp_path / "small.png", texture((12, 30)))  # passed over
    out = run(
        f"design --images {w}/images {QUICK} --polish {tmp_path} --out {tmp_path}/polished", capsys
    )
    ((images, found),) = given
    assert images.shape == (8, 3, *SHAPE)
    whole = load_image(tmp_path / "3.png", "rgb", (-1.0, 1.0))
    np.testing.assert_array_equal(images[3], whole[:, 1:17, 2:18].astype(np.float32))
    assert f"Polished in {found.curve.size} steps" in out
    assert f"{found.kept_out[0]:.5f} before, {found.kept_out.min():.5f} after" in " ".join(
        out.split()
    )
    path = tmp_path / "polished" / "schedule.json"
    polished, designed = load_schedule(path), load_schedule(w / "designed" / "schedule.json")
    assert polished.objective == "wasserstein2, polished"
    np.testing.assert_allclose(polished.guidance["zeta"], 1.1 * found.guidance["zeta"], rtol=1e-12)
    # The file's loss is that of its own schedule, away from the least one.
    assert polished.loss > designed.loss
    assert metrics_in(tmp_path / "polished")["average image"]["learned"]["W2^2"] == polished.loss
    assert "raise --bins" not in out


def test_a_search_is_resumed(w, capsys):
    run(f"design --images {w}/images {QUICK} --resume {w}/designed --out {w}/resumed", capsys)
    again, before = (
        metrics_in(w / name)["average image"]["learned"]["W2^2"] for name in ("resumed", "designed")
    )
    # the loss that is minimised has prices, so W2^2 itself may rise by as little as these
    assert again <= before * (1 + 1e-3)


@pytest.mark.parametrize("start", ["{w}/designed/schedule.json", "dps-gaussian_blur1-s0.1-10"])
def test_a_search_begins_from_another_schedule(start, w, tmp_path, capsys, monkeypatch):
    """In other steps: no exploring, and what was known elsewhere is nearly right."""
    seen, advanced = [], halving._advanced

    def counted(losses, cell, *rest):
        seen.append(len(cell))
        return advanced(losses, cell, *rest)

    monkeypatch.setattr(halving, "_advanced", counted)
    monkeypatch.setattr(generations, "generations", None)
    given = start.format(w=w)
    options = f"{QUICK} --steps 4 --start {given} --out {tmp_path}/out"
    run(f"design --images {w}/images {options}", capsys)
    # As it is and per unit of time, and the constant; then the better half.
    assert seen[:2] == [3, 2]
    rows = metrics_in(tmp_path / "out")["average image"]
    assert rows["learned"]["W2^2"] < 0.98 * rows["tuned_constant"]["W2^2"]
    assert load_schedule(tmp_path / "out" / "schedule.json").guidance["zeta"].shape == (4,)


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
    others = np.stack([load_image(w / "images" / f"{i}.png") for i in (1, 2, 3)])
    along = np.einsum("nchw,ca->nahw", others, prior.axes)
    mean = along.mean(axis=(0, 2, 3))[:, None, None]
    power = np.abs(np.fft.fft2(along - mean, norm="ortho")) ** 2
    np.testing.assert_allclose(prior.mean, np.broadcast_to(mean, prior.mean.shape), rtol=1e-12)
    np.testing.assert_allclose(prior.spectrum, power.mean(axis=0), rtol=1e-10)


def test_a_single_image_is_said_to_be_prior_and_photograph(tmp_path):
    write(tmp_path / "only.png", texture(SHAPE))
    said = "images: one only, so the prior is of the photograph only.png itself"
    assert said in inputs_of(Design(images=tmp_path)).notes
    write(tmp_path / "other.png", texture(SHAPE, seed=1))
    assert said not in inputs_of(Design(images=tmp_path)).notes


def test_learned_beats_constant_beats_published(w):
    rows = metrics_in(w / "designed")["average image"]
    assert set(rows) == {"heuristic", "tuned_constant", "learned", "exact"}
    losses = [rows[name]["W2^2"] for name in ("learned", "tuned_constant", "heuristic")]
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
    along = np.einsum("chw,ca->ahw", load_image(w / "images" / "0.png"), prior.axes)
    x_0 = degradation.to_modes(jnp.asarray(along - prior.mean)).ravel()
    b = np.asarray(law.data_gain * problem.response - 1) * np.asarray(x_0) + np.asarray(law.offset)
    v = np.asarray((law.data_gain * schedule.sigma_y) ** 2 + metrics.output_cov(law))
    expected, error = np.mean(b**2 + v), np.sqrt(np.sum(2 * v**2 + 4 * b**2 * v)) / b.size

    found = metrics_in(w / "designed")["0.png"][name]
    peak = 2.0**2
    np.testing.assert_allclose(
        found["one sample, predicted"], 10 * np.log10(peak / expected), rtol=1e-9
    )
    measured = peak / 10 ** (found["one sample"] / 10)
    assert abs(measured - expected) < 5 * error
    own = np.mean(np.asarray(metrics.output_cov(law)))
    mean_of = 10 ** (found["mean of 8, predicted"] / -10) * peak
    np.testing.assert_allclose(mean_of, expected - 7 / 8 * own, rtol=1e-9)
    assert abs(peak / 10 ** (found["mean of 8"] / 10) - mean_of) < 5 * error
    assert error < 0.1 * expected  # else this would test nothing


def test_the_photograph_may_be_a_crop(w, tmp_path, capsys):
    """What is learned and predicted is as without; measured and restored is its middle."""
    out = run(f"design --images {w}/images {QUICK} --borders extend --out {tmp_path}/crop", capsys)
    # 7 pixels hold 0.999 of a Gaussian of std 1 along each axis
    assert "the middle 10x10 pixels" in " ".join(out.split())
    crop, whole = (metrics_in(folder) for folder in (tmp_path / "crop", w / "designed"))
    assert crop["average image"] == whole["average image"]
    schedule = load_schedule(tmp_path / "crop" / "schedule.json")
    prior = load_prior(tmp_path / "crop" / "prior.npz")
    x_0 = load_image(w / "images" / "0.png", "rgb", prior.pixel_range)
    noise_key, key = jax.random.split(jax.random.key(0))
    y = measure(schedule.degradation(), jnp.asarray(x_0), schedule.sigma_y, noise_key)
    restored = sp.restore_crop(
        schedule.sampler(),
        sp.GaussianDenoiser.of(prior),
        schedule.degradation(),
        y[:, 3:13, 3:13],
        schedule.levels,
        schedule.guidance,
        key,
        prior=prior,
        sigma_y=schedule.sigma_y,
        num_samples=8,
    )
    error = np.asarray(restored) - x_0[:, 3:13, 3:13]
    found = crop["0.png"]["learned"]
    for name, one in (("one sample", error[0]), ("mean of 8", error.mean(axis=0))):
        np.testing.assert_allclose(found[name], 10 * np.log10(4 / np.mean(one**2)), atol=1e-3)
        assert found[f"{name}, predicted"] == whole["0.png"]["learned"][f"{name}, predicted"]
    assert found["one sample"] != whole["0.png"]["learned"]["one sample"]


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
    assert metrics_in(w / "designed") == metrics_in(tmp_path / "again")


@pytest.mark.usefixtures("by_adam")
def test_other_options_of_design(w, tmp_path, capsys):
    """One photograph cut into tiles, another grid, blur, range and eta."""
    run(
        f"design --images {w}/large --size 16 --channels luminance --pixel-range 0 1 --window hann "
        f"--degradation kernel --kernel {w}/kernels/good.txt --sigma-y 0.1 --steps 5 "
        f"--grid ve-karras --eta 0.5 --starts 2 --photo {w}/small/photo.png --seed 3 "
        f"--out {tmp_path}/out",
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
    assert "photo.png" in metrics_in(tmp_path / "out")


@pytest.mark.usefixtures("by_adam")
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


@pytest.mark.usefixtures("by_adam")
def test_compare_ranks_the_samplers(w, tmp_path, capsys):
    """Two samplers, two step counts: a table each, all numbers in the file, best ones first."""
    options = "--samplers dps reddiff --steps 5 4 --blur-std 1 --starts 2"
    out = run(f"compare --images {w}/images {options} --out {tmp_path}/out", capsys)
    names = ["compare.json", "compare.png", "config.yaml"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert load_image(tmp_path / "out" / "compare.png").std() > 0.05
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())
    samplers = [row for row in rows if "learned" in row["metrics"]]
    references = [row for row in rows if "exact" in row["metrics"]]
    for steps in (5, 4):
        found = [row for row in samplers if row["steps"] == steps]
        assert {row["name"] for row in found} == {"dps", "reddiff"}
        losses = [row["metrics"]["learned"]["W2^2"] for row in found]
        assert losses == sorted(losses)
        for row in found:
            its = row["metrics"]
            # the constant is not held to the limit on amplification
            assert 0 < its["learned"]["W2^2"] <= 1.05 * its["tuned_constant"]["W2^2"]
            assert its["tuned_constant"]["W2^2"] <= its["heuristic"]["W2^2"] * (1 + 1e-9)
            assert row["calls"] == steps
            assert (row["closure"] is None) == (SAMPLERS[row["name"]]().literal is None)
            assert f"{its['learned']['W2^2']:.5f}" in out
        by_name = {row["name"]: row for row in references if row["steps"] == steps}
        assert by_name["exact score, Heun"]["calls"] == 2 * steps
        kernel = by_name["exact kernel"]["metrics"]["exact"]["W2^2"]
        assert kernel < 1e-6 < min(losses)
    assert "5 steps" in out and "4 steps" in out and "published" in out
    assert "RED-diff's published default is Adam's" in out
    # the design of this fixture, on the same prior, problem and steps
    dps = next(row for row in samplers if row["name"] == "dps" and row["steps"] == 5)
    designed = metrics_in(w / "designed")["average image"]
    for name in ("heuristic", "tuned_constant"):
        np.testing.assert_allclose(dps["metrics"][name]["W2^2"], designed[name]["W2^2"], rtol=1e-6)


@pytest.mark.usefixtures("by_adam")
def test_compare_says_where_a_closure_fails(w, tmp_path, monkeypatch, capsys):
    """The literal algorithm decides, not the closed form; --no-check leaves it out."""
    monkeypatch.setattr(compare, "CLOSURE_HOLDS", -1.0)
    options = f"--samplers dps --steps 4 --blur-std 1 {SMALL}"
    out = run(f"compare --images {w}/images {options} --out {tmp_path}/a", capsys)
    assert "Does not hold" in out and "dps's published default at 4 steps" in out
    out = run(f"compare --images {w}/images {options} --no-check --out {tmp_path}/b", capsys)
    assert "Does not hold" not in out and "simulated" not in out


# ---------------------------------------------------------------------------------------- tradeoff


@pytest.mark.usefixtures("by_adam")
def test_tradeoff_buys_realism_with_error(w, tmp_path, capsys):
    """Between the prices error rises and perception falls, and nothing goes below the optimum."""
    options = f"--sampler diffpir --steps 5 --blur-std 1 {SMALL} --prices 10 0"
    out = run(f"tradeoff --images {w}/images {options} --out {tmp_path}/out", capsys)
    names = ["config.yaml", "tradeoff.json", "tradeoff.png"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert load_image(tmp_path / "out" / "tradeoff.png").std() > 0.05
    rows = json.loads((tmp_path / "out" / "tradeoff.json").read_text())
    assert list(rows) == [
        "published default",
        "tuned constant, W2^2",
        "learned, W2^2",
        "learned, price 0",
        "learned, price 10",
    ]
    for name, row in rows.items():
        assert row["mse"] >= row["least mse at this perception"] and name in out
    free, priced = rows["learned, price 0"], rows["learned, price 10"]
    assert free["mse"] < priced["mse"] and free["perception"] > priced["perception"]
    assert free["mse"] == min(row["mse"] for row in rows.values())


@pytest.mark.usefixtures("by_adam")
def test_levels_of_tradeoff_are_those_of_its_metrics(w, capsys):
    """Each learned schedule is evaluated on the levels that it was learned for, rounded to time
    steps; and `compute` prints nothing."""
    options = Tradeoff(
        images=w / "images", sampler="diffpir", steps=5, blur_std=1.0, bins=128, starts=2,
        prices=(0.0,), learn_levels=True,
    )  # fmt: skip
    result = tradeoff.compute(options)
    assert capsys.readouterr().out == ""
    given, _ = result.schedules["published default"]
    trained = vp_linear(1000)
    inputs = inputs_of(options)
    for name in ("learned, W2^2", "learned, price 0"):
        grid, guidance = result.schedules[name]
        assert given.timesteps == (999, 749, 500, 250, 0) != grid.timesteps
        rows = 999 - np.asarray(grid.timesteps)
        np.testing.assert_array_equal(grid.levels.sigma[:-1], trained.sigma[rows])
        on = [
            metrics.wasserstein2(
                inputs.problem, sampler_transfer(SAMPLERS["diffpir"](), inputs.problem, *schedule)
            )
            for schedule in ((grid.levels, guidance), (given.levels, guidance))
        ]
        np.testing.assert_allclose(result.rows[name]["W2^2"], on[0], rtol=1e-9)
        assert abs(on[1] / on[0] - 1) > 0.1  # else this would test nothing
    tradeoff.present(result)
    out = capsys.readouterr().out
    assert "time steps " + " ".join(map(str, grid.timesteps)) in out


def test_commands_search_as_learn_does():
    """By default as many starts and iterations."""
    for options in (Design(), Compare(), Tradeoff(), Evaluate(Path("schedule.json"))):
        assert search_of(options) == Search()


# ---------------------------------------------------------------------------- evaluate and restore


def test_evaluate_on_the_schedules_own_problem(w, tmp_path, monkeypatch, capsys):
    """The numbers of `design` again; without --out, in a new folder that the last line names."""
    monkeypatch.chdir(tmp_path)
    out = run(f"evaluate {w}/designed/schedule.json --no-relearn", capsys)
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("evaluate-") and f"results in {folder}" in out
    assert os.listdir(tmp_path) == ["runs"]
    found, expected = metrics_in(folder), metrics_in(w / "designed")["average image"]
    pairs = {
        "published default": "heuristic",
        "this schedule": "learned",
        "exact reference": "exact",
    }
    assert set(found) == set(pairs)
    for row, name in pairs.items():
        for metric, value in expected[name].items():
            np.testing.assert_allclose(found[row][metric], value, rtol=1e-10)


def test_evaluate_on_another_problem(w, tmp_path, capsys):
    """Learning for it cannot be worse than the schedule of another one."""
    out = run(
        f"evaluate {w}/designed/schedule.json --sigma-y 0.3 --degradation uniform-blur "
        f"--blur-size 3 --out {tmp_path}/out",
        capsys,
    )
    assert "uniform_blur" in out and "0.3" in out
    losses = {name: row["W2^2"] for name, row in metrics_in(tmp_path / "out").items()}
    learned = losses["learned for this problem"]
    assert learned < losses["tuned constant"] < losses["published default"]
    assert learned < losses["this schedule"]


@pytest.mark.parametrize(
    "stored, option, network",
    [
        ({}, "", False),  # of an older version
        ({"limits": ["network"]}, "", False),  # of somebody else
        ({"limits": "bare"}, "", False),
        ({"limits": "network"}, "", True),
        ({"limits": "network"}, "--limits bare", False),
        ({"limits": "bare"}, "--limits network", True),
    ],
)
def test_evaluate_learns_within_the_schedules_limits(
    stored, option, network, w, tmp_path, capsys, monkeypatch
):
    schedule = load_schedule(w / "designed" / "schedule.json")
    assert schedule.provenance["limits"] == "bare"
    other = {name: value for name, value in schedule.provenance.items() if name != "limits"}
    save_schedule(
        tmp_path / "schedule.json", dataclasses.replace(schedule, provenance=other | stored)
    )
    asked = []

    def learn(sampler, problem, levels, guidance, free, **others):
        asked.append((sampler, levels, free, others["prices"]))
        raise InputError("enough")

    monkeypatch.setattr(evaluate, "learn", learn)
    prior = w / "designed" / "prior.npz"
    command = f"evaluate {tmp_path}/schedule.json --prior {prior} --sigma-y 0.3 {option}"
    with pytest.raises(SystemExit):
        main(shlex.split(f"{command} --out {tmp_path}/out"))
    assert "enough" in capsys.readouterr().err
    ((sampler, levels, free, prices),) = asked
    np.testing.assert_array_equal(levels.sigma, schedule.levels.sigma)
    for_it = sp.for_network(sampler, levels)
    assert for_it["prices"] != sp.Prices()
    assert prices == (for_it["prices"] if network else sp.Prices())
    assert free == (for_it["free"] if network else default_free(sampler))


def test_restore_a_simulated_measurement(w, tmp_path, capsys):
    """Printed PSNRs are those of the files, up to their 8 bits; samples differ, seeds reproduce.
    The mean of samples has less error than they have on average."""
    image, schedule = w / "images" / "0.png", w / "designed" / "schedule.json"
    command = f"restore {image} --schedule {schedule} --simulate --samples 2 --seed 5"
    out = run(f"{command} --out {tmp_path}/a", capsys)
    restored = ["restored-1.png", "restored-2.png", "restored-mean.png"]
    assert sorted(os.listdir(tmp_path / "a")) == ["config.yaml", "overview.png", *restored]
    of_measurement, *printed = map(float, re.findall(r"PSNR ([\d.]+) dB", out))
    assert "measurement: PSNR" in out and 10 < of_measurement < 40
    clean = load_image(image)
    samples = [load_image(tmp_path / "a" / name) for name in restored]
    assert len(printed) == 3 and np.any(samples[0] != samples[1])
    # Averages of pixels rounded to 8 bits, and clipped, where the mean was not.
    mean = np.mean(samples[:2], 0)
    assert np.max(np.abs(samples[2] - mean)[np.all(np.abs(samples[:2]) < 1, 0)]) <= 2 / 255
    assert printed[2] > np.mean(printed[:2])
    for sample, psnr in zip(samples, printed, strict=True):
        of_file = 10 * np.log10(4 / np.mean((sample - clean) ** 2))
        # 8 bits add (2 / 255)^2 / 12 to an error of at least 4 / 10^3; clipping can only help.
        assert psnr < 30 and of_file > psnr - 0.05
    run(f"{command} --out {tmp_path}/b", capsys)
    run(f"{command} --seed 6 --out {tmp_path}/c", capsys)
    first = [(tmp_path / run / "restored-1.png").read_bytes() for run in "abc"]
    assert first[0] == first[1] != first[2]


def test_commands_take_schedules_of_the_gallery(w, tmp_path, capsys, monkeypatch):
    """By name, as from the file and the prior that `gallery show --out` writes."""
    name, image = "ddrm-gaussian_blur2-s0.1-10", w / "images" / "0.png"
    run(f"gallery show {name} --out {tmp_path}/s.json", capsys)
    monkeypatch.chdir(tmp_path)
    for i, given in enumerate((name, "s.json")):
        run(f"restore {image} --simulate --schedule {given} --out r{i}", capsys)
        run(f"evaluate {given} --no-relearn --sigma-y 0.3 --out e{i}", capsys)
        out = run(f"export {given} --to csv", capsys)
        made = re.sub(r"\W", "_", name if i == 0 else "s") + "_csv.csv"
        assert made in " ".join(out.split())
        (tmp_path / made).rename(f"{i}.csv")
    for file in ("r{}/restored-1.png", "e{}/metrics.json"):
        one, other = ((tmp_path / file.format(i)).read_bytes() for i in range(2))
        assert one == other
    one, other = (Path(f"{i}.csv").read_text().splitlines() for i in range(2))
    assert one[-10:] == other[-10:]
    with pytest.raises(SystemExit):
        main(shlex.split(f"restore {image} --simulate --schedule x{name} --out {tmp_path}/no"))
    said = " ".join(capsys.readouterr().err.split())
    assert f"schedule = 'x{name}': no such file, and not in the gallery; it has, such as" in said


def test_a_photograph_is_cut_to_what_a_factor_divides(tmp_path, capsys):
    """As to what a network takes; it is said."""
    prior, degradation = sp.power_law((12, 12)), sp.downsample((12, 12), 3, "average")
    sampler, grid = sp.SAMPLERS["ddrm"](), sp.noise_grid("vp_linear", 3)
    problem = image_problem(prior, degradation, SIGMA_Y)
    guidance = sampler.heuristic(problem, grid.levels)
    made = sp.Schedule.of(sampler, prior, degradation, SIGMA_Y, grid, guidance)
    save_schedule(tmp_path / "s.json", made)
    save_prior(tmp_path / "prior.npz", prior)
    image = write(tmp_path / "photo.png", texture((30, 28)))
    command = f"restore {image} --schedule {tmp_path}/s.json --simulate --out {tmp_path}/a"
    out = " ".join(run(command, capsys).split())
    assert "image: of 30x28 pixels the middle 30x27, whose sides 3 divides" in out
    assert load_image(tmp_path / "a" / "restored-1.png").shape[1:] == (30, 27)


@pytest.mark.parametrize("name", [b"a$_{$b.png", b"a\xfe.png"], ids=["dollars", "not UTF-8"])
def test_a_picture_of_any_name_is_restored(name, w, tmp_path, capsys):
    """It stands in the title of the figure, which is no formula and has letters only."""
    try:
        write(tmp_path / os.fsdecode(name), texture(SHAPE))
    except OSError:
        pytest.skip("no such names here")
    options = ["--schedule", f"{w}/designed/schedule.json", "--out", str(tmp_path / "out")]
    main(["restore", str(tmp_path / os.fsdecode(name)), *options])
    assert (tmp_path / "out" / "overview.png").stat().st_size > 1000


def test_a_masked_picture_is_restored_by_its_own_mask(w, tmp_path, capsys):
    """A random mask would hide other pixels: with the picture's own its hole is filled in."""
    clean, sampler = load_image(w / "images" / "0.png"), SAMPLERS["diffpir"]()
    prior, grid = load_prior(w / "designed" / "prior.npz"), sp.noise_grid("vp_linear", 5)
    degradation = sp.inpaint(SHAPE, keep=0.5)
    problem = image_problem(prior, degradation, SIGMA_Y, channels=len(clean))
    guidance = sampler.heuristic(problem, grid.levels)
    made = sp.Schedule.of(sampler, prior, degradation, SIGMA_Y, grid, guidance, channels=len(clean))
    save_schedule(tmp_path / "s.json", made)
    save_prior(tmp_path / "prior.npz", prior)
    mask = np.ones(SHAPE)
    mask[5:8, 5:8] = 0
    save_image(tmp_path / "mask.png", 2 * mask[None] - 1)
    save_image(tmp_path / "y.png", np.where(mask > 0, clean, 1.0))
    given = f"--schedule {tmp_path}/s.json --mask {tmp_path}/mask.png"
    run(f"restore {tmp_path}/y.png {given} --out {tmp_path}/out", capsys)
    restored = load_image(tmp_path / "out" / "restored-1.png")
    hole = np.broadcast_to(mask == 0, clean.shape)
    error = lambda x: np.mean((x - clean)[hole] ** 2)  # noqa: E731
    assert error(restored) < error(np.ones_like(clean)) / 2
    assert np.mean((restored - clean)[~hole] ** 2) < 4 * SIGMA_Y**2
    for given, message in (
        (f"--schedule {tmp_path}/s.json", "mask was drawn at random, the image has another"),
        (
            f"--schedule {w}/designed/schedule.json --mask {tmp_path}/mask.png",
            "mask: the schedule is for gaussian_blur",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(shlex.split(f"restore {tmp_path}/y.png {given} --out {tmp_path}/no"))
        assert stopped.value.code == 2 and message in " ".join(capsys.readouterr().err.split())


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
    assert restored.shape == (3, *clean.shape[1:])  # what it has of colour is the prior's
    assert np.mean((restored - clean) ** 2) < np.var(clean)


def test_an_image_is_restored_as_the_crop_that_it_is(w, tmp_path, capsys):
    """Unless told otherwise, and the output says so; a simulated measurement is circular."""
    scene = load_image(write(tmp_path / "scene.png", texture((48, 40), seed=9)))
    y = measure(gaussian_blur((48, 40), 1.0), jnp.asarray(scene), SIGMA_Y, jax.random.key(0))
    save_image(tmp_path / "y.png", np.asarray(y)[:, 12:36, 10:30])
    command = f"restore {tmp_path}/y.png --schedule {w}/designed/schedule.json --samples 8"
    errors = {}
    for borders in ("auto", "extend", "draw", "circular"):
        out = run(f"{command} --borders {borders} --out {tmp_path}/{borders}", capsys)
        assert ("canvas of 32x32" in " ".join(out.split())) == (borders != "circular")
        samples = [load_image(tmp_path / borders / f"restored-{i}.png") for i in range(1, 9)]
        assert np.any(samples[0] != samples[1])
        errors[borders] = np.mean((np.stack(samples) - scene[:, 12:36, 10:30]) ** 2)
    assert errors["auto"] == errors["extend"] < errors["draw"] < errors["circular"]
    simulated = f"restore {w}/images/0.png --schedule {w}/designed/schedule.json --simulate"
    assert "canvas" not in run(f"{simulated} --out {tmp_path}/simulated", capsys)


def test_evaluate_changes_the_schedules_own_degradation(w, tmp_path, capsys):
    """An option without --degradation is one of the schedule's."""
    command = f"evaluate {w}/designed/schedule.json --no-relearn"
    losses = []
    for name, more in (
        ("a", "--blur-std 1.5"),
        ("b", "--degradation gaussian-blur --degradation-options std=1.5"),
        ("c", ""),
    ):
        run(f"{command} {more} --out {tmp_path}/{name}", capsys)
        losses.append(metrics_in(tmp_path / name)["this schedule"]["W2^2"])
    assert losses[0] == losses[1] != losses[2]


def test_what_there_is_to_say_of_files_is_said(w, tmp_path, capsys):
    """A kernel that changes the mean grey value; 12 bits in a file of 16."""
    np.savetxt(tmp_path / "double.txt", np.full((1, 2), 1.0))
    out = run(
        f"evaluate {w}/designed/schedule.json --no-relearn --degradation kernel "
        f"--kernel {tmp_path}/double.txt --out {tmp_path}/a",
        capsys,
    )
    assert "its values add up to 2" in out
    dark = texture(SHAPE).astype(np.uint16) * 16
    write(tmp_path / "dark.png", dark[..., 0])
    command = f"restore {tmp_path}/dark.png --schedule {w}/designed/schedule.json"
    silent = run(f"{command} --white-level 4095 --out {tmp_path}/b", capsys)
    said = run(f"{command} --out {tmp_path}/c", capsys)
    assert "dark.png" not in silent.split("results in")[0]
    assert "dark.png" in said.split("results in")[0] and "white" in said
    bright, faint = (skimage.io.imread(tmp_path / name / "restored-1.png").mean() for name in "bc")
    assert bright > 10 * faint


def test_restore_does_not_blame_a_schedule_for_a_harder_problem():
    """MRI of 48x48 pixels knows other lines than of 32x32: all schedules have less PSNR."""
    prior, sampler = sp.power_law((32, 32), exponent=3.0), sp.SAMPLERS["pigdm"]()
    grid = sp.noise_grid("vp_linear", 4)
    here, there = (image_problem(sp.resized(prior, (n, n)), sp.mri((n, n)), 0.05) for n in (48, 32))
    weights = sp.heuristic(sampler, there, grid.levels)
    schedule = sp.Schedule.of(sampler, prior, sp.mri((32, 32)), 0.05, grid, weights)
    errors = [sp.evaluate(sampler, p, grid.levels, weights, metrics.mse) for p in (here, there)]
    less = float(metrics.psnr(errors[1]) - metrics.psnr(errors[0]))
    assert less > 1.5 * restore_command.WORSE
    assert restore_command._worse_here(schedule, there, here, (48, 48)) == []


def test_restore_says_that_a_schedule_is_worse_at_another_size(tmp_path, capsys, monkeypatch):
    """Of which the lowest frequencies have more variance than any that it was learned for."""
    prior, blur = sp.power_law((8, 8), exponent=4.0), sp.gaussian_blur((8, 8), 1.0)
    sampler, grid = sp.SAMPLERS["dps"](), sp.noise_grid("vp_linear", 4)
    weights = {"zeta": np.array([63.0, 4.1, 0.57, 1.5]), "eta": np.ones(4)}  # as `learn` finds them
    schedule = sp.Schedule.of(sampler, prior, blur, 0.05, grid, weights)
    save_schedule(tmp_path / "schedule.json", schedule)
    save_prior(tmp_path / "prior.npz", prior)
    predicted = {}
    for n in (8, 16):
        problem = image_problem(sp.resized(prior, (n, n)), sp.gaussian_blur((n, n), 1.0), 0.05)
        error = sp.evaluate(sampler, problem, grid.levels, weights, metrics.mse)
        predicted[n] = f"{float(metrics.psnr(error)):.1f} dB"
        write(tmp_path / f"{n}.png", texture((n, n)))
    monkeypatch.setattr("spectralpost.commands.restore.WORSE", 0.5)
    command = f"restore {{}} --schedule {tmp_path}/schedule.json --simulate --out {tmp_path}/{{}}"
    assert "learned for" not in run(command.format(tmp_path / "8.png", "a"), capsys)
    out = run(command.format(tmp_path / "16.png", "b"), capsys)
    said = f"8x8 pixels, where its predicted PSNR is {predicted[8]}; on 16x16 it is {predicted[16]}"
    assert said in " ".join(out.split())
    write(tmp_path / "1.png", texture((1, 1)))
    with pytest.raises(SystemExit):
        main(shlex.split(command.format(tmp_path / "1.png", "d")))
    assert "1.png': 1x1 pixels; 2x2 at least" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr("spectralpost.commands.restore.WORSE", 2.0)
    assert "learned for" not in run(command.format(tmp_path / "16.png", "c"), capsys)


# -------------------------------------------------------------------- degradations, grids, samplers


def test_options_of_grids_and_degradations_go_by_name(tmp_path):
    """Words and short flags, hyphens and underscores mean the same."""
    for options in (
        Design(grid="vp-linear", grid_options=("spacing=leading",)),
        Design(grid="vp_linear", spacing="leading"),
        Design(grid_options=("spacing=trailing",), spacing="leading"),  # as of a file, and a flag
    ):
        grid = grid_of(options, 5)
        np.testing.assert_array_equal(grid.levels.sigma, vp_linear(5, "leading").sigma)
        assert grid.timesteps == tuple(vp_timesteps(5, "leading"))
    shift = grid_of(Design(grid="rectified-flow", grid_options=("shift=3",)), 5)
    np.testing.assert_array_equal(shift.levels.sigma, GRIDS["rectified_flow"](5, shift=3.0).sigma)
    assert shift.timesteps is None

    np.savetxt(tmp_path / "kernel.txt", [[0.5, 0.5]])
    words = {"gaussian-blur": ("std=3",), "motion_blur": ("angle=1e1",)}
    for name, flags, wanted in (
        ("gaussian_blur", {"degradation_options": ()}, {}),
        ("gaussian_blur", {"blur_std": 3.0}, {"std": 3.0}),
        ("gaussian-blur", {}, {"std": 3.0}),
        ("uniform-blur", {"blur_size": 3}, {"size": 3}),
        ("motion_blur", {"motion_length": 5.0}, {"length": 5.0, "angle": 10.0}),
    ):
        flags = {"degradation_options": words.get(name, ())} | flags
        found = degradation_choice(Design(degradation=name, **flags), set())
        assert found == (name.replace("-", "_"), wanted)
        assert all(type(found[1][key]) is type(value) for key, value in wanted.items())
    path = str(tmp_path / "kernel.txt")
    for options in (
        Design(degradation="kernel", kernel=Path(path)),
        Design(degradation="from-kernel", degradation_options=(f"kernel={path}",)),
        Design(degradation="kernel", degradation_options=("kernel=[[0.5,0.5]]",)),
    ):
        name, given = degradation_choice(options, set())
        assert name == "from_kernel"
        np.testing.assert_array_equal(given["kernel"], [[0.5, 0.5]])


def test_a_new_degradation_is_a_function_and_a_line_of_its_table(monkeypatch, capsys):
    def shaken_blur(shape: tuple[int, ...], width: float, times: int = 2):
        """Blurred while shaking."""
        return gaussian_blur(shape, width * times)

    monkeypatch.setitem(DEGRADATIONS, "shaken_blur", shaken_blur)
    options = Design(degradation="shaken-blur", degradation_options=("width=1",))
    assert degradation_choice(options, set()) == ("shaken_blur", {"width": 1.0})
    for words, message in (
        ((), "needs the option 'width'"),
        (("width=1", "times=1.5"), "option times = 1.5: must be a whole number"),
        (("width=1", "often=2"), "'often'; its options: width, times"),
    ):
        with pytest.raises(InputError, match=message):
            given = Design(degradation="shaken_blur", degradation_options=words)
            degradation_choice(given, set())
    out = run("degradations", capsys)
    assert "shaken_blur" in out and "times=2" in out and "Blurred while shaking." in out


def test_degradations_and_grids_are_listed(capsys):
    out = run("degradations", capsys)
    for name in (*DEGRADATIONS, *GRIDS):
        assert name in out
    for option in ("std=2.0", "size=9", "angle=45.0", "spacing=uniform", "rho=7.0", "shift=1.0"):
        assert option in out
    assert "shape=" not in out and "num_steps" not in out


def test_options_are_completed_for_their_file():
    """Factories' defaults are written out, in words that mean the same when they are read."""
    options = Design(sampler="pigdm", sampler_options=("noiseless=true",), spacing="trailing")
    full = complete(options)
    assert full.spacing is None and "spacing=trailing" in full.grid_options
    assert full.degradation_options == ("std=2.0",)
    for field, table in (("sampler", SAMPLERS), ("grid", GRIDS), ("degradation", DEGRADATIONS)):
        name, given = choice(full, field)
        parameters = inspect.signature(table[name]).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        assert given == defaults | choice(options, field)[1]
    assert complete(full) == full
    kernel = Design(degradation="kernel", kernel=Path("k.txt"))
    assert complete(kernel).kernel == Path("k.txt")
    assert complete(kernel).degradation_options == ()


def test_samplers_are_listed(capsys):
    out = run("samplers", capsys)
    for name, factory in SAMPLERS.items():
        assert name in out
        if name != "exact":
            for weight in factory().constraint:
                assert weight in out
    assert "[0, 1]" in out and "2209.14687" in out.replace("\n", "")


def test_schedules_by_band_are_evaluated_and_restored(w, tmp_path, capsys):
    """With the same weights in all bands they are the schedule that they were made of."""
    plain = load_schedule(w / "designed" / "schedule.json")
    spread = {name: np.stack([weights] * 2, axis=1) for name, weights in plain.guidance.items()}
    bands = dataclasses.replace(plain, guidance=spread, band_knots=jnp.asarray([-4.0, 3.0]))
    (tmp_path / "bands").mkdir()
    save_schedule(tmp_path / "bands" / "schedule.json", bands)
    shutil.copy(w / "designed" / "prior.npz", tmp_path / "bands")
    both = {
        "plain": w / "designed" / "schedule.json",
        "bands": tmp_path / "bands" / "schedule.json",
    }
    image = w / "images" / "0.png"
    for path in both.values():
        run(f"evaluate {path} --no-relearn --out {tmp_path}/e-{path.parent.name}", capsys)
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(f"restore {image} --schedule {both['bands']} --simulate"))
    refused = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 2 and "bands are of the prior's axes of colour" in refused
    # Planes that are alike have a band each.
    colour = load_prior(w / "designed" / "prior.npz")
    alike = Prior(colour.spectrum[-1], colour.mean[-1], colour.pixel_range, "alike")
    save_prior(tmp_path / "alike.npz", alike)
    for name, path in both.items():
        command = f"restore {image} --schedule {path} --prior {tmp_path}/alike.npz --simulate"
        run(f"{command} --out {tmp_path}/r-{name}", capsys)
    folders = (path.parent.name for path in both.values())
    wanted, found = (metrics_in(tmp_path / f"e-{name}")["this schedule"] for name in folders)
    for metric, value in wanted.items():
        # a weight of 1 is 1 - 6e-6 by band (`guidance.bounded`)
        np.testing.assert_allclose(found[metric], value, rtol=1e-4)
    one, other = (load_image(tmp_path / f"r-{name}" / "restored-1.png") for name in both)
    np.testing.assert_allclose(
        other, one, rtol=0, atol=1.01 * 2 / 255
    )  # one grey value, by rounding


# ------------------------------------------------------------------------------- other denoisers


@pytest.mark.parametrize("denoiser", ["unet", "denoisers_of_mine:halved"])
def test_restore_with_another_denoiser(denoiser, w, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "denoisers_of_mine.py").write_text("def halved(x_t, t):\n    return x_t / 2\n")
    # One that a network takes; with the schedule `designed`, the model's optimum, it diverges.
    run("gallery show diffpir-gaussian_blur1-s0.05-10 --out schedule.json", capsys)
    command = f"restore {w}/images/0.png --schedule schedule.json --simulate"
    assert "PSNR" in run(f"{command} --denoiser {denoiser} --out out", capsys)
    run(f"{command} --out plain", capsys)
    first, plain = (load_image(tmp_path / name / "restored-1.png") for name in ("out", "plain"))
    assert np.mean((first - plain) ** 2) > 1e-4


@pytest.mark.parametrize(
    "denoiser, message",
    [
        ("ffd", "denoiser = 'ffd': allowed are gaussian, unet, unet:FILE, ffdnet:FILE"),
        ("ffdnet:none.pth", "weights 'none.pth': cannot be read"),
        ("unet:none.msgpack", "network 'none.msgpack': cannot be read"),
        ("no_such_module:f", "denoiser = 'no_such_module:f': No module named"),
        ("math:no_such_function", "denoiser = 'math:no_such_function': module 'math' has no"),
        ("math:pi", "denoiser = 'math:pi': is not a function"),
        (".:f", "denoiser = '.:f': TypeError: "),
        ("operator:is_", "denoiser = 'operator:is_': returns bool; real images of shape"),
        ("os:getcwd", "denoiser = 'os:getcwd': is no function (x_t, level) -> x_hat in JAX"),
        ("math:hypot", "denoiser = 'math:hypot': is no function (x_t, level) -> x_hat in JAX"),
    ],
)
def test_bad_denoisers_are_refused(denoiser, message, w, tmp_path, capsys):
    command = f"restore {w}/images/0.png --schedule {w}/designed/schedule.json"
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(f"{command} --denoiser {denoiser} --out {tmp_path}/out"))
    assert stopped.value.code == 2 and message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "denoiser, message",
    [
        ("x_t * jax.numpy.nan", "denoiser: returns NaN or infinite pixels for a finite image at"),
        ("-1e30 * x_t**3", "the schedule diverges with this denoiser: pixels that are not finite"),
        ("-1e10 * x_t", "the schedule diverges with this denoiser: pixels"),
        ("(x_t, t)", "denoiser = 'of_mine:f': returns tuple; real images of shape"),
        (
            "jax.numpy.fft.fft(x_t)",
            "denoiser = 'of_mine:f': returns complex64; real images of shape",
        ),
    ],
)
@pytest.mark.parametrize("borders", ["extend", "circular"])
def test_what_is_no_image_is_not_written(
    denoiser, message, borders, w, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_mine.py").write_text(f"import jax\ndef f(x_t, t):\n    return {denoiser}\n")
    monkeypatch.delitem(sys.modules, "of_mine", raising=False)
    command = f"restore {w}/images/0.png --schedule {w}/designed/schedule.json --out out"
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(f"{command} --denoiser of_mine:f --borders {borders}"))
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and message in " ".join(printed.err.split())
    assert len(printed.err.strip().splitlines()) == 1
    assert "PSNR" not in printed.out and not (tmp_path / "out").exists()
    del sys.modules["of_mine"]


def test_a_denoiser_without_a_derivative_is_refused_where_one_is_asked_for(
    w, tmp_path, capsys, monkeypatch
):
    """Before anything is learned; and whatever a module of one's own raises is one line."""
    monkeypatch.chdir(tmp_path)
    call = "jax.pure_callback(lambda x: x / 2, jax.ShapeDtypeStruct(x_t.shape, x_t.dtype), x_t)"
    (tmp_path / "by_callback.py").write_text(f"import jax\ndef f(x_t, t):\n    return {call}\n")
    (tmp_path / "raises.py").write_text("def f(x_t, t):\n    raise KeyError('weights')\n")
    (tmp_path / "no_weights.py").write_text("open('weights.bin')\n")
    command = f"design --images {w}/images {QUICK} --sampler dps --out out"
    for denoiser, message in (
        ("by_callback:f", "has no derivative, which dps asks for (ValueError: Pure callbacks"),
        ("raises:f", "in JAX (KeyError: 'weights')"),
        ("no_weights:f", "FileNotFoundError: "),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(shlex.split(f"{command} --denoiser {denoiser}"))
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_a_denoiser_may_compute_in_half_precision(w, tmp_path, capsys, monkeypatch):
    """For a sampler that differentiates it, too: outputs are taken as floats like the images."""
    monkeypatch.chdir(tmp_path)
    text = "import jax.numpy as jnp\ndef f(x_t, t):\n    return x_t.astype(jnp.bfloat16) / 2\n"
    (tmp_path / "in_half.py").write_text(text)
    command = f"restore {w}/images/0.png --schedule {w}/designed/schedule.json --simulate --out out"
    assert "PSNR" in run(f"{command} --denoiser in_half:f", capsys)


@pytest.mark.usefixtures("by_adam")
def test_design_for_a_network(w, tmp_path, capsys, monkeypatch):
    """It is calibrated, limited, and restores the photograph; files hold the calibrated prior."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "denoisers_of_mine.py").write_text("def halved(x_t, t):\n    return x_t / 2\n")
    command = f"design --images {w}/images --sampler pigdm --steps 4 {SMALL}"
    monkeypatch.setattr("spectralpost.denoisers.calibrating.TOO_FEW", np.inf)
    monkeypatch.setattr("spectralpost.commands.calibration.CALIBRATED_ON", 2)
    monkeypatch.setattr("spectralpost.commands.design.FAR_OFF", -100.0)
    out = run(f"{command} --denoiser denoisers_of_mine:halved --out a", capsys)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    out = " ".join(out.split())
    assert "the denoiser denoisers_of_mine:halved" in out
    assert re.search(r"images: 2 calibrate to \d+% only; about \d+ are needed for 5%", out)
    assert "calibration: design takes 2 of the images; `sp.calibrate` in Python takes more" in out
    assert "dB worse than predicted" in out and "Do not use it" in out
    prior = load_prior(tmp_path / "a" / "prior.npz")
    assert (
        prior.calibration is not None and load_schedule("a/schedule.json").prior_hash == prior.hash
    )
    assert load_schedule("a/schedule.json").provenance["limits"] == "network"
    # Evaluated beside one that is learned as it was: eta as well, which others are not given.
    out = run("evaluate a/schedule.json --sigma-y 0.1 --starts 2 --bins 128 --out e", capsys)
    assert "limits = network, as is the schedule" in " ".join(out.split())
    rows = json.loads(Path("e/metrics.json").read_text())
    assert rows["learned for this problem"]["W2^2"] < rows["published default"]["W2^2"]
    plain = load_schedule("a/schedule.json").guidance
    run(f"{command} --limits network --eta 0.5 --out b", capsys)
    # Of PiGDM eta is learned as well, unless it is named.
    assert [set(np.load(f"{one}/search.npz")) >= {"weight", "eta"} for one in "ab"] == [True, False]
    assert "Do not use it" not in run(f"{command} --out c", capsys)
    assert load_prior(tmp_path / "b" / "prior.npz").calibration is None
    np.testing.assert_array_equal(load_schedule("b/schedule.json").guidance["eta"], 0.5)
    limited, bare = (load_schedule(f"{name}/schedule.json").guidance["weight"] for name in "bc")
    assert not np.array_equal(limited, bare) and not np.array_equal(limited, plain["weight"])
    # Neighbouring steps are alike.
    rough = lambda weight: np.abs(np.diff(np.log(weight), 2)).max()  # noqa: E731
    assert rough(limited) < rough(bare)
