"""Options, config files, and errors in one line."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import QUICK, STEPS, compile_quickly, contents, workplace  # noqa: F401
from pictures import write

import spectralpost
from spectralpost import commands
from spectralpost.choices import SHORT
from spectralpost.cli import COMMANDS, main, parse
from spectralpost.config_file import to_yaml
from spectralpost.errors import InputError, StillRunning
from spectralpost.options import (
    Compare,
    Degradations,
    Design,
    Evaluate,
    Export,
    Figures,
    Gallery,
    Restore,
    Samplers,
    Tradeoff,
)
from spectralpost.sweep_options import SweepBest, SweepReport

# --------------------------------------------------------------------------------------- bad input

TRADEOFF = "tradeoff --images {w}/images --out {out}"
COMPARE = "compare --images {w}/images --out {out}"
DESIGN = f"design --images {{w}}/images {QUICK} --out {{out}}"
PLAIN = f"design --images {{w}}/images {STEPS} --out {{out}}"  # no option of a degradation
KERNEL = f"{PLAIN} --degradation kernel --kernel {{w}}/kernels"
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
    "too few to polish on": (f"{DESIGN} --polish {{w}}/images", "polish.*4 images.*8 at least"),
    "size 1": (f"{DESIGN} --size 1", "size = 1"),
    "size too large": (f"{DESIGN} --size 17", "size = 17"),
    "missing photo": (f"{DESIGN} --photo {{w}}/no.png", r"no\.png.*no such file"),
    "photo too small": (f"{DESIGN} --photo {{w}}/small/small.png", r"small\.png.*8x8.*16x16"),
    "crop of another size": (
        f"{PLAIN} --degradation downsample --borders extend",
        "borders = 'extend'.*downsample.*circular",
    ),
    "hardly a crop left": (
        f"{DESIGN} --blur-std 2 --borders extend",
        "13x13 pixels.*less than half of 16x16.*circular",
    ),
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
    "even box": (f"{PLAIN} --degradation uniform-blur --blur-size 4", "size = 4.*odd"),
    "large box": (f"{PLAIN} --degradation uniform-blur --blur-size 17", "17x17.*16x16"),
    "long motion": (f"{PLAIN} --degradation motion-blur --motion-length 40", "larger.*16x16"),
    "endless motion": (f"{PLAIN} --degradation motion-blur --motion-length 1e5", "larger.*16x16"),
    "no motion": (f"{PLAIN} --degradation motion-blur --motion-length 0", r"length = 0\.0"),
    "angle nan": (f"{PLAIN} --degradation motion-blur --motion-angle nan", "angle"),
    "no kernel": (f"{PLAIN} --degradation kernel", "needs --kernel"),
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
    "kernel of another": (f"{PLAIN} --kernel {{w}}/kernels/good.txt", "kernel = .*no effect"),
    "size of another": (f"{DESIGN} --blur-size 3", "blur_size = 3: has no effect.*uniform_blur"),
    "angle of another": (f"{DESIGN} --motion-angle 0", "motion_angle = 0.0: has no effect.*motion"),
    "std of another": (f"{DESIGN} --degradation identity", "blur_std = 1.0: has no effect"),
    "spacing of another": (f"{DESIGN} --grid ve-karras --spacing leading", "spacing = .*no effect"),
    "unknown degradation option": (f"{DESIGN} --degradation-options size=3", "'size'.*std"),
    "option of nothing": (
        f"{PLAIN} --degradation identity --degradation-options std=3",
        "'std'; it has no options",
    ),
    "degradation option of words": (
        f"{PLAIN} --degradation-options std=wide",
        "std = 'wide': must be a number",
    ),
    "degradation twice": (
        f"{PLAIN} --degradation-options std=1 std=2",
        "std is given twice",
    ),
    "odd half": (
        f"{PLAIN} --degradation uniform-blur --degradation-options size=3.5",
        "size = 3.5: must be a whole number",
    ),
    "steps as a grid option": (f"{DESIGN} --grid-options num_steps=3", "has no option 'num_steps'"),
    "shape as an option": (f"{PLAIN} --degradation-options shape=3", "has no option 'shape'"),
    "name as an option": (f"{DESIGN} --sampler-options name=pigdm", "'dps': has no option 'name'"),
    "unknown grid option": (f"{DESIGN} --grid-options rho=7", "'vp_linear'.*'rho'.*spacing"),
    "grid option of words": (f"{DESIGN} --grid-options spacing=far", "'far': must be one of uni"),
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
    "levels as a weight": (f"{DESIGN} --free zeta levels", "free = 'levels'.*--learn-levels"),
    "levels of tradeoff": (f"{TRADEOFF} --free zeta levels", "free = 'levels'.*--learn-levels"),
    "no starts": (f"{DESIGN} --starts 0", "starts = 0"),
    "no bins": (f"{DESIGN} --bins 0", "bins = 0"),
    "nothing to resume": (f"{DESIGN} --resume {{w}}/images", "search.npz"),
    "resume of another noise": (
        f"{DESIGN} --sigma-y 0.2 --resume {{w}}/designed",
        "resume = .*: its search was for another sigma_y; --start .*schedule.json begins",
    ),
    "resume of other images": (
        f"design --images {{w}}/other {STEPS} --blur-std 2 --out {{out}} --resume {{w}}/designed",
        "its search was for another degradation and prior; --start",
    ),
    "polish on no folder": (f"{DESIGN} --polish {{w}}/nowhere", "^spectralpost: .*/nowhere'"),
    "start and resume": (
        f"{DESIGN} --start {{w}}/designed/schedule.json --resume {{w}}/designed",
        "start = .*: a search that is resumed has begun",
    ),
    "start of another sampler": (
        f"{DESIGN} --sampler diffpir --start {{w}}/designed/schedule.json",
        "is of dps, not diffpir",
    ),
    "levels learned and held": (
        f"{DESIGN} --learn-levels --hold-levels",
        "hold levels: they are learned, too",
    ),
    "levels held that nothing learns": (f"{DESIGN} --hold-levels", "hold levels: nothing learns"),
    "starts of one schedule": (
        f"{DESIGN} --start dps-gaussian_blur1-s0.1-10 --starts 3",
        "starts = 3: has no effect on design --start",
    ),
    "start from nothing": (f"{DESIGN} --start {{w}}/nothing.json", "nothing.json"),
    "start not in the gallery": (
        f"{DESIGN} --start dps-blur-s1-20",
        "start = .*: no such file, and not in",
    ),
    "resume of another": (f"{DESIGN} --steps 4 --resume {{w}}/designed", "resume: a search of"),
    "seed too long": (f"{DESIGN} --seed 1{'0' * 30}", "seed"),
    # the command line itself
    "no command": (
        "",
        "design, compare, tradeoff, evaluate, export, gallery, restore, train, sweep, sweep-report",
    ),
    "unknown command": ("improve", "command = 'improve': allowed are design, compare, "),
    "misspelt command": ("desing --steps 3", "'desing': perhaps you meant design; allowed are"),
    "unknown option": (f"{DESIGN} --sharpness 3", r"--sharpness, 3 \(see"),
    "misspelt option": (f"{DESIGN} --setps 3", "--setps, 3: perhaps you meant --steps"),
    "option without a value": (f"{DESIGN} --steps", "steps"),
    "evaluate without a schedule": ("evaluate --out {out}", "Schedule file"),
    "restore without a schedule": ("restore {w}/images/0.png --out {out}", "--schedule"),
    # schedules and priors
    "missing schedule": ("evaluate {w}/no.json --out {out}", r"no\.json.*cannot be read"),
    "broken schedule": ("evaluate {w}/broken/schedule.json --out {out}", "not a JSON file"),
    "newer schedule": ("evaluate {w}/newer/schedule.json --out {out}", "format_version = 3.*newer"),
    "image as schedule": ("evaluate {w}/images/0.png --out {out}", r"0\.png.*not a JSON file"),
    "no prior": ("evaluate {w}/alone/schedule.json --out {out}", r"is not beside it.*--prior"),
    "another prior": ("evaluate {w}/stranger/schedule.json --out {out}", "hash.*--prior"),
    "missing prior": (f"{EVALUATE} --prior {{w}}/no.npz", r"no\.npz.*no such file"),
    "text as prior": (f"{EVALUATE} --prior {{w}}/text.npz", r"text\.npz.*not a prior"),
    "half a prior": (f"{EVALUATE} --prior {{w}}/cut.npz", r"cut\.npz.*not a prior"),
    "array as prior": (f"{EVALUATE} --prior {{w}}/array.npy", r"array\.npy.*not a prior"),
    "incomplete prior": (
        f"{EVALUATE} --prior {{w}}/incomplete.npz",
        r"incomplete\.npz.*not a prior",
    ),
    "prior of another range": (f"{EVALUATE} --prior {{w}}/unit.npz", r"range \(0\.0, 1\.0\)"),
    "evaluate sigma_y 0": (f"{EVALUATE} --sigma-y 0", "sigma_y = 0"),
    "evaluate without learning": (f"{EVALUATE} --no-relearn --starts 4", "starts = 4: has no eff"),
    "no rho": (f"{DESIGN} --grid ve-karras --grid-options rho=0", r"rho = 0.*must be > 0"),
    "evaluate another blur": (f"{EVALUATE} --blur-size 3", "blur_size = 3: has no effect"),
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
    "borders of a mean that ends there": (
        f"{RESTORE} --prior {{w}}/uneven.npz",
        "mean differs from pixel to pixel.*--borders circular",
    ),
    "borders of a simulated blur": (
        f"{RESTORE} --simulate --borders extend",
        "borders = 'extend'.*--simulate",
    ),
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
    "option twice in config": (
        "design --config {w}/twice.yaml --out {out}",
        r"twice\.yaml.*steps is given twice in what begins in line 1",
    ),
    "option in two spellings": (
        "design --config {w}/both.yaml --out {out}",
        r"both\.yaml.*sigma-y is given twice",
    ),
    "two configs": ("design --config a.yaml --config b.yaml --out {out}", "one file is allowed"),
    "empty config": ("design --config {w}/empty.yaml --out {out}", r"empty\.yaml"),
    "unknown key": ("design --config {w}/unknown.yaml --out {out}", "'sharpness'.*steps"),
    "wrong type in config": (
        "design --config={w}/words.yaml --out {out}",
        r"words\.yaml': steps = 'ten': must be a whole number",
    ),
    "number as a switch": (
        "compare --config {w}/switch.yaml --out {out}",
        r"switch\.yaml': check = 3: must be true or false",
    ),
    "word in a list": (
        "tradeoff --config {w}/list-of-words.yaml --out {out}",
        r"list-of-words\.yaml': prices = .*must be a number",
    ),
    "three of a pair": (
        "design --config {w}/pair.yaml --out {out}",
        r"pair\.yaml': pixel-range = .*must be a list of 2",
    ),
    "other choice": (
        "design --config {w}/choice.yaml --out {out}",
        r"choice\.yaml': channels = 'cmyk': must be one of rgb, luminance",
    ),
    "out of range in config": (
        "design --images {w}/images --config {w}/range.yaml --out {out}",
        r"steps = -3.*with config '.*range\.yaml'",
    ),
    "evaluate without a schedule in config": (
        "evaluate --config {w}/no-schedule.yaml --out {out}",
        "Schedule file",
    ),
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
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupt)
    with pytest.raises(SystemExit) as end:
        main(["samplers"])
    assert end.value.code == 130
    assert capsys.readouterr().err == "spectralpost: interrupted; nothing was written\n"


@pytest.mark.parametrize(
    ("interrupted", "arguments"), [(StillRunning, ["samplers"]), (KeyboardInterrupt, None)]
)
def test_the_interrupted_process_ends_at_once(monkeypatch, capsys, interrupted, arguments):
    """By an end of its own: the interpreter's waits for threads, and XLA's crash it."""

    def interrupt(*arguments):
        raise interrupted("what was stored stays")

    ends = []
    monkeypatch.setattr(commands, "run", interrupt)
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(sys, "argv", ["spectralpost", "samplers"])
    with pytest.raises(SystemExit):  # as `_exit` came back
        main(arguments)
    assert ends == [130]
    assert capsys.readouterr().err == "spectralpost: interrupted; what was stored stays\n"


def test_training_images_that_are_too_small_are_named(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / "a.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--data", f"{tmp_path}/images", "--patch", "64"])
    error = " ".join(capsys.readouterr().err.split())
    assert "no image is of 64x64 pixels or more" in error


def test_interrupted_training_says_where_it_goes_on(monkeypatch, tmp_path, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("spectralpost.commands.train.train", interrupt)
    np.save(tmp_path / "images.npy", np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    with pytest.raises(SystemExit) as end:
        main(["train", "--data", f"{tmp_path}/images.npy", "--checkpoints", "states"])
    assert end.value.code == 130
    assert "interrupted; the same command goes on from the last checkpoint in states" in (
        " ".join(capsys.readouterr().err.split())
    )


def test_errors_of_the_program_keep_their_traceback(monkeypatch):
    """A plain ValueError is not the user's fault."""

    def fail(*arguments):
        raise ValueError("a bug")

    monkeypatch.setattr(commands, "run", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["samplers"])


# ------------------------------------------------------------------------------- options and files


@pytest.mark.parametrize(
    "options",
    [
        Design(),
        Gallery(),
        Gallery(action="show", name="dps-x4-s0.05-20", out=Path("one.json")),
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
        Compare(samplers=("dps",), steps=(5,), check=False, grid_options=("spacing=leading",)),
        Tradeoff(prices=(0.0, 1e-9), learn_levels=True, degradation_options=("std=1e-3",)),
        Samplers(),
        Degradations(),
        Evaluate(Path("a.json"), relearn=False, degradation="identity", sigma_y=0.1),
        Evaluate(Path("a.json"), prior=Path("p.npz"), seed=3),
        Export(Path("a.json"), "dps", out=Path("b.py")),
        Restore(Path("a.png"), Path("a.json"), simulate=True, samples=3),
        Restore(Path("a.png"), Path("a.json"), borders="circular"),
        Design(borders="extend"),
        Figures(quick=True, only=("robust", "steps"), format="svg"),
        SweepReport(Path("s"), where=("sampler=dps", "sigma_y<=0.1"), ratio="learned/tuned"),
        SweepBest(Path("s"), by=("sigma_y", "steps"), metric="learned_mse"),
    ],
)
def test_options_survive_their_config_file(options, tmp_path):
    """What config.yaml says is what was asked for, values to the last digit."""
    (tmp_path / "config.yaml").write_text(to_yaml(options))
    (command,) = (name for name, (kind, _) in COMMANDS.items() if kind is type(options))
    assert parse([command, "--config", str(tmp_path / "config.yaml")]) == options


def test_every_command_has_its_three_functions():
    for name, (kind, file) in COMMANDS.items():
        command = importlib.import_module(f"spectralpost.commands.{file}")
        assert command.__doc__.startswith(f"`spectralpost {name}`")
        assert callable(command.compute) and callable(command.present)
        writes = hasattr(command, "write") or hasattr(command, "save")
        assert writes == hasattr(kind, "out")


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
    nones = {"size", "white_level", "eta", "free", "photo", "polish", "resume", "start", *SHORT}
    assert set(stored) == set(vars(Design())) - nones
    assert stored["degradation_options"] == ["std=1.0"] and stored["grid"] == "vp_linear"
    assert "spacing=uniform" in stored["grid_options"]
    assert stored["steps"] == 5 and stored["pixel_range"] == [-1.0, 1.0]


def test_a_wrong_value_may_be_overridden(tmp_path):
    """What the file says is only a default; its types are checked all the same."""
    (tmp_path / "config.yaml").write_text("steps: -3\nsigma-y: 1e-2\n")
    options = parse(["design", "--config", str(tmp_path / "config.yaml"), "--steps", "4"])
    assert options == Design(steps=4, sigma_y=0.01)


# ------------------------------------------------------------------------------------- the package


def test_a_closed_pipe_ends_the_program_silently():
    """`spectralpost --help | head -1`, and `python -m spectralpost` is the program."""
    for command in ("--help", "degradations"):
        with subprocess.Popen(
            [sys.executable, "-m", "spectralpost", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            program.stdout.close()  # long before the program has anything to say
            assert program.stderr.read() == ""
            assert program.wait(60) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "spectralpost", "degradations"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "spectralpost: cannot write: No space left on device\n"


def test_the_module_is_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "spectralpost", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("usage: spectralpost ") and "tradeoff" in done.stdout


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
