"""Empirical receptive fields of units as heat maps, beside the size that theory allows."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_interp._extras import require
from lightning_interp.drawing.figures import new_figure
from lightning_interp.drawing.palette import EMPTY, INK, MUTED
from lightning_interp.drawing.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 5
_HALF = "#56B4E9"


def receptive_fields(
    layer: str,
    units: Sequence[int],
    maps: NDArray[np.float32],
    sizes: Sequence[float],
    contrasts: Sequence[float],
    theoretical: tuple[int, int] | None,
) -> "Figure":
    """Draw fields by occlusion, as :func:`~lightning_interp.methods.fields.engine.occlusion_fields` gives them.

    Bright is where occlusion changes the unit's peak most, each unit on its own scale; the line is half of its maximum,
    which the size is that of; the dashed frame is the theoretical field, as far as it fits; grey is unknown.

    Args:
        layer: Name of the layer.
        units: U channel numbers.
        maps: ``(U, H, W)``, NaN where unknown; the peak's centre is pixel ``(H // 2, W // 2)``.
        sizes: Side of each field in pixels.
        contrasts: Maximum of each field over that by chance; NaN for a unit without any change.
        theoretical: Height and width of the theoretical field in pixels; None where it has none.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    columns = min(_COLUMNS, len(units))
    rows = math.ceil(len(units) / columns)
    side = 1.75
    figure = new_figure(max(columns * side, 3.6), rows * (side * maps.shape[1] / maps.shape[2] + 0.5) + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in panels[len(units) :]:
        axes.set_axis_off()
    for axes, unit, values, size, contrast in zip(panels, units, maps, sizes, contrasts, strict=False):
        _panel(axes, values, theoretical)
        told = "no change" if math.isnan(contrast) else f"{size:.0f} px, {contrast:.1f} x chance"
        axes.set_title(f"unit {unit}\n{told}", loc="left", fontsize=8, color=INK)
    theory = "no theoretical size" if theoretical is None else f"in theory {theoretical[0]} x {theoretical[1]} px"
    title = figure.suptitle("", x=0.01, ha="left", fontsize=11, color=INK, parse_math=False)
    title.set_text(f"{clean(layer)}: fields by occlusion ({theory})")
    return figure


def _panel(axes: "Axes", values: NDArray[np.float32], theoretical: tuple[int, int] | None) -> None:
    """One unit's field with its half-maximum line and the theoretical frame."""
    known = np.ma.masked_invalid(values)
    axes.set_facecolor(EMPTY)
    axes.imshow(known, cmap="magma", vmin=0)
    highest = float(known.max()) if known.count() else 0.0
    if highest > 0:
        axes.contour(known.filled(0), levels=[highest / 2], colors=_HALF, linewidths=1)
    if theoretical is not None:
        height, width = theoretical
        row, column = (side // 2 for side in values.shape)
        # The middle pixel of an even field is the lower right of its two by two.
        corner = (column - width // 2 - 0.5, row - height // 2 - 0.5)
        axes.add_patch(
            require("matplotlib.patches").Rectangle(corner, width, height, fill=False, ec="white", lw=1, ls=(0, (3, 2)))
        )
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    axes.set_ylim(values.shape[0] - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(MUTED)
