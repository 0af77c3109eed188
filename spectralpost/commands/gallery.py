"""`spectralpost gallery`: ready schedules that come with the package."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from ..choices import choice
from ..degradations import DEGRADATIONS
from ..errors import InputError, shown
from ..gallery import (
    Entry,
    Scores,
    degradation_near,
    gallery_entries,
    gallery_nearest,
    gallery_prior,
    gallery_schedule,
    levels_at,
    problem_on,
    published_of,
    scores_of,
    tuned_of,
)
from ..gallery.entries import SIZES, TASKS, entry_of
from ..gallery.judged import WITHIN
from ..learning import for_network
from ..noise import vp_linear
from ..options import Gallery
from ..prior_file import load_prior, save_prior
from ..samplers import SAMPLERS
from ..schedule_file import save_schedule
from .console import Say, console, print_whole, quiet
from .inputs import check_unused, degradation_choice, degradation_in_words

USUAL = "gaussian_blur"  # as elsewhere, where a flag such as --blur-std comes alone
SPARE = (8, 7, 4, 3, 5, 6)  # columns of the list that a narrow terminal does without
LABELS = {"learned": "learned", "tuned": "tuned constant", "published": "published default"}


class Asked(NamedTuple):
    """A problem that is none of the gallery's, and how the nearest schedule does there."""

    title: str
    values: dict[str, float]  # sigma_y, and the SIZES of the degradation
    steps: int
    scores: dict[str, Scores]  # by key of LABELS; "learned" is the schedule of the gallery
    flags: str  # that ask `design` for it


class Result(NamedTuple):
    """Those that fit, or the one that was asked for."""

    action: str
    entries: tuple[Entry, ...]
    asked: Asked | None
    out: Path | None


def compute(options: Gallery, say: Say = quiet) -> Result:
    """Find entries, and evaluate the nearest on the problem that was asked for."""
    if options.action != "show" and options.name is not None:
        raise InputError(f"name = {options.name!r}: has no effect on gallery {options.action}")
    if options.action == "list":
        if options.out is not None:
            raise InputError(f"out = {shown(options.out)}: has no effect on gallery list")
        return Result("list", _filtered(options), None, None)
    if options.action == "show":
        if options.name is None:
            raise InputError("gallery show: name a schedule; `spectralpost gallery` lists them")
        usual = Gallery("show", options.name, out=options.out)
        check_unused(options, usual, vars(usual), "gallery show")
        return Result("show", (entry_of(options.name),), None, options.out)
    return _nearest(options, say)


def save(result: Result) -> None:
    if result.out is None:
        return
    (entry,) = result.entries
    if result.out.suffix != ".json":
        raise InputError(f"out = {shown(result.out)}: a .json file is needed")
    if not result.out.parent.is_dir():
        raise InputError(
            f"out = {shown(result.out)}: there is no folder {shown(result.out.parent)}"
        )
    prior, beside = gallery_prior(entry.size), result.out.with_name("prior.npz")
    if beside.exists() and load_prior(beside).hash != prior.hash:
        raise InputError(f"out = {shown(result.out)}: prior.npz beside it is another prior")
    if not beside.exists() and not result.out.exists():  # first: a schedule needs it
        save_prior(beside, prior)
    save_schedule(result.out, gallery_schedule(entry))


def present(result: Result) -> None:
    if result.action == "list":
        print_whole(_table(result.entries), SPARE)
    elif result.asked is None:
        _show(result.entries[0])
    else:
        _compare(result.entries[0], result.asked)
    if result.out is not None:
        console.print(f"wrote {result.out}, and its prior beside it", soft_wrap=True)


# --------------------------------------------------------------------------------------- choosing


def _filtered(options: Gallery) -> tuple[Entry, ...]:
    """The entries that have the values that are given."""
    every = gallery_entries()
    task, degradation, given = _named(options)
    fits = {
        name
        for name, one in TASKS.items()
        if task in (None, name)
        and degradation in (None, one.degradation)
        and all(one.options.get(key) == value for key, value in given.items())
    }
    found = tuple(
        entry
        for entry in every
        if entry.task in fits
        and options.sampler in (None, entry.sampler)
        and options.sigma_y in (None, entry.sigma_y)
        and options.steps in (None, entry.steps)
    )
    if not found:
        raise InputError(_why_none(every, options))
    return found


def _why_none(every: tuple[Entry, ...], options: Gallery) -> str:
    """The first value that no entry has, with those that there are; or that they do not meet."""
    for name in ("sampler", "sigma_y", "steps"):
        value, known = getattr(options, name), sorted({getattr(entry, name) for entry in every})
        if value is not None and value not in known:
            allowed = ", ".join(f"{one:g}" if name == "sigma_y" else str(one) for one in known)
            others = "" if name == "sampler" else " (`gallery nearest` takes any number)"
            return f"{name} = {value!r}: the gallery has {allowed}{others}"
    given = {
        name: getattr(options, name) for name in ("sampler", "degradation", "sigma_y", "steps")
    }
    words = ", ".join(f"{name} = {value!r}" for name, value in given.items() if value is not None)
    return (
        f"gallery: none of its {len(every)} is all of that ({words or 'these options'}); allowed "
        f"are of degradation {', '.join(TASKS)}, though not of every sampler in as many steps, nor "
        "at as much noise: ask for fewer of these, or for `gallery nearest`"
    )


def _named(options: Gallery) -> tuple[str | None, str | None, dict]:
    """A task of the gallery, or a degradation with options, or neither."""
    given = options.degradation
    if given is not None and given.replace("-", "_") in TASKS:
        return given.replace("-", "_"), None, choice(options, "degradation")[1]
    if given is not None and choice(options, "degradation")[0] not in DEGRADATIONS:
        raise InputError(
            f"degradation = {given!r}: allowed are the gallery's {', '.join(TASKS)}, and those of "
            "`spectralpost degradations`"
        )
    name, values = choice(options, "degradation", "") if given else (None, {})
    if given is None:
        values = choice(options, "degradation", USUAL)[1]
        name = USUAL if values else None
    return None, name, values


def _nearest(options: Gallery, say: Say) -> Result:
    sampler_name, sigma_y, steps = options.sampler, options.sigma_y, options.steps
    if sampler_name is None or sigma_y is None or steps is None:
        raise InputError("gallery nearest: needs --sampler, --sigma-y and --steps")
    task, _, _ = _named(options)
    name, known = (USUAL, {}) if task is None else (TASKS[task].degradation, TASKS[task].options)
    if task is not None:
        options = replace(options, degradation=None)
    name, given = degradation_choice(options, set(), name, known)
    entry = gallery_nearest(sampler_name, name, given, sigma_y, steps)
    say("evaluating")
    schedule = gallery_schedule(entry)
    degradation, sampler = degradation_near(entry.size, name, given), schedule.sampler()
    problem, levels = problem_on(degradation, sigma_y), vp_linear(steps)
    constant = tuned_of(sampler, problem, levels)
    published = published_of(entry.sampler, entry.task, problem, levels)
    scores = {
        "learned": scores_of(sampler, problem, schedule.levels, schedule.guidance),
        "tuned": scores_of(sampler, problem, levels, constant),
        "published": scores_of(sampler, problem, levels, published),
    }
    values = {"sigma_y": sigma_y}
    values |= {name: value for name, value in degradation.options.items() if name in SIZES}
    title = f"{degradation_in_words(degradation)}, sigma_y {sigma_y:g}, {steps} steps"
    flags = f"--degradation {name}"
    if given:
        said = (f"{key}={'FILE' if np.ndim(one) else one}" for key, one in given.items())
        flags += " --degradation-options " + " ".join(said)
    flags += f" --sigma-y {sigma_y:g} --steps {steps}"
    return Result("nearest", (entry,), Asked(title, values, steps, scores, flags), options.out)


# -------------------------------------------------------------------------------------- presenting


def _table(entries: tuple[Entry, ...]) -> Table:
    table = Table(
        title=f"{len(entries)} schedules",
        caption="predicted W2^2 and energy score, and in % of those of the tuned constant and the "
        "published default, which take uniform time steps; measured: energy score on the shipped "
        "network, of the constant's; holds: from where to where W2^2 relative to the constant's "
        "stays within 5 %",
    )
    table.add_column("name", no_wrap=True)
    heads = (
        "W2^2",
        "W2^2 of\ntuned",
        "W2^2 of\npublished",
        "energy",
        "energy\nof tuned",
        "measured",
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name in ("sigma_y", "size"):
        table.add_column(f"holds,\n{name}", no_wrap=True)
    for entry in entries:
        w2, energy = entry.w2, entry.energy
        ranges = [entry.holds.get(name or "") for name in ("sigma_y", TASKS[entry.task].size)]
        table.add_row(
            entry.name,
            _number(w2["learned"]),
            _share(w2["learned"], w2["tuned"]),
            _share(w2["learned"], w2["published"]),
            _number(energy["learned"]),
            _share(energy["learned"], energy["tuned"]),
            "" if entry.measured is None else f"{100 + entry.measured['of_tuned'][0]:.0f} %",
            *("" if one is None else _range(*one) for one in ranges),
        )
    return table


def _show(entry: Entry) -> None:
    task = TASKS[entry.task]
    words = "".join(f", {name} {value:g}" for name, value in task.options.items())
    problem = (
        f"{task.degradation}{words}, sigma_y {entry.sigma_y:g} in [-1, 1], {entry.steps} steps"
    )
    scores = {label: Scores(entry.w2[label], entry.energy[label]) for label in LABELS}
    console.print(_scores_table(f"{entry.name}: {problem}", scores))
    ranges = "; ".join(f"{name} {_range(*ends)}" for name, ends in entry.holds.items())
    console.print(f"Its W2^2 relative to the constant's holds within 5 %: {ranges}", soft_wrap=True)
    within, levels = entry.within, levels_at(entry.timesteps)
    if within != for_network(SAMPLERS[entry.sampler](), levels)["prices"]:
        limit, scales = within.max_amplification, " and ".join(map("{:g}".format, within.scales))
        weak = f" ({within.weak_modes * limit:g} of weak modes)" if within.weak_modes > 1 else ""
        console.print(
            f"Learned within older limits: amplification {limit:g}{weak}, at {scales} times the "
            "spectrum too; another network may need today's: `spectralpost design --limits network "
            f"--start {entry.name} ...` goes on from it within these.",
            soft_wrap=True,
        )
    _print_measured(entry, "Measured")
    numbers = Table("time step", *entry.guidance)
    for i, step in enumerate(entry.timesteps):
        numbers.add_row(str(step), *(f"{one[i]:g}" for one in entry.guidance.values()))
    console.print(numbers)


def _print_measured(entry: Entry, begins: str) -> None:
    if (found := entry.measured) is None:
        return
    energy, (gap, error) = found["energy"], found["of_tuned"]
    console.print(
        f"{begins} on the shipped network, {found['images']} tiles of photographs, energy score: "
        f"{energy['learned']:g}; tuned constant {energy['tuned']:g} ({gap:+.1f} %, standard error "
        f"{error:.1f}); published {energy['published']:g}",
        soft_wrap=True,
    )


def _compare(entry: Entry, asked: Asked) -> None:
    console.print(f"Nearest: {entry.name}", soft_wrap=True)
    console.print(_scores_table(f"on {asked.title}", asked.scores, entry.name))
    both = {label: one.w2 for label, one in asked.scores.items()}, entry.w2
    shares = [_ratio(w2["learned"], w2["tuned"]) for w2 in both]
    there, own = map(_percent, shares)
    made_for, differs = TASKS[entry.task].options, []
    for name, value in asked.values.items():
        if name in entry.holds:
            low, high = entry.holds[name]
            if not low <= value <= high:
                differs.append(f"{name} = {value:g} is outside of its range, {_range(low, high)}.")
        elif name in made_for and value != made_for[name]:
            differs.append(f"It is made for {name} = {made_for[name]:g}, not {value:g}.")
    if asked.steps != entry.steps:
        differs.append(f"It has {entry.steps} steps, not {asked.steps}.")
    worse = _ratio(*shares)
    if not differs and worse is None:
        differs = ["Something diverges."]
    if not differs and worse is not None and worse > WITHIN:
        differs = [
            f"That is more than {100 * (WITHIN - 1):.0f} % worse: another direction, or mask."
        ]
    what = f"--limits network --sampler {entry.sampler} --start {entry.name} {asked.flags}"
    goes_on = f"`spectralpost design {what}` goes on from it for your problem."
    lines = [f"W2^2 of the tuned constant's: {there} here, {own} on its own problem."]
    lines += [*differs, goes_on] if differs else ["That is within its range."]
    console.print(" ".join(lines), soft_wrap=True)
    _print_measured(entry, "Measured on its own problem")


def _scores_table(title: str, scores: dict[str, Scores], learned: str = "learned") -> Table:
    """learned: how the schedule of the gallery is called."""
    table = Table(
        title=title,
        caption="predicted, per pixel, for the gallery's prior; constants on uniform time steps",
    )
    table.add_column("schedule")
    for column in ("W2^2", "of tuned", "energy score"):
        table.add_column(column, justify="right")
    for label, one in scores.items():
        share = _share(one.w2, scores["tuned"].w2)
        name = learned if label == "learned" else LABELS[label]
        table.add_row(name, _number(one.w2), share, _number(one.energy))
    return table


def _range(low: float, high: float) -> str:
    return f"{low:g} only" if low == high else f"{low:g} to {high:g}"


def _number(value: float | None) -> str:
    return "diverges" if value is None else f"{value:.4g}"


def _share(value: float | None, of: float | None) -> str:
    return _percent(_ratio(value, of))


def _ratio(value: float | None, of: float | None) -> float | None:
    return None if value is None or of is None else value / of


def _percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * ratio:.3g} %"
