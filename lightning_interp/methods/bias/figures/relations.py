"""What a network takes for related beside what the labels relate, as two matrices."""

from typing import TYPE_CHECKING

import numpy as np

from lightning_interp._extras import require
from lightning_interp.drawing.figures import new_figure, quiet
from lightning_interp.drawing.palette import EMPTY, INK, MUTED
from lightning_interp.drawing.text import clean
from lightning_interp.methods.bias.result import Floats, Relations

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_MOST_NUMBERS = 14  # attributes beyond which a cell has no room for a number
_DARK = 0.6  # absolute value from which the cell is too dark for dark ink
_DASH = {"failure mode": "solid", "blind spot": (0, (3, 2))}
_OUGHT = {-1: "ought \N{MINUS SIGN}", 0: "ought 0", 1: "ought +"}


def relation_matrix(relations: Relations) -> "Figure":
    """Learnt mean cosine of the attributes' contributions, beside the correlation (phi) of their labels.

    Red is positive, blue negative, from -1 to 1 in both; the diagonal, which is 1 by definition, is left white, and
    an unknown value is grey with a question mark. A solid frame is a failure mode, a dashed one a blind spot. Under
    each number of the right matrix stands the sign that the pair ought to have.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    side = float(np.clip(0.78 * len(relations.names), 2.8, 9.0))
    figure = new_figure(2 * side + 2.6, side + 1.5)
    left, right = figure.subplots(1, 2)
    image = _panel(left, relations, relations.mean, "the network relates (mean cosine)")
    _panel(right, relations, relations.labels, "the labels relate (correlation)", ought=True)
    bar = figure.colorbar(image, ax=[left, right], shrink=0.8, pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9, length=0)
    _frame_findings(left, relations)
    return figure


def _panel(axes: "Axes", relations: Relations, values: Floats, title: str, *, ought: bool = False) -> "AxesImage":
    names, diagonal = [clean(name, 20) for name in relations.names], np.eye(len(values), dtype=bool)
    known = np.ma.masked_invalid(values)
    image = axes.imshow(known, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_facecolor(EMPTY)
    # White over the diagonal, which would be the strongest colour and says nothing.
    axes.imshow(np.ma.masked_where(~diagonal, np.ones_like(values)), cmap="gray", vmin=0, vmax=1)
    quiet(axes)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    if len(names) <= _MOST_NUMBERS:
        for row, column in np.argwhere(~diagonal):
            text = _number(values[row, column])
            if ought:
                text += "\n" + _OUGHT[int(relations.expected[row, column])]
            dark = abs(np.nan_to_num(values[row, column])) >= _DARK
            axes.text(column, row, text, ha="center", va="center", fontsize=9, linespacing=1.3,
                      color="white" if dark else INK)  # fmt: skip
    return image


def _frame_findings(axes: "Axes", relations: Relations) -> None:
    """Frame the pairs that are failure modes or blind spots, above and below the diagonal, and say what frames mean."""
    rectangle = require("matplotlib.patches").Rectangle
    # A white seam keeps the frame visible on the darkest cells.
    seam = [require("matplotlib.patheffects").withStroke(linewidth=5, foreground="white")]
    for finding in relations.findings:
        pair = relations.names.index(finding.first), relations.names.index(finding.second)
        for column, row in (pair, pair[::-1]):
            corner = (column - 0.46, row - 0.46)
            frame = rectangle(corner, 0.92, 0.92, fill=False, lw=2.2, ec=INK, ls=_DASH[finding.kind])
            frame.set_path_effects(seam)
            axes.add_patch(frame)
    kinds = [kind for kind in _DASH if any(finding.kind == kind for finding in relations.findings)]
    handles = [rectangle((0, 0), 1, 1, fill=False, lw=1.8, ec=INK, ls=_DASH[kind]) for kind in kinds]
    figure = axes.get_figure(root=True)
    if kinds and figure is not None:
        figure.legend(handles, kinds, loc="outside lower left", ncols=2, frameon=False, fontsize=9, labelcolor=MUTED)


def _number(value: float) -> str:
    return "?" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # never -0.00
