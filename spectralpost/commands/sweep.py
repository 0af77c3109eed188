"""`spectralpost sweep`: thousands of problems, into a table."""

from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..sweep_options import Sweep
from ..sweeps.grid import Grid, load_grid
from ..sweeps.planning import Plan, planned
from ..sweeps.running import Outcome, Progress, run_sweep
from .console import Say, console, quiet


class Result(NamedTuple):
    """How a sweep ended; or what it would do."""

    grid: Grid
    folder: Path
    outcome: Outcome | None
    plan: str  # in words


def compute(options: Sweep, say: Say = quiet) -> Result:
    """Compute the cells that the folder does not have."""
    if options.workers < 0:
        raise InputError(f"workers = {options.workers}: must be >= 0")
    if options.batch is not None and options.batch < 1:
        raise InputError(f"batch = {options.batch}: must be >= 1")
    given = [
        flag
        for flag, value in (
            ("--workers", options.workers or None),
            ("--scheduler", options.scheduler),
            ("--scheduler-file", options.scheduler_file),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"{', '.join(given)}: name one of them")
    grid = load_grid(options.grid)
    if options.dry_run:
        say("measuring a batch or two")
        return Result(grid, options.out, None, _in_words(grid, planned(grid, options.batch)))

    def tell(progress: Progress) -> None:
        rate = progress.done / max(progress.seconds, 1e-9)
        say(
            f"{progress.done + progress.before} of {progress.of} cells, {progress.failed} failed, "
            f"{rate:.1f} a second, {progress.seconds_left:.0f} s left (Ctrl-C: go on another time)"
        )

    say(f"{grid.num_cells} cells: compiling")
    outcome = run_sweep(
        grid,
        options.out,
        workers=options.workers,
        scheduler=options.scheduler,
        scheduler_file=options.scheduler_file,
        extend=options.extend,
        batch_size=options.batch,
        tell=tell,
    )
    return Result(grid, options.out, outcome, "")


def present(result: Result) -> None:
    if result.outcome is None:
        console.print(result.plan, soft_wrap=True)
        return
    progress, lost, reason, interrupted, error = result.outcome
    console.print(
        f"{progress.done} cells in {progress.seconds:.0f} s ({progress.failed} failed), "
        f"{progress.before} were there before",
        soft_wrap=True,
    )
    if error:
        console.print(f"the last that failed: {error}", soft_wrap=True, markup=False)
    if lost:
        console.print(f"{lost} batches were lost, the last one by {reason}", soft_wrap=True)
    if interrupted or lost:
        console.print(
            f"{progress.left} cells are left: the same command goes on with them", soft_wrap=True
        )
    console.print(f"results in {result.folder}", soft_wrap=True)
    if interrupted:
        raise SystemExit(130)
    if lost or (progress.failed and progress.failed == progress.done):
        raise SystemExit(1)


def _in_words(grid: Grid, plan: Plan) -> str:
    kind = "learned" if grid.settings.learn else "evaluated"
    memory = f"; about {plan.memory / 2**20:.0f} MB" if plan.memory else ""
    failed = f"\n{plan.failed} of {plan.tried} cells that were tried failed: {plan.error}"
    return (
        f"{grid.num_cells} cells, each {kind}, in {plan.batches} batches of up to {plan.size}: "
        f"{', '.join(plan.samplers)} at {', '.join(map(str, plan.steps))} steps\n"
        f"about {_time(plan.seconds)} in one process, of which {_time(plan.compiling)} are for "
        f"compiling {plan.programs} kinds of batches{memory}\n"
        f"(measured on this machine, a batch of the fewest and of the most steps)"
        f"{failed if plan.failed else ''}"
    )


def _time(seconds: float) -> str:
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
