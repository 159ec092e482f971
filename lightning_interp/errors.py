"""The package's own errors, so that callers can tell a bad input from a bug."""

import difflib
from collections.abc import Iterable


class InterpError(Exception):
    """Base of every error that this package raises on purpose."""


class DatasetError(InterpError, ValueError):
    """A probe set is malformed; the message names the file, and the line and column where there is one."""


class LayerError(InterpError, ValueError):
    """A layer name does not resolve, or the layer does not give a (B, U, H, W) map exactly once a forward."""


class ResponseError(LayerError):
    """A layer's responses say nothing: silent on all images, or NaN or infinite on one. Training may get it there."""


class ProbeError(InterpError, RuntimeError):
    """A probe failed on at least one process; every process raises it with the same text."""


class MissingExtraError(InterpError, ImportError):
    """An optional dependency is absent; the message gives the ``pip install`` line."""


def unknown(
    name: str,
    known: Iterable[str],
    kind: str,
    error: type[InterpError] = DatasetError,
    *,
    most: int = 1,
    otherwise: str | None = None,
) -> InterpError:
    """An error that names what is unknown, and what it may have been meant for.

    Args:
        name: What was given.
        known: The names that there are.
        kind: What they are names of.
        error: Class of the error.
        most: Near names to tell of, at most.
        otherwise: What to say where no name is near; by default the first thirty that there are.

    Example:
        >>> str(unknown("layer5", ["layer3", "layer4"], "layer"))
        "unknown layer 'layer5'; did you mean 'layer4'?"
        >>> str(unknown("x", ["crr", "scr"], "check"))
        "unknown check 'x'; there are crr, scr"
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, most, 0.6 if most == 1 else 0.5)
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    else:
        hint = otherwise or (f"there are {', '.join(names[:30])}" if names else "there is none")
    return error(f"unknown {kind} {name!r}; {hint}")


def check_names(names: Iterable[str], known: Iterable[str], kind: str) -> None:
    """Raise a ``DatasetError`` that names the likely spelling, unless all ``names`` are among the ``known``."""
    known = list(known)
    for name in names:
        if name not in known:
            raise unknown(name, known, kind)
