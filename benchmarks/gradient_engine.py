"""What does the gradient of a trajectory cost, in time and memory, and what limits it?

256x256, power law, Gaussian blur of std 2, sigma_y 0.05, the uniform VP grid, float32, the
published weights. Five tables:

    time        averaged W2^2 and its gradient: `loss_and_gradient`, with all devices and with one;
                `jax.value_and_grad` through `sampler_transfer`, in the engine's own chunks on all
                devices, which is what its two passes are worth, and of all modes at once; PyTorch,
                eager, on coefficients simplified by hand (`by_hand.py`), the better of one and the
                default number of threads. "tables given": all that does not depend on the free
                weights is computed outside of the clock, which flatters it. "tables computed":
                inside, as for anybody who learns eta or changes problems
    memory      peak of a fresh process less what it held before, compilation included
    scaling     against modes, and against steps
    compiling   the first call less the second, against steps
    limits      what a step computes and moves, against what this machine can

    python benchmarks/gradient_engine.py             some minutes
    python benchmarks/gradient_engine.py --quick     small, to see that it runs

"ns" is per mode and step. Contestants take turns; times are medians over the turns, ratios medians
of the ratios within a turn. Deviations are from a float64 gradient of the same float32 inputs, of
the gradient relative to its largest entry.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import spectralpost as sp
from spectralpost import transfer
from spectralpost.compiled import drop_compiled_programs
from spectralpost.learning import Prepared, advance, begin, gradient, prepare

try:
    import by_hand
    import torch
except ImportError:
    torch = None

FREE = {"dps": ("zeta",), "diffpir": ("lambda_", "zeta")}
CASES = {"dps, eta 1": ("dps", 1.0), "dps, eta 0": ("dps", 0.0), "diffpir": ("diffpir", None)}
FITS = 8e9  # bytes: what needs more is not tried


@dataclass
class Options:
    """Time, memory and limits of the gradient of a trajectory."""

    quick: bool = False
    """64x64, 10 steps, three turns."""
    turns: int = 11
    tables: tuple[str, ...] = ("memory", "time", "scaling", "compiling", "limits")
    peak: tuple[str, int, int] | None = None
    """Of the script's own: print the peak memory of (contestant, modes, steps), then end."""


# -------------------------------------------------------------------------------- the contestants


def cases(options: Options) -> dict[str, tuple[str, float | None]]:
    return {"diffpir": CASES["diffpir"]} if options.quick else CASES


def problem_of(modes: int) -> sp.Problem:
    """Images of about as many pixels, twice as wide as high where that is not a square: float32."""
    height = 2 ** (int(np.log2(modes)) // 2)
    shape = height, modes // height
    prior, blur = sp.power_law(shape), sp.gaussian_blur(shape, 2.0)
    return single(sp.image_problem(prior, blur, 0.05))


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def setting_of(name: str, eta: float | None, problem: sp.Problem, steps: int):
    """Sampler, levels, weights: the published ones, eta as given."""
    sampler, levels = sp.SAMPLERS[name](), single(sp.vp_linear(steps))
    guidance = single(sampler.heuristic(problem, levels))
    if eta is not None:
        guidance["eta"] = jnp.full(steps, eta, jnp.float32)
    return sampler, levels, guidance


@partial(jax.jit, static_argnames=("sampler", "free"))
def plain(sampler, problem, levels, guidance, free):
    def loss(weights):
        transfer = sp.sampler_transfer(sampler, problem, levels, guidance | weights)
        return sp.wasserstein2(problem, transfer)

    return jax.value_and_grad(loss)({name: guidance[name] for name in free})


@partial(jax.jit, static_argnames="sampler")
def forward(sampler, problem, levels, guidance):
    return sp.wasserstein2(problem, sp.sampler_transfer(sampler, problem, levels, guidance))


@partial(jax.jit, static_argnames=("sampler", "free"))
def one_device(sampler, problem, levels, guidance, free):
    """`loss_and_gradient` where only one device is seen."""
    with mock.patch.object(jax, "local_device_count", lambda: 1):
        return gradient.loss_and_gradient(sampler, problem, levels, guidance, free)


@partial(jax.jit, static_argnames=("sampler", "free"))
def in_its_chunks(sampler, problem, levels, guidance, free):
    """`jax.value_and_grad` in place of the engine's two passes through a chunk."""

    def of_chunk(sampler, problem, levels, guidance, free, objective):
        del objective
        return plain.__wrapped__(sampler, problem, levels, guidance, free)

    traced_anew = gradient._by_chunks.__wrapped__
    with mock.patch.multiple(gradient, _of_chunk=of_chunk, _by_chunks=traced_anew):
        return gradient.loss_and_gradient(sampler, problem, levels, guidance, free)


def peers(name: str, problem: sp.Problem, levels: sp.NoiseLevel, guidance: dict) -> dict:
    """PyTorch, label -> function that returns loss and gradient by the free weights."""
    weight = np.asarray(problem.weight)
    modes = by_hand.Modes(
        torch.tensor(np.array(problem.spectrum)),
        torch.tensor(np.array(problem.response)),
        torch.tensor(weight / weight.sum()),
        float(problem.sigma_y),
    )
    grid = sp.NoiseLevel(*(torch.tensor(np.array(leaf)) for leaf in levels))
    eta = torch.tensor(np.array(guidance.get("eta", np.zeros(len(grid.alpha) - 1, np.float32))))
    exact = by_hand.Modes(*(np.asarray(leaf, float) for leaf in modes[:3]), modes.sigma_y)
    wide = sp.NoiseLevel(*(np.asarray(leaf, float) for leaf in levels))
    rounded = by_hand.as_torch(by_hand.tables(name, exact, wide, np.asarray(eta, float)))
    given = by_hand.Tables(*(_as_float32(field) for field in rounded))
    u = by_hand.unconstrained(name, guidance).astype(np.float32)

    def run(table: Callable) -> tuple[float, dict]:
        params = torch.tensor(u, requires_grad=True)
        loss = by_hand.torch_loss(name, table(), params)
        loss.backward()
        by_params = np.split(params.grad.numpy(), len(FREE[name]))
        gradients = {}
        for free, by in zip(FREE[name], by_params, strict=True):
            w = np.asarray(guidance[free])
            gradients[free] = by / (w * (1 - w) if (name, free) in by_hand.UNIT else w)
        return loss.item(), gradients

    return {
        "PyTorch, tables given": partial(run, lambda: given),
        "PyTorch, tables computed": partial(
            run, lambda: by_hand.tables(name, modes, grid, eta, xp=torch)
        ),
    }


def _as_float32(field):
    if isinstance(field, dict):
        return {key: _as_float32(value) for key, value in field.items()}
    return field.float() if isinstance(field, torch.Tensor) else field


def with_threads(threads: int, run: Callable):
    torch.set_num_threads(threads)
    return run()


# --------------------------------------------------------------------------------------- the clock


def seconds_of(run: Callable) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begin


def in_turns(runs: dict[str, Callable], turns: int) -> dict[str, np.ndarray]:
    """Seconds of each, [turns]: one after the other, in alternating order."""
    seconds = {label: [] for label in runs}
    for turn in range(turns):
        for label in list(runs)[:: -1 if turn % 2 else 1]:
            seconds[label].append(seconds_of(runs[label]))
    return {label: np.asarray(values) for label, values in seconds.items()}


def headline(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


# ---------------------------------------------------------------------------------------- the time


def time_table(options: Options, modes: int, steps: int) -> None:
    headline(f"time: {modes} modes, {steps} steps, {jax.local_device_count()} devices")
    problem = problem_of(modes)
    for title, (name, eta) in cases(options).items():
        sampler, levels, guidance = setting_of(name, eta, problem, steps)
        arguments = sampler, problem, levels, guidance, FREE[name]
        runs = {
            "engine, all devices": partial(gradient.loss_and_gradient, *arguments),
            "engine, one device": partial(one_device, *arguments),
            "value_and_grad, same chunks": partial(in_its_chunks, *arguments),
            "value_and_grad, whole": partial(plain, *arguments),
        }
        if torch is not None:
            threads = sorted({1, torch.get_num_threads(), os.cpu_count()})
            for label, run in peers(name, problem, levels, guidance).items():
                for num in threads:
                    runs[f"{label} ({num})"] = partial(with_threads, num, run)
        drop_compiled_programs()  # cases share programs
        first = {label: seconds_of(run) for label, run in runs.items()}
        seconds = in_turns(runs, options.turns)
        ours = seconds["engine, all devices"]
        wide = jax.tree.map(lambda leaf: leaf.astype(float), (problem, levels, guidance))
        wanted = plain(sampler, *wide, FREE[name])
        columns = "".join(f"{c:>10}" for c in ("ns", "x", "first, s", "loss", "gradient"))
        print(f"{title:<29}{columns}")
        for label in fastest(seconds):
            loss, by = runs[label]()
            largest = max(float(jnp.abs(leaf).max()) for leaf in wanted[1].values())
            gap = max(np.abs(np.asarray(by[key]) - leaf).max() for key, leaf in wanted[1].items())
            cells = (
                f"{np.median(seconds[label]) / (modes * steps) * 1e9:.2f}",
                f"{np.median(seconds[label] / ours):.2f}",
                f"{first[label]:.2f}" if not label.startswith("PyTorch") else "",
                f"{abs(float(loss) / float(wanted[0]) - 1):.0e}",
                f"{gap / largest:.0e}",
            )
            print(f"{label:<29}" + "".join(f"{cell:>10}" for cell in cells), flush=True)
    if torch is None:
        print("no rows of PyTorch: it is not installed")
    else:
        print("(1), (2), ...: threads of PyTorch, the better number of them")


def fastest(seconds: dict[str, np.ndarray]) -> list[str]:
    """All labels, but of those that differ in "(threads)" only the one with the least median."""
    best: dict[str, str] = {}
    for label in seconds:
        key = label.partition(" (")[0]
        if key not in best or np.median(seconds[label]) < np.median(seconds[best[key]]):
            best[key] = label
    return list(best.values())


# -------------------------------------------------------------------------------------- the memory


def memory_table(sizes: list[int], steps: int) -> None:
    headline(f"memory: peak of a value and gradient less what was held before, {steps} steps")
    print(f"{'modes':>9}{'inputs, MB':>12}{'engine, MB':>12}{'plain, MB':>12}")
    for modes in sizes:
        cells = [peak_of(contestant, modes, steps) for contestant in ("engine", "plain")]
        inputs = 4 * 4 * modes / 1e6  # spectrum, response, mean, weight
        print(f"{modes:>9}{inputs:>12.0f}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def peak_of(contestant: str, modes: int, steps: int) -> str:
    """In a process of its own: what an earlier one has held is not given back."""
    command = [sys.executable, __file__, "--peak", contestant, str(modes), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "failed"


def print_peak(contestant: str, modes: int, steps: int) -> None:
    engine = jax.jit(gradient.loss_and_gradient, static_argnames=("sampler", "free"))
    run = {"engine": engine, "plain": plain}[contestant]
    # Rows repeated: to make a large image's problem takes more than its gradient.
    rows = problem_of(2**12)
    problem = jax.tree.map(lambda x: jnp.tile(x, modes // 2**12) if x.ndim else x, rows)
    sampler, levels, guidance = setting_of("dps", 0.0, rows, steps)
    arguments = problem, levels, guidance
    jax.block_until_ready(arguments)
    before = high_water()
    compiled = run.lower(sampler, *arguments, FREE["dps"]).compile()
    needed = compiled.memory_analysis().temp_size_in_bytes
    if needed > FITS:
        print(f"> {needed / 1e6:.0f}")
        return
    jax.block_until_ready(compiled(*arguments))
    print(f"{high_water() - before:.0f}")


def high_water() -> float:
    """Most memory that this process has held so far, MB.

    getrusage may count the parent's, from which this one was forked: Linux tells them apart.
    """
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


# ------------------------------------------------------------------------------------- the scaling


def scaling_table(options: Options, by_modes: list[int], by_steps: list[int]) -> None:
    modes, steps = by_modes[len(by_modes) // 2], max(by_steps) // 4
    headline("scaling: DPS, eta 0, ns per mode and step, engine with all devices")
    print(f"{'modes':>9}{'steps':>7}{'forward':>10}{'engine':>10}{'ratio':>8}")
    pairs = [(num, steps) for num in by_modes] + [(modes, num) for num in by_steps]
    for modes, steps in pairs:
        problem = problem_of(modes)
        sampler, levels, guidance = setting_of("dps", 0.0, problem, steps)
        runs = {
            "forward": partial(forward, sampler, problem, levels, guidance),
            "engine": partial(
                gradient.loss_and_gradient, sampler, problem, levels, guidance, FREE["dps"]
            ),
        }
        for run in runs.values():
            seconds_of(run)
        # Short ones are repeated within a turn, as long as a long one takes.
        repeats = max(1, 2_000_000 // (modes * steps))
        many = {label: partial(repeated, run, repeats) for label, run in runs.items()}
        seconds = in_turns(many, max(3, options.turns // 2))
        ns = {
            label: np.median(values) / (modes * steps * repeats) * 1e9
            for label, values in seconds.items()
        }
        ratio = np.median(seconds["engine"] / seconds["forward"])
        cells = f"{ns['forward']:>10.2f}{ns['engine']:>10.2f}{ratio:>8.2f}"
        print(f"{modes:>9}{steps:>7}{cells}", flush=True)


def repeated(run: Callable, num: int):
    for _ in range(num):
        result = run()
    return result


# ----------------------------------------------------------------------------------- the compiling


def compiling_table(by_steps: list[int]) -> None:
    headline("compiling: seconds of the first call less those of the second, 4096 modes, DPS")
    print(f"{'steps':>9}{'forward':>10}{'engine':>10}{'search':>10}")
    problem = problem_of(4096)
    small, _ = sp.bin_modes(sp.unique_modes(problem)[0], 64)
    for steps in by_steps:
        sampler, levels, guidance = setting_of("dps", 0.0, problem, steps)
        drop_compiled_programs()
        runs = (
            partial(forward, sampler, problem, levels, guidance),
            partial(gradient.loss_and_gradient, sampler, problem, levels, guidance, FREE["dps"]),
            partial(one_iteration, *search_of(sampler, small, levels, guidance)),
        )
        cells = "".join(f"{seconds_of(run) - seconds_of(run):>10.2f}" for run in runs)
        print(f"{steps:>9}{cells}", flush=True)


def search_of(sampler, problem: sp.Problem, levels: sp.NoiseLevel, guidance: dict):
    """The loss of `learn` with its defaults, for one problem, and one start."""
    prepared = prepare(sampler, [problem], levels, guidance, FREE["dps"])
    return prepared, np.log(np.asarray(guidance["zeta"]))[None]


def one_iteration(prepared: Prepared, starts: np.ndarray):
    return advance(prepared.loss, begin(prepared.method, starts), prepared.method, 1)


# -------------------------------------------------------------------------------------- the limits


def limits_table(options: Options, steps: int) -> None:
    headline("limits: one device, one chunk, per mode and step")
    modes = gradient.CHUNK
    rates = measured_rates(options)
    print("this machine, one device: " + ", ".join(f"{v:.1f} {k}" for k, v in rates.items()))
    print("(a copy counts what is read and what is written, a multiply-add two operations)")
    print("By XLA's count of the compiled loop bodies, each once, and of what is done once for all")
    print("steps, per step; divisions and roots counted in its text.")
    problem = problem_of(modes)
    columns = ("ns", "flops", "bytes", "divs", "flops, ns", "bytes, ns", "divs, ns", "binds")
    print(f"{'':<20}" + "".join(f"{column:>10}" for column in columns) + f"{'x':>7}")
    for title, (name, eta) in cases(options).items():
        sampler, levels, guidance = setting_of(name, eta, problem, steps)
        runs = {
            "forward": (forward, (sampler, problem, levels, guidance), ()),
            "engine": (one_device, (sampler, problem, levels, guidance), (FREE[name],)),
        }
        for label, (run, arguments, more) in runs.items():
            seconds_of(partial(run, *arguments, *more))
            turns = [
                seconds_of(partial(repeated, partial(run, *arguments, *more), 5))
                for _ in range(options.turns)
            ]
            ns = np.median(turns) / 5 / (modes * steps) * 1e9
            counted = per_step(run, arguments, more, modes)
            needs = {
                "flops": counted["flops"] / rates["Gflop/s"],
                "bytes": counted["bytes"] / rates["GB/s in cache"],
                "divs": counted["divs"] / rates["G divisions/s"],
            }
            binds = max(needs, key=needs.get)
            cells = [f"{ns:.2f}", *(f"{counted[key]:.0f}" for key in needs)]
            cells += [f"{need:.2f}" for need in needs.values()]
            row = "".join(f"{cell:>10}" for cell in [*cells, binds])
            print(f"{title + ' ' + label:<20}{row}{ns / needs[binds]:>7.1f}", flush=True)
    times = rates["GB/s in cache"] / rates["GB/s in memory"]
    print("x: the time over what the limit that binds would take alone; below 1 the count is of")
    print(f"more than is done. In memory the bytes would take {times:.1f} times as long.")


def per_step(run: Callable, arguments: tuple, more: tuple, modes: int) -> dict[str, float]:
    """Per mode and step. XLA counts a loop's body once: the count grows with steps by what is done
    outside of the loops, and has the loops' bodies and the ends besides. The ends are the count of
    no steps."""
    sampler, problem, levels, guidance = arguments

    def count(steps: int) -> dict[str, float]:
        # The last levels, so that zero steps have a start.
        grid = jax.tree.map(lambda leaf: leaf[-steps - 1 :], levels)
        weights = {name: w[w.size - steps :] for name, w in guidance.items()}
        with mock.patch.object(transfer, "check_levels"):  # which asks for one step at least
            compiled = run.lower(sampler, problem, grid, weights, *more).compile()
        costs = compiled.cost_analysis()
        costs = costs[0] if isinstance(costs, list) else costs
        slow = re.findall(rf"f32\[(?:1,)?{modes}\]\S* (?:divide|sqrt|rsqrt)\(", compiled.as_text())
        return {
            "flops": costs["flops"] / modes,
            "bytes": costs["bytes accessed"] / modes,
            "divs": len(slow),
        }

    most = len(levels.alpha) - 1
    none, half, whole = count(0), count(most // 2), count(most)
    growth = {key: (whole[key] - half[key]) / (most - most // 2) for key in none}
    return {key: whole[key] - none[key] - growth[key] * (most - 1) for key in none}


def measured_rates(options: Options) -> dict[str, float]:
    """Limits of one device, by loops of jitted JAX: the best of the turns."""

    def best(fn: Callable, size: int, passes: int) -> float:
        x = jnp.full(size, 1.5, jnp.float32)
        a = jnp.asarray([0.999, 0.001], jnp.float32)

        @jax.jit
        def loop(x, a):
            return jax.lax.fori_loop(0, passes, lambda _, x: fn(x, a), x)

        seconds_of(partial(loop, x, a))
        seconds = min(seconds_of(partial(loop, x, a)) for _ in range(max(options.turns, 5)))
        return size * passes / seconds / 1e9

    def chains(step: Callable, width: int, length: int) -> Callable:
        """`width` chains side by side: which numbers fill the pipelines differs by machine."""

        def fn(x, a):
            parts = [x * (1 + i) for i in range(width)]
            for _ in range(length):
                parts = [step(part, a) for part in parts]
            return sum(parts[1:], parts[0])

        return fn

    def throughput(step: Callable) -> float:
        shapes = ((1, 4), (1, 8), (4, 4), (8, 8))
        return max(w * n * best(chains(step, w, n), gradient.CHUNK, 2000) for w, n in shapes)

    large = 2**22 if options.quick else 2**26
    return {
        # a step's dozen arrays: more than the first level of a cache
        "GB/s in cache": 8 * best(lambda x, a: x * a[0], 12 * gradient.CHUNK, 2000),
        "GB/s in memory": 8 * best(lambda x, a: x * a[0], large, 4),
        "Gflop/s": 2 * throughput(lambda x, a: x * a[0] + a[1]),
        "G divisions/s": throughput(lambda x, a: a[0] / (x + a[1])),
    }


def main(options: Options) -> None:
    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # before JAX first computes
    jax.config.update("jax_enable_x64", True)  # for the reference; all else has float32 inputs
    if options.peak is not None:
        print_peak(*options.peak)
        return
    modes, steps, sizes = 2**16, 100, [2**16, 2**18, 2**20]
    by_modes, by_steps = [2**12, 2**14, 2**16, 2**18, 2**20], [10, 25, 50, 100, 200, 400]
    compiled_steps = [10, 100, 1000]
    if options.quick:
        options = Options(True, 3, options.tables)
        modes, steps, sizes, compiled_steps = 2**12, 10, [2**12], [10]
        by_modes, by_steps = [2**12, 2**14], [10, 40]
    begin = time.perf_counter()
    tables = {
        "memory": partial(memory_table, sizes, steps),
        "time": partial(time_table, options, modes, steps),
        "scaling": partial(scaling_table, options, by_modes, by_steps),
        "compiling": partial(compiling_table, compiled_steps),
        "limits": partial(limits_table, options, steps),
    }
    for name in options.tables:
        tables[name]()
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
