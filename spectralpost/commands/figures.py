"""`spectralpost figures`: the figures of the experiments, on one page."""

import json
import os
import shlex
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, shown
from ..figures import Shown, html_page
from ..files import check_free, locked_file, whole_file
from ..options import Figures
from .console import Say, console, quiet


class DataFile(NamedTuple):
    """A file of `--data` that a script is given, by its own option."""

    option: str
    name: str
    needed: bool = True  # False: the script can do without


# The scripts that make figures, in the order of the page.
SCRIPTS: dict[str, tuple[DataFile, ...]] = {
    "transfer_functions": (),
    "steps": (),
    "recommended_weights": (),
    "distortion_perception": (),
    "noise_schedules": (),
    "exact_errors": (DataFile("--eigenvalues", "cifar10.npy", needed=False),),
    "fewer_steps": (),
    "robust": (),
    "more_freedom": (),
    "inpainting": (),
    "amortised": (),
    "super_resolution": (),
    "real_tuning": (
        DataFile("--data", "real_tuning_cat256.csv.gz"),
        DataFile("--statistics", "imagenet256_statistics.npz"),
    ),
    "real_networks": (DataFile("--data", "cifar10.npz"),),
}
CHECKOUT = Path(__file__).parents[2]
LOCK = ".lock"
STATE = "figures.json"  # a folder's options, and what is `Made` of its figures


class Made(NamedTuple):
    """How a figure was made."""

    arguments: list[str]  # of its script, but for --out
    seconds: float


class Result(NamedTuple):
    """What there is to show."""

    folder: Path
    figures: tuple[Shown, ...]
    quick: bool
    failed: int
    interrupted: bool


def compute(options: Figures, say: Say = quiet) -> Result:
    """Run the scripts whose figures the folder does not have."""
    names = _names(options)
    if options.data is not None and not options.data.is_dir():
        raise InputError(f"data = {shown(options.data)}: is not a folder")
    folder = options.out
    if folder is None:
        folder = Path("runs") / f"figures-{datetime.now():%Y%m%d-%H%M%S}"
    made = _opened(folder, options)
    with locked_file(folder / LOCK) as ours:
        if not ours:
            raise InputError(f"out = {shown(folder)}: another run makes its figures there")
        return _all(names, folder, made, options, say)


def save(result: Result) -> None:
    made = sum(one.said is not None for one in result.figures)
    kind = "Quick versions, toys that show only that the scripts run. " if result.quick else ""
    text = (
        f"{kind}{made} of {len(result.figures)} figures. Each is made by a script of its own; the "
        "command below it, run in a checkout of the source, makes it anew, in the folder --out. "
        "W2^2 is the squared Wasserstein distance, per pixel, from what a sampler draws to the "
        "true posterior, averaged over measurements; sigma_y the standard deviation of their "
        "noise, for pixels in [-1, 1]. The denoiser is that of Gaussian images unless another is "
        "named; samplers (dps, pigdm, ...) are explained in docs/samplers.md."
    )
    with whole_file(result.folder / "index.html", overwrite=True) as temporary:
        html = html_page("Figures of spectralpost", text, result.figures)
        temporary.write_text(html, encoding="utf-8")


def present(result: Result) -> None:
    for one in result.figures:
        seconds = "" if one.seconds is None else f"{one.seconds:8.0f} s"
        console.print(f"{one.name:<22}{seconds:>10}  {one.missing}".rstrip(), soft_wrap=True)
    console.print(f"results in {result.folder}: index.html", soft_wrap=True)
    if result.interrupted:
        raise SystemExit(130)
    if result.failed:
        raise SystemExit(1)


def _names(options: Figures) -> list[str]:
    """What to make, in the order of the page."""
    if options.only == ():
        raise InputError(f"only: name one at least of {', '.join(SCRIPTS)}")
    for name in options.only or ():
        if name not in SCRIPTS:
            raise InputError(f"only = {name!r}: allowed are {', '.join(SCRIPTS)}")
    names = [name for name in SCRIPTS if options.only is None or name in options.only]
    for name in names:
        if not _script(name).is_file():
            raise InputError(
                f"figures: there is no {shown(_script(name))}; the scripts are in a checkout of "
                "the source, which a wheel does not hold: run this command from one"
            )
    return names


def _script(name: str) -> Path:
    return CHECKOUT / "experiments" / f"{name}.py"


def _opened(folder: Path, options: Figures) -> dict[str, Made]:
    """What a folder, made if need be, already has."""
    path, given = folder / STATE, _same(options)
    if path.is_file():
        try:
            state = json.loads(path.read_text("utf-8"))
            before = state["options"]
            made = {
                name: Made([str(word) for word in one["arguments"]], float(one["seconds"]))
                for name, one in state["made"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"file {shown(path)}: is not what this command has written") from None
        if before != given:
            raise InputError(
                f"out = {shown(folder)}: its figures were made with {before}; choose a new folder"
            )
        return made
    check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out = {shown(folder)}: cannot be made ({error.strerror})") from error
    return {}


def _same(options: Figures) -> dict[str, Any]:
    """The options that all figures of a folder share."""
    return {"quick": options.quick, "format": options.format}


def _keep(folder: Path, made: dict[str, Made], options: Figures) -> None:
    kept = {name: one._asdict() for name, one in made.items()}
    with whole_file(folder / STATE, overwrite=True) as temporary:
        text = json.dumps({"options": _same(options), "made": kept}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def _all(
    names: list[str], folder: Path, made: dict[str, Made], options: Figures, say: Say
) -> Result:
    """Those that are made, one after the other, those that were, and why others are not there."""
    figures, failed, stopped = [], 0, False
    _keep(folder, made, options)
    # Also those of an earlier call that had others in --only.
    for name in [name for name in SCRIPTS if name in names or name in made]:
        arguments, missing = _arguments(name, options)
        if name in names and not missing and not _is_made(arguments, made.get(name)):
            if not stopped:
                made.pop(name, None)
                say(f"{name}, {names.index(name) + 1} of {len(names)} (Ctrl-C: go on another time)")
                begin = time.perf_counter()
                try:
                    missing = _run(name, arguments, folder)
                except KeyboardInterrupt:
                    stopped = True
                if not stopped and not missing:
                    made[name] = Made(arguments, time.perf_counter() - begin)
                _keep(folder, made, options)
            missing = "interrupted" if stopped else missing
            failed += bool(missing)
        figures.append(_shown(name, folder, arguments, made.get(name), missing))
    return Result(folder, tuple(figures), options.quick, failed, stopped)


def _arguments(name: str, options: Figures) -> tuple[list[str], str]:
    """A script's arguments but for --out, and what of its data is not at hand. Toys have none."""
    arguments = ["--format", options.format]
    if options.quick:
        return [*arguments, "--quick"], ""
    folder, absent = options.data, []
    for file in SCRIPTS[name]:
        there = folder is not None and (folder / file.name).is_file()
        if there or file.needed:
            arguments += [file.option, str((folder or Path("DATA")) / file.name)]
        if file.needed and not there:
            absent.append(file.name)
    if not absent:
        return arguments, ""
    where = "no --data" if folder is None else f"not in {shown(folder)}"
    return arguments, f"left out, it is of {' and '.join(absent)} ({where})"


def _is_made(arguments: list[str], made: Made | None) -> bool:
    """Whether a figure is there, and was drawn with all the files that there are now."""
    return made is not None and all(
        word in made.arguments for word in arguments if word.startswith("--")
    )


def _shown(name: str, folder: Path, arguments: list[str], made: Made | None, missing: str) -> Shown:
    """A figure for the page: how it was made, or would be."""
    said = None if made is None else _said(folder, name)
    if made is not None:
        arguments, missing = made.arguments, ""
        if said is None:
            missing = "its quick version has checked numbers, and draws nothing"
    return Shown(
        name,
        folder=name,
        command=shlex.join(["python", f"experiments/{name}.py", *arguments, "--out", name]),
        seconds=None if made is None else made.seconds,
        said=said,
        missing=missing,
        output=f"{name}.txt" if (folder / f"{name}.txt").is_file() else "",
    )


def _run(name: str, arguments: list[str], folder: Path) -> str:
    """Run a script; how it failed."""
    for kind in (arguments[arguments.index("--format") + 1], "json"):  # of a run that was killed
        (folder / name / f"{name}.{kind}").unlink(missing_ok=True)
    command = [sys.executable, str(_script(name)), *arguments, "--out", str(folder / name)]
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with open(folder / f"{name}.txt", "w", encoding="utf-8") as output:
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode != 0:
        lines = (folder / f"{name}.txt").read_text("utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it has printed nothing")
        return f"failed with exit code {done.returncode}: {last.strip()}"
    if _said(folder, name) is None and "--quick" not in arguments:
        return "failed: it has drawn nothing"
    return ""


def _said(folder: Path, name: str) -> dict[str, Any] | None:
    """What a script says of its figure."""
    path = folder / name / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None
