"""Frozen results on the CPU of context-bias diagnostics: scores with interval and chance, relations, pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_interp.methods.bias.maths.localisation import MEASURES
from lightning_interp.results.base import MOST_HEADLINES, Result

Floats = NDArray[np.float64]

RATIOS = ("crr", "scr", "exact_reliance")
"""Scores, by context, of how the reliance divides."""

# Scores whose level depends on the images that count, so that it may be NaN in one epoch and not in the next.
_ACCURACIES = ("accuracy", "balanced_accuracy", "worst_group_accuracy", "adjusted_accuracy", "accuracy_without_region")
# By turns, what is watched of every context; what can be NaN ends in a question mark.
_WATCHED = (
    *(("crr?", "crr_chance"), ("crr?",), ("exact_reliance?",), ("scr?",)),
    ("worst_group_accuracy", "worst_group_accuracy_chance"),
)
_CHANCES = (*_ACCURACIES, *MEASURES, "follow", "context_share", "rrr", "slice_error", "slice_conflict")


def suffixed(name: str, suffix: str) -> str:
    """``crr/makeup`` to ``crr_low/makeup``."""
    check, _, context = name.partition("/")
    return f"{check}{'_' if suffix else ''}{suffix}{'/' if context else ''}{context}"


@dataclass(frozen=True)
class Score:
    """One score of one epoch.

    Args:
        value: NaN means "no signal".
        low: Lower end of the 95 % normal interval; NaN where the score has none.
        high: Its upper end.
        chance: What a network that knows nothing of regions would score; NaN where there is no such level.
        count: Images that entered it.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    chance: float = math.nan
    count: int = 0

    def tagged(self, name: str) -> dict[str, float]:
        """The score by its name, with interval and chance beside it: the same tags whatever their values."""
        check = name.partition("/")[0]
        values = {name: self.value}
        if check in (*RATIOS, "e_region", "e_context"):
            values |= {suffixed(name, "low"): self.low, suffixed(name, "high"): self.high}
        if not math.isnan(self.chance) or check in _CHANCES:
            values[suffixed(name, "chance")] = self.chance
        return values


@dataclass(frozen=True)
class Relations:
    """What the network takes for related: cosines of the attributes' contributions, beside what the labels say.

    Args:
        names: The K attributes.
        mean: ``(K, K)`` float64, mean cosine over the images.
        deviation: ``(K, K)`` float64, standard deviation.
        labels: ``(K, K)`` float64, correlation (phi) of the labels; NaN where they are unknown.
        predictions: ``(K, K)`` float64, correlation (phi) of the predictions.
        kl: ``(K, K)`` float64, divergence of the reference Gaussian from the learnt one.
        entropy: ``(K, K)`` float64, nats, of the two labels together, by which the 2018 paper is said to rank pairs as
            a baseline; NaN where they are unknown.
        expected: ``(K, K)`` int64, the sign that a pair ought to have: -1, 0 or 1.
        findings: Blind spots and failure modes, the worst first.
    """

    names: tuple[str, ...]
    mean: Floats
    deviation: Floats
    labels: Floats
    predictions: Floats
    kl: Floats
    entropy: Floats
    expected: NDArray[np.int64]
    findings: tuple["Finding", ...]


@dataclass(frozen=True)
class Finding:
    """A pair of attributes that the network relates otherwise than it should.

    Args:
        kind: ``"failure mode"`` (relates what is unrelated) or ``"blind spot"`` (does not relate what is).
        first: One attribute.
        second: The other.
        mean: Learnt mean cosine.
        expected: The sign that it ought to have.
        kl: Divergence.
    """

    kind: str
    first: str
    second: str
    mean: float
    expected: int
    kl: float


@dataclass(frozen=True)
class Version:
    """A face as it is, or changed, with the network's answer.

    Args:
        caption: What was done.
        image: ``(H, W, 3)`` uint8.
        logit: The score s.
        should_change: Whether a network that looks at the region alone would change its score; None where that
            cannot be said, as for a region that is masked where the target is absent anyway.
    """

    caption: str
    image: NDArray[np.uint8]
    logit: float
    should_change: bool | None = None


@dataclass(frozen=True)
class Example:
    """One row of the picture: an image, its changed versions, and where the evidence lies.

    Args:
        index: Position in the probe set.
        label: What is true of the target.
        versions: The image first.
        heat: ``(H, W)`` float64, signed contributions to the score; None where no layer was looked at.
        region: ``(H, W)`` bool, the region that should matter.
    """

    index: int
    label: int
    versions: tuple[Version, ...]
    heat: Floats | None
    region: NDArray[np.bool_]


@dataclass(frozen=True, repr=False)
class BiasResult(Result):
    """Context-bias diagnostics of one target.

    Args:
        target: The attribute.
        region: The region that should decide it.
        contexts: By context attribute, its region.
        scores: By name, ``"<check>"`` or ``"<check>/<context>"``, always the same names in the same order.
        signal: By context, whether its ratios mean anything yet, by
            :func:`~lightning_interp.methods.bias.maths.groups.what_is_learnt`; false for an untrained network.
        ungated: By name, the value of every score with no regard to signal: of an untrained network, the level that the
            scores start from.
        relations: What attributes the network relates; None where it has one output or the check did not run.
        missing: By check, why it did not run.
        examples: For the picture.
        num_images: Images probed.
        settings: What the numbers depend on, JSON-able.
        seconds: Wall time.
        meta: When it was made: ``epoch``, ``global_step`` and the like.
    """

    target: str
    region: str
    contexts: Mapping[str, str]
    scores: Mapping[str, Score]
    signal: Mapping[str, bool]
    ungated: Mapping[str, float] = field(default_factory=dict)
    relations: Relations | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    num_images: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    meta: Mapping[str, Any] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """Every score by tag, ``<target>/<score>``, with ``_low``, ``_high`` and ``_chance``; and ``seconds``."""
        tagged = (score.tagged(name) for name, score in self.scores.items())
        values = {f"{self.target}/{tag}": value for own in tagged for tag, value in own.items()}
        return values | {"seconds": self.seconds}

    FILE: ClassVar[str] = "bias.json"

    def headline(self) -> dict[str, float]:
        """Accuracy, and how the reliance on each context divides, with levels of chance, as far as there is room.

        Of each context: its share of the reliance by hiding parts, then by re-rendering and by pasting, then the worst
        group. With many contexts the last of these are left to :meth:`scalars`.
        """
        values = self.scalars()
        found = self._watched(values, ["accuracy", "accuracy_chance"])
        # All contexts or none, lest they look unequal; if not even the first share has room for all, as many as have.
        turns = [[f"{each}/{context}" for each in turn for context in self.contexts] for turn in _WATCHED]
        turns += [[f"crr?/{context}"] for context in self.contexts]
        for names in turns:
            more = found | self._watched(values, names)
            if len(more) <= MOST_HEADLINES:
                found = more
        return found

    def _watched(self, values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for each in names:
            # The mark is of the score, not of a context that is called by one.
            check, _, context = each.partition("/")
            name = f"{check.removesuffix('?')}/{context}" if context else check.removesuffix("?")
            tag = f"{self.target}/{name}"
            if tag in values:
                found[tag] = values[tag]
                if name != each:
                    found[f"{self.target}/{suffixed(name, 'known')}"] = float(not math.isnan(values[tag]))
        return found

    def about(self) -> str:
        """What was looked at, and how much of it."""
        contexts = ", ".join(self.contexts) or "none"
        return (
            f"{self.target} by {self.region}; contexts: {contexts}; {len(self.scores)} scores, "
            f"{len(self.missing)} checks missing; {self.num_images} images, {len(self.examples)} examples"
        )

    def save(self, folder: Path) -> Path:
        """Write it to a folder, without pictures (:func:`~lightning_interp.methods.bias.files.save_bias`)."""
        from lightning_interp.methods.bias.files import save_bias

        return save_bias(self, folder)

    @classmethod
    def load(cls, folder: Path) -> "BiasResult":
        """Read what :meth:`save` wrote (:func:`~lightning_interp.methods.bias.files.load_bias`)."""
        from lightning_interp.methods.bias.files import load_bias

        return load_bias(folder)
