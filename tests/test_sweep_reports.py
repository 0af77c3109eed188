"""What is told of a sweep: against pandas, of sweeps in any state, and schedules that come back."""

import csv
import json
import shlex
import shutil

import jax
import numpy as np
import pytest
from pictures import write

from spectralpost.cli import main
from spectralpost.errors import InputError
from spectralpost.metrics import wasserstein2
from spectralpost.noise import vp_timesteps
from spectralpost.prior_file import load_prior
from spectralpost.schedule_file import load_schedule
from spectralpost.sweeps import case as case_module
from spectralpost.sweeps.axes import columns_of
from spectralpost.sweeps.batch import METRICS, SCHEDULES
from spectralpost.sweeps.case import case_of
from spectralpost.sweeps.dataset import opened, parts_of, write_part
from spectralpost.sweeps.finding import cells_of
from spectralpost.sweeps.grid import cell_hash, grid_of
from spectralpost.sweeps.reading import (
    Column,
    conditions_of,
    grids_of,
    num_cells_of,
    read_cells,
    selected,
    take,
)
from spectralpost.sweeps.running import run_sweep
from spectralpost.sweeps.summary import (
    BINS,
    MOST,
    best,
    best_of_each,
    grouped,
    log_spaced,
    marginals,
    medians,
    table_of_medians,
    varying,
)
from spectralpost.sweeps.views import View, heat_of, lines_of, weights_of
from spectralpost.transfer import sampler_transfer

pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pandas = pytest.importorskip("pandas")

EPS = np.finfo(float).eps
W2 = [f"{label}_w2" for label in SCHEDULES]
LEARNED = {
    "size": 8,
    "bins": 16,
    "starts": 2,
    "max_iterations": 20,
    "learn": True,
    "axes": {
        "sampler": ["dps", "pigdm"],
        "steps": 2,
        "sigma_y": [0.1, 0.3],
        "degradation": {"name": "gaussian_blur", "std": [0.5, 1.0]},
    },
}
DRAWN = {
    "design": "random",
    "num": 300,
    "learn": True,
    "axes": {
        "sampler": ["dps", "pigdm", {"name": "dps", "multistep": 2}],
        "steps": [2, 3],
        "sigma_y": {"from": 0.01, "to": 1.0, "scale": "log"},
        "degradation": [
            {"name": "gaussian_blur", "std": [0.5, 1.0, 2.0]},
            {"name": "downsample", "kernel": ["none", "average"]},
        ],
    },
}


def made_up(folder, given, num=None, size=50):
    """A dataset whose metrics are drawn, some of them missing, and one in ten cells failed."""
    grid, rng = grid_of(given), np.random.default_rng(0)
    rows = []
    for cell in list(grid.cells())[:num]:
        of = {f"{label}_{one}": float(rng.lognormal()) for label in SCHEDULES for one in METRICS}
        steps = cell["steps"]
        axes = {name: value for name, (value,) in columns_of([cell]).items()}
        row = {"cell": cell_hash(cell, grid.settings)} | axes | of
        row |= {"seconds": 0.1, "seed": 0, "spectralpost": "0", "jax": "0"}
        row |= {"alpha": [1.0] * (steps + 1), "sigma": rng.random(steps + 1).tolist()}
        row["weight_zeta"] = rng.random(steps).tolist()
        chance = rng.random()
        if chance < 0.1:
            row["error"] = "learned: not finite" if chance < 0.07 else "no prior"
            row["learned_w2"] = np.nan
        elif chance < 0.2:
            row["published_w2"] = np.inf
        elif chance < 0.3:
            row["learned_w2"] = None
        rows.append(row)
    with opened(folder, grid) as dataset:
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            columns = {name: [row.get(name) for row in some] for name in dataset.columns}
            write_part(folder, dataset.columns, [columns])
    return folder


@pytest.fixture(scope="module", name="drawn")
def drawn_sweep(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("drawn") / "s", DRAWN)


@pytest.fixture(scope="module", name="frame")
def frame_of(drawn):
    return pandas.read_parquet(drawn / "parts").set_index("cell", drop=False)


@pytest.fixture(scope="module", name="learned")
def learned_sweep(tmp_path_factory, quick):
    """Eight learned cells, and two of another grid, of which one fails."""
    folder = tmp_path_factory.mktemp("learned") / "s"
    run_sweep(grid_of(LEARNED), folder)
    cells = [
        {"sampler": "dps", "steps": 2, "degradation": {"name": "downsample", "factor": factor}}
        for factor in (2, 3)
    ]
    common = {key: value for key, value in LEARNED.items() if key != "axes"}
    outcome = run_sweep(grid_of(common | {"cells": cells}), folder, extend=True)
    assert (outcome.progress.done, outcome.progress.failed) == (2, 1)
    return folder


def names_of(cells, which=None):
    """The hashes of cells, in order."""
    which = np.arange(cells.num) if which is None else which
    return take(cells, which, ["cell"])["cell"].to_pylist()


def ran(arguments, capsys):
    capsys.readouterr()
    assert not main(shlex.split(arguments))
    return capsys.readouterr().out


def is_drawn(path):
    """A PNG that is not of one colour."""
    import skimage.io

    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    image = skimage.io.imread(path)[..., :3]
    assert min(image.shape[:2]) > 200
    return image.std() > 5


# ----------------------------------------------------------------------------------- against pandas


def test_columns_are_those_that_pandas_reads(drawn, frame):
    cells, chosen = read_cells(drawn, W2)
    assert chosen.all() and cells.num == len(frame) == 300
    same = frame.loc[names_of(cells)]
    for name in W2:
        np.testing.assert_array_equal(cells.numbers[name], same[name].to_numpy(float))
    for name, (values, codes) in cells.axes.items():
        mine, theirs = values[codes], same[name]
        if values.dtype.kind == "f":
            np.testing.assert_array_equal(mine, theirs.to_numpy(float, na_value=np.nan))
        else:
            known = theirs.notna().to_numpy()
            assert list(mine[known]) == list(theirs[known]) and set(mine[~known]) <= {None}
    assert (cells.good == same["error"].isna().to_numpy()).all() and not cells.good.all()
    some = np.asarray([7, 3, 250, 3])
    rows = take(cells, some, ["weight_zeta", "steps"]).to_pylist()
    wanted = same.iloc[some]
    for row, zeta, steps in zip(rows, wanted["weight_zeta"], wanted["steps"], strict=True):
        assert row == {"weight_zeta": list(zeta), "steps": steps}


def test_best_cells_are_those_of_pandas(drawn, frame):
    cells, _ = read_cells(drawn, [*W2, "tuned_psnr"])
    cells = selected(cells, cells.good)
    good = frame[frame["error"].isna()]
    assert good["learned_w2"].isna().any()  # left out by both
    mine = names_of(cells, best(cells.numbers["learned_w2"], 10))
    assert mine == list(good["learned_w2"].nsmallest(10).index)
    mine = names_of(cells, best(cells.numbers["tuned_psnr"], 10, higher=True))
    assert mine == list(good["tuned_psnr"].nlargest(10).index)
    assert len(best(cells.numbers["learned_w2"], 1000)) == good["learned_w2"].notna().sum()
    each = names_of(cells, best_of_each(cells.axes["sampler"].codes, cells.numbers["tuned_w2"]))
    assert each == list(good.groupby("sampler")["tuned_w2"].idxmin())


def test_marginals_are_those_of_pandas(drawn, frame):
    cells, _ = read_cells(drawn, W2)
    cells = selected(cells, cells.good)
    good = frame[frame["error"].isna()].copy()
    good["l/t"], good["t/p"] = good.learned_w2 / good.tuned_w2, good.tuned_w2 / good.published_w2
    both = good.learned_w2.notna()
    good["pays"] = (good.learned_w2 < 0.99 * good.tuned_w2).where(both).astype(float)
    columns = {label: cells.numbers[f"{label}_w2"] for label in SCHEDULES}
    axes = varying(cells)
    assert set(axes) == {
        "sigma_y",
        "degradation.std",
        "sampler",
        "steps",
        "degradation",
        "degradation.kernel",
        "sampler.multistep",
    }
    for axis in ("sampler", "steps", "degradation.std", "degradation.kernel"):
        of_axis = good.groupby(axis, dropna=False)
        mine = marginals(grouped(cells.axes[axis]), columns, higher=False)
        assert [row.cells for row in mine] == list(of_axis.size())
        for label in SCHEDULES:
            wanted = of_axis[f"{label}_w2"].median()
            found = [row.medians[label] for row in mine]
            np.testing.assert_allclose(found, wanted, rtol=4 * EPS)
        np.testing.assert_allclose(
            [row.learned_over_tuned for row in mine], of_axis["l/t"].median(), rtol=4 * EPS
        )
        np.testing.assert_allclose(
            [row.tuned_over_published for row in mine], of_axis["t/p"].median(), rtol=4 * EPS
        )
        np.testing.assert_allclose([row.learned_pays for row in mine], of_axis["pays"].mean())
    labels = [
        row.label for row in marginals(grouped(cells.axes["degradation.std"]), columns, False)
    ]
    assert labels == ["0.5", "1", "2", "(none)"]


def test_many_numbers_are_put_into_bins_of_as_many_cells(drawn):
    cells, _ = read_cells(drawn, W2)
    groups = grouped(cells.axes["sigma_y"])
    counts = np.bincount(groups.codes)
    assert len(groups.labels) == BINS == len(counts) and set(counts) <= {37, 38}
    values = cells.axes["sigma_y"].values[cells.axes["sigma_y"].codes]
    for i, label in enumerate(groups.labels):
        own = values[groups.codes == i]
        assert label == f"{own.min():g} to {own.max():g}"
        assert abs(np.sum(own < groups.at[i]) - len(own) / 2) <= 1
    assert np.all(np.diff(groups.at) > 0) and log_spaced(groups.at)


def test_groups_of_texts_and_of_few_values():
    texts = np.asarray([*"abcdefghijklmnop", None], object)
    codes = np.repeat(np.arange(17), np.arange(17, 0, -1))
    groups = grouped(Column(texts, codes))
    assert groups.labels == (*"abcdefghijk", "6 others") and groups.at is None
    assert np.bincount(groups.codes)[-1] == 6 + 5 + 4 + 3 + 2 + 1
    numbers = np.append(np.arange(MOST, dtype=float), np.nan)
    groups = grouped(Column(numbers, np.arange(MOST + 1)))
    assert len(groups.labels) == MOST + 1 and groups.labels[-1] == "(none)"
    near = np.asarray([0.1, 0.1 + 1e-9])
    assert grouped(Column(near, np.arange(2))).labels == ("0.1", "0.100000001")
    assert not log_spaced(np.linspace(1, 10, 10)) and log_spaced(np.geomspace(0.01, 1, 5))
    assert not log_spaced(np.asarray([0.0, 0.1, 1.0, 10.0]))


def test_medians_know_missing_and_infinite_values():
    values = np.asarray([1.0, np.nan, 3.0, np.inf, np.inf, np.nan, 5.0])
    codes = np.asarray([0, 0, 0, 1, 1, 2, 4])
    np.testing.assert_array_equal(medians(codes, 5, values), [2.0, np.inf, np.nan, np.nan, 5.0])


def test_heat_maps_and_lines_are_pivots_of_pandas(drawn, frame):
    cells, _ = read_cells(drawn, W2)
    values = cells.numbers["tuned_w2"]
    x, y = grouped(cells.axes["steps"]), grouped(cells.axes["sampler"])
    wanted = frame.pivot_table("tuned_w2", "sampler", "steps", "median")
    np.testing.assert_allclose(table_of_medians(x, y, values), wanted, rtol=4 * EPS)
    view = View("steps", "sampler", "sampler", "degradation")
    panels = heat_of(cells, view, values)
    assert list(panels) == ["degradation = downsample", "degradation = gaussian_blur"]
    for title, found in panels.items():
        some = frame[frame["degradation"] == title.split(" = ")[1]]
        wanted = some.pivot_table("tuned_w2", "sampler", "steps", "median")
        np.testing.assert_allclose(found, wanted, rtol=4 * EPS)
        lines = lines_of(cells, view, {"": values})[title]
        assert list(lines) == ["dps", "pigdm"]
        np.testing.assert_allclose(list(lines.values()), wanted, rtol=4 * EPS)


def test_weights_are_medians_over_the_cells_of_most_steps(drawn, frame):
    cells, _ = read_cells(drawn, W2)
    most = frame["steps"].mode()[0]
    some = frame[(frame["steps"] == most) & (frame["sampler"] == "dps")]
    found = weights_of(cells, varying(cells), "degradation.std")
    assert found.whole and found.ordered and set(found.panels) == {"dps, zeta", "pigdm, zeta"}
    assert f"{most} steps" in found.title
    for std, lists in some.groupby("degradation.std")["weight_zeta"]:
        wanted = np.median(np.stack(list(lists)), axis=0)
        np.testing.assert_allclose(found.panels["dps, zeta"][f"{std:g}"], wanted, rtol=4 * EPS)
    by_steps = weights_of(cells, varying(cells), "steps")
    assert not by_steps.whole
    assert {k: len(v) for k, v in by_steps.panels["dps, zeta"].items()} == {"2": 2, "3": 3}


# --------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("words", "query"),
    [
        (["sampler=dps"], "sampler == 'dps'"),
        (["sampler==dps"], "sampler == 'dps'"),
        (["sampler!=dps", "steps=2"], "sampler != 'dps' and steps == 2"),
        (["sigma_y<=0.1"], "sigma_y <= 0.1"),
        (["sigma_y > 0.1", "sigma_y<0.5"], "0.1 < sigma_y < 0.5"),
        (["degradation.std>=1"], "`degradation.std` >= 1"),
        (["degradation.std=2"], "`degradation.std` == 2"),
        (["degradation.std!=2"], "`degradation.std` != 2"),  # those without one too
        (["degradation.std="], "`degradation.std`.isna()"),
        (["degradation.std!="], "`degradation.std`.notna()"),
        (["degradation.kernel=none"], "`degradation.kernel` == 'none'"),  # a name like others
        (["learn_levels=false"], "index == index"),
        (["learned_w2<0.5", "tuned_mse>1"], "learned_w2 < 0.5 and tuned_mse > 1"),
        (["published_w2=inf"], "published_w2 == inf"),
        (["error!="], "error.notna()"),
        (["error=no prior"], "error == 'no prior'"),
    ],
)
def test_conditions_select_what_pandas_selects(words, query, drawn, frame):
    cells, chosen = read_cells(drawn, W2, words)
    inf = np.inf  # noqa: F841, of the query
    wanted = set(frame.query(query.replace("inf", "@inf"), engine="python").index)
    assert set(names_of(selected(cells, chosen))) == wanted
    assert 0 < len(wanted) <= 300


def test_a_number_of_six_digits_and_a_cell_by_its_name(drawn, frame):
    """What a table prints finds its cell again."""
    row = frame.iloc[17]
    assert float(f"{row.sigma_y:g}") != row.sigma_y
    for word in (f"sigma_y={row.sigma_y:g}", f"cell={row.cell}"):
        cells, chosen = read_cells(drawn, W2, [word])
        assert names_of(selected(cells, chosen)) == [row.cell]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("sampler", "COLUMN, one of = != < <= > >=, and a value"),
        ("=dps", "COLUMN, one of"),
        ("sigma=1", "no column 'sigma'; allowed are cell, sampler, "),
        ("weight_zeta=1", "no column 'weight_zeta'"),  # lists
        ("sampler<dps", "sampler is no number, it has = and != alone"),
        ("learn_levels>false", "learn_levels is no number"),
        ("learn_levels=maybe", "learn_levels is true or false"),
        ("sigma_y=low", "sigma_y is a number, 'low' is none"),
        ("sigma_y<nan", "sigma_y is a number, 'nan' is none"),
        ("sigma_y<", "a number is needed"),
    ],
)
def test_what_is_wrong_with_a_condition_is_one_line(word, says, drawn):
    with pytest.raises(InputError) as error:
        read_cells(drawn, W2, [word])
    text = str(error.value)
    assert text.startswith(f"where = {word!r}: ") and says in text and "\n" not in text


def test_an_operator_is_taken_whole():
    (one,) = conditions_of(["a <= 1"], {"a": "float"})
    assert one == ("a", "<=", 1.0)


# ------------------------------------------------------------------------------ sweeps in any state


def test_an_unfinished_sweep_is_told_of_as_far_as_it_is(tmp_path, capsys):
    """While it runs: its lock is held, and a part is being written."""
    folder = made_up(tmp_path / "s", DRAWN, num=100)
    (folder / "parts" / ".part-1.parquet.123.tmp").write_bytes(b"PAR1 half")
    with opened(folder, grid_of(DRAWN)):
        text = ran(f"sweep-report {folder} --best 3", capsys)
    assert "100 of 300 cells are done" in text
    assert (folder / "report" / "lines.png").exists()


@pytest.mark.parametrize("parts", [True, False])
def test_a_sweep_without_cells_has_no_figures(parts, tmp_path, capsys):
    folder = made_up(tmp_path / "s", DRAWN, num=0)
    if not parts:
        (folder / "parts").rmdir()
    text = ran(f"sweep-report {folder} --where sampler=dps", capsys)
    assert "0 of 300 cells are done, 0 failed" in text and "no figures" in text
    assert not list(folder.rglob("*.png"))


def test_a_cell_of_two_parts_counts_once(tmp_path):
    """As when a run was killed and its worker was not."""
    folder = made_up(tmp_path / "s", DRAWN, num=60, size=60)
    (path,) = parts_of(folder)
    pq.write_table(pq.read_table(path).slice(10, 20), folder / "parts" / "part-z.parquet")
    cells, _ = read_cells(folder, W2)
    assert cells.num == 60 == len(set(names_of(cells)))


def test_an_extended_sweep_has_the_cells_of_both_grids(learned, capsys):
    assert num_cells_of(grids_of(learned)) == (10, True)
    text = ran(f"sweep-report {learned} --best 2", capsys)
    assert "10 of 10 cells are done, 1 failed" in text
    assert "1 failed: " in text and "does not divide" in text
    assert "degradation.factor" not in text  # there is one that ended well
    text = ran(f"sweep-report {learned} --where degradation=downsample", capsys)
    assert "2 of them where degradation=downsample" in text and "no figures" in text


def test_parts_from_before_an_extension_lack_columns(tmp_path):
    """While it is under way: the manifest is new, a part is not."""
    folder = made_up(tmp_path / "s", DRAWN, num=60, size=30)
    path, _ = parts_of(folder)
    table = pq.read_table(path).drop_columns(["degradation.kernel", "weight_zeta"])
    place = table.schema.get_field_index("sigma_y")
    table = table.set_column(place, "sigma_y", table["sigma_y"].cast("float32"))
    pq.write_table(table, path)
    cells, _ = read_cells(folder, W2)
    first = np.flatnonzero(cells.part == 0)
    assert cells.num == 60 and len(first) == 30
    values, codes = cells.axes["degradation.kernel"]
    assert set(values[codes[first]]) == {None} and set(values) > {None}
    assert take(cells, first[:2], ["weight_zeta"])["weight_zeta"].to_pylist() == [None, None]


def test_numbers_of_cells_of_several_grids():
    product = grid_of(LEARNED)
    assert num_cells_of([product]) == (8, True)
    assert num_cells_of([product, product]) == (8, True)
    twice = LEARNED | {"axes": LEARNED["axes"] | {"sigma_y": [0.1, 0.1]}}
    assert num_cells_of([grid_of(twice)]) == (4, True)
    many = grid_of(DRAWN | {"num": 10**6})
    assert num_cells_of([many, product]) == (10**6 + 8, False)


BROKEN = {
    "none": (None, "has no manifest.json"),
    "no JSON": ("{", "manifest.json: not a JSON file"),
    "another's": ("{}", "manifest.json is none of a sweep"),
    "newer": ({"version": 9}, "version 9; this package reads 1"),
    "no columns": ({"columns": 3}, "columns is missing"),
    "no grids": ({"grids": None}, "grids is missing"),
    "another grid": ({"grids": [{"axes": 1}]}, "axes: names with values are needed"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("command", ["sweep-report", "sweep-best"])
def test_a_folder_that_is_no_sweep_is_one_line(name, command, tmp_path, capsys):
    change, says = BROKEN[name]
    folder = made_up(tmp_path / "s", DRAWN, num=5)
    path = folder / "manifest.json"
    if isinstance(change, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    elif change is None:
        path.unlink()
    else:
        path.write_text(change)
    refused(f"{command} {folder} --out {tmp_path}/out", says, capsys)
    assert not (tmp_path / "out").exists()


def test_a_part_that_is_none_is_one_line(tmp_path, capsys):
    folder = made_up(tmp_path / "s", DRAWN, num=5)
    (folder / "parts" / "other.parquet").write_bytes(b"PAR1")
    refused(f"sweep-report {folder}", "other.parquet' is no part of one", capsys)
    assert not (folder / "report").exists()


def refused(arguments, says, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(shlex.split(arguments))
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    assert error.startswith("spectralpost: ") and says in error


# ------------------------------------------------------------------------------------- the commands


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--metric learned_l2", "metric = 'learned_l2': allowed are published_w2"),
        ("--metric seconds", "metric = 'seconds': allowed are"),
        ("--best -1", "best = -1: must be >= 0"),
        ("--ratio learned", "ratio = 'learned': one/other is needed, of published, tuned"),
        ("--ratio learned/mean", "ratio = 'learned/mean'"),
        ("--ratio learned/tuned --metric tuned_psnr", "PSNR is in dB, of which there are no"),
        ("--x sigma", "x = 'sigma': no such axis; allowed are sigma_y"),
        ("--facet factor", "facet = 'factor': all cells have the same; those that vary"),
        ("--x steps --y steps", "x = y = 'steps': name two axes"),
        ("--x steps --color steps", "x = color = 'steps': name two axes"),
        ("--color steps --facet steps", "color = facet = 'steps': name two axes"),
        ("--where sigma_y>5", "where = sigma_y>5: none of 300 cells is so"),
        ("--where steps=3 steps=2", "where = steps=3 steps=2: none of 300 cells is so"),
        ("--out {parts}", "already holds files"),
    ],
)
def test_wrong_options_of_a_report_are_one_line(arguments, says, drawn, tmp_path, capsys):
    before = sorted(drawn.rglob("*"))
    refused(f"sweep-report {drawn} {arguments.format(parts=drawn / 'parts')}", says, capsys)
    assert sorted(drawn.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--ratio learned/tuned --x degradation.std --y sampler --facet steps",
        "--x sampler --color degradation --metric learned_psnr",
        "--x sigma_y --color steps --facet degradation --metric published_w2",  # with infinity
    ],
)
def test_a_report_draws_its_figures(arguments, drawn, tmp_path, capsys):
    text = ran(f"sweep-report {drawn} {arguments} --out {tmp_path}/out", capsys)
    for name in ("heat_map.png", "lines.png", "weights.png"):
        assert is_drawn(tmp_path / "out" / name)
    assert "300 of 300 cells are done" in text and "Best cells by" in text
    assert "learned is more than" in text or "psnr" in arguments


def test_a_report_of_a_sweep_that_is_not_learned_says_nothing_of_it(tmp_path, capsys):
    """One axis alone: lines, and no heat map. A second report is beside the first."""
    axes = {"sampler": "dps", "steps": 2, "sigma_y": [0.1, 0.2, 0.4]}
    folder = tmp_path / "s"
    run_sweep(grid_of({"size": 8, "tune": False, "axes": axes}), folder)
    text = ran(f"sweep-report {folder}", capsys)
    assert "Best cells by published_w2" in text and "tuned" not in text
    assert not (folder / "report" / "heat_map.png").exists()
    assert is_drawn(folder / "report" / "lines.png")
    refused(f"sweep-report {folder} --metric learned_w2", "no cell has it; there are", capsys)
    ratio = "--ratio learned/tuned"
    refused(f"sweep-report {folder} {ratio}", "no cell has learned; there are published", capsys)
    assert "report-2" in ran(f"sweep-report {folder}", capsys)


def test_figures_tell_all_that_they_leave_out():
    from spectralpost.figures import Axis, Drawn, heat_map_figure, sweep_lines_figure

    x = Axis("sigma_y", ("0.1", "0.2", "0.4"), np.asarray([0.1, 0.2, 0.4]), True)
    y = Axis("sampler", ("dps", "pigdm"))
    values = np.asarray([[0.5, 1.0, np.nan], [0.9, np.inf, 2.0]])
    figure = heat_map_figure({"": values}, x, y, Drawn("learned / tuned", "median", True, True))
    (image,) = figure.axes[0].images
    assert image.norm.vmin * image.norm.vmax == pytest.approx(1)  # 1 is in the middle
    said = " ".join(image.colorbar.ax.get_ylabel().split())
    assert image.colorbar.extend == "max" and "hatched: no cells" in said
    lines = {"dps": values[0], "pigdm": values[1]}
    figure = sweep_lines_figure({"": lines}, x, "sampler", False, Drawn("W2", "m", True, False))
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dps", "pigdm"]
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), [0.1, 0.4])


@pytest.mark.usefixtures("quick")
def test_schedules_of_the_best_cells_come_back(learned, tmp_path, capsys):
    """Their W2 on the problem of their cell is the column's, their prior is the file's."""
    text = ran(
        f"sweep-best {learned} --where degradation=gaussian_blur --by sampler sigma_y "
        f"--out {tmp_path}/out",
        capsys,
    )
    with open(tmp_path / "out" / "index.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    files = [f"{s}_sigma_y={y}.json" for s in ("dps", "pigdm") for y in ("0.1", "0.3")]
    assert sorted(line["file"] for line in lines) == files
    frame = pandas.read_parquet(learned / "parts").dropna(subset="degradation.std")
    wanted = frame.loc[frame.groupby(["sampler", "sigma_y"])["learned_w2"].idxmin()]
    assert sorted(float(line["learned_w2"]) for line in lines) == sorted(wanted["learned_w2"])
    for line in lines:
        assert line["file"] in text
        schedule = load_schedule(tmp_path / "out" / line["file"])
        prior = load_prior(tmp_path / "out" / line["prior_file"])
        assert prior.hash == schedule.prior_hash
        row = frame[frame["learned_w2"] == float(line["learned_w2"])].iloc[0]
        cell, settings = cells_of(grids_of(learned), [row])[row["cell"]]
        problem = case_of(cell, settings).problem
        transfer = jax.jit(sampler_transfer, static_argnums=0)(
            schedule.sampler(), problem, schedule.levels, schedule.guidance
        )
        np.testing.assert_allclose(wasserstein2(problem, transfer), row["learned_w2"], rtol=1e-12)
        assert schedule.loss == row["learned_w2"]
        assert schedule.baselines["tuned_constant"] == row["tuned_w2"]
        assert schedule.degradation_options == {"std": row["degradation.std"]}
        if not cell["learn_levels"]:
            assert list(schedule.timesteps) == list(vp_timesteps(cell["steps"]))
        assert schedule.sigma_y == row["sigma_y"] == float(line["sigma_y"])


def test_a_prior_that_has_changed_is_not_taken_for_the_one_before(tmp_path, capsys, monkeypatch):
    """Images of a folder, after the sweep; a report does not need them, wherever it is made."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16), np.uint8)
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / "a.png", images[0])
    prior = {"name": "images", "folder": "images"}
    settings = {"size": 8, "bins": 16, "tune": False}
    grid = grid_of({**settings, "axes": {"sampler": "dps", "steps": 2, "prior": prior}})
    run_sweep(grid, tmp_path / "s")
    ran(f"sweep-best {tmp_path}/s --out best", capsys)
    (file,) = (tmp_path / "best").glob("*.json")
    (stored,) = pandas.read_parquet(tmp_path / "s" / "parts")["prior_hash"]
    assert load_schedule(file).prior_hash == stored
    write(tmp_path / "images" / "a.png", images[1])
    case_module._prior.cache_clear()  # as of another process
    with pytest.raises(SystemExit, match="2"):
        main(shlex.split(f"sweep-best {tmp_path}/s --out again"))
    assert "what it is made from has changed" in " ".join(capsys.readouterr().err.split())
    shutil.rmtree(tmp_path / "images")
    monkeypatch.chdir("/")
    assert "published" in ran(f"sweep-report {tmp_path}/s --out {tmp_path}/report", capsys)


def test_the_best_cell_of_all_names_what_varies(learned, tmp_path, capsys):
    ran(f"sweep-best {learned} --metric learned_mse --out {tmp_path}/out", capsys)
    (file,) = (tmp_path / "out").glob("*.json")
    frame = pandas.read_parquet(learned / "parts")
    row = frame.loc[frame["learned_mse"].idxmin()]
    std, sigma_y = (f"{row[name]:g}" for name in ("degradation.std", "sigma_y"))
    assert file.name == (
        f"{row['sampler']}_degradation={row['degradation']}_degradation.std={std}"
        f"_sigma_y={sigma_y}.json"
    )
    assert load_schedule(file).provenance["cell"] == row["cell"]


def test_cells_of_all_designs_are_found_again(drawn):
    cells, _ = read_cells(drawn, W2)
    rows = take(cells, np.asarray([5, 100]), list(cells.kinds)).to_pylist()
    found = cells_of(grids_of(drawn), rows)
    for row in rows:
        cell, settings = found[row["cell"]]
        assert cell_hash(cell, settings) == row["cell"]
    with pytest.raises(InputError, match="its grids have no cell abc"):
        cells_of(grids_of(drawn), [rows[0] | {"cell": "abc"}])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--where sampler=ddrm", "where = sampler=ddrm: none of 10 cells is so"),
        ("--where degradation.factor=3", "all 1 cells failed, one of them: "),
        ("--by sampler noise", "by = 'noise': no such axis; allowed are"),
        ("--by sampler sampler", "by = sampler sampler: name each one once"),
        ("--metric tuned_w2", "its learned schedule; allowed are learned_w2, learned_mse"),
        ("--metric exact_w2", "its learned schedule"),
        ("--metric w2", "metric = 'w2': allowed are"),
    ],
)
def test_wrong_options_of_the_best_are_one_line(arguments, says, learned, tmp_path, capsys):
    refused(f"sweep-best {learned} {arguments} --out {tmp_path}/out", says, capsys)
    assert not (tmp_path / "out").exists()


def test_combinations_without_a_finite_metric_are_counted(learned, tmp_path, capsys):
    """And when there is no other, that is one line."""
    folder, num = tmp_path / "s", 0
    shutil.copytree(learned, folder, ignore=shutil.ignore_patterns("report*"))
    for path in parts_of(folder):
        table = pq.read_table(path)
        values = np.full(len(table), np.nan)
        samplers = table["sampler"].to_pylist()
        if "dps" in samplers and not num:
            values[samplers.index("dps")] = 1.0
            num += 1
        errors = [None if value == 1 else "learned: not finite" for value in values]
        for name, column in (("learned_w2", values), ("error", errors)):
            place, field = table.schema.get_field_index(name), table.schema.field(name)
            table = table.set_column(place, field, pyarrow.array(column, field.type))
        pq.write_table(table, path)
    text = ran(f"sweep-best {folder} --by sampler --out {tmp_path}/one", capsys)
    assert "1 combinations have no cell" in text
    where = "--where learned_w2!=1"
    refused(
        f"sweep-best {folder} {where} --out {tmp_path}/two",
        "all 9 cells failed, one of them: learned: not finite",
        capsys,
    )
