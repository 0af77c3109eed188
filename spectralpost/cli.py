"""The command line: a table of commands, options parsed, errors in one line.

JAX is imported only once a command runs.
"""

import argparse
import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Annotated, Any

from .config_file import from_yaml
from .errors import InputError, StillRunning
from .options import (
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
    Train,
)
from .sweep_options import Sweep, SweepBest, SweepReport

# name -> its options, and its file in `commands`: `compute`, `write` and `present` are there.
COMMANDS: dict[str, tuple[type, str]] = {
    "design": (Design, "design"),
    "compare": (Compare, "compare"),
    "tradeoff": (Tradeoff, "tradeoff"),
    "evaluate": (Evaluate, "evaluate"),
    "export": (Export, "export"),
    "gallery": (Gallery, "gallery"),
    "restore": (Restore, "restore"),
    "train": (Train, "train"),
    "sweep": (Sweep, "sweep"),
    "sweep-report": (SweepReport, "sweep_report"),
    "sweep-best": (SweepBest, "sweep_best"),
    "figures": (Figures, "figures"),
    "samplers": (Samplers, "samplers"),
    "degradations": (Degradations, "degradations"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `spectralpost`. Exits with 0, or with 2 and one line for bad input."""
    try:
        try:
            own = arguments is None
            _run(sys.argv[1:] if own else list(arguments), own)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; rich ends likewise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"spectralpost: cannot write: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None


def _run(arguments: list[str], own_process: bool) -> None:
    origin = ""
    try:
        options = parse(arguments)
        config, _ = _config_of(arguments)
        # Whatever is out of range shows up later, and may be the file's.
        origin = "" if config is None else f" (with config {config!r})"
        if not 0 <= getattr(options, "seed", 0) < 2**32:
            raise InputError(f"seed = {options.seed}: must be between 0 and 2^32 - 1")
        from . import commands  # here, not above: it imports JAX

        (name,) = (name for name, (kind, _) in COMMANDS.items() if kind is type(options))
        commands.run(name, COMMANDS[name][1], options)
    except InputError as error:
        print(f"spectralpost: {error}{origin}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:
        # A command that keeps its work says so.
        kept = str(interrupt) or "nothing was written"
        print(f"spectralpost: interrupted; {kept}", file=sys.stderr, flush=True)
        # All is put away by now. Threads in which XLA still compiles crash the interpreter's end.
        if own_process or isinstance(interrupt, StillRunning):
            sys.stdout.flush()
            os._exit(130)
        raise SystemExit(130) from None


def parse(arguments: Sequence[str]) -> Any:
    """The options of a command line; flags win over the values of its `--config` file."""
    import tyro

    config, arguments = _config_of(arguments)
    name = arguments[0] if arguments else ""
    kind: Any = None
    given: dict[str, Any]
    if name in COMMANDS:
        kind, _ = COMMANDS[name]
        about = "--config FILE.yaml gives values of these options; flags win."
        text = "\n\n".join([*_paragraphs(kind), about])
        given = {"prog": f"spectralpost {name}", "args": arguments[1:], "description": text}
        if config is not None:
            required = [field.name for field in fields(kind) if field.default is MISSING]
            values = dict.fromkeys(required, tyro.MISSING) | from_yaml(config, kind)
            given["default"] = kind(**values)
    elif config is not None:
        raise InputError(f"--config: name a command first, one of {', '.join(COMMANDS)}")
    elif name and not name.startswith("-"):
        near = get_close_matches(name, COMMANDS, 1)
        meant = f"perhaps you meant {near[0]}; " if near else ""
        raise InputError(f"command = {name!r}: {meant}allowed are {', '.join(COMMANDS)}")
    else:
        for name, (one, _) in COMMANDS.items():
            command = tyro.conf.subcommand(name, description=_paragraphs(one)[0])
            subcommand = Annotated[one, command]
            kind = subcommand if kind is None else kind | subcommand
        text = "Guidance schedules for diffusion posterior samplers. Every command also takes "
        text += "--config FILE.yaml with values of its options."
        given = {"prog": "spectralpost", "args": arguments, "description": text}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(kind, **given)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise InputError(_one_line(printed.getvalue())) from None


def _paragraphs(kind: type) -> list[str]:
    """What a command does: in a sentence, and further lines."""
    return [" ".join(one.split()) for one in (kind.__doc__ or "").split("\n\n")]


def _config_of(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The file of `--config`, and the arguments without it: it says what the defaults are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", metavar="FILE.yaml", action="append", default=[])
    try:
        known, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(f"--config: a YAML file is needed ({error.message})") from error
    if len(known.config) > 1:
        raise InputError(f"--config: one file is allowed, not {len(known.config)}")
    return (known.config[0] if known.config else None), rest


def _one_line(text: str) -> str:
    """The message in one of tyro's boxes, without the box, its title and the advice below it."""
    # Sections between rules: the title (in the frame itself if the terminal has Unicode), the
    # message, advice.
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        content = line.strip("│╰╯ ")
        if content and not content.strip("─-╭╮"):
            sections.append([])
        elif line.startswith("╭"):
            sections = [["title"], []]
        else:
            sections[-1] += content.split()
    words = sections[1] if len(sections) > 1 else sections[0]
    message = (" ".join(words) or "bad command line").rstrip(".")
    advice = " ".join(word for section in sections[2:3] for word in section)
    if found := re.match(r"Perhaps you meant: (--[a-z-]+)", advice):
        message += f": perhaps you meant {found[1]}"
    return f"{message} (see --help)"
