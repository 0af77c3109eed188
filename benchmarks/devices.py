"""What does a GPU (or TPU) give, and where does it not pay?

Every kind of device that JAX sees runs the same work in a process of its own, the CPU with all its
cores, one after the other; seconds after a warm-up with `block_until_ready`, the median of the
turns, and of the first call, compilation included:

    gradient    averaged W2^2 and its gradient by all weights, float32, 100 steps of DPS:
                `loss_and_gradient` of 65,536 and of 1,048,576 modes, chunks of several sizes
    sweep       the same of 4,096 designs of 20 steps and 256 rows: `vmap` of `jax.value_and_grad`
    learn       `learn` with its defaults, double precision, a blur of 64x64 in 200 bins
    calibrate   256 colour images of 32x32, the shipped U-Net
    restore     64 colour images of 32x32 x 2 samples, 20 steps of DPS, the shipped U-Net;
                and one of 256x256
    polish      40 gradient steps on these images, 20 steps of DPS

    python benchmarks/devices.py            ten minutes on two cores, two on a GPU
    python benchmarks/devices.py --quick    small, to see that it runs
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import spectralpost as sp
from spectralpost.images import built_in_photographs, tiles


@dataclass
class Options:
    """What does a GPU give?"""

    quick: bool = False
    """Small sizes, one turn."""
    turns: int = 5
    parts: tuple[str, ...] = ("gradient", "sweep", "learn", "calibrate", "restore", "polish")
    platform: str | None = None
    """Of the script's own: measure on this kind of device, print JSON."""


Work = tuple[str, Callable, int]  # what it is, what runs it, how many pieces it does


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def problem_of(side: int, bins: int | None = None) -> sp.Problem:
    problem = sp.image_problem(
        sp.power_law((side, side)), sp.gaussian_blur((side, side), 2.0), 0.05
    )
    return problem if bins is None else sp.bin_modes(sp.unique_modes(problem)[0], bins)[0]


def gradient(options: Options) -> Iterator[Work]:
    steps, sampler = (10 if options.quick else 100), sp.SAMPLERS["dps"]()
    for side in (64,) if options.quick else (256, 1024):
        problem, levels = single(problem_of(side)), single(sp.vp_linear(steps))
        guidance = single(sampler.heuristic(problem, levels))
        for chunk in (None, 2**12, 2**16, 2**18):
            run = partial(
                sp.loss_and_gradient, sampler, problem, levels, guidance, ("zeta",), chunk=chunk
            )
            if chunk is None or chunk <= side**2:
                title = f"gradient, {side**2} modes, chunks of {chunk or 'default size'}"
                yield title, run, side**2 * steps


def sweep(options: Options) -> Iterator[Work]:
    designs, steps = (64, 5) if options.quick else (4096, 20)
    sampler, levels = sp.SAMPLERS["dps"](), single(sp.vp_linear(steps))
    problem = single(problem_of(64, 256))
    zeta = single(sampler.heuristic(problem, levels))["zeta"]

    def loss(zeta, sigma_y):
        one = problem._replace(sigma_y=sigma_y)
        weights = {"zeta": zeta, "eta": jnp.zeros_like(zeta)}
        return sp.wasserstein2(one, sp.sampler_transfer(sampler, one, levels, weights))

    run = jax.jit(jax.vmap(jax.value_and_grad(loss)))
    sigma_y = jnp.geomspace(0.01, 0.3, designs, dtype=jnp.float32)
    weights = jnp.broadcast_to(zeta, (designs, steps))
    yield f"sweep, {designs} designs of {steps} steps", partial(run, weights, sigma_y), designs


def learn(options: Options) -> Iterator[Work]:
    problem = problem_of(64, 200)
    for name in ("diffpir",) if options.quick else ("dps", "diffpir"):
        for steps in (5,) if options.quick else (20, 50, 100):
            run = partial(sp.learn, sp.SAMPLERS[name](), problem, sp.vp_linear(steps))
            yield f"learn, {name}, {steps} steps", lambda run=run: run().loss, 1


def pictures(size: int) -> np.ndarray:
    photographs = [
        one for one in built_in_photographs("rgb", (-1.0, 1.0)).values() if len(one) == 3
    ]
    cut = np.concatenate([tiles(one, size) for one in photographs]).astype(np.float32)
    return np.random.default_rng(0).permutation(cut)


def calibrate(options: Options) -> Iterator[Work]:
    images, network = pictures(32)[: 96 if options.quick else 256], sp.load_unet()
    prior = sp.from_images(images, colour=True)

    def run():
        return sp.calibrate(prior, network, images).calibration.ratio

    yield f"calibrate, {len(images)} images of 32x32", run, len(images)


def restore(options: Options) -> Iterator[Work]:
    sampler, levels = sp.SAMPLERS["dps"](), single(sp.vp_linear(2 if options.quick else 20))
    network = sp.load_unet()
    for size, number, samples in ((32, 4, 2),) if options.quick else ((32, 64, 2), (256, 1, 1)):
        x_0 = pictures(size)[:number]
        blur = sp.gaussian_blur((size, size), 1.5)
        problem = sp.image_problem(sp.power_law((size, size)), blur, 0.05)
        guidance = single(sampler.heuristic(problem, levels))
        y = sp.measure(blur, x_0, 0.05, jax.random.key(0))
        given = sampler, network, blur, y, levels, guidance, jax.random.key(1)
        run = partial(sp.restore, *given, sigma_y=0.05, num_samples=samples)
        yield f"restore, {number} x {samples} images of {size}x{size}", run, number * samples


def polish(options: Options) -> Iterator[Work]:
    steps = 2 if options.quick else 40
    sampler, levels = sp.SAMPLERS["dps"](), single(sp.vp_linear(2 if options.quick else 20))
    x_0, blur = pictures(32)[: 8 if options.quick else 32], sp.gaussian_blur((32, 32), 1.5)
    problem = sp.image_problem(sp.power_law((32, 32)), blur, 0.05)
    guidance = single(sampler.heuristic(problem, levels))
    given = sampler, sp.load_unet(), x_0, blur, 0.05, levels, guidance
    run = partial(sp.polish, *given, steps=steps, patience=steps)
    yield f"polish, {steps} steps on {len(x_0)} images of 32x32", lambda: run().guidance, steps


PARTS = {one.__name__: one for one in (gradient, sweep, learn, calibrate, restore, polish)}
SINGLE_TURN = ("polish",)


def seconds_of(run: Callable) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begin


def measured(options: Options) -> None:
    """On the device of this process: a line of JSON for each piece of work."""
    jax.config.update("jax_enable_x64", True)  # `learn`; all else has float32 inputs
    if options.platform == "cpu":
        jax.config.update("jax_num_cpu_devices", os.cpu_count())
    for part in options.parts:
        for title, run, pieces in PARTS[part](options):
            first = seconds_of(run)
            turns = 1 if options.quick or part in SINGLE_TURN else options.turns
            warm = float(np.median([seconds_of(run) for _ in range(turns)]))
            print(json.dumps([title, first, warm, pieces]), flush=True)


def main(options: Options) -> None:
    if unknown := [part for part in options.parts if part not in PARTS]:
        sys.exit(f"devices: parts {unknown[0]!r}: allowed are {', '.join(PARTS)}")
    if options.platform is not None:
        return measured(options)
    platforms = [name for name in dict.fromkeys((jax.default_backend(), "cpu"))]
    print(f"{jax.devices()[0].device_kind}; {os.cpu_count()} CPU cores; JAX {jax.__version__}")
    rows: dict[str, dict[str, list]] = {}
    for platform in platforms:
        command = [sys.executable, __file__, "--platform", platform, "--turns", str(options.turns)]
        command += ["--quick"] * options.quick + ["--parts", *options.parts]
        # A process that holds the accelerator's memory leaves none for the next.
        few = {"JAX_PLATFORMS": platform.replace("gpu", "cuda")}
        few["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        with subprocess.Popen(
            command, env=os.environ | few, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                title, *numbers = json.loads(line)
                rows.setdefault(title, {})[platform] = numbers
                print(f"  {platform}: {title}: {numbers[1]:.4g} s", file=sys.stderr, flush=True)
        if child.returncode:
            print(f"{platform}: ended with {child.returncode}; what it did not reach is missing")
    print(
        f"\n{'':<52}{'pieces':>10}" + "".join(f"{p + ', s':>10}{'first':>8}" for p in platforms),
        end="",
    )
    print(f"{'cpu / ' + platforms[0]:>12}" if len(platforms) > 1 else "")
    for title, found in rows.items():
        print(f"{title:<52}{next(iter(found.values()))[2]:>10}", end="")
        for platform in platforms:
            first, warm = found[platform][:2] if platform in found else (np.nan, np.nan)
            print(f"{warm:>10.4g}{first:>8.3g}", end="")
        ratio = len(platforms) > 1 and len(found) > 1
        print(f"{found['cpu'][1] / found[platforms[0]][1]:>12.1f}" if ratio else "")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
