"""What an update does with its denoiser: a trace of one step with a denoiser that counts."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
from jax import Array

from .affine import ModelDenoiser, solver
from .noise import NoiseLevel
from .problem import Problem
from .samplers.base import Measurement, Sampler, Step


def denoiser_calls(sampler: Sampler, problem: Problem) -> int:
    """How often one step calls the denoiser, derivatives not counted."""
    return _after_a_step(sampler, problem).calls


@lru_cache(maxsize=256)
def differentiates_denoiser(sampler: Sampler) -> bool:
    """Whether an update multiplies by the Jacobian of the denoiser."""
    one = jnp.ones(1)
    problem = Problem(one, one, None, 0 * one, one, jnp.ones(()))
    return _after_a_step(sampler, problem).derivatives > 0


class _Counting:
    """The model's denoiser, as `samplers.steps.denoise_with_vjp` takes it."""

    def __init__(self, problem: Problem):
        self.denoiser, self.calls, self.derivatives = ModelDenoiser(problem), 0, 0

    def __call__(self, x: Array, level: NoiseLevel) -> Array:
        self.calls += 1
        return self.denoiser(x, level)

    def vjp(self, x: Array, level: NoiseLevel) -> tuple[Array, Callable[[Array], Array]]:
        self.calls, self.derivatives = self.calls + 1, self.derivatives + 1
        return self.denoiser.vjp(x, level)

    def cov(self, v: Array, level: NoiseLevel) -> Array:
        return self.denoiser.cov(v, level)


def _after_a_step(sampler: Sampler, problem: Problem) -> _Counting:
    denoiser = _Counting(problem)

    def step(x: Array, one: Array) -> tuple[Array, ...]:
        guidance = dict.fromkeys(sampler.constraint, one)
        measurement = Measurement(
            problem.response, problem.sigma_y, jnp.linalg.norm, solver(problem)
        )
        t, s = NoiseLevel(one, 2 * one), NoiseLevel(one, one)
        one_step = Step(t, s, x, x, x, guidance)
        return sampler.step(denoiser, measurement, one_step, *[x] * sampler.memory)

    jax.eval_shape(step, problem.spectrum, problem.sigma_y)
    return denoiser
