"""What a check is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lightning_interp.functional.moments import Estimate
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.view import View
from lightning_interp.methods.bias.maths.groups import Learnt
from lightning_interp.methods.bias.result import Score


class Check(ABC):
    """One check: sums over batches, then scores from the sums of all processes.

    Attributes:
        name: What the user calls it by.
        needs_layer: Whether it looks at a layer's activations.
        sums: By name, float64 sums; the engine adds up those of all processes before it asks for scores.
        rows: For the few checks that sums do not serve: one float64 row an image, its number first.
        gathered: The rows of all processes, in the order of the images; there before scores are asked for.
    """

    name: ClassVar[str]
    needs_layer: ClassVar[bool] = False

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.sums: dict[str, Tensor] = {}
        self.rows: list[Tensor] = []
        self.gathered = torch.empty(0, 0, dtype=torch.float64)

    @classmethod
    def why_not(cls, asked: Asked) -> str | None:
        """Why the check cannot run on this probe set; None if it can."""
        return None

    @classmethod
    def gap(cls, asked: Asked) -> str | None:
        """What a check that runs cannot tell on this probe set, and why; None if it tells everything."""
        return None

    @abstractmethod
    def update(self, view: View) -> None:
        """Add the sums of a batch; no collective."""

    @abstractmethod
    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """Scores by name, always the same names."""

    def empty(self, *shape: int) -> Tensor:
        """Sums to start from."""
        return torch.zeros(shape, dtype=torch.float64)

    def add(self, name: str, sums: Tensor) -> None:
        """Add sums of a batch, wherever they were made."""
        self.sums[name] += sums.double().cpu()


def score(estimate: Estimate, *, count: float = 0, chance: float = float("nan")) -> Score:
    """A score from an estimate with its interval."""
    return Score(*estimate, chance=chance, count=int(count))


def not_divided(asked: Asked, ratio: str) -> str | None:
    """Why a ratio of effects has no value for some contexts, as a check's gap."""
    return "; ".join(f"no {ratio}/{context}: {why}" for context, why in asked.apart.items()) or None


def by_context(scores: Mapping[str, Score], context: str) -> dict[str, Score]:
    """The same scores, named for a context."""
    return {f"{name}/{context}": value for name, value in scores.items()}
