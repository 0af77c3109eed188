"""A guidance schedule with the problem that it was made for, and what its file holds."""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from jax import Array

from .degradations import Degradation, make_degradation
from .errors import InputError
from .images import PIXEL_RANGE, PixelRange
from .learning import per_mode
from .noise import NoiseLevel, check_levels, num_steps_of
from .noise_grid import NoiseGrid, checked_timesteps
from .prior import Prior
from .problem import Problem, planes_of
from .problem_checks import check_sigma_y
from .samplers import SAMPLERS, make_sampler
from .samplers.base import Guidance, Sampler, check_guidance
from .signatures import changed_options

FORMAT = "spectralpost schedule"
FORMAT_VERSION = 2

CONVENTION = (
    "x_t = alpha_t x_0 + sigma_t eps; step i goes from level i to level i + 1 with guidance[i]; "
    "weights multiply the terms of sampler.update in squared-residual form, for pixels in "
    "problem.pixel_range"
)
BANDS = (
    "log(h^2 spectrum / sigma_y^2) of a mode; between evenly spaced knots log weights (of weights "
    "in [0, 1] their logits) are linear in it, beyond them constant"
)
AXES = {1: ["step"], 2: ["step", "band"]}


@dataclass(frozen=True, eq=False)
class Schedule:
    """A guidance schedule with the problem that it was made for.

    Step i goes from level i to level i + 1. `timesteps` [S] index the network's training grid at
    the levels where it is called, None where the grid has none (VE, rectified flow). All planes
    share the weights. Equal schedules are those whose files are equal.

    >>> schedule.sampler() == sampler, schedule.degradation() == blur
    (True, True)
    """

    sampler_name: str
    levels: NoiseLevel  # leaves [S + 1]
    guidance: Guidance  # name -> [S], or by band [S, bands]
    degradation_name: str
    shape: tuple[int, ...]  # height, width of a plane
    sigma_y: float  # in units of pixel_range
    channels: int = 1
    pixel_range: PixelRange = PIXEL_RANGE
    sampler_options: dict[str, Any] = field(default_factory=dict)
    degradation_options: dict[str, Any] = field(default_factory=dict)
    timesteps: tuple[int, ...] | None = None
    grid: str = ""  # how the levels were made, in words
    prior_source: str = ""
    prior_hash: str = ""
    objective: str = ""
    loss: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    band_knots: Array | None = None  # [bands], of weights by band (`guidance.band_knots`)

    @classmethod
    def of(
        cls,
        sampler: Sampler,
        prior: Prior,
        degradation: Degradation,
        sigma_y: float,
        grid: NoiseGrid | NoiseLevel,
        guidance: Guidance,
        **others: Any,
    ) -> "Schedule":
        """From the objects that it was made with.

        grid    of `noise_grid`, or levels alone, such as those that `learn` has learned: then no
                time steps are known
        others  fields that these do not say: `channels` (default: those of the prior, of a mosaic
                or a matrix over planes, else 1), `loss`, `provenance`, ...
        Raises InputError for a sampler or degradation that no function of the tables made, a prior
        of another size, sigma_y <= 0, weights that the sampler does not or cannot have, and time
        steps unless there is one a step, whole numbers that descend.

        >>> made = sp.Schedule.of(
        ...     sampler, prior, blur, 0.1, sp.noise_grid("vp_linear", 3), guidance
        ... )
        >>> made.timesteps, made.degradation_options
        ((999, 500, 0), {'std': 1.0})
        """
        if not sampler.compares_by_call or sampler.name not in SAMPLERS:
            raise InputError(f"sampler {sampler.name!r}: a file can name only those of SAMPLERS")
        name, options = sampler.name, dict(sampler.options)
        if make_sampler(name, **options) != sampler:
            raise InputError(f"sampler {name!r}: is not what SAMPLERS has under this name")
        check_sigma_y(sigma_y)
        if isinstance(grid, NoiseLevel):
            grid = NoiseGrid(check_levels(grid), None, "learned", {}, "learned")
        knots = others.get("band_knots")
        check_guidance(sampler, grid.levels, guidance, None if knots is None else len(knots))
        if not degradation.is_made:
            raise InputError(
                f"degradation {degradation.name!r}: was put together or changed by hand, which a "
                "file cannot say"
            )
        planes, _ = planes_of(prior, degradation, others.get("channels"))
        schedule = cls(
            sampler_name=sampler.name,
            sampler_options=changed_options(SAMPLERS[sampler.name], dict(sampler.options)),
            levels=grid.levels,
            timesteps=grid.timesteps,
            grid=grid.label,
            guidance=guidance,
            degradation_name=degradation.name,
            degradation_options=degradation.options,
            shape=degradation.shape,
            sigma_y=sigma_y,
            pixel_range=prior.pixel_range,
            prior_source=prior.source,
            prior_hash=prior.hash,
            channels=degradation.planes or planes,
        )
        schedule = replace(schedule, **others)
        if schedule.timesteps is None:
            return schedule
        timesteps, steps = checked_timesteps(schedule.timesteps), num_steps_of(schedule.levels)
        if len(timesteps) != steps:
            raise InputError(f"timesteps: {len(timesteps)} were given for {steps} steps")
        return replace(schedule, timesteps=timesteps)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        one, two = (  # read back: 1 is 1.0
            json.loads(json.dumps(schedule.as_json(), default=lambda value: value.tolist()))
            for schedule in (self, other)
        )
        return one == two

    def sampler(self) -> Sampler:
        """The sampler with the options that the schedule was made for."""
        return make_sampler(self.sampler_name, **self.sampler_options)

    def degradation(self, shape: tuple[int, ...] | None = None) -> Degradation:
        """The degradation, on images of another size if `shape` is given."""
        return make_degradation(
            self.degradation_name, shape or self.shape, **self.degradation_options
        )

    def degradation_of(self, measured: tuple[int, ...]) -> Degradation:
        """The degradation on the images whose measurements have planes of this shape.

        InputError where those of the schedule's degradation are no planes.
        """
        own = self.degradation()
        plane = own.measured[-len(own.shape) :]
        if plane == measured:
            return own
        if len(plane) != len(measured):
            raise InputError(
                f"measurement of shape {measured}: {own.name} gives {own.measured}, which is no "
                "image; `sp.restore` takes it"
            )
        times = [n // m for n, m in zip(own.shape, plane, strict=True)]
        return self.degradation(tuple(m * n for m, n in zip(measured, times, strict=True)))

    def guidance_for(self, problem: Problem) -> Guidance:
        """What samplers take for a problem: leaves [S], and [S, F] of weights by band."""
        if self.band_knots is None:
            return self.guidance
        return per_mode(self.sampler().constraint, self.guidance, problem, self.band_knots)

    def as_json(self) -> dict[str, Any]:
        """What a file holds, with NumPy's numbers in it."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "convention": CONVENTION,
            "sampler": {"name": self.sampler_name, "options": self.sampler_options},
            "levels": {
                "grid": self.grid,
                "timestep": self.timesteps,
                "alpha": np.asarray(self.levels.alpha),
                "sigma": np.asarray(self.levels.sigma),
            },
            "guidance": {
                name: {"axes": AXES.get(np.ndim(weights), []), "weights": np.asarray(weights)}
                for name, weights in self.guidance.items()
            },
            "bands": None
            if self.band_knots is None
            else {"position": BANDS, "knots": np.asarray(self.band_knots)},
            "problem": {
                "degradation": self.degradation_name,
                "degradation_options": self.degradation_options,
                "shape": self.shape,
                "channels": self.channels,
                "sigma_y": self.sigma_y,
                "pixel_range": self.pixel_range,
            },
            "prior": {"source": self.prior_source, "hash": self.prior_hash},
            "objective": {
                "name": self.objective,
                "value": self.loss,
                "baselines": self.baselines,
            },
            "provenance": self.provenance,
        }


def provenance(seed: int | None = None) -> dict[str, Any]:
    """Who made a schedule: package versions, seed and date."""
    return {
        "spectralpost": version("spectralpost"),
        "jax": jax.__version__,
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
