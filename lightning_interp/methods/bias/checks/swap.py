"""Part swap: another image's region, or context, pasted in."""

from torch import Tensor

from lightning_interp.functional.moments import mean, mean_estimate
from lightning_interp.functional.swaps import paste
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.base import Check, by_context, not_divided, score
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import Learnt
from lightning_interp.methods.bias.maths.reliance import hit_sums, reliance, swap_sums
from lightning_interp.methods.bias.result import Score


class Swap(Check):
    """Reliance by part swap, SCR (check C5), with a donor of the same label as control.

    Scores: ``scr/<context>``, the share of the reliance that is on the context; ``swap_region`` and
    ``swap_context/<context>``, mean effect of another label's part in mean absolute scores; ``follow``, how often the
    prediction follows a pasted region of another label, beside how often it is that label as the image is. Donors are
    images that show the part.
    """

    name = "swap"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        # By the attribute whose label they share, or not, and the part that is taken of them.
        swaps = [(asked.target, asked.region), *((asked.sign_label(c), place) for c, place in asked.contexts.items())]
        self.donors = {(name, place): asked.donors(asked.chosen(name), place) for name, place in swaps}
        self.sums = {context: self.empty(8) for context in asked.contexts}
        self.sums |= {"follow": self.empty(3), "stay": self.empty(3)}

    @classmethod
    def gap(cls, asked: Asked) -> str | None:
        """Both regions have to be there, and donors of both labels, for their effects to be compared."""
        told = [not_divided(asked, "scr")]
        for context, place in asked.contexts.items():
            name = asked.sign_label(context)
            if context not in asked.apart and any((own < 0).all() for own in asked.donors(asked.chosen(name), place)):
                told.append(f"no scr/{context}: too few images that show '{place}' have one value of '{name}'")
        return "; ".join(filter(None, told)) or None

    def update(self, view: BiasView) -> None:
        """Paste two donors' regions and two donors' contexts; one forward pass each."""
        asked = self.asked
        swap = asked.target, asked.region
        outputs, keep = self._paste(view, swap)
        region = tuple(view.score_of(out) for out in outputs)
        pasted = asked.labels[asked.target][self.donors[swap][1][view.indices]].to(view.images.device)
        after = view.classes_of(outputs[1])
        known = keep & (view.predicted >= 0) & (after >= 0)
        self.add("follow", hit_sums(after, pasted, known))
        self.add("stay", hit_sums(view.predicted, pasted, known))
        for context, place in asked.contexts.items():
            outputs, both = self._paste(view, (asked.sign_label(context), place))
            swapped = tuple(view.score_of(out) for out in outputs)
            own = view.sign_label(asked.sign_label(context))
            sums = swap_sums(
                view.scores,
                (region[0], region[1]),
                (swapped[0], swapped[1]),
                view.sign_label(asked.target),
                own,
                keep & both,
            )
            self.add(context, sums)

    def _paste(self, view: BiasView, swap: tuple[str, str]) -> tuple[list[Tensor], Tensor]:
        """Outputs with the part of a donor of the same label and of one of another, and which images have both."""
        _, place = swap
        own = view.masks[place]
        keep, outputs = own.flatten(1).any(1), []
        for donors in self.donors[swap]:
            images, masks, known = view.fetch_donors(donors)
            keep = keep & known
            outputs.append(view.answer(paste(view.images, own, images, masks[place])).double())
        return outputs, keep

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        found: dict[str, Score] = {}
        for context in self.asked.contexts:
            swapped = reliance(self.sums[context], learnt.anything)
            scores = {
                "scr": score(swapped.ratio, count=swapped.images),
                "swap_context": score(swapped.context, count=swapped.images, chance=0.0),
                "swap_region": score(swapped.region, count=swapped.images),
            }
            found |= by_context(scores, context)
        follow = mean_estimate(self.sums["follow"])
        chance = float(mean(self.sums["stay"]))
        return found | {"follow": score(follow, count=float(self.sums["follow"][0]), chance=chance)}
