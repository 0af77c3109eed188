"""Where does the CPU time of a run go, cold and warm?

Runs `spectralpost design` and one `learn` in fresh processes, with an empty folder of compiled
programs (cold) and with what that run kept (warm). CPU seconds, user and system, of the whole
process, and by part:

    import     of the package and what it needs, until a search can begin
    trace      Python functions to JAX's programs
    lower      these to XLA's
    compile    XLA's work in all threads, or fetching what an earlier run kept
    draw       figures, matplotlib's import included
    write      the other files
    run        all the rest: search, restored photograph, keeping large programs

    python benchmarks/startup.py            seven minutes on two cores
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

# Runs in a process of its own; prints one line of JSON, the last. Each part has the CPU seconds of
# all threads while it goes on, and no other part within it.
TIMED = """
import json, sys, time
from collections import defaultdict
seconds, going_on, since = defaultdict(float), ["import"], time.process_time()

def switch():
    global since
    now = time.process_time()
    seconds[going_on[-1]] += now - since
    since = now

def begin(part):
    switch()
    going_on.append(part)

def end():
    switch()
    going_on.pop()

def time_calls(part, module, name):
    function = getattr(module, name)
    def timed(*args, **kwargs):
        begin(part)
        try:
            return function(*args, **kwargs)
        finally:
            end()
    setattr(module, name, timed)

import jax
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
# JAX tells of a scalar when each begins, and of a duration when it ends.
jax.monitoring.register_scalar_listener(
    lambda event, value, **_: begin(EVENTS[event]) if event in EVENTS else None
)
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: end() if event in EVENTS else None
)
what = sys.argv[1]
if what == "design":
    from spectralpost import figures
    from spectralpost.cli import main
    from spectralpost.commands import design
    import spectralpost.learning
    time_calls("write", design, "write")
    for name in ("report_figure", "restored_figure", "save_figure"):
        time_calls("draw", figures, name)
    begin("run")
    main(["design", "--out", *sys.argv[2:]])
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
    begin("run")
    sp.learn(sampler, problem, sp.vp_linear(20))
switch()
print(json.dumps(seconds))
"""
NETWORK = ("--limits", "network")
DESIGNS = {
    "design": (),
    "- for a network": NETWORK,
    "- from the gallery": (*NETWORK, "--start", "dps-gaussian_blur2-s0.05-50"),
    "- x4": ("--degradation", "downsample", "--degradation-options", "factor=4"),
}
PARTS = ("import", "trace", "lower", "compile", "draw", "write")


@dataclass
class Options:
    """CPU seconds of a command and of a search, cold and warm, by part."""

    quick: bool = False
    """Only `learn`."""
    samplers: tuple[str, ...] = ("dps", "diffpir")
    """Whose `learn` is timed."""
    repeats: int = 2
    """Warm runs; the least is printed."""


def run(what: str, cache: Path, options: tuple[str, ...] = ()) -> dict[str, float]:
    """Of one fresh process: its parts, total CPU seconds and peak memory in MB."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", TIMED, what, f"{folder}/out", *options]
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
    columns = (*PARTS, "run", "total", "MB")
    print(f"{'':<24}" + "".join(f"{column:>9}" for column in columns))
    rounds = [(f"learn, {name} S=20", name, ()) for name in options.samplers]
    if not options.quick:
        rounds += [(label, "design", given) for label, given in DESIGNS.items()]
    for label, what, given in rounds:
        with tempfile.TemporaryDirectory() as cache:
            runs = [run(what, Path(cache), given) for _ in range(1 + options.repeats)]
        rows = {"cold": runs[0], "warm": min(runs[1:], key=lambda parts: parts["total"])}
        for state, parts in rows.items():
            parts["run"] = parts["total"] - sum(parts.get(part, 0) for part in PARTS)
            cells = "".join(f"{parts.get(column, 0):>9.2f}" for column in columns[:-1])
            print(f"{label + ', ' + state:<24}{cells}{parts['MB']:>9.0f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
