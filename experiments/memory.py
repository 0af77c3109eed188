"""What is it worth that a sampler remembers its last estimates, or its last guidance?

Of each sampler the learned schedule without and with memory (`multistep` of one and two estimates,
the extrapolation weights learned as well), Gaussian blur, sigma_y 0.05:

    W2^2       in closed form, on the Gaussian model; `learn` as it is
    momentum   W2^2 of DPS without and with `momentum`, learned as well, for each memory
    network    energy score of two samples of 64 held-out images on the shipped U-Net, schedules of
               `for_network`, one estimate; only with --data. Paired standard errors of the
               difference

    python experiments/memory.py                          W2^2 alone
    python experiments/memory.py --steps 3 4 5 7 10 15    W2^2 in the steps of LLE
    python experiments/memory.py --data cifar10.npz       both
    python experiments/memory.py --quick                  one sampler, 4 steps, checked

Few steps, with learned combinations of the estimates, are those of Zhang et al., "Improving
Diffusion-Based Inverse Algorithms under Few-Step Constraint via Learnable Linear Extrapolation"
(LLE), NeurIPS 2025 (arXiv 2503.10103). It learns the combination on images;
here guidance and combination are learned together. The data are 8-bit images [N, H, W, 3] in the
arrays `train` and `test`.

DPS in 5, 10, 20 steps, W2^2 without and with momentum: 0.053846, 0.053597 (-0.5 %); 0.027488,
0.026916 (-2.1 %); 0.012995, 0.011898 (-8.4 %). With one estimate remembered: 0.038149, 0.037618
(-1.4 %); 0.017543, 0.017062 (-2.7 %); 0.007156, 0.006509 (-9.0 %). MPGD in 20 steps without memory,
with one and two estimates: 0.006026, 0.002324 (-61.4 %), 0.002132 (-64.6 %).
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import spectralpost as sp


@dataclass
class Options:
    """What is it worth that a sampler remembers?"""

    quick: bool = False
    """Small, and checked."""
    data: Path | None = None
    samplers: tuple[str, ...] = ("dps", "pigdm", "diffpir", "mpgd")
    steps: tuple[int, ...] = (5, 10, 20)
    remembered: tuple[int, ...] = (1, 2)
    """How many estimates, for W2^2."""
    network_steps: tuple[int, ...] = (10, 20)
    images: int = 64
    sigma_y: float = 0.05


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    search = sp.Search()
    if options.quick:
        options = replace(options, samplers=("dps",), steps=(4,), remembered=(1, 2))
        search = sp.Search(starts=4, optimizer="adam")  # of which half is compiled
    problem = sp.image_problem(
        sp.power_law((64, 64)), sp.gaussian_blur((64, 64), 2.0), options.sigma_y
    )
    problem = sp.bin_modes(sp.unique_modes(problem)[0], 60 if options.quick else 200)[0]
    found: dict[tuple[str, int, int], sp.LearnResult] = {}
    print(f"{'sampler':<9}{'steps':>6}{'tuned':>11}{'learned':>11}", end="")
    print("".join(f"{f'memory {m}':>11}{'change':>10}" for m in options.remembered))
    for name in options.samplers:
        for steps in options.steps:
            for m in (0, *options.remembered):
                sampler, levels = sampler_of(name, m), sp.vp_linear(steps)
                found[name, steps, m] = sp.learn(sampler, problem, levels, search=search)
            plain, changes = found[name, steps, 0], []
            tuned = plain.baselines["tuned_constant"]
            print(f"{name:<9}{steps:>6}{tuned:>11.6f}{plain.loss:>11.6f}", end="")
            for m in options.remembered:
                changes.append(found[name, steps, m].loss / plain.loss - 1)
                print(f"{found[name, steps, m].loss:>11.6f}{100 * changes[-1]:>8.1f} %", end="")
            print(flush=True)
            if options.quick and (changes[0] > -0.05 or changes[1] > changes[0] + 0.005):
                sys.exit("memory: is worth nothing")
    if "dps" in options.samplers:
        print(f"\n{'dps':<9}{'steps':>6}{'without':>11}{'momentum':>11}{'change':>10}")
    for (name, steps, m), without in found.items():
        if name != "dps" or (options.quick and m):
            continue
        sampler, levels = sp.SAMPLERS["dps"](multistep=m, momentum=True), sp.vp_linear(steps)
        # In few starts the search may end above the schedule without, so it goes on from there.
        start = without.guidance | {"momentum": jnp.zeros(steps)} if options.quick else None
        loss = sp.learn(sampler, problem, levels, start, search=search).loss
        change = loss / without.loss - 1
        print(f"{f'memory {m}':<9}{steps:>6}{without.loss:>11.6f}{loss:>11.6f}", end="")
        print(f"{100 * change:>8.1f} %", flush=True)
        if options.quick and change > 0.005:
            sys.exit("momentum: a schedule that may be plain is worse")
    if options.data is not None:
        on_network(options)


def sampler_of(name: str, multistep: int) -> sp.Sampler:
    return sp.SAMPLERS[name](multistep=multistep)


def on_network(options: Options) -> None:
    with np.load(str(options.data)) as data:
        train, test = (
            data[name][:num].transpose(0, 3, 1, 2) / 127.5 - 1
            for name, num in (("train", 5000), ("test", options.images))
        )
    network, shape = sp.load_unet(), test.shape[-2:]
    prior = sp.calibrate(
        sp.from_images(train, colour=True), network, np.asarray(train[:128], np.float32)
    )
    degradation = sp.gaussian_blur(shape, 1.5)
    problem = sp.image_problem(prior, degradation, options.sigma_y)
    problem = sp.bin_modes(sp.unique_modes(problem)[0], 200)[0]
    single = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)  # noqa: E731
    x_0 = single(test)
    y = sp.measure(degradation, x_0, options.sigma_y, jax.random.key(0))
    print(f"\n{'sampler':<9}{'steps':>6}{'tuned':>11}{'learned':>11}{'memory':>11}{'change':>18}")
    for name in options.samplers:
        for steps in options.network_steps:
            scores, levels = [], sp.vp_linear(steps)
            for multistep in (False, True):
                sampler = sampler_of(name, multistep)
                found = sp.learn(sampler, problem, levels, **sp.for_network(sampler, levels))
                schedules = [(found.levels, found.guidance)]
                if not multistep:
                    schedules.insert(0, (levels, found.baseline_guidance["tuned_constant"]))
                for on, guidance in schedules:
                    x = sp.restore(
                        sampler,
                        network,
                        degradation,
                        y,
                        single(on),
                        single(guidance),
                        jax.random.key(1),
                        sigma_y=options.sigma_y,
                        num_samples=2,
                        batch_size=32,
                    )
                    scores.append(np.asarray(sp.energy_score(x, x_0)))
            tuned, plain, memory = scores
            gap = memory - plain
            change, error = (100 * one / plain.mean() for one in (gap.mean(), standard_error(gap)))
            print(f"{name:<9}{steps:>6}{tuned.mean():>11.4f}{plain.mean():>11.4f}", end="")
            print(f"{memory.mean():>11.4f}{f'{change:+.1f} ({error:.1f}) %':>18}", flush=True)


def standard_error(values: np.ndarray) -> float:
    return float(values.std() / np.sqrt(values.size))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
