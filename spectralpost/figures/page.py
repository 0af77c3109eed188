"""Figures with their captions and numbers, on one page that a browser shows."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import whole_file
from .base import Format, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_with_caption(
    figure: "Figure",
    folder: str | os.PathLike[str],
    name: str,
    *,
    title: str,
    caption: str,
    numbers: dict[str, Any],
    format: Format = "png",
    overwrite: bool = False,
) -> None:
    """Write `name.png` (or svg, pdf) and `name.json`, which says what the figure shows.
    InputError if one of them exists, unless `overwrite`.

    title    a few words
    caption  a paragraph: what is drawn, of which problem, in which units, and what it shows
    numbers  of the figure, or those that its text quotes: plain numbers, lists and dictionaries
    """
    folder = Path(folder)
    with whole_file(folder / f"{name}.{format}", overwrite=overwrite) as temporary:
        save_figure(figure, temporary, format=format)
    said = {"title": title, "caption": caption, "image": f"{name}.{format}", "numbers": numbers}
    with whole_file(folder / f"{name}.json", overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
