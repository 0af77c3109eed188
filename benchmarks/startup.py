"""Where does the CPU time of a run go, cold and warm?

Runs `spectralpost design` and one `learn` in fresh processes, with an empty folder of compiled
programs (cold) and with what that run kept (warm). CPU
seconds, user and system, of the whole process; and of one process by part:

    import     of the package and what it needs, until a search can begin
    trace      Python functions to JAX's programs
    lower      these to XLA's
    compile    XLA's work in all threads, or fetching what an earlier run kept
    draw       figures, matplotlib's import included
    write      the other files
    run        all the rest: search, restored photograph, keeping large programs

    python benchmarks/startup.py            five minutes on two cores
    python benchmarks/startup.py --quick    `learn` only
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

# Runs in a process of its own; prints one line of JSON, the last.
TIMED = """
import json, sys, time
begin = time.process_time()
import jax
from collections import defaultdict
seconds = defaultdict(float)
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: seconds.__setitem__(event, seconds[event] + duration)
)

def time_calls(part, module, name):
    function = getattr(module, name)
    def timed(*args, **kwargs):
        before = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.process_time() - before
    setattr(module, name, timed)

from jax._src import compiler
time_calls("compile", compiler, "compile_or_get_cached")  # JAX's own event is of the clock
what = sys.argv[1]
if what == "design":
    from spectralpost import figures
    from spectralpost.cli import main
    from spectralpost.commands import design
    import spectralpost.learning
    for name in ("report_figure", "restored_figure", "save_figure"):
        time_calls("draw", figures, name)
    time_calls("write", design, "write")
    imported = time.process_time()
    main(["design", "--out", sys.argv[2]])
else:
    import spectralpost as sp
    from spectralpost.compiled import keep_compiled_programs
    jax.config.update("jax_enable_x64", True)
    keep_compiled_programs()
    shape = (64, 64)
    blur = sp.gaussian_blur(shape, 2.0)
    problem, _ = sp.unique_modes(sp.image_problem(sp.power_law(shape), blur, 0.05))
    sampler = sp.SAMPLERS[what]()
    sp.learn
    imported = time.process_time()
    sp.learn(sampler, problem, sp.vp_linear(20))
parts = {
    "import": imported - begin,
    "trace": seconds["/jax/core/compile/jaxpr_trace_duration"],
    "lower": seconds["/jax/core/compile/jaxpr_to_mlir_module_duration"],
    "compile": seconds["compile"],
    "draw": seconds["draw"],
    "write": max(seconds["write"] - seconds["draw"], 0),
}
print(json.dumps(parts))
"""


@dataclass
class Options:
    """CPU seconds of a command and of a search, cold and warm, by part."""

    quick: bool = False
    """Only `learn`."""
    samplers: tuple[str, ...] = ("dps", "diffpir")
    """Whose `learn` is timed."""
    repeats: int = 2
    """Warm runs; the least is printed."""


def run(what: str, cache: Path) -> dict[str, float]:
    """Of one fresh process: its parts, total CPU seconds and peak memory in MB."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", TIMED, what, f"{folder}/out"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        parts = json.loads(process.stdout.read().strip().splitlines()[-1])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{what}: ended with {status}")
    parts["total"] = usage.ru_utime + usage.ru_stime
    parts["MB"] = usage.ru_maxrss / 1024
    return parts


def main(options: Options) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parts_of = ("import", "trace", "lower", "compile", "draw", "write")
    columns = (*parts_of, "run", "total", "MB")
    print(f"{'':<24}" + "".join(f"{column:>9}" for column in columns))
    for what in (*options.samplers, *(() if options.quick else ("design",))):
        label = what if what == "design" else f"learn, {what} S=20"
        with tempfile.TemporaryDirectory() as cache:
            runs = [run(what, Path(cache)) for _ in range(1 + options.repeats)]
        rows = {"cold": runs[0], "warm": min(runs[1:], key=lambda parts: parts["total"])}
        for state, parts in rows.items():
            # Traces nest, and are timed by the clock: what is left may be more than it seems.
            parts["run"] = max(parts["total"] - sum(parts[part] for part in parts_of), 0.0)
            cells = "".join(f"{parts[column]:>9.2f}" for column in columns[:-1])
            print(f"{label + ', ' + state:<24}{cells}{parts['MB']:>9.0f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
