"""Context-bias diagnostics of every epoch: is it the lipstick, or the make-up?"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_interp._extras import available
from lightning_interp._lightning import LightningModule, rank_zero_info, rank_zero_warn
from lightning_interp._options import passes_on, take
from lightning_interp.callbacks.base import ProbeCallback
from lightning_interp.callbacks.publish import Charts, Shown
from lightning_interp.data.probe import ProbeSet
from lightning_interp.drawing.text import literal
from lightning_interp.errors import DatasetError
from lightning_interp.logging.artifacts import Figure, Image, Table, Text, safe_tag
from lightning_interp.methods.bias.engine import Diagnoser
from lightning_interp.methods.bias.figures.interventions import intervention_gallery
from lightning_interp.methods.bias.figures.relations import relation_matrix
from lightning_interp.methods.bias.figures.table import FINDING_COLUMNS, SCORE_COLUMNS, finding_table, score_table
from lightning_interp.methods.bias.result import RATIOS, BiasResult, suffixed
from lightning_interp.methods.bias.verdict import alarms, unanswered, verdict
from lightning_interp.results.files import write_png


class ContextBias(ProbeCallback[BiasResult]):
    """What a score depends on: the region that should decide it, or a context (after Zhang, Wang, Zhu, AAAI 2018).

    On a test set that shares the training set's bias, accuracy does not tell a network that looks at the mouth from
    one that looks at the eyes. The interventions do: the region or a context is hidden, or replaced by another
    image's, and the change of the score (the logit) is compared. The paper's own equations could not be obtained;
    every definition here is stated where it is computed (:mod:`lightning_interp.methods.bias.maths.reliance` and
    beside).

    Scalars, ``bias/<target>/<score>[/<context>]``, all in ``callback_metrics``; NaN means "no signal", and
    then ``<score>_known`` is 0. Loggers get the headline (accuracy, the shares of the reliance, the worst group, with
    levels of chance, as far as there is room for all contexts), or with ``scalars="all"`` every one:

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
        alarm: Share of the reliance from which a line is printed, once for each context that comes to it.
        name: First part of every tag; two callbacks need two names.
        **options: What is asked and how the probe set is read, as in
            :class:`~lightning_interp.methods.bias.engine.Diagnoser`; schedule, scalars, on_error and timeout as in
            :class:`~lightning_interp.callbacks.base.ProbeCallback`.

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

    TITLE = "Context bias"
    engine: Diagnoser

    @passes_on(Diagnoser, ProbeCallback)
    def __init__(
        self,
        probe: ProbeSet,
        target: str,
        region: str,
        contexts: Mapping[str, str],
        *,
        alarm: float = 0.5,
        name: str = "bias",
        **options: Any,
    ) -> None:
        own = take(options, ProbeCallback)
        if not 0 < alarm <= 1:
            raise ValueError(f"alarm must be in (0, 1], got {alarm}")
        by_tag: dict[str, str] = {}
        for context in contexts if isinstance(contexts, Mapping) else ():
            if (other := by_tag.setdefault(safe_tag(str(context)), context)) != context:
                raise DatasetError(
                    f"contexts '{other}' and '{context}' would both be logged as '{safe_tag(context)}'; rename one"
                )
        super().__init__(Diagnoser(probe, target, region, contexts, **options), name=name, **own)
        self.alarm = alarm

    @property
    def diagnoser(self) -> Diagnoser:
        """The engine."""
        return self.engine

    def reset(self) -> None:
        """Forget every probe, and what the untrained network scored."""
        super().reset()
        self.untrained: dict[str, float] = {}

    def prepare(self, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Check the layer and the network's output on one image, and say what will not run."""
        super().prepare(module, forward)
        for check, reason in self.engine.missing.items():
            rank_zero_warn(f"{self.name}: {check}: {reason}")

    def scalars(self, result: BiasResult) -> dict[str, float]:
        """Every score, its interval, its chance level and what the untrained network scored."""
        if result.meta["epoch"] is None and not result.meta.get("global_step"):
            self.untrained = dict(result.ungated)
        values: dict[str, float] = {}
        for name, score in result.scores.items():
            found = score.tagged(name)
            if name in self.untrained:
                found[suffixed(name, "untrained")] = self.untrained[name]
            values |= {f"{result.target}/{tag}": value for tag, value in found.items()}
        return values | {"seconds": result.seconds}

    def news(self, result: BiasResult) -> None:
        """Logits that have no value, and contexts that have come to decide."""
        past = self.history[:-1]
        broken = unanswered(result)
        if broken is not None and not (past and past[-1]["scalars"].get(f"{result.target}/nonfinite")):
            rank_zero_warn(f"{self.name}: {broken}")
        before = alarms(past, self.alarm)
        for passed, line in alarms(self.history, self.alarm).items():
            if passed not in before:
                rank_zero_info(f"{self.name}: {line}")

    def charts(self, result: BiasResult) -> Charts:
        """Reliance by every check, and each with its interval."""
        charts: Charts = {}
        for context in result.contexts:
            checks = [check for check in RATIOS if f"{check}/{context}" in result.scores]
            lines = [f"{result.target}/{check}/{context}" for check in checks]
            chance = [f"{result.target}/{suffixed(f'{check}/{context}', 'chance')}" for check in checks[:1]]
            charts[f"{result.target} on {context}: reliance"] = ("Multiline", [*lines, *chance])
            for check in checks:
                ends = [f"{result.target}/{suffixed(f'{check}/{context}', end)}" for end in ("", "low", "high")]
                charts[f"{result.target} on {context}: {check}"] = ("Margin", ends)
        return charts

    def shown(self, result: BiasResult) -> Iterable[Shown]:
        """The picture of interventions, the matrix of relations, tables and the verdict."""
        tag, relations = result.target, result.relations
        if result.examples:
            yield Image, f"{tag}/interventions", lambda: intervention_gallery(result)
        if relations is not None:
            if available("matplotlib"):
                yield Figure, f"{tag}/relations", lambda: relation_matrix(relations)
            yield Table, f"{tag}/findings", lambda: (FINDING_COLUMNS, finding_table(relations))
        yield Table, f"{tag}/scores", lambda: (SCORE_COLUMNS, score_table(result, self.untrained))
        lines = verdict(result, self.untrained)
        yield Text, f"{tag}/verdict", lambda: "\n\n".join(literal(line, 400) for line in lines)

    def save(self, result: BiasResult, folder: Path) -> None:
        """Write the scores, and the picture."""
        super().save(result, folder)
        if result.examples:
            write_png(folder / "interventions.png", intervention_gallery(result))

    def lines(self, result: BiasResult) -> Iterable[str]:
        """What was found."""
        return verdict(result, self.untrained)

    def state_dict(self) -> dict[str, Any]:
        """As every probe, and what the untrained network scored."""
        return super().state_dict() | {"untrained": dict(self.untrained)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history."""
        super().load_state_dict(state_dict)
        # Without a history, the state was of another probe set.
        self.untrained = dict(state_dict["untrained"]) if self.history else {}
