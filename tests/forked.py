"""Scripts in processes of their own, none of which imports JAX and the library once more.

A server does so once, without starting JAX's backend, and forks a child for each script: its own
exit code, output, folder, modules and JAX settings, as from `python script`. Where processes are
not safely forked, each script is started by itself.
"""

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from compiling import KEPT, reuse_contexts


class Run(Protocol):
    """Runs a script with these options in the folder `cwd`."""

    def __call__(
        self, script: Path, *options: str, cwd: Path
    ) -> subprocess.CompletedProcess[str]: ...


@contextmanager
def scripts_of(env: dict[str, str]) -> Iterator[Run]:
    """A function that runs scripts, all in this environment, one at a time."""
    if sys.platform != "linux":
        yield lambda script, *options, cwd: subprocess.run(
            [sys.executable, script, *options], cwd=cwd, env=env, capture_output=True, text=True
        )
        return
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        text=True,
    )

    def run(script: Path, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        assert server.stdin is not None and server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            told = [Path(folder) / name for name in ("stdout", "stderr")]
            command = [str(script), *options]
            print(json.dumps([command, str(cwd), *map(str, told)]), file=server.stdin, flush=True)
            code = int(server.stdout.readline())
            return subprocess.CompletedProcess(command, code, *(path.read_text() for path in told))

    with server:
        yield run


def next_script() -> list[str]:
    """Answers each request by the exit code of a child; in that child, its command."""
    for line in sys.stdin:
        child = os.fork()
        if child:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        command, cwd, *told = json.loads(line)
        os.chdir(cwd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(told, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        return command
    raise SystemExit


# What scripts import, or the library once it is asked for something.
IMPORTED = ("jax.numpy", "matplotlib.figure", "scipy.optimize", "scipy.stats", "skimage.io", "tyro")

if __name__ == "__main__":
    import spectralpost

    for name in IMPORTED:
        importlib.import_module(name)
    for name in dir(spectralpost):
        getattr(spectralpost, name)
    spectralpost.keep_compiled_programs(KEPT)
    reuse_contexts()
    # As in conftest.py; what is imported lives as long as the process.
    gc.set_threshold(100_000, 20, 20)
    gc.freeze()
    sys.argv = next_script()
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
