"""Schedules by their labels: those that `real_networks.py` holds against each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from on_networks.scores import energies
from spectralpost import (
    Degradation,
    Freedom,
    InputError,
    NoiseLevel,
    Prices,
    Problem,
    Sampler,
    Search,
    Several,
    default_free,
    for_network,
    learn,
    measure,
    plateau,
    polish,
    restore,
)
from spectralpost.restoration import PixelDenoiser
from spectralpost.samplers import make_sampler
from spectralpost.samplers.base import Guidance
from spectralpost.signatures import parsed_words

FACTORS = 2.0 ** np.arange(-3, 3.5, 0.5)
BASELINES = ("published", "tuned")
LEARNED = (
    "bare",
    "limits",
    "limits + levels",
    "limits + levels + J",
    "limits + levels + J + scales",
    "network",
)
POLISHED, REAL, MIXTURE = "polished", "real", "mixture"
WEAKEST = {"3 %": 0.03, "30 %": 0.3}
LABELS = (*LEARNED, POLISHED, REAL, MIXTURE, *WEAKEST)  # to which `changed` adds

Schedule = tuple[NoiseLevel, Guidance]


@dataclass(frozen=True)
class Case:
    """What schedules are looked for of.

    plain, calibrated  the problem of the prior as it is, and calibrated to the network
    clean              images [N, 3, H, W] in [-1, 1] to polish and to tune on
    mixture            see `scale_mixture`
    kept               scores by label, whose schedules are not looked for again
    """

    sampler: Sampler
    levels: NoiseLevel
    degradation: Degradation
    plain: Problem
    calibrated: Problem
    network: PixelDenoiser
    clean: np.ndarray | None = None
    mixture: tuple[np.ndarray, np.ndarray] | None = None
    kept: Mapping[str, dict] = field(default_factory=dict)
    search: Search = field(default_factory=Search)

    @property
    def sigma_y(self) -> float:
        return float(self.plain.sigma_y)

    @cached_property
    def baselines(self) -> dict[str, Guidance]:
        # Both come before the search, of which Adam's is the soonest compiled.
        few = Search(starts=1, max_iterations=1, optimizer="adam")
        found = learn(self.sampler, self.plain, self.levels, search=few).baseline_guidance
        return dict(zip(BASELINES, (found["heuristic"], found["tuned_constant"]), strict=True))


def sampler_of(word: str) -> Sampler:
    """dps, or with options dps:multistep=2,scale=0.5."""
    name, _, options = word.partition(":")
    words = tuple(filter(None, options.split(",")))
    return make_sampler(name, **parsed_words("samplers", words))


def schedule_of(label: str, case: Case) -> Schedule:
    """Of one of BASELINES, of LABELS, or of these with changes."""
    if label in case.kept:
        return of_kept(case.kept[label]["schedule"])
    if label in BASELINES:
        return case.levels, case.baselines[label]
    if label in WEAKEST:
        return case.levels, weakest(case, WEAKEST[label])
    if label == REAL:
        return case.levels, tuned_on_images(case)
    if label == POLISHED:
        return polished(case)
    return learned(*changed(label), case)


def changed(label: str) -> tuple[str, dict[str, Any]]:
    """Of "network, within 2, scales 5 0.2": "network", and what differs in its prices."""
    label, *texts = label.split(", ")
    changes: dict[str, Any] = {}
    for text in texts:
        word, *numbers = text.split()
        try:
            values = tuple(map(float, numbers))
        except ValueError:
            values = ()
        if word == "within" and len(values) == 1:
            changes["max_amplification"] = values[0]
        elif word == "weak" and len(values) == 1:
            changes["weak_modes"] = values[0]
        elif word == "scales" and values:
            changes["scales"] = values
        else:
            raise InputError(f"{text!r}: allowed are 'within 2', 'weak 2' and 'scales 5 0.2'")
    return label, changes


def learned(label: str, changes: Mapping[str, Any], case: Case) -> Schedule:
    """In closed form, with this much of `for_network`."""
    problem: Problem | list[Problem]
    words, options = {*label.split(" + ")}, dict[str, Any](for_network(case.sampler, case.levels))
    prices: Prices = options.pop("prices")
    if label == MIXTURE:
        assert case.mixture is not None
        scales, probability = case.mixture
        # Each with its own Jacobian, so not the calibrated one.
        problem = [case.plain._replace(spectrum=scale * case.plain.spectrum) for scale in scales]
        options["several"] = Several(references=1 / probability)  # the mean of their losses
        prices = prices._replace(scales=())
    else:
        problem = case.calibrated if {"J", "network"} & words else case.plain
        if "network" not in words:
            options = {"freedom": Freedom(levels="levels" in words)}
            if "scales" not in words:
                prices = prices._replace(scales=())
            if "bare" in words:
                prices = Prices()
    prices = prices._replace(**changes)
    given = case.sampler, problem, case.levels
    result = learn(*given, prices=prices, search=case.search, **options)
    return in_single(result.levels), result.guidance


def scale_mixture(kurtosis: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales of the spectrum, 1 on average, and their probabilities: three numbers for a lognormal
    (Gauss and Hermite's) whose second moment, 1 + kurtosis / 3, gives whitened images, locally
    Gaussian of varying scale, that excess kurtosis; three numbers have less of it."""
    z, weights = hermegauss(3)
    scales, probability = np.exp(np.sqrt(np.log1p(kurtosis / 3)) * z), weights / weights.sum()
    return scales / (scales @ probability), probability


def weakest(case: Case, cost: float) -> Guidance:
    """The constant with as little guidance as costs this share of W2^2."""
    constant = case.baselines["tuned"]
    weights = [name for name, kind in case.sampler.constraint.items() if kind == "nonnegative"]
    if not weights:
        return constant
    low, high = plateau(case.sampler, case.plain, case.levels, constant, cost)
    factor = high if "lambda_" in constant else low  # of which more is less
    return constant | {name: factor * constant[name] for name in weights}


def polished(case: Case) -> Schedule:
    """`network`, which may be kept (then seconds are polish's own), through the network itself."""
    assert case.clean is not None
    at, guidance = schedule_of("network", case)
    given = case.sampler, case.network, case.clean, case.degradation, case.sigma_y, at, guidance
    return at, polish(*given, for_network(case.sampler, case.levels)["free"]).guidance


def tuned_on_images(case: Case) -> Guidance:
    """The constant times the factor that restores these images best: what people do."""
    assert case.clean is not None
    sampler, clean, constant = case.sampler, case.clean, case.baselines["tuned"]
    y = measure(case.degradation, clean, case.sigma_y, jax.random.key(3))

    def scaled(factor: float) -> Guidance:
        # A number between 0 and 1 goes with its distance from 1.
        kinds = sampler.constraint.items()
        change = {
            name: constant[name] * factor
            if kind == "nonnegative"
            else 1 - np.clip((1 - constant[name]) * factor, 0, 1)
            for name, kind in kinds
            if name in default_free(sampler)
        }
        return constant | change

    def score(factor: float) -> float:
        given = sampler, case.network, case.degradation, y, in_single(case.levels), scaled(factor)
        x = restore(*given, jax.random.key(4), sigma_y=case.sigma_y, num_samples=2)
        return float(np.mean(energies(np.asarray(x), clean)))

    return scaled(min(FACTORS, key=score))


def of_kept(schedule: dict[str, list]) -> Schedule:
    """Of a cell: its noise levels, all of which are variance preserving, and its weights."""
    arrays = {name: np.asarray(one, np.float32) for name, one in schedule.items()}
    noise = arrays.pop("sigma / alpha").astype(float)
    alpha = 1 / np.sqrt(1 + noise**2)
    return in_single(NoiseLevel(alpha, noise * alpha)), arrays


def in_single(levels: NoiseLevel) -> NoiseLevel:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), levels)
