"""What a vector of parameters costs: problems, their combination, objective and prices.

Everything that searches takes one `Loss`: it is called with a vector, and where the objective is a
sum of squares it gives residuals and Jacobian as well.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import InputError, is_number
from ..merging import bin_modes, pad_modes, stack_problems
from ..merging_blocks import representative_blocks
from ..noise import NoiseLevel, num_steps_of
from ..objectives import Objective, residuals_of
from ..problem import Problem, per_pixel
from ..samplers.base import Guidance
from ..transfer import Leeway, trajectory
from .gradient import chunked_loss
from .guidance import on_host
from .jacobian import linearise
from .parameters import Parameters

T = TypeVar("T")

COARSE = 64  # modes of the problem that is searched first
DENSE = 8  # modes of a block: with more, exploring in generations takes minutes
FEW_DENSE = 8  # such blocks at most of the problem that is searched first
WORST = 50.0  # `Loss.power` that stands for the worst case


class Prices(NamedTuple):
    """What a schedule pays besides its objective, so that it can be used.

    max_amplification  keeps every signal on the way within this factor of what the denoiser was
                       made for, in root mean square, mode by mode. The bare optimum (inf) of many
                       steps may blow modes up by 10^10 and shrink them again: fine in closed form,
                       useless to a network and even to double precision. See `overshoot`. A sampler
                       that does not differentiate its denoiser may also do in a step what its
                       published default and its tuned constant both do there; with `scales` only
                       one whose weights are all between 0 and 1, as at the worst of these
    smoothness         a zigzag by a factor of e from step to step costs this fraction of the tuned
                       constant's loss (`guidance.roughness`): steps that do not matter follow their
                       neighbours. 0 gives the bare optimum
    scales             the schedule also serves images of c times the spectrum, c each of these:
                       flat and busy parts of an image, see `rescaled`
    weak_modes         at all scales, modes whose spectrum is below the variance of a pixel of the
                       given problem may amplify so many times as much as others: guidance hands
                       them the measurement's noise, which an image hardly shows
    """

    max_amplification: float = 3.0
    smoothness: float = 1e-4
    scales: tuple[float, ...] = ()
    weak_modes: float = 1.0

    def check(self) -> None:
        if not (is_number(self.max_amplification) and self.max_amplification >= 1):
            raise InputError(f"max_amplification = {self.max_amplification}: must be >= 1")
        if not (is_number(self.weak_modes) and 1 <= self.weak_modes < np.inf):
            raise InputError(f"weak_modes = {self.weak_modes}: must be a number >= 1")
        if not (is_number(self.smoothness) and 0 <= self.smoothness < np.inf):
            raise InputError(f"smoothness = {self.smoothness}: must be a number >= 0")
        several = isinstance(self.scales, Sequence) and not isinstance(self.scales, str)
        if not (several and all(is_number(one) and 0 < one < np.inf for one in self.scales)):
            raise InputError(f"scales = {self.scales}: must be a tuple of finite numbers > 0")


class Several(NamedTuple):
    """How the losses of several problems become one.

    worst_case  the largest loss counts, not the average (as the norm of power 50, which is smooth)
    references  a loss for each problem; losses are taken relative to these. Without them the
                hardest problem outweighs the others
    """

    worst_case: bool = False
    references: Sequence[float] | None = None

    def scales(self, num: int) -> np.ndarray:
        """What the losses are multiplied by, [num]: as large as without references on average."""
        if self.references is None:
            return np.ones(num)
        values = np.asarray(self.references, float)
        if values.shape != (num,) or not np.all((values > 0) & np.isfinite(values)):
            given = ", ".join(f"{value:g}" for value in values.ravel())
            raise InputError(f"references = {given}: {num} finite numbers > 0 are needed")
        return values.mean() / values


def rescaled(problem: Problem, scale: float) -> Problem:
    """The problem of images whose spectrum is `scale` times as large.

    Images are locally Gaussian of varying scale (Wainwright, Simoncelli, "Scale Mixtures of
    Gaussians and the Statistics of Natural Images", 1999): flat where it is small, busy where it is
    large. A calibration is an average over all parts. Where an image is busy a network's Jacobian
    is larger, up to the gain of the spectrum that is there, which is what it is taken for.
    """
    calibration = problem.calibration
    if calibration is not None and scale > 1:
        calibration = calibration._replace(ratio=jnp.ones_like(calibration.ratio))
    return problem._replace(spectrum=scale * problem.spectrum, calibration=calibration)


def with_scales(
    problems: Sequence[Problem], several: Several, scales: Sequence[float]
) -> tuple[list[Problem], Several]:
    """The problems, and `rescaled` copies of each, whose losses count relative to max(1, 3 scale).

    That is about how much larger they are: none of the copies should outweigh the others.
    """
    references = [1.0] * len(problems) if several.references is None else several.references
    copies = [rescaled(problem, scale) for scale in scales for problem in problems]
    relative = [max(1.0, 3 * scale) * one for scale in scales for one in references]
    return [*problems, *copies], several._replace(references=[*references, *relative])


@partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        "parameters",
        "problems",
        "scales",
        "power",
        "max_growth",
        "spectrum_scale",
        "weak_modes",
        "rough_price",
        "watched",
    ),
    meta_fields=("objective",),
)
@dataclass(frozen=True)
class Loss:
    """A pytree: what programs are compiled for is static, the rest are arrays."""

    objective: Objective
    parameters: Parameters
    problems: Problem  # leaves [K, ...]: one schedule for all of them
    scales: Array  # what their losses are multiplied by, [K]
    power: Array  # 1 for the average of the problems' losses, large for the worst
    max_growth: Array  # log of the limit on amplification, [S] or one for all steps
    spectrum_scale: Array  # of each problem, relative to the one that was given, [K]
    weak_modes: Array  # see `Prices`
    rough_price: Array  # what roughness 1 of a schedule costs
    # [K, ...]: of few modes, whose amplification is limited in place of that of `problems`. These
    # are large then, and go through the trajectory in chunks (`gradient`)
    watched: Problem | None = None

    def __call__(self, vector: Array) -> Array:
        """Objective of all problems, and prices."""
        u = self.parameters.unconstrained(vector)
        loss = self._of(self.parameters.grid(u), partial(self.parameters.weights_on, u))
        return loss + self.rough_price * jnp.sum(self.parameters.rough(vector) ** 2)

    def of_guidance(self, guidance: Guidance) -> Array:
        """The same of weights [S] on the levels as given, without the price of roughness."""
        return self._of(self.parameters.levels, lambda problem: guidance)

    def combined(self, losses: Array) -> Array:
        """One loss of all problems': mean((scales losses)^power)^(1 / power), losses [K]."""
        losses = self.scales * losses
        largest = jax.lax.stop_gradient(jnp.max(losses))
        largest = jnp.where(largest > 0, largest, 1)  # powers of numbers up to 1 do not overflow
        return largest * jnp.mean((losses / largest) ** self.power) ** (1 / self.power)

    def linearised(self, vector: Array) -> tuple[Array, Array]:
        """Residuals [R], whose squares have the sum and the gradient of the loss; Jacobian [R, P].

        For objectives that are sums of squares.
        """
        parameters = self.parameters
        u = parameters.unconstrained(vector)
        levels, residuals = parameters.grid(u), residuals_of(self.objective)
        assert residuals is not None  # see `learn`

        def one(problem: Problem, spectrum_scale: Array):
            misfit, growth = linearise(
                parameters.sampler,
                problem,
                levels,
                parameters.weights_on(u, problem),
                parameters.directions(u, problem),
                residuals,
                self.leeway(problem, spectrum_scale),
            )
            excess, push = jax.linearize(
                partial(overshoot, problem, self.max_growth), growth.values
            )
            pushed = {label: jax.vmap(jax.vmap(push))(by) for label, by in growth.jacobian.items()}
            return misfit.values, misfit.jacobian, excess, pushed

        values, by_inputs, excess, excess_by_inputs = _of_each(
            one, self.problems, self.spectrum_scale
        )
        losses = jnp.sum(values**2, axis=1)
        # Weighted so, the squares have the sum and the gradient of `combined`.
        ratio = self.scales * losses / self.combined(losses)
        weight = jnp.sqrt(self.scales * ratio ** (self.power - 1) / losses.size)[:, None]
        rough, jacobian_of_rough = _linear(parameters.rough, vector)
        price = jnp.sqrt(self.rough_price)
        rows = (weight * values).ravel(), excess.ravel(), price * rough
        jacobian = (
            (weight[..., None] * parameters.by_vector(u, by_inputs)).reshape(-1, vector.size),
            parameters.by_vector(u, excess_by_inputs).reshape(-1, vector.size),
            price * jacobian_of_rough,
        )
        return jnp.concatenate(rows), jnp.concatenate(jacobian)

    def thinned(self, kept: np.ndarray) -> "Loss":
        """The same on some of the levels, see `Parameters.thinned`."""
        limit = np.broadcast_to(self.max_growth, num_steps_of(self.parameters.levels))
        parameters = self.parameters.thinned(kept)
        return replace(self, parameters=parameters, max_growth=np.asarray(limit[kept[:-1]]))

    def on_bins(self, num: int) -> "Loss":
        """The same on problems of at most `2 num` rows, in single precision."""
        stacked = on_host(self.problems)
        problems = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(self.num)]
        return self.on_few(binned(problems, num))

    def on_few(self, problems: Problem) -> "Loss":
        """The same on other problems, of few rows, in single precision."""
        loss = replace(self, problems=problems, watched=None)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), loss)

    @property
    def coarse(self) -> "Loss | None":
        """The same on few bins, where a search had better begin; None if that is no faster, or for
        an objective that is no sum of squares: a single mode may decide about it."""
        rows, *modes = self.problems.spectrum.shape[1:]
        few = rows <= FEW_DENSE if is_dense(self.problems) else rows * math.prod(modes) <= COARSE
        return None if few or residuals_of(self.objective) is None else self.on_bins(COARSE)

    @property
    def num(self) -> int:
        """The number of problems, K."""
        return self.scales.shape[0]

    def leeway(self, problem: Problem, spectrum_scale: Array) -> Leeway:
        """Of one of the problems, see `Prices.weak_modes`."""
        variance = per_pixel(problem, problem.spectrum) / spectrum_scale
        return Leeway(variance, self.weak_modes)

    def _of(self, levels: NoiseLevel, weights_on: Callable[[Problem], Guidance]) -> Array:
        """Objective of all problems, and the price of amplification."""
        sampler, free = self.parameters.sampler, self.parameters.weights

        def one(problem: Problem, spectrum_scale: Array) -> tuple[Array, Array]:
            leeway = self.leeway(problem, spectrum_scale)
            run = trajectory(sampler, problem, levels, weights_on(problem), leeway)
            excess = overshoot(problem, self.max_growth, jnp.log(run.amplification))
            return self.objective(problem, run.total), jnp.sum(excess**2)

        if self.watched is None:
            losses, penalties = _of_each(one, self.problems, self.spectrum_scale)
            return self.combined(losses) + jnp.sum(penalties)

        def chunked(problem: Problem) -> Array:
            return chunked_loss(sampler, problem, levels, weights_on(problem), free, self.objective)

        losses = jax.lax.map(chunked, self.problems)
        return self.combined(losses) + jnp.sum(_of_each(one, self.watched, self.spectrum_scale)[1])


def overshoot(problem: Problem, max_growth: Array, growth: Array) -> Array:
    """Square roots of the penalty, [S], for the log amplification of each step: beyond the limit,
    its excess, squared, times the variance of a pixel. So 10 % excess cost 1 % of the image."""
    return jnp.sqrt(per_pixel(problem, problem.spectrum)) * jnp.maximum(growth - max_growth, 0)


def loss_of(
    parameters: Parameters,
    problems: Sequence[Problem],
    objective: Objective,
    *,
    several: Several = Several(),
    max_amplification: float = np.inf,
    weak_modes: float = 1.0,
    rough_price: float = 0.0,
    watched: Problem | None = None,
) -> Loss:
    """The loss of `parameters` on problems, in the dtype of the levels."""
    number: Any = partial(np.asarray, dtype=parameters.levels.alpha.dtype)
    return Loss(
        objective=objective,
        parameters=parameters,
        problems=stack_problems(problems),
        scales=number(several.scales(len(problems))),
        power=number(WORST if several.worst_case else 1.0),
        max_growth=number(np.log(max_amplification)),
        spectrum_scale=number(np.ones(len(problems))),
        weak_modes=number(weak_modes),
        rough_price=number(rough_price),
        watched=watched,
    )


def is_dense(problem: Problem) -> bool:
    """Whether blocks are so large that few searches have to do."""
    return problem.basis is not None and problem.spectrum.shape[-1] > DENSE


def binned(problems: Sequence[Problem], num: int) -> Problem:
    """All problems with at most twice `num` modes each, stacked; blocks as pairs, or few of large
    ones."""

    def few(problem: Problem) -> Problem:
        if is_dense(problem) and len(problem.spectrum) > FEW_DENSE:
            return pad_modes(representative_blocks(problem, FEW_DENSE), FEW_DENSE)
        return bin_modes(problem, num)[0] if problem.spectrum.size > 2 * num else problem

    return stack_problems([few(problem) for problem in problems])


def _of_each(fn: Callable[[Problem, Array], T], problems: Problem, of_each: Array) -> T:
    """`vmap`, but for a single problem without the work of tracing that."""
    if problems.sigma_y.shape[0] > 1:
        return jax.vmap(fn)(problems, of_each)
    one = fn(*jax.tree.map(lambda leaf: leaf[0], (problems, of_each)))
    return jax.tree.map(lambda leaf: leaf[None], one)


def _linear(fn: Callable[[Array], Array], vector: Array) -> tuple[Array, Array]:
    """Value and Jacobian of a linear function."""
    return fn(vector), jax.vmap(fn, out_axes=1)(jnp.eye(vector.size, dtype=vector.dtype))
