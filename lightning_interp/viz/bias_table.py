"""Cells of the tables of context-bias diagnostics: the scores beside their references, and the pairs found."""

import math
from collections.abc import Mapping

from lightning_interp.bias_results import BiasResult, Relations, Score

SCORE_COLUMNS = ("score", "value", "95 % interval", "chance", "untrained", "images", "remark")
FINDING_COLUMNS = ("finding", "attributes", "learnt cosine", "ought to be", "KL", "label correlation")

_MEANING = {
    "crr": "reliance on the context, parts hidden",
    "scr": "reliance on the context, parts pasted",
    "exact_reliance": "reliance on the context, re-rendered",
    "e_region": "score lost when the region is hidden",
    "e_context": "score lost when the context is hidden",
    "worst_group_accuracy": "worst group of target and context",
    "accuracy": "share of right answers",
}
_SIGN = {-1: "negative", 0: "unrelated", 1: "positive"}


def score_table(result: BiasResult, untrained: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Every score as cells under :data:`SCORE_COLUMNS`, then the checks that did not run, with the reason.

    Args:
        result: The diagnostics.
        untrained: The same scores of the network before training, by name; any may be missing or NaN.
    """
    start = {name: _number(value, "no signal") for name, value in untrained.items()}
    rows = [_score_row(name, score, start.get(name, "")) for name, score in result.scores.items()]
    blank = ("",) * (len(SCORE_COLUMNS) - 3)
    return rows + [(check, "did not run", *blank, reason) for check, reason in result.missing.items()]


def finding_table(relations: Relations) -> list[tuple[str, ...]]:
    """The blind spots and failure modes as cells under :data:`FINDING_COLUMNS`, in the order of the result."""
    rows: list[tuple[str, ...]] = []
    for finding in relations.findings:
        pair = relations.names.index(finding.first), relations.names.index(finding.second)
        rows.append(
            (
                finding.kind,
                f"{finding.first}, {finding.second}",
                _number(finding.mean, "no signal"),
                _SIGN[finding.expected],
                _number(finding.kl, "no signal"),
                _number(float(relations.labels[pair]), "unknown"),
            )
        )
    return rows


def _score_row(name: str, score: Score, untrained: str) -> tuple[str, ...]:
    known = math.isfinite(score.low) and math.isfinite(score.high)
    return (
        name,
        _number(score.value, "no signal"),
        f"{score.low:.3f} to {score.high:.3f}" if known else "",
        _number(score.chance, ""),
        untrained,
        str(score.count),
        _MEANING.get(name.partition("/")[0], ""),
    )


def _number(value: float, nothing: str) -> str:
    return nothing if math.isnan(value) else f"{value:.3f}"
