"""What the commands print: progress, tables, scores."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import metrics
from ..learning import Freedom, LearnResult, Search, learn
from ..learning import Progress as SearchProgress
from ..noise import NoiseLevel
from ..prior import Prior
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from ..samplers.exact import Kind, exact
from ..transfer import Transfer, sampler_transfer

MAX_ITERATIONS = 200

LABELS = {
    "heuristic": "published default",
    "tuned_constant": "tuned constant",
    "learned": "learned",
    "exact": "exact reference",
}

console = Console(markup=False, highlight=False)  # paths and formulas have brackets


def has_room(width: int) -> bool:
    """Whether that many columns can be printed; a file has room for all."""
    return not console.is_terminal or console.width >= width


def print_wide(table: Table, width: int) -> None:
    """Print a table, which may be that wide where there is room."""
    wide = max(width, console.width) if has_room(width) else console.width
    Console(markup=False, highlight=False, width=wide).print(table)


def progress_bar() -> Progress:
    """A bar on the terminal, none where the output is not one."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    terminal = Console(stderr=True)
    return Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)


def progress_text(news: SearchProgress) -> str:
    """How far a search is, in a line."""
    return (
        f"iteration {news.iteration}, W2^2 = {news.loss:.6f}, "
        f"{news.seconds_left:.0f} s left unless better is found (Ctrl-C: take this)"
    )


def learn_with_progress(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...] | None,
    num_starts: int,
    seed: int,
    resume: Guidance | None = None,
    learn_levels: bool = False,
) -> LearnResult:
    with progress_bar() as bar:
        task = bar.add_task("compiling and looking for the best constant", total=None)

        def progress(news: SearchProgress) -> None:
            bar.update(task, description=f"learning: {progress_text(news)}")

        return learn(
            sampler,
            problem,
            levels,
            guidance,
            free,
            freedom=Freedom(levels=learn_levels),
            search=Search(starts=num_starts, max_iterations=MAX_ITERATIONS, seed=seed),
            progress=progress,
            resume=resume,
        )


@partial(jax.jit, static_argnames="sampler")
def transfer_of(
    sampler: Sampler | Kind, problem: Problem, levels: NoiseLevel, guidance: Guidance
) -> Transfer:
    """The total transfer of a sampler, or of the exact reference of that kind."""
    if isinstance(sampler, str):
        sampler = exact(problem, sampler)
    return sampler_transfer(sampler, problem, levels, guidance)


def scores_of(problem: Problem, transfer: Transfer, prior: Prior) -> dict[str, float]:
    return {
        "W2^2": float(metrics.wasserstein2(problem, transfer)),
        "PSNR": float(metrics.psnr(metrics.mse(problem, transfer), prior.pixel_range)),
        "perception": float(metrics.perception(problem, transfer)),
    }


def score_table(scores: dict[str, dict[str, float]], title: str) -> Table:
    table = Table(
        title=title,
        caption="per pixel, averaged over measurements; W2^2: distance to "
        "the true posterior; perception: W2^2 from outputs to images",
    )
    table.add_column("schedule")
    for column in ("W2^2", "predicted PSNR (dB)", "perception"):
        table.add_column(column, justify="right")
    for name, row in scores.items():
        table.add_row(
            LABELS.get(name, name),
            f"{row['W2^2']:.6f}",
            f"{row['PSNR']:.2f}",
            f"{row['perception']:.6f}",
        )
    return table


def image_psnr(image: Array, reference: Array, prior: Prior) -> float:
    return float(metrics.psnr(jnp.mean((image - reference) ** 2), prior.pixel_range))
