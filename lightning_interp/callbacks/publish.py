"""Where what a probe found goes: loggers, files, pages. Rank zero alone, and never a reason for training to end."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_interp._lightning import Trainer
from lightning_interp.logging.artifacts import Artifact, CustomScalars, Scalars
from lightning_interp.logging.guard import Guard
from lightning_interp.logging.loggers import shows, write
from lightning_interp.logging.tensorboard import outlive

Shown = tuple[type[Artifact], str, Callable[[], Any]]
"""Kind, tag below the callback's name, and what makes the content: one value, or a tuple of the kind's fields."""
Charts = dict[str, tuple[str, Sequence[str]]]
"""By title, TensorBoard's kind of chart and the tags in it."""


class Publisher:
    """Writes for one callback.

    Args:
        name: First part of every tag and the name of the folder.
        on_error: What a failing figure, logger or file does: ``"warn"`` once and go on, or ``"raise"``.
    """

    def __init__(self, name: str, on_error: Literal["warn", "raise"]) -> None:
        self.name = name
        self.guard = Guard(name, on_error)

    def folder(self, trainer: Trainer) -> Path:
        """Where the files go; a collective call, for so is ``trainer.log_dir``: every process must come here."""
        return Path(trainer.log_dir or trainer.default_root_dir) / "interp" / self.name

    def scalars(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Numbers straight to the loggers, for a moment at which Lightning takes none."""
        self._write(trainer, [(Scalars, lambda: Scalars(values))])

    def layout(self, trainer: Trainer, charts: Mapping[str, Charts]) -> None:
        """TensorBoard's custom scalars, by heading."""
        self._write(trainer, [(CustomScalars, lambda: CustomScalars(charts))])

    def show(self, trainer: Trainer, things: Iterable[Shown]) -> None:
        """Figures, pictures, tables and texts to the loggers that show them."""
        self._write(trainer, self._made(things))

    def _made(self, things: Iterable[Shown]) -> Iterator[tuple[type[Artifact], Callable[[], Artifact]]]:
        for kind, tag, make in things:
            yield kind, lambda kind=kind, tag=tag, make=make: self._artifact(kind, tag, make())  # type: ignore[misc]

    def _artifact(self, kind: Any, tag: str, content: Any) -> Artifact:
        parts = content if isinstance(content, tuple) else (content,)
        found: Artifact = kind(f"{self.name}/{tag}", *parts)
        return found

    def _write(self, trainer: Trainer, things: Iterable[tuple[type[Artifact], Callable[[], Artifact]]]) -> None:
        if not trainer.is_global_zero or not trainer.loggers:
            return
        self.outlive(trainer)
        with self.guard("figures"):
            for kind, make in things:
                for logger in (logger for logger in trainer.loggers if shows(logger, kind)):
                    # A figure is empty after it was written, so each logger gets its own.
                    with self.guard(kind.__name__.lower()):
                        write(logger, make(), trainer.global_step)

    def outlive(self, trainer: Trainer) -> None:
        """Let training outlive a log that can no longer be written."""
        if self.guard.warns and trainer.is_global_zero:
            for logger in trainer.loggers:
                outlive(logger)
