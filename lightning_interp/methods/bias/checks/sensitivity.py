"""Checks that are not on by default: noise, background swap, input gradients."""

import torch
from torch import Tensor

from lightning_interp.functional.fills import noise
from lightning_interp.functional.heads import column
from lightning_interp.functional.swaps import swap_background
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.base import Check, by_context, score
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import Learnt
from lightning_interp.methods.bias.maths.localisation import RIGHT_REASONS, localisation_scores, right_reasons_sums
from lightning_interp.methods.bias.maths.reliance import background_gap, foreground_sensitivity, paired_hits
from lightning_interp.methods.bias.result import Score

NOISE = 0.25
"""Standard deviation of the noise, of images in [0, 1]."""


class Noise(Check):
    """Relative foreground sensitivity (check C4; Moayeri et al., CVPR 2022).

    Scores: ``rfs/<context>``, above 0 if noise on the region costs more accuracy than noise on the context.
    """

    name = "noise"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.sums = {context: self.empty(2, 2) for context in asked.contexts}

    def update(self, view: BiasView) -> None:
        """One forward pass a region."""
        right = {
            region: view.classes(noise(view.images, view.masks[region], NOISE, view.indices))
            for region in self.asked.regions
        }
        present = {region: view.masks[region].flatten(1).any(1) for region in self.asked.regions}
        for context, place in self.asked.contexts.items():
            keep = present[self.asked.region] & present[place]
            self.add(context, paired_hits(right[self.asked.region], right[place], view.target, keep))

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        found: dict[str, Score] = {}
        for context in self.asked.contexts:
            rates = foreground_sensitivity(self.sums[context].round().long(), learnt.accuracy.above_chance)
            found |= by_context({"rfs": score(rates.score, count=rates.images, chance=0.0)}, context)
        return found


class Background(Check):
    """BG-Gap (check C5b; Xiao et al. 2021): everything but the region from an image of the same, or of any, label.

    Donors are images that show the region, so that theirs can be taken out.

    Score: ``background_gap``.
    """

    name = "background"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.sums = {"hits": self.empty(2, 2)}
        labels = asked.chosen(asked.target)
        same, _ = asked.donors(labels, asked.region)
        any_of, _ = asked.donors(torch.zeros_like(labels), asked.region, seed=1)
        self.donors = same, any_of

    def update(self, view: BiasView) -> None:
        """Two forward passes."""
        own = view.masks[self.asked.region]
        keep, predicted = own.flatten(1).any(1), []
        for donors in self.donors:
            images, masks, known = view.fetch_donors(donors)
            keep = keep & known
            predicted.append(view.classes(swap_background(view.images, own, images, masks[self.asked.region])))
        self.add("hits", paired_hits(predicted[0], predicted[1], view.target, keep))

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        gap = background_gap(self.sums["hits"].round().long())
        return {"background_gap": score(gap.score, count=gap.images, chance=0.0)}


class InputGradient(Check):
    """Share of the squared input gradient outside the region (check C7; Ross et al., IJCAI 2017).

    The gradient is that of the summed log-probabilities of the target's answers, whatever else the network tells.

    Score: ``rrr``; small where the network is right for the right reasons.
    """

    name = "gradient"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.sums = {"rrr": self.empty(9)}

    def update(self, view: BiasView) -> None:
        """One forward and one backward pass."""
        self.add("rrr", right_reasons_sums(_input_gradients(view), view.masks[self.asked.region]))

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        located = localisation_scores(self.sums["rrr"], RIGHT_REASONS)
        rrr = located.measures["rrr"]
        return {"rrr": score(rrr.score, count=located.count, chance=rrr.chance)}


def _input_gradients(view: BiasView) -> Tensor:
    """``(B, C, H, W)``, gradient of the target's summed log-probabilities, as Ross et al. have it."""
    with torch.enable_grad():
        images = view.images.clone().requires_grad_()
        outputs = view.answer(images).double()
        if view.asked.outputs is not None:
            outputs = column(outputs, view.asked.target, view.asked.outputs)
        if outputs.ndim == 1 or outputs.shape[1] == 1:
            total = torch.nn.functional.logsigmoid(torch.stack([outputs, -outputs])).sum()
        else:
            total = outputs.log_softmax(1).sum()
        (gradient,) = torch.autograd.grad(total, images)
    return gradient
