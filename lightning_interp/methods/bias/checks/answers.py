"""What the network answers: right, wrong, or nothing at all."""

import torch

from lightning_interp.functional.moments import mean_estimate
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.base import Check
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import Learnt, contingency_table, what_is_learnt
from lightning_interp.methods.bias.result import Score


class Answers(Check):
    """Accuracy, and what the predictions follow; it always runs, for what the other checks find depends on that.

    Scores: ``accuracy``, beside the most frequent label's share; ``balanced_accuracy``; ``nonfinite``, the number of
    images of which a logit is NaN or infinite, and which all scores of that logit leave out.
    """

    name = "answers"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        classes = asked.num_classes
        # A prediction of two classes could be the context as well.
        binary = [name for name in asked.labelled if classes == 2 and int(asked.chosen(name).max()) < 2]
        self.names = tuple(dict.fromkeys((asked.target, *binary)))
        self.sums = {f"table/{name}": self.empty(classes, classes) for name in self.names}
        self.sums |= {"nonfinite": self.empty(1), "images": self.empty(1)}

    def update(self, view: BiasView) -> None:
        """The forward pass that every check shares."""
        for name in self.names:
            sizes = self.sums[f"table/{name}"].shape
            self.add(f"table/{name}", contingency_table([view.label(name), view.predicted], sizes))
        finite = view.outputs.isfinite().reshape(len(view.indices), -1).all(1)
        self.add("nonfinite", (~finite).sum()[None])
        self.add("images", torch.tensor([len(view.indices)]))

    def learnt(self) -> Learnt:
        """Whether the predictions follow anything."""
        target, *contexts = (self.sums[f"table/{name}"].round().long() for name in self.names)
        return what_is_learnt(target, contexts)

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        table = self.sums[f"table/{self.asked.target}"]
        count, right = float(table.sum()), float(table.diagonal().sum())
        share = mean_estimate(torch.tensor([count, right, right], dtype=torch.float64))
        balanced = learnt.accuracy
        return {
            "accuracy": Score(*share, chance=float(table.sum(1).max()) / max(count, 1), count=int(count)),
            "balanced_accuracy": Score(
                balanced.value, low=balanced.low, high=balanced.high, chance=balanced.chance, count=int(count)
            ),
            "nonfinite": Score(float(self.sums["nonfinite"]), chance=0.0, count=int(self.sums["images"])),
        }
