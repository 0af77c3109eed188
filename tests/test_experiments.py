"""The experiments run, and print what their docstrings say."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spectralpost.designers import load_designer

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))
# Programs of a toy run for milliseconds and compile for seconds.
QUICKLY_COMPILED = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def run(script: Path, *options: str, cwd: Path, env: dict[str, str] | None = None):
    return subprocess.run(
        [sys.executable, script, *options], cwd=cwd, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize("script", EXPERIMENTS, ids=lambda script: script.stem)
def test_quick_version(script, tmp_path):
    """`--quick` checks its own numbers and exits with 1 if they are off."""
    done = run(script, "--quick", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_amortised_from_end_to_end(tmp_path):
    """Every line of the full run, on toy sizes; what it cannot write, it says before it begins."""
    script = next(script for script in EXPERIMENTS if script.stem == "amortised")
    options = ("--toy", "--samplers", "mpgd", "--save", "trained", "--out", "figure.png")
    done = run(script, *options, cwd=tmp_path, env=QUICKLY_COMPILED)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("mpgd ")]
    assert len(rows) == 6  # three schedules on problems of two kinds
    ratios = np.array([row[-3:] for row in rows], float)
    assert np.all(ratios > 0.9) and np.all(np.isfinite(ratios))
    for text in ("mpgd: trained in", "of one search, median (worst)", "largest amplification"):
        assert text in done.stdout
    assert load_designer(tmp_path / "trained" / "mpgd.msgpack").sampler == "mpgd"
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["figure.png", "mpgd.msgpack"]

    again = run(script, *options, cwd=tmp_path)
    assert again.returncode == 1 and again.stdout == ""
    assert again.stderr == "amortised: file 'figure.png': exists, or its folder does not\n"
    unknown = run(script, "--samplers", "ddrm", cwd=tmp_path)
    assert unknown.returncode == 1
    assert unknown.stderr == "amortised: sampler = 'ddrm': allowed are pigdm, diffpir, mpgd, dps\n"
