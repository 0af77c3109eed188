"""What is it worth that a sampler remembers its last estimates, or its last guidance?

Of each sampler the learned schedule without and with memory (`multistep` of one and two estimates,
the extrapolation weights learned as well), Gaussian blur, sigma_y 0.05:

    W2^2       in closed form, on the Gaussian model; `learn` as it is
    momentum   W2^2 of DPS without and with `momentum`, learned as well, for each memory
    combined   W2^2, and PSNR of a sample, of learned combinations of the guided estimates of all
               steps so far (LLE), beside the published default, the tuned constant and the learned
               schedule: fitted step by step in closed form to the clean image; the same but for
               the last step, which makes the image; and all weights together, by gradients of W2^2
               ("jointly"; guidance as it was). The largest weight of each
    network    energy score of two samples of 64 held-out images on the shipped U-Net, schedules of
               `for_network`, one estimate; only with --data. Paired standard errors of the
               difference

    python experiments/memory.py                          W2^2 alone
    python experiments/memory.py --steps 3 4 5 7 10 15 --remembered 1 --no-momentum
                                                          W2^2 in the steps of LLE
    python experiments/memory.py --data cifar10.npz       both
    python experiments/memory.py --quick                  one sampler, 4 steps, checked

LLE is Zhang et al., "Improving Diffusion-Based Inverse Algorithms under Few-Step Constraint via
Learnable Linear Extrapolation", NeurIPS 2025 (arXiv 2503.10103). Its code (weigerzan/
LLE_inverse_problem) fits the weights of one step after the other on 50 images, by Adam, to the
squared error and LPIPS, for the parts H^+ H x and x - H^+ H x alone: one part here, as for a blur
without zeros, and the squared error. `multistep` is another combination: of estimates before
guidance, learned together with it. The data are 8-bit images [N, H, W, 3] in the arrays `train` and
`test`.

DPS in 5, 10, 20 steps, W2^2 without and with momentum: 0.053846, 0.053597 (-0.5 %); 0.027486,
0.026914 (-2.1 %); 0.013044, 0.011863 (-9.1 %). With one estimate remembered: 0.038149, 0.037604
(-1.4 %); 0.017466, 0.017014 (-2.6 %); 0.007147, 0.006494 (-9.1 %). MPGD in 20 steps without memory,
with one and two estimates: 0.005830, 0.002436 (-58.2 %), 0.002061 (-64.6 %).
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import tyro
from jax import Array

import spectralpost as sp
from spectralpost.affine import ModelDenoiser, measurement_of
from spectralpost.algebra import safe_divide, safe_sqrt
from spectralpost.noise import step_pairs
from spectralpost.problem import measurement_cov
from spectralpost.samplers.base import Guidance
from spectralpost.samplers.steps import ddim_step, ddnm_step, noise_estimate


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
    momentum: bool = True
    """Whether momentum is learned."""
    jointly: bool = True
    """Whether weights of combinations are learned together."""
    fast: bool = False
    """Learn by Adam from four starts: a third of the time, and little above, without memory."""
    network_steps: tuple[int, ...] = (10, 20)
    images: int = 64
    sigma_y: float = 0.05


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    search = sp.Search()
    if options.fast or options.quick:
        search = sp.Search(starts=4, optimizer="adam")  # of which half is compiled
    if options.quick:
        options = replace(options, samplers=("dps",), steps=(4,), remembered=(1, 2))
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
    print_combinations(found, problem, options)
    if "dps" in options.samplers and options.momentum:
        print(f"\n{'dps':<9}{'steps':>6}{'without':>11}{'momentum':>11}{'change':>10}")
    for (name, steps, m), without in found.items():
        if name != "dps" or not options.momentum or (options.quick and m):
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


def print_combinations(
    found: dict[tuple[str, int, int], sp.LearnResult], problem: sp.Problem, options: Options
) -> None:
    print(f"\n{'sampler':<9}{'steps':>6}  {'guidance':<10}", end="")
    for title, width in (("W2^2", 10), ("PSNR", 9), ("weights", 9)):
        print(f"{title:>{width}}{'LLE':>{width}}{'but last':>{width}}{'jointly':>{width}}", end="")
    print()
    for (name, steps, m), learned in found.items():
        if m:
            continue
        schedules = {
            "published": learned.baseline_guidance["heuristic"],
            "tuned": learned.baseline_guidance["tuned_constant"],
            "learned": learned.guidance,
        }
        for label, guidance in schedules.items():
            with_weights = options.jointly and label == "learned"
            losses, psnrs = print_combined(name, steps, label, problem, guidance, with_weights)
            if options.quick and (psnrs[1] < psnrs[0] or (with_weights and losses[3] > losses[0])):
                sys.exit("memory: combinations are worse than none")


def print_combined(
    name: str,
    steps: int,
    label: str,
    problem: sp.Problem,
    guidance: Guidance,
    with_weights: bool,
) -> tuple[list[float], list[float]]:
    """A row; W2^2 and PSNR of no combination, LLE, LLE but for the last step, and jointly."""
    sampler, alone = sp.SAMPLERS[name](), jnp.eye(steps)
    given = problem, sp.vp_linear(steps), guidance
    fitted = combined(sampler, *given)
    runs = [combined(sampler, *given, alone), fitted]
    runs.append(combined(sampler, *given, fitted.weights.at[-1].set(alone[-1])))
    if with_weights:
        runs.append(jointly(sampler, *given, starts=[alone, fitted.weights]))
    losses = [float(sp.wasserstein2(problem, one.transfer)) for one in runs]
    psnrs = [float(sp.psnr(sp.mse(problem, one.transfer))) for one in runs]
    largest = [float(jnp.abs(one.weights).max()) for one in runs]
    print(f"{name:<9}{steps:>6}  {label:<10}", end="")
    print("".join(f"{one:>10.6f}" for one in losses).ljust(40), end="")
    print("".join(f"{one:>9.2f}" for one in psnrs).ljust(36), end="")
    print("".join(f"{one:>9.1f}" for one in largest), flush=True)
    return losses, psnrs


def sampler_of(name: str, multistep: int) -> sp.Sampler:
    return sp.SAMPLERS[name](multistep=multistep)


class Combined(NamedTuple):
    """A run whose estimates are combined."""

    transfer: sp.Transfer
    weights: Array  # of all estimates so far in each step, the oldest first, [S, S]


@partial(jax.jit, static_argnames="sampler")
def combined(
    sampler: sp.Sampler,
    problem: sp.Problem,
    levels: sp.NoiseLevel,
    guidance: Guidance,
    weights: Array | None = None,
) -> Combined:
    """Learnable linear extrapolation (LLE), of independent modes.

    The guided estimate of each step is replaced by a combination of it and of the combined ones of
    all steps before; the noise that it is given back is that of the step as it was, of DiffPIR that
    which goes with the combination. weights None: fitted step by step, by least squares to the
    clean image, those of the steps before as they are.

    The sampler runs on units of its inputs, the rows of x [2 + S, F]: start noise, y, fresh noise
    of each step. What comes out are its gains. The clean image is the posterior mean and something
    that no estimate knows, so it is fitted by fitting the gain of y to that of the posterior mean.
    """
    num, (t, s) = len(levels.alpha) - 1, step_pairs(levels)
    units = jnp.broadcast_to(jnp.eye(2 + num)[:, :, None], (2 + num, 2 + num, *problem.mean.shape))
    measurement, denoise = measurement_of(problem, jnp.linalg.norm), ModelDenoiser(problem)
    variance = jnp.ones_like(units[0]).at[1].set(measurement_cov(problem))
    share = jnp.sqrt(jnp.broadcast_to(problem.weight, variance.shape) * variance)
    target = share[1] * sp.ideal_posterior(problem).gain

    def step(carry: tuple[Array, Array], inputs: tuple) -> tuple[tuple[Array, Array], Array]:
        x_t, estimates = carry
        i, t, s, guidance_t, fixed = inputs

        def onto(one: sp.Step, x_0: Array) -> Array:
            """What the step makes of a guided estimate."""
            if sampler.name == "diffpir":
                back = noise_estimate(one.x_t, x_0, t)
                return ddnm_step(one, x_0, back, safe_sqrt(guidance_t["zeta"]))
            eps_hat = noise_estimate(one.x_t, denoise(one.x_t, t), t)
            return ddim_step(one, x_0, eps_hat, guidance_t["eta"])

        def guided(one: sp.Step) -> Array:
            (x_s,), nothing = sampler.step(denoise, measurement, one), onto(one, 0 * one.x_t)
            return (x_s - nothing) / (onto(one, jnp.ones_like(x_s)) - nothing)

        rows = sp.Step(t, s, x_t, units[1], units[2 + i], guidance_t)
        each = sp.Step(None, None, 0, 0, 0, None)  # its axis of rows
        estimates = estimates.at[i].set(jax.vmap(guided, in_axes=(each,))(rows))
        mine = fixed
        if weights is None:
            columns = (share[None] * estimates).reshape(num, -1).T  # 0 of steps to come
            scale = safe_divide(jnp.ones(num), jnp.linalg.norm(columns, axis=0))
            wanted = jnp.zeros_like(share).at[1].set(target).ravel()
            mine = scale * jnp.linalg.lstsq(columns * scale[None], wanted)[0]
        base = jnp.tensordot(mine, estimates, 1)
        x_s = jax.vmap(onto, in_axes=(each, 0))(rows, base)
        return (x_s, estimates.at[i].set(base)), mine

    start = levels.sigma[0] * units[0], jnp.zeros((num, *units[0].shape))
    fixed = jnp.zeros((num, num)) if weights is None else jnp.tril(weights)
    (x, _), used = jax.lax.scan(step, start, (jnp.arange(num), t, s, guidance, fixed))
    return Combined(sp.Transfer(x[0], x[1], jnp.sum(x[2:] ** 2, axis=0), 0 * x[0]), used)


@partial(jax.jit, static_argnames="sampler")
def slope_of_weights(weights: Array, sampler: sp.Sampler, *given) -> tuple[Array, Array]:
    """W2^2 of combinations, and its derivative by all weights."""
    problem = given[0]
    loss = lambda w: sp.wasserstein2(problem, combined(sampler, *given, w).transfer)  # noqa: E731
    return jax.value_and_grad(loss)(weights)


def jointly(sampler: sp.Sampler, *given, starts: list[Array]) -> Combined:
    """Weights of all steps for W2^2 of the output, from the best of the starts on."""
    shape = starts[0].shape

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = slope_of_weights(flat.reshape(shape), sampler, *given)
        return float(value), np.ravel(slope)

    found = [
        scipy.optimize.minimize(
            loss, np.ravel(one), jac=True, method="L-BFGS-B", options={"maxiter": 100}
        )
        for one in starts
    ]
    best = min(found, key=lambda one: one.fun)
    return combined(sampler, *given, jnp.asarray(best.x.reshape(shape)))


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
