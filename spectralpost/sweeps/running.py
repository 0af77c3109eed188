"""A sweep from its grid to its dataset: batches, one after the other or on many machines.

A batch is a task that knows its folder and its cells, computes them and writes a part; nothing else
comes back from it but numbers of cells. So whatever dies, only batches in flight are lost, and the
next run does them.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_threads
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ..compiled import drop_compiled_programs_if_crowded, keep_compiled_programs
from ..errors import InputError, StillRunning, shown
from .batch import batch_key, run_batch
from .dataset import Dataset, failures, finished, need, opened, write_part
from .grid import Grid, Settings, cell_hash

LEARNED, EVALUATED = 32, 512  # cells of a batch: seconds of work
RETRIES = 3
COUNTED = 100_000  # cells of a grid, whose hashes tell which of those that are stored are its own
# XLA takes all cores of a machine for each process: of several, each takes one.
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Progress(NamedTuple):
    """How far a sweep is, in cells."""

    done: int  # now, failed ones included
    failed: int
    before: int  # done by earlier runs
    of: int
    seconds: float

    @property
    def left(self) -> int:
        return self.of - self.before - self.done

    @property
    def seconds_left(self) -> float:
        return self.left * self.seconds / self.done if self.done else float("inf")


class Outcome(NamedTuple):
    """How a run of a sweep ended."""

    progress: Progress
    lost: int  # batches that no worker brought to an end
    reason: str  # why the last of them was lost
    interrupted: bool
    error: str  # of the last cell that failed


class Engine(NamedTuple):
    """Where batches run: `submit` and `wait` of concurrent.futures or of dask.distributed."""

    submit: Callable[..., Any]
    wait: Callable[..., Any]
    at_once: int  # batches in flight


def run_sweep(
    grid: Grid,
    folder: Path,
    *,
    workers: int = 0,
    scheduler: str | None = None,
    scheduler_file: Path | None = None,
    extend: bool = False,
    batch_size: int | None = None,
    tell: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Compute all cells of a grid that its folder does not have yet.

    workers          0: in this process. n: processes of this machine
    scheduler        address of a running dask cluster, or scheduler_file its file; its workers need
                     this package and the folder under the same name
    extend           see `dataset.opened`
    batch_size       cells of a batch
    Raises InputError as `dataset.opened`, and for a cluster that does not answer; StillRunning
    where an interruption is followed by another, before the batch in this process has ended: it
    goes on while nothing keeps other sweeps from the folder, so the process had better end.
    """
    started = time.perf_counter()
    size = batch_size or (LEARNED if grid.settings.learn else EVALUATED)
    folder = Path(os.path.abspath(folder))
    with ExitStack() as stack:  # a cluster that does not answer leaves no folder
        engine = stack.enter_context(_engine(workers, scheduler, scheduler_file))
        with opened(folder, grid, extend=extend) as dataset:
            before = known = finished(folder)
            if dataset.shared or (before and grid.num_cells <= COUNTED):  # parts of other grids
                known = before & {cell_hash(cell, grid.settings) for cell in grid.cells()}
            outcome = _through(engine, dataset, grid, batches(grid, known, size), known, tell)
            stack.close()  # what is in flight comes to its end while the folder is ours
            if outcome.interrupted or outcome.lost:  # some of that is stored, and was not counted
                outcome = _counted(outcome, folder, before, time.perf_counter() - started)
            return outcome


def _counted(outcome: Outcome, folder: Path, before: set[str], seconds: float) -> Outcome:
    """The outcome with what a folder holds now, `before` left out."""
    done = finished(folder) - before
    errors = [error for cell, error in failures(folder).items() if cell in done]
    progress = outcome.progress._replace(done=len(done), failed=len(errors), seconds=seconds)
    return outcome._replace(progress=progress, error=outcome.error or "".join(errors[-1:]))


def batches(grid: Grid, known: set[str], size: int) -> Iterator[list[dict[str, Any]]]:
    """Cells that are not known, in lists of one `batch_key`, each cell once."""
    waiting: dict[Any, list[dict[str, Any]]] = {}
    differ = grid.design == "product"  # its cells do, and may be very many
    seen = set(known)
    for cell in grid.cells():
        if seen or not differ:
            name = cell_hash(cell, grid.settings)
            if name in seen:
                continue
            if not differ:
                seen.add(name)
        key = batch_key(cell)
        some = waiting.setdefault(key, [])
        some.append(cell)
        if len(some) == size:
            yield waiting.pop(key)
    yield from waiting.values()


def run_task(
    folder: str, columns: dict[str, str], cells: Sequence[Mapping[str, Any]], settings: Settings
) -> tuple[int, list[str]]:
    """Compute a batch and write its part: how many cells, and the errors of those that failed."""
    _make_room(batch_key(cells[0]))
    made = {"seed": settings.seed, "spectralpost": _version(), "jax": jax.__version__}
    found = [
        some | {name: [value] * len(some["cell"]) for name, value in made.items()}
        for some in run_batch(cells, settings)
    ]
    write_part(Path(folder), columns, found)
    return len(cells), [error for some in found for error in some["error"] if error is not None]


@lru_cache(maxsize=1)
def _version() -> str:
    return version("spectralpost")


@lru_cache(maxsize=1)
def _make_room(key: Any) -> None:
    """Before the first of several batches of one kind."""
    drop_compiled_programs_if_crowded()


def _in_worker(task: Callable[..., Any], *arguments: Any) -> Any:
    """A task in a process of its own, which keeps what it compiles for the next one."""
    _keep_once()
    return task(*arguments)


@lru_cache(maxsize=1)
def _keep_once() -> None:
    keep_compiled_programs()


def _through(
    engine: Engine,
    dataset: Dataset,
    grid: Grid,
    todo: Iterator[list[dict[str, Any]]],
    known: set[str],
    tell: Callable[[Progress], None] | None,
) -> Outcome:
    started, in_flight = time.perf_counter(), set()
    done = failed = lost = 0
    interrupted, reason, failure = False, "", ""

    def progress() -> Progress:
        return Progress(done, failed, len(known), grid.num_cells, time.perf_counter() - started)

    try:
        more = True
        while more or in_flight:
            while more and len(in_flight) < engine.at_once:
                cells = next(todo, None)
                if cells is None:
                    more = False
                    break
                arguments = str(dataset.folder), dataset.columns, cells, grid.settings
                in_flight.add(engine.submit(run_task, *arguments))
            if not in_flight:
                break
            try:
                ended, in_flight = engine.wait(in_flight, return_when=FIRST_COMPLETED)
            except Exception as error:  # a cluster that is gone, with all that is in flight
                lost += len(in_flight)
                reason = f"the scheduler's end ({type(error).__name__})"
                break
            for future in ended:
                try:
                    cells_done, errors = future.result()
                except InputError:
                    raise
                except Exception as error:  # a worker that died again and again
                    lost, reason = lost + 1, f"{type(error).__name__}: {error}".splitlines()[0]
                else:
                    done, failed = done + cells_done, failed + len(errors)
                    failure = errors[-1] if errors else failure
            if tell is not None:
                tell(progress())
    except KeyboardInterrupt:
        interrupted = True
        for future in in_flight:
            future.cancel()
    return Outcome(progress(), lost, reason, interrupted, failure)


@contextmanager
def _engine(workers: int, scheduler: str | None, scheduler_file: Path | None) -> Iterator[Engine]:
    if not workers and scheduler is None and scheduler_file is None:
        threads, submitted = ThreadPoolExecutor(1), []

        def submit_one(*task: Any) -> Any:
            submitted[:] = [threads.submit(*task)]
            return submitted[0]

        try:
            yield Engine(submit_one, wait_for_threads, 1)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            try:  # not by joining the thread: a join that is interrupted takes it for ended
                wait_for_threads([one for one in submitted if one.running()])
            except KeyboardInterrupt:
                raise StillRunning("what was stored stays; the same command goes on") from None
        return
    if scheduler_file is not None and not scheduler_file.is_file():  # dask would wait for it
        raise InputError(f"scheduler_file = {shown(scheduler_file)}: is not there")
    need("distributed")
    from dask import config
    from distributed import Client, LocalCluster, wait

    with config.set({"distributed.scheduler.allowed-failures": RETRIES}), ExitStack() as stack:
        try:
            if workers:
                cluster = stack.enter_context(
                    LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        processes=True,
                        dashboard_address=":0",
                        env=ONE_THREAD,
                    )
                )
                client = stack.enter_context(Client(cluster))
            elif scheduler_file is not None:
                client = stack.enter_context(Client(scheduler_file=str(scheduler_file), timeout=30))
            else:
                client = stack.enter_context(Client(scheduler, timeout=30))
        except (OSError, TimeoutError, ValueError) as error:
            where = scheduler or scheduler_file or f"{workers} workers"
            raise InputError(f"scheduler = {str(where)!r}: does not answer ({error})") from error

        def submit(function: Callable[..., Any], *arguments: Any) -> Any:
            return client.submit(_in_worker, function, *arguments, pure=False, retries=RETRIES)

        threads: Any = client.nthreads()
        yield Engine(submit, wait, 2 * max(sum(threads.values()), 1))
