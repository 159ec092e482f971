"""Exact reliance, where the same image can be made again with one attribute changed."""

from torch import Tensor

from lightning_interp.bias_results import Score
from lightning_interp.checks.asked import Asked
from lightning_interp.checks.base import Check, by_context, score
from lightning_interp.checks.view import View
from lightning_interp.functional.groups import BalancedAccuracy
from lightning_interp.functional.reliance import exact_sums, reliance


class Exact(Check):
    """Exact context reliance R* (check C12).

    Scores: ``exact_reliance/<context>``; ``effect_region`` and ``effect_context/<context>``, mean change of the score,
    in mean absolute scores, when the attribute is set from 0 to 1.
    """

    name = "exact"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.sums = {context: self.empty(8) for context in asked.contexts}

    @classmethod
    def why_not(cls, asked: Asked) -> str | None:
        """It needs a probe set that can make its images again."""
        if not hasattr(asked.probe, "counterfactuals"):
            return "the probe set has no counterfactuals(indices, do): its images cannot be made again"
        if asked.num_classes > 2:
            return f"'{asked.target}' has {asked.num_classes} classes; do() sets 0 or 1"
        return None

    def update(self, view: View) -> None:
        """Two versions an attribute; one forward pass each."""
        region = self._do(view, self.asked.target)
        for context in self.asked.contexts:
            self.add(context, exact_sums(view.scores, region, self._do(view, context)))

    def _do(self, view: View, name: str) -> tuple[Tensor, Tensor]:
        on, off = (self.asked.remade(view.indices, {name: value}).to(view.images.device) for value in (1, 0))
        return view.score(on), view.score(off)

    def scores(self, accuracy: BalancedAccuracy) -> dict[str, Score]:
        """See the class."""
        found: dict[str, Score] = {}
        for context in self.asked.contexts:
            exact = reliance(self.sums[context], accuracy)
            scores = {
                "exact_reliance": score(exact.ratio, count=exact.images),
                "effect_context": score(exact.context, count=exact.images, chance=0.0),
                "effect_region": score(exact.region, count=exact.images),
            }
            found |= by_context(scores, context)
        return found
