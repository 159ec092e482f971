"""Context-bias diagnostics of a network on a probe set: the same engine inside and outside of training."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp._extras import require
from lightning_interp.data.counterfactuals import Remade
from lightning_interp.data.probe import ProbeSet
from lightning_interp.data.region_bank import RegionBank
from lightning_interp.data.regions import FindRegions, check_names
from lightning_interp.errors import DatasetError, LayerError
from lightning_interp.functional.fills import FILLS, Fill
from lightning_interp.functional.heads import attribute_logit
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
from lightning_interp.methods.bias.checks.view import View
from lightning_interp.methods.bias.pictures import draw_examples, example_indices
from lightning_interp.methods.bias.result import BiasResult, Example, Score
from lightning_interp.probing.evidence.attribution import ATTRIBUTIONS, Attribution, captum_heat
from lightning_interp.probing.evidence.gradients import Gradients, layer_gradients
from lightning_interp.probing.evidence.rules import check_lrp
from lightning_interp.probing.evidence.tail import Tail
from lightning_interp.probing.layers import describe_layers, resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, Stopped, module_device, prepare
from lightning_interp.probing.session import probing

RATIOS = ("crr", "scr", "exact_reliance")
"""Scores, by context, of how the reliance divides."""


class Diagnoser:
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
        max_samples: Use at most so many images, evenly spaced.
        batch_size: Images a forward pass.
        examples: Images in the picture.

    Raises:
        DatasetError: If an attribute, region, check or attribution is unknown, or labels do not fit.
        MissingExtraError: If the attribution needs captum and it is not installed.
        ValueError: If a number is out of range.
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
    ) -> None:
        if max_samples < 1 or batch_size < 1 or examples < 0:
            raise ValueError("max_samples and batch_size must be at least 1, examples at least 0")
        if not isinstance(probe, ProbeSet) or not len(probe):
            raise DatasetError("probe must be a ProbeSet with at least one image")
        check_question(target, region, contexts)
        check_lists(checks=checks, fills=fills, outputs=outputs)
        check_names(checks, CHECKS, "check")
        check_names(fills, FILLS, "fill")
        check_names([attribution], ATTRIBUTIONS, "attribution")
        if attribution != ATTRIBUTIONS[0]:
            require("captum.attr")
        if not fills:
            raise ValueError("give at least one fill")
        self.probe, self.layer, self.attribution, self.batch_size = probe, layer, attribution, batch_size
        count = min(max_samples, len(probe))
        self.indices = [i * len(probe) // count for i in range(count)]
        labels = read_labels(probe, self.indices, target, tuple(contexts), outputs or ())
        self.bank = RegionBank(probe, self.indices, region, list(contexts.values()), regions)
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
        self.examples = example_indices(self.asked, examples)
        self.layer_name: str | None = layer

    def describe(self, module: nn.Module, forward: Forward | None = None) -> None:
        """Check the layer and the network's output on one image; cheap, no collective.

        Raises:
            LayerError: If the layer is unknown or gives no maps, or the attribution cannot follow what comes after.
            DatasetError: If the network's output does not fit the question.
        """
        forward = module if forward is None else forward
        with probing(module):
            try:
                view = self._view(module, forward, self.indices[:1])
                self.asked = replace(self.asked, num_classes=count_classes(self.asked, view.outputs))
                _ = view.scores
            except (ValueError, TypeError) as error:
                raise DatasetError(str(error)) from error
            self.layer_name = self._find_layer(module, forward)
            if self.attribution == "lrp" and self.layer_name is not None:
                check_lrp(self._tail(module, view), module)

    def _find_layer(self, module: nn.Module, forward: Forward) -> str | None:
        """The layer to look at; None where nothing needs one and there is none by itself."""
        needed = any(CHECKS[check].needs_layer for check in self.checks)
        if not (needed or self.examples):
            return None
        images = self._images(self.indices[:1]).to(module_device(module))
        try:
            if self.layer != "auto" and len(found := resolve_layers(module, [self.layer])) > 1:
                raise LayerError(f"'{self.layer}' stands for {len(found)} layers; name one of {', '.join(found)}")
            (name,) = describe_layers(module, [self.layer], prepare(images, module, self.probe.normalize), forward)
            self.layer_name = name
            _ = self._view(module, forward, self.indices[:1]).gradients
        except LayerError:
            if needed or self.layer != "auto":
                raise
            return None
        return name

    def __call__(
        self,
        module: nn.Module,
        *,
        ranks: Ranks | None = None,
        forward: Forward | None = None,
        should_stop: Callable[[], bool] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> BiasResult | None:
        """Ask once; a collective call.

        Args:
            module: The network, unwrapped.
            ranks: The processes that share the probe set; this one alone by default.
            forward: How to call the network on prepared images.
            should_stop: Asked before each batch; if any process says yes, all stop.
            meta: Kept in the result.

        Returns:
            The result, equal on every process but for the examples, which only rank zero has; None if it was stopped.

        Raises:
            ProbeError: If a process of several failed; a single process raises the error itself.
        """
        ranks = ranks or Ranks()
        forward = module if forward is None else forward
        start = time.perf_counter()
        with probing(module):
            # Between two steps of DDP each process has batch statistics of its own; rank zero's are saved.
            ranks.agree(None)
            ranks.share(module.buffers())
            error, stopped = None, False
            checks: list[Check] = []
            examples: tuple[Example, ...] = ()
            try:
                # In here, for sums made in inference mode could not be added to, and a check may read images.
                checks = [Answers(self.asked), *(CHECKS[name](self.asked) for name in self.checks)]
                self._sweep(module, forward, ranks, checks, should_stop)
                if ranks.rank == 0:
                    examples = self._draw(module, forward)
            except Stopped:
                stopped = True
            except Exception as caught:
                error = caught
            rows = {check.name: torch.cat(check.rows) for check in checks if check.rows}
            notes = ranks.agree(error, (stopped, rows))
            if any(stopped for stopped, _ in notes):
                return None
            _gather(checks, [own for _, own in notes])
            _reduce(ranks, [sums for check in checks for sums in check.sums.values()])
        return self._result(checks, examples, start, meta)

    def _sweep(
        self,
        module: nn.Module,
        forward: Forward,
        ranks: Ranks,
        checks: Sequence[Check],
        should_stop: Callable[[], bool] | None,
    ) -> None:
        own = self.indices[ranks.rank :: ranks.world]
        for first in range(0, len(own), self.batch_size):
            if should_stop is not None and should_stop():
                raise Stopped
            view = self._view(module, forward, own[first : first + self.batch_size])
            for check in checks:
                check.update(view)

    def _draw(self, module: nn.Module, forward: Forward) -> tuple[Example, ...]:
        return tuple(
            example
            for first in range(0, len(self.examples), self.batch_size)
            for example in draw_examples(
                self.asked,
                self._view(module, forward, self.examples[first : first + self.batch_size]),
                heated=self.layer_name is not None,
            )
        )

    def _view(self, module: nn.Module, forward: Forward, indices: Sequence[int]) -> View:
        device = module_device(module)

        def answer(images: Tensor) -> Tensor:
            # One batch shape throughout: another may take another convolution path and other last bits.
            outputs = forward(prepare(self._padded(images), module, self.probe.normalize))
            if not isinstance(outputs, Tensor):
                raise DatasetError(f"the network gives a {type(outputs).__name__}; expected a tensor of logits")
            if outputs.shape[:1] != (self.batch_size,):
                raise DatasetError(f"{self.batch_size} images give {tuple(outputs.shape)}, not one row of logits each")
            return outputs[: len(images)].float()

        def gradients(view: View) -> Gradients:
            assert self.layer_name is not None  # what needs a layer does not run without
            layer = resolve_layers(module, [self.layer_name])[self.layer_name]
            logits = answer if self.asked.outputs is not None else lambda images: view.score(images)[:, None]
            found = layer_gradients(layer, self.layer_name, view.images, logits)
            return Gradients(found.maps[: len(view.indices)], found.slopes[: len(view.indices)])

        def attribute(view: View) -> Tensor:
            return captum_heat(self.attribution, self._tail(module, view), module)[: len(view.indices)]

        def fetch(wanted: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
            return self._images(wanted).to(device), {name: mask.to(device) for name, mask in self.bank(wanted).items()}

        images, masks = fetch(indices)
        by_captum = None if self.attribution == ATTRIBUTIONS[0] else attribute
        return View(self.asked, indices, images, masks, answer, fetch, gradients, by_captum)

    def _tail(self, module: nn.Module, view: View) -> Tail:
        """What follows the layer, of a whole batch: captum wants as many rows of the layer as of scores."""
        assert self.layer_name is not None
        layer = resolve_layers(module, [self.layer_name])[self.layer_name]
        labels = self._padded(view.target)

        def score(outputs: Tensor) -> Tensor:
            return attribute_logit(outputs.double(), self.asked.target, self.asked.outputs, labels)

        return Tail(layer, self.layer_name, self._padded(view.images), view.answer, score)

    def _padded(self, batch: Tensor) -> Tensor:
        return torch.cat([batch, batch[-1:].expand(self.batch_size - len(batch), *batch.shape[1:])])

    def _images(self, indices: Sequence[int]) -> Tensor:
        images = torch.stack([self.probe.image(index) for index in indices])
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()

    def _result(
        self,
        checks: Sequence[Check],
        examples: tuple[Example, ...],
        start: float,
        meta: Mapping[str, Any] | None,
    ) -> BiasResult:
        (learnt,) = (check.learnt() for check in checks if isinstance(check, Answers))
        scores: dict[str, Score] = {}
        ungated: dict[str, float] = {}
        for check in checks:
            found = check.scores(learnt)
            scores |= found
            if any(math.isnan(score.value) for score in found.values()):
                found = check.scores(learnt._replace(anything=None))
            ungated |= {name: score.value for name, score in found.items()}
        relations = [check.relations(learnt) for check in checks if isinstance(check, AttributeRelations)]
        return BiasResult(
            target=self.asked.target,
            region=self.asked.region,
            contexts=self.asked.contexts,
            scores=scores,
            signal=_signals(scores, self.asked),
            ungated=ungated,
            relations=relations[0] if relations else None,
            missing=self.missing,
            examples=examples,
            num_images=len(self.indices),
            settings=self.settings(),
            seconds=time.perf_counter() - start,
            meta=dict(meta or {}),
        )

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, JSON-able."""
        return {
            "probe": self.probe.fingerprint(),
            "probe_kind": type(self.probe).__name__,
            "checks": list(self.checks),
            "fills": list(self.asked.fills),
            "layer": self.layer_name,
            "attribution": self.attribution,
            "batch_size": self.batch_size,
            "outputs": None if self.asked.outputs is None else list(self.asked.outputs),
        }


def diagnose(  # noqa: D417 - the options are described where they are at home
    model: nn.Module, probe: ProbeSet, target: str, region: str, contexts: Mapping[str, str], **options: Any
) -> BiasResult:
    """Diagnose a network outside of training: the result that the callback publishes.

    Args:
        model: Any module; it is left exactly as it was.
        probe: The probe set; the rest is as in :class:`Diagnoser`.

    Raises:
        LayerError: If the layer is unknown or gives no maps.
        DatasetError: If an attribute, region or check is unknown, or labels or outputs do not fit.
    """
    diagnoser = Diagnoser(probe, target, region, contexts, **options)
    diagnoser.describe(model)
    result = diagnoser(model)
    assert result is not None  # only should_stop stops it
    return result


def _what_runs(asked: Asked, checks: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The checks that this probe set allows, and by check what is left out and why."""
    why_not = {name: CHECKS[name].why_not(asked) for name in dict.fromkeys(checks)}
    runs = tuple(name for name, why in why_not.items() if why is None)
    gaps = {name: CHECKS[name].gap(asked) for name in runs}
    return runs, {name: why for name, why in (why_not | gaps).items() if why is not None}


def _gather(checks: Sequence[Check], rows: Sequence[Mapping[str, Tensor]]) -> None:
    """Give each check the rows of all processes, in the order of the images; a process may have none."""
    for check in checks:
        if parts := [own[check.name] for own in rows if check.name in own]:
            together = torch.cat(parts)
            check.gathered = together[together[:, 0].argsort()]


def _reduce(ranks: Ranks, sums: Sequence[Tensor]) -> None:
    """Add up the sums of all processes, in place: one collective, in one order."""
    whole = ranks.sum(torch.cat([part.flatten() for part in sums]))
    for part, reduced in zip(sums, torch.split(whole, [part.numel() for part in sums]), strict=True):
        part.copy_(reduced.view_as(part))


def _signals(scores: Mapping[str, Score], asked: Asked) -> dict[str, bool]:
    """By context, whether a ratio has a value; without those of which none was asked for or could be measured."""
    apart = {f"{check}/{context}" for check in ("crr", "scr") for context in asked.apart}
    ratios = {
        context: [scores[name].value for check in RATIOS if (name := f"{check}/{context}") in scores.keys() - apart]
        for context in asked.contexts
    }
    return {context: not all(map(math.isnan, values)) for context, values in ratios.items() if values}
