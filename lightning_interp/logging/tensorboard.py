"""A full disk ends TensorBoard's writer thread; the training need not end with it."""

import warnings
from contextlib import suppress
from typing import Any


def outlive(logger: Any) -> None:
    """Let training outlive the event file of a Lightning logger, if it is one of TensorBoard.

    TensorBoard writes in a thread. When that fails (disk full, folder removed), every later call raises what
    the thread died of, Lightning's own scalars included, and ``fit`` ends. From here on it is one warning, and
    what comes later is dropped. Cheap and safe to call again: a closed writer makes a new event file.

    Args:
        logger: One of ``trainer.loggers``; call it on rank zero only.
    """
    if "TensorBoardLogger" not in (base.__name__ for base in type(logger).__mro__):
        return
    # A folder that cannot be written from the start is for Lightning to report; a logger derived from
    # TensorBoard's may have a writer of its own kind.
    with suppress(OSError, AttributeError):
        # Private, but there is no other way to the file that the next call would open.
        writer = logger.experiment._get_file_writer()
        if not isinstance(writer.event_writer, _Outlived):
            writer.event_writer = _Outlived(writer.event_writer)


class _Outlived:
    """An event writer that says once that it failed, and drops what comes later."""

    def __init__(self, writer: Any) -> None:
        self._writer, self._failed = writer, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def add_event(self, event: Any) -> None:
        self._try("add_event", event)

    def flush(self) -> None:
        self._try("flush")

    def close(self) -> None:
        self._try("close")

    def _try(self, method: str, *args: Any) -> None:
        if self._failed and method != "close":
            return
        try:
            getattr(self._writer, method)(*args)
        except OSError as error:
            if self._failed:
                return
            self._failed = True
            warnings.warn(
                f"the TensorBoard log in {self._writer.get_logdir()} could not be written: "
                f"{type(error).__name__}: {error}. Nothing more goes into it. Training goes on; this is said once.",
                stacklevel=3,
            )
