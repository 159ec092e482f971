"""What the results of all methods share: scalars, one line when printed, files."""

from typing import Any

from lightning_interp._moved import moved


def __getattr__(name: str) -> Any:
    return moved("results", name)
