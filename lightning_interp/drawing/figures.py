"""Matplotlib without pyplot: figures that no global state holds on to."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_interp._extras import require
from lightning_interp.drawing.palette import INK, MUTED
from lightning_interp.drawing.pictures import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

_DPI = 110


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure: Figure = require("matplotlib.figure").Figure(
        figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white"
    )
    return figure


def quiet(axes: "Axes", *sides: str) -> None:
    """Keep only the named sides of the frame, and mute what remains."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in sides)
        spine.set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=9, length=0)


def whole_ticks(axes: "Axes", most: int) -> None:
    """At most that many ticks on the vertical axis, at whole numbers."""
    axes.yaxis.set_major_locator(require("matplotlib.ticker").MaxNLocator(most, integer=True))


def literal_legend(legend: "Legend", names: list[str]) -> None:
    """Put names into a legend as they are: no mathematics, and no name left out for its first letter."""
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def render(figure: "Figure") -> Picture:
    """Draw a figure into ``(H, W, 3)`` uint8 and empty it, which frees what it held."""
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; no reason to speak up at every epoch.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
    pixels: Picture = np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3].copy()
    figure.clear()
    return pixels


@dataclass(frozen=True)
class Bins:
    """Binned values with their raw moments, as ``SummaryWriter.add_histogram_raw`` wants them.

    Args:
        counts: ``(B,)`` int64.
        edges: ``(B + 1,)`` float64, rising.
        minimum: Smallest value; 0 without values.
        maximum: Largest value; 0 without values.
        total: Sum of the values.
        squares: Sum of their squares.
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    minimum: float
    maximum: float
    total: float
    squares: float
