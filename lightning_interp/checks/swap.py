"""Part swap: another image's region, or context, pasted in."""

import torch
from torch import Tensor

from lightning_interp.bias_results import Score
from lightning_interp.checks.asked import Asked
from lightning_interp.checks.base import Check, by_context, score
from lightning_interp.checks.view import View
from lightning_interp.functional.groups import Learnt
from lightning_interp.functional.moments import mean_estimate
from lightning_interp.functional.reliance import hit_sums, reliance, swap_sums
from lightning_interp.functional.swaps import draw_donors, paste


class Swap(Check):
    """Reliance by part swap, SCR (check C5), with a donor of the same label as control.

    Scores: ``scr/<context>``, the share of the reliance that is on the context; ``swap_region`` and
    ``swap_context/<context>``, mean effect of another label's part in mean absolute scores; ``follow``, how often the
    prediction follows a pasted region of another label.
    """

    name = "swap"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        # Positions in the whole set, drawn from its labels alone, so that they do not depend on the processes.
        signs = {asked.target, *(asked.sign_label(context) for context in asked.contexts)}
        self.donors = {name: self._draw(name) for name in sorted(signs)}
        self.sums = {context: self.empty(8) for context in asked.contexts} | {"follow": self.empty(3)}

    def _draw(self, name: str) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(list(self.asked.indices))
        found = []
        for donors in draw_donors(self.asked.chosen(name)):
            everywhere = torch.full((len(self.asked.probe),), -1)
            everywhere[chosen] = torch.where(donors >= 0, chosen[donors], -1)
            found.append(everywhere)
        return found[0], found[1]

    def update(self, view: View) -> None:
        """Paste two donors' regions and two donors' contexts; one forward pass each."""
        asked = self.asked
        outputs, keep, others = self._paste(view, asked.target, asked.region)
        region = tuple(view.score_of(out) for out in outputs)
        followed = torch.where(others >= 0, self.asked.labels[asked.target][others.clamp(min=0)], -1)
        self.add("follow", hit_sums(view.classes_of(outputs[1]), followed.to(view.images.device), keep))
        for context, place in asked.contexts.items():
            outputs, both, _ = self._paste(view, asked.sign_label(context), place)
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

    def _paste(self, view: View, name: str, region: str) -> tuple[list[Tensor], Tensor, Tensor]:
        """Outputs with a region of a donor of the same and of another label, which images count, the other donors."""
        own = view.masks[region]
        keep, outputs = own.flatten(1).any(1), []
        for donors in self.donors[name]:
            at = donors[view.indices]
            # An image without a donor stands in for it and does not count.
            numbers = torch.where(at >= 0, at, torch.tensor(view.indices)).tolist()
            images, masks = view.fetch(numbers)
            keep = keep & (at >= 0).to(keep.device) & masks[region].flatten(1).any(1)
            pasted = paste(view.images, own, images, masks[region])
            outputs.append(view.answer(pasted).double())
        return outputs, keep, self.donors[name][1][view.indices]

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
        return found | {"follow": score(follow, count=float(self.sums["follow"][0]), chance=0.5)}
