"""What the network relates: cosines of attributes' contributions, blind spots and failure modes."""

import math

import torch

from lightning_interp.functional.moments import mean, mean_estimate, moments, variance
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.base import Check, by_context, score
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.maths.groups import Learnt, predicted_classes
from lightning_interp.methods.bias.maths.relations import (
    Reference,
    Relation,
    blind_spots,
    contributions,
    failure_modes,
    label_entropy,
    pair_cosines,
    pair_tables,
    phi,
    phi_excess,
    relations,
    table_divergence,
)
from lightning_interp.methods.bias.result import Finding, Relations, Score


class AttributeRelations(Check):
    """Attribute relationships (check C8; after Zhang, Wang and Zhu, AAAI 2018, by this project's own definition).

    Scores: ``relation/<context>``, mean cosine of the contributions of target and context at one layer;
    ``relation_kl/<context>``, divergence from the Gaussian of an unrelated (or as expected, related) pair;
    ``blind_spots`` and ``failure_modes``, how many pairs. Of the answers alone, without gradients:
    ``phi_excess/<context>``, correlation of the two predictions minus that of the two labels, and
    ``table_kl/<context>``, divergence of their tables.

    The Gaussian of unrelated pairs is that of the pairs which ``expected`` names with 0, pooled, for their cosine need
    not be 0; where it names none, it is the default :class:`~lightning_interp.methods.bias.maths.relations.Reference`.
    """

    name = "relations"
    needs_layer = True

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        count = len(asked.outputs or ())
        self.sums = {"cosines": self.empty(count, count, 3), "tables": self.empty(2, count, count, 2, 2)}

    @classmethod
    def why_not(cls, asked: Asked) -> str | None:
        """It compares outputs."""
        if asked.outputs is None or len(asked.outputs) < 2:
            return "it compares attributes: name the network's outputs with outputs=[...]"
        return None

    @classmethod
    def gap(cls, asked: Asked) -> str | None:
        """A context may be none of the outputs."""
        without = [context for context in asked.contexts if context not in (asked.outputs or ())]
        return f"no output of the network is named {', '.join(without)}" if without else None

    def update(self, view: BiasView) -> None:
        """One backward pass to the layer for each output."""
        gradients = view.gradients
        self.add("cosines", moments(pair_cosines(contributions(gradients.slopes, gradients.maps))))
        names = self.asked.outputs or ()
        labels = torch.stack([view.label(name) for name in names], 1)
        predicted = torch.stack([predicted_classes(column) for column in view.outputs.unbind(1)], 1)
        self.add("tables", pair_tables(labels, predicted))

    def scores(self, learnt: Learnt) -> dict[str, Score]:
        """See the class."""
        reference = self._reference()
        ranked = self._ranked(reference)
        names = list(self.asked.outputs or ())
        tables = self.sums["tables"].round().long()
        excess, divergence = phi_excess(tables), table_divergence(tables)
        conflict = {relation.pair: relation.conflict for relation in ranked}
        found: dict[str, Score] = {}
        for context in self.asked.contexts:
            scores = {
                name: Score(math.nan, chance=0.0) for name in ("relation", "relation_kl", "phi_excess", "table_kl")
            }
            if context in names and not learnt.nothing:
                at = names.index(self.asked.target), names.index(context)
                sums = self.sums["cosines"][at]
                labelled = int(tables[0][at].sum())
                pair = _pair(names, self.asked.target, context)
                scores["relation"] = score(mean_estimate(sums), count=float(sums[0]), chance=0.0)
                scores["relation_kl"] = Score(conflict.get(pair, math.nan), count=int(sums[0]), chance=0.0)
                scores["phi_excess"] = Score(float(excess[at]), count=labelled, chance=0.0)
                scores["table_kl"] = Score(float(divergence[at]), count=labelled, chance=0.0)
            found |= by_context(scores, context)
        for name, pairs in (
            ("blind_spots", blind_spots(ranked, reference)),
            ("failure_modes", failure_modes(ranked, reference)),
        ):
            found[name] = Score(math.nan if learnt.nothing else float(len(pairs)), chance=0.0)
        return found

    def _ranked(self, reference: Reference) -> list[Relation]:
        return relations(self.asked.outputs or (), self._expected(), self.sums["cosines"], reference)

    def _reference(self) -> Reference:
        names = list(self.asked.outputs or ())
        unrelated = [
            self.sums["cosines"][names.index(first), names.index(second)]
            for (first, second), sign in self.asked.expected.items()
            if sign == 0
        ]
        pooled = torch.stack(unrelated) if unrelated else self.empty(1, 3)
        return Reference.of_unrelated(pooled) if pooled[:, 0].sum() >= 2 else Reference()

    def _expected(self) -> dict[tuple[str, str], int]:
        names = list(self.asked.outputs or ())
        given = {frozenset(pair): sign for pair, sign in self.asked.expected.items()}
        return {
            (first, second): given.get(frozenset((first, second)), 0)
            for i, first in enumerate(names)
            for second in names[i + 1 :]
        }

    def relations(self, learnt: Learnt) -> Relations:
        """Everything found, for the figure and the table; no findings of a network that has learnt nothing."""
        names = tuple(self.asked.outputs or ())
        reference = self._reference()
        ranked = self._ranked(reference)
        size = (len(names), len(names))
        kl, expected = torch.full(size, math.nan, dtype=torch.float64), torch.zeros(size, dtype=torch.int64)
        for (first, second), sign in self._expected().items():
            i, j = names.index(first), names.index(second)
            expected[i, j] = expected[j, i] = sign
        for relation in ranked:
            i, j = (names.index(name) for name in relation.pair)
            kl[i, j] = kl[j, i] = relation.conflict
        findings = [
            Finding(kind, *found.pair, mean=found.mean, expected=found.sign, kl=found.conflict)
            for kind, pairs in (
                ("failure mode", failure_modes(ranked, reference)),
                ("blind spot", blind_spots(ranked, reference)),
            )
            for found in pairs
            if not learnt.nothing
        ]
        tables = self.sums["tables"].round().long()
        correlation = phi(tables)
        cosines = self.sums["cosines"]
        return Relations(
            names,
            mean(cosines).numpy(),
            variance(cosines).sqrt().numpy(),
            correlation[0].numpy(),
            correlation[1].numpy(),
            kl.numpy(),
            label_entropy(tables).numpy(),
            expected.numpy(),
            tuple(sorted(findings, key=lambda finding: -finding.kl)),
        )


def _pair(names: list[str], first: str, second: str) -> tuple[str, str]:
    return (first, second) if names.index(first) < names.index(second) else (second, first)
