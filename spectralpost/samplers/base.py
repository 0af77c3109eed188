"""What a sampler is.

A sampler is its published update, written once, in mode coordinates. Transfer functions are its
derivative (`transfer`), real images run it (`restore`), schedules are learned through it (`learn`).
An update may use array arithmetic that treats every mode alike, `denoise`, its derivative and the
covariance it knows (`steps.denoise_with_vjp`, `steps.data_cov`), `measurement.norm` and
`measurement.solve`; nothing else may couple modes. It is linear in (x_t, y, eps) once the norms
that it divides by are numbers.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial, wraps
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..algebra import float_dtype, is_concrete
from ..errors import InputError, check_kind, is_number
from ..noise import NoiseLevel, check_levels, num_steps_of
from ..problem import Problem

# (x_t, t) -> E[x_0 | x_t], all in mode coordinates
Denoise = Callable[[Array, NoiseLevel], Array]
# The weights of all steps, name -> [S]; those of one step are scalars.
Guidance = dict[str, Array]


class Measurement(NamedTuple):
    """What a zero-shot sampler knows of the problem besides its denoiser: never the prior."""

    response: Array  # [..., F] | [..., B, k]
    sigma_y: Array  # []
    norm: Callable[[Array], Array]  # of a whole image; its mean-field value in closed forms
    # (operator, r) -> operator^-1 r, for a positive definite operator on measurements
    solve: Callable[[Callable[[Array], Array], Array], Array]


class Step(NamedTuple):
    """What an update is given besides denoiser and measurement. Signals [..., F] | [..., B, k]."""

    t: NoiseLevel  # where it comes from
    s: NoiseLevel  # where it goes to, less noisy
    x_t: Array  # the state
    y: Array  # the measurement
    eps: Array  # fresh noise, unit normal
    guidance: Guidance  # the weights of this step: scalars, or one number a mode


Start = Callable[[Measurement, NoiseLevel, Array, Array], Array]
# Of a sampler with memory: what it remembers comes after `Step`, and after x_s in what it returns.
Update = Callable[..., Any]
Defaults = Callable[[Problem, NoiseLevel, float | Array], Guidance]
# (guidance, norms, levels) -> the same steps in the weights of another form
Conversion = Callable[[Guidance, Array, NoiseLevel], Guidance]


def pure_noise(measurement: Measurement, level: NoiseLevel, y: Array, eps: Array) -> Array:
    """x_T = sigma_T eps, the start of most published samplers."""
    del measurement, y
    return level.sigma * eps


@dataclass(frozen=True, eq=False)
class Sampler:
    """A published posterior sampler.

    name          how `SAMPLERS` calls it
    update        (denoise, measurement, step) -> x_s; with memory
                  (denoise, measurement, step, *before) -> (x_s, *what is remembered)
    defaults      (problem, levels, factor) -> guidance, leaves [S]: the published defaults, in the
                  weights of the literal form where there is one (see `heuristic`)
    constraint    weight name -> "nonnegative" or "unit" (between 0 and 1)
    reference     title, year, arXiv number
    summary       the update in one line
    start         (measurement, level, y, eps) -> x_T, affine in (y, eps)
    memory        how many signals a step hands to the next besides x_s, in mode coordinates, 0
                  before the first step: estimates of x_0, then directions. For equivariant samplers
    directions    how many of these, the last ones, are directions, as gradients are: no multiple of
                  the prior mean is in them
    state         "x_t", the noisy signal; or "x_0", an estimate of the clean one to which the
                  update itself adds the noise that the denoiser is to remove (RED-diff)
    equivariant   whether a step commutes with a shift of the prior mean: x_t by alpha_t mean, y by
                  H mean, x_s by alpha_s mean. False for a few official codes that compare the state
                  of one level with the measurement at another
    literal       the official form, which divides by a norm, where this is that form without the
                  norm; else None. It asks for one norm a step, which may depend on all weights but
                  the converted one
    to_literal    (guidance, norms, levels) -> guidance of `literal` that takes the same steps;
                  norms [S, 1], those that `literal` divides by (see `literal_form.to_literal`)
    from_literal  (guidance of `literal`, norms, levels) -> guidance
    for_network   what `learn` frees for a trained network besides its default weights: of "eta" and
                  "levels" those that pay there, by measurement (docs/real_networks.md)
    caveat        of the published default: what its code runs that this is not; one sentence
    made_by       the call of a factory that made it. Two samplers of equal calls are equal, and one
                  program in JAX's caches. None, and equal to nothing but itself: a sampler that was
                  put together or changed by hand, since its functions cannot be compared
    """

    name: str
    update: Update
    defaults: Defaults
    constraint: dict[str, str]
    reference: str
    summary: str
    start: Start = field(default=pure_noise)
    memory: int = 0
    directions: int = 0
    state: Literal["x_t", "x_0"] = "x_t"
    equivariant: bool = True
    literal: "Sampler | None" = None
    to_literal: Conversion | None = None
    from_literal: Conversion | None = None
    for_network: tuple[Literal["eta", "levels"], ...] = ("levels",)
    caveat: str = ""
    # Not an argument, so that `dataclasses.replace` drops it.
    made_by: partial | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name, kind in self.constraint.items():
            if kind not in ("nonnegative", "unit"):
                raise InputError(f"constraint of {name} = {kind!r}: allowed are nonnegative, unit")
        if self.state not in ("x_t", "x_0"):
            raise InputError(f"state = {self.state!r}: allowed are x_t, x_0")

    @property
    def options(self) -> tuple[tuple[str, object], ...]:
        """The options of the call that made it, defaults included."""
        return () if self.made_by is None else tuple(self.made_by.keywords.items())

    def heuristic(
        self, problem: Problem, levels: NoiseLevel, factor: float | Array = 1.0
    ) -> Guidance:
        """The published defaults as a schedule, leaves [S], with the constant that people tune
        multiplied by `factor`.

        Official constants of a form that divides by a norm are converted by the mean-field norms of
        its trajectory.
        """
        levels = check_levels(levels)
        official = self.defaults(problem, levels, factor)
        if self.literal is None:
            return official
        from ..literal_form import (
            from_literal,  # which differentiates samplers, and so imports this
        )

        return from_literal(self, problem, levels, official)

    def step(
        self, denoise: Denoise, measurement: Measurement, step: Step, *before: Array
    ) -> tuple[Array, ...]:
        """x_s, and what is remembered: `memory` signals, as many as `before`."""
        if not self.memory:
            return (self.update(denoise, measurement, step),)
        after = self.update(denoise, measurement, step, *before)
        if not isinstance(after, tuple) or len(after) != self.memory + 1:
            found = len(after) if isinstance(after, tuple) else "no tuple of"
            raise InputError(
                f"sampler {self.name!r}: its update returns {found} signals; with memory = "
                f"{self.memory} x_s and {self.memory} more are needed"
            )
        return after

    def centre(self, level: NoiseLevel) -> Array:
        """The multiple of the prior mean that the state is an estimate of."""
        return level.alpha if self.state == "x_t" else jnp.ones_like(level.alpha)

    @property
    def compares_by_call(self) -> bool:
        """Whether samplers of equal calls equal it, or nothing but itself."""
        # `exact` closes over a problem (`args`), whose arrays cannot be hashed.
        return self.made_by is not None and not self.made_by.args

    def _identity(self) -> object:
        if self.made_by is None or not self.compares_by_call:
            return id(self)
        return self.name, self.made_by.func, self.options

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sampler) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __reduce__(self):
        """Pickles hold the call, not the functions that it made."""
        return super().__reduce__() if self.made_by is None else (self.made_by, ())


def factory(make: Callable[..., Sampler]) -> Callable[..., Sampler]:
    """Decorator of the functions in `SAMPLERS`: options -> Sampler.

    Gives every choice of options one spelling (defaults filled in, lists of files as tuples) and
    keeps what it makes, so that `dps(scale=0.3) is dps()`. An argument without a default is what a
    sampler closes over: those are made anew at each call, and equal only themselves.
    InputError for an option that is not a number, a word, True, False, None or a tuple of these,
    and for one of type bool that is neither True nor False.
    """
    signature = inspect.signature(make)

    def new(*closed_over: object, **options: object) -> Sampler:
        sampler = make(*closed_over, **options)
        object.__setattr__(sampler, "made_by", partial(call, *closed_over, **options))
        return sampler

    kept = lru_cache(maxsize=None, typed=True)(new)  # typed: 1 is no answer for True

    @wraps(make)
    def call(*args: object, **options: object) -> Sampler:
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        closed_over, plain = [], {}
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            if parameter.default is inspect.Parameter.empty:
                closed_over.append(value)
            elif parameter.annotation is bool and not isinstance(value, bool):
                raise InputError(f"{name} = {value!r}: must be true or false")
            else:
                plain[name] = _plain(name, value)
        return new(*closed_over, **plain) if closed_over else kept(**plain)

    return call


def _plain(name: str, value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(_plain(name, part) for part in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{name} = {value!r}: must be a number, a word, true, false, none or a list")


def constant(value: float | Array, levels: NoiseLevel) -> Array:
    """The same weight at every step, [S]."""
    return jnp.full(num_steps_of(levels), value, float_dtype(levels))


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """InputError unless an option is one of a few words."""
    if value not in allowed:
        raise InputError(f"{name} = {value!r}: allowed are {', '.join(allowed)}")


def check_count(name: str, value: object) -> None:
    """InputError unless an option is a whole number >= 1."""
    if not (isinstance(value, int) and value >= 1) or isinstance(value, bool):
        raise InputError(f"{name} = {value!r}: must be a whole number >= 1")


def check_nonnegative(name: str, value: object) -> None:
    """InputError unless an option is a finite number >= 0."""
    if not (is_number(value) and 0 <= value < float("inf")):
        raise InputError(f"{name} = {value!r}: must be a finite number >= 0")


def check_kinds(sampler: Sampler, guidance: Guidance | None) -> None:
    """InputError where something else was given, by which arithmetic would stumble."""
    check_kind("sampler", sampler, Sampler, 'such as SAMPLERS["dps"](), with its parentheses')
    if guidance is not None:
        check_kind("guidance", guidance, Mapping, "name -> [S], such as the result's `guidance`")


def check_names(sampler: Sampler, guidance: Guidance) -> None:
    """InputError unless guidance has just the sampler's weights."""
    if set(guidance) != set(sampler.constraint):
        raise InputError(
            f"guidance of {sampler.name}: has {sorted(guidance)}, needed are "
            f"{sorted(sampler.constraint)}"
        )


def check_guidance(
    sampler: Sampler,
    levels: NoiseLevel,
    guidance: Guidance,
    modes: int | None = None,
    in_blocks: bool = False,
) -> None:
    """InputError unless guidance has just the sampler's weights, each of shape [S] and, where JAX
    does not trace them, finite and as `Sampler.constraint` says.

    For `modes` independent modes also [S, modes]: a weight of its own for each. `in_blocks`: there
    are none as modes fall into blocks, which the message says.
    """
    check_names(sampler, guidance)
    wanted, steps = sampler.constraint, num_steps_of(levels)
    for name, weights in guidance.items():
        allowed: list[tuple[int, ...]] = [(steps,)]
        if modes is not None:
            allowed.append((steps, modes))
        if np.shape(weights) not in allowed:
            also = ""
            if in_blocks:
                also = "; weights of each mode (low_pass, per_mode) are for independent modes, not "
                also += "blocks"
            elif np.ndim(weights) == 2 and modes is not None:
                also = f", or ({steps}, {modes}): `sp.per_mode` makes these of weights by band"
            raise InputError(
                f"guidance {name!r} of shape {np.shape(weights)}: ({steps},) is needed, one weight "
                f"per step{also}"
            )
        if not is_concrete(weights) or not np.size(weights):
            continue
        values, unit = np.asarray(weights), wanted[name] == "unit"
        if not np.all(np.isfinite(values)) or values.min() < 0 or (unit and values.max() > 1):
            interval = "in [0, 1]" if unit else ">= 0"
            raise InputError(f"guidance.{name}: all values must be finite and {interval}")
