"""A few images with their changed versions, the network's answers and the heat map: material for the picture."""

import numpy as np
from torch import Tensor

from lightning_interp.functional.fills import fill
from lightning_interp.functional.swaps import paste
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.checks.attribution import target_heat
from lightning_interp.methods.bias.checks.view import BiasView
from lightning_interp.methods.bias.result import Example, Version


def example_indices(asked: Asked, count: int) -> list[int]:
    """Images to show, the same every epoch: in turn of each label, those that contradict the first context first."""
    labels = asked.chosen(asked.target)
    context = asked.chosen(asked.labelled[0]) if asked.labelled else labels
    agree = (labels == context).long()
    queues = [
        [
            index
            for _, index in sorted((int(agree[i]), index) for i, index in enumerate(asked.indices) if labels[i] == y)
        ]
        for y in sorted(set(labels[labels >= 0].tolist()))
    ]
    turns = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
    return turns[:count]


def draw_examples(asked: Asked, view: BiasView, *, heated: bool) -> tuple[Example, ...]:
    """Every image of a view as it is, with the region and each context filled, and with others' parts pasted in.

    Args:
        asked: The question.
        view: The images.
        heated: Whether there is a layer for a heat map.
    """
    # Caption, images, and for each image whether a network that is right would change its score.
    versions: list[tuple[str, Tensor, list[bool | None]]] = [("as it is", view.images, [None] * len(view.indices))]
    how = asked.fills[0]
    for region in asked.regions:
        filled = fill(view.images, view.masks[region], how, view.masks.get("skin"))
        # A mouth without lipstick says no more of lipstick than no mouth: nothing to judge.
        absent = (view.target == 0) & (asked.num_classes == 2) & (region == asked.region)
        judged = [None if none else region == asked.region for none in absent.tolist()]
        versions.append((f"{region} masked", filled, judged))
    # By region, the attribute that a donor differs in: what is shown there.
    shows = {asked.region: asked.target}
    for context, place in asked.contexts.items():
        shows.setdefault(place, asked.sign_label(context))
    for region, name in shows.items():
        _, other = asked.donors(asked.chosen(name), region)
        donors, masks, _ = view.fetch_donors(other)
        pasted = paste(view.images, view.masks[region], donors, masks[region])
        versions.append((f"other {region}", pasted, [region == asked.region] * len(view.indices)))
    logits = [view.score(images) for _, images, _ in versions]
    heat = target_heat(view, patterns=True).cpu().numpy() if heated else [None] * len(view.indices)
    return tuple(
        Example(
            index,
            int(view.target[row]),
            tuple(
                Version(caption, _pixels(images[row]), float(scores[row]), judged[row])
                for (caption, images, judged), scores in zip(versions, logits, strict=True)
            ),
            heat[row],
            view.masks[asked.region][row].cpu().numpy(),
        )
        for row, index in enumerate(view.indices)
    )


def _pixels(image: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    colours = (image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)).clamp(0, 1)
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = (
        (colours * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    )
    return pixels
