"""What a check is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lightning_interp.functional.moments import Estimate
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import Learnt
from lightning_interp.methods.bias.result import Score
from lightning_interp.probing.sums import Sums


class Check(ABC):
    """One check: sums over batches, then scores from the sums of all processes.

    Attributes:
        name: What the user calls it by.
        needs_layer: Whether it looks at a layer's activations.
        sums: By name, float64 sums to start from; when scores are asked for, those of all processes.
        rows: By name, ``(0, ...)`` float64, for the few checks that sums do not serve; when scores are asked for, one
            row an image, in their order.
    """

    name: ClassVar[str]
    needs_layer: ClassVar[bool] = False

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, Tensor] = {}
        self._into = Sums()

    @classmethod
    def why_not(cls, asked: Asked) -> str | None:
        """Why the check cannot run on this probe set; None if it can."""
        return None

    @classmethod
    def gap(cls, asked: Asked) -> str | None:
        """What a check that runs cannot tell on this probe set, and why; None if it tells everything."""
        return None

    @abstractmethod
    def update(self, view: BiasView) -> None:
        """Add the sums of a batch; no collective."""

    @abstractmethod
    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """Scores by name, always the same names."""

    def empty(self, *shape: int) -> Tensor:
        """Sums to start from."""
        return torch.zeros(shape, dtype=torch.float64)

    def begin(self, sums: Sums) -> None:
        """Take a place among the sums of all checks."""
        self._into = sums
        for name, start in self.sums.items():
            sums.add(f"{self.name}/{name}", start)
        for name, start in self.rows.items():
            sums.add(f"{self.name}/{name}", start, by="rows")

    def add(self, name: str, sums: Tensor) -> None:
        """Add sums of a batch, wherever they were made."""
        self._into[f"{self.name}/{name}"] += sums.double().cpu()

    def append(self, name: str, rows: Tensor) -> None:
        """Add the rows of a batch."""
        self._into.append(f"{self.name}/{name}", rows.double().cpu())

    def end(self, totals: Mapping[str, Tensor]) -> None:
        """Take over the sums and rows of all processes."""
        self.sums = {name: totals[f"{self.name}/{name}"] for name in self.sums}
        self.rows = {name: totals[f"{self.name}/{name}"] for name in self.rows}


def score(estimate: Estimate, *, count: float = 0, chance: float = float("nan")) -> Score:
    """A score from an estimate with its interval."""
    return Score(*estimate, chance=chance, count=int(count))


def not_divided(asked: Asked, ratio: str) -> str | None:
    """Why a ratio of effects has no value for some contexts, as a check's gap."""
    return "; ".join(f"no {ratio}/{context}: {why}" for context, why in asked.apart.items()) or None


def by_context(scores: Mapping[str, Score], context: str) -> dict[str, Score]:
    """The same scores, named for a context."""
    return {f"{name}/{context}": value for name, value in scores.items()}
