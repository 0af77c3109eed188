"""What the commands share: a line of progress, and what they print."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from .. import figures, images, metrics
from ..affine import Transfer
from ..degradations import Degradation
from ..errors import times
from ..inpainting import is_exact
from ..kept_jit import kept_jit
from ..learning import LearnResult, constant_that_holds
from ..learning import Progress as SearchProgress
from ..noise import NoiseLevel
from ..noise_grid import NoiseGrid
from ..prior import Prior
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from ..samplers.exact import Kind, exact
from ..transfer import sampler_transfer
from .inputs import Inputs

PIXELS_AT_ONCE = 2**17  # of one plane
Say = Callable[[str], None]  # shows a text that says how far a command is

console = Console(markup=False, highlight=False)  # paths and formulas have brackets


def batch_for(shape: tuple[int, ...]) -> int:
    """How many images of this size are restored at the same time, so that memory is bounded."""
    return max(1, PIXELS_AT_ONCE // math.prod(shape))


def print_whole(table: Table, spare: Sequence[int] = ()) -> None:
    """Print a table of which nothing is cut.

    Where a terminal is too narrow for it, with words folded, the columns of these indices are left
    out, one after the other until the rest fits. A file has room for all.
    """
    columns, left_out = list(table.columns), 0
    while console.is_terminal and left_out < len(spare) and _need(table) > console.width:
        left_out += 1
        gone = [columns[i] for i in spare[:left_out]]
        table.columns = [one for one in columns if all(one is not other for other in gone)]
    if left_out:
        more = f"a wider terminal, or a file, shows {left_out} columns more"
        table.caption = f"{table.caption}; {more}" if table.caption else more
    width = max(_need(table), console.width)
    Console(markup=False, highlight=False, width=width).print(table)


def _need(table: Table) -> int:
    """Columns of the terminal, where words of columns without `no_wrap` are folded; in a file they
    are not. rich's own measure of a table folds all."""
    roomy = Console(markup=False, width=10_000)

    def width(column: Column) -> int:
        folded = console.is_terminal and not column.no_wrap
        cells = (
            Measurement.get(roomy, roomy.options, one) for one in (column.header, *column.cells)
        )
        return max(one.minimum if folded else one.maximum for one in cells)

    return 1 + sum(3 + width(column) for column in table.columns)


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


def watched(say: Say, title: str = "learning") -> Callable[[SearchProgress], None]:
    """Says that learning begins; what `learn` takes as `progress`."""
    say(f"{title}: compiling and looking for the best constant")

    def progress(news: SearchProgress) -> None:
        say(
            f"{title}: iteration {news.iteration}, loss {news.loss:.6f}, {news.seconds_left:.0f} s "
            "left unless better is found (Ctrl-C: take this)"
        )

    return progress


def ended_early(names: Iterable[str]) -> None:
    """Say which searches the user has ended, so that nobody takes their numbers for optima."""
    if words := ", ".join(names):
        console.print(f"Interrupted, so the best so far: {words}.", soft_wrap=True)


def modes_in_words(inputs: Inputs) -> str:
    """What a schedule was learned on."""
    small = inputs.small.spectrum
    if is_exact(inputs.degradation):
        return f"{small.size} of {inputs.problem.spectrum.size} modes"
    return f"{len(small)} blocks of {small.shape[1]} modes, a model of the mask"


def levels_in_words(grid: NoiseGrid) -> str:
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


def baselines_of(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, result: LearnResult, prior: Prior
) -> dict[str, Guidance]:
    """The schedules that a learned one for W2^2 is held against, on a problem of all modes.

    See `constant_that_holds`.
    """
    schedules = result.baseline_guidance
    transfer = transfer_of(sampler, problem, levels, schedules["tuned_constant"])
    found = metrics_of(problem, transfer, prior)["W2^2"]
    constant = constant_that_holds(sampler, problem, levels, result, found)
    return schedules | {"tuned_constant": constant}


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
    title = "measurement" + (f", {times(plane)}" if small else "")
    if x_0 is None:
        return figures.Panel(title, shown)
    psnr = image_psnr(jnp.asarray(images.enlarged(shown, x_0.shape[1:])), x_0, prior)
    return figures.Panel(title, shown, f"{'enlarged, ' if small else ''}measured {psnr:.1f} dB")


def image_psnr(image: Array, reference: Array, prior: Prior) -> float:
    error = np.mean((np.asarray(image) - np.asarray(reference)) ** 2)
    return float(metrics.psnr(error, prior.pixel_range))
