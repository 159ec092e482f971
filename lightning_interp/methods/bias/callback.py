"""Context-bias diagnostics of every epoch: is it the lipstick, or the make-up?"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lightning_interp._extras import available
from lightning_interp._lightning import LightningModule, rank_zero_info, rank_zero_warn
from lightning_interp.callbacks.base import Charts, Output, ProbeCallback
from lightning_interp.data.probe import ProbeSet
from lightning_interp.data.regions import FindRegions
from lightning_interp.drawing.text import literal
from lightning_interp.errors import DatasetError
from lightning_interp.functional.fills import Fill
from lightning_interp.logging.artifacts import Figure, Image, Table, Text, safe_tag
from lightning_interp.methods.bias.checks import DEFAULT_CHECKS
from lightning_interp.methods.bias.engine import RATIOS, Diagnoser
from lightning_interp.methods.bias.figures.interventions import intervention_gallery
from lightning_interp.methods.bias.figures.relations import relation_matrix
from lightning_interp.methods.bias.figures.table import FINDING_COLUMNS, SCORE_COLUMNS, finding_table, score_table
from lightning_interp.methods.bias.files import save_bias
from lightning_interp.methods.bias.maths.localisation import MEASURES
from lightning_interp.methods.bias.result import BiasResult, Score
from lightning_interp.methods.bias.verdict import alarms, unanswered, verdict
from lightning_interp.probing.evidence.attribution import Attribution
from lightning_interp.probing.ranks import Ranks
from lightning_interp.results.files import write_png
from lightning_interp.schedule import Every

# Scores whose level depends on the images that count, so that it may be NaN in one epoch and not in the next.
_ACCURACIES = ("accuracy", "balanced_accuracy", "worst_group_accuracy", "adjusted_accuracy", "accuracy_without_region")
_CHANCES = (*_ACCURACIES, *MEASURES, "follow", "context_share", "rrr", "slice_error", "slice_conflict")


class ContextBias(ProbeCallback[BiasResult]):
    """What a score depends on: the region that should decide it, or a context (after Zhang, Wang, Zhu, AAAI 2018).

    On a test set that shares the training set's bias, accuracy does not tell a network that looks at the mouth from
    one that looks at the eyes. The interventions do: the region or a context is hidden, or replaced by another
    image's, and the change of the score (the logit) is compared. The paper's own equations could not be obtained;
    every definition here is stated where it is computed (:mod:`lightning_interp.methods.bias.maths.reliance` and
    beside).

    Scalars, ``bias/<target>/<score>[/<context>]``, in ``callback_metrics`` too; NaN means "no signal":

    - by occlusion: ``crr/<context>``, the context's share of the reliance, 0 none, 1 all; ``e_region``,
      ``e_context/<context>``, ``e_control`` (an unrelated region of equal area);
    - by part swap: ``scr/<context>``; by re-rendering, where the probe set can: ``exact_reliance/<context>``;
    - ``nonfinite``, the number of images with NaN or infinite logits, which the scores leave out;
    - from labels: ``accuracy``, ``worst_group_accuracy/<context>``, ``equalised_odds_gap/<context>`` and others;
    - from attribution: ``mass``, ``pointing``, ``attention_iou``..., of the region and of each context's;
    - from relations: ``relation/<context>``, ``failure_modes``, ``blind_spots``;
    - ``<score>_low`` and ``<score>_high``, the 95 % interval of the first three; ``<score>_chance``, what a network
      that knows nothing of regions would score; ``<score>_untrained``, what this one scored before training, with no
      regard to signal; NaN there are ``rfs`` (noise takes nothing from a network at chance) and what cannot be counted
      (``phi_excess`` if all answers are one, ``confident_errors`` if none is confident); ``bias/seconds``.

    The classes in :mod:`lightning_interp.methods.bias.checks` list every score. ``EarlyStopping`` stops at a NaN unless
    ``check_finite=False``.

    To loggers that show them: ``bias/<target>/interventions`` (the picture of the paper's first figure),
    ``.../relations`` (matrix), ``.../scores`` and ``.../findings`` (tables), ``.../verdict`` (in words), and charts of
    the reliance with its interval among the custom scalars. Files: ``<log_dir>/interp/bias/epoch_XXXX/bias.json``,
    ``scores.csv`` and ``interventions.png``.

    Args:
        probe: Images with attributes (``facts``), and parts, landmarks, or ``regions``.
        target: The attribute, as the probe set names it.
        region: The region that should decide it.
        contexts: By context attribute, its region; pixels that it shares with the target's region are left out, for
            hiding them would hide the cause.
        checks: Names of :data:`~lightning_interp.methods.bias.checks.CHECKS`.
        fills: How to hide regions (:func:`~lightning_interp.functional.fills.fill`); the first is the headline.
        outputs: What the columns of the network's output stand for, each a binary attribute; None for one output, or
            for one a class of the target.
        regions: Function from a probe item to region masks; None to find them by part masks or landmarks.
        layer: Layer whose activations carry the evidence; ``"auto"`` for the last with maps larger than 1x1.
        attribution: How evidence is traced to the layer, ``"gradient_x_activation"``, or by captum (the extra
            ``attribution``) ``"grad_cam"``, ``"integrated_gradients"`` or ``"lrp"``
            (:func:`~lightning_interp.probing.evidence.attribution.captum_heat`). To compare some, use as many
            callbacks, each with a ``name``.
        training: By attribute, its values in the training set, for adjusted accuracy and bias amplification.
        expected: Signs of relations that attributes ought to have, by pair; a pair not named is unrelated. Those named
            with 0 set the level that unrelated pairs have in this network.
        max_samples: Use at most so many images, evenly spaced.
        batch_size: Images a forward pass.
        examples: Images in the picture.
        alarm: Share of the reliance from which a line is printed, once for each context that comes to it.
        schedule: When to probe.
        on_error: What a failing figure, logger or file does: ``"warn"`` or ``"raise"``.
        name: First part of every tag; two callbacks need two names.
        timeout: Seconds to wait for another process.

    Raises:
        DatasetError: If an attribute, region, check or attribution is unknown, or labels do not fit.
        MissingExtraError: If the attribution needs captum and it is not installed.
        ValueError: If a number is out of range.

    Example:
        >>> from lightning_interp import ContextBias, RenderedFaces
        >>> faces = RenderedFaces(32, size=32, correlations={"makeup": 0.95})
        >>> callback = ContextBias(faces, target="lipstick", region="mouth", contexts={"makeup": "eyes"})
        >>> callback.state_key
        "ContextBias{'name': 'bias'}"
    """

    def __init__(
        self,
        probe: ProbeSet,
        target: str,
        region: str,
        contexts: Mapping[str, str],
        *,
        checks: Sequence[str] = DEFAULT_CHECKS,
        fills: Sequence[Fill] = ("mean", "skin"),
        outputs: Sequence[str] | None = None,
        regions: FindRegions | None = None,
        layer: str = "auto",
        attribution: Attribution = "gradient_x_activation",
        training: Mapping[str, Sequence[int] | Tensor] | None = None,
        expected: Mapping[tuple[str, str], int] | None = None,
        max_samples: int = 512,
        batch_size: int = 64,
        examples: int = 4,
        alarm: float = 0.5,
        schedule: Every = Every(n_epochs=1, at_start=True),  # noqa: B008 - frozen
        on_error: Literal["warn", "raise"] = "warn",
        name: str = "bias",
        timeout: float = 600.0,
    ) -> None:
        super().__init__(name, schedule, on_error, timeout)
        if not 0 < alarm <= 1:
            raise ValueError(f"alarm must be in (0, 1], got {alarm}")
        by_tag: dict[str, str] = {}
        for context in contexts if isinstance(contexts, Mapping) else ():
            if (other := by_tag.setdefault(safe_tag(str(context)), context)) != context:
                raise DatasetError(
                    f"contexts '{other}' and '{context}' would both be logged as '{safe_tag(context)}'; rename one"
                )
        self.alarm = alarm
        self.diagnoser = Diagnoser(
            probe,
            target,
            region,
            contexts,
            checks=checks,
            fills=fills,
            outputs=outputs,
            regions=regions,
            layer=layer,
            attribution=attribution,
            training=training,
            expected=expected,
            max_samples=max_samples,
            batch_size=batch_size,
            examples=examples,
        )

    def reset(self) -> None:
        """Forget every probe, and what the untrained network scored."""
        super().reset()
        self.history: list[dict[str, Any]] = []
        self.untrained: dict[str, float] = {}

    def prepare(self, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Check the layer and the network's output on one image, and say what will not run."""
        self.diagnoser.describe(module, forward)
        for check, reason in self.diagnoser.missing.items():
            rank_zero_warn(f"{self.name}: {check}: {reason}")

    def probe(
        self,
        module: LightningModule,
        forward: Callable[[Tensor], Any],
        ranks: Ranks,
        should_stop: Callable[[], bool],
        meta: Mapping[str, Any],
    ) -> BiasResult | None:
        """Ask once."""
        return self.diagnoser(module, ranks=ranks, forward=forward, should_stop=should_stop, meta=meta)

    def scalars(self, result: BiasResult) -> dict[str, float]:
        """Every score, its interval, its chance level and what the untrained network scored."""
        epoch = result.meta["epoch"]
        if epoch is None:
            self.untrained = dict(result.ungated)
        values: dict[str, float] = {}
        for name, found in result.scores.items():
            values |= _tagged(f"{result.target}/", name, found)
            if name in self.untrained:
                values[f"{result.target}/{_suffixed(name, 'untrained')}"] = self.untrained[name]
        self.history.append({"epoch": -1 if epoch is None else epoch, "scalars": values})
        self._say_if_new(result)
        return values | {"seconds": result.seconds}

    def _say_if_new(self, result: BiasResult) -> None:
        past = self.history[:-1]
        broken = unanswered(result)
        if broken is not None and not (past and past[-1]["scalars"].get(f"{result.target}/nonfinite")):
            rank_zero_warn(f"{self.name}: {broken}")
        before = alarms(past, self.alarm)
        for passed, line in alarms(self.history, self.alarm).items():
            if passed not in before:
                rank_zero_info(f"{self.name}: {line}")

    def charts(self, result: BiasResult) -> tuple[str, Charts]:
        """Reliance with its interval, and its references."""
        tag = f"{self.name}/{result.target}"
        charts: Charts = {}
        for context in result.contexts:
            for check in (check for check in RATIOS if f"{check}/{context}" in result.scores):
                tags = [f"{tag}/{_suffixed(f'{check}/{context}', end)}" for end in ("", "low", "high")]
                charts[f"{result.target} on {context}: {check}"] = ("Margin", tags)
        return f"Context bias: {self.name}", charts

    def artifacts(self, result: BiasResult) -> Iterable[Output]:
        """The picture of interventions, the matrix of relations, tables and the verdict."""
        tag = f"{self.name}/{result.target}"
        if result.examples:
            yield Image, lambda: Image(f"{tag}/interventions", intervention_gallery(result))
        relations = result.relations
        if relations is not None:
            if available("matplotlib"):
                yield Figure, lambda: Figure(f"{tag}/relations", relation_matrix(relations))
            yield Table, lambda: Table(f"{tag}/findings", FINDING_COLUMNS, finding_table(relations))
        yield Table, lambda: Table(f"{tag}/scores", SCORE_COLUMNS, score_table(result, self.untrained))
        yield (
            Text,
            lambda: Text(f"{tag}/verdict", "\n\n".join(literal(line, 400) for line in verdict(result, self.untrained))),
        )

    def save(self, result: BiasResult, folder: Path) -> None:
        """Write the scores, and the picture."""
        save_bias(result, folder)
        if result.examples:
            write_png(folder / "interventions.png", intervention_gallery(result))

    def finish(self, result: BiasResult, folder: Path) -> None:
        """Say what was found."""
        for line in verdict(result, self.untrained):
            rank_zero_info(f"{self.name}: {line}")

    def state_dict(self) -> dict[str, Any]:
        """Schedule, history and what the untrained network scored."""
        told = {"history": list(self.history), "untrained": dict(self.untrained)}
        return super().state_dict() | told | {"probe": self.diagnoser.probe.fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history."""
        if state_dict["probe"] != self.diagnoser.probe.fingerprint():
            rank_zero_warn(f"{self.name}: the checkpoint's history is of another probe set; it starts anew")
            return
        super().load_state_dict(state_dict)
        self.history, self.untrained = state_dict["history"], state_dict["untrained"]


def _suffixed(name: str, suffix: str) -> str:
    """``crr/makeup`` to ``crr_low/makeup``."""
    check, _, context = name.partition("/")
    return f"{check}{'_' if suffix else ''}{suffix}{'/' if context else ''}{context}"


def _tagged(prefix: str, name: str, found: Score) -> dict[str, float]:
    values = {f"{prefix}{name}": found.value}
    if name.partition("/")[0] in (*RATIOS, "e_region", "e_context"):
        values |= {f"{prefix}{_suffixed(name, end)}": getattr(found, end) for end in ("low", "high")}
    if not math.isnan(found.chance) or name.partition("/")[0] in _CHANCES:
        values[f"{prefix}{_suffixed(name, 'chance')}"] = found.chance
    return values
