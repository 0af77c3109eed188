"""Many cells by one compiled program: evaluated, tuned and learned side by side.

Each cell's result is what `evaluate`, `tuned_constant` and `learn` give for it alone, to rounding:
`learn` with `Search(starts, max_iterations, explore=False)`, on the merged problem.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from ..affine import Transfer
from ..denoiser_use import differentiates_denoiser
from ..errors import InputError
from ..kept_jit import kept_jit
from ..learning import Freedom, Prices, Search
from ..learning.baselines import tuned_constants
from ..learning.halving import search_each
from ..learning.lanes import next_power_of_two, spread, stacked, unstacked
from ..learning.loss import Loss
from ..learning.parameters import Parameters
from ..learning.preparing import Prepared, first_starts, prepare, tuned, usual_growth
from ..learning.search import Watch
from ..literal_form import published
from ..metrics import mse, perception, psnr, wasserstein2
from ..noise import NoiseLevel
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from ..samplers.exact import exact
from ..transfer import sampler_transfer
from .axes import OBJECTIVES, as_text, columns_of
from .case import Case, case_of, prior_hash_of, stacked_cases
from .grid import Settings, cell_hash

METRICS = ("w2", "mse", "psnr", "perception")
SCHEDULES = ("published", "tuned", "learned", "exact")
AT_ONCE = 32  # cells whose laws a CPU's cache holds
# Column -> a value of each of N cells, an array or list of them, or lists [N, n]. Some may lack.
Columns = dict[str, Any]


def batch_key(cell: Mapping[str, Any]) -> Any:
    """Equal for cells that may be computed by one program."""
    free = cell["free"] if cell["free"] is None else tuple(cell["free"])
    static = [cell[axis] for axis in ("steps", "objective", "learn_levels")]
    return as_text(cell["sampler"]), free, *static, cell["degradation"]["name"]


@contextmanager
def _in_double_precision() -> Iterator[None]:
    """The setting of the process, as programs in other threads need it, given back at the end."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@_in_double_precision()
def run_batch(cells: Sequence[Mapping[str, Any]], settings: Settings) -> list[Columns]:
    """The columns of all cells of one `batch_key`, each cell once, in one or several parts.

    A cell that cannot be computed has an `error`, and the others what they have without it.
    """
    failed: list[Columns] = []
    groups: dict[Any, list[Case]] = {}
    for cell in cells:
        try:
            case = case_of(cell, settings)
        except Exception as error:  # whatever it is, it is this cell's alone
            failed.append(_named([cell], settings) | {"error": [_in_words(error)]})
            continue
        shape = case.near.spectrum.shape, case.near.basis is None, case.curve
        groups.setdefault(shape, []).append(case)
    parts = [
        part
        for cases in groups.values()
        for part in _of_alike(cases, settings, next_power_of_two(len(cases)))
    ]
    return parts + failed


def _named(cells: Sequence[Mapping[str, Any]], settings: Settings) -> Columns:
    return {"cell": [cell_hash(cell, settings) for cell in cells]} | columns_of(cells)


# ----------------------------------------------------------------------------- cells side by side


def _of_alike(cases: Sequence[Case], settings: Settings, width: int) -> list[Columns]:
    """Columns of cases whose programs, for `width` of them, are the same; where those fail, of each
    half alone."""
    num, started = len(cases), time.perf_counter()
    named = _named([case.cell for case in cases], settings)
    named["prior_hash"] = [prior_hash_of(case.cell, settings) for case in cases]
    try:
        found = _computed(cases, settings, width)
    except Exception as error:  # whatever it is, it is this batch's alone
        if num == 1:
            return [named | {"error": [_in_words(error)]}]
        halves = cases[: num // 2], cases[num // 2 :]
        return [part for half in halves for part in _of_alike(half, settings, width)]
    seconds = (time.perf_counter() - started) / num
    return [named | found | {"seconds": np.full(num, seconds)}]


def _in_words(error: Exception) -> str:
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0]


def _computed(cases: Sequence[Case], settings: Settings, width: int) -> Columns:
    sampler, num = cases[0].sampler, len(cases)
    filled = [*cases, *[cases[-1]] * (width - num)]
    problems, levels = stacked_cases(filled)
    factors = np.asarray([case.cell["factor"] for case in filled])
    problems, levels, factors = spread((problems, levels, factors))
    given, of_given = _published(sampler, problems, levels, factors)
    metrics: dict[str, Any] = {"published": of_given}
    schedule = levels, given  # the best
    if settings.learn or settings.tune:
        prepared = [_prepared(*one, settings) for one in zip(filled, unstacked(given), strict=True)]
        few = [one.given.coarse for one in prepared]
        coarse = None if few[0] is None else spread(stacked(few))
        whole = spread(stacked([one.given for one in prepared]))
        constants, least = tuned_constants(whole, given, coarse)
        schedule = levels, constants
        metrics["tuned"] = _metrics(sampler, problems, *schedule)
        if settings.learn:
            growths: Any = [None] * width
            if not differentiates_denoiser(sampler):
                growths = np.asarray(_growths(whole, given, constants))
            parts = zip(unstacked(constants), least, growths, strict=True)
            begun = [tuned(one, *part) for one, part in zip(prepared, parts, strict=True)]
            schedule = _learned(begun, few, settings)
            metrics["learned"] = _metrics(sampler, problems, *schedule)
    last = list(metrics)[-1]
    eta = np.asarray(given.get("eta", np.zeros_like(np.asarray(levels.alpha)[:, 1:])))
    metrics["exact"] = _metrics_of_exact(cases, eta[:num])
    columns: dict[str, Any] = {
        f"{label}_{name}": values
        for label, of_label in metrics.items()
        for name, values in of_label.items()
    }
    found, guidance = schedule
    columns |= found._asdict() | {f"weight_{name}": one for name, one in guidance.items()}
    columns = {name: np.asarray(values)[:num] for name, values in columns.items()}
    good = np.isfinite(columns[f"{last}_w2"])
    return columns | {"error": [None if one else f"{last}: not finite" for one in good]}


def _prepared(case: Case, given: Guidance, settings: Settings) -> Prepared:
    """As `learn` prepares it, without the tuned constant."""
    cell = case.cell
    return prepare(
        case.sampler,
        [case.problem],
        case.levels,
        given,
        None if cell["free"] is None else tuple(cell["free"]),
        objective=OBJECTIVES[cell["objective"]],
        freedom=Freedom(levels=cell["learn_levels"]),
        prices=Prices(cell["max_amplification"], cell["smoothness"]),
        search=_search(settings),
        tune=False,
    )


def _search(settings: Settings) -> Search:
    return Search(settings.starts, settings.max_iterations, seed=settings.seed, explore=False)


def _learned(
    begun: Sequence[Prepared],
    few: Sequence[Any],  # losses of few rows, or None
    settings: Settings,
) -> tuple[NoiseLevel, Guidance]:
    search = _search(settings)
    method, stack, coarse = begun[0].method, stacked([one.loss for one in begun]), None
    if method.optimizer == "lm" and few[0] is not None:
        pairs = zip(begun, few, strict=True)
        coarse = stacked([one.loss.on_few(of_few.problems) for one, of_few in pairs])
    starts, constants = zip(*[first_starts(one, search) for one in begun], strict=True)
    vectors, _, _ = search_each(
        stack, coarse, method, np.stack(starts), np.stack(constants), search, Watch()
    )
    return _schedules(stack, vectors)


@kept_jit
def _growths(losses: Loss, published: Guidance, constants: Guidance) -> Array:
    return jax.vmap(usual_growth)(losses, published, constants)


@kept_jit
def _schedules(losses: Loss, vectors: Array) -> tuple[NoiseLevel, Guidance]:
    found = jax.vmap(Parameters.schedule)(losses.parameters, vectors)
    return found.levels, found.guidance


@partial(kept_jit, static_argnames="sampler")
def _published(
    sampler: Sampler, problems: Problem, levels: NoiseLevel, factors: Array
) -> tuple[Guidance, dict[str, Array]]:
    """The published defaults of cells [N], and their metrics."""

    def one(of_one: tuple[Problem, NoiseLevel, Array]) -> tuple[Guidance, dict[str, Array]]:
        guidance, law = published(sampler, *of_one)
        return guidance, _measured(of_one[0], law)

    return _each_cell(one, (problems, levels, factors))


@partial(kept_jit, static_argnames="sampler")
def _metrics(
    sampler: Sampler | None, problems: Problem, levels: NoiseLevel, guidance: Guidance
) -> dict[str, Array]:
    """Of cells [N]; without a sampler, of the exact conditional denoiser."""

    def one(of_one: tuple[Problem, NoiseLevel, Guidance]) -> dict[str, Array]:
        problem, levels, guidance = of_one
        law = sampler_transfer(sampler or exact(problem), problem, levels, guidance)
        return _measured(problem, law)

    return _each_cell(one, (problems, levels, guidance))


def _metrics_of_exact(cases: Sequence[Case], eta: np.ndarray) -> dict[str, np.ndarray]:
    """The same of the exact conditional denoiser, eta [N, S]: once for all cases that it is of."""
    index: dict[Any, int] = {}
    which = [
        index.setdefault((id(c.near), id(c.levels), c.cell["sigma_y"], one.tobytes()), len(index))
        for c, one in zip(cases, eta, strict=True)
    ]
    places: Any = np.unique(which, return_index=True)[1]
    places = np.resize(places, next_power_of_two(max(len(places), AT_ONCE)))
    problems, levels = stacked_cases([cases[i] for i in places])
    found = _metrics(None, *spread((problems, levels, {"eta": eta[places]})))
    return {name: np.asarray(values)[which] for name, values in found.items()}


def _each_cell(fn: Callable[[Any], Any], cells: Any) -> Any:
    """`vmap`, of so many cells at a time as the cache holds where there is one CPU."""
    if jax.default_backend() == "cpu" and jax.local_device_count() == 1:
        return jax.lax.map(fn, cells, batch_size=AT_ONCE)
    return jax.vmap(fn)(cells)


def _measured(problem: Problem, transfer: Transfer) -> dict[str, Array]:
    error = mse(problem, transfer)
    return {
        "w2": wasserstein2(problem, transfer),
        "mse": error,
        "psnr": psnr(error),
        "perception": perception(problem, transfer),
    }
