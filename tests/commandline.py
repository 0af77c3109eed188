"""Runs of the command line, in process, on images of 16 x 16 pixels and five steps.

All runs share one sampler and one set of shapes, so the search is compiled once.
"""

import functools
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from compiling import quick_compilation
from pictures import texture, write

from spectralpost.cli import main
from spectralpost.commands import inputs
from spectralpost.learning import Search
from spectralpost.prior import Prior, power_law
from spectralpost.prior_file import save_prior

SHAPE = (16, 16)
SIGMA_Y = 0.05
STEPS = "--steps 5"
QUICK = f"{STEPS} --blur-std 1"  # the sizes of test_learning.py, see there
SMALL = "--bins 128 --starts 2"  # as little as will do


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with quick_compilation():
        yield


@pytest.fixture
def by_adam(monkeypatch):
    """Commands search by Adam: all that they are given reaches the search, of which half is
    compiled, with levels a quarter. `designed` is found as by default."""
    monkeypatch.setattr(inputs, "Search", functools.partial(Search, optimizer="adam"))


@pytest.fixture(scope="module", name="w")
def workplace(tmp_path_factory) -> Path:
    """A folder with good and bad inputs; `designed` is the result of a run."""
    w = tmp_path_factory.mktemp("w")
    for name in (
        "images",
        "other",
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
        write(w / "other" / f"{i}.png", texture(SHAPE, seed=4 + i))
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
    uneven = np.linspace(-0.5, 0.5, other.mean.size).reshape(SHAPE)
    save_prior(w / "uneven.npz", Prior(other.spectrum, uneven, (-1.0, 1.0), ""))
    (w / "text.npz").write_text("no prior")
    (w / "cut.npz").write_bytes(prior[:100])
    np.save(w / "array.npy", np.ones(SHAPE))
    np.savez(w / "incomplete.npz", spectrum=np.ones(SHAPE))

    (w / "unknown.yaml").write_text("steps: 4\nsharpness: 3\n")
    (w / "broken.yaml").write_text("steps: [4\n")
    (w / "list.yaml").write_text("- steps\n")
    (w / "empty.yaml").write_text("")
    (w / "both.yaml").write_text("sigma_y: 0.1\nsigma-y: 0.2\n")
    (w / "twice.yaml").write_text("steps: 10\nsigma_y: 0.1\nsteps: 20\n")
    (w / "words.yaml").write_text("steps: ten\n")
    (w / "no-schedule.yaml").write_text("sigma-y: 0.1\n")
    (w / "range.yaml").write_text("steps: -3\n")
    (w / "switch.yaml").write_text("check: 3\n")
    (w / "list-of-words.yaml").write_text("prices: [1, dear]\n")
    (w / "pair.yaml").write_text("pixel-range: [1, 2, 3]\n")
    (w / "choice.yaml").write_text("channels: cmyk\n")
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


def metrics_in(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())
