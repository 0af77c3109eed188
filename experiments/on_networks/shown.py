"""What `real_networks.py` prints and draws of its cells."""

import sys
from collections.abc import Iterable, Sequence
from itertools import chain, combinations
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from on_networks.schedules import LEARNED, sampler_of
from on_networks.scores import DIVERGED, SCORES, gap_of
from spectralpost.denoiser_use import differentiates_denoiser
from spectralpost.figures import (
    COLOURS,
    Format,
    new_figure,
    outside_legend,
    save_with_caption,
)

FARTHEST = 60.0  # per cent that the figure shows
WORDS = {
    "denoise": "denoising",
    "gaussian": "Gaussian blur",
    "motion": "motion blur",
    "x2": "x2 bicubic",
    "x4": "x4 bicubic",
    "inpaint": "3 of 10 pixels",
    "mosaic": "Bayer mosaic",
}
CAPTION = (
    "Energy score of images that the shipped U-Net has restored and that neither it nor the prior "
    "has seen, relative to the constant tuned on the model: of the published default (which may be "
    "far outside, then it is named) and of the learned schedule; less is better. Each mark is a "
    "task, number of steps and noise level. The energy score of two samples a measurement is "
    "proper: its expectation is least for the true posterior. Pixels in [-1, 1]."
)


def show(key: str, cell: dict) -> None:
    print(key)
    for label, scores in cell.items():
        gap, error = gap_of(cell, label)
        # Cells of before it was counted have none; theirs is the worst of the first samples.
        beyond = f" ({scores['beyond']} beyond {DIVERGED:g})" if scores.get("beyond") else ""
        print(
            f"  {label:<32} {np.mean(scores['energy']):.4f}  {gap:+6.1f} % ({error:.1f})  "
            f"{scores['psnr']:5.1f} dB  "
            f"{scores['psnr_mean']:5.1f} dB  worst {scores['worst']:4.1f}{beyond}  "
            f"W2 {scores['W2 model']:.5f} {scores['W2 calibrated']:.5f}  "
            f"predicted {scores['predicted']:.4f}  "
            f"{scores['learn_s']:.0f} s {scores['restore_s']:.0f} s"
        )
    sys.stdout.flush()


def table(cells: dict[str, dict], schedules: Sequence[str]) -> None:
    """Energy score of the tuned constant, and what others have more of it in % (standard error).

    Behind the last one: its worst sample, as a multiple of the median error, and how many dB a
    sample has more than the constant's; below, its mean by number of steps.
    """
    short = {"limits + levels": "+l.", "limits + levels + J": "+l.+J", LEARNED[4]: "+l.+J+s."}
    heads = ["published", *(short.get(name, name) for name in schedules)]
    widths = [max(14, len(head)) for head in heads]
    print(f"\n{titles(cells)}tuned", *map(str.rjust, heads, widths), end="")
    print("  worst    dB")
    for name, cell in cells.items():
        print(f"{name}{np.mean(cell['tuned']['energy']):8.4f}", end="")
        for label, width in zip(("published", *schedules), widths, strict=True):
            gap, error = gap_of(cell, label)
            print("", f"{gap:+.1f} ({error:.1f})".rjust(width), end="")
        last = cell[schedules[-1]]
        print(f"{last['worst']:7.1f} {last['psnr'] - cell['tuned']['psnr']:+5.1f}")
    for steps in dict.fromkeys(name.split()[2] for name in cells):
        some = [
            gap_of(cell, schedules[-1]) for name, cell in cells.items() if steps == name.split()[2]
        ]
        print(
            f"{schedules[-1]}, {steps} steps, mean of {len(some)}: {np.mean(some, axis=0)[0]:+.1f}"
        )


def titles(cells: dict[str, dict]) -> str:
    """Above the names of cells."""
    rest = " task     S   s_y  "
    return "sampler".ljust(len(next(iter(cells))) - len(rest)) + rest


def correlation(cells: dict[str, dict]) -> None:
    """Rank correlation of what is predicted with the energy score: of all, and within cells."""
    models = ("W2 model", "W2 calibrated", "predicted")
    print("\nrank correlation with the energy score, over all and (mean of those within cells), of")
    print(f"{'':<16}   W2, model       W2, calibrated  energy score, calibrated")
    by_jacobian = ("all", "with Jacobian", "without")
    for title in by_jacobian:
        some = [
            cell
            for name, cell in cells.items()
            if title == "all"
            or differentiates_denoiser(sampler_of(name.split()[0])) == (title == by_jacobian[1])
        ]
        if not some:
            continue
        print(f"{title:<16}", end="")
        for model in models:
            pairs = [[(np.mean(s["energy"]), s[model]) for s in cell.values()] for cell in some]
            over_all = spearmanr(*zip(*chain(*pairs), strict=True)).statistic
            within = np.mean([spearmanr(*zip(*one, strict=True)).statistic for one in pairs])
            print(f"{f'{over_all:.2f} ({within:.2f})':>15}", end="")
        print()


def other_scores(cells: dict[str, dict], label: str) -> None:
    """What other scores say of a schedule and the tuned constant, and whether that is the same.

    Below: in how many cells the schedule is better, the rank correlation of these gains with that
    in energy score, and how many pairs of a cell's schedules are in the same order as by it.
    """

    def of(cell: dict, name: str) -> np.ndarray:  # more is better
        return np.array([better(np.mean(cell[name][one])) for one, better in SCORES.items()])

    head = titles(cells)

    def row(title: str, texts: Iterable[str]) -> None:
        print(title.ljust(len(head)), *(f"{text:>16}" for text in texts))

    print(f"\n{label} less the tuned constant; a star: worse")
    row(head, ("energy %", "CRPS %", "PSNR of mean dB", "SSIM", "spectrum dB", "calibration"))
    gains, orders = [], []
    for name, cell in cells.items():
        tuned = of(cell, "tuned")
        gain = (of(cell, label) - tuned) * (100 / -tuned[0], 100 / -tuned[1], 1, 1, 1, 1)
        # As changes of the scores, whatever is better.
        changes = zip(gain, (-1, -1, 1, 1, -1), (1, 1, 2, 3, 2), strict=False)
        texts = [f"{way * one:+.{digits}f}" for one, way, digits in changes]
        texts.append(" to ".join(f"{cell[one]['calibration']:.2f}" for one in ("tuned", label)))
        stars = [" *" if one < 0 else "  " for one in gain]
        row(name, map(str.__add__, texts, stars))
        gains.append(gain)
        schedules = np.array([of(cell, one) for one in cell])
        orders += [np.sign(one - other) for one, other in combinations(schedules, 2)]
    row(f"better, of {len(cells)}", map(str, (np.array(gains) > 0).sum(axis=0)))
    if len(cells) > 2:
        ranks = (spearmanr(np.array(gains)[:, 0], one).statistic for one in np.array(gains).T)
        row("rank correlation", (f"{one:.2f}" for one in ranks))
    same = np.array(orders) == np.array(orders)[:, :1]
    row("pairs in its order", (f"{100 * one:.0f} %" for one in same.mean(axis=0)))


def save(cells: dict[str, dict], label: str, folder: Path, format: Format) -> None:
    """The figure, in place of one of earlier cells."""
    numbers = {
        " ".join(name.split()): {
            what: {
                "energy score": float(np.mean(cell[what]["energy"])),
                "of the tuned constant's (%)": gap_of(cell, what)[0],
                "standard error (%)": gap_of(cell, what)[1],
                "PSNR of a sample (dB)": cell[what]["psnr"],
            }
            for what in cell
        }
        for name, cell in cells.items()
    }
    for name in (f"real_networks.{format}", "real_networks.json"):
        (folder / name).unlink(missing_ok=True)
    save_with_caption(
        figure(cells, label),
        folder,
        "real_networks",
        title="Learned schedules on a trained network",
        caption=CAPTION,
        numbers=numbers,
        format=format,
    )


def figure(cells: dict[str, dict], label: str) -> Figure:
    """Energy score of a schedule and of the published default, relative to the tuned constant: a
    row for each sampler, in it a mark for each cell and a line through their mean."""
    samplers = list(dict.fromkeys(name.split()[0] for name in cells))
    figure = new_figure((8, 1.9 + 0.42 * len(samplers)))
    axes = figure.subplots()
    for name, words, colour, marker, offset in (
        ("published", "published default", COLOURS["published default"], "x", 0.17),
        (label, f"learned, {label}", COLOURS["learned"], "o", -0.17),
    ):
        for row, sampler in enumerate(samplers):
            gaps = np.array(
                [gap_of(cell, name)[0] for key, cell in cells.items() if key.split()[0] == sampler]
            )
            height = -row + offset
            inside = gaps[gaps <= FARTHEST]
            axes.plot(inside, np.full(inside.size, height), marker, color=colour, alpha=0.6, ms=5)
            if gaps.mean() <= FARTHEST:
                axes.vlines(gaps.mean(), height - 0.14, height + 0.14, color=colour, lw=2)
            if beyond := gaps.size - inside.size:
                axes.annotate(
                    f"\N{RIGHTWARDS ARROW} {beyond} of {gaps.size}, up to {gaps.max():+.0f} %",
                    (FARTHEST, height),
                    color=colour,
                    va="center",
                    fontsize=8,
                )
        axes.plot([], [], marker, color=colour, label=words)
    axes.axvline(0, color=COLOURS["tuned constant"], label="tuned constant")
    for row in range(len(samplers) - 1):
        axes.axhline(-row - 0.5, color="0.9", linewidth=0.8)
    axes.set_yticks(-np.arange(len(samplers)), samplers)
    axes.set(xlim=(min(axes.get_xlim()[0], -10), FARTHEST + 30), ylim=(0.5 - len(samplers), 0.5))
    axes.set_xlabel(
        "energy score on the network, relative to the tuned constant (%); further left is better"
    )
    axes.set_title(cells_in_words(cells), fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    outside_legend(figure, "upper center")
    return figure


def cells_in_words(cells: dict[str, dict]) -> str:
    """What the marks of a row are."""
    _, tasks, steps, sigmas = (
        tuple(dict.fromkeys(one)) for one in zip(*map(str.split, cells), strict=True)
    )
    return (
        f"a mark for each of {' and '.join(WORDS[task] for task in tasks)}, "
        f"{' and '.join(steps)} steps, $\\sigma_y$ = {' and '.join(sigmas)}; lines: means"
    )
