"""`spectralpost evaluate`: a schedule on another problem than its own."""

import json

import jax
import jax.numpy as jnp

from ..cli import Design, Evaluate, to_yaml
from ..files import check_free, fresh_folder, whole_folder
from ..learning import default_free
from ..problem import image_problem
from ..schedule_file import load_schedule
from .console import console, learn_with_progress, score_table, scores_of, transfer_of
from .setting import degradation_of, merged, stored_prior


def evaluate(options: Evaluate) -> None:
    """Score a schedule on another problem, beside the defaults and a schedule learned for it."""
    out = options.out or fresh_folder("runs", "evaluate")
    check_free(out)
    schedule = load_schedule(options.schedule)
    prior = stored_prior(options.schedule, options.prior, schedule)
    if options.degradation is None:
        degradation = schedule.degradation(prior.shape)
    else:
        degradation = degradation_of(options, options.degradation, prior.shape)
    sigma_y = schedule.sigma_y if options.sigma_y is None else options.sigma_y
    problem = image_problem(prior, degradation, sigma_y, channels=schedule.channels)
    sampler, levels = schedule.sampler(), schedule.levels
    heuristic = jax.jit(sampler.heuristic)(problem, levels)
    if "eta" in heuristic and "eta" not in default_free(sampler):
        heuristic["eta"] = schedule.guidance["eta"]
    rows = {"published default": heuristic, "this schedule": schedule.guidance}
    if options.relearn:
        small = merged(problem, Design.bins)
        result = learn_with_progress(
            sampler, small, levels, heuristic, None, Design.starts, options.seed
        )
        rows["tuned constant"] = result.baseline_guidance["tuned_constant"]
        rows["learned for this problem"] = result.guidance
    transfers = {
        name: transfer_of(sampler, problem, levels, guidance) for name, guidance in rows.items()
    }
    eta = schedule.guidance.get("eta", jnp.zeros_like(levels.alpha[1:]))
    transfers["exact reference"] = transfer_of("score", problem, levels, {"eta": eta})
    scores = {name: scores_of(problem, transfer, prior) for name, transfer in transfers.items()}
    title = f"{options.schedule.name} on {degradation.name}, sigma_y = {sigma_y:g}"
    console.print(score_table(scores, title))
    with whole_folder(out) as folder:
        (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
        (folder / "config.yaml").write_text(to_yaml(options))
    console.print(f"results in {out}: scores.json", soft_wrap=True)
