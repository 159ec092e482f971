"""Labels of a probe set as the checks need them: read once, whole numbers, and fit for the network's outputs."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError, check_names
from lightning_interp.methods.bias.checks.asked import Asked


def read_labels(
    probe: ProbeSet, indices: Sequence[int], target: str, contexts: Sequence[str], outputs: Sequence[str]
) -> dict[str, Tensor]:
    """``(N,)`` int64 by attribute that the probe set has labels of; -1 where unknown or not looked at.

    Args:
        probe: The probe set, of N images.
        indices: The images to look at.
        target: An attribute that must be known.
        contexts: Further attributes, which may be unlabelled.
        outputs: The same.

    Raises:
        DatasetError: If the target is unknown, another name looks like a misspelt one, or a label is no class number.
    """
    names = dict.fromkeys((target, *contexts, *outputs))
    labels = {name: torch.full((len(probe),), -1) for name in names}
    known: set[str] = set()
    for index in indices:
        attributes = probe.facts(index).get("attributes", {})
        known |= set(attributes)
        for name in names:
            if name in attributes:
                labels[name][index] = _class_number(attributes[name], name, index)
    if not known:
        raise DatasetError(
            f"unknown attribute {target!r}: {type(probe).__name__} tells no attributes; give it a method `facts` that "
            'returns {"attributes": {name: number}} of an image'
        )
    check_names([target], known, "attribute")
    for asked in ((target, *contexts), outputs):
        for name in sorted(set(asked) - known):
            # One that nobody labelled is no mistake, one that is misspelt is.
            if close := difflib.get_close_matches(name, sorted(known - set(asked)), n=1, cutoff=0.8):
                raise DatasetError(f"unknown attribute {name!r}; did you mean {close[0]!r}?")
    return {name: values for name, values in labels.items() if name in known}


def label_classes(labels: Tensor) -> int:
    """Classes that labels tell apart, at least two."""
    return max(2, int(labels.max()) + 1)


def check_binary(asked: Asked) -> None:
    """Check that there is something to tell apart, and that all but the target is 0 or 1.

    Raises:
        DatasetError: If not.
    """
    chosen = asked.chosen(asked.target)
    if len(set(chosen[chosen >= 0].tolist())) < 2:
        images = "the whole probe set" if len(chosen) == len(asked.probe) else f"the {len(chosen)} images probed"
        raise DatasetError(f"'{asked.target}' has one value in {images}: there is nothing to tell apart")
    for name in (*asked.contexts, *(asked.outputs or ())):
        highest = int(asked.chosen(name).max())
        if highest > 1:
            raise DatasetError(f"'{name}' has label {highest}; contexts and named outputs are binary, 0 or 1")


def read_training(
    given: Mapping[str, Sequence[int] | Tensor], target: str, contexts: Sequence[str]
) -> dict[str, Tensor]:
    """``(M,)`` int64 by attribute: labels of the M training images.

    Args:
        given: By attribute, whole numbers of any type.
        target: The attribute whose classes :func:`count_classes` checks, once they are known.
        contexts: The binary ones.

    Raises:
        DatasetError: If an attribute is neither target nor context, the numbers of labels differ, or a label is no
            class number.
    """
    check_names(given, (target, *contexts), "attribute in training=")
    labels = {name: _class_numbers(values, name) for name, values in given.items()}
    counts = {name: len(values) for name, values in labels.items()}
    if len(set(counts.values())) > 1:
        different = " and ".join(f"{count} labels of '{name}'" for name, count in counts.items())
        raise DatasetError(f"training= has {different}; give one of each a training image")
    for name in set(contexts) & set(labels):
        if (highest := int(labels[name].max())) > 1:
            raise DatasetError(f"training= has {highest} for '{name}'; contexts are binary, 0 or 1")
    return labels


def check_expected(expected: Mapping[tuple[str, str], int], outputs: Sequence[str]) -> None:
    """Check the signs of relations that attributes ought to have, by pair.

    Raises:
        DatasetError: If a pair is not two different outputs, occurs in both orders, or has another sign than 1, 0, -1.
    """
    seen: set[frozenset[str]] = set()
    for pair, sign in expected.items():
        if not isinstance(pair, tuple) or not len(pair) == len(set(pair)) == 2 or sign not in (-1, 0, 1):
            raise DatasetError(f"expected[{pair!r}] is {sign!r}; give two different outputs and one of 1, 0, -1")
        check_names(pair, outputs, "output in expected=")
        if frozenset(pair) in seen:
            raise DatasetError(f"expected= names {' and '.join(pair)} twice")
        seen.add(frozenset(pair))


def count_classes(asked: Asked, outputs: Tensor) -> int:
    """Classes of the target that the network tells apart: the probe set may lack some.

    Args:
        asked: The question.
        outputs: ``(B,)`` or ``(B, K)``, the network's.

    Raises:
        DatasetError: If labels, of the probe set or of training, have more classes, or the outputs could be
            attributes as well.
    """
    classes = _told_apart(asked, outputs)
    trained = asked.training.get(asked.target)
    if trained is not None and (highest := int(trained.max())) >= classes:
        raise DatasetError(
            f"training= has {highest} for '{asked.target}', the network tells {classes} classes apart, from 0"
        )
    return classes


def _told_apart(asked: Asked, outputs: Tensor) -> int:
    if asked.outputs is not None:
        return 2
    labelled = label_classes(asked.labels[asked.target])
    classes = max(2, outputs.shape[1]) if outputs.ndim == 2 else 2
    if labelled > classes:
        raise DatasetError(
            f"'{asked.target}' has labels up to {labelled - 1}, counted from 0 that is {labelled} classes; "
            f"the network tells {classes} apart"
        )
    if labelled == 2 and classes > 2:
        raise DatasetError(
            f"the network gives {classes} logits an image; say what they are: outputs=['{asked.target}', ...]"
        )
    return classes


def _class_number(value: Any, name: str, index: int) -> int:
    try:
        number = int(value)
        whole = bool(number == value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number, whole = -1, False
    if not whole or number < 0:
        raise DatasetError(f"attribute '{name}' of image {index} is {value!r}; labels are whole numbers from 0")
    return number


def _class_numbers(values: Sequence[int] | Tensor, name: str) -> Tensor:
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError):
        labels = torch.empty(0)
    if labels.ndim != 1 or not len(labels):
        raise DatasetError(f"training= has no labels of '{name}': give one whole number a training image")
    wrong = labels[(labels != labels.long()) | (labels < 0)]
    if len(wrong):
        raise DatasetError(f"training= has {float(wrong[0]):g} for '{name}'; labels are whole numbers from 0")
    return labels.long()
