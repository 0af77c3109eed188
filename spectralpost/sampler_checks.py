"""What closed forms need of a sampler's update: linear in its signals, each mode by itself."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .affine import model_update, nothing
from .errors import InputError
from .noise import NoiseLevel
from .problem import make_problem
from .samplers.base import Sampler

SIZES = (10.0, 0.1)  # of signals, where what clips or has a threshold shows
SLACK = 1e-3  # of the largest output; single precision leaves 1e-6


def check_linear(sampler: Sampler) -> None:
    """InputError for an update that is not linear in state, measurement and noise (clipping, tanh),
    or that mixes modes (a mean over pixels): its derivative, of which closed forms are made, would
    be another sampler's.

    Tried once, at a few points, for samplers of others' making; tests do so for the package's.
    """
    made_by = sampler.made_by
    if made_by is not None and (
        made_by.args or str(made_by.func.__module__).startswith("spectralpost.")
    ):
        return
    if wrong := _wrong(sampler):
        raise InputError(f"sampler {sampler.name!r}: its update {wrong}, so no closed form is it")


@lru_cache(maxsize=256)
def _wrong(sampler: Sampler) -> str:
    with jax.ensure_compile_time_eval():
        spectrum, response = np.array([1.0, 0.3, 0.02]), np.array([1.0, 0.6, 0.1])
        problem = make_problem(spectrum=spectrum, response=response, sigma_y=0.1)
        dtype = problem.spectrum.dtype
        number = lambda value: jnp.asarray(value, dtype)  # noqa: E731
        t, s = NoiseLevel(number(0.8), number(0.6)), NoiseLevel(number(0.96), number(0.28))
        guidance_t = dict.fromkeys(sampler.constraint, number(0.5))
        zero, rng = nothing(problem, sampler.memory), np.random.default_rng(0)

        def after(inputs: list[Array]) -> np.ndarray:
            given = sampler, problem, t, s, guidance_t, lambda u: jnp.ones((), u.dtype), None
            return np.asarray(model_update(*given, *inputs), float)

        try:
            at_zero = after(zero)
        except InputError:
            raise
        except Exception:  # it may be made for signals of one size alone
            return ""
        for size in SIZES:
            one, two = (
                [number(size * rng.standard_normal(leaf.shape)) for leaf in zero] for _ in range(2)
            )
            both = [a + b for a, b in zip(one, two, strict=True)]
            at_one, at_two, at_both = map(after, (one, two, both))
            if not np.all(np.isfinite([at_zero, at_one, at_two, at_both])):
                return ""  # its weights may not be a half: nothing is known
            slack = SLACK * max(np.abs(at_one).max(), np.abs(at_two).max(), 1e-6)
            if not np.abs(at_one + at_two - at_zero - at_both).max() <= slack:
                return "is not linear in state, measurement and noise"
            if sampler.equivariant and not np.abs(at_zero).max() <= slack:
                return "adds a constant"
            alone = after([leaf.at[1:].set(0) for leaf in one])
            if not np.abs((alone - at_zero)[1:]).max() <= slack:
                return "mixes modes"
    return ""
