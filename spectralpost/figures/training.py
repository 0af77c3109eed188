"""How a network was trained."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_figure(
    sigmas: Sequence[float], gain: Sequence[float], losses: Sequence[tuple[int, float]], title: str
) -> "Figure":
    """How a network was trained: loss by step, and its gain in dB on the Gaussian denoiser."""
    figure = new_figure((9, 3.6))
    left, right = figure.subplots(1, 2)
    left.semilogy(*zip(*losses, strict=True), "o-", color=COLOURS["learned"])
    left.set(xlabel="step", ylabel="loss (1: nothing learned)")
    right.axhline(0, color="black", linewidth=0.8)
    right.semilogx(sigmas, gain, "o-", color=COLOURS["learned"])
    right.set(xlabel="sigma, pixels in [-1, 1]", ylabel="PSNR over the Gaussian denoiser's (dB)")
    figure.suptitle(title, fontsize=10)
    return figure
