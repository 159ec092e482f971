"""Slice discovery: the part of the data on which the network errs most, found without labels of contexts."""

import math

import torch
from torch import Tensor

from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.base import Check, by_context
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import Learnt
from lightning_interp.methods.bias.maths.slices import MAX_IMAGES, precision_at_k, worst_slice
from lightning_interp.methods.bias.result import Score

SLICES = 8
TYPICAL = 20
"""Images of the worst slice whose share of conflicting ones is told."""


class Slices(Check):
    """The slice with the most errors (check C11; after Domino and others, by this project's own definition).

    The mean activations of the layer looked at are gathered from all processes, at most 4096 images' of them. Scores:
    ``slice_error``, its share of errors, beside that of slices found after shuffling the errors; ``slice_size``, its
    share of the images; ``slice_conflict/<context>``, the share of images whose label and context differ among its 20
    most typical ones of known context, beside their share among all of known context; NaN for more than two classes.
    """

    name = "slices"
    needs_layer = True

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        # Whether it counts, its number, its label, whether the answer is wrong; then its embedding.
        self.rows = {"images": self.empty(0, 4 + asked.units)}

    @classmethod
    def why_not(cls, asked: Asked) -> str | None:
        """It gathers one row an image, and splits them."""
        count = len(asked.indices)
        if not 2 * SLICES <= count <= MAX_IMAGES:
            return f"it needs {2 * SLICES} to {MAX_IMAGES} images, not {count}; see max_samples"
        return None

    def update(self, view: BiasView) -> None:
        """Shares the forward pass of the gradients."""
        embedding = view.gradients.maps.mean((2, 3)).double()
        known = (view.target >= 0) & (view.predicted >= 0) & embedding.isfinite().all(1)
        wrong = view.predicted != view.target
        place = torch.tensor(view.indices, device=embedding.device)
        columns = torch.stack([known, place, view.target, wrong], 1).double()
        self.append("images", torch.cat([columns, embedding], 1))

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        images = self.rows["images"]
        images = images[images[:, 0] > 0, 1:]
        if len(images) < 2 * SLICES:
            names = ("slice_error", "slice_size", *(f"slice_conflict/{context}" for context in self.asked.contexts))
            return dict.fromkeys(names, Score(math.nan))
        place, label, wrong = (column.long() for column in images[:, :3].unbind(1))
        generator = torch.Generator().manual_seed(0)
        worst = worst_slice(images[:, 3:], label, wrong.bool(), generator, slices=SLICES)
        found = {
            "slice_error": Score(worst.error, chance=worst.chance, count=worst.size),
            "slice_size": Score(worst.size / worst.count, count=worst.count),
        }
        for context in self.asked.contexts:
            found |= by_context({"slice_conflict": self._conflict(worst.members, place, label, context)}, context)
        return found

    def _conflict(self, members: Tensor, place: Tensor, label: Tensor, context: str) -> Score:
        if context not in self.asked.labelled or self.asked.num_classes > 2:
            return Score(math.nan)
        values = self.asked.labels[context][place]
        known, differs = values >= 0, values != label
        members = members[known[members]]
        share = precision_at_k(members, differs, TYPICAL)
        return Score(share, chance=float(differs[known].double().mean()), count=min(TYPICAL, len(members)))
