"""Output that may fail without stopping the training."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal


class Guard:
    """Turns an error of rank-zero output into one warning a kind.

    Args:
        name: Who writes, for the message.
        on_error: ``"warn"``, or ``"raise"`` to let errors through.

    Raises:
        ValueError: If ``on_error`` is neither.

    Example:
        >>> guard = Guard("dissect", on_error="raise")
        >>> with guard("figures"):
        ...     drawn = True
    """

    def __init__(self, name: str, on_error: Literal["warn", "raise"] = "warn") -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', not {on_error!r}")
        self.warns = on_error == "warn"
        self._name = name
        self._warned: set[str] = set()

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Guard the body, which writes things of that kind; an interrupt always passes."""
        try:
            yield
        except Exception as error:
            if not self.warns:
                raise
            if kind not in self._warned:
                self._warned.add(kind)
                warnings.warn(
                    f"{self._name}: could not write {kind}: {type(error).__name__}: {error}. "
                    "Training goes on; this is said once.",
                    stacklevel=4,
                )
