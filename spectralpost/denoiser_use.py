"""What an update asks for, of its denoiser and of norms: a trace of one step that counts."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .affine import ModelDenoiser, measurement_of
from .noise import NoiseLevel
from .problem import Problem
from .samplers.base import Sampler, Step


class Uses(NamedTuple):
    """How often one step asks for what."""

    calls: int  # of the denoiser, derivatives not counted
    derivatives: int  # of the denoiser
    norms: int  # of whole images, which make modes depend on others


def uses_of(sampler: Sampler, problem: Problem) -> Uses:
    """Kept, as searches ask often, unless the sampler closes over a problem, whose arrays would be
    kept with it."""
    count = _counted if sampler.compares_by_call else _counted.__wrapped__
    return count(sampler, problem.spectrum.shape, problem.spectrum.dtype)


def differentiates_denoiser(sampler: Sampler) -> bool:
    """Whether an update multiplies by the Jacobian of the denoiser."""
    one = jnp.ones(1)
    return uses_of(sampler, Problem(one, one, None, 0 * one, one, jnp.ones(()))).derivatives > 0


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


@lru_cache(maxsize=256)
def _counted(sampler: Sampler, shape: tuple[int, ...], dtype: np.dtype) -> Uses:
    """Of a problem of this shape, whose numbers do not matter."""
    seen = []

    def step(spectrum: Array, basis: Array | None, one: Array) -> tuple[Array, ...]:
        norms = 0

        def norm(u: Array) -> Array:
            nonlocal norms
            norms += 1
            return jnp.ones((), u.dtype)

        weight = jnp.ones(shape[:1], dtype)
        problem = Problem(spectrum, spectrum, basis, 0 * spectrum, weight, one)
        denoiser, x = _Counting(problem), spectrum
        t, s = NoiseLevel(one, 2 * one), NoiseLevel(one, one)
        one_step = Step(t, s, x, x, x, dict.fromkeys(sampler.constraint, one))
        before = [x] * sampler.memory
        after = sampler.step(denoiser, measurement_of(problem, norm), one_step, *before)
        seen.append(Uses(denoiser.calls, denoiser.derivatives, norms))
        return after

    basis = jax.ShapeDtypeStruct((*shape, shape[-1]), dtype) if len(shape) == 2 else None
    one = jax.ShapeDtypeStruct((), dtype)
    jax.eval_shape(step, jax.ShapeDtypeStruct(shape, dtype), basis, one)
    return seen[-1]
