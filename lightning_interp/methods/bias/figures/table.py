"""Cells of the tables of context-bias diagnostics: the scores beside their references, and the pairs found."""

import math
from collections.abc import Mapping

from lightning_interp.methods.bias.result import BiasResult, Relations, Score

SCORE_COLUMNS = ("score", "value", "95 % interval", "chance", "untrained", "images", "remark")
FINDING_COLUMNS = ("finding", "attributes", "learnt cosine", "ought to be", "KL", "label correlation", "label entropy")

# By check, at most 40 letters, for that is what a cell in a terminal shows.
_MEANING = {
    "accuracy": "share of right answers",
    "balanced_accuracy": "mean of the labels' accuracies",
    "nonfinite": "images with NaN or infinite logits",
    "worst_group_accuracy": "worst group of target and context",
    "adjusted_accuracy": "groups weighted as in training",
    "group_gap": "accuracy lacking in the worst group",
    "equalised_odds_gap": "answers that the context changes",
    "score_gap": "score gap by context within a label",
    "conditional_reliance": "reliance by conditional means",
    "bias_amplification": "association beyond that of training",
    "association": "correlation of target and context labels",
    "confident_errors": "wrong among confident answers",
    "crr": "reliance on the context, parts hidden",
    "crr_by_target": "the same, signed by the target",
    "e_region": "score lost when the region is hidden",
    "e_context": "score lost when the context is hidden",
    "e_control": "score lost, unrelated region hidden",
    "accuracy_without_region": "accuracy when the region is hidden",
    "scr": "reliance on the context, parts pasted",
    "swap_region": "score moved by another region",
    "swap_context": "score moved by another context",
    "follow": "answers that follow a pasted region",
    "exact_reliance": "reliance on the context, re-rendered",
    "effect_region": "score moved by re-rendering the target",
    "effect_context": "score moved by re-rendering the context",
    "mass": "evidence for it that lies in the part",
    "rank": "strongest positions that lie in the part",
    "pointing": "strongest evidence lies in the part",
    "attention_iou": "overlap of evidence and part",
    "enrichment": "mass over the part's share of area",
    "context_share": "evidence that lies outside the region",
    "relation": "mean cosine of target and context",
    "relation_kl": "divergence from what it ought to be",
    "phi_excess": "answers correlate beyond the labels",
    "table_kl": "divergence of answers from labels",
    "rfs": "noise hurts more in region than context",
    "background_gap": "accuracy lost with a random background",
    "rrr": "squared gradient outside the region",
}
_SIGN = {-1: "negative", 0: "unrelated", 1: "positive"}


def score_table(result: BiasResult, untrained: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Every score as cells under :data:`SCORE_COLUMNS`, then the checks that were left out, with the reason.

    Args:
        result: The diagnostics.
        untrained: The same scores of the network before training, by name; any may be missing or NaN.
    """
    start = {name: _number(value, "no signal") for name, value in untrained.items()}
    rows = [_score_row(name, score, start.get(name, "")) for name, score in result.scores.items()]
    blank = ("",) * (len(SCORE_COLUMNS) - 3)
    return rows + [(check, "left out", *blank, reason) for check, reason in result.missing.items()]


def finding_table(relations: Relations) -> list[tuple[str, ...]]:
    """The blind spots and failure modes as cells under :data:`FINDING_COLUMNS`, in the order of the result.

    One row that says so if there are none.
    """
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
                _number(float(relations.entropy[pair]), "unknown"),
            )
        )
    return rows or [("none", *[""] * (len(FINDING_COLUMNS) - 1))]


def _score_row(name: str, score: Score, untrained: str) -> tuple[str, ...]:
    ends = [f"{end:.3f}" for end in (score.low, score.high) if math.isfinite(end)]
    return (
        name,
        _number(score.value, "no signal"),
        "from " * (len(ends) == 1 and math.isfinite(score.low)) + " to ".join(ends),
        _number(score.chance, ""),
        untrained,
        str(score.count),
        _MEANING.get(name.partition("/")[0], ""),
    )


def _number(value: float, nothing: str) -> str:
    return nothing if math.isnan(value) else f"{value:.3f}"
