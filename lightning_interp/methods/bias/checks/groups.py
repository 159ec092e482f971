"""Accuracy by group, gaps between groups, bias amplification and confident errors: no intervention needed."""

import math

import torch
from torch import Tensor

from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.base import Check, by_context, score
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import (
    Learnt,
    association,
    bias_amplification,
    conditional_reliance,
    confident_errors,
    confident_table,
    contingency_table,
    equalised_odds_gap,
    group_accuracy,
    group_moments,
    score_gap,
)
from lightning_interp.methods.bias.result import Score

CONFIDENT = 0.95
"""Probability above which a prediction is confident."""


class Groups(Check):
    """What labels alone tell (checks C1, C2, C9, C10).

    Scores: ``worst_group_accuracy/<context>``, ``group_gap/<context>`` (average minus worst),
    ``equalised_odds_gap/<context>``, ``score_gap/<context>``, ``conditional_reliance/<context>``,
    ``association/<context>`` (of target and context in this probe set), ``confident_errors``. Where the training set's
    labels were given: ``adjusted_accuracy/<context>`` (groups weighted as there) and ``bias_amplification/<context>``.
    """

    name = "groups"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        classes = asked.num_classes
        for context in asked.labelled:
            values = max(2, int(asked.chosen(context).max()) + 1)
            self.sums[f"table/{context}"] = self.empty(classes, values, classes)
            self.sums[f"scores/{context}"] = self.empty(classes, values, 3)
        self.sums["confident"] = self.empty(classes, 1, 2)

    @classmethod
    def gap(cls, asked: Asked) -> str | None:
        """There are no groups by a context without labels."""
        without = [context for context in asked.contexts if context not in asked.labelled]
        return f"no labels of {', '.join(without)} in the probe set: no groups by it" if without else None

    def update(self, view: BiasView) -> None:
        """No forward pass of its own."""
        classes = self.asked.num_classes
        for context in self.asked.labelled:
            table = self.sums[f"table/{context}"]
            group = view.label(context)
            self.add(f"table/{context}", contingency_table([view.target, group, view.predicted], table.shape))
            sums = group_moments(view.scores, view.target, group, table.shape[:2])
            self.add(f"scores/{context}", sums)
        whole = torch.zeros_like(view.target)
        table = confident_table(view.certainty, view.target, view.predicted, whole, (classes, 1), CONFIDENT)
        self.add("confident", table)

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        found: dict[str, Score] = {}
        for context in self.asked.contexts:
            found |= by_context(self._of_context(context, learnt), context)
        share, _ = confident_errors(self.sums["confident"])
        return found | {"confident_errors": Score(share, count=int(self.sums["confident"].sum()), chance=0.0)}

    def _of_context(self, context: str, learnt: Learnt) -> dict[str, Score]:
        names = ("worst_group_accuracy", "group_gap", "equalised_odds_gap", "score_gap")
        if context not in self.asked.labelled:
            return dict.fromkeys((*names, "conditional_reliance", "association"), Score(math.nan))
        table = self.sums[f"table/{context}"].round().long()
        moments = self.sums[f"scores/{context}"]
        groups = group_accuracy(table)
        count = int(table.sum())
        binary = tuple(table.shape[:2]) == (2, 2)
        reliance = conditional_reliance(moments) if binary and not learnt.nothing else None
        return {
            "worst_group_accuracy": Score(groups.worst, chance=learnt.accuracy.chance, count=count),
            "group_gap": Score(groups.gap, chance=0.0, count=count),
            "equalised_odds_gap": Score(equalised_odds_gap(table), chance=0.0, count=count),
            "score_gap": Score(score_gap(moments) if binary else math.nan, chance=0.0, count=count),
            "conditional_reliance": Score(math.nan) if reliance is None else score(reliance, count=count),
            "association": Score(association(table.sum(2)), count=count),
        } | self._against_training(context, table, learnt)

    def _against_training(self, context: str, table: Tensor, learnt: Learnt) -> dict[str, Score]:
        """What needs the training set's labels; nothing where they were not given."""
        training = self._training(context, table.shape)
        if training is None:
            return {}
        binary = tuple(table.shape[:2]) == (2, 2)
        amplified = bias_amplification(table.transpose(0, 1), training.T) if binary else math.nan
        adjusted, count = group_accuracy(table, training).adjusted, int(table.sum())
        return {
            "adjusted_accuracy": Score(adjusted, chance=learnt.accuracy.chance, count=count),
            "bias_amplification": Score(amplified, chance=0.0, count=count),
        }

    def _training(self, context: str, shape: tuple[int, ...]) -> Tensor | None:
        known = self.asked.training
        if self.asked.target not in known or context not in known:
            return None
        return contingency_table([known[self.asked.target], known[context]], shape[:2])
