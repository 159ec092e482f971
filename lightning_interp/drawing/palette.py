"""One colour a category, the same in every figure, gallery and report."""

import zlib
from collections.abc import Iterable

from lightning_interp.data.probe import BRODEN_CATEGORIES

# Okabe & Ito 2008, "Color Universal Design": told apart with every common colour-vision deficiency.
_BRODEN = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_OTHERS = ("#7A5C99", "#8C6D31", "#5B7F95", "#A0525E")
NEUTRAL = "#8A8F98"
EMPTY = "#E4E6EA"
INK = "#1F2328"
MUTED = "#5F6670"


def category_color(category: str) -> str:
    """``#RRGGBB`` of a category; one that Broden does not have gets its colour from its name alone.

    Example:
        >>> category_color("object"), category_color("animal") == category_color("animal")
        ('#0072B2', True)
    """
    if category in BRODEN_CATEGORIES:
        return _BRODEN[BRODEN_CATEGORIES.index(category)]
    return _OTHERS[zlib.crc32(category.encode("utf-8", "replace")) % len(_OTHERS)]


def ordered(categories: Iterable[str]) -> list[str]:
    """Distinct categories, Broden's first and in its order, the others by name."""
    own = set(categories)
    return [c for c in BRODEN_CATEGORIES if c in own] + sorted(own - set(BRODEN_CATEGORIES))
