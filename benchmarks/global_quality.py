"""Does `learn` find the best schedule, and how long does it take?

For each sampler, number of steps and problem (64x64, power law, the uniform VP grid, published
eta):

    best of 64      the best loss that 64 independent smooth random starts, 200 iterations of
                    Levenberg-Marquardt each, reach on all modes: the same loss that `learn`
                    minimises, penalties included
    share           of these 64 that end within 0.5 % of the best one
    learn           loss of `learn` with its defaults over that, minus 1: the worst of three seeds
    s               seconds of a call, compiled before: the median of the three

    python benchmarks/global_quality.py --steps 10 20 50 100        about an hour on two cores
    python benchmarks/global_quality.py --steps 10 --samplers dps   a minute
    python benchmarks/global_quality.py --seconds                   losses and seconds of `learn`
                                                                    alone (its worst of three seeds)
"""

import argparse
import time

import jax
import numpy as np

import spectralpost as sp
from spectralpost.learning import advance, begin, prepare, random_starts

PROBLEMS = {"blur 2, sigma_y 0.05": (2.0, 0.05), "blur 1, sigma_y 0.2": (1.0, 0.2)}


def reference(sampler: sp.Sampler, problem: sp.Problem, levels: sp.NoiseLevel) -> np.ndarray:
    """Final losses of 64 random starts, best first."""
    prepared = prepare(sampler, [problem], levels)
    starts = random_starts(prepared.loss, (prepared.heuristic, prepared.constant), 64, seed=99)
    final = []
    for some in np.split(starts, 4):
        lanes = begin(prepared.method, some)
        for _ in range(10):
            lanes, _ = advance(prepared.loss, lanes, prepared.method, 20)
        final.append(np.asarray(lanes.loss))
    return np.sort(np.concatenate(final))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--samplers", nargs="+", default=["dps", "pigdm", "diffpir", "mpgd"])
    parser.add_argument("--seconds", action="store_true", help="no reference")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    columns = "" if options.seconds else f"{'best of 64':>12}{'share':>7}"
    print(f"{'sampler':<9}{'S':>4}  {'problem':<22}{columns}{'learn':>12}{'s':>7}")
    for name in options.samplers:
        sampler = sp.SAMPLERS[name]()
        for steps in options.steps:
            levels = sp.vp_linear(steps)
            for title, (std, sigma_y) in PROBLEMS.items():
                blur = sp.gaussian_blur((64, 64), std)
                problem, _ = sp.unique_modes(
                    sp.image_problem(sp.power_law((64, 64)), blur, sigma_y)
                )
                sp.learn(sampler, problem, levels)  # compiles
                losses, seconds = [], []
                for seed in (1, 2, 3):
                    begun = time.perf_counter()
                    result = sp.learn(sampler, problem, levels, search=sp.Search(seed=seed))
                    seconds.append(time.perf_counter() - begun)
                    losses.append(result.history[-1])
                if options.seconds:
                    worst = f"{max(losses):>12.7f}{np.median(seconds):>7.1f}"
                    print(f"{name:<9}{steps:>4}  {title:<22}{worst}", flush=True)
                    continue
                final = reference(sampler, problem, levels)
                share = np.mean(final <= 1.005 * final[0])
                print(
                    f"{name:<9}{steps:>4}  {title:<22}{final[0]:>12.7f}{share:>7.0%}"
                    f"{max(losses) / final[0] - 1:>+12.2%}{np.median(seconds):>7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
