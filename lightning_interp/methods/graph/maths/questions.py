"""Which image to ask a person about next, so that few boxes teach a part (Zhang, Cao, Wu and Zhu, CVPR 2017).

Each question shows the box that the And-Or graph finds, and has one of five answers. The loss is the divergence of the
graph's belief ``Q = exp(score - 1)`` that an image shows the part from the truth that every image does:
``KL = mean(1 - score)``. Explaining an image is taken to raise its score to that of explained ones, and the scores of
others by less the less they resemble it; the image that promises the largest drop is asked about.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.maths.and_or import Box, Label, Latent, Located, PartTemplates, learn_part, locate

# How fast the use of an explanation falls with the distance 1 - cosine of the pattern scores of two images.
_DECAY = 4.0
# Overlap from which a box counts as right.
_RIGHT = 0.5


class Answer(IntEnum):
    """What a person says of a box, by the numbers of the paper."""

    RIGHT = 1
    """Template and place are right."""
    MOVED = 2
    """The template is right, the place wrong: here is the box."""
    OTHER_TEMPLATE = 3
    """It is another one of the known templates, and here is the box."""
    NEW_TEMPLATE = 4
    """It looks like none of the templates, and here is the box."""
    ABSENT = 5
    """The image does not show the part: set it aside, it teaches nothing."""


class Guess(NamedTuple):
    """What a question shows.

    Attributes:
        box: Left, top, right and bottom.
        template: Its number.
    """

    box: Box
    template: int


class Reply(NamedTuple):
    """An answer.

    Attributes:
        answer: Which.
        label: The box and its template; None if the part is absent.
    """

    answer: Answer
    label: Label | None


Annotator = Callable[[int, Guess | None, frozenset[int]], Reply]
"""Answers for image, guess (None as long as nothing is known) and numbers of the known templates."""


@dataclass(frozen=True)
class Step:
    """The state after a question.

    Args:
        image: Row of the image that was asked about.
        answer: The answer.
        boxes: Boxes drawn so far: answers but "right" and "absent".
        part: What is known of the part; None as long as it was not seen.
    """

    image: int
    answer: Answer
    boxes: int
    part: PartTemplates | None


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """``(...,)`` intersection over union of ``(..., 4)`` boxes.

    Example:
        >>> iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0]))
        tensor(0.3333)
    """
    shared = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    shared = shared.clamp(min=0).prod(-1)
    areas = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, others))
    return shared / (sum(areas, -shared)).clamp(min=1e-12)


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Answers from the truth.

    Args:
        boxes: By row of the image, the part's box; images that are not in it do not show the part.
        poses: By row, which template the part looks like.
    """

    boxes: Mapping[int, Box]
    poses: Mapping[int, int]

    def __call__(self, image: int, guess: Guess | None, known: frozenset[int]) -> Reply:
        """The answer; a guess is in place if the boxes overlap by half of their union."""
        if image not in self.boxes:
            return Reply(Answer.ABSENT, None)
        label = Label(self.boxes[image], self.poses[image])
        if guess is None or label.template not in known:
            return Reply(Answer.NEW_TEMPLATE, label)
        if guess.template != label.template:
            return Reply(Answer.OTHER_TEMPLATE, label)
        right = float(iou(torch.tensor(guess.box), torch.tensor(label.box))) >= _RIGHT
        return Reply(Answer.RIGHT, Label(guess.box, label.template)) if right else Reply(Answer.MOVED, label)


def potential_gain(scores: Tensor, resemblance: Tensor, open_images: Tensor, explained: float) -> Tensor:
    """The drop of the loss that asking about an image promises.

    Args:
        scores: ``(N,)`` float64, score of the best template.
        resemblance: ``(N, N)`` float64 in [0, 1], what of an explanation of one image the other profits from.
        open_images: ``(N,)`` bool, images that were not asked about.
        explained: The score that an explained image is taken to have.

    Returns:
        ``(N,)`` float64; ``-inf`` for images that were asked about.
    """
    rise = (explained - scores).clamp(min=0)
    gain = rise * (resemblance * open_images).sum(1) / len(scores)
    return gain.masked_fill(~open_images, -torch.inf)


def ask(
    latent: Latent,
    annotator: Annotator,
    image_size: tuple[int, int],
    questions: int,
    generator: torch.Generator | None = None,
) -> list[Step]:
    """Learn a part by questions.

    Args:
        latent: Latent patterns of all images of the category.
        annotator: Who answers.
        image_size: ``(H, W)`` in pixels.
        questions: How many, at most one an image.
        generator: Asks about images at random instead: the control.

    Raises:
        DatasetError: If there are more questions than images.
    """
    if questions > len(latent.scores):
        raise DatasetError(f"{questions} questions about {len(latent.scores)} images; ask about each once at most")
    shown = torch.ones(len(latent.scores), dtype=torch.bool)
    resemblance = _resemblance(latent.scores, shown)
    order = None if generator is None else torch.randperm(len(latent.scores), generator=generator).tolist()
    open_images = shown.clone()
    labels: dict[int, Label] = {}
    part: PartTemplates | None = None
    steps: list[Step] = []
    for number in range(questions):
        found = None if part is None else locate(part, latent)
        image = _choose(found, labels, resemblance, open_images) if order is None else order[number]
        known = frozenset(label.template for label in labels.values())
        reply = annotator(image, None if found is None else _guess(found, image), known)
        open_images[image] = False
        if reply.label is None:
            shown[image] = False
            resemblance = _resemblance(latent.scores, shown)
        else:
            labels[image] = reply.label
        if labels:
            part = _learn(latent, labels, shown, image_size)
        drawn = reply.answer in (Answer.MOVED, Answer.OTHER_TEMPLATE, Answer.NEW_TEMPLATE)
        steps.append(Step(image, reply.answer, drawn + (steps[-1].boxes if steps else 0), part))
    return steps


def _learn(latent: Latent, labels: Mapping[int, Label], shown: Tensor, image_size: tuple[int, int]) -> PartTemplates:
    """The part from the ``(N,)`` bool images that were not set aside: the others hold nothing to support it."""
    place = (shown.cumsum(0) - 1).tolist()
    support = Latent(latent.points[shown], latent.scores[shown])
    return learn_part(support, {place[row]: label for row, label in labels.items()}, image_size)


def _choose(found: Located | None, labels: Mapping[int, Label], resemblance: Tensor, open_images: Tensor) -> int:
    """The image with the largest potential gain; as long as nothing is known, the most typical one."""
    if found is None:
        return int(potential_gain(torch.zeros(len(open_images)), resemblance, open_images, 1.0).argmax())
    explained = float(found.score[list(labels)].mean())
    gain = potential_gain(found.score, resemblance, open_images, explained)
    if not gain.max() > 0:
        # Nothing is below the explained ones; then the least certain one.
        return int(found.score.masked_fill(~open_images, torch.inf).argmin())
    return int(gain.argmax())


def _guess(found: Located, image: int) -> Guess:
    left, top, right, bottom = found.boxes[image].tolist()
    return Guess((left, top, right, bottom), int(found.template[image]))


def _resemblance(scores: Tensor, shown: Tensor) -> Tensor:
    """``(N, N)`` float64: by the cosine of the patterns' scores, each relative to its mean where it counts."""
    present = scores.double().clamp(min=0)
    present = present / present[shown].mean(0).clamp(min=1e-12)
    unit = present / present.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
    return (-_DECAY * (1 - unit @ unit.T)).exp()
