"""Many cells by one compiled program: evaluated, tuned and learned side by side.

Each cell's result is what `evaluate`, `tuned_constant` and `learn` give for it alone, to rounding:
`learn` with `Search(starts, max_iterations, explore=False)`, on the merged problem.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from ..degradations import make_degradation
from ..denoiser_use import differentiates_denoiser
from ..errors import InputError
from ..inpainting import learning_problem
from ..learning import Freedom, Prices, Search
from ..learning.baselines import tuned_constants
from ..learning.generations import Watch
from ..learning.halving import search_each
from ..learning.lanes import next_power_of_two, spread
from ..learning.loss import Loss
from ..learning.parameters import Parameters
from ..learning.preparing import Prepared, first_starts, prepare, tuned, usual_growth
from ..merging import bin_modes, pad_modes, unique_modes
from ..metrics import mse, perception, psnr, wasserstein2
from ..noise import Curve, NoiseLevel, curve_of, make_grid
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from ..samplers.exact import exact
from ..transfer import Transfer, sampler_transfer
from .axes import OBJECTIVES, as_text, columns_of, sampler_of
from .grid import Settings, cell_hash
from .priors import PRIORS

METRICS = ("w2", "mse", "psnr", "perception")
SCHEDULES = ("published", "tuned", "learned", "exact")
AT_ONCE = 32  # cells whose laws a CPU's cache holds
Row = dict[str, Any]  # column -> value, of one cell


class Case(NamedTuple):
    """A cell as objects."""

    cell: Mapping[str, Any]
    sampler: Sampler
    levels: NoiseLevel  # [S + 1]
    problem: Problem  # merged
    curve: Curve  # of the levels
    key: tuple[Any, ...]  # of the cells with this problem and these levels


def batch_key(cell: Mapping[str, Any]) -> Any:
    """Equal for cells that may be computed by one program."""
    free = cell["free"] if cell["free"] is None else tuple(cell["free"])
    static = [cell[axis] for axis in ("steps", "objective", "learn_levels")]
    return as_text(cell["sampler"]), free, *static, cell["degradation"]["name"]


def run_batch(cells: Sequence[Mapping[str, Any]], settings: Settings) -> list[Row]:
    """A row for each cell of one `batch_key`, in their order.

    A cell that cannot be computed has an `error`, and the others what they have without it.
    """
    rows: dict[int, Row] = {}
    groups: dict[Any, list[tuple[int, Case]]] = {}
    for i, cell in enumerate(cells):
        try:
            case = case_of(cell, settings)
        except Exception as error:  # whatever it is, it is this cell's alone
            rows[i] = {"error": _in_words(error)}
            continue
        shape = case.problem.spectrum.shape, case.problem.basis is None, case.curve
        groups.setdefault(shape, []).append((i, case))
    for group in groups.values():
        places, cases = zip(*group, strict=True)
        found = _of_alike(cases, settings, next_power_of_two(len(cases)))
        rows |= dict(zip(places, found, strict=True))
    return [
        {"cell": cell_hash(cell, settings)} | columns_of(cell) | rows[i]
        for i, cell in enumerate(cells)
    ]


def case_of(cell: Mapping[str, Any], settings: Settings) -> Case:
    """The objects of a cell; those that cells share are made once."""
    degradation, prior, grid = (as_text(cell[axis]) for axis in ("degradation", "prior", "grid"))
    # Bins hardly depend on the noise: those of the nearest power of two do.
    near = 2.0 ** np.rint(np.log2(cell["sigma_y"]))
    problem = _merged(degradation, prior, float(near), settings.size, settings.bins)
    problem = problem._replace(sigma_y=np.asarray(cell["sigma_y"], problem.spectrum.dtype))
    levels, curve = _levels(grid, cell["steps"])
    key = degradation, prior, grid, cell["steps"], cell["sigma_y"]
    return Case(cell, sampler_of(cell["sampler"]), levels, problem, curve, key)


@lru_cache(maxsize=4096)
def _merged(degradation: str, prior: str, sigma_y: float, size: int, bins: int) -> Problem:
    whole = _unmerged(degradation, prior, size)._replace(sigma_y=np.asarray(sigma_y))
    small = bin_modes(whole, bins)[0]
    # Few numbers of rows, so few programs.
    return jax.tree.map(np.asarray, pad_modes(small, next_power_of_two(len(small.spectrum))))


@lru_cache(maxsize=256)
def _unmerged(degradation: str, prior: str, size: int) -> Problem:
    shape = (size, size)
    (of_h, h), (of_prior, options) = (_split(json.loads(one)) for one in (degradation, prior))
    problem = learning_problem(
        PRIORS[of_prior](shape, **options), make_degradation(of_h, shape, **h), 1.0
    )
    return unique_modes(problem)[0]


@lru_cache(maxsize=1024)
def _levels(grid: str, steps: int) -> tuple[NoiseLevel, Curve]:
    name, options = _split(json.loads(grid))
    levels = jax.tree.map(np.asarray, make_grid(name, steps, **options))
    return levels, curve_of(levels)


def _split(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return entry["name"], {key: value for key, value in entry.items() if key != "name"}


# ----------------------------------------------------------------------------- cells side by side


def _of_alike(cases: Sequence[Case], settings: Settings, width: int) -> list[Row]:
    """Rows of cases whose programs, for `width` of them, are the same; where those fail, of each
    half alone."""
    started = time.perf_counter()
    try:
        found = _computed(cases, settings, width)
    except Exception as error:  # whatever it is, it is this batch's alone
        if len(cases) == 1:
            return [{"error": _in_words(error)}]
        half = len(cases) // 2
        return [
            row for part in (cases[:half], cases[half:]) for row in _of_alike(part, settings, width)
        ]
    seconds = (time.perf_counter() - started) / len(cases)
    return [row | {"seconds": seconds} for row in found]


def _in_words(error: Exception) -> str:
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0]


def _computed(cases: Sequence[Case], settings: Settings, width: int) -> list[Row]:
    sampler, num = cases[0].sampler, len(cases)
    filled = [*cases, *[cases[-1]] * (width - num)]
    problems, levels = _problems_and_levels(filled)
    factors = np.asarray([case.cell["factor"] for case in filled])
    problems, levels, factors = spread((problems, levels, factors))
    published = _published(sampler, problems, levels, factors)
    schedules: dict[str, tuple[NoiseLevel, Guidance]] = {"published": (levels, published)}
    if settings.learn or settings.tune:
        given = _each(published)
        prepared = [_prepared(*one, settings) for one in zip(filled, given, strict=True)]
        few = [one.given.coarse for one in prepared]
        coarse = None if few[0] is None else spread(_stacked(few))
        whole = spread(_stacked([one.given for one in prepared]))
        constants, least = tuned_constants(whole, published, coarse)
        schedules["tuned"] = levels, constants
        if settings.learn:
            growths: Any = [None] * width
            if not differentiates_denoiser(sampler):
                growths = np.asarray(_growths(whole, published, constants))
            parts = zip(_each(constants), least, growths, strict=True)
            begun = [tuned(one, *part) for one, part in zip(prepared, parts, strict=True)]
            schedules["learned"] = _learned(begun, few, settings)
    metrics = {
        label: _metrics(sampler, problems, *schedule) for label, schedule in schedules.items()
    }
    eta = np.asarray(published.get("eta", np.zeros_like(np.asarray(levels.alpha)[:, 1:])))
    metrics["exact"] = _metrics_of_exact(cases, eta[:num])
    *_, (best_levels, best) = schedules.values()
    return _rows(num, jax.tree.map(np.asarray, metrics), best_levels, best)


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
    method, stack, coarse = begun[0].method, _stacked([one.loss for one in begun]), None
    if method.optimizer == "lm" and few[0] is not None:
        pairs = zip(begun, few, strict=True)
        coarse = _stacked([one.loss.on_few(of_few.problems) for one, of_few in pairs])
    starts, constants = zip(*[first_starts(one, search) for one in begun], strict=True)
    vectors, _, _ = search_each(
        stack, coarse, method, np.stack(starts), np.stack(constants), search, Watch()
    )
    return _schedules(stack, vectors)


@jax.jit
def _growths(losses: Loss, published: Guidance, constants: Guidance) -> Array:
    return jax.vmap(usual_growth)(losses, published, constants)


@jax.jit
def _schedules(losses: Loss, vectors: Array) -> tuple[NoiseLevel, Guidance]:
    found = jax.vmap(Parameters.schedule)(losses.parameters, vectors)
    return found.levels, found.guidance


@partial(jax.jit, static_argnames="sampler")
def _published(sampler: Sampler, problems: Problem, levels: NoiseLevel, factors: Array) -> Guidance:
    return _each_cell(lambda cell: sampler.heuristic(*cell), (problems, levels, factors))


@partial(jax.jit, static_argnames="sampler")
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
    keys = [(*case.key, one.tobytes()) for case, one in zip(cases, eta, strict=True)]
    index: dict[Any, int] = {}
    which = [index.setdefault(key, len(index)) for key in keys]
    places: Any = np.unique(which, return_index=True)[1]
    places = np.resize(places, next_power_of_two(max(len(places), AT_ONCE)))
    problems, levels = _problems_and_levels([cases[i] for i in places])
    found = _metrics(None, *spread((problems, levels, {"eta": eta[places]})))
    return {name: np.asarray(values)[which] for name, values in found.items()}


def _problems_and_levels(cases: Sequence[Case]) -> tuple[Problem, NoiseLevel]:
    return _stacked([case.problem for case in cases]), _stacked([case.levels for case in cases])


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


def _rows(
    num: int, metrics: dict[str, dict[str, np.ndarray]], levels: NoiseLevel, guidance: Guidance
) -> list[Row]:
    alpha, sigma = (np.asarray(leaf) for leaf in levels)
    weights = {name: np.asarray(one) for name, one in guidance.items()}
    rows = []
    for i in range(num):
        row: Row = {
            f"{label}_{name}": float(values[i])
            for label, of_label in metrics.items()
            for name, values in of_label.items()
        }
        row |= {"alpha": alpha[i].tolist(), "sigma": sigma[i].tolist()}
        row |= {f"weight_{name}": one[i].tolist() for name, one in weights.items()}
        *_, last = [label for label in metrics if label != "exact"]
        if not np.isfinite(metrics[last]["w2"][i]):
            row["error"] = f"{last}: not finite"
        rows.append(row)
    return rows


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _each(tree: Any) -> list[Any]:
    """What `_stacked` has put together."""
    tree = jax.tree.map(np.asarray, tree)
    num = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(num)]
