"""`spectralpost evaluate`: a schedule on another problem than its own."""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from ..degradations import make_degradation
from ..inpainting import learning_problem
from ..learning import Prices, default_free, for_network, heuristic, learn
from ..options import Evaluate
from ..plain_json import text_of
from ..schedule_checks import check_sizes
from .console import (
    Say,
    baselines_of,
    console,
    ended_early,
    metric_table,
    metrics_of,
    quiet,
    transfer_of,
    watched,
)
from .given_schedule import given_schedule, prior_of_schedule
from .inputs import check_unused, degradation_choice, merged, search_of


class Result(NamedTuple):
    """A schedule beside the defaults and a schedule learned for the problem."""

    title: str
    rows: dict[str, dict[str, float]]  # metrics
    interrupted: bool  # by the user: what is learned is the best so far
    notes: tuple[str, ...]  # what there is to say of the files


LEARNED = "learned for this problem"
LEARNED_WITH = ("starts", "bins", "seed", "limits")


def compute(options: Evaluate, say: Say = quiet) -> Result:
    """Evaluate a schedule on another problem, and learn one for it."""
    if not options.relearn:
        check_unused(options, Evaluate(options.schedule), LEARNED_WITH, "evaluate --no-relearn")
    schedule = given_schedule(options.schedule)
    notes: set[str] = set()
    own = schedule.degradation_name, schedule.degradation_options
    name, given = degradation_choice(options, notes, *own)
    prior = prior_of_schedule(options.schedule, options.prior, schedule)
    degradation = make_degradation(name, prior.shape, **given)
    sigma_y = schedule.sigma_y if options.sigma_y is None else options.sigma_y
    problem = learning_problem(prior, degradation, sigma_y, channels=schedule.channels)
    check_sizes(prior.shape, schedule.channels, sigma_y, prior.pixel_range)
    sampler, levels = schedule.sampler(), schedule.levels
    guidance = schedule.guidance_for(problem)
    published = heuristic(sampler, problem, levels)
    limits = options.limits
    if limits == "auto":
        limits = "network" if schedule.provenance.get("limits") == "network" else "bare"
    free, prices = default_free(sampler), Prices()
    if limits == "network":
        chosen = for_network(sampler, levels)
        free, prices = chosen["free"], chosen["prices"]
    # By band, or where it is free, eta has been learned: it is nothing that the others are given.
    if "eta" in published and "eta" not in free and guidance["eta"].ndim == 1:
        published["eta"] = guidance["eta"]
    schedules = {"published default": published, "this schedule": guidance}
    interrupted = False
    if options.relearn:
        if limits == "network":
            why = "as is the schedule; --limits bare for the model's optimum"
            why = why if options.limits == "auto" else "as asked for"
            notes.add(f"learned within limits = network, {why}")
        learned = learn(
            sampler,
            merged(problem, options.bins),
            levels,
            published,
            free,
            prices=prices,
            search=search_of(options),
            progress=watched(say),
        )
        baselines = baselines_of(sampler, problem, levels, learned, prior)
        schedules["tuned constant"] = baselines["tuned_constant"]
        schedules[LEARNED], interrupted = learned.guidance, learned.interrupted
    transfers = {
        name: transfer_of(sampler, problem, levels, weights) for name, weights in schedules.items()
    }
    eta = guidance.get("eta", jnp.zeros_like(levels.alpha[1:]))
    transfers["exact reference"] = transfer_of("score", problem, levels, {"eta": eta})
    return Result(
        title=f"{options.schedule.name} on {degradation.name}, sigma_y = {sigma_y:g}",
        rows={name: metrics_of(problem, transfer, prior) for name, transfer in transfers.items()},
        interrupted=interrupted,
        notes=tuple(sorted(notes)),
    )


def write(result: Result, folder: Path) -> None:
    (folder / "metrics.json").write_text(text_of(result.rows))


def present(result: Result) -> None:
    console.print(metric_table(result.rows, result.title))
    ended_early([LEARNED] if result.interrupted else [])
