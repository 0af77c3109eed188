"""Rows of images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..images import PIXEL_RANGE, PixelRange, to_uint8
from .base import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Panel(NamedTuple):
    """One image of `restored_figure`."""

    title: str
    image: np.ndarray  # [C, H, W]
    caption: str = ""


def restored_figure(
    rows: Sequence[Sequence[Panel]], title: str, pixel_range: PixelRange = PIXEL_RANGE
) -> "Figure":
    """Rows of images with a title above and a caption below each; a $ in them is one, as names of
    files may have it."""
    columns = max(len(row) for row in rows)
    figure = new_figure((2.9 * columns, 3.7 * len(rows) + 0.4))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, row in zip(grid, rows, strict=True):
        for axes, panel in zip(axes_row, row, strict=False):
            axes.imshow(
                to_uint8(panel.image, pixel_range),
                cmap="gray",
                vmin=0,
                vmax=255,
                interpolation="nearest",
            )
            axes.set_title(panel.title, fontsize=10, parse_math=False)
            axes.set_xlabel(panel.caption, fontsize=9, parse_math=False)
        for axes in axes_row:
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure
