"""What does `learn` reach, and how much does the limit on amplification cost?

64x64, power law, Gaussian blur of std 2, sigma_y 0.05, DDIM eta 0, the uniform VP grid: W2^2 per
pixel of the learned schedule, with the default limit and without (inf, the bare optimum), beside
the baselines; how much each amplifies its worst mode on the way; and the seconds that the search
took, compilation included.

    python benchmarks/learned_losses.py            S = 10, 20, 50; some minutes on two cores
"""

import time

import jax

import spectralpost as sp

STEPS = (10, 20, 50)
SAMPLERS = ("dps", "pigdm", "diffpir")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    prior, blur = sp.power_law((64, 64)), sp.gaussian_blur((64, 64), 2.0)
    problem, _ = sp.unique_modes(sp.image_problem(prior, blur, 0.05))
    columns = ("limit 3", "worst", "s", "inf", "worst", "s", "heuristic", "tuned", "exact")
    print(f"{'sampler':<9}{'S':>4}" + "".join(f"{column:>10}" for column in columns))
    for name in SAMPLERS:
        sampler = sp.SAMPLERS[name]()
        for steps in STEPS:
            levels = sp.vp_linear(steps)
            guidance = sampler.heuristic(problem, levels)
            if "eta" in guidance:
                guidance["eta"] = 0 * guidance["eta"]
            row = []
            for limit in (3.0, float("inf")):
                begin = time.perf_counter()
                result = sp.learn(
                    sampler, problem, levels, guidance, prices=sp.Prices(max_amplification=limit)
                )
                seconds = time.perf_counter() - begin
                run = sp.trajectory(sampler, problem, levels, result.guidance)
                row += [f"{result.loss:.6f}", f"{run.amplification.max():.1e}", f"{seconds:.1f}"]
            row += [f"{loss:.6f}" for loss in result.baselines.values()]
            print(f"{name:<9}{steps:>4}" + "".join(f"{value:>10}" for value in row), flush=True)


if __name__ == "__main__":
    main()
