"""The figures, drawn with matplotlib (imported when the first one is drawn); one kind a file."""

from .base import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    LABELS,
    LINES,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDE,
    Format,
    frequency_axis,
    legend_above,
    new_figure,
    outside_legend,
    save_figure,
)
from .compare import compare_figure
from .page import Shown, html_page, save_with_caption
from .report import radial_average, report_figure
from .restored import Panel, restored_figure
from .sweep import (
    Axis,
    Drawn,
    heat_map_figure,
    sweep_lines_figure,
    sweep_weights_figure,
)
from .tradeoff import tradeoff_figure, tradeoffs_figure
from .training import training_figure
