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

# The scripts that make figures, in the order of the page: option -> the file of `--data` it takes.
SCRIPTS: dict[str, dict[str, str]] = {
    "transfer_functions": {},
    "steps": {},
    "recommended_weights": {},
    "distortion_perception": {},
    "noise_schedules": {},
    "exact_errors": {},
    "fewer_steps": {},
    "robust": {},
    "more_freedom": {},
    "inpainting": {},
    "amortised": {},
    "super_resolution": {},
    "real_tuning": {
        "--data": "real_tuning_cat256.csv.gz",
        "--statistics": "imagenet256_statistics.npz",
    },
    "real_networks": {"--data": "cifar10.npz"},
}
# Files that a script is given if `--data` has them, and does without if not.
IF_THERE: dict[str, dict[str, str]] = {"exact_errors": {"--eigenvalues": "cifar10.npy"}}
CHECKOUT = Path(__file__).parents[2]
LOCK = ".lock"
# A folder's options, the seconds of each figure, and which were drawn with the files of IF_THERE.
STATE = "figures.json"


class Result(NamedTuple):
    """What there is to show."""

    folder: Path
    figures: tuple[Shown, ...]
    quick: bool
    failed: int


def compute(options: Figures, say: Say = quiet) -> Result:
    """Run the scripts whose figures the folder does not have."""
    names = _names(options)
    if options.data is not None and not options.data.is_dir():
        raise InputError(f"data = {shown(options.data)}: is not a folder")
    folder = options.out
    if folder is None:
        folder = Path("runs") / f"figures-{datetime.now():%Y%m%d-%H%M%S}"
    state = _opened(folder, options)
    with locked_file(folder / LOCK) as ours:
        if not ours:
            raise InputError(f"out = {shown(folder)}: another run makes its figures there")
        result = _all(names, folder, state, options, say)
    (folder / LOCK).unlink(missing_ok=True)
    return result


def save(result: Result) -> None:
    made = sum(one.said is not None for one in result.figures)
    kind = "Quick versions, toys that show only that the scripts run. " if result.quick else ""
    text = (
        f"{kind}{made} of {len(result.figures)} figures. Each is made by a script of its own; the "
        "command below it, run in a checkout of the source, makes it anew, in the folder --out."
    )
    with whole_file(result.folder / "index.html", overwrite=True) as temporary:
        html = html_page("Figures of spectralpost", text, result.figures)
        temporary.write_text(html, encoding="utf-8")


def present(result: Result) -> None:
    for one in result.figures:
        seconds = "" if one.seconds is None else f"{one.seconds:8.0f} s"
        console.print(f"{one.name:<22}{seconds:>10}  {one.missing}".rstrip(), soft_wrap=True)
    console.print(f"results in {result.folder}: index.html", soft_wrap=True)
    if result.failed:
        raise SystemExit(1)


def _names(options: Figures) -> list[str]:
    """What to make, in the order of the page."""
    for name in options.only:
        if name not in SCRIPTS:
            raise InputError(f"only = {name!r}: allowed are {', '.join(SCRIPTS)}")
    names = [name for name in SCRIPTS if not options.only or name in options.only]
    for name in names:
        if not _script(name).is_file():
            raise InputError(
                f"figures: there is no {shown(_script(name))}; the scripts are in a checkout of "
                "the source, which a wheel does not hold: run this command from one"
            )
    return names


def _script(name: str) -> Path:
    return CHECKOUT / "experiments" / f"{name}.py"


def _opened(folder: Path, options: Figures) -> dict[str, Any]:
    """What a folder, made if need be, already has: {"options", "made": {name: seconds}}."""
    given = {"quick": options.quick, "format": options.format}
    path = folder / STATE
    if path.is_file():
        try:
            state = json.loads(path.read_text("utf-8"))
            before, _ = state["options"], state["made"]
            state.setdefault("with", [])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"file {shown(path)}: is not what this command has written") from None
        if before != given:
            raise InputError(
                f"out = {shown(folder)}: its figures were made with {before}; choose a new folder"
            )
        return state
    check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out = {shown(folder)}: cannot be made ({error.strerror})") from error
    return {"options": given, "made": {}, "with": []}


def _all(
    names: list[str], folder: Path, state: dict[str, Any], options: Figures, say: Say
) -> Result:
    """Those that are made, one after the other, those that were, and why others are not there."""
    figures, failed, stopped, made = [], 0, False, state["made"]
    _keep(folder, state)
    # Also those of an earlier call that had others in --only.
    for name in [name for name in SCRIPTS if name in names or name in made]:
        extra, missing = _data_of(name, options)
        there = name in IF_THERE and _is_there(name, options)
        if there and name in names and name not in state["with"] and not stopped:
            made.pop(name, None)  # of before its files came
        if name in state["with"] if name in made else there:
            extra = extra + _named(IF_THERE[name], options)
        arguments = ["--format", options.format, *extra, *(["--quick"] if options.quick else [])]
        if name in made:
            missing = ""
        elif not missing:
            say(f"{name}, {names.index(name) + 1} of {len(names)} (Ctrl-C: go on another time)")
            stopped, missing = _run(name, arguments, folder, made) if not stopped else (True, "")
            missing = "interrupted" if stopped else missing
            failed += bool(missing)
            if name in made and there:
                state["with"].append(name)
            _keep(folder, state)
        said = _said(folder, name) if name in made else None
        if name in made and said is None:
            missing = "its quick version has checked numbers, and draws nothing"
        figures.append(
            Shown(
                name,
                folder=name,
                command=shlex.join(["python", f"experiments/{name}.py", *arguments, "--out", name]),
                seconds=made.get(name),
                said=said,
                missing=missing,
                output=f"{name}.txt" if (folder / f"{name}.txt").is_file() else "",
            )
        )
    return Result(folder, tuple(figures), options.quick, failed)


def _data_of(name: str, options: Figures) -> tuple[list[str], str]:
    """The arguments that name a script's data, and what is not at hand. Toys need none."""
    if options.quick or not SCRIPTS[name]:
        return [], ""
    arguments = _named(SCRIPTS[name], options)
    absent = [file for file in SCRIPTS[name].values() if not _has(options, file)]
    if not absent:
        return arguments, ""
    where = "no --data" if options.data is None else f"not in {shown(options.data)}"
    return arguments, f"left out, it is of {' and '.join(absent)} ({where})"


def _named(files: dict[str, str], options: Figures) -> list[str]:
    """Files of `--data`, each after its option; of DATA where there is no folder to name."""
    folder = options.data or Path("DATA")
    return [word for option, file in files.items() for word in (option, str(folder / file))]


def _is_there(name: str, options: Figures) -> bool:
    """Whether a script can be given what it could do without. Toys are not."""
    return not options.quick and all(_has(options, file) for file in IF_THERE[name].values())


def _has(options: Figures, file: str) -> bool:
    return options.data is not None and (options.data / file).is_file()


def _run(name: str, arguments: list[str], folder: Path, made: dict[str, float]) -> tuple[bool, str]:
    """Whether the user has interrupted a script, and how it failed; if not, it is added to made."""
    for kind in (arguments[arguments.index("--format") + 1], "json"):  # of a run that was killed
        (folder / name / f"{name}.{kind}").unlink(missing_ok=True)
    command = [sys.executable, str(_script(name)), *arguments, "--out", str(folder / name)]
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    begin = time.perf_counter()
    with open(folder / f"{name}.txt", "w", encoding="utf-8") as output:
        try:
            done = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
            )
        except KeyboardInterrupt:
            return True, ""
    if done.returncode != 0:
        lines = (folder / f"{name}.txt").read_text("utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it has printed nothing")
        return False, f"failed with exit code {done.returncode}: {last.strip()}"
    if _said(folder, name) is None and "--quick" not in arguments:
        return False, "failed: it has drawn nothing"
    made[name] = time.perf_counter() - begin
    return False, ""


def _keep(folder: Path, state: dict[str, Any]) -> None:
    with whole_file(folder / STATE, overwrite=True) as temporary:
        temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def _said(folder: Path, name: str) -> dict[str, Any] | None:
    """What a script says of its figure."""
    path = folder / name / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None
