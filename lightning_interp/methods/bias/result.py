"""Frozen results on the CPU of context-bias diagnostics: scores with interval and chance, relations, pictures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class BiasResult:
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

    def __repr__(self) -> str:
        """What was looked at, and how much of it: scores, arrays and pictures would fill pages."""
        contexts = ", ".join(self.contexts) or "none"
        return (
            f"BiasResult({self.target} by {self.region}; contexts: {contexts}; {len(self.scores)} scores, "
            f"{len(self.missing)} checks missing; {self.num_images} images, {len(self.examples)} examples)"
        )
