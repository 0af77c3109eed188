"""Sweeps: what a grid says, that a cell is what `learn` gives alone, and that nothing is lost."""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest
import yaml

import spectralpost as sp
from spectralpost import images as images_of
from spectralpost.cli import main
from spectralpost.commands import sweep, sweep_best
from spectralpost.degradations import make_degradation
from spectralpost.errors import InputError, StillRunning
from spectralpost.learning import evaluate, heuristic
from spectralpost.prior_file import save_prior
from spectralpost.sweep_options import SweepBest
from spectralpost.sweeps import planning, running
from spectralpost.sweeps.batch import run_batch
from spectralpost.sweeps.case import case_of
from spectralpost.sweeps.dataset import columns_of_grid, finished, parts_of
from spectralpost.sweeps.grid import cell_hash, grid_of, load_grid
from spectralpost.sweeps.running import batches, run_sweep

pytestmark = pytest.mark.usefixtures("quick")
pq = pytest.importorskip("pyarrow.parquet")

SMALL = {"size": 8, "bins": 16, "starts": 2, "max_iterations": 20}
DATE, ROWS = datetime.date(2020, 1, 1), [[1.0, 2.0], [3.0, 4.0]]
AXES = {
    "sampler": ["dps", "pigdm"],
    "steps": 2,
    "sigma_y": [0.1, 0.3],
    "degradation": {"name": "gaussian_blur", "std": [0.5, 1.0]},
    "prior": {"name": "power_law", "exponent": [1.5, 2]},
}
EVALUATED = {**SMALL, "tune": False, "axes": AXES}
LEARNED = {**SMALL, "learn": True, "axes": AXES}


DASK = "import sys, runpy; runpy.run_module('distributed.cli.' + sys.argv.pop(1), None, '__main__')"


def computed(cells, settings):
    """The row of each cell, what it has no value of left out."""
    rows = {}
    for part in run_batch(cells, settings):
        for values in zip(*part.values(), strict=True):
            row = {name: one for name, one in zip(part, values, strict=True) if one is not None}
            rows[row["cell"]] = row
    return [rows[cell_hash(cell, settings)] for cell in cells]


def rows_of(folder):
    """Cell -> row, each cell once."""
    rows = [row for path in parts_of(folder) for row in pq.read_table(path).to_pylist()]
    found = {row["cell"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def hashes(grid):
    return {cell_hash(cell, grid.settings) for cell in grid.cells()}


# ------------------------------------------------------------------------------------------- grids


def test_a_product_has_every_combination_once():
    grid = grid_of(LEARNED)
    cells = list(grid.cells())
    assert grid.num_cells == len(cells) == 2 * 2 * 2 * 2
    assert len(hashes(grid)) == 16
    assert [grid.cell(i) for i in range(16)] == cells
    assert {cell["prior"]["exponent"] for cell in cells} == {1.5, 2.0}
    assert all(type(cell["prior"]["exponent"]) is float for cell in cells)
    assert {cell["grid"]["name"] for cell in cells} == {"vp_linear"}  # not named: the default
    assert list(grid_of(yaml.safe_load(yaml.safe_dump(LEARNED))).cells()) == cells


def test_a_list_has_its_cells():
    cells = [{"sampler": "dps", "sigma_y": 0.1}, {"sampler": "ddrm", "steps": 3}]
    grid = grid_of({**SMALL, "cells": cells})
    one, other = grid.cells()
    assert (one["sigma_y"], one["steps"]) == (0.1, 20)
    assert (other["sampler"], other["sigma_y"]) == ({"name": "ddrm"}, 0.05)


@pytest.mark.parametrize("design", ["random", "sobol"])
def test_drawn_cells_fill_their_ranges_and_are_the_same_again(design):
    """Uniform in their ranges, in logarithms if so said: the mean of 512 within 5 standard errors,
    whole numbers all there; from any cell on."""
    axes = {
        "sampler": ["dps", "pigdm"],
        "sigma_y": {"from": 0.01, "to": 1.0, "scale": "log"},
        "steps": {"from": 3, "to": 6},
        "prior": [
            {"name": "power_law", "exponent": {"from": 1.0, "to": 3.0}},
            {"name": "matern", "length": 4.0},
        ],
    }
    grid = grid_of({**SMALL, "design": design, "num": 512, "axes": axes})
    cells = list(grid.cells())
    assert len(cells) == 512 and cells == list(grid.cells())
    assert list(grid.cells()) == cells
    logs = np.log10([cell["sigma_y"] for cell in cells])
    assert logs.min() >= -2 and logs.max() <= 0
    assert abs(logs.mean() + 1) < 5 * 2 / np.sqrt(12 * 512)
    steps = [cell["steps"] for cell in cells]
    assert set(steps) == {3, 4, 5, 6} and all(type(one) is int for one in steps)
    named = [cell["prior"]["name"] for cell in cells]
    assert abs(named.count("matern") - 256) < 5 * np.sqrt(512 / 4)
    exponents = [cell["prior"]["exponent"] for cell in cells if "exponent" in cell["prior"]]
    assert abs(np.mean(exponents) - 2) < 5 * 2 / np.sqrt(12 * len(exponents))


def test_a_range_is_of_whole_numbers_only_where_these_are_taken():
    axes = {
        "sampler": "dps",
        "sigma_y": {"from": 1, "to": 2},
        "degradation": {"name": "downsample", "factor": {"from": 2, "to": 4}},
        "prior": {"name": "power_law", "exponent": {"from": 1, "to": 3}},
    }
    cells = list(grid_of({**SMALL, "design": "random", "num": 40, "axes": axes}).cells())
    assert {cell["degradation"]["factor"] for cell in cells} == {2, 3, 4}
    assert all(type(cell["degradation"]["factor"]) is int for cell in cells)
    for values in ([c["sigma_y"] for c in cells], [c["prior"]["exponent"] for c in cells]):
        assert len(set(values)) == 40 and all(type(value) is float for value in values)


@pytest.mark.parametrize("order", [(None, ["eta"]), (["eta"], None)])
def test_weights_to_learn_are_lists_or_the_default_in_any_order(order):
    grid = grid_of(LEARNED | {"axes": {"sampler": "ddrm", "free": list(order)}})
    assert [cell["free"] for cell in grid.cells()] == list(order)
    assert [cell["free"] for cell in grid_of(LEARNED | {"axes": {"sampler": "dps"}}).cells()] == [
        None
    ]


def test_an_option_with_values_of_several_types_is_a_column_of_text(tmp_path):
    axes = {"sampler": {"name": "dps", "multistep": [True, 2]}, "steps": 3}
    grid = grid_of(EVALUATED | {"axes": axes})
    assert columns_of_grid(grid)["sampler.multistep"] == "text"
    outcome = run_sweep(grid, tmp_path)
    assert (outcome.lost, outcome.progress.failed) == (0, 0)
    assert {row["sampler.multistep"] for row in rows_of(tmp_path).values()} == {"true", "2"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"axis": {}}, "grid: unknown key 'axis'"),
        ({"size": 0}, "size = 0"),
        ({"learn": 1}, "learn = 1: must be true or false"),
        ({"design": "grid"}, "design = 'grid': allowed are product"),
        ({"num": 5}, "num: is of random and sobol designs"),
        ({"design": "sobol"}, "num: is missing"),
        ({"cells": []}, "a list design has cells, and no axes"),
        ({"axes": []}, "axes: names with values"),
        ({"axes": {"steps": 3}}, "needs the axis 'sampler'"),
        ({"axes": {"sampler": []}}, "axes.sampler: is empty"),
        ({"axes": {"sampler": "dpm"}}, "axes.sampler: name = 'dpm'"),
        ({"axes": {"sampler": "exact"}}, "axes.sampler: name = 'exact'"),
        ({"axes": {"sampler": {"name": "dps", "scale": "x"}}}, "axes.sampler: sampler 'dps'"),
        ({"seed": 2**32}, "seed = 4294967296: must be below 2^32"),
        ({"axes": {"sampler": "dps", "objective": [["mse"]]}}, r"axes.objective = ['mse']"),
        (
            {"axes": {"sampler": "dps", "degradation": {"name": "from_kernel", "kernel": DATE}}},
            "2020-01-01: a number, a text or a list of these",
        ),
        (
            {"axes": {"sampler": "dps", "degradation": {"name": "from_kernel", "kernel": ROWS}}},
            "axes.degradation.kernel: a list is several values",
        ),
        ({"axes": {"sampler": "dps", "sigma": 1}}, "axes: unknown axis 'sigma'"),
        ({"axes": {"sampler": "dps", "sigma_y": [0.1, -1]}}, "axes.sigma_y = -1: must be > 0"),
        ({"axes": {"sampler": "dps", "sigma_y": [True]}}, "axes.sigma_y = True"),
        ({"axes": {"sampler": "dps", "steps": 2.5}}, "axes.steps = 2.5"),
        ({"axes": {"sampler": "dps", "free": ["weight"]}}, "free: unknown weight 'weight'"),
        ({"axes": {"sampler": "dps", "objective": "kl"}}, "axes.objective = 'kl'"),
        ({"axes": {"sampler": "dps", "sigma_y": {"from": 1, "to": 2}}}, "a range needs a design"),
        (
            {"axes": {"sampler": "dps", "degradation": {"name": "gaussian_blur", "st": 1}}},
            "axes.degradation: degradation 'gaussian_blur': has no option 'st'",
        ),
        (  # cells are of one plane
            {"axes": {"sampler": "dps", "prior": {"name": "power_law", "colour": True}}},
            "axes.prior: prior 'power_law': has no option 'colour'",
        ),
        (
            {"design": "random", "num": 3, "axes": {"sampler": "dps", "sigma_y": {"from": 2}}},
            "axes.sigma_y: a range has from and to",
        ),
        (
            {
                "design": "random",
                "num": 3,
                "axes": {"sampler": "dps", "sigma_y": {"from": 0, "to": 1, "scale": "log"}},
            },
            "axes.sigma_y: from 0 to 1 is no range",
        ),
    ],
)
def test_what_is_wrong_with_a_grid_is_one_line_that_names_the_place(change, says):
    with pytest.raises(InputError) as error:
        grid_of(LEARNED | change)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_batches_are_of_one_program_and_leave_out_what_is_known():
    grid = grid_of(LEARNED)
    parts = list(batches(grid, set(), 3))
    assert sorted(map(len, parts)) == [2, 2, 3, 3, 3, 3]
    assert all(len({cell["sampler"]["name"] for cell in part}) == 1 for part in parts)
    known = {cell_hash(cell, grid.settings) for cell in parts[0]}
    again = [cell for part in batches(grid, known, 3) for cell in part]
    assert len(again) == 13 and not known & {cell_hash(cell, grid.settings) for cell in again}


# ----------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("design", ["product", "random"])
def test_a_very_large_grid_is_counted_by_a_part(design, monkeypatch):
    """384 cells of six kinds: as by all of them, or nearly, if drawn."""
    axes = AXES | {"steps": [1, 2, 3], "sigma_y": np.geomspace(0.1, 0.9, 16).tolist()}
    drawn = {"design": design, "num": 384} if design == "random" else {}
    grid = grid_of({**EVALUATED, **drawn, "axes": axes})
    whole, _ = planning._kinds(grid, 5)
    monkeypatch.setattr(planning, "COUNTED", 48)
    part, examples = planning._kinds(grid, 5)
    assert sum(whole.values()) == 384 and part.keys() == whole.keys() and len(whole) == 6
    if design == "product":
        assert part == whole
    else:  # of 48, 8 are of each kind on average
        assert all(0 < count < 4 * 64 for count in part.values())
    for key, cells in examples.items():
        assert 1 <= len(cells) <= 5 and {running.batch_key(cell) for cell in cells} == {key}


def test_a_cell_is_what_learn_gives_for_it_alone():
    """Of two samplers, one whose weights are also learned with levels: losses to 1e-9, since
    rounding decides about accepting a step only where nothing depends on it."""
    for axes in ({}, {"learn_levels": True, "sampler": "pigdm", "objective": "mse"}):
        grid = grid_of(LEARNED | {"axes": AXES | {"sampler": "dps"} | axes})
        cells = list(grid.cells())[:3]  # filled up to four
        search = sp.Search(2, 20, explore=False)
        for cell, row in zip(cells, computed(cells, grid.settings), strict=True):
            case = case_of(cell, grid.settings)
            objective = sp.metrics.mse if axes else sp.wasserstein2
            alone = sp.learn(
                case.sampler,
                case.problem,
                case.levels,
                objective=objective,
                freedom=sp.Freedom(levels=bool(axes)),
                search=search,
            )
            kind = "mse" if axes else "w2"
            assert "error" not in row
            assert row[f"learned_{kind}"] == pytest.approx(alone.loss, rel=1e-9)
            baselines = alone.baselines
            assert row[f"published_{kind}"] == pytest.approx(baselines["heuristic"], rel=1e-12)
            assert row[f"tuned_{kind}"] == pytest.approx(baselines["tuned_constant"], rel=1e-9)
            assert row[f"exact_{kind}"] == pytest.approx(baselines["exact"], rel=1e-12)
            np.testing.assert_allclose(row["sigma"], alone.levels.sigma, atol=1e-6)
            for name, weights in alone.guidance.items():
                np.testing.assert_allclose(row[f"weight_{name}"], weights, rtol=1e-4)


def test_a_cell_that_cannot_be_computed_says_so_and_the_others_end(tmp_path):
    """A factor that does not divide the size, and a constant that explodes."""
    cells = [
        {"sampler": "dps", "steps": 2, "degradation": {"name": "downsample", "factor": 2}},
        {"sampler": "dps", "steps": 2, "degradation": {"name": "downsample", "factor": 3}},
        {"sampler": "dps", "steps": 2, "factor": 1e300},
        {"sampler": "dps", "steps": 2, "factor": 1.0},
    ]
    grid = grid_of({**SMALL, "tune": False, "cells": cells})
    outcome = run_sweep(grid, tmp_path / "s")
    assert (outcome.progress.done, outcome.progress.failed) == (4, 2)
    by_hash = rows_of(tmp_path / "s")
    errors = [by_hash[cell_hash(cell, grid.settings)]["error"] for cell in grid.cells()]
    assert errors[0] is None and errors[3] is None
    assert "factor = 3: does not divide" in errors[1] and "not finite" in errors[2]


def test_priors_of_images_and_of_files(tmp_path, monkeypatch):
    """A cell's problem is that of the prior that the images have; what is no prior is an error."""
    images = np.random.default_rng(0).uniform(size=(3, 16, 24))
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        images_of.save_image(tmp_path / "images" / f"{i}.png", 2 * image[None] - 1)
    read = images_of.load_folder(tmp_path / "images", "luminance").values()
    prior = sp.from_images(np.concatenate([images_of.tiles(one, 8)[:, 0] for one in read]))
    save_prior(tmp_path / "prior.npz", prior)
    save_prior(
        tmp_path / "colour.npz",
        sp.from_images(2 * images[:2, None, :8, :8].repeat(3, 1) - 1, colour=True),
    )
    priors = [
        {"name": "images", "folder": str(tmp_path / "images")},
        {"name": "file", "path": [str(tmp_path / "prior.npz"), str(tmp_path / "colour.npz")]},
        {"name": "images", "window": "hann"},
    ]
    grid = grid_of(
        {**SMALL, "bins": 64, "tune": False, "axes": {"sampler": "dps", "prior": priors}}
    )
    cells = list(grid.cells())
    made, reads = [], images_of.stream_folder
    monkeypatch.setattr(
        "spectralpost.sweeps.priors.stream_folder", lambda *of: made.append(of) or reads(*of)
    )
    jax.config.update("jax_enable_x64", False)
    try:
        rows = computed(cells, grid.settings)
        assert not jax.config.read("jax_enable_x64")  # a sweep leaves it as it was
    finally:
        jax.config.update("jax_enable_x64", True)
    other = cells[0] | {"degradation": {"name": "gaussian_blur", "std": 1.5}}
    case_of(other, grid.settings)
    assert len(made) == 1  # the prior of two degradations
    blur = make_degradation("gaussian_blur", (8, 8))
    problem, _ = sp.unique_modes(sp.image_problem(prior, blur, 0.05))
    case = case_of(cells[0], grid.settings)
    assert case.problem.weight.sum() == pytest.approx(64)
    published = heuristic(case.sampler, problem, case.levels)
    wanted = evaluate(case.sampler, problem, case.levels, published)
    # Pixels are read in single precision.
    assert rows[0]["published_w2"] == pytest.approx(float(wanted), rel=1e-5)
    assert rows[1]["published_w2"] == pytest.approx(float(wanted), rel=1e-9)
    assert "is of colour" in rows[2]["error"] and "error" not in rows[3]


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_in_flight_when_a_user_interrupts(times, tmp_path, monkeypatch):
    """It comes to its end, is stored, and counted; who interrupts that too is told so."""
    grid, folder, left = grid_of(EVALUATED), tmp_path / "s", times
    wait = running.wait_for_threads

    def waits(futures, **options):
        nonlocal left
        if left and len(finished(folder)) >= 4:
            left -= 1
            until = time.monotonic() + 60  # there may be none left that could begin
            while futures and not any(one.running() or one.done() for one in futures):
                if time.monotonic() > until:
                    break
                time.sleep(0.01)
            raise KeyboardInterrupt
        return wait(futures, **options)

    monkeypatch.setattr(running, "wait_for_threads", waits)
    if times == 2:
        with pytest.raises(StillRunning, match="what was stored stays"):
            run_sweep(grid, folder, batch_size=4)
        return
    outcome = run_sweep(grid, folder, batch_size=4)
    assert outcome.interrupted and outcome.progress.done == len(finished(folder)) >= 8
    assert outcome.progress.left == 16 - outcome.progress.done
    with pytest.raises(SystemExit) as ended:
        sweep.present(sweep.Result(grid, folder, outcome, ""))
    assert ended.value.code == 130


def test_failures_in_flight_at_an_interruption_are_counted(tmp_path, monkeypatch):
    """Kernels of 9 pixels on images of 8: whatever is stored after the interruption failed."""
    large = {"degradation": {"name": "uniform_blur", "size": [9, 11]}}
    grid = grid_of(EVALUATED | {"axes": AXES | large})
    wait = running.wait_for_threads

    def waits(futures, **options):
        monkeypatch.setattr(running, "wait_for_threads", wait)  # once
        wait(futures, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "wait_for_threads", waits)
    outcome = run_sweep(grid, tmp_path / "s", batch_size=4)
    assert outcome.interrupted and outcome.progress.done == 4 == outcome.progress.failed
    assert "larger than 8x8" in outcome.error


def test_parts_of_another_sweep_are_not_its_own(tmp_path):
    """They are no cells of this grid: nothing of it is done."""
    small = EVALUATED | {"axes": AXES | {"sampler": "dps"}}
    run_sweep(grid_of(EVALUATED | {"axes": AXES | {"sampler": "pigdm"}}), tmp_path / "other")
    shutil.copytree(tmp_path / "other" / "parts", tmp_path / "own" / "parts")
    outcome = run_sweep(grid_of(small), tmp_path / "own")
    assert (outcome.progress.done, outcome.progress.before) == (8, 0)
    with pytest.raises(InputError, match="parts of another grid need that one"):
        sweep_best.compute(SweepBest(sweep=tmp_path / "own", by=("sampler",)))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of dask's own processes
def test_workers_keep_what_they_compile(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "kept"))
    grid = grid_of(EVALUATED | {"axes": AXES | {"sampler": "dps", "sigma_y": 0.1}})
    outcome = run_sweep(grid, tmp_path / "s", workers=1)
    assert outcome.progress.done == 4 and len(list((tmp_path / "kept").iterdir())) > 3


def test_a_sweep_goes_on_where_it_ended(tmp_path, monkeypatch):
    """After Ctrl-C in its second batch: each cell once in the end, as of a run at one go; another
    grid is refused, or added; a second sweep in the folder is refused."""
    grid, folder = grid_of(EVALUATED), tmp_path / "s"
    whole = run_sweep(grid, tmp_path / "whole", batch_size=4)
    assert whole.progress.done == 16

    def tell(progress):
        if progress.done == 8:
            raise KeyboardInterrupt

    first = run_sweep(grid, folder, batch_size=4, tell=tell)
    assert first.interrupted and 8 <= len(finished(folder)) < 16
    with running.opened(folder, grid), pytest.raises(InputError, match="another sweep writes"):
        run_sweep(grid, folder)
    second = run_sweep(grid, folder, batch_size=4)
    assert second.progress.before + second.progress.done == 16 and second.progress.left == 0
    one, two = rows_of(folder), rows_of(tmp_path / "whole")
    assert one.keys() == two.keys() == hashes(grid)
    times = {"seconds": None}
    assert all(one[cell] | times == two[cell] | times for cell in one)
    wider = {"sigma_y": [0.1, 0.2], "prior": {"name": "matern", "length": 4.0}}
    more = grid_of(EVALUATED | {"axes": AXES | wider})
    with pytest.raises(InputError, match="is of another grid"):
        run_sweep(more, folder)
    added = run_sweep(more, folder, extend=True)
    assert added.progress.done == 8 and added.progress.before == added.progress.left == 0
    assert rows_of(folder).keys() == hashes(grid) | hashes(more)
    # Both are grids of the folder now, and what goes wrong while it is open keeps its own name.
    assert run_sweep(grid, folder).progress.before == 16
    assert run_sweep(more, folder).progress.done == 0
    with pytest.raises(BrokenPipeError), running.opened(folder, grid):
        raise BrokenPipeError
    table = pq.read_table(folder / "parts")  # of one schema
    assert table["prior.length"].null_count == 16 and table["prior.exponent"].null_count == 8
    (folder / "parts" / "other.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="is no part of one"):
        run_sweep(more, folder)


def test_a_full_disk_is_one_line_and_leaves_what_was_written(tmp_path, monkeypatch):
    grid, folder, written = grid_of(EVALUATED), tmp_path / "s", []
    write = pq.write_table

    def full(table, path):
        written.append(path)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        write(table, path)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(InputError, match="No space left") as error:
        run_sweep(grid, folder, batch_size=4)
    assert "\n" not in str(error.value)
    assert len(rows_of(folder)) == 8 and len(list((folder / "parts").iterdir())) == 2


@pytest.mark.slow
def test_a_killed_sweep_loses_nothing_that_was_written(tmp_path):
    """SIGKILL after its first part, in mid-run."""
    file, folder = tmp_path / "grid.yaml", tmp_path / "s"
    file.write_text(yaml.safe_dump(EVALUATED))
    command = [sys.executable, "-m", "spectralpost", "sweep", str(file), "--out", str(folder)]
    process = subprocess.Popen([*command, "--batch", "1"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if (folder / "parts").is_dir() and parts_of(folder):
                break
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert 0 < len(finished(folder)) < 16
    assert not main(["sweep", str(file), "--out", str(folder)])
    assert rows_of(folder).keys() == hashes(grid_of(EVALUATED))


@pytest.mark.slow
def test_eight_devices_give_what_one_gives(tmp_path):
    """Cells are spread over the devices of a process; in a process of its own that has eight."""
    grid = {**EVALUATED, "tune": True}
    program = f"""
import json, jax
from spectralpost.sweeps.batch import run_batch
from spectralpost.sweeps.grid import grid_of
jax.config.update("jax_enable_x64", True)
assert jax.device_count() == 8
grid = grid_of({grid!r})
(columns,) = run_batch(list(grid.cells())[:8], grid.settings)
print(json.dumps({{k: v.tolist() for k, v in columns.items() if hasattr(v, "tolist")}}))
"""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    made = grid_of(grid)
    (alone,) = run_batch(list(made.cells())[:8], made.settings)
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"published_w2", "tuned_psnr", "weight_zeta"} <= set(found)
    for name in set(found) - {"seconds"}:
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-9, err_msg=name)


@contextmanager
def cluster(folder, workers):
    """A scheduler and workers of it in processes of their own: the scheduler's file, and they."""
    address = folder / "scheduler.json"
    module, file = [sys.executable, "-c", DASK], ["--scheduler-file", str(address)]
    scheduler = [*module, "dask_scheduler", "--port", "0", "--no-dashboard", *file]
    worker = [*module, "dask_worker", "--nthreads", "1", "--no-dashboard", "--no-nanny", *file]
    processes = [
        subprocess.Popen(command, stderr=subprocess.DEVNULL)
        for command in (scheduler, *[worker] * workers)
    ]
    try:
        for _ in range(600):
            if address.exists():
                break
            time.sleep(0.1)
        yield address, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of dask's own processes
@pytest.mark.parametrize("killed", ["worker", "scheduler"])
def test_a_killed_worker_costs_its_batch_once_more_and_a_killed_scheduler_the_run(tmp_path, killed):
    """By SIGKILL after the first batch, with others in flight: the same cells in the end, each
    once, by the same run or the next one."""
    pytest.importorskip("distributed")
    grid, folder = grid_of(EVALUATED), tmp_path / "s"
    with cluster(tmp_path, 2) as (address, (scheduler, *workers)):

        def tell(progress):
            (scheduler if killed == "scheduler" else workers[0]).kill()

        first = run_sweep(grid, folder, batch_size=2, scheduler_file=address, tell=tell)
    if killed == "worker":
        assert first.progress.done == 16 and not first.lost
    else:
        assert 0 < len(finished(folder)) < 16 and first.lost and first.reason
        second = run_sweep(grid, folder)
        assert second.progress.before + second.progress.done == 16
    assert rows_of(folder).keys() == hashes(grid)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of dask's own processes
def test_workers_and_a_cluster_give_what_one_process_gives(tmp_path):
    pytest.importorskip("distributed")
    grid = grid_of(EVALUATED)
    run_sweep(grid, tmp_path / "one", batch_size=4)
    run_sweep(grid, tmp_path / "two", batch_size=4, workers=2)
    with cluster(tmp_path, 1) as (address, _):
        outcome = run_sweep(grid, tmp_path / "cluster", batch_size=4, scheduler_file=address)
    assert outcome.progress.done == 16 and not outcome.lost
    one, *others = (rows_of(tmp_path / name) for name in ("one", "two", "cluster"))
    for other in others:
        assert one.keys() == other.keys()
        for cell, row in one.items():
            for name, value in row.items():
                if isinstance(value, float) and name != "seconds":
                    assert other[cell][name] == pytest.approx(value, rel=1e-12), name


def test_tables_are_read_by_others_with_the_right_types(tmp_path):
    grid, folder = grid_of(EVALUATED), tmp_path / "s"
    run_sweep(grid, folder)
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = pandas.read_parquet(folder / "parts")
    assert frame["steps"].dtype == "int64" and frame["published_w2"].dtype == "float64"
    assert set(frame["sampler"]) == {"dps", "pigdm"}
    table = polars.read_parquet(folder / "parts" / "*.parquet")
    assert table["alpha"].dtype == polars.List(polars.Float64)
    assert table.columns == list(columns_of_grid(grid))
    assert len(frame) == len(table) == 16


def test_the_command_plans_runs_and_refuses(tmp_path, capsys):
    file, folder = tmp_path / "grid.yaml", tmp_path / "s"
    file.write_text(yaml.safe_dump(EVALUATED))
    assert not main(["sweep", str(file), "--out", str(folder), "--dry-run"])
    plan = capsys.readouterr().out
    assert "16 cells, each evaluated, in 2 batches of up to 512: dps, pigdm at 2 steps" in plan
    assert "compiling 2 kinds of batches" in plan and "seconds in one process" in plan
    assert not folder.exists()
    assert not main(["sweep", str(file), "--out", str(folder)])
    assert "16 cells in" in capsys.readouterr().out
    for arguments, says in (
        (["--out", str(tmp_path / "grid.yaml")], "is not a folder"),
        (["--out", str(tmp_path)], "holds other files"),
        (["--out", str(folder), "--workers", "-1"], "workers = -1"),
        (["--out", str(tmp_path / "no"), "--scheduler-file", "nofile"], "'nofile': is not there"),
        (["--out", str(folder), "--workers", "1", "--scheduler", "x"], "name one of them"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["sweep", str(file), *arguments])
        assert says in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    # Where no cell can be computed the code says so; a dry run does before.
    wrong = {"sampler": "dps", "steps": 2, "degradation": {"name": "downsample", "factor": 3}}
    right = [wrong | {"steps": steps, "degradation": "gaussian_blur"} for steps in (3, 4)]
    file.write_text(yaml.safe_dump({**SMALL, "cells": [wrong, *right]}))
    assert not main(["sweep", str(file), "--out", str(tmp_path / "none"), "--dry-run"])
    plan = capsys.readouterr().out  # by those that do not fail
    assert "1 of 3 cells that were tried failed: factor = 3" in plan and "in one process" in plan
    file.write_text(yaml.safe_dump({**SMALL, "cells": [wrong]}))
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", str(file), "--out", str(tmp_path / "none"), "--dry-run"])
    assert "no batch can be computed: factor = 3" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        main(["sweep", str(file), "--out", str(tmp_path / "none")])
    assert "1 cells in" in capsys.readouterr().out
    for prior, says in (
        ({"name": "images", "folder": "nowhere"}, "prior: folder = 'nowhere': is not there"),
        ({"name": "file", "path": "nothing"}, "prior: path = 'nothing': is not there"),
    ):
        file.write_text(yaml.safe_dump({**SMALL, "axes": {"sampler": "dps", "prior": prior}}))
        with pytest.raises(SystemExit, match="2"):
            main(["sweep", str(file), "--out", str(folder)])
        assert says in capsys.readouterr().err
    file.write_text("axes: [")
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", str(file), "--out", str(folder)])
    assert "is no YAML" in capsys.readouterr().err
    file.write_text("size: 8\naxes: {sampler: dps, steps: 2, steps: 3}\n")
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", str(file), "--out", str(folder)])
    assert "steps is given twice in what begins in line 2" in capsys.readouterr().err
    file.write_text(
        "axes:\n  sampler: dps\n  degradation:\n"
        "  - &one {name: gaussian_blur, std: 1.0}\n  - {<<: *one, std: 2.0}\n"
    )
    merged = load_grid(file).choices["degradation"]
    assert merged == tuple({"name": "gaussian_blur", "std": std} for std in (1.0, 2.0))
