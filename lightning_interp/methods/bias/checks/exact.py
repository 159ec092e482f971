"""Exact reliance, where the same image can be made again with one attribute changed."""

from torch import Tensor

from lightning_interp.errors import DatasetError
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.base import Check, by_context, score
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import Learnt
from lightning_interp.methods.bias.maths.reliance import exact_sums, reliance
from lightning_interp.methods.bias.result import Score


class Exact(Check):
    """Exact context reliance R* (check C12).

    Scores: ``exact_reliance/<context>``; ``effect_region`` and ``effect_context/<context>``, mean change of the score,
    in mean absolute scores, when the attribute is set from 0 to 1.
    """

    name = "exact"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.sums = {context: self.empty(8) for context in asked.contexts}
        self.known = tuple(context for context, why in _refusals(asked).items() if why is None)

    @classmethod
    def why_not(cls, asked: Asked) -> str | None:
        """It needs a probe set that can make its images again."""
        if not hasattr(asked.probe, "counterfactuals"):
            return "the probe set has no counterfactuals(indices, do): its images cannot be made again"
        if asked.num_classes > 2:
            return f"'{asked.target}' has {asked.num_classes} classes; do() sets 0 or 1"
        refusals = list(_refusals(asked).values())
        return _refusal(asked, asked.target) or (refusals[0] if all(refusals) else None)

    @classmethod
    def gap(cls, asked: Asked) -> str | None:
        """The probe set may refuse to set a context."""
        told = [f"no exact_reliance/{context}: {why}" for context, why in _refusals(asked).items() if why is not None]
        return "; ".join(told) or None

    def update(self, view: BiasView) -> None:
        """Two versions an attribute; one forward pass each."""
        region = self._do(view, self.asked.target)
        for context in self.known:
            self.add(context, exact_sums(view.scores, region, self._do(view, context)))

    def _do(self, view: BiasView, name: str) -> tuple[Tensor, Tensor]:
        on, off = (self.asked.remade(view.indices, {name: value}).to(view.images.device) for value in (1, 0))
        return view.score(on), view.score(off)

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        found: dict[str, Score] = {}
        for context in self.asked.contexts:
            exact = reliance(self.sums[context], learnt.anything)
            scores = {
                "exact_reliance": score(exact.ratio, count=exact.images),
                "effect_context": score(exact.context, count=exact.images, chance=0.0),
                "effect_region": score(exact.region, count=exact.images),
            }
            found |= by_context(scores, context)
        return found


def _refusals(asked: Asked) -> dict[str, str | None]:
    return {context: _refusal(asked, context) for context in asked.contexts}


def _refusal(asked: Asked, name: str) -> str | None:
    """Why the probe set cannot set an attribute, in its own words; None if it can."""
    try:
        asked.remade(asked.indices[:1], {name: 1})
    except DatasetError as error:
        return str(error)
    except (LookupError, ValueError, NotImplementedError) as error:
        return f"'{name}' cannot be set: {type(error).__name__}: {error}"
    return None
