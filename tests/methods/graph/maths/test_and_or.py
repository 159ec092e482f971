"""Parts that patterns were planted on are found from a few boxes; patterns that tell nothing do not vote."""

import dataclasses
import math

import pytest
import torch

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.maths.and_or import (
    Label,
    Latent,
    PartTemplates,
    latent_patterns,
    learn_part,
    locate,
)
from tests.helpers.graphs import toy_graph

SIZE = (100, 140)
HALF = torch.tensor([8.0, 6.0], dtype=torch.float64)


def planted(images=40, good=10, noise=60, seed=0, looks=1, jitter=2.0):
    """Latent patterns, and the part's centres: ``good`` patterns a look move with the part, the others at random."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    centre = 20 + uniform(images, 2) * torch.tensor([100.0, 60.0])
    offset = (uniform(looks, good, 2) - 0.5) * 40
    wobble = torch.randn(images, looks * good, 2, generator=generator, dtype=torch.float64) * jitter
    on_part = centre[:, None] - offset.flatten(0, 1) + wobble
    look = torch.arange(images) % looks
    # Another look's patterns fire as well, where nothing is.
    foreign = (torch.arange(looks * good) // good != look[:, None])[..., None]
    anywhere = uniform(images, looks * good + noise, 2) * torch.tensor([140.0, 100.0])
    points = torch.cat([torch.where(foreign, anywhere[:, : looks * good], on_part), anywhere[:, looks * good :]], 1)
    return Latent(points, torch.ones(points.shape[:2], dtype=torch.float64)), centre, look


def label(centre, look=0):
    low, high = (centre - HALF).tolist(), (centre + HALF).tolist()
    return Label((*low, *high), int(look))


def distance(found, centre, rows):
    return (found.centre - centre)[rows:].square().sum(1).sqrt().mean()


@pytest.mark.parametrize("boxes", [3, 10])
def test_planted_part_is_found_from_few_boxes(boxes):
    latent, centre, _ = planted()
    part = learn_part(latent, {i: label(centre[i]) for i in range(boxes)}, SIZE)
    found = locate(part, latent)
    assert distance(found, centre, boxes) < 3
    assert set(part.templates[0].pattern[:10].tolist()) == set(range(10))
    torch.testing.assert_close(found.boxes[:, 2:] - found.boxes[:, :2], (2 * HALF).expand(40, 2))
    torch.testing.assert_close((found.boxes[:, 2:] + found.boxes[:, :2]) / 2, found.centre)


def test_without_patterns_on_the_part_nothing_better_than_chance_is_claimed():
    latent, centre, _ = planted(good=0, noise=70)
    labels = {i: label(centre[i]) for i in range(3)}
    found = locate(learn_part(latent, labels, SIZE), latent)
    assert distance(found, centre, 3) > 20
    latent, centre, _ = planted()
    sure = locate(learn_part(latent, {i: label(centre[i]) for i in range(3)}, SIZE), latent)
    assert found.score[3:].max() < sure.score[3:].min()


def test_images_without_a_box_tell_good_patterns_from_lucky_ones():
    """With two boxes, some of 2000 random patterns fit both by luck; the other images unmask them."""
    latent, centre, _ = planted(noise=2000)
    labels = {i: label(centre[i]) for i in range(2)}
    few = Latent(latent.points[:2], latent.scores[:2])
    alone, supported = (learn_part(seen, labels, SIZE, patterns=10) for seen in (few, latent))
    planted_of = [sum(row < 10 for row in part.templates[0].pattern.tolist()) for part in (alone, supported)]
    assert planted_of[1] == 10
    assert planted_of[0] < 9


def test_offsets_and_variances_by_hand():
    """One pattern of three boxes: mean offset, and the sample's variance shrunk towards the prior."""
    points = torch.tensor([[[10.0, 10.0]], [[30.0, 20.0]], [[50.0, 40.0]]], dtype=torch.float64)
    centres = points[:, 0] + 5
    part = learn_part(Latent(points, torch.ones(3, 1)), {i: label(centres[i]) for i in range(3)}, (100, 100))
    template = part.templates[0]
    torch.testing.assert_close(template.offset, torch.full((1, 2), 5.0, dtype=torch.float64))
    # No error at all: 2 of 2 + (3 boxes that count 2 - 1) parts of the prior, but no vote is sharper than 9 pixels.
    assert template.variance.item() == pytest.approx(max(2 / 7 * (7**2 + 0.5**2 * 25), 9**2))


def test_each_look_has_its_template():
    latent, centre, look = planted(images=60, looks=2)
    labels = {i: label(centre[i], look[i]) for i in range(8)}
    part = learn_part(latent, labels, SIZE, patterns=15)
    found = locate(part, latent)
    assert set(part.templates) == {0, 1}
    assert (found.template == look)[8:].double().mean() > 0.95
    assert distance(found, centre, 8) < 4


def test_silent_patterns_do_not_vote():
    latent, centre, _ = planted(noise=0)
    shifted = latent.points.clone()
    shifted[30:, :5] += 50
    silent = latent.scores.clone()
    silent[30:, :5] = 0
    labels = {i: label(centre[i]) for i in range(5)}
    found = locate(learn_part(latent, labels, SIZE), Latent(shifted, silent))
    assert distance(found, centre, 30) < 3


def test_frozen_image_order_does_not_matter():
    latent, centre, _ = planted(noise=20)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    place = {int(row): i for i, row in enumerate(order)}
    labels = {i: label(centre[i]) for i in range(4)}
    one = locate(learn_part(latent, labels, SIZE), latent)
    moved = Latent(latent.points[order], latent.scores[order])
    two = locate(learn_part(moved, {place[i]: own for i, own in labels.items()}, SIZE), moved)
    torch.testing.assert_close(two.centre, one.centre[order])


def test_a_filter_is_where_its_best_node_is():
    graph = toy_graph(parents=2)
    latent = latent_patterns(graph, graph.learnt_from)
    column = 0
    for layer in graph.layers:
        found = graph.learnt_from[layer.layer]
        places = graph.learnt_from.upright(layer.layer, graph.image_size[1])
        for number in sorted(set(layer.filter.tolist())):
            nodes = [row for row in range(len(layer)) if layer.filter[row] == number]
            for image in range(len(found.score)):
                best = max(nodes, key=lambda row: float(found.score[image, row]))
                assert latent.points[image, column].tolist() == places[image, best].double().tolist()
                assert latent.scores[image, column] == found.score[image, best].double()
            column += 1
    assert latent.points.shape[1] == column


def test_points_are_in_the_images_as_they_are():
    graph = toy_graph()
    flip = torch.arange(len(graph.learnt_from.images)) % 2 == 1
    facings = (dataclasses.replace(graph.learnt_from, mirrored=each) for each in (torch.zeros_like(flip), flip))
    straight, upright = (latent_patterns(graph, each).points for each in facings)
    width = graph.image_size[1]
    torch.testing.assert_close(upright[~flip], straight[~flip])
    torch.testing.assert_close(upright[flip][..., 0], width - 1 - straight[flip][..., 0])
    torch.testing.assert_close(upright[flip][..., 1], straight[flip][..., 1])


def test_pruned_nodes_are_no_candidates():
    graph = toy_graph(parents=2)
    layer = graph.layers[0]
    gone = [
        name for name, number in zip(layer.names(), layer.filter.tolist(), strict=True) if number == layer.filter[0]
    ]
    pruned = graph.prune(gone)
    before, after = (latent_patterns(each, graph.learnt_from) for each in (graph, pruned))
    torch.testing.assert_close(after.points, before.points[:, 1:])
    everything = graph.prune([name for each in graph.layers for name in each.names()])
    with pytest.raises(DatasetError, match="restore some"):
        latent_patterns(everything, graph.learnt_from)


def test_a_single_box_is_enough_to_start():
    latent, centre, _ = planted(noise=0)
    part = learn_part(latent, {0: label(centre[0])}, SIZE)
    assert distance(locate(part, latent), centre, 1) < 6


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({}, "at least one"),
        ({99: Label((0.0, 0.0, 5.0, 5.0))}, "image 99"),
        ({0: Label((5.0, 0.0, 5.0, 9.0))}, "image 0: the box .* is empty"),
        ({0: Label((math.nan, 0.0, 5.0, 9.0))}, "is empty"),
    ],
)
def test_bad_labels_are_named(labels, words):
    latent, _, _ = planted(images=5)
    with pytest.raises(DatasetError, match=words):
        learn_part(latent, labels, SIZE)


def test_a_part_that_no_pattern_sees_is_refused():
    latent, centre, _ = planted(images=5)
    silent = latent.scores.clone()
    silent[0] = 0
    with pytest.raises(DatasetError, match="other images"):
        learn_part(Latent(latent.points, silent), {0: label(centre[0])}, SIZE)


def test_the_result_is_frozen():
    part = PartTemplates({}, SIZE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.image_size = (1, 1)
