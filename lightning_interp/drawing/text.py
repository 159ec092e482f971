"""Names made safe to show: no control characters, no markup, not too long."""

import unicodedata
from collections.abc import Sequence

# Read literally by Markdown, HTML and MathJax alike; everything else becomes a numeric entity.
_PLAIN = frozenset(" -.,:()/%+=…")


def clean(name: str, limit: int = 40) -> str:
    r"""One line of visible characters, at most ``limit`` of them.

    Control, format (also those that turn the writing direction), surrogate and unassigned characters become
    spaces; runs of spaces become one.

    Example:
        >>> clean("a\tb\x00\u202ec", 40), clean("abcdef", 4)
        ('a b c', 'abc…')
    """
    visible = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in name)
    line = " ".join(visible.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose cells show their text literally, whatever is in it."""
    lines = [columns, ["---"] * len(columns), *rows]
    escaped = [[str(c) if i == 1 else literal(c) for c in line] for i, line in enumerate(lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def literal(text: object, limit: int = 80) -> str:
    """One line that Markdown shows as it is written, whatever is in it."""
    text = clean(str(text), limit)
    return "".join(c if c.isalnum() or c in _PLAIN else f"&#{ord(c)};" for c in text)
