"""Where the evidence lies: attribution against regions."""

import torch
from torch import Tensor, nn

from lightning_interp.functional.moments import mean_estimate, moments
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.base import Check, by_context, score
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import Learnt
from lightning_interp.methods.bias.maths.localisation import MEASURES, localisation_scores, localisation_sums
from lightning_interp.methods.bias.maths.relations import (
    context_share,
    contributions,
    dilate,
    heat_map,
    inference_patterns,
)
from lightning_interp.methods.bias.result import Score
from lightning_interp.probing.evidence.attribution import ATTRIBUTIONS


class Attribution(Check):
    """How much of the positive evidence for the truth lies in each region (check C6).

    The evidence is gradient times activation at one layer, or what another attribution makes of it, summed over
    channels, scaled to the image; of a binary target it is turned round where the truth is "no", and where the truth
    is unknown the image is left out. Scores, for the region and for each context's region, each with the level of a
    map without preference: ``mass`` (relevance mass accuracy), ``rank``, ``pointing``, ``attention_iou``;
    ``enrichment``, mass over area. And ``context_share``: of all evidence, for and against, the share that lies
    outside the region.
    """

    name = "attribution"
    needs_layer = True

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.sums = {name: self.empty(27) for name in ("region", *asked.contexts)} | {"outside": self.empty(2, 3)}

    def update(self, view: BiasView) -> None:
        """One forward pass and one backward pass to the layer a logit, shared with the relations; or captum's."""
        evidence = true_evidence(view)
        for name, region in (("region", self.asked.region), *self.asked.contexts.items()):
            self.add(name, localisation_sums(evidence.clamp(min=0), view.masks[region]))
        # Heat bleeds over the edge of what it is of.
        grown = dilate(view.masks[self.asked.region], 1)
        share = context_share(evidence[:, None], grown)[:, 0]
        area = (~grown).double().mean((1, 2)).where(share.isfinite(), torch.nan)
        self.add("outside", moments(torch.stack([share, area], 1)))

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        found = self._of("region")
        for context in self.asked.contexts:
            found |= by_context(self._of(context), context)
        share, area = (mean_estimate(sums) for sums in self.sums["outside"])
        return found | {"context_share": score(share, count=float(self.sums["outside"][0, 0]), chance=area.value)}

    def _of(self, name: str) -> dict[str, Score]:
        located = localisation_scores(self.sums[name])
        scores = {
            measure: score(
                located.measures[measure].score, count=located.count, chance=located.measures[measure].chance
            )
            for measure in MEASURES
        }
        return scores | {"enrichment": Score(located.measures["mass"].enrichment, count=located.count, chance=1.0)}


def target_heat(view: BiasView, *, patterns: bool = False) -> Tensor:
    """``(B, H, W)`` float64, signed contributions to the score, scaled to the image.

    With ``patterns``, of the inference patterns alone: the fewest units that hold nine tenths of all contributions.
    """
    heat = _gradient_heat(view, patterns) if view.attribution == ATTRIBUTIONS[0] else view.captum_heat()
    size = view.images.shape[-2:]
    return nn.functional.interpolate(heat[:, None].double(), size=size, mode="bilinear", align_corners=False)[:, 0]


def _gradient_heat(view: BiasView, patterns: bool) -> Tensor:
    gradients, asked = view.gradients, view.asked
    at = list(asked.outputs).index(asked.target) if asked.outputs is not None else 0
    found = contributions(gradients.slopes[:, at : at + 1], gradients.maps)
    return heat_map(torch.where(inference_patterns(found), found, 0.0) if patterns else found)[:, 0]


def true_evidence(view: BiasView) -> Tensor:
    """``(B, H, W)`` float64, the heat of the target, positive where it speaks for the truth; NaN for unknown truth."""
    sign = torch.where(view.sign_label(view.asked.target) > 0, 1.0, -1.0).where(view.target >= 0, torch.nan)
    return target_heat(view) * sign[:, None, None]
