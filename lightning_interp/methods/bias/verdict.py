"""What context-bias diagnostics found, in words a person can read, and a line when reliance passes a threshold."""

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from lightning_interp.drawing.text import clean
from lightning_interp.methods.bias.result import BiasResult, Score

# The surest first: re-rendering is exact, hiding a part is measured on every data set.
_RELIANCE = {"exact_reliance": "re-rendering", "crr": "hiding parts", "scr": "pasting parts"}
_EFFECT = {"exact_reliance": "effect_context", "crr": "e_context", "scr": "swap_context"}
"""By check, what it divides: how much the context changes the score, in mean absolute scores."""
_NOTHING = Score(math.nan)
# Set by measurements on networks whose exact reliance is known: a network without the shortcut reads up to 0.17, and
# hiding a part that has nothing to do with the target moved the score by up to 0.19 of its mean.
_SHORTCUT = 0.5
_FLOOR = 0.2
_MOST_FINDINGS = 3


def verdict(result: BiasResult, untrained: Mapping[str, float]) -> list[str]:
    """What was found, one finding a line.

    First, images with logits that are not finite. Of each context: how the reliance divides between it and the region,
    by the surest check that has a value, with the 95 % interval, what the other checks and the untrained network read,
    and what hiding each part does. Reliance from 0.5 is a shortcut, below 0.2 none; these limits are this project's
    own. Then worst groups, failure modes and blind spots, and what was left out.

    Args:
        result: The diagnostics.
        untrained: The same scores of the network before training, by name; any may be missing or NaN.
    """
    broken = filter(None, [unanswered(result)])
    if result.signal and not any(result.signal.values()):
        return [*broken, _silence(result), *_missing_lines(result)]
    lines = [_context_line(result, context, untrained) for context in result.contexts]
    if not lines and (hiding := _hiding(result, result.region, "e_region")):
        lines = [f"{clean(result.target)}: {hiding}"]
    return [*broken, *lines, *_group_lines(result), *_relation_lines(result), *_missing_lines(result)]


def unanswered(result: BiasResult) -> str | None:
    """How many images the network has no finite answer for; None if it has one for all."""
    found = result.scores.get("nonfinite", Score(0.0))
    if not found.value:
        return None
    images = f"{found.value:.0f} of {found.count} images"
    return f"{clean(result.target)}: the logits of {images} are NaN or infinite; the scores leave them out"


def alarms(history: Sequence[Mapping[str, Any]], threshold: float) -> dict[tuple[str, str], str]:
    """One line for each context on which reliance is at least ``threshold``: what, how much, and since which epoch.

    Of a context's reliance scores the surest that has a value counts. A line comes at each probe at which this is so;
    it is news if its key is not in ``alarms(history[:-1], threshold)``.

    Args:
        history: One dict a probe, oldest first: ``{"epoch": int, "scalars": {name: float}}``, epoch -1 before
            training; a name ends in ``<check>/<context>``, after ``<target>/`` if it has more parts.
        threshold: Share of the reliance, in [0, 1].

    Returns:
        By target (empty if unnamed) and context; nothing if no reliance is so high at the last probe, or if there is
        no probe.
    """
    scalars = history[-1]["scalars"] if history else {}
    surest: dict[tuple[str, str], tuple[str, str]] = {}
    for check in _RELIANCE:
        for name, value in scalars.items():
            parts = name.split("/")
            if check in parts[:-1] and not math.isnan(value):
                at = parts.index(check)
                target = parts[at - 1] if at else ""
                surest.setdefault((target, "/".join(parts[at + 1 :])), (name, check))
    told = {}
    for (target, context), (name, check) in surest.items():
        if scalars[name] >= threshold:
            subject = f"{clean(target)}: reliance" if target else "reliance"
            told[target, context] = (
                f"{subject} on {clean(context)} is {_percent(scalars[name])} (by {_RELIANCE[check]}), "
                f"{_percent(threshold)} or more since {_since(history, name, threshold)}"
            )
    return told


def _since(history: Sequence[Mapping[str, Any]], name: str, threshold: float) -> str:
    """Where the present run of probes with a value of at least ``threshold`` began."""
    run = list(takewhile(lambda p: p["scalars"].get(name, math.nan) >= threshold, reversed(history)))
    return f"epoch {run[-1]['epoch']}" if run[-1]["epoch"] >= 0 else "before training"


def _silence(result: BiasResult) -> str:
    target, accuracy = clean(result.target), result.scores.get("balanced_accuracy", _NOTHING)
    if math.isnan(accuracy.value):
        return f"{target}: no signal: no two values of {target} are left to tell apart"
    if accuracy.low > accuracy.chance:
        parts = " or ".join(clean(part) for part in (result.region, *result.contexts.values()))
        return (
            f"{target}: no signal yet: balanced accuracy is {accuracy.value:.2f}, but the scores are too small, or "
            f"hiding {parts} changes them too little, for reliance to mean anything"
        )
    return f"{target}: no signal yet: the network's answers tell {target} no better than chance"


def _context_line(result: BiasResult, context: str, untrained: Mapping[str, float]) -> str:
    target, region = clean(result.target), clean(result.region)
    where = f"{clean(context)} ({clean(result.contexts[context])})"
    found = {check: result.scores.get(f"{check}/{context}", _NOTHING) for check in _RELIANCE}
    found = {check: score for check, score in found.items() if not math.isnan(score.value)}
    if not result.signal.get(context, True):
        return f"{target}: no signal yet for {where}"
    if not found:
        return f"{target}: reliance on {where} was not measured"
    check, score = next(iter(found.items()))
    share = round(100 * score.value)
    split = (
        f"{share} % of the reliance is on {where}, {100 - share} % on the {region} "
        f"[{_sources(check, found, untrained, context)}]"
    )
    effects = [_hiding(result, result.region, "e_region")]
    effects.append(_hiding(result, result.contexts[context], f"e_context/{context}"))
    effect = result.scores.get(f"{_EFFECT[check]}/{context}", _NOTHING).value
    return "; ".join([f"{target}: {_kind(score, effect)}{split}", *filter(None, effects)])


def _kind(score: Score, effect: float) -> str:
    """What a reliance amounts to, given how much the context changes the score."""
    if score.low < _FLOOR and score.high > _SHORTCUT:
        return "undecided, the interval is too wide: "
    if score.value < _FLOOR:
        return "no shortcut seen: "
    if abs(effect) < _FLOOR:
        # A ratio of two small effects is large for any part, also one that has nothing to do with the target.
        return "no shortcut seen, the context changes the score little: "
    return "shortcut: " if score.value >= _SHORTCUT else "partly a shortcut: "


def _sources(check: str, found: Mapping[str, Score], untrained: Mapping[str, float], context: str) -> str:
    """How sure the headline is: its interval, the other checks, the untrained network."""
    score = found[check]
    interval = "" if math.isnan(score.low + score.high) else f"{100 * score.low:.0f} to {_percent(score.high)} "
    texts = [f"{interval}by {_RELIANCE[check]}"]
    texts += [f"{_percent(other.value)} by {_RELIANCE[kind]}" for kind, other in found.items() if kind != check]
    start = untrained.get(f"{check}/{context}", math.nan)
    return ", ".join(texts) + ("" if math.isnan(start) else f"; untrained {_percent(start)}")


def _hiding(result: BiasResult, part: str, name: str) -> str:
    """What hiding a part does; empty if that is unknown."""
    value = result.scores.get(name, _NOTHING).value
    if math.isnan(value):
        return ""
    return f"hiding the {clean(part)} {'takes away' if value >= 0 else 'adds'} {_percent(abs(value))} of the score"


def _group_lines(result: BiasResult) -> list[str]:
    overall, lines = result.scores.get("accuracy", _NOTHING).value, []
    for context in result.contexts:
        worst = result.scores.get(f"worst_group_accuracy/{context}", _NOTHING).value
        if not math.isnan(worst):
            beside = "" if math.isnan(overall) else f", over all {overall:.2f}"
            groups = f"{clean(result.target)} and {clean(context)}"
            lines.append(f"accuracy of the worst group of {groups} is {worst:.2f}{beside}")
    return lines


def _relation_lines(result: BiasResult) -> list[str]:
    findings = result.relations.findings if result.relations else ()
    ought = {-1: "ought to be opposed", 0: "ought to be unrelated", 1: "ought to be related"}
    lines = [
        f"{f.kind}: {clean(f.first)} and {clean(f.second)} have a mean cosine of {f.mean:.2f} and {ought[f.expected]}"
        for f in findings[:_MOST_FINDINGS]
    ]
    rest = len(findings) - len(lines)
    return [*lines, f"and {rest} more such pairs"] if rest else lines


def _missing_lines(result: BiasResult) -> list[str]:
    return [f"left out: {clean(check)}: {clean(reason, 200)}" for check, reason in result.missing.items()]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
