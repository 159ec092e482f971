"""What the callbacks of all methods share; the only part of the core that knows a Trainer."""

from typing import Any

from lightning_interp._moved import moved


def __getattr__(name: str) -> Any:
    return moved("callbacks", name)
