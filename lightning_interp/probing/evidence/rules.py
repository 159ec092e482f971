"""Layer-wise relevance propagation through what follows a layer, by captum."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp._extras import require
from lightning_interp.errors import LayerError
from lightning_interp.probing.evidence.tail import Tail
from lightning_interp.probing.layers import named_layers

GAMMA = 0.25
"""How much the gamma rule prefers positive weights."""

_EPSILON = (nn.Linear, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
# In eval mode they change no value, and may hand on the very tensor that they got, which captum's hooks cannot bear.
_SKIPPED = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
_KNOWN = (nn.Conv2d, *_EPSILON, nn.ReLU, *_SKIPPED)
_OTHERS = "take 'grad_cam' or 'integrated_gradients'"
_ADVICE = f"name a later layer, or {_OTHERS}"
# Of bfloat16, 0.01 is rounding.
_TOLERANCE = 0.02


def relevance(tail: Tail, maps: Tensor, module: nn.Module, gamma: float = GAMMA) -> Tensor:
    """Relevance of a layer's activations for the score.

    The gamma rule in convolutions, the epsilon rule (epsilon 1e-9) elsewhere (Montavon et al. 2019), and in the step
    from outputs to score, which is this project's own choice: a difference of two logits is shared out like a linear
    layer's. Without biases after the layer the sum is the score. Where no convolution follows, it is gradient times
    activation (Ancona et al., ICLR 2018): the last maps before a linear head say nothing new.

    Args:
        tail: What follows the layer, with the images.
        maps: ``(B, C, h, w)``, the layer's activations.
        module: The network.
        gamma: 0 for the epsilon rule throughout.

    Returns:
        ``(B, C, h, w)`` float32.

    Raises:
        LayerError: If something after the layer has no rule, by name.
        MissingExtraError: If captum is not installed.
    """
    after = _layers_after(tail, module)
    _refuse_unknown(after, tail.name)
    captum: Any = require("captum.attr")
    rules = require("captum.attr._utils.lrp_rules")
    layers = [layer for layer, _ in after.values() if not isinstance(layer, _SKIPPED)]
    with _as_they_were(layers):
        for layer in layers:
            vars(layer).pop("rule", None)
            if isinstance(layer, nn.Conv2d) and gamma:
                layer.rule = rules.GammaRule(gamma)
            elif isinstance(layer, _EPSILON):
                layer.rule = rules.EpsilonRule()
        tail.probe.rule, tail.score.rule = rules.EpsilonRule(), rules.EpsilonRule()
        # captum walks the children of the module that it gets.
        for number, layer in enumerate(layers):
            tail.add_module(f"after_{number}", layer)
        found: Tensor = captum.LayerLRP(tail, tail.probe).attribute(maps)
        return found.detach().float()


def check_lrp(tail: Tail, module: nn.Module) -> None:
    """Refuse a network that the rules cannot follow.

    A sum or a mean in ``forward()`` is no layer: captum does not see it, and what comes out is wrong without a word.
    With the epsilon rule alone LRP is gradient times activation, and so it shows.

    Raises:
        LayerError: If something after the layer has no rule, by name where it is a layer, or the network computes in
            float16, in which epsilon is zero.
        MissingExtraError: If captum is not installed.
    """
    maps = tail.maps(tail.images).requires_grad_()
    found = relevance(tail, maps, module, gamma=0)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(tail(maps).sum(), maps)
    expected = slope * maps.detach()
    if bool(expected.isfinite().all()) and not bool(found.isfinite().all()):
        raise LayerError(f"'lrp' at layer '{tail.name}' is not finite: float16 is too coarse for it; {_OTHERS}")
    if (found - expected).abs().sum() > _TOLERANCE * expected.abs().sum():
        raise LayerError(
            f"'lrp' cannot follow what forward() does after layer '{tail.name}' without a layer, such as a sum or a "
            f"mean: make it a layer, {_ADVICE}"
        )


def _layers_after(tail: Tail, module: nn.Module) -> dict[str, tuple[nn.Module, int]]:
    """By name, layers without children that run after the tail's, and how often; a forward pass."""
    layers = named_layers(module)
    started, runs = False, Counter[str]()

    def start(*_: object) -> None:
        nonlocal started
        started = True

    def note(name: str) -> None:
        if started:
            runs[name] += 1

    handles = [layers[tail.name].register_forward_hook(start)]
    try:
        for name, layer in layers.items():
            if not any(layer.children()):
                handles.append(layer.register_forward_pre_hook(lambda *_, name=name: note(name)))
        tail.answer(tail.images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (layers[name], count) for name, count in runs.items()}


def _refuse_unknown(after: Mapping[str, tuple[nn.Module, int]], name: str) -> None:
    # Types to the letter, as captum takes them: a subclass may do anything.
    unknown = [f"'{key}' ({type(layer).__name__})" for key, (layer, _) in after.items() if type(layer) not in _KNOWN]
    if unknown:
        known = ", ".join(kind.__name__ for kind in _KNOWN)
        raise LayerError(
            f"'lrp' has no rule for {', '.join(unknown)} after layer '{name}', for {known} only: {_ADVICE}"
        )
    again = [f"'{key}'" for key, (layer, count) in after.items() if count > 1 and type(layer) in (nn.Conv2d, *_EPSILON)]
    if again:
        raise LayerError(f"'lrp' cannot follow layers that run more than once: {', '.join(again)}; {_ADVICE}")


@contextmanager
def _as_they_were(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Undo what captum does to layers: rules set and deleted, activations left behind, weights in another storage."""
    attributes = [(vars(layer), dict(vars(layer))) for layer in layers]
    weights = [(parameter, parameter.data) for layer in layers for parameter in layer.parameters()]
    try:
        yield
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        for parameter, data in weights:
            parameter.data = data
