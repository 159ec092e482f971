"""What a probe hands to a logger: one small frozen dataclass a kind, and the tag it goes under."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image as PillowImage

from lightning_interp.drawing.figures import Bins
from lightning_interp.drawing.pictures import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


@dataclass(frozen=True)
class Scalars:
    """Numbers by tag."""

    values: Mapping[str, float]


@dataclass(frozen=True)
class Image:
    """A PIL image, or ``(H, W, 3)`` uint8."""

    tag: str
    image: PillowImage.Image | Picture


@dataclass(frozen=True)
class Figure:
    """A matplotlib figure; it is empty after it was written."""

    tag: str
    figure: "MatplotlibFigure"


@dataclass(frozen=True)
class Histogram:
    """Binned values."""

    tag: str
    bins: Bins


@dataclass(frozen=True)
class Text:
    """Markdown."""

    tag: str
    markdown: str


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns."""

    tag: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class CustomScalars:
    """TensorBoard's custom scalars: by heading and chart, ``"Multiline"`` or ``"Margin"`` and tags."""

    layout: Mapping[str, Mapping[str, tuple[str, Sequence[str]]]]


Artifact = Scalars | Image | Figure | Histogram | Text | Table | CustomScalars


def safe_tag(tag: str) -> str:
    """A tag that every logger takes: letters, digits, ``_ . - /`` and inner spaces, at most 200 characters.

    Example:
        >>> safe_tag("dissect/layer4.0/<b>|x$"), safe_tag("a//../b ")
        ('dissect/layer4.0/_b_x_', 'a/b')
    """
    parts = [re.sub(r"[^A-Za-z0-9_. -]+", "_", part).strip(" ") for part in tag.split("/")]
    return "/".join(part for part in parts if part.strip("."))[:200] or "_"
