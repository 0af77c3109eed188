"""The style that all figures share, colours before all; an empty figure, legends, a file."""

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["png", "svg", "pdf"]

# Okabe and Ito's palette, told apart by all common kinds of colour vision.
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
VERMILION, ORANGE, PURPLE = "#D55E00", "#E69F00", "#CC79A7"
BLACK = "#000000"

# What people read for the keys of `LearnResult` and of files.
LABELS = {
    "heuristic": "published default",
    "tuned_constant": "tuned constant",
    "learned": "learned",
    "exact": "exact reference",
}
# Of schedules; black is the truth.
COLOURS = {
    "published default": VERMILION,
    "tuned constant": ORANGE,
    "learned": BLUE,
    "exact reference": GREEN,
}
LINES = {
    "published default": "--",
    "tuned constant": "-.",
    "learned": "-",
    "exact reference": ":",
}

FREQUENCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # cycles per pixel
WIDE = 14.0  # inches of four panels side by side, or six small ones

# Of a page in a browser, light and dark.
PAGE_STYLE = """
:root { color-scheme: light dark; --text: #1d1d1f; --dim: #5c5c66; --page: #fff; --box: #f3f3f5;
  --line: #d8d8de; --link: #0060a8; --bad: #b03000; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6ea; --dim: #a0a0aa; --page: #17181b;
  --box: #24252a; --line: #3b3c44; --link: #6cb6f0; --bad: #ff9066; } }
body { margin: 0 auto; max-width: 66rem; padding: 1rem 1.5rem 4rem; color: var(--text);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; margin: 0 0 .7rem; }
a { color: var(--link); }
section { border-top: 1px solid var(--line); margin-top: 2.2rem; padding-top: 1.4rem; }
figure > a { display: block; margin: 0 calc(50% - min(48vw, 44rem)); }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff;
  border-radius: 4px; }
figure { margin: 0; } figcaption { margin: .8rem 0; max-width: 50rem; }
pre, .table { overflow-x: auto; background: var(--box); border-radius: 4px; }
pre { padding: .6rem .8rem; font-size: .85rem; }
.dim { color: var(--dim); font-size: .9rem; } .bad { color: var(--bad); }
.table { max-height: 30rem; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem; text-align: right; white-space: nowrap; }
th[scope=row] { text-align: left; font-weight: normal; }
thead th { position: sticky; top: 0; background: var(--box); border-bottom: 1px solid var(--line); }
summary { cursor: pointer; margin: .4rem 0; }
"""


def new_figure(size: tuple[float, float]) -> "Figure":
    """An empty figure, in inches, whose panels and legends make room for each other."""
    # The object-oriented interface: no global state, no display needed.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def outside_legend(
    figure: "Figure", place: str = "lower center", ncols: int | None = None, **style: Any
) -> None:
    """One legend for all panels, each label once, beside them so that it hides nothing.

    place   where, with one of the words lower, upper, left or right
    ncols   default: all labels in a row
    """
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    where: Any = f"outside {place}"
    figure.legend(found.values(), found, loc=where, ncols=ncols or len(found), **style)


def legend_above(axes: "Axes", title: str, **style: Any) -> None:
    """A legend of its own for one panel, above it and in place of its title."""
    above: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
    axes.legend(title=title, borderaxespad=0.2, columnspacing=1, handlelength=1.4, **above, **style)


def frequency_axis(axes: "Axes", f: np.ndarray, numbers: Sequence[float] = FREQUENCIES) -> None:
    """A logarithmic axis of the frequencies f (cycles per pixel), 0 left out, with few numbers."""
    f = f[f > 0]
    ticks = [at for at in numbers if f.min() <= at <= f.max()]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{at:g}" for at in ticks])
    axes.set_xticks([], minor=True)


def save_figure(
    figure: "Figure", path: str | os.PathLike[str], dpi: int = 130, format: Format = "png"
) -> None:
    """Write a figure, and forget it; InputError if the file cannot be written.

    dpi: of what is drawn in pixels, which of "svg" and "pdf" are images alone.
    """
    import matplotlib

    # Text of an SVG stays text, which can be searched and edited; a PDF gets whole fonts.
    as_text: Any = {"svg.fonttype": "none", "pdf.fonttype": 42}
    try:
        with matplotlib.rc_context(as_text), warnings.catch_warnings():
            # Letters of a file's name that the font lacks are boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(path, dpi=dpi, format=format)
    except OSError as error:
        raise InputError(f"figure {str(path)!r}: cannot be written ({error.strerror})") from error
    figure.clear()
