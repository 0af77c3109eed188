"""A cell of a sweep as objects: sampler, levels, problem. Those that cells share are made once."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from ..degradations import make_degradation
from ..inpainting import learning_problem
from ..learning.lanes import next_power_of_two, stacked
from ..merging import bin_modes, pad_modes, unique_modes
from ..noise import Curve, NoiseLevel, curve_of
from ..noise_grid import noise_grid
from ..prior import Prior
from ..problem import Problem
from ..samplers.base import Sampler
from .axes import as_text, sampler_of
from .grid import Settings
from .priors import PRIORS


class Case(NamedTuple):
    """A cell as objects."""

    cell: Mapping[str, Any]
    sampler: Sampler
    levels: NoiseLevel  # [S + 1]
    curve: Curve  # of the levels
    near: Problem  # merged, at a sigma_y nearby

    @property
    def problem(self) -> Problem:
        sigma_y = np.asarray(self.cell["sigma_y"], self.near.spectrum.dtype)
        return self.near._replace(sigma_y=sigma_y)


def case_of(cell: Mapping[str, Any], settings: Settings) -> Case:
    """The objects of a cell."""
    degradation, prior, grid = (as_text(cell[axis]) for axis in ("degradation", "prior", "grid"))
    # Bins hardly depend on the noise: those of the nearest power of two do.
    octave = round(math.log2(cell["sigma_y"]))
    near = _merged(degradation, prior, octave, settings.size, settings.bins)
    return Case(cell, sampler_of(cell["sampler"]), *_levels(grid, cell["steps"]), near)


def stacked_cases(cases: Sequence[Case]) -> tuple[Problem, NoiseLevel]:
    """The problems and levels of all cases, leaves [N, ...]."""
    problems = _shared_stacked([case.near for case in cases])
    sigma_y = np.asarray([case.cell["sigma_y"] for case in cases], problems.spectrum.dtype)
    return problems._replace(sigma_y=sigma_y), _shared_stacked([case.levels for case in cases])


def _shared_stacked(trees: Sequence[Any]) -> Any:
    """`stacked`, of trees many of which are the same objects."""
    once = {id(tree): tree for tree in trees}
    place = {name: i for i, name in enumerate(once)}
    which = np.asarray([place[id(tree)] for tree in trees])
    return jax.tree.map(lambda leaf: leaf[which], stacked(list(once.values())))


@lru_cache(maxsize=4096)
def _merged(degradation: str, prior: str, octave: int, size: int, bins: int) -> Problem:
    whole = _unmerged(degradation, prior, size)._replace(sigma_y=np.asarray(2.0**octave))
    small = bin_modes(whole, bins)[0]
    # Few numbers of rows, so few programs.
    return jax.tree.map(np.asarray, pad_modes(small, next_power_of_two(len(small.spectrum))))


@lru_cache(maxsize=64)  # not merged: of large images they are large
def _unmerged(degradation: str, prior: str, size: int) -> Problem:
    name, options = _split(json.loads(degradation))
    blur = make_degradation(name, (size, size), **options)
    return unique_modes(learning_problem(_prior(prior, size), blur, 1.0))[0]


def prior_of(cell: Mapping[str, Any], settings: Settings) -> Prior:
    """The prior of a cell."""
    return _prior(as_text(cell["prior"]), settings.size)


def prior_hash_of(cell: Mapping[str, Any], settings: Settings) -> str:
    """`Prior.hash` of a cell's."""
    return _prior_hash(as_text(cell["prior"]), settings.size)


@lru_cache(maxsize=4096)
def _prior_hash(prior: str, size: int) -> str:
    return _prior(prior, size).hash


@lru_cache(maxsize=16)
def _prior(prior: str, size: int) -> Prior:
    name, options = _split(json.loads(prior))
    return PRIORS[name]((size, size), **options)


@lru_cache(maxsize=1024)
def _levels(grid: str, steps: int) -> tuple[NoiseLevel, Curve]:
    name, options = _split(json.loads(grid))
    levels = jax.tree.map(np.asarray, noise_grid(name, steps, **options).levels)
    return levels, curve_of(levels)


def _split(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return entry["name"], {key: value for key, value in entry.items() if key != "name"}
