"""What all figures share: colours, an empty figure, a file."""

import os
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Format = Literal["png", "svg", "pdf"]

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
        with matplotlib.rc_context(as_text):
            figure.savefig(path, dpi=dpi, format=format)
    except OSError as error:
        raise InputError(f"figure {str(path)!r}: cannot be written ({error.strerror})") from error
    figure.clear()
