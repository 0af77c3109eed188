"""What all figures share: colours, an empty figure, a file."""

import os
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by all common kinds of colour vision; black is the truth.
COLOURS = {
    "published default": "#D55E00",
    "tuned constant": "#E69F00",
    "learned": "#0072B2",
    "exact reference": "#009E73",
}
LINES = {
    "published default": "--",
    "tuned constant": "-.",
    "learned": "-",
    "exact reference": ":",
}


def new_figure(size: tuple[float, float]) -> "Figure":
    # The object-oriented interface: no global state, no display needed.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def save_figure(figure: "Figure", path: str | os.PathLike[str], dpi: int = 130) -> None:
    """Write a figure as PNG, and forget it; InputError if the file cannot be written."""
    try:
        figure.savefig(path, dpi=dpi, format="png")
    except OSError as error:
        raise InputError(f"figure {str(path)!r}: cannot be written ({error.strerror})") from error
    figure.clear()
