"""Region occlusion: what the score loses with the region, or a context, filled."""

import torch
from torch import Tensor

from lightning_interp.data.region_bank import CONTROL
from lightning_interp.functional.fills import Fill, fill
from lightning_interp.functional.moments import mean_estimate
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.base import Check, by_context, not_divided, score
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import Learnt, contingency_table
from lightning_interp.methods.bias.maths.reliance import occlusion_sums, reliance
from lightning_interp.methods.bias.result import Score


class Occlusion(Check):
    """Context reliance by occlusion, CRR (check C3).

    Scores: ``crr/<context>``, the share of the reliance that is on the context, by the first fill, with the context's
    effect signed by its own label where that is known; ``crr_by_target/<context>``, signed by the target's label;
    ``crr_<fill>/<context>``; ``e_region`` and ``e_context/<context>``, mean loss of the score in mean absolute
    scores; ``e_control``, the same for an unrelated region as large as the region; ``accuracy_without_region``,
    beside the share of the most frequent label among the same images.

    With more than two classes all effects are losses of the true class's log-odds, and ``crr`` is ``crr_by_target``.
    """

    name = "occlusion"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        for how in asked.fills:
            self.sums |= {f"own/{how}/{c}": self.empty(8) for c in (*asked.contexts, CONTROL)}
            self.sums |= {f"target/{how}/{c}": self.empty(8) for c in asked.contexts}
        self.sums["region"] = self.empty(8)
        self.sums |= {"hidden": self.empty(asked.num_classes, asked.num_classes), "area/region": self.empty(1)}
        self.sums |= {f"area/{c}": self.empty(1) for c in asked.contexts}

    @classmethod
    def gap(cls, asked: Asked) -> str | None:
        """Both regions have to be there for their effects to be compared."""
        return not_divided(asked, "crr")

    def update(self, view: BiasView) -> None:
        """Fill every region in every way; one forward pass each."""
        asked = self.asked
        target = view.sign_label(asked.target)
        present = {region: view.masks[region].flatten(1).any(1) for region in (*asked.regions, CONTROL)}
        for how in asked.fills:
            without = {region: view.answer(self._filled(view, region, how)).double() for region in present}
            lost = {region: view.score_of(outputs) for region, outputs in without.items()}
            for context in (*asked.contexts, CONTROL):
                place = asked.contexts.get(context, CONTROL)
                keep = present[asked.region] & present[place]
                own = target if context == CONTROL else view.sign_label(asked.sign_label(context))
                for name, label in (("own", own), ("target", target)):
                    if f"{name}/{how}/{context}" in self.sums:
                        sums = occlusion_sums(view.scores, lost[asked.region], lost[place], target, label, keep)
                        self.add(f"{name}/{how}/{context}", sums)
            if how == asked.fills[0]:
                hidden = lost[asked.region]
                self.add("region", occlusion_sums(view.scores, hidden, hidden, target, target, present[asked.region]))
                label = torch.where(present[asked.region], view.target, -1)
                predicted = view.classes_of(without[asked.region])
                self.add("hidden", contingency_table([label, predicted], self.sums["hidden"].shape))
        for name, place in (("region", asked.region), *asked.contexts.items()):
            self.add(f"area/{name}", view.masks[place].double().mean((1, 2)).sum()[None])

    @staticmethod
    def _filled(view: BiasView, region: str, how: Fill) -> Tensor:
        return fill(view.images, view.masks[region], how, view.masks.get("skin"))

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        first = self.asked.fills[0]
        found: dict[str, Score] = {}
        for context in self.asked.contexts:
            headline = reliance(self.sums[f"own/{first}/{context}"], learnt.anything)
            area = float(self.sums[f"area/{context}"] / (self.sums[f"area/{context}"] + self.sums["area/region"]))
            by_target = reliance(self.sums[f"target/{first}/{context}"], learnt.anything)
            scores = {
                "crr": score(headline.ratio, count=headline.images, chance=area),
                "crr_by_target": score(by_target.ratio, count=by_target.images, chance=area),
                "e_context": score(headline.context, count=headline.images),
            }
            for how in self.asked.fills:
                other = reliance(self.sums[f"own/{how}/{context}"], learnt.anything)
                scores[f"crr_{how}"] = score(other.ratio, count=other.images, chance=area)
            found |= by_context(scores, context)
        region = reliance(self.sums["region"], learnt.anything)
        control = reliance(self.sums[f"own/{first}/{CONTROL}"], learnt.anything)
        hidden = self.sums["hidden"]
        count, right = hidden.sum(), hidden.diagonal().sum()
        most_frequent = float(hidden.sum(1).max() / count)
        hits = mean_estimate(torch.stack([count, right, right]))
        return found | {
            "e_region": score(region.region, count=region.images),
            "e_control": score(control.context, count=control.images, chance=0.0),
            "accuracy_without_region": score(hits, count=float(count), chance=most_frequent),
        }
