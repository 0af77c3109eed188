"""How much sooner does `learn` find a good schedule than other ways to write the same search?

One problem (256x256, power law, Gaussian blur of std 2, sigma_y 0.05), the uniform VP grid of 20
and of 50 steps, DPS (eta 0, zeta free) and DiffPIR (lambda_ and zeta free), given to

    learn, default      `spectralpost.learn` as it is: keeps signals within 3 times what the
                        denoiser was made for, so it need not reach what the others may
    learn, bare         the same with max_amplification inf and smoothness 0: the loss that all
                        below minimise
    learn, bare, few    the same with as many starts as the slow ones below
    PyTorch             eager autograd, torch.optim.LBFGS with strong Wolfe line search
    SLSQP               SciPy, finite differences of a NumPy loss
    L-BFGS-B            SciPy, the jitted value and gradient of spectralpost's `evaluate`

PyTorch and NumPy get the recursion of every frequency simplified by hand (real coefficients, no
denoiser, no derivative of one); it is checked against `evaluate` on all 65536 modes before anything
is timed. "half" is the half of the frequencies that a real image has (33024), "reduced" the problem
merged by `unique_modes` and `bin_modes`, which is what `learn` and L-BFGS-B get. SLSQP searches
"half" for the fewest steps only. All on "half", and SLSQP, have fewer starts: the slow ones.

    python benchmarks/learn_vs_peers.py             all of it: an hour, less with --repeats 1
    python benchmarks/learn_vs_peers.py --quick     64x64, 10 steps, one repeat: under a minute

What is equal: float64, one process, the bare averaged W2^2, logarithms of the weights (logits of
DiffPIR's zeta), and the starts of the peers, one after the other: the given schedule, the best
constant, and smooth curves around these. Each is stopped by its own tolerances, by a fall of less
than 1e-4 in 20 iterations, or after 400. `learn` begins from the same two starts and draws its own
curves, of the same law. Its best constant is given to the peers for nothing, while `learn` pays for
it. PyTorch runs with one thread or with its default number, whichever is faster on the problem;
BLAS, which is only given tiny matrices, with one.

The columns, medians over repeats in alternating order, after a warm-up:

    starts      searches finished, of those asked for; lanes side by side in `learn`
    first       seconds of the first call, compilation included: of a whole `learn` ("bare" finds
                the code of "default" compiled), of one value and gradient for L-BFGS-B
    total       seconds of all starts, * if the limit of time ended them
    a start     total / starts, an unfinished one counted as one
    x           a start / that of "learn, default"
    to 1 %      seconds until there is a schedule within 1 % of the best that anyone reached. Those
                of a peer are the best that it has evaluated so far. Of `learn` only the last
                counts, hence its total: the losses on the way are of a coarser problem
    x           to 1 % / that of "learn", the sooner of "default" and "bare", or / its total if
                neither comes within 1 %; "> x": not reached in the total
    W2^2        bare loss of the best schedule on the full problem, and on the problem searched
    near        starts that ended within 1 % of the best

All other losses are those of the full problem too, evaluated after the clock has stopped. Where
"searched" is much smaller, the schedule exploits the bins: it blows up frequencies that a bare
loss of the reduced problem does not see. --bins 10000 searches all distinct modes.

PyTorch is no dependency: python -m pip install torch, or the extra `oracles`.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy and SciPy are imported

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from scipy.optimize import minimize

try:
    import torch
except ImportError:
    raise SystemExit("PyTorch is missing: python -m pip install torch") from None
from by_hand import (
    FREE,
    Modes,
    as_torch,
    numpy_loss,
    tables,
    torch_loss,
    unconstrained,
    weights_of,
)

import spectralpost as sp

CHUNK, TOLERANCE, MAX_ITERATIONS = 20, 1e-4, 400  # the rule to stop, which is that of `learn`
BARE = {"prices": sp.Prices(max_amplification=float("inf"), smoothness=0.0)}
HUGE = 1e30  # instead of a loss that is not finite


@dataclass
class Options:
    """Time `learn` against PyTorch and SciPy on the same search."""

    quick: bool = False
    """A small version: 64x64, 10 steps, two starts, one repeat."""
    steps: tuple[int, ...] = (20, 50)
    samplers: tuple[str, ...] = ("dps", "diffpir")
    starts: int = 32
    """Of the peers that search the reduced problem with gradients."""
    slow_starts: int = 4
    """Of the other peers, and of "learn, bare, few"."""
    repeats: int = 3
    limit: float = 60.0
    """Seconds after which a peer is stopped."""
    bins: int = 800
    """Rows of the reduced problem; the default is that of `spectralpost design`."""


class Task(NamedTuple):
    """One search: a sampler on a grid, and the schedule to begin with."""

    name: str
    levels: sp.NoiseLevel
    given: dict[str, jax.Array]

    @property
    def sampler(self) -> sp.Sampler:
        return sp.SAMPLERS[self.name]()


class Point(NamedTuple):
    """What a search had found at some time."""

    seconds: float
    loss: float  # of the problem that it searches
    guidance: dict[str, jax.Array]


class Outcome(NamedTuple):
    """Of one run of one contestant."""

    trace: list["Point"]  # ever better
    ends: list["Point"]  # the best of each finished start; empty if unknown
    seconds: float
    finished: int  # starts
    begun: int


class Contestant(NamedTuple):
    label: str
    starts: int
    warm_up: Callable[[], object]
    run: Callable[[], Outcome]
    compiles: bool


# ---------------------------------------------------------------------------------- the searches


class Done(Exception):
    """The rule to stop says so."""


class OutOfTime(Exception):
    """The limit does."""


class Watch:
    """Sees every loss that a peer computes: its trace, its best weights, when it is to stop."""

    def __init__(self, limit: float):
        self.begin = time.perf_counter()
        self.limit = limit
        self.trace: list[tuple[float, float, np.ndarray]] = []

    def start(self) -> None:
        self.iterations, self.before = 0, np.inf
        self.lowest = (0.0, np.inf, None)  # of this start

    def loss(self, loss: float, u: np.ndarray) -> None:
        seconds = time.perf_counter() - self.begin
        if loss < self.lowest[1]:
            self.lowest = (seconds, loss, np.array(u))
            if not self.trace or loss < self.trace[-1][1]:
                self.trace.append(self.lowest)
        if seconds > self.limit:
            raise OutOfTime

    def iteration(self, *_) -> None:
        self.iterations += 1
        if self.iterations % CHUNK == 0:
            lowest = self.lowest[1]
            if self.before - lowest <= TOLERANCE * lowest or self.iterations >= MAX_ITERATIONS:
                raise Done
            self.before = lowest


def from_starts(
    search: Callable[[Watch, np.ndarray], None], task: Task, starts: list[np.ndarray], limit: float
) -> Outcome:
    """Search from one start after the other."""
    watch, ends, begun = Watch(limit), [], 0
    for u in starts:
        watch.start()
        begun += 1
        try:
            search(watch, u)
        except Done:
            pass
        except OutOfTime:
            break
        ends.append(watch.lowest)
    seconds = time.perf_counter() - watch.begin

    def point(seconds: float, loss: float, u: np.ndarray) -> Point:
        weights = weights_of(task.name, jnp.asarray(u), jnp.exp, jax.nn.sigmoid)
        return Point(seconds, loss, task.given | weights)

    trace = [point(*values) for values in watch.trace]
    return Outcome(trace, [point(*values) for values in ends], seconds, len(ends), begun)


def scipy_search(
    fun: Callable[[np.ndarray], tuple[float, np.ndarray | None]],
    method: str,
    scale: float,
    watch: Watch,
    u: np.ndarray,
) -> None:
    """fun: u -> loss and gradient, or None for finite differences. The loss is divided by `scale`,
    since the first step and the tolerances are made for losses of about 1."""

    def scaled(u: np.ndarray):
        value, gradient = fun(u)
        value = value if np.isfinite(value) else HUGE
        watch.loss(value, u)
        if gradient is None:
            return value / scale
        return value / scale, np.nan_to_num(gradient / scale)

    exact = method == "L-BFGS-B"
    tight = {"ftol": 1e-12, "gtol": 1e-8, "maxfun": 10**6} if exact else {"ftol": 1e-9}
    minimize(
        scaled,
        u,
        method=method,
        jac=exact or None,
        callback=watch.iteration,
        options={"maxiter": MAX_ITERATIONS} | tight,
    )


def torch_search(
    loss: Callable[["torch.Tensor"], "torch.Tensor"], scale: float, watch: Watch, u: np.ndarray
) -> None:
    params = torch.tensor(u, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [params],
        max_iter=CHUNK,
        max_eval=25 * CHUNK,
        history_size=10,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> "torch.Tensor":
        optimizer.zero_grad()
        value = loss(params) / scale
        value.backward()
        number = value.item() * scale
        if not np.isfinite(number):
            params.grad.nan_to_num_(0, 0, 0)
            number, value = HUGE, torch.full_like(value, HUGE)
        watch.loss(number, params.detach().numpy())
        return value

    for chunk in range(MAX_ITERATIONS // CHUNK):
        optimizer.step(closure)
        if optimizer.state[params]["n_iter"] < (chunk + 1) * CHUNK:
            return  # converged by its own tolerances
        for _ in range(CHUNK):
            watch.iteration()


def learn_once(task: Task, problem: sp.Problem, **options) -> tuple[sp.LearnResult, Outcome]:
    begin = time.perf_counter()
    result = sp.learn(task.sampler, problem, task.levels, task.given, FREE[task.name], **options)
    jax.block_until_ready(result.guidance)
    seconds = time.perf_counter() - begin
    starts = options.get("search", sp.Search()).starts
    last = Point(seconds, result.loss, result.guidance)
    return result, Outcome([last], [], seconds, starts, starts)


# -------------------------------------------------------------------------------- the contestants


def contestants(
    task: Task, reduced: sp.Problem, half: Modes, options: Options
) -> tuple[list[Contestant], dict[str, float]]:
    """All of them, and the seconds of the first calls."""
    name, levels, rows = task.name, task.levels, []
    for label, keywords in (
        ("learn, default", {}),
        ("learn, bare", BARE),
        ("learn, bare, few", BARE | {"search": sp.Search(starts=options.slow_starts)}),
    ):
        if not (options.quick and label.endswith("few")):  # compiled anew, for seconds
            run = partial(learn_again, task, reduced, keywords)
            starts = keywords.get("search", sp.Search()).starts
            rows.append(Contestant(label, starts, run, run, True))

    result, outcome = learn_once(task, reduced)
    first = {"learn, default": outcome.seconds}
    constant = result.baseline_guidance["tuned_constant"]
    centres = [unconstrained(name, guidance) for guidance in (task.given, constant)]
    num = max(options.starts, options.slow_starts)
    starts = starts_around(centres, levels, len(FREE[name]), num)
    scale = float(sp.evaluate(task.sampler, reduced, levels, constant))

    def add(label: str, search: Callable, slow: bool) -> None:
        """A peer, warmed up by a fraction of a second of its own search."""
        own = starts[: options.slow_starts if slow else options.starts]
        run = partial(from_starts, search, task, own)
        warm_up, race = partial(run, min(0.2, options.limit)), partial(run, options.limit)
        rows.append(Contestant(label, len(own), warm_up, race, False))

    eta = np.asarray(task.given.get("eta", np.zeros(len(levels.alpha) - 1)))
    for place, modes in (("half", half), ("reduced", modes_of(reduced))):
        table = tables(name, modes, levels, eta)
        loss = partial(torch_loss, name, as_torch(table))
        threads = faster_threads(loss, starts[0])
        search = partial(with_threads, threads, torch_search, loss, scale)
        add(f"PyTorch, {place}", search, place == "half")
        if place == "reduced" or len(levels.alpha) - 1 == min(options.steps):
            fun = partial(without_gradient, partial(numpy_loss, name, table))
            add(f"SLSQP, {place}", partial(scipy_search, fun, "SLSQP", scale), True)

    def loss_of(u: jax.Array) -> jax.Array:
        weights = task.given | weights_of(name, u, jnp.exp, jax.nn.sigmoid)
        return sp.evaluate(task.sampler, reduced, levels, weights)

    value_and_grad = jax.jit(jax.value_and_grad(loss_of))

    def jitted(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = jax.block_until_ready(value_and_grad(u))
        return float(value), np.asarray(gradient)

    add("L-BFGS-B, reduced", partial(scipy_search, jitted, "L-BFGS-B", scale), False)
    rows[-1] = rows[-1]._replace(warm_up=partial(jitted, starts[0]), compiles=True)
    return rows, first


def learn_again(task: Task, problem: sp.Problem, options: dict) -> Outcome:
    return learn_once(task, problem, **options)[1]


def without_gradient(loss: Callable, u: np.ndarray) -> tuple[float, None]:
    with np.errstate(over="ignore", invalid="ignore"):
        return loss(u), None


def with_threads(threads: int, search: Callable, *arguments) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        search(*arguments)
    finally:
        torch.set_num_threads(before)


def faster_threads(loss: Callable, u: np.ndarray) -> int:
    """One thread or PyTorch's default number."""

    def evaluate(threads: int) -> float:
        seconds = []
        for _ in range(7):
            begin = time.perf_counter()
            loss(torch.tensor(u, requires_grad=True)).backward()
            seconds.append(time.perf_counter() - begin)
        return float(np.median(seconds))

    timed = {}
    for threads in {1, torch.get_num_threads()}:
        with_threads(threads, lambda threads=threads: timed.update({threads: evaluate(threads)}))
    return min(timed, key=timed.get)


def starts_around(
    centres: list[np.ndarray], levels: sp.NoiseLevel, num_weights: int, num: int
) -> list[np.ndarray]:
    """The centres, then random curves around them: four cosines in log-SNR, as those of `learn`."""
    rng = np.random.default_rng(0)
    snr = np.log(np.asarray(levels.alpha[:-1]) / np.asarray(levels.sigma[:-1]))
    position = (snr - snr[0]) / max(snr[-1] - snr[0], 1e-6)
    order = np.arange(4)
    waves = 2 / (1 + order)[:, None] * np.cos(np.pi * order[:, None] * position)
    curves = (rng.normal(size=(num, num_weights, 4)) @ waves).reshape(num, -1)
    curves[:2] = 0
    return [centres[i % 2] + curve for i, curve in enumerate(curves)]


# ------------------------------------------------------------------------------------ the problem


def modes_of(problem: sp.Problem) -> Modes:
    weight = np.asarray(problem.weight)
    return Modes(
        np.asarray(problem.spectrum),
        np.asarray(problem.response),
        weight / weight.sum(),
        float(problem.sigma_y),
    )


def half_of(problem: sp.Problem, size: int) -> Modes:
    """The frequencies of `rfft2`: all but those at the ends stand for two."""
    modes = modes_of(problem)
    weight = np.full((size, size // 2 + 1), 2.0)
    weight[:, [0, -1]] = 1
    columns = slice(size // 2 + 1)
    spectrum, response = (v.reshape(size, size)[:, columns].ravel() for v in modes[:2])
    return Modes(spectrum, response, weight.ravel() / size**2, modes.sigma_y)


def task_of(name: str, problem: sp.Problem, steps: int) -> Task:
    levels = sp.vp_linear(steps)
    given = sp.SAMPLERS[name]().heuristic(problem, levels)
    if "eta" in given:
        given["eta"] = jnp.zeros(steps)
    return Task(name, levels, given)


def check_losses(task: Task, full: sp.Problem, half: Modes, reduced: sp.Problem) -> float:
    """The largest relative deviation of the PyTorch and NumPy losses from `evaluate`."""
    rng, steps, deviations = np.random.default_rng(1), len(task.levels.alpha) - 1, []
    for size, eta in (
        (0.3, np.zeros(steps)),
        (1.0, np.zeros(steps)),
        (0.3, rng.uniform(size=steps)),
    ):
        given = task.given | ({"eta": jnp.asarray(eta)} if "eta" in task.given else {})
        u = unconstrained(task.name, given)
        u = u + size * rng.normal(size=u.shape)
        weights = given | weights_of(task.name, jnp.asarray(u), jnp.exp, jax.nn.sigmoid)
        for problem, modes in (
            (full, modes_of(full)),
            (full, half),
            (reduced, modes_of(reduced)),
        ):
            wanted = float(sp.evaluate(task.sampler, problem, task.levels, weights))
            table = tables(task.name, modes, task.levels, eta)
            values = [numpy_loss(task.name, table, u)]
            values.append(torch_loss(task.name, as_torch(table), torch.tensor(u)).item())
            deviations += [abs(value / wanted - 1) for value in values]
    assert max(deviations) < 1e-10, f"{task.name}: the losses differ by {max(deviations):.1e}"
    return max(deviations)


# -------------------------------------------------------------------------------------- the table


def compare(
    task: Task, unique: sp.Problem, reduced: sp.Problem, half: Modes, options: Options
) -> dict[str, float]:
    """Race all contestants and print the table; the losses that they reach, by label."""
    rows, first = contestants(task, reduced, half, options)
    for row in rows:
        if row.label in first:
            continue
        begin = time.perf_counter()
        row.warm_up()
        if row.compiles:
            first[row.label] = time.perf_counter() - begin
    outcomes: dict[str, list[Outcome]] = {row.label: [] for row in rows}
    for repeat in range(options.repeats):
        for row in rows[:: -1 if repeat % 2 else 1]:
            outcomes[row.label].append(row.run())

    def loss(point: Point) -> float:
        return float(sp.evaluate(task.sampler, unique, task.levels, point.guidance))

    losses = {label: min(loss(run.trace[-1]) for run in runs) for label, runs in outcomes.items()}
    print_table(rows, outcomes, first, losses, loss, options)
    return losses


def print_table(
    rows: list[Contestant],
    outcomes: dict[str, list[Outcome]],
    first: dict[str, float],
    losses: dict[str, float],
    loss: Callable[[Point], float],
    options: Options,
) -> None:
    goal = 1.01 * min(losses.values())

    def reached(run: Outcome) -> float:
        # The searched problem is close to the full one: points far above the goal need no look.
        close = (point for point in run.trace if point.loss <= 1.2 * goal)
        return next((point.seconds for point in close if loss(point) <= goal), np.inf)

    def median(values: list[float]) -> float:
        return float(np.median(values))

    totals, per_start, to_goal, searched = {}, {}, {}, {}
    for label, runs in outcomes.items():
        totals[label] = median([run.seconds for run in runs])
        per_start[label] = median([run.seconds / run.begun for run in runs])
        to_goal[label] = median([reached(run) for run in runs])
        searched[label] = min(run.trace[-1].loss for run in runs)
    ours = ("learn, default", "learn, bare")
    reference = min(to_goal[label] for label in ours)
    if not np.isfinite(reference):
        reference = min(totals[label] for label in ours)

    columns = (
        "starts",
        "first",
        "total",
        "a start",
        "x",
        "to 1 %",
        "x",
        "W2^2",
        "searched",
        "near",
    )
    print(f"{'':<18}" + "".join(f"{column:>10}" for column in columns))
    for row in rows:
        label, run = row.label, outcomes[row.label][0]
        found = np.isfinite(to_goal[label])
        ratio = (to_goal[label] if found else totals[label]) / reference
        near = sum(loss(end) <= goal for end in run.ends)
        cells = [
            f"{run.finished}/{row.starts}",
            f"{first[label]:.2f}" if label in first else "",
            f"{totals[label]:.2f}" + ("*" if run.finished < row.starts else ""),
            f"{per_start[label]:.3f}",
            f"{per_start[label] / per_start[ours[0]]:.2g}",
            f"{to_goal[label]:.2f}" if found else "never",
            f"{ratio:.2g}" if found else f"> {ratio:.2g}",
            f"{losses[label]:.4g}",
            f"{searched[label]:.4g}",
            f"{near}/{run.finished}" if run.ends else "",
        ]
        print(f"{label:<18}" + "".join(f"{cell:>10}" for cell in cells))
    if any(outcomes[row.label][0].finished < row.starts for row in rows):
        print(f"* stopped after {options.limit:g} s")


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    size = 256
    if options.quick:
        size, options = 64, Options(True, (10,), options.samplers, 2, 2, 1, 3.0, options.bins)
    prior, blur = sp.power_law((size, size)), sp.gaussian_blur((size, size), 2.0)
    full = sp.image_problem(prior, blur, 0.05)
    half = half_of(full, size)
    begin = time.perf_counter()
    unique, _ = sp.unique_modes(full)
    reduced, _ = sp.bin_modes(unique, options.bins)
    seconds = time.perf_counter() - begin
    print(f"{size}x{size}: {full.weight.size} modes, half {half.share.size}, ", end="")
    print(f"reduced {reduced.weight.size} ({seconds:.2f} s, not counted below)")
    for name in options.samplers:
        for steps in options.steps:
            task = task_of(name, full, steps)
            deviation = check_losses(task, full, half, reduced)
            print(f"\n{name}, {steps} steps; losses agree to {deviation:.0e}", flush=True)
            losses = compare(task, unique, reduced, half, options)
            if options.quick:
                ours = min(losses["learn, default"], losses["learn, bare"])
                behind = ours / min(losses.values()) - 1
                assert behind < 0.01, f"{name}: learn ends {behind:.1%} above the best peer"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
