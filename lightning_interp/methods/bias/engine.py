"""Context-bias diagnostics of a network on a probe set: the same engine inside and outside of training."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lightning_interp._extras import require
from lightning_interp._options import passes_on
from lightning_interp.data.counterfactuals import Remade
from lightning_interp.data.loading import Reading, check_least
from lightning_interp.data.probe import ProbeSet
from lightning_interp.data.region_bank import RegionBank
from lightning_interp.data.regions import FindRegions
from lightning_interp.errors import DatasetError, LayerError, check_names
from lightning_interp.functional.fills import FILLS, Fill
from lightning_interp.methods.bias.checks import CHECKS, DEFAULT_CHECKS, Check
from lightning_interp.methods.bias.checks.answers import Answers
from lightning_interp.methods.bias.checks.asked import Asked, check_lists, check_question
from lightning_interp.methods.bias.checks.labels import (
    check_binary,
    check_expected,
    count_classes,
    label_classes,
    read_labels,
    read_training,
)
from lightning_interp.methods.bias.checks.relations import AttributeRelations
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.pictures import draw_examples, example_indices
from lightning_interp.methods.bias.result import RATIOS, BiasResult, Example, Score
from lightning_interp.probing.ask import AskEngine
from lightning_interp.probing.evidence.attribution import ATTRIBUTIONS, Attribution
from lightning_interp.probing.evidence.rules import check_lrp
from lightning_interp.probing.layers import describe_layers, resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import prepare
from lightning_interp.probing.sums import Sums
from lightning_interp.probing.sweep import Progress
from lightning_interp.probing.view import Network


class CheckSums(Sums):
    """The checks of one probe, with their sums, and on rank zero the examples.

    Args:
        ranks: The processes.
        asked: The question.
        checks: Names of the checks, beside the answers.
    """

    def __init__(self, ranks: Ranks, asked: Asked, checks: Sequence[str]) -> None:
        super().__init__(ranks)
        self.asked = asked
        self.answers = Answers(asked)
        self.checks: list[Check] = [self.answers, *(CHECKS[name](asked) for name in checks)]
        self.examples: tuple[Example, ...] = ()
        for check in self.checks:
            check.begin(self)


class Diagnoser(AskEngine[BiasResult]):
    """Asks a network again and again what its score of a target depends on; regions and labels are kept in between.

    Args:
        probe: The probe set; its ``facts`` give the attributes.
        target: The attribute.
        region: The region that should decide it.
        contexts: By context attribute, its region; pixels that it shares with the target's region are left out, for
            hiding them would hide the cause.
        checks: Names of :data:`~lightning_interp.methods.bias.checks.CHECKS`.
        fills: How to fill regions, of :data:`~lightning_interp.functional.fills.FILLS`; the first is the headline.
        outputs: What the columns of the network's output stand for, each a binary attribute; None for one output,
            or for one a class of the target.
        regions: Function from a probe item to region masks; None to find them by part masks or landmarks.
        layer: Layer whose activations carry the evidence; ``"auto"`` for the last with maps larger than 1x1, or none
            where there is none and no check needs one.
        attribution: How the check ``"attribution"`` and the pictures trace evidence to the layer; all but
            ``"gradient_x_activation"`` (:func:`~lightning_interp.probing.evidence.attribution.captum_heat`) need the
            extra ``attribution``.
        training: By attribute, its values in the training set, for what compares with that.
        expected: Signs of relations that attributes ought to have, by pair; a pair not named is unrelated. Those named
            with 0 set the level that unrelated pairs have in this network.
        examples: Images in the picture.
        **reading: How the probe set is read: :class:`~lightning_interp.data.loading.Reading`; by default, at most 512
            images.

    Raises:
        DatasetError: If an attribute, region, check or attribution is unknown, or labels do not fit.
        MissingExtraError: If the attribution needs captum and it is not installed.
        ValueError: If a number is out of range.
    """

    READING = Reading(max_samples=512)

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
        examples: int = 4,
        **reading: Any,
    ) -> None:
        super().__init__(probe, **reading)
        check_least(examples=(examples, 0))
        check_question(target, region, contexts)
        check_lists(checks=checks, fills=fills, outputs=outputs)
        check_names(checks, CHECKS, "check")
        check_names(fills, FILLS, "fill")
        check_names([attribution], ATTRIBUTIONS, "attribution")
        if attribution != ATTRIBUTIONS[0]:
            require("captum.attr")
        if not fills:
            raise ValueError("give at least one fill")
        self.layer, self.attribution, self.examples = layer, attribution, examples
        self.bank = RegionBank(probe, self.indices, region, list(contexts.values()), regions, self.reading.on_bad_image)
        self.indices, self.left_out = self.bank.indices, self.bank.skipped
        labels = read_labels(probe, self.indices, target, tuple(contexts), outputs or ())
        self.asked = Asked(
            probe=probe,
            target=target,
            region=region,
            contexts=dict(contexts),
            labels=labels,
            num_classes=label_classes(labels[target]),
            outputs=None if outputs is None else tuple(outputs),
            fills=tuple(dict.fromkeys(fills)),
            indices=self.indices,
            shown=self.bank.shown,
            remade=Remade(probe),
            training=read_training(training or {}, target, tuple(contexts)),
            expected=dict(expected or {}),
        )
        check_binary(self.asked)
        if outputs is not None:
            check_expected(self.asked.expected, outputs)
        self.checks, self.missing = _what_runs(self.asked, checks)
        self.layer_name: str | None = layer

    def view(self, network: Network, indices: Sequence[int], images: Tensor) -> BiasView:
        """Images with their labels and regions."""
        return BiasView(
            network,
            indices,
            images,
            self.read,
            asked=self.asked.first(self.limit),
            bank=self.bank,
            layer=self.layer_name,
            attribution=self.attribution,
        )

    def meet(self, view: BiasView) -> None:
        """Check the layer and the network's output on one image.

        Raises:
            LayerError: If the layer is unknown or gives no maps, or the attribution cannot follow what comes after.
            DatasetError: If the network's output does not fit the question.
        """
        try:
            self.asked = replace(self.asked, num_classes=count_classes(self.asked, view.outputs))
            _ = view.scores
        except (ValueError, TypeError) as error:
            raise DatasetError(str(error)) from error
        self.layer_name = self._find_layer(view)
        if self.attribution == "lrp" and self.layer_name is not None:
            check_lrp(self._again(view).after_layer(), view.network.module)

    def _again(self, view: BiasView) -> BiasView:
        """The same images, now that it is known which layer to look at."""
        return self.view(view.network, view.indices, view.images)

    def _find_layer(self, view: BiasView) -> str | None:
        """The layer to look at; None where nothing needs one and there is none by itself."""
        needed = any(CHECKS[check].needs_layer for check in self.checks)
        if not (needed or self.examples):
            return None
        module, forward = view.network.module, view.network.forward
        try:
            if self.layer != "auto" and len(found := resolve_layers(module, [self.layer])) > 1:
                raise LayerError(f"'{self.layer}' stands for {len(found)} layers; name one of {', '.join(found)}")
            images = prepare(view.images, module, self.probe.normalize)
            ((name, info),) = describe_layers(module, [self.layer], images, forward).items()
            self.layer_name, self.asked = name, replace(self.asked, units=info.units)
            _ = self._again(view).gradients
        except LayerError:
            if needed or self.layer != "auto":
                raise
            return None
        return name

    def begin(self, ranks: Ranks) -> CheckSums:
        """The checks; in a trial run, of its images alone."""
        return CheckSums(ranks, self.asked.first(self.limit), self.checks)

    def ask(self, view: BiasView, sums: CheckSums) -> None:
        """Every check of a batch."""
        for check in sums.checks:
            check.update(view)

    def ask_aside(self, views: Callable[[Sequence[int]], Iterator[BiasView]], sums: CheckSums) -> None:
        """Draw the examples."""
        sums.examples = tuple(
            example
            for view in views(example_indices(sums.asked, self.examples))
            for example in draw_examples(sums.asked, view, heated=self.layer_name is not None)
        )

    def result(self, sums: CheckSums, totals: Mapping[str, Tensor], **about: Any) -> BiasResult:
        """What the checks found."""
        for check in sums.checks:
            check.end(totals)
        learnt = sums.answers.learnt()
        scores: dict[str, Score] = {}
        ungated: dict[str, float] = {}
        for check in sums.checks:
            found = check.scores(learnt)
            scores |= found
            if any(math.isnan(score.value) for score in found.values()):
                found = check.scores(learnt._replace(anything=None))
            ungated |= {name: score.value for name, score in found.items()}
        relations = [check.relations(learnt) for check in sums.checks if isinstance(check, AttributeRelations)]
        return BiasResult(
            target=self.asked.target,
            region=self.asked.region,
            contexts=self.asked.contexts,
            scores=scores,
            signal=_signals(scores, sums.asked),
            ungated=ungated,
            relations=relations[0] if relations else None,
            missing=self.missing,
            examples=sums.examples,
            **about,
        )

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, JSON-able."""
        return super().settings() | {
            "checks": list(self.checks),
            "fills": list(self.asked.fills),
            "layer": self.layer_name,
            "attribution": self.attribution,
            "outputs": None if self.asked.outputs is None else list(self.asked.outputs),
        }


@passes_on(Diagnoser)
def diagnose(
    model: nn.Module,
    probe: ProbeSet,
    target: str,
    region: str,
    contexts: Mapping[str, str],
    *,
    progress: Progress | None = None,
    **options: Any,
) -> BiasResult:
    """Diagnose a network outside of training: the result that the callback publishes.

    Args:
        model: Any module; it is left exactly as it was.
        probe: The probe set.
        target: The attribute.
        region: The region that should decide it.
        contexts: By context attribute, its region.
        progress: Called with images done and images in all.
        **options: As in :class:`Diagnoser`.

    Raises:
        LayerError: If the layer is unknown or gives no maps.
        DatasetError: If an attribute, region or check is unknown, or labels or outputs do not fit.
        ValueError: If a number is out of range.
    """
    return Diagnoser(probe, target, region, contexts, **options).once(model, progress=progress)


def _what_runs(asked: Asked, checks: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The checks that this probe set allows, and by check what is left out and why."""
    why_not = {name: CHECKS[name].why_not(asked) for name in dict.fromkeys(checks)}
    runs = tuple(name for name, why in why_not.items() if why is None)
    gaps = {name: CHECKS[name].gap(asked) for name in runs}
    return runs, {name: why for name, why in (why_not | gaps).items() if why is not None}


def _signals(scores: Mapping[str, Score], asked: Asked) -> dict[str, bool]:
    """By context, whether a ratio has a value; without those of which none was asked for or could be measured."""
    apart = {f"{check}/{context}" for check in ("crr", "scr") for context in asked.apart}
    ratios = {
        context: [scores[name].value for check in RATIOS if (name := f"{check}/{context}") in scores.keys() - apart]
        for context in asked.contexts
    }
    return {context: not all(map(math.isnan, values)) for context, values in ratios.items() if values}
