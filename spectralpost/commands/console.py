"""What the commands share: learning with a line of progress, and what they print."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import figures, images, metrics
from ..affine import Transfer
from ..degradations import Degradation
from ..inpainting import is_exact
from ..kept_jit import kept_jit
from ..learning import (
    Freedom,
    HasSchedule,
    LearnResult,
    Prices,
    Search,
    default_free,
    for_network,
    learn,
    starts_from,
)
from ..learning import Progress as SearchProgress
from ..learning.preparing import check_free
from ..metrics import Objective, wasserstein2
from ..noise import NoiseLevel
from ..options import STARTS
from ..prior import Prior
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from ..samplers.exact import Kind, exact
from ..transfer import sampler_transfer
from .inputs import Grid, Inputs, rounded

AS_GIVEN, BARE = Freedom(), Prices()  # what `learn` takes by default
PIXELS_AT_ONCE = 2**17  # of one plane
Say = Callable[[str], None]  # shows a text that says how far a command is

console = Console(markup=False, highlight=False)  # paths and formulas have brackets


def batch_for(shape: tuple[int, ...]) -> int:
    """How many images of this size are restored at the same time, so that memory is bounded."""
    return max(1, PIXELS_AT_ONCE // math.prod(shape))


def has_room(width: int) -> bool:
    """Whether that many columns can be printed; a file has room for all."""
    return not console.is_terminal or console.width >= width


def print_wide(table: Table, width: int) -> None:
    """Print a table, which may be that wide where there is room."""
    wide = max(width, console.width) if has_room(width) else console.width
    Console(markup=False, highlight=False, width=wide).print(table)


@contextmanager
def progress_line() -> Iterator[Say]:
    """Yields a function that shows a text on the terminal until the next one, or the end."""
    terminal = Console(stderr=True)
    if not terminal.is_terminal:  # rich below 14.3 writes an empty line even if disabled
        yield quiet
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.update(task, description=text)


def quiet(text: str) -> None:
    """The `Say` of those who do not watch."""
    del text


def learn_with_progress(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...] | None = None,
    *,
    objective: Objective = wasserstein2,
    freedom: Freedom = AS_GIVEN,
    prices: Prices = BARE,
    starts: int = STARTS,
    seed: int = 0,
    explore: bool = True,
    resume: Guidance | None = None,
    say: Say = quiet,
    title: str = "learning",
) -> LearnResult:
    """`learn` as all commands call it, telling how far it is."""
    say(f"{title}: compiling and looking for the best constant")

    def progress(news: SearchProgress) -> None:
        say(
            f"{title}: iteration {news.iteration}, loss {news.loss:.6f}, {news.seconds_left:.0f} s "
            "left unless better is found (Ctrl-C: take this)"
        )

    return learn(
        sampler,
        problem,
        levels,
        guidance,
        free,
        objective=objective,
        freedom=freedom,
        prices=prices,
        search=Search(starts=starts, seed=seed, explore=explore),
        progress=progress,
        resume=resume,
    )


class Learned(NamedTuple):
    """A schedule for the levels that a network knows."""

    grid: Grid  # its levels
    result: LearnResult  # on these
    search: LearnResult  # the one to go on with: where levels are learned, before rounding them


def learn_on_grid(
    sampler: Sampler,
    problem: Problem,
    grid: Grid,
    start: Callable[[NoiseLevel], Guidance],
    free: tuple[str, ...] | None,
    *,
    learn_levels: bool = False,
    network: bool = False,
    schedules: Sequence[HasSchedule] = (),
    **others: Any,
) -> Learned:
    """Learn weights; with learn_levels levels and weights, then weights for the rounded levels.

    start      the schedule to begin with, for levels
    network    as `for_network` says, levels included
    schedules  to begin from in place of exploring, see `starts_from`
    others     of `learn_with_progress`
    """
    levels = grid.levels
    if free is not None:  # before a search of levels alone, after which there is nothing to learn
        check_free(sampler, free)
    if network:
        chosen = for_network(sampler, levels)
        free = chosen["free"] if free is None else free
        others["prices"] = chosen["prices"]
        learn_levels |= chosen["freedom"].levels
    if schedules:
        names = default_free(sampler) if free is None else free
        begin = starts_from(sampler, schedules, levels, names, learn_levels)
        others |= {"resume": begin, "explore": False}
    if not learn_levels:
        result = learn_with_progress(sampler, problem, levels, start(levels), free, **others)
        return Learned(grid, result, result)
    search = learn_with_progress(
        sampler, problem, levels, start(levels), free, freedom=Freedom(levels=True), **others
    )
    grid = rounded(grid, search.levels)
    others |= {"resume": None}
    if network:  # what was found, of smooth weights, is nearly right: no need to explore again
        best = {name: kept[:1] for name, kept in search.kept.items()}
        held = Freedom(levels=True, held=True)
        others |= {"resume": best, "explore": False, "freedom": held}
    result = learn_with_progress(sampler, problem, grid.levels, start(grid.levels), free, **others)
    if network:  # it went on
        history = np.append(search.history, result.history)
        result = result._replace(explored=search.explored, history=history)
    return Learned(grid, result, search)


def modes_in_words(inputs: Inputs) -> str:
    """What a schedule was learned on."""
    small = inputs.small.spectrum
    if is_exact(inputs.degradation):
        return f"{small.size} of {inputs.problem.spectrum.size} modes"
    return f"{len(small)} blocks of {small.shape[1]} modes, a model of the mask"


def levels_in_words(grid: Grid) -> str:
    if grid.timesteps is not None:
        return "time steps " + " ".join(map(str, grid.timesteps))
    return "sigma " + " ".join(f"{sigma:.3g}" for sigma in np.asarray(grid.levels.sigma))


@partial(kept_jit, static_argnames="sampler")
def transfer_of(
    sampler: Sampler | Kind, problem: Problem, levels: NoiseLevel, guidance: Guidance
) -> Transfer:
    """The total transfer of a sampler, or of the exact reference of that kind."""
    if isinstance(sampler, str):
        sampler = exact(problem, sampler)
    return sampler_transfer(sampler, problem, levels, guidance)


def metrics_of(problem: Problem, transfer: Transfer, prior: Prior) -> dict[str, float]:
    w2, mse, perception = map(float, _metrics(problem, transfer))
    return {
        "W2^2": w2,
        "PSNR": float(metrics.psnr(mse, prior.pixel_range)),
        "perception": perception,
    }


@kept_jit
def _metrics(problem: Problem, transfer: Transfer) -> tuple[Array, ...]:
    of = (metrics.wasserstein2, metrics.mse, metrics.perception)
    return tuple(metric(problem, transfer) for metric in of)


def metric_table(rows: dict[str, dict[str, float]], title: str) -> Table:
    table = Table(
        title=title,
        caption="per pixel, averaged over measurements; W2^2: distance to "
        "the true posterior; perception: W2^2 from outputs to images",
    )
    table.add_column("schedule")
    for column in ("W2^2", "predicted PSNR (dB)", "perception"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(
            figures.LABELS.get(name, name),
            f"{row['W2^2']:.6f}",
            f"{row['PSNR']:.2f}",
            f"{row['perception']:.6f}",
        )
    return table


def measurement_panel(
    degradation: Degradation, y: Array, x_0: Array | None, prior: Prior
) -> figures.Panel:
    """A measurement, and how far it is from the image [C, H, W] where that is known."""
    if degradation.sums_planes:
        return figures.Panel("measurement", np.asarray(y)[None], "one number a pixel")
    if len(degradation.measured) < len(degradation.shape):  # of a matrix: no image
        back = np.asarray(degradation.adjoint(y))
        return figures.Panel("measurement", back, "$H^T y$, as y is no image")
    shown = np.asarray(y)
    plane = degradation.measured[-len(degradation.shape) :]
    small = plane != degradation.shape
    title = "measurement" + (f", {'x'.join(map(str, plane))}" if small else "")
    if x_0 is None:
        return figures.Panel(title, shown)
    psnr = image_psnr(jnp.asarray(images.enlarged(shown, x_0.shape[1:])), x_0, prior)
    return figures.Panel(title, shown, f"{'enlarged, ' if small else ''}measured {psnr:.1f} dB")


def image_psnr(image: Array, reference: Array, prior: Prior) -> float:
    error = np.mean((np.asarray(image) - np.asarray(reference)) ** 2)
    return float(metrics.psnr(error, prior.pixel_range))
